"""Holding a port of the host for a container, so that nobody else takes it, and saying who did."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Literal, NamedTuple

from orchestrator.errors import ConflictError, KernelError, UsageError
from orchestrator.network.model import host_address
from orchestrator.spec import Port

_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_TCP_LISTEN, _UDP_BOUND = "0A", "07"  # column "st" of /proc/net/tcp and udp, see proc(5)
_SEARCH_SECONDS = 0.05


class Owner(NamedTuple):
    """The program that has a port."""

    pid: int
    program: str


def reserve(port: Port) -> socket.socket:
    """Bind a host port and keep it: the socket never listens, it only stops others from binding the port.

    Packets for the port are redirected before any socket sees them. A ``published`` of 0 takes a free port;
    ``getsockname()[1]`` of the result is its number. The port is free again once the socket is closed.

    :raises ConflictError: when the port is taken; it names the program that has it, where /proc shows it.
    :raises UsageError: when the host address is not one of this host.
    """
    address = host_address(port)
    what = f"cannot publish {address}:{port.published}/{port.protocol}"
    try:
        return _bind(port, address, reuse=False)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(what, f"{address} is not an address of this host", "see: ip address")
        if error.errno != errno.EADDRINUSE:
            raise KernelError(what, f"bind: {error.strerror}", errno=error.errno or 0)
    if port.published == 0:
        raise ConflictError(what, "this host has no free port left", "close some connections, or name a port")
    remedy = "stop it, or publish the service on another port"
    owner = find_owner(port.protocol, address, port.published)
    if owner is not None:
        cause = f"port {port.published} is taken by {owner.program} (pid {owner.pid})"
    elif any(one.blocks(address, port.published) for one in _sockets(port.protocol)):
        cause = f"port {port.published} is taken by another program"
    else:
        # Only connections of a program that has ended linger, in TIME_WAIT. That is no reason to fail, where
        # the kernel lets us share the port with them; it is then held a little less strictly.
        try:
            return _bind(port, address, reuse=True)
        except OSError:
            cause = f"port {port.published} has connections that closed within the last minute"
            remedy = "try again in a minute, or publish the service on another port"
    raise ConflictError(what, cause, remedy)


def _bind(port: Port, address: IPv4Address, *, reuse: bool) -> socket.socket:
    held = socket.socket(socket.AF_INET, _TYPES[port.protocol] | socket.SOCK_CLOEXEC)
    try:
        if reuse:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((str(address), port.published))
    except BaseException:
        held.close()
        raise
    return held


def find_owner(protocol: str, address: IPv4Address, number: int) -> Owner | None:
    """Who holds a port; None when /proc does not show it, or not within 50 ms (many processes)."""
    inodes = {f"socket:[{one.inode}]" for one in _sockets(protocol) if one.blocks(address, number)}
    deadline = time.monotonic() + _SEARCH_SECONDS
    for pid in (entry for entry in os.listdir("/proc") if entry.isdigit()):
        if not inodes or time.monotonic() > deadline:
            return None
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                        return Owner(int(pid), comm.read().strip())
        except OSError:
            continue  # it ended, or is not ours to look into
    return None


class _Socket(NamedTuple):
    address: str
    port: int
    inode: str

    def blocks(self, address: IPv4Address, number: int) -> bool:
        """Whether it is why ``address:number`` cannot be bound; on either side, any address meets all."""
        return self.port == number and (
            address.is_unspecified or self.address in (str(address), "0.0.0.0", "::")
        )


def _sockets(protocol: str) -> Iterator[_Socket]:
    """Bound (UDP) or listening (TCP) sockets of this network namespace, from /proc/net (see proc(5))."""
    for table in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] in (_TCP_LISTEN, _UDP_BOUND):
                raw, port = fields[1].split(":")
                yield _Socket(_address(raw), int(port, 16), fields[9])


def _address(raw: str, order: Literal["little", "big"] = sys.byteorder) -> str:
    """An address of /proc/net/tcp: 32-bit words in the host's byte order, in hexadecimal."""
    words = (int(raw[at : at + 8], 16) for at in range(0, len(raw), 8))
    packed = b"".join(word.to_bytes(4, order) for word in words)
    if packed[:12] == bytes(10) + b"\xff\xff":
        packed = packed[12:]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
