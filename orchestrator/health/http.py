"""One HTTP or HTTPS request, as small as a check needs it (RFC 9112): no redirects, no cookies, no keep-alive.

The answer's status decides, so a good answer is not read any further; of a bad one the beginning of the
body is kept, because it often says what is wrong.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import quote, urlsplit

from orchestrator.health.failure import CheckFailed, connection_failure
from orchestrator.health.tcp import connected, peer_name
from orchestrator.spec import HttpCheck

#: Bytes of an answer that are read at most.
ANSWER_LIMIT = 4096
#: Seconds that the body of a bad answer may take after its status.
_BODY_PATIENCE = 0.5
#: What quoting leaves alone in a path: delimiters, and what is quoted already.
_PATH_SAFE = "!#$%&'()*+,/:;=?@[]~"

Receive = Callable[[int], Awaitable[bytes]]


async def request(check: HttpCheck, address: str) -> str:
    """GET the check's path; ``HTTP 200 OK``.

    :raises CheckFailed: with what the server answered, or why it could not be asked.
    """
    peer = peer_name(address, check.port)
    async with connected(address, check.port) as sock:
        try:
            if check.scheme == "https":
                return await _ask_encrypted(check, sock, address, peer)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, _message(check, peer))
            return await _judge(check, functools.partial(loop.sock_recv, sock), peer)
        except ssl.SSLError as error:
            reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
            raise CheckFailed(f"TLS with {peer} failed: {reason or error}") from None
        except OSError as error:
            raise connection_failure(error, peer) from None


async def _ask_encrypted(check: HttpCheck, sock: socket.socket, address: str, peer: str) -> str:
    # Reading the host's certificates takes tens of milliseconds the first time.
    context = await asyncio.to_thread(_verifying) if check.verify else _trusting()
    name = urlsplit(f"//{check.host}").hostname if check.host else address
    reader, writer = await asyncio.open_connection(
        sock=sock.dup(), ssl=context, server_hostname=name, limit=ANSWER_LIMIT
    )
    try:
        writer.write(_message(check, peer))
        return await _judge(check, reader.read, peer)
    finally:
        writer.transport.abort()


@functools.cache
def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.cache
def _verifying() -> ssl.SSLContext:
    return ssl.create_default_context()


def _message(check: HttpCheck, peer: str) -> bytes:
    headers = {"Host": check.host or peer, "User-Agent": "orch", "Accept": "*/*", "Connection": "close"}
    given = {name.lower() for name in check.headers}
    lines = [f"GET {quote(check.path, safe=_PATH_SAFE)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in check.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _judge(check: HttpCheck, receive: Receive, peer: str) -> str:
    answer = await _receive_until(b"\r\n", receive, b"")
    status_line = answer.partition(b"\r\n")[0].decode("latin-1")
    version, _, rest = status_line.partition(" ")
    code, _, phrase = rest.partition(" ")
    if not answer:
        raise CheckFailed(f"{peer} closed the connection without an answer")
    if not version.startswith("HTTP/") or not (len(code) == 3 and code.isascii() and code.isdigit()):
        raise CheckFailed(f"{peer} does not speak HTTP: {status_line[:80]!r}")
    status = f"HTTP {code} {phrase}".rstrip()
    if int(code) in check.status if check.status else 200 <= int(code) < 400:
        return status
    body = _printable(await _rest(answer, receive))
    raise CheckFailed(f"{status}: {body}" if body else status)


async def _receive_until(end: bytes, receive: Receive, answer: bytes) -> bytes:
    while end not in answer and len(answer) < ANSWER_LIMIT:
        data = await receive(ANSWER_LIMIT)
        if not data:
            break
        answer += data
    return answer


async def _rest(answer: bytes, receive: Receive) -> bytes:
    """The beginning of the body."""
    collected = bytearray(answer)
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_BODY_PATIENCE):
            while len(collected) < ANSWER_LIMIT and (data := await receive(ANSWER_LIMIT)):
                collected += data
    head, _, body = bytes(collected).partition(b"\r\n\r\n")
    return _join_chunks(body) if b"transfer-encoding: chunked" in head.lower() else body


def _join_chunks(body: bytes) -> bytes:
    """What a chunked body says (RFC 9112 section 7.1), as far as it came."""
    joined = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        try:
            length = int(size.partition(b";")[0], 16)
        except ValueError:
            break
        joined, body = joined + body[:length], body[length + 2 :]
    return joined


def _printable(body: bytes) -> str:
    return body[:ANSWER_LIMIT].decode(errors="replace").strip()
