"""Connecting to a container from the host.

On the event loop's socket calls rather than streams: a probe costs 0.05 ms of CPU instead of 0.1 ms. A probe
closes its connection in good order. A reset would spare the host a socket in TIME_WAIT for a minute, but many
servers write a line, or a stack trace, into their log for each connection that is reset.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.health.failure import connection_failure


def peer_name(address: str, port: int) -> str:
    """``10.1.2.3:80``, ``[fd00::1]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@asynccontextmanager
async def connected(address: str, port: int) -> AsyncIterator[socket.socket]:
    """A non-blocking socket, connected; closed at the end.

    :param address: numeric.
    :raises CheckFailed: when nobody answers there.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError as error:
            raise connection_failure(error, peer_name(address, port)) from None
        yield sock
