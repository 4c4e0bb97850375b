"""Who is in which namespace, as the kernel has it: containers, the host, and whoever else there is.

Reads /proc: call it off the event loop.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.kernel import process
from orchestrator.kernel.process import NAMESPACES, Extents, Namespace

__all__ = [
    "HOST",
    "NAMESPACES",
    "Membership",
    "Occupants",
    "Places",
    "Resident",
    "Sharers",
    "find_places",
    "sharers_of_first",
    "survey",
]

#: Whoever is in the namespaces that orch's service is in.
HOST = "host"


@dataclass(frozen=True, slots=True)
class Resident:
    """A container.

    :param pids: its processes, as the host counts them; its first process is the first of them.
    :param netns: descriptor of the network namespace that it keeps, with or without a process in it; -1 for none.
    """

    name: str
    pids: Sequence[int] = ()
    netns: int = -1


@dataclass(frozen=True, slots=True)
class Membership:
    """A namespace that a container is in.

    :param first: whether it is the container's own, which its first process is in; its other processes may have made
        themselves further ones.
    :param processes: how many are in it, on the whole host.
    :param pid: the container's first process in it; None when it only keeps it.
    :param sharers: who else is in it: ``host``, or containers by name.
    :param maps: user and group ids of a user namespace; None for other kinds, and when no process can be asked.
    """

    namespace: Namespace
    first: bool
    processes: int
    pid: int | None
    sharers: tuple[str, ...]
    maps: tuple[Extents, Extents] | None = None


def survey(residents: Iterable[Resident], kinds: Iterable[str] = NAMESPACES) -> dict[str, list[Membership]]:
    """Container -> the namespaces of these kinds that it is in or keeps, its own ones of each kind first.

    What ends while we look is left out.
    """
    residents = list(residents)
    inodes = {pid: process.inodes(pid) for pid in _processes()}
    kept = {resident.name: _kept(resident) for resident in residents}
    places = {
        resident.name: find_places(resident.pids, inodes, kept[resident.name]) for resident in residents
    }
    own = process.inodes("self")
    occupants = Occupants(places, own)
    population = Counter(inode for found in inodes.values() for inode in found.values())
    described: dict[int, Namespace] = {ns.inode: ns for found in kept.values() for ns in found}
    result: dict[str, list[Membership]] = {}
    for name, found in places.items():
        result[name] = []
        for kind in kinds:
            for number, (inode, pid) in enumerate(found.get(kind, {}).items()):
                if number and inode == own[kind]:
                    continue  # somebody who is on the way in, as all that exec brings are at first
                try:
                    if inode not in described and pid is not None:
                        described[inode] = process.namespace(pid, kind)
                    maps = _maps(pid) if kind == "user" and pid is not None else None
                except OSError:
                    continue
                sharers = occupants.others(name, kind, inode)
                result[name].append(
                    Membership(described[inode], number == 0, population[inode], pid, sharers, maps)
                )
    return result


#: Kind -> inode number -> a process that is in that namespace; None when there is none, and it is kept.
Places = Mapping[str, Mapping[int, int | None]]


def find_places(
    pids: Iterable[int], inodes: Mapping[int, Mapping[str, int]], kept: Iterable[Namespace] = ()
) -> Places:
    """Where a container is, the first process's namespace of each kind first. Pure."""
    places: dict[str, dict[int, int | None]] = {}
    for pid in pids:
        for kind, inode in inodes.get(pid, {}).items():
            places.setdefault(kind, {}).setdefault(inode, pid)
    for namespace in kept:
        places.setdefault(namespace.kind, {}).setdefault(namespace.inode, None)
    return places


class Occupants:
    """Who is in each namespace: containers by their places, and the host, whose own ones are ``own``. Pure."""

    def __init__(self, places: Mapping[str, Places], own: Mapping[str, int]) -> None:
        self._own = own
        self._names: dict[tuple[str, int], list[str]] = {}
        for name in sorted(places):
            for kind, found in places[name].items():
                for inode in found:
                    self._names.setdefault((kind, inode), []).append(name)

    def others(self, name: str, kind: str, inode: int) -> tuple[str, ...]:
        """Who is in a namespace besides container ``name``. The host stands for everybody who has none of their own."""
        if self._own.get(kind) == inode:
            return (HOST,)
        return tuple(other for other in self._names.get((kind, inode), ()) if other != name)


#: Kind -> who else is in a container's namespace of that kind: ``host``, or containers by name.
Sharers = Mapping[str, tuple[str, ...]]


def sharers_of_first(residents: Iterable[Resident]) -> dict[str, Sharers]:
    """Who else is in the namespaces of each container's first process: cheap, and enough to judge the container."""
    residents = list(residents)
    inodes = {pid: process.inodes(pid) for resident in residents for pid in resident.pids[:1]}
    places = {each.name: find_places(each.pids[:1], inodes, _kept(each)) for each in residents}
    occupants = Occupants(places, process.inodes("self"))
    return {
        name: {
            kind: occupants.others(name, kind, next(iter(found[kind])))
            for kind in NAMESPACES
            if kind in found
        }
        for name, found in places.items()
    }


def _kept(resident: Resident) -> list[Namespace]:
    """The network namespace that it keeps, and the user namespace that owns that, and so is kept by it."""
    try:
        return [process.describe(resident.netns, "net"), process.owner(resident.netns)]
    except OSError:  # it has none, or was removed meanwhile
        return []


def _maps(pid: int) -> tuple[Extents, Extents]:
    return process.id_map(pid, "uid"), process.id_map(pid, "gid")


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
