"""What of a project cannot work on this host, though its manifest is sound.

Pure reading, and quick; only :func:`port_problems` touches the network, and only to see whether a port is
free. It is apart since a project that runs already holds its own ports: ask it for new ones only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from orchestrator import devices
from orchestrator.manifest.values import cpus_of
from orchestrator.spec import Port, ProjectSpec, ServiceSpec

_ONLINE = "/sys/devices/system/cpu/online"


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
    """Limits, folders and devices that this host does not have."""
    online = _online_cpus()
    return [
        HostProblem(service.name, keys, text)
        for service in project.services.values()
        for check in (
            _cpu_problems(service, online),
            _path_problems(service),
            _disk_problems(service),
            _device_problems(service),
        )
        for keys, text in check
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


def _online_cpus() -> set[int]:
    try:
        with open(_ONLINE) as file:
            return cpus_of(file.read().strip())
    except (OSError, ValueError):
        return set(range(os.cpu_count() or 1))


def _cpu_problems(service: ServiceSpec, online: set[int]) -> _Found:
    resources = service.resources
    if resources.cpus is not None and resources.cpus > len(online):
        yield (
            ("resources", "cpus"),
            f"{resources.cpus:g} is more than this host has (from 0.01 to {len(online)})",
        )
    if resources.cpuset is not None and (absent := cpus_of(resources.cpuset) - online):
        names = ", ".join(map(str, sorted(absent)[:8]))
        yield ("resources", "cpuset"), f"this host has no CPU {names} (online: {_list_format(online)})"


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
