"""Network namespaces in the test's own process: a thread visits one, and the sockets it makes stay there."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """A new, empty network namespace; gone once closed and all its sockets are."""

    def __init__(self) -> None:
        def make() -> int:
            _check(_libc.unshare(CLONE_NEWNET))
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.fd = _in_thread(make)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def call(self, work: Callable[[], T]) -> T:
        """The result of ``work``, done inside by a thread; it must not take long."""

        def visit() -> T:
            _check(_libc.setns(self.fd, CLONE_NEWNET))
            return work()

        return _in_thread(visit)

    def socket(self, kind: int, family: int = socket.AF_INET) -> socket.socket:
        """A non-blocking socket of the namespace."""
        made = self.call(lambda: socket.socket(family, kind))
        made.setblocking(False)
        return made

    def ip(self, *words: str) -> None:
        """``ip(8)`` inside."""
        self.call(lambda: ip(*words))


def ip(*words: str) -> None:
    """``ip(8)`` where the caller is."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def shell(command: str) -> str:
    """What a shell command prints where the caller is."""
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def setting(path: str, value: str | None) -> Iterator[None]:
    """A file of /proc/sys says ``value`` for a while; None changes nothing."""
    if value is None:
        yield
        return
    before = Path(path).read_text()
    Path(path).write_text(value)
    try:
        yield
    finally:
        Path(path).write_text(before)


def link(name: str, address: str, inside: Namespace, inside_name: str, inside_address: str) -> None:
    """A veth pair between the host and a namespace, both ends up: a cable to a neighbour."""
    peer = ("peer", "name", inside_name, "netns", f"/proc/{os.getpid()}/fd/{inside.fd}")
    ip("link", "add", name, "type", "veth", *peer)
    ip("address", "add", address, "dev", name)
    ip("link", "set", name, "up")
    inside.ip("link", "set", "lo", "up")
    inside.ip("address", "add", inside_address, "dev", inside_name)
    inside.ip("link", "set", inside_name, "up")


async def serve_tcp(sock: socket.socket, address: str, port: int, text: str) -> asyncio.Server:
    """Answer every connection with ``text`` and the address that it came from."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        writer.write(f"{text} {peer[0] if peer else '?'}".encode())
        writer.close()

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return await asyncio.start_server(answer, sock=sock)


async def ask_tcp(sock: socket.socket, address: str, port: int, timeout: float = 5.0) -> str:
    """What the server at an address answers; closes the socket.

    :raises OSError: when it cannot be reached (TimeoutError is one).
    """
    with sock:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            await loop.sock_connect(sock, (address, port))
            return (await loop.sock_recv(sock, 1000)).decode()


async def serve_udp(sock: socket.socket, address: str, port: int, text: str) -> asyncio.DatagramTransport:
    """Answer every datagram with ``text`` and the address that it came from."""

    class Answer(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
            transport.sendto(f"{text} {source[0]}".encode(), source)

    sock.bind((address, port))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Answer, sock=sock)
    return transport


async def ask_udp(sock: socket.socket, address: str, port: int, timeout: float = 5.0) -> str:
    """What comes back to a datagram; closes the socket.

    :raises OSError: when nothing does.
    """
    with sock:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            await loop.sock_connect(sock, (address, port))
            await loop.sock_sendall(sock, b"?")
            return (await loop.sock_recv(sock, 1000)).decode()
