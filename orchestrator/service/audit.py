"""The audit of live containers: gathers what is in force, and has it judged.

It reads the kernel's files and the host's: call it off the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.audit.host import look
from orchestrator.audit.rules import judge
from orchestrator.audit.subject import Extents, InForce, Subject
from orchestrator.errors import OrchError
from orchestrator.launch.container import Container
from orchestrator.runtime.idmap import IdMap
from orchestrator.service.isolation import isolation_view, neighbourhood
from orchestrator.spec import HOST
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import AuditView

Partners = Mapping[str, frozenset[str]]


def audit(selected: Iterable[Supervisor], everyone: Sequence[Supervisor]) -> list[AuditView]:
    """What is found about the selected containers.

    :param everyone: all containers of the instance: who may share something with them.
    """
    containers = [supervisor.container for supervisor in everyone]
    sharers, partners = neighbourhood(everyone), find_partners(containers)
    binds = {(c.project, path, writable): c.name for c in containers for path, writable in _binds(c)}
    views = []
    for supervisor in selected:
        container = supervisor.container
        force = InForce(
            isolation=isolation_view(supervisor, sharers.get(container.name, {})),
            uid_map=_extents(container.maps.uid) if container.maps else (),
            gid_map=_extents(container.maps.gid) if container.maps else (),
            partners=partners[container.name],
            fellows=_fellows(container, binds),
            label=container.confinement.process or container.confinement.profile,
            label_note=container.confinement.note,
            limits=_limits(supervisor),
        )
        views.append(
            AuditView(
                project=container.project,
                service=container.spec.name,
                name=container.name,
                id=container.id,
                running=supervisor.pid is not None,
                findings=judge(Subject(container.spec, look(container.spec), force, _inherited(container))),
            )
        )
    return views


def find_partners(containers: Sequence[Container]) -> dict[str, Partners]:
    """Container -> kind of namespace -> who may share it, since one joins another's, and so on. Pure.

    Whoever shares anything shares the user namespace.
    """
    groups: dict[str, dict[str, set[str]]] = {c.name: {} for c in containers}
    for container in containers:
        for kind, neighbour in container.neighbours.items():
            if neighbour.name not in groups:
                continue
            for each in (kind, "user"):
                ours, theirs = groups[container.name], groups[neighbour.name]
                joint = ours.get(each, {container.name}) | theirs.get(each, {neighbour.name})
                for name in joint:
                    groups[name][each] = joint
    return {
        name: {kind: frozenset(joint - {name}) for kind, joint in found.items()}
        for name, found in groups.items()
    }


def _inherited(container: Container) -> frozenset[str]:
    """Which namespaces it has from the host by way of its neighbours."""
    found = set()
    for kind in container.neighbours:
        end = container
        while kind in end.neighbours:
            end = end.neighbours[kind]
        if end.spec.namespaces[kind] == HOST:
            found.add(kind)
    return frozenset(found)


def _extents(mapping: IdMap) -> Extents:
    return tuple((first, other, count) for first, other, count in mapping)


def _binds(container: Container) -> Iterable[tuple[str, bool]]:
    return (
        (os.path.realpath(mount.source), not mount.read_only)
        for mount in container.spec.mounts
        if mount.type == "bind"
    )


def _fellows(container: Container, binds: Mapping[tuple[str, str, bool], str]) -> dict[str, tuple[str, ...]]:
    """Its binds' sources -> containers of other projects that have them too, where one of both may write."""
    found = {}
    for mount in container.spec.mounts:
        if mount.type == "bind":
            ours = os.path.realpath(mount.source)
            names = {
                name
                for (project, path, writable), name in binds.items()
                if project != container.project
                and (writable or not mount.read_only)
                and (_within(path, ours) or _within(ours, path))
            }
            found[mount.source] = tuple(sorted(names))
    return found


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _limits(supervisor: Supervisor) -> dict[str, int | None]:
    """The limits that its cgroup has; {} when it does not run."""
    if supervisor.pid is None:
        return {}
    try:
        stats = supervisor.container.cgroup.stats()
    except (OSError, OrchError):
        return {}  # it ended while we looked
    return {"memory": stats.memory_limit, "pids": stats.pids_limit}
