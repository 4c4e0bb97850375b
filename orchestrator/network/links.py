"""Bridges, addresses and routes of the host, through pyroute2: what is done once a network, not a container."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

from orchestrator.errors import KernelError

_AF_INET = 2
_LOCAL_TABLE = 255  # RT_TABLE_LOCAL: the host's own addresses, which :meth:`Links.occupied` has already
_UNICAST = 1  # RTN_UNICAST
_DEFAULT_MTU = 1500
_SMALLEST_MTU = 576  # what every IPv4 host must accept, RFC 791


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that exists. ``address`` None: it was only half made."""

    ifindex: int
    address: IPv4Interface | None
    ports: int
    mtu: int


class Links:
    """A route netlink socket of the host for everything but the hot path."""

    def __init__(self) -> None:
        self._route: Any = None

    async def open(self) -> None:
        """Open the socket. pyroute2 is loaded here, in a thread: it takes 0.1 s, and clients never need it."""
        module = await asyncio.to_thread(__import__, "pyroute2")
        self._route = module.AsyncIPRoute()

    async def close(self) -> None:
        """Close the socket; closing twice is fine."""
        if self._route is not None:
            self._route.close()
            self._route = None

    async def bridge(self, name: str) -> Bridge | None:
        """The bridge of this name, if there is one."""
        links = [link async for link in await self._route.get_links()]
        found = next((link for link in links if link.get("ifname") == name), None)
        if found is None:
            return None
        index = found["index"]
        addresses = [one async for one in await self._route.get_addr(family=_AF_INET, index=index)]
        address = (
            IPv4Interface((addresses[0].get("address"), addresses[0]["prefixlen"])) if addresses else None
        )
        ports = sum(link.get("master") == index for link in links)
        return Bridge(index, address, ports, found.get("mtu"))

    async def occupied(self, but: str) -> list[tuple[str, IPv4Network]]:
        """Every subnet that an interface or a route of the host has, with the interface's name.

        :param but: the interface whose own do not count.
        """
        names = {link["index"]: link.get("ifname") async for link in await self._route.get_links()}
        subnets = []
        async for one in await self._route.get_addr(family=_AF_INET):
            network = IPv4Interface((one.get("address"), one["prefixlen"])).network
            subnets.append((names.get(one["index"], "?"), network))
        async for one in await self._route.get_routes(family=_AF_INET):
            destination, length = one.get("dst"), one["dst_len"]
            if destination and length and one.get("table") != _LOCAL_TABLE and one["type"] == _UNICAST:
                subnets.append(
                    (names.get(one.get("oif"), "?"), IPv4Network((destination, length), strict=False))
                )
        return [(name, network) for name, network in dict.fromkeys(subnets) if name != but]

    async def egress_mtu(self) -> int:
        """The MTU for networks: that of the default route's interface, at most 1500.

        A larger one would make remote hosts send packets that only path MTU discovery could save, and that
        fails wherever a firewall drops ICMP.
        """
        async for route in await self._route.get_routes(family=_AF_INET):
            if route["dst_len"] == 0 and route.get("oif"):
                async for link in await self._route.get_links(route.get("oif")):
                    return max(_SMALLEST_MTU, min(_DEFAULT_MTU, int(link.get("mtu"))))
        return _DEFAULT_MTU

    async def make_bridge(self, name: str, mtu: int, group: int) -> int:
        """Make a bridge, still down; returns its interface index. One that exists already is kept.

        No spanning tree and no forward delay, since every port is a container; no multicast snooping, which
        needs a querier that nobody runs here.

        :raises KernelError: when the kernel refuses.
        """
        try:
            await self._route.link(
                "add", ifname=name, kind="bridge", mtu=mtu, group=group,
                br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0,
            )  # fmt: skip
        except Exception as error:  # pyroute2's NetlinkError is not a subclass of OSError
            if getattr(error, "code", None) != errno.EEXIST:
                raise _refused(f"cannot make bridge {name}", error)
        (index,) = await self._route.link_lookup(ifname=name)
        return int(index)

    async def bring_up(
        self, name: str, index: int, address: IPv4Interface, mac: str, *, loopback: bool
    ) -> None:
        """Give a bridge its addresses and bring it up.

        Its MAC address is set, for by default it changes with the ports, and both the containers' ARP entries
        for their gateway and our rules would be wrong. IPv6 is off on the host's side: networks are IPv4, and
        a link-local address of the host would be a way around the rules. ``route_localnet`` lets the host's
        packets from 127.0.0.1 out on this bridge, and the answers in (ip-sysctl.rst of the kernel).

        :param loopback: whether ports published on 127.0.0.1 lead here.
        :raises KernelError: when the kernel refuses.
        """
        try:
            _set(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1", optional=True)
            _set(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "1" if loopback else "0")
            await self._route.addr(
                "replace",
                index=index,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                broadcast=str(address.network.broadcast_address),
            )
            await self._route.link("set", index=index, address=mac, state="up")
        except Exception as error:
            raise _refused(f"cannot bring up bridge {name}", error)


def _set(path: str, value: str, *, optional: bool = False) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError:
        if not optional:  # a kernel without IPv6 has no such file
            raise


def _refused(what: str, error: Exception) -> KernelError:
    code = getattr(error, "code", None) or getattr(error, "errno", None) or 0
    cause = f"{errno.errorcode.get(code, code)}: {os.strerror(code)}" if code else str(error)
    return KernelError(what, cause, errno=code)
