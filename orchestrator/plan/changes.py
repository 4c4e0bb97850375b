"""How two specs differ, and what the difference costs."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from orchestrator.spec import NetworkSpec, ServiceSpec

#: Keys that orch itself acts upon, or that the kernel lets us change under a running program. ``expose`` and
#: ``labels`` are only recorded, and so is ``depends_on``: a new dependency is for the next start to wait for.
IN_PLACE = frozenset(
    {
        "depends_on", "device_cgroup_rules", "expose", "healthcheck", "labels", "logging", "pressure", "resources",
        "restart", "stop_grace_period", "stop_signal",
    }
)  # fmt: skip
#: Says how many containers there are, and nothing of any one of them.
_COUNT = "replicas"


def changed_keys(old: ServiceSpec, new: ServiceSpec) -> frozenset[str]:
    """The keys in which a container made from ``old`` differs from one made from ``new``."""
    return frozenset(
        key
        for key in ServiceSpec.__struct_fields__
        if key != _COUNT and getattr(old, key) != getattr(new, key)
    )


def renewed_networks(
    wanted: Mapping[str, NetworkSpec], existing: Mapping[str, NetworkSpec]
) -> dict[str, str]:
    """The networks that must be made, or made anew: name -> cause.

    What a wanted spec leaves to orch may stay as it is, unless another network now names that subnet.
    """
    renewed = {}
    for name, new in wanted.items():
        if (old := existing.get(name)) is None:
            renewed[name] = "does not exist"
            continue
        keys = {key for key in ("subnet", "gateway") if getattr(new, key) not in (None, getattr(old, key))}
        if old.internal != new.internal:
            keys.add("internal")
        heirs = [heir for heir, spec in wanted.items() if heir != name and _overlap(spec.subnet, old.subnet)]
        if keys:
            renewed[name] = describe_changes(frozenset(keys))
        elif heirs:
            renewed[name] = f"gives its subnet to {heirs[0]}"
    return renewed


def _overlap(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return False
    a, b = ip_network(one, strict=False), ip_network(other, strict=False)
    return a.version == b.version and a.overlaps(b)


def describe_changes(keys: frozenset[str]) -> str:
    """For people: ``environment, image changed``."""
    return f"{', '.join(sorted(keys))} changed"
