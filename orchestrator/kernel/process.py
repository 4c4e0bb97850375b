"""What the kernel says of a process: its privileges, the ids it has, and its namespaces (proc(5), ioctl_ns(2))."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.kernel.syscalls import owning_user_namespace, parent_namespace

#: Names of capabilities(7)'s sets, and of their lines in /proc/PID/status.
_SETS = {
    "effective": "CapEff", "permitted": "CapPrm", "inheritable": "CapInh", "bounding": "CapBnd", "ambient": "CapAmb",
}  # fmt: skip
#: Modes of seccomp(2), in the order of their numbers.
_SECCOMP = ("none", "strict", "filter")
#: The namespaces of a process, in the order in which people are told of them.
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")

#: First id inside, first id outside, how many.
Extents = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Privileges:
    """What a process may do.

    :param capabilities: each of the five sets -> its bit mask.
    :param seccomp: ``none``, ``strict`` or ``filter``.
    """

    capabilities: dict[str, int]
    no_new_privileges: bool
    seccomp: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace.

    :param owner: inode number of the user namespace that owns it; None when it is not to be seen from here.
    :param parent: the same of its parent; pid and user namespaces only.
    """

    kind: str
    inode: int
    owner: int | None = None
    parent: int | None = None


def privileges(pid: int | str) -> Privileges:
    """What /proc/PID/status says of a process's privileges; a kernel without seccomp says nothing of it."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return parse_status(file.read())


def parse_status(text: str) -> Privileges:
    """Pure part of :func:`privileges`."""
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return Privileges(
        {name: int(lines[field], 16) for name, field in _SETS.items()},
        lines["NoNewPrivs"] == "1",
        _SECCOMP[int(lines.get("Seccomp", "0"))],
    )


def id_map(pid: int | str, kind: str) -> Extents:
    """A process's ``uid`` or ``gid`` map, as this process counts ids outside (user_namespaces(7))."""
    with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as file:
        return tuple(
            (first, other, count) for first, other, count in (map(int, line.split()) for line in file)
        )


def inodes(pid: int | str) -> dict[str, int]:
    """Kind -> inode number of a process's namespaces; {} when it is gone. A zombie has few of them."""
    found = {}
    for kind in NAMESPACES:
        try:
            found[kind] = os.stat(f"/proc/{pid}/ns/{kind}").st_ino
        except OSError:
            continue
    return found


def namespace(pid: int | str, kind: str) -> Namespace:
    """One of a process's namespaces."""
    fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return describe(fd, kind)
    finally:
        os.close(fd)


def describe(fd: int, kind: str) -> Namespace:
    """The namespace that ``fd`` is open on."""
    return Namespace(
        kind,
        os.fstat(fd).st_ino,
        _inode(owning_user_namespace, fd),
        _inode(parent_namespace, fd) if kind in ("pid", "user") else None,
    )


def owner(fd: int) -> Namespace:
    """The user namespace that owns the namespace which ``fd`` is open on."""
    found = owning_user_namespace(fd)
    try:
        return describe(found, "user")
    finally:
        os.close(found)


def _inode(relative: Callable[[int], int], fd: int) -> int | None:
    """EPERM: it is above our own, and none of our business (ioctl_ns(2))."""
    try:
        found = relative(fd)
    except PermissionError:
        return None
    try:
        return os.fstat(found).st_ino
    finally:
        os.close(found)
