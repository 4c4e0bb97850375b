"""Which subnet a network gets, and which address a container. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from orchestrator.errors import ConflictError, UsageError

#: Ports of one Linux bridge (``BR_MAX_PORTS`` less the unused port 0, net/bridge/br_private.h).
BRIDGE_PORTS = 1023

#: A /22 has 1021 addresses for containers, as many as a bridge has ports.
_PREFIX = 22

#: Where subnets come from, in order of preference: a corner of each private range (RFC 1918) away from what
#: Docker (172.17-20/16), libvirt (192.168.122/24), Kubernetes (10.96/12, 10.244/16) and home routers
#: (192.168.0-3/24) take by default. 800 networks in all.
POOLS = (
    IPv4Network("10.200.0.0/13"),
    IPv4Network("172.24.0.0/14"),
    IPv4Network("192.168.128.0/17"),
)


class AddressPoolError(ConflictError):
    """No subnet, or no address in a subnet, is left."""


def pool_subnets(preference: int = 0) -> Iterator[IPv4Network]:
    """Every subnet of the pools once; ``preference`` chooses where in each pool to begin."""
    for pool in POOLS:
        count = 1 << (_PREFIX - pool.prefixlen)
        for step in range(count):
            offset = (preference + step) % count << (32 - _PREFIX)
            yield IPv4Network((int(pool.network_address) + offset, _PREFIX))


def choose_subnet(network: str, taken: Iterable[IPv4Network], preference: int = 0) -> IPv4Network:
    """The first subnet of the pools that overlaps nothing in ``taken``.

    :param network: whose subnet it is, for the error.
    :param preference: a number derived from the network's name, so that the same network tends to get the
        same subnet again.
    :raises AddressPoolError: when every one of them overlaps something.
    """
    occupied = sorted(set(taken))
    for candidate in pool_subnets(preference):
        if not any(candidate.overlaps(other) for other in occupied):
            return candidate
    pools = ", ".join(str(pool) for pool in POOLS)
    raise AddressPoolError(
        f'cannot choose a subnet for network "{network}"',
        f"every /{_PREFIX} of {pools} overlaps a route or an interface of this host",
        "give the network a free subnet in the manifest, or remove networks that are no longer used",
    )


def check_subnet(network: str, text: str, gateway: str | None = None) -> tuple[IPv4Network, IPv4Address]:
    """A subnet and gateway as the manifest gives them; the gateway defaults to the first address.

    :raises UsageError: when either is malformed, the subnet has no room, or the gateway is not in it.
    """
    what = f'cannot use subnet {text} for network "{network}"'
    try:
        subnet = IPv4Network(text)
        chosen = IPv4Address(gateway) if gateway else subnet.network_address + 1
    except ValueError as error:
        raise UsageError(what, str(error), 'write it as "10.5.0.0/24"')
    if subnet.prefixlen > 30:
        raise UsageError(what, "it has no room for a gateway and a container", "use a /30 or larger")
    if chosen not in subnet or chosen in (subnet.network_address, subnet.broadcast_address):
        raise UsageError(what, f"gateway {chosen} is not one of its addresses", "choose one inside it")
    return subnet, chosen


def capacity(subnet: IPv4Network) -> int:
    """How many containers fit: addresses without network, broadcast and gateway, at most a bridge's ports."""
    return min(subnet.num_addresses - 3, BRIDGE_PORTS)


def allocate(
    network: str,
    subnet: IPv4Network,
    gateway: IPv4Address,
    existing: Mapping[str, IPv4Address],
    wanted: Sequence[str],
) -> dict[str, IPv4Address]:
    """An address for every name in ``wanted``.

    A name in ``existing`` keeps its address (if the subnet still has it), whether or not it is wanted now;
    the others get the lowest free ones in the order given. The same input gives the same output.

    :param network: whose addresses they are, for the error.
    :raises AddressPoolError: when there are more names than :func:`capacity` allows.
    """
    reserved = {gateway, subnet.network_address, subnet.broadcast_address}
    kept = {
        name: address for name, address in existing.items() if address in subnet and address not in reserved
    }
    names = list(dict.fromkeys(wanted))
    total = len(kept) + sum(name not in kept for name in names)
    if total > capacity(subnet):
        limit = (
            "a bridge has no more ports"
            if capacity(subnet) == BRIDGE_PORTS
            else f"its subnet {subnet} has no more addresses"
        )
        raise AddressPoolError(
            f'cannot give {total} containers an address on network "{network}"',
            f"it takes {capacity(subnet)}: {limit}",
            "use a larger subnet, fewer replicas, or a second network",
        )
    reserved.update(kept.values())
    free = (address for address in subnet if address not in reserved)
    return {name: kept[name] if name in kept else next(free) for name in names}


def mac_of(address: IPv4Address) -> str:
    """The MAC address that belongs to an address: locally administered, the same whenever the address is.

    An address that moves to a new container therefore never leaves a stale ARP entry behind.
    """
    return "02:42:" + ":".join(f"{byte:02x}" for byte in address.packed)
