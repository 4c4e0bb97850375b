"""Limits of the host that many containers run into."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from orchestrator.checks.finding import Finding, number_of, ok, text_of, warning
from orchestrator.units import format_size

#: orch itself keeps about 12 descriptors for a container: log, pipes, pidfds, cgroup watches.
_DESCRIPTORS_EACH = 12
_MANY_CONTAINERS = 500
#: sysctl -> from which value it is enough for some hundreds of containers, and what runs out below.
_ENOUGH = {
    "kernel.pid_max": (32768, "process ids"),
    "kernel.threads-max": (32768, "threads"),
    "fs.file-max": (100_000, "open files of all processes"),
    "fs.inotify.max_user_instances": (512, "inotify instances (all containers' root share them)"),
    "fs.inotify.max_user_watches": (65536, "inotify watches (all containers' root share them)"),
    "kernel.keys.root_maxkeys": (10_000, "kernel keyrings"),
}
_LEAST_MEMORY = 256 << 20


def check() -> Iterator[Finding]:
    """All of it."""
    yield descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE))
    for name, (enough, what) in _ENOUGH.items():
        value = number_of(f"/proc/sys/{name.replace('.', '/')}")
        if value is not None:
            yield sysctl(name, value, enough, what)
    yield memory(text_of("/proc/meminfo") or "")


def descriptors(soft: int, hard: int) -> Finding:
    """RLIMIT_NOFILE; the service raises its soft limit to the hard one."""
    if hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS_EACH * _MANY_CONTAINERS:
        return ok("open files", f"at most {_amount(hard)} for the service")
    detail = f"at most {hard} for the service: enough for about {hard // _DESCRIPTORS_EACH} containers"
    return warning(
        "open files", detail, "LimitNOFILE=65536 in the service's unit, or `ulimit -Hn 65536` before it"
    )


def sysctl(name: str, value: int, enough: int, what: str) -> Finding:
    """One kernel parameter."""
    if value >= enough:
        return ok(name, _amount(value))
    return warning(name, f"{value}: many containers will run out of {what}", f"sysctl -w {name}={2 * enough}")


def memory(meminfo: str) -> Finding:
    """Available memory, from the text of /proc/meminfo (proc(5))."""
    values = {line.split(":")[0]: line.split()[1] for line in meminfo.splitlines() if line.count(":") == 1}
    available, total = (int(values.get(name, "0")) << 10 for name in ("MemAvailable", "MemTotal"))
    detail = f"{format_size(available)} of {format_size(total)} available"
    if available < _LEAST_MEMORY:
        return warning("memory", f"only {detail}", "stop something, or add memory")
    return ok("memory", detail)


def _amount(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY or value >= 1 << 62 else str(value)
