"""The cgroup hierarchies, and whether the kernel tells how much is waited for what they share out."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.checks.finding import Finding, missing, ok, warning

#: Controller, in the words of v2 -> what can't be limited without it.
_CONTROLLERS = {
    "cpu": "cpus, cpu_weight",
    "cpuset": "cpuset",
    "memory": "memory",
    "pids": "pids",
    "io": "io limits",
    "hugetlb": "hugepages",
}


def check() -> Iterator[Finding]:
    """Kind and controllers."""
    from orchestrator.cgroups.host import detect
    from orchestrator.errors import KernelError

    try:
        host = detect()
    except KernelError as error:
        yield missing("cgroups", error.cause or str(error), error.remedy or "mount a cgroup hierarchy")
        return
    except OSError as error:
        yield missing("cgroups", f"{error.filename}: {error.strerror}", "mount a cgroup hierarchy")
        return
    yield from judge(host.kind, host.controllers, host.hierarchies.device_rules, host.pressure_lack)


def judge(
    kind: str, controllers: frozenset[str], device_rules: int | None, pressure_lack: str = ""
) -> Iterator[Finding]:
    """Pure part of :func:`check`.

    :param device_rules: how it is ruled which devices a container may use; None: not at all.
    :param pressure_lack: why no pressure is accounted, with the remedy in parentheses.
    """
    yield ok("cgroups", f"{kind}, controllers {', '.join(sorted(controllers)) or 'none'}")
    if lacking := {name: use for name, use in _CONTROLLERS.items() if name not in controllers}:
        uses = "; ".join(f"{name} ({use})" for name, use in lacking.items())
        where = "cgroup_disable= in /proc/cmdline and the kernel's configuration"
        if kind == "v1":
            where = "mount -t cgroup -o NAME none /sys/fs/cgroup/NAME (io is blkio there)"
        yield warning("cgroup controllers", f"can't be limited: {uses}", f"see {where}")
    if device_rules is None:
        yield warning(
            "device rules",
            "which devices a container opens is not limited: only nodes and capabilities keep it from others",
            "mount v1's devices controller, or use a kernel with CONFIG_CGROUP_BPF and let orch have CAP_BPF",
        )
    if pressure_lack:
        detail, _, remedy = pressure_lack.rstrip(")").partition(" (")
        yield warning("pressure", f"not in stats, and nothing can be done about it: {detail}", remedy)
    else:
        yield ok("pressure", "of processors, memory and disks, for each container")
