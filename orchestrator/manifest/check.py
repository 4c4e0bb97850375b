"""What only shows when the whole project is known: references, cycles, subnets, ports, names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.manifest.draft import DEFAULT_NETWORK, Draft
from orchestrator.manifest.place import Place, hint
from orchestrator.spec import Condition, NetworkSpec, Port, ServiceSpec

if TYPE_CHECKING:
    from ipaddress import IPv4Network

_REPLICA = re.compile(r"(.+)-([1-9][0-9]{0,5})")


def check_references(
    drafts: Mapping[str, Draft],
    active: Collection[str],
    *,
    services: Collection[str],
    networks: Collection[str],
    volumes: Collection[str],
    secrets: Collection[str],
    configs: Collection[str],
) -> None:
    """Everything that a service names exists, and what it waits for can happen.

    :param drafts: all services that could be read, also those that are left out.
    :param services: names of all services, also those with problems; ``networks`` and ``volumes`` likewise.
    """
    for draft in drafts.values():
        for place, dependency in draft.dependencies:
            name = dependency.service
            if name == draft.name:
                place.problem("a service cannot depend on itself")
            elif name not in services:
                place.problem(f'there is no service "{name}"{hint(name, services)}')
            elif name in drafts:
                _check_condition(place, dependency.condition, drafts[name])
                if dependency.required and draft.name in active and name not in active:
                    profiles = " or ".join(f'"{profile}"' for profile in drafts[name].profiles)
                    place.problem(f'service "{name}" is left out (activate its profile {profiles})')
        for place, attachment in draft.networks:
            name = attachment.network
            if name not in networks and name != DEFAULT_NETWORK:
                if name in ("host", "none", "bridge"):
                    place.problem(f'there is no network "{name}" (did you mean network_mode = "{name}"?)')
                else:
                    place.problem(
                        f'there is no network "{name}"{hint(name, networks) or _declare("networks", name)}'
                    )
        for place, section, grant in draft.grants:
            name, known = grant["source"], secrets if section == "secrets" else configs
            if name not in known:
                remedy = hint(name, known) or _declare(section, name)
                place.problem(f'there is no {section.removesuffix("s")} "{name}"{remedy}')
        for place, mount in draft.mounts:
            if mount.type == "volume" and mount.source not in volumes:
                name = mount.source
                place.problem(
                    f'there is no volume "{name}"{hint(name, volumes) or _declare("volumes", name)}'
                    + (f'; a folder is written "./{name}"' if "/" in name else "")
                )


def _declare(section: str, name: str) -> str:
    return f" (declare it: [{section}.{name}])"


def _check_condition(place: Place, condition: Condition, target: Draft) -> None:
    name = target.name
    if condition is Condition.HEALTHY:
        check = target.values.get("healthcheck", {})
        if not target.find("healthcheck") or check.get("disable") or check.get("test", ()) is None:
            place.problem(
                f'service "{name}" has no healthcheck, so it never becomes healthy (add one, or wait for started)'
            )
    elif condition is Condition.COMPLETED and target.values.get("kind", "service") != "job":
        policy = target.values.get("restart", {}).get("policy", "no")
        if policy in ("always", "unless-stopped"):
            place.problem(
                f'service "{name}" never completes, since its restart is "{policy}" '
                '(give it kind = "job", or restart = "no" or "on-failure")'
            )


def check_cycles(drafts: Mapping[str, Draft]) -> None:
    """No service waits for itself through others; each cycle is reported once, where it closes."""
    done: set[str] = set()
    for start in drafts:
        if start in done:
            continue
        chain = [start]
        pending = [iter(drafts[start].dependencies)]
        while pending:
            edge = next(pending[-1], None)
            if edge is None:
                done.add(chain.pop())
                pending.pop()
                continue
            place, dependency = edge
            name = dependency.service
            if name in chain and name != chain[-1]:
                cycle = [*chain[chain.index(name) :], name]
                place.problem(f"services depend on each other in a circle: {' -> '.join(cycle)}")
            elif name in drafts and name not in done and name != chain[-1]:
                chain.append(name)
                pending.append(iter(drafts[name].dependencies))


def check_names(drafts: Mapping[str, Draft]) -> None:
    """No service is called as another one's replica is: ``api-2`` must mean one thing."""
    for draft in drafts.values():
        match = _REPLICA.fullmatch(draft.name)
        other = drafts.get(match[1]) if match else None
        if match and other and int(match[2]) <= other.values.get("replicas", 1):
            draft.place.problem(
                f'"{draft.name}" also means replica {match[2]} of service "{other.name}" (rename one)'
            )


def check_networks(
    networks: Mapping[str, tuple[Place, NetworkSpec]], specs: Mapping[str, ServiceSpec]
) -> None:
    """Subnets don't overlap, hold their gateway, and have an address for every container."""
    subnets = {name: spec.subnet for name, (_, spec) in networks.items() if spec.subnet}
    for place, spec in networks.values():
        if spec.gateway and not spec.subnet and "subnet" not in _table(place):
            place.child("gateway").problem("needs a subnet that it lies in")
    if not subnets:
        return
    from ipaddress import IPv4Address, IPv4Network

    seen: list[tuple[str, IPv4Network]] = []
    for name, text in subnets.items():
        place, spec = networks[name]
        subnet = IPv4Network(text)
        for other, taken in seen:
            if subnet.overlaps(taken):
                place.child("subnet").problem(f'{subnet} overlaps {taken} of network "{other}"')
        seen.append((name, subnet))
        if spec.gateway:
            gateway = IPv4Address(spec.gateway)
            if gateway not in subnet:
                place.child("gateway").problem(f"{gateway} is not in the subnet {subnet}")
            elif gateway in (subnet.network_address, subnet.broadcast_address):
                first, last = subnet.network_address + 1, subnet.broadcast_address - 1
                place.child("gateway").problem(f"{gateway} is not a host's address ({first} to {last})")
        wanted = sum(
            service.replicas
            for service in specs.values()
            if any(attachment.network == name for attachment in service.networks)
        )
        room = subnet.num_addresses - 3  # without the network's, the gateway's and the broadcast address
        if wanted > room:
            place.child("subnet").problem(f"{subnet} has room for {room} containers, and {wanted} join")


def _table(place: Place) -> Collection[str]:
    table = place.document.data
    for key in place.path:
        table = table[str(key)]
    return table


def check_ports(drafts: Mapping[str, Draft], specs: Mapping[str, ServiceSpec]) -> None:
    """No two containers publish the same port of the same address (``0.0.0.0`` is every address)."""
    taken: dict[tuple[str, int], list[tuple[str, str, Place]]] = {}
    for name, draft in drafts.items():
        for place, port in draft.ports:
            if not port.published:
                continue
            if specs[name].replicas > 1:
                place.problem(
                    f"{specs[name].replicas} replicas cannot all publish {_format(port)} "
                    f'(write "{port.target}" to let orch choose the ports, or replicas = 1)'
                )
            here = taken.setdefault((port.protocol, port.published), [])
            clash = next(_clashes(port.host_ip, here), None)
            if clash:
                owner, at = clash
                whose = "the same service" if owner == name else f'service "{owner}"'
                place.problem(f"{_format(port)} is published already by {whose}, at {at}")
            here.append((port.host_ip, name, place))


def _clashes(host_ip: str, taken: list[tuple[str, str, Place]]) -> Iterator[tuple[str, Place]]:
    for other, owner, place in taken:
        if host_ip == other or "0.0.0.0" in (host_ip, other):
            yield owner, place


def _format(port: Port) -> str:
    return f"{port.host_ip}:{port.published}/{port.protocol}"
