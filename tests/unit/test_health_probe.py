"""Probes against real servers on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.health import http
from orchestrator.health.probe import OUTPUT_LIMIT, ProbeResult, Target, probe
from orchestrator.spec import ExecCheck, HttpCheck, TcpCheck

HERE = Target("127.0.0.1")


async def no_exec(command: tuple[str, ...], timeout: float) -> tuple[int, bytes]:
    raise AssertionError("this check runs no command")


def ask(check: ExecCheck | TcpCheck | HttpCheck, timeout: float = 5.0) -> Awaitable[ProbeResult]:
    return probe(check, HERE, timeout, no_exec)


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server on the yielded port; at the end its connections are closed and its handlers have ended."""
    handlers: set[asyncio.Task[object]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort() if tls else writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await listener.wait_closed()
        if handlers:
            await asyncio.wait(handlers)


@contextlib.asynccontextmanager
async def server(
    answer: bytes, requests: list[bytes] | None = None, hold: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server on the yielded port that reads one request, answers, and (unless ``hold``) closes."""
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(answer)
        await writer.drain()
        if hold:
            await released.wait()

    async with listening(serve, tls) as port:
        try:
            yield port
        finally:
            released.set()


@contextlib.contextmanager
def unused_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


async def test_tcp_connects() -> None:
    async with server(b"") as port:
        result = await ask(TcpCheck(port=port))
    assert (result.ok, result.output) == (True, f"connected to 127.0.0.1:{port}")
    assert 0 < result.seconds < 5


async def test_tcp_refused_names_the_peer() -> None:
    with unused_port() as port:
        result = await ask(TcpCheck(port=port))
    assert (result.ok, result.output) == (False, f"connection refused by 127.0.0.1:{port}")


async def test_tcp_without_answer_ends_at_its_timeout() -> None:
    with socket.socket() as full, contextlib.ExitStack() as clients:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the kernel drops connection requests beyond the backlog
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        result = await ask(TcpCheck(port=full.getsockname()[1]), timeout=0.05)
    assert (result.ok, result.output) == (False, "no answer within 50ms")


async def test_unreachable_address_is_named() -> None:
    result = await probe(TcpCheck(port=80), Target("255.255.255.255"), 5.0, no_exec)
    assert not result.ok
    assert result.output.startswith("cannot connect to 255.255.255.255:80: ")


async def test_ipv6_address_is_probed() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"needs IPv6: {error}")
        port = sock.getsockname()[1]
        result = await probe(TcpCheck(port=port), Target("::1"), 5.0, no_exec)
    assert result.output == f"connection refused by [::1]:{port}"


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "301 Moved Permanently", "399"])
async def test_http_status_below_400_is_healthy(status: str) -> None:
    async with server(response(status, b"", "Location: http://nowhere.invalid/")) as port:
        result = await ask(HttpCheck(port=port))
    assert (result.ok, result.output) == (True, f"HTTP {status}")


async def test_http_failure_shows_status_and_body() -> None:
    async with server(response("503 Service Unavailable", b"no database\n")) as port:
        result = await ask(HttpCheck(port=port))
    assert (result.ok, result.output) == (False, "HTTP 503 Service Unavailable: no database")


async def test_http_chunked_body_is_joined() -> None:
    chunks = b"4\r\nno d\r\n7;x=y\r\natabase\r\n0\r\n\r\n"
    async with server(response("500 Oops", chunks, "Transfer-Encoding: chunked")) as port:
        result = await ask(HttpCheck(port=port))
    assert result.output == "HTTP 500 Oops: no database"


async def test_http_body_is_cut() -> None:
    async with server(response("500 Oops", b"x" * 1_000_000)) as port:
        result = await ask(HttpCheck(port=port))
    assert 1000 < len(result.output) <= http.ANSWER_LIMIT + len("HTTP 500 Oops: ")


async def test_http_body_that_never_ends_does_not_hide_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_BODY_PATIENCE", 0.02)
    async with server(response("500 Oops", b"part"), hold=True) as port:
        result = await ask(HttpCheck(port=port))
    assert result.output == "HTTP 500 Oops: part"


async def test_http_good_answer_is_not_read_to_its_end() -> None:
    async with server(response("200 OK", b"a stream of events"), hold=True) as port:
        result = await ask(HttpCheck(port=port))
    assert result.ok


async def test_http_accepts_only_the_given_statuses() -> None:
    async with server(response("401 Unauthorized")) as port:
        assert (await ask(HttpCheck(port=port, status=(200, 401)))).ok
        assert not (await ask(HttpCheck(port=port, status=(200,)))).ok


async def test_http_request_is_what_was_asked_for() -> None:
    requests: list[bytes] = []
    check = HttpCheck(
        port=1, path="/a b?c=%20d", host="shop.test", headers={"X-Key": "1", "user-agent": "me"}
    )
    async with server(response("200 OK"), requests) as port:
        await ask(HttpCheck(port=port, path=check.path, host=check.host, headers=check.headers))
        await ask(HttpCheck(port=port))
    assert requests[0].decode().split("\r\n") == [
        "GET /a%20b?c=%20d HTTP/1.1", "Host: shop.test", "Accept: */*", "Connection: close",
        "X-Key: 1", "user-agent: me", "", "",
    ]  # fmt: skip
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in requests[1]


async def test_http_server_that_is_silent_ends_at_the_timeout() -> None:
    async with server(b"", hold=True) as port:
        result = await ask(HttpCheck(port=port), timeout=0.05)
    assert (result.ok, result.output) == (False, "no answer within 50ms")


@pytest.mark.parametrize(("answer", "output"), [
    (b"", "127.0.0.1:{port} closed the connection without an answer"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "127.0.0.1:{port} does not speak HTTP: 'SSH-2.0-OpenSSH_9.2'"),
    (b"HTTP/1.1 nonsense\r\n\r\n", "127.0.0.1:{port} does not speak HTTP: 'HTTP/1.1 nonsense'"),
    (b"\xff" * 9000, "127.0.0.1:{port} does not speak HTTP: " + repr("\xff" * 80)),
])  # fmt: skip
async def test_http_answer_that_is_none_is_reported(answer: bytes, output: str) -> None:
    async with server(answer) as port:
        result = await ask(HttpCheck(port=port))
    assert (result.ok, result.output) == (False, output.format(port=port))


async def test_http_connection_reset_is_reported() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = b"\x01\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds, so that closing resets
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with listening(reset) as port:
        result = await ask(HttpCheck(port=port))
    assert (result.ok, result.output) == (False, f"connection reset by 127.0.0.1:{port}")


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that it signed itself."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=shop.test", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


@pytest.mark.requires("openssl")
async def test_https_does_not_verify_unless_asked(certificate: ssl.SSLContext) -> None:
    async with server(response("200 OK"), tls=certificate) as port:
        assert await _said(HttpCheck(port=port, scheme="https")) == "HTTP 200 OK"


@pytest.mark.requires("openssl")
async def test_https_verifies_when_asked(certificate: ssl.SSLContext) -> None:
    async with server(response("200 OK"), tls=certificate) as port:
        output = await _said(HttpCheck(port=port, scheme="https", host="shop.test", verify=True))
    assert output.startswith(f"TLS with 127.0.0.1:{port} failed: self")


async def test_https_against_plain_http_is_reported() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response("400 Bad Request"))
        await writer.drain()

    async with listening(answer) as port:
        output = await _said(HttpCheck(port=port, scheme="https"))
    assert output.startswith(f"TLS with 127.0.0.1:{port} failed: ")


async def _said(check: HttpCheck) -> str:
    return (await ask(check)).output


def runner(code: int, output: bytes) -> Callable[[tuple[str, ...], float], Awaitable[tuple[int, bytes]]]:
    async def run(command: tuple[str, ...], timeout: float) -> tuple[int, bytes]:
        assert (command, timeout) == (("pg_isready", "-q"), 2.0)
        return code, output

    return run


@pytest.mark.parametrize(("code", "data", "ok", "output"), [
    (0, b"ready\n", True, "ready"),
    (0, b"", True, ""),
    (1, b"", False, "exited (1)"),
    (2, b"no \xff answer\n", False, "exited (2): no \ufffd answer"),
])  # fmt: skip
async def test_exec_goes_by_the_exit_code(code: int, data: bytes, ok: bool, output: str) -> None:
    result = await probe(ExecCheck(command=("pg_isready", "-q")), HERE, 2.0, runner(code, data))
    assert (result.ok, result.output) == (ok, output)


async def test_exec_output_is_cut() -> None:
    result = await probe(ExecCheck(command=("pg_isready", "-q")), HERE, 2.0, runner(0, b"x" * 9000))
    assert len(result.output) == OUTPUT_LIMIT


async def test_exec_that_hangs_is_cancelled_at_the_timeout() -> None:
    cancelled = asyncio.Event()

    async def hang(command: tuple[str, ...], timeout: float) -> tuple[int, bytes]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    result = await probe(ExecCheck(command=("sleep", "inf")), HERE, 0.05, hang)
    assert (result.ok, result.output) == (False, "no answer within 50ms")
    assert cancelled.is_set()


async def test_cancelled_probe_closes_its_connection() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() == b""
        closed.set()

    async with listening(serve) as port:
        task = asyncio.ensure_future(ask(HttpCheck(port=port)))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await closed.wait()
