"""The kernel: system calls by trying them, namespaces, security modules."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
from collections.abc import Iterator

from orchestrator.checks.finding import Finding, missing, number_of, ok, text_of, warning
from orchestrator.checks.trial import attempt
from orchestrator.runtime.userns import ACCOUNT, RANGE, host_ranges

#: System call -> number (the same on all machines since Linux 5.0) and the first Linux that has it.
_CALLS = {
    "open_tree": (428, "5.2"),
    "move_mount": (429, "5.2"),
    "pidfd_open": (434, "5.3"),
    "clone3": (435, "5.3"),
    "close_range": (436, "5.9"),
    "openat2": (437, "5.6"),
    "mount_setattr": (442, "5.12"),
}
_CONTAINER_NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
_LATER_NAMESPACES = {"user": "CONFIG_USER_NS", "time": "CONFIG_TIME_NS"}
#: Each container has one of each of its namespaces, and the kernel counts them per user.
_MANY_NAMESPACES = 1000
_MANY_RANGES = 100


def check() -> Iterator[Finding]:
    """All of it."""
    yield ok("kernel", f"Linux {os.uname().release} ({os.uname().machine})")
    yield _system_calls()
    yield from _namespaces()
    yield _ids()
    yield _seccomp()
    yield _libseccomp()


def _system_calls() -> Finding:
    absent = [f"{name} (Linux {since})" for name, (number, since) in _CALLS.items() if not exists(number)]
    if absent:
        return missing(
            "system calls", f"lacks {', '.join(absent)}", "use Linux 5.14 or later, and no seccomp filter"
        )
    return ok("system calls", ", ".join(_CALLS))


def exists(number: int) -> bool:
    """Whether the kernel has a system call. It is called with arguments that it must refuse.

    (-1 is no valid descriptor, pointer or size for any of them.) For root, EPERM is the answer of a seccomp filter.
    """
    invalid = ctypes.c_long(-1)
    ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(number), invalid, invalid, invalid, invalid, invalid
    )
    refused = {errno.ENOSYS, errno.EPERM} if os.geteuid() == 0 else {errno.ENOSYS}
    return ctypes.get_errno() not in refused


def _namespaces() -> Iterator[Finding]:
    try:
        present = set(os.listdir("/proc/self/ns"))
    except OSError as error:
        yield missing("namespaces", f"/proc/self/ns: {error.strerror}", "mount -t proc proc /proc")
        return
    absent = [name for name in _CONTAINER_NAMESPACES if name not in present]
    if absent:
        remedy = f"use a kernel with {', '.join(f'CONFIG_{_option(name)}_NS' for name in absent)}"
        yield missing("namespaces", f"lacks {', '.join(absent)}", remedy)
    elif os.geteuid() != 0:
        yield warning("namespaces", "not tried without root", "run `orch doctor` with sudo")
    elif failure := attempt("namespaces"):
        yield missing("namespaces", failure, "run orch outside a container, or in a privileged one")
    else:
        yield ok("namespaces", ", ".join(_CONTAINER_NAMESPACES))
    limits = {name: number_of(f"/proc/sys/user/max_{name}_namespaces") for name in _CONTAINER_NAMESPACES}
    if low := {
        name: limit for name, limit in limits.items() if limit is not None and limit < _MANY_NAMESPACES
    }:
        detail = ", ".join(f"at most {limit} {name} namespaces" for name, limit in low.items())
        remedy = f"sysctl -w {' '.join(f'user.max_{name}_namespaces=100000' for name in low)}"
        yield (missing if 0 in low.values() else warning)("namespace limits", detail, remedy)
    for name, option in _LATER_NAMESPACES.items():
        if name not in present:
            yield warning(f"{name} namespaces", "the kernel has none", f"use a kernel with {option}")
        elif number_of(f"/proc/sys/user/max_{name}_namespaces") == 0:
            yield warning(f"{name} namespaces", "turned off", f"sysctl -w user.max_{name}_namespaces=100000")
        else:
            yield ok(f"{name} namespaces", "yes")


def _ids() -> Finding:
    """How many containers can have ids of their own."""
    firsts = host_ranges()
    remedy = f"give {ACCOUNT} some in /etc/subuid and /etc/subgid: {ACCOUNT}:1879048192:65536000"
    if not firsts:
        return warning("ids", "no range is left for containers, so they have the host's ids", remedy)
    detail = f"for {len(firsts)} containers, {RANGE} each, from {min(firsts)} on"
    return ok("ids", detail) if len(firsts) >= _MANY_RANGES else warning("ids", detail, remedy)


def _option(name: str) -> str:
    return {"mnt": "NAMESPACES and CONFIG_MNT", "cgroup": "CGROUPS and CONFIG_CGROUP"}.get(name, name.upper())


def _seccomp() -> Finding:
    if text_of("/proc/sys/kernel/seccomp/actions_avail") is not None:
        return ok("seccomp", "yes")
    return missing(
        "seccomp",
        "the kernel can't filter system calls",
        'use a kernel with CONFIG_SECCOMP_FILTER; or, less safe, seccomp = "unconfined" for every service',
    )


def _libseccomp() -> Finding:
    remedy = "install libseccomp 2.5 or later (Debian: libseccomp2)"
    version = _libseccomp_version()
    if version is None:
        return missing("libseccomp", "not found; it compiles the containers' filters of system calls", remedy)
    text = ".".join(map(str, version))
    return (
        ok("libseccomp", text) if version >= (2, 5) else missing("libseccomp", f"{text} is too old", remedy)
    )


def _libseccomp_version() -> tuple[int, ...] | None:
    """That of the library, which is found as pyseccomp finds it; None when there is none."""
    name = ctypes.util.find_library("seccomp")
    if name is None:
        return None
    version = ctypes.CDLL(name).seccomp_version
    version.restype = ctypes.POINTER(ctypes.c_uint * 3)  # struct scmp_version, seccomp_version(3)
    return tuple(version().contents)
