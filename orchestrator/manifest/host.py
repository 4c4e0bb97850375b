"""What of a project cannot work on this host, though its manifest is sound.

Pure reading, and quick; only :func:`port_problems` touches the network, and only to see whether a port is
free. It is apart since a project that runs already holds its own ports: ask it for new ones only.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator import devices
from orchestrator.lsm.host import problems as lsm_problems
from orchestrator.manifest.values import ULIMITS, numbers_of
from orchestrator.spec import Port, ProjectSpec, ServiceSpec

_CPUS = "/sys/devices/system/cpu/online"
_NODES = "/sys/devices/system/node/online"


class HostProblem(NamedTuple):
    """Something that this host lacks.

    :ivar keys: the field of the service's spec, and the index in it where there is one: ``("mounts", 0)``.
    """

    service: str
    keys: tuple[str | int, ...]
    text: str

    def __str__(self) -> str:
        return f"services.{self.service}.{'.'.join(map(str, self.keys))}: {self.text}"


def host_problems(project: ProjectSpec) -> list[HostProblem]:
    """Limits, folders, devices and security modules that this host does not have."""
    cpus = _online(_CPUS, os.cpu_count() or 1)
    nodes = _online(_NODES, 1)
    return [
        HostProblem(service.name, keys, text)
        for service in project.services.values()
        for check in (
            _cpu_problems(service, cpus, nodes),
            _path_problems(service),
            _disk_problems(service),
            _device_problems(service),
            lsm_problems(service),
        )
        for keys, text in check
    ]


def limit_problems(project: ProjectSpec, pid: Callable[[], int | None] = os.getpid) -> list[HostProblem]:
    """What is asked of ``ulimits`` and ``oom_score_adj`` beyond what the service may give.

    :param pid: tells the process that the service is, or that will start it; None when nobody knows. It is called
        only if there is something to see.
    """
    if not any(s.ulimits or s.oom_score_adj is not None for s in project.services.values()):
        return []
    if (process := pid()) is None:
        return []
    own = _Own.of(process)
    return [
        HostProblem(service.name, keys, text)
        for service in project.services.values()
        for keys, text in own.problems(service)
    ]


def port_problems(ports: Iterable[tuple[str, int, Port]]) -> list[HostProblem]:
    """The published ports that something on this host has taken, seen by binding to them for a moment.

    :param ports: (service, index in its ``ports``, port); those with ``published`` 0 are skipped.
    """
    import socket  # load, which every client command passes through, does without it

    problems = []
    for service, index, port in ports:
        if not port.published:
            continue
        kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as probe:
            if port.protocol == "tcp":  # a listener that has gone leaves connections in TIME_WAIT: socket(7)
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host_ip, port.published))
            except OSError as error:
                text = f"cannot publish {port.host_ip}:{port.published}/{port.protocol}: {error.strerror}"
                if error.errno == errno.EADDRINUSE:
                    text += " (stop the program that has it, or publish another port)"
                problems.append(HostProblem(service, ("ports", index), text))
    return problems


_Found = Iterator[tuple[tuple[str | int, ...], str]]
_CAP_SYS_RESOURCE = 24  # linux/capability.h
_PRIVILEGE = "going beyond its own takes CAP_SYS_RESOURCE, which orch lacks here"


@dataclass(frozen=True, slots=True)
class _Own:
    """What a process has, and so may give.

    :ivar hard: hard limits that bound it, by name; those that it may raise at will are not there.
    :ivar files: the most descriptors that anybody may have (fs.nr_open).
    """

    hard: dict[str, int]
    oom_score_adj: int
    files: int

    @classmethod
    def of(cls, pid: int) -> _Own:
        """What process ``pid`` has."""
        import resource  # load, which every client command passes through, does without it

        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
        with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
            files = int(file.read())
        if effective >> _CAP_SYS_RESOURCE & 1:
            return cls({}, -1000, files)
        numbers = {name: getattr(resource, f"RLIMIT_{name.upper()}", None) for name in ULIMITS}
        hard = {
            name: resource.prlimit(pid, number)[1] for name, number in numbers.items() if number is not None
        }
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
            adjustment = int(file.read())
        return cls({name: limit for name, limit in hard.items() if limit != -1}, adjustment, files)

    def problems(self, service: ServiceSpec) -> _Found:
        """What a service asks beyond it."""
        for name, limit in service.ulimits.items():
            asked = math.inf if limit.hard == -1 else limit.hard
            what = "unlimited" if limit.hard == -1 else f"a hard limit of {limit.hard}"
            if name == "nofile" and asked > self.files:
                yield ("ulimits", name), f"{what} is above what the kernel allows, fs.nr_open = {self.files}"
            elif name in self.hard and asked > self.hard[name]:
                text = f"{what} is above the service's own hard limit, {self.hard[name]} ({_PRIVILEGE})"
                yield ("ulimits", name), text
        if service.oom_score_adj is not None and service.oom_score_adj < self.oom_score_adj:
            text = f"{service.oom_score_adj} is below the service's own, {self.oom_score_adj} ({_PRIVILEGE})"
            yield ("oom_score_adj",), text


def _online(path: str, count: int) -> set[int]:
    try:
        with open(path) as file:
            return numbers_of(file.read().strip())
    except (OSError, ValueError):
        return set(range(count))


def _cpu_problems(service: ServiceSpec, online: set[int], nodes: set[int]) -> _Found:
    resources = service.resources
    if resources.cpus is not None and resources.cpus > len(online):
        yield (
            ("resources", "cpus"),
            f"{resources.cpus:g} is more than this host has (from 0.01 to {len(online)})",
        )
    for key, what, there in (("cpuset", "CPU", online), ("cpuset_mems", "memory node", nodes)):
        wanted = getattr(resources, key)
        if wanted is not None and (absent := numbers_of(wanted) - there):
            names = ", ".join(map(str, sorted(absent)[:8]))
            yield ("resources", key), f"this host has no {what} {names} (online: {_list_format(there)})"


def _path_problems(service: ServiceSpec) -> _Found:
    if service.image.startswith("dir:"):
        folder = service.image.removeprefix("dir:")
        if not os.path.isdir(folder):
            found = "is not a folder" if os.path.exists(folder) else "does not exist"
            yield ("image",), f'"{folder}" {found} (a folder with a root file system)'
    for index, mount in enumerate(service.mounts):
        if mount.type != "bind":
            continue
        if not mount.create and not os.path.lexists(mount.source):
            yield ("mounts", index), f'"{mount.source}" does not exist (make it, or add create = true)'


def _disk_problems(service: ServiceSpec) -> _Found:
    for index, limit in enumerate(service.resources.io):
        try:
            mode = os.stat(limit.device).st_mode
        except OSError as error:
            yield ("resources", "io", index), f'"{limit.device}": {error.strerror}'
            continue
        if not stat.S_ISBLK(mode):
            yield ("resources", "io", index), f'"{limit.device}" is not a block device'


def _device_problems(service: ServiceSpec) -> _Found:
    for index, device in enumerate(service.devices):
        try:
            devices.find(device)
        except ValueError as error:
            yield ("devices", index), str(error)
        except OSError as error:
            remedy = "load the driver that makes it, or leave it out"
            yield ("devices", index), f'"{device.source}": {error.strerror} ({remedy})'


def _list_format(cpus: set[int]) -> str:
    """CPUs in the kernel's list format."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
