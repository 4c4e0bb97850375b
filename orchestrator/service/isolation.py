"""What holds containers apart: readings of the kernel's, for ``ns``, ``inspect`` and ``audit``.

They read /proc: call them off the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from orchestrator import capabilities
from orchestrator.launch.container import Container
from orchestrator.lsm.host import attribute_of
from orchestrator.runtime import inforce
from orchestrator.runtime.idmap import IdMap
from orchestrator.runtime.survey import HOST, Membership, Resident, Sharers, sharers_of_first, survey
from orchestrator.spec import PRIVATE
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import IdMapView, IsolationView, NamespaceView

#: Operations that take paths away, and those that take the writing to them away.
_HIDE, _PROTECT = ("mask", "hide"), ("read-only", "write-protect")
_READ_ONLY_MOUNT = 1  # MS_RDONLY, mount(2)
_SHARED = "shared"


def namespaces(
    selected: Iterable[Supervisor], everyone: Iterable[Supervisor], kinds: Sequence[str]
) -> list[NamespaceView]:
    """The namespaces of these kinds that the selected containers are in or keep.

    :param everyone: all containers of the instance: who may share them.
    """
    found = survey([_resident(supervisor, with_all=True) for supervisor in everyone], kinds)
    return [
        _namespace(supervisor.container, member)
        for supervisor in selected
        for member in found.get(supervisor.container.name, ())
    ]


def _namespace(container: Container, member: Membership) -> NamespaceView:
    namespace = member.namespace
    maps: tuple[IdMap, IdMap] | None = member.maps
    if namespace.kind == "user" and maps is None:  # nobody is in it to be asked
        maps = container.maps
    return NamespaceView(
        project=container.project,
        service=container.spec.name,
        name=container.name,
        id=container.id,
        kind=namespace.kind,
        inode=namespace.inode,
        owner=namespace.owner,
        parent=namespace.parent,
        first=member.first,
        processes=member.processes,
        pid=member.pid,
        shared_with=list(member.sharers),
        uid_map=map_view(maps[0]) if maps else None,
        gid_map=map_view(maps[1]) if maps else None,
    )


def map_view(extents: IdMap) -> list[IdMapView]:
    """A map of ids as a view."""
    return [IdMapView(inside=first, outside=other, count=count) for first, other, count in extents]


def neighbourhood(everyone: Iterable[Supervisor]) -> dict[str, Sharers]:
    """Container -> kind of namespace -> who else is in it."""
    return sharers_of_first(_resident(supervisor) for supervisor in everyone)


def inspect_isolation(supervisor: Supervisor, everyone: Iterable[Supervisor]) -> IsolationView:
    """What holds one container, for ``inspect``."""
    return isolation_view(supervisor, neighbourhood(everyone).get(supervisor.container.name, {}))


def isolation_view(supervisor: Supervisor, sharers: Sharers) -> IsolationView:
    """What holds one container.

    :param sharers: its own of :func:`neighbourhood`.
    """
    container, pid = supervisor.container, supervisor.pid
    held = inforce.read(pid) if pid else None
    if held is None:
        sharers = dict(_meant(container))
    program = container.program.operations if container.program else []
    return IsolationView(
        namespaces={
            kind: HOST if HOST in others else _SHARED if others else PRIVATE
            for kind, others in sharers.items()
        },
        shared_with={kind: list(others) for kind, others in sharers.items() if others and HOST not in others},
        uid_map=map_view(held.uid_map) if held else None,
        gid_map=map_view(held.gid_map) if held else None,
        userns_reason=container.userns_reason,
        capabilities={name: capabilities.names(bits) for name, bits in held.privileges.capabilities.items()}
        if held
        else None,
        no_new_privileges=held.privileges.no_new_privileges if held else None,
        seccomp=held.privileges.seccomp if held else None,
        seccomp_profile=container.spec.seccomp.profile,
        label=attribute_of(pid) if held and pid else None,
        masked_paths=[operation[1] for operation in program if operation[0] in _HIDE],
        read_only_paths=list(_protected(program)),
    )


def _meant(container: Container) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What :func:`neighbourhood` would say of a container that does not run, as far as it is decided."""
    neighbours = {kind: each.name for kind, each in container.neighbours.items()}
    yield "user", tuple(sorted(set(neighbours.values()))) if container.maps else (HOST,)
    for kind, mode in container.spec.namespaces.items():
        yield kind, () if mode == PRIVATE else (neighbours.get(kind, mode),)


def _protected(program: Iterable[list[Any]]) -> Iterator[str]:
    for name, *arguments in program:
        if name in _PROTECT:
            yield arguments[0]
        elif name == "read-only-roots":
            yield from arguments[0]
        elif name == "cgroups":
            yield "/sys/fs/cgroup"
        elif name == "mount" and arguments[2] & _READ_ONLY_MOUNT:
            yield arguments[1]


def _resident(supervisor: Supervisor, with_all: bool = False) -> Resident:
    """:param with_all: with all processes, and not only the first."""
    container, pid = supervisor.container, supervisor.pid
    pids = [] if pid is None else [pid]
    if pid is not None and with_all:
        pids += [other for other in sorted(container.cgroup.pids()) if other != pid]
    return Resident(container.name, pids, container.netns)
