"""The words of this room: a network as it exists, and a published port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Literal

from orchestrator.errors import UsageError
from orchestrator.spec import Port

Protocol = Literal["tcp", "udp"]

#: Runs a program of the host with standard input; gives its exit code, standard output and standard error.
Runner = Callable[[list[str], bytes], Awaitable[tuple[int, bytes, bytes]]]

#: A host address of a published port that means every address of the host.
ANY_ADDRESS = IPv4Address("0.0.0.0")

#: What every bridge's name begins with; see :meth:`orchestrator.ids.Instance.bridge`.
BRIDGE_PREFIX = "orb-"

#: Interface index in the container of ``eth0``; the indices below are left to the fallback devices (``tunl0``,
#: ``sit0``, ...) that some kernels make in every network namespace.
FIRST_PEER_INDEX = 100


@dataclass(frozen=True, slots=True)
class Network:
    """A network that exists: its bridge, and what containers on it need to know.

    :param ifindex: interface index of the bridge.
    :param group: interface group of the bridge and of all its veths' host ends.
    :param mtu: bytes; of the bridge and of every veth on it.
    """

    project: str
    name: str
    bridge: str
    ifindex: int
    subnet: IPv4Network
    gateway: IPv4Address
    internal: bool
    group: int
    mtu: int


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """``host_ip:published`` of the host leads to ``address:target`` of a container."""

    protocol: Protocol
    host_ip: IPv4Address
    published: int
    address: IPv4Address
    target: int

    @classmethod
    def of(cls, port: Port, published: int, address: IPv4Address) -> PublishedPort:
        """The port of a spec, once its number on the host and the container's address are known.

        :raises UsageError: when the host address is not IPv4.
        """
        return cls(port.protocol, host_address(port), published, address, port.target)


def host_address(port: Port) -> IPv4Address:
    """The host's address on which a port is published.

    :raises UsageError: when it is not an IPv4 address.
    """
    try:
        return IPv4Address(port.host_ip)
    except AddressValueError as error:
        raise UsageError(
            f'cannot publish port {port.target} on "{port.host_ip}"',
            str(error),
            "use an IPv4 address of this host",
        )


def peer_name(index: int) -> str:
    """What a container calls the ``index``-th of its interfaces."""
    return f"eth{index}"
