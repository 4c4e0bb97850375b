"""What a container's child does for its network, in its own network namespace. Pure: compiles operations."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any, Literal

from orchestrator.kernel import operations
from orchestrator.network.model import Network, peer_name


def primary(networks: Sequence[Network]) -> int | None:
    """Index of the network that has the default route: the first with a way out; None when there is none.

    Published ports must lead to the address on this network: answers leave by the default route, and the
    host drops those that come through another bridge than the one their address belongs to (rp_filter).
    """
    return next((index for index, network in enumerate(networks) if not network.internal), None)


def compile_network(
    mode: Literal["bridge", "host", "none"], attachments: Sequence[tuple[Network, IPv4Address]] = ()
) -> list[operations.Operation]:
    """The operations that configure a container's network namespace; performing them again changes nothing.

    ``bridge``: ``lo``, an address on each network (in order: ``eth0``, ``eth1``, ...), and the default route
    of :func:`primary`. ``none``: ``lo`` only. ``host``: nothing, since there is no namespace of its own.
    """
    if mode == "host":
        return []
    interfaces: list[dict[str, Any]] = []
    default: dict[str, str] | None = None
    if mode == "bridge":
        interfaces = [
            {"name": peer_name(index), "address": str(address), "prefix": network.subnet.prefixlen}
            for index, (network, address) in enumerate(attachments)
        ]
        way_out = primary([network for network, _ in attachments])
        if way_out is not None:
            default = {"name": peer_name(way_out), "gateway": str(attachments[way_out][0].gateway)}
    return [operations.netlink_configure({"interfaces": interfaces, "default": default})]
