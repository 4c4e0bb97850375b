"""Subjects of an audit, and what a rule finds about them."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator import capabilities
from orchestrator.audit.subject import Extents, HostPaths, InForce, Rule, Subject
from orchestrator.spec import HOST, PRIVATE, ServiceSpec
from orchestrator.views import IdMapView, IsolationView

RANGE: Extents = ((0, 1 << 20, 1 << 16),)


def service(**keys: Any) -> ServiceSpec:
    return ServiceSpec(name="web", command=("serve",), **keys)


def isolation(**changes: Any) -> IsolationView:
    """What the kernel says of a container that is as the default has it."""
    held = list(capabilities.names(capabilities.mask()))
    view = IsolationView(
        namespaces=dict.fromkeys(("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"), PRIVATE) | {"time": HOST},
        shared_with={},
        uid_map=_view(RANGE),
        gid_map=_view(RANGE),
        userns_reason="",
        capabilities={
            "effective": held, "permitted": held, "inheritable": [], "bounding": held, "ambient": [],
        },
        no_new_privileges=True,
        seccomp="filter",
        seccomp_profile="default",
        label="orch-default (enforce)",
        masked_paths=[],
        read_only_paths=[],
    )  # fmt: skip
    return msgspec.structs.replace(view, **changes)


def _view(extents: Extents) -> list[IdMapView]:
    return [IdMapView(inside=inside, outside=outside, count=count) for inside, outside, count in extents]


def in_force(uid_map: Extents = RANGE, **facts: Any) -> InForce:
    """A container's facts; without ids of its own when ``uid_map`` is empty."""
    view = facts.pop("isolation", None) or isolation(uid_map=_view(uid_map), gid_map=_view(uid_map))
    return InForce(isolation=view, uid_map=uid_map, gid_map=uid_map, **facts)


def running(spec: ServiceSpec, **facts: Any) -> Subject:
    """A running container of a service, with the capabilities that its spec says."""
    force = in_force(**facts)
    bounding = list(capabilities.granted(spec.cap_add, spec.cap_drop))
    ambient = [] if Subject(spec).is_root else list(capabilities.ambient(spec.cap_add, spec.cap_drop))
    held = bounding if Subject(spec).is_root else ambient
    sets = {
        "effective": held, "permitted": held, "inheritable": ambient, "bounding": bounding, "ambient": ambient,
    }  # fmt: skip
    force.isolation.capabilities = sets
    return Subject(spec, force=force)


def planned(host: HostPaths | None = None, **keys: Any) -> Subject:
    """A service of a manifest."""
    return Subject(service(**keys), host or HostPaths())


def found(rule: Rule, subject: Subject) -> list[tuple[str, str, str]]:
    """(severity, key, what) of each finding; every one has its reason and a remedy."""
    findings = list(rule(subject))
    assert all(finding.why and finding.remedy for finding in findings)
    return [(finding.severity.value, finding.key, finding.what) for finding in findings]
