"""The host's IPv4 forwarding: turned on when the first network needs it, restored when the last one goes.

Forwarding is one switch per network namespace, and all instances of orch there share it. That orch turned it
on is recorded by the table ``orch_forwarding``, which survives a crash as the switch itself does, and which
keeps the host from becoming a router by accident: interfaces that were there while forwarding was off are
still not forwarded between. Interfaces made later belong to somebody (Docker, a VPN) who found forwarding on
and relies on it, so those are left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from orchestrator.errors import KernelError
from orchestrator.network.model import BRIDGE_PREFIX, Runner
from orchestrator.network.ruleset import list_tables

TABLE = "orch_forwarding"
_INSTANCE_PREFIX = "orch_"
_SWITCH = "/proc/sys/net/ipv4/ip_forward"
_BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
_LOCK_NAME = "\0orch-network"
_LOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ForwardingStatus:
    """What ``doctor`` says about forwarding.

    :param enabled: the kernel forwards IPv4 packets.
    :param by_orch: orch turned it on, and will turn it off again.
    :param bridge_filter: bridged traffic passes the host's IP rules (``bridge-nf-call-iptables``), so that a
        rule of the host can stop two containers of one network from talking.
    """

    enabled: bool
    by_orch: bool
    bridge_filter: bool


def _read(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


def _write(value: str) -> None:
    try:
        with open(_SWITCH, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise KernelError(
            f"cannot set net.ipv4.ip_forward to {value}",
            f"{error.strerror}",
            "set it by hand",
            error.errno or 0,
        )


def bridge_filter() -> bool:
    """Whether bridged traffic passes the IP rules; see :class:`ForwardingStatus`."""
    return _read(_BRIDGE_FILTER)


@contextlib.asynccontextmanager
async def host_lock() -> AsyncIterator[None]:
    """One instance at a time, in this network namespace: an abstract Unix socket's name, see unix(7).

    It is held for milliseconds, and falls free when its holder dies. Whoever waits longer than two seconds
    goes on without it: the name is open to every user of the host, who must not be able to stop orch, and
    what it guards against is a rare race.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as lock:
        while True:
            try:
                lock.bind(_LOCK_NAME)
            except OSError:
                if time.monotonic() < deadline:
                    await asyncio.sleep(0.005)
                    continue
            break
        yield


def render_guard(interfaces: Iterable[str]) -> str:
    """The script that makes the table: none of these interfaces is forwarded to another of them. Pure.

    In by an interface and out by the same is let through: with ``bridge-nf-call-iptables`` that is what
    frames between two ports of one of the host's own bridges look like.
    """
    names = [f'"{name}"' for name in interfaces if name != "lo" and not name.startswith(BRIDGE_PREFIX)]
    unrouted = f"elements = {{ {', '.join(names)} }}; " if names else ""
    bridged = f"elements = {{ {', '.join(f'{name} . {name}' for name in names)} }}; " if names else ""
    return f"""\
table ip {TABLE} {{}}
delete table ip {TABLE}
table ip {TABLE} {{
	set unrouted {{ type ifname; {unrouted}}}
	set bridged {{ type ifname . ifname; {bridged}}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname . oifname @bridged accept
		iifname @unrouted oifname @unrouted drop
	}}
}}
"""


def guard_script() -> str:
    """What nft must do before forwarding is turned on: make the record and guard; "" when it is on already."""
    return "" if _read(_SWITCH) else render_guard(name for _, name in socket.if_nameindex())


def turn_on() -> None:
    """Turn forwarding on, once nft has done what :func:`guard_script` says. Call both under :func:`host_lock`.

    :raises KernelError: when the kernel refuses.
    """
    _write("1")


async def restore(run: Runner, leaving: str) -> bool:
    """Restore forwarding if orch turned it on and ``leaving`` is the last instance's table; whether it did.

    The table :data:`TABLE` is then to be removed. Call under :func:`host_lock`.

    :raises KernelError: when nft or the kernel refuses.
    """
    ours = {table for table in await list_tables(run) if table.startswith(_INSTANCE_PREFIX)}
    if ours - {leaving} != {TABLE}:
        return False
    _write("0")
    return True


async def status(run: Runner) -> ForwardingStatus:
    """How forwarding stands.

    :raises KernelError: when nft refuses.
    """
    by_orch = TABLE in await list_tables(run)
    return ForwardingStatus(_read(_SWITCH), by_orch, bridge_filter())
