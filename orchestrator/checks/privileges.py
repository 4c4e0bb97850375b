"""What this process may do."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.checks.finding import Finding, missing, ok, text_of, warning

#: Capability -> number (linux/capability.h) and what it is for; without these there is no container.
NEEDED = {
    "CAP_CHOWN": (0, "giving files to the users of containers"),
    "CAP_DAC_OVERRIDE": (1, "reaching files whoever owns them"),
    "CAP_FOWNER": (3, "setting modes of files whoever owns them"),
    "CAP_KILL": (5, "stopping containers that run as another user"),
    "CAP_SETGID": (6, "running as another group"),
    "CAP_SETUID": (7, "running as another user"),
    "CAP_SETPCAP": (8, "limiting what containers may do"),
    "CAP_NET_ADMIN": (12, "networks"),
    "CAP_SYS_CHROOT": (18, "entering a container's file system"),
    "CAP_SYS_PTRACE": (19, "entering a container's namespaces (exec)"),
    "CAP_SYS_ADMIN": (21, "namespaces and mounts"),
    "CAP_MKNOD": (27, "making /dev/null and the like"),
}
#: Without these, something doesn't work.
USEFUL = {
    "CAP_SYS_RESOURCE": (
        24,
        "ulimits above orch's own hard limits, oom_score_adj below its own, pressure in other windows than of 2s",
    ),
    "CAP_NET_BIND_SERVICE": (10, "keeping published ports below 1024"),
}


def check() -> Iterator[Finding]:
    """Root, capabilities, seccomp filters on this process."""
    status = dict(
        line.split(":\t", 1) for line in (text_of("/proc/self/status") or "").splitlines() if ":\t" in line
    )
    return judge(os.geteuid(), int(status.get("CapEff", "0"), 16), status.get("Seccomp", "0"))


def judge(euid: int, effective: int, seccomp: str) -> Iterator[Finding]:
    """Pure part of :func:`check`.

    :param effective: mask of effective capabilities.
    :param seccomp: mode of /proc/PID/status (proc(5)); 2 is a filter.
    """
    if euid != 0:
        yield missing(
            "root", f"orch runs as user {euid}, and makes containers as root only", "run it with sudo"
        )
        return
    yield ok("root", "yes")
    lacking = {name: use for name, (number, use) in NEEDED.items() if not effective >> number & 1}
    unable = {name: use for name, (number, use) in USEFUL.items() if not effective >> number & 1}
    remedy = "run orch outside a container, or in one with these capabilities (--cap-add, or --privileged)"
    if lacking:
        yield missing("capabilities", f"lacks {_list(lacking)}", remedy)
    if unable:
        yield warning("capabilities", f"doesn't work: {_list(unable)}", remedy)
    if not lacking and not unable:
        yield ok("capabilities", "all that are needed")
    if seccomp == "2":
        detail = "a seccomp filter is on this process, as in a container; it may refuse mounts and namespaces"
        yield warning(
            "seccomp filter",
            detail,
            "run orch outside a container, or with --security-opt seccomp=unconfined",
        )


def _list(uses: dict[str, str]) -> str:
    return ", ".join(f"{name} ({use})" for name, use in uses.items())
