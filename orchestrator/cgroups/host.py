"""The host's cgroup hierarchies: what kind they are, what they can limit, and the way to one cgroup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.cgroups import limits
from orchestrator.cgroups.facts import Facts, probe
from orchestrator.cgroups.group import Cgroup
from orchestrator.cgroups.hierarchies import Hierarchies, v1_name
from orchestrator.cgroups.mountinfo import parse
from orchestrator.errors import KernelError
from orchestrator.kernel import cgroupfs
from orchestrator.spec import PressureTrigger, Resources
from orchestrator.units import format_duration

#: v1's soft limit is the opposite: the kernel takes back from those that have one (cgroup-v1/memory.rst, 7.).
_NO_PROTECTION = (
    "cgroup v1 protects no memory (boot with systemd.unified_cgroup_hierarchy=1, or leave it out)"
)

_NO_PRESSURE_V1 = (
    "only cgroup v2 accounts pressure (mkdir -p /sys/fs/cgroup/unified && "
    "mount -t cgroup2 none /sys/fs/cgroup/unified)"
)


def detect(mountinfo: str | None = None, facts: Facts | None = None) -> CgroupHost:
    """The host's hierarchies, as /proc/self/mountinfo and the files in their roots tell; changes nothing.

    :param mountinfo: the text to read instead of /proc/self/mountinfo.
    :param facts: what to take for granted instead of looking at the hierarchies.
    :raises KernelError: there is no cgroup hierarchy that containers could be held in.
    """
    found = parse(cgroupfs.read("/proc/self/mountinfo") if mountinfo is None else mountinfo)
    what = "cannot use this host's cgroups"
    if found.unified is None and not found.v1:
        if found.read_only:
            where = ", ".join(found.read_only)
            raise KernelError(what, f"mounted read-only: {where}", "remount them with `mount -o remount,rw`")
        remedy = "mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
        raise KernelError(what, "no cgroup file system is mounted", remedy)
    facts = probe(found) if facts is None else facts
    unified = found.unified if facts.complete_core else None  # without its core files it is of no use
    if unified is None and not found.v1:
        raise KernelError(what, "the kernel's cgroup v2 lacks cgroup.kill", "use Linux 5.14 or later")
    if unified is None and "freezer" not in found.v1:
        remedy = "mount it with `mount -t cgroup -o freezer none /sys/fs/cgroup/freezer`"
        raise KernelError(what, "the v1 freezer hierarchy is not mounted, and no v2 one can be used", remedy)
    return CgroupHost(Hierarchies(v1=found.v1, unified=unified, facts=facts))


@dataclass(frozen=True, slots=True)
class CgroupHost:
    """The cgroup hierarchies of this host."""

    hierarchies: Hierarchies

    @property
    def kind(self) -> Literal["v1", "v2", "hybrid"]:
        """``hybrid``: controllers on v1, and a v2 hierarchy beside them that holds every container too."""
        if self.hierarchies.unified is None:
            return "v1"
        return "hybrid" if self.hierarchies.v1 else "v2"

    @property
    def controllers(self) -> frozenset[str]:
        """What can be limited, in the words of v2: ``cpu``, ``io``, ..."""
        return frozenset(self.hierarchies.versions)

    @property
    def pressure_lack(self) -> str:
        """Why it is not known how much containers wait for processors, memory and disks; "" when it is."""
        if self.hierarchies.unified is None:
            return _NO_PRESSURE_V1
        return self.hierarchies.facts.pressure_lack

    def group(self, path: str) -> Cgroup:
        """The cgroup (whether it exists or not) at a path such as ``orch-ab12cd34/shop/api/1``.

        :raises ValueError: for a path that is absolute, or has empty, ``.`` or ``..`` parts.
        """
        return Cgroup(self.hierarchies, path)

    def unsupported(
        self, resources: Resources, device: limits.DeviceResolver = cgroupfs.device_number
    ) -> list[str]:
        """Why each limit that this host cannot set cannot be set, and the remedy; [] when all can.

        Starting a container all the same leaves those limits out.
        """
        return list(self._unsupported(resources, device))

    def unwatchable(self, trigger: PressureTrigger) -> str:
        """Why pressure cannot be watched so on this host, and the remedy; "" when it can."""
        if self.pressure_lack:
            return self.pressure_lack
        match self.hierarchies.facts.pressure_windows:
            case "none":
                return (
                    "the kernel lets nobody watch pressure without CAP_SYS_RESOURCE (use Linux 6.4 or later)"
                )
            case "even" if trigger.window % 2:
                window = format_duration(trigger.window)
                return f"a window of {window} takes CAP_SYS_RESOURCE, which orch lacks (2s, 4s, ... do not)"
        return ""

    def ineffective(self, resources: Resources) -> list[str]:
        """Limits that the kernel takes but that do less than their name says here, and the remedy."""
        notes = []
        versions, facts = self.hierarchies.versions, self.hierarchies.facts
        if resources.io_weight is not None and facts.io_weight_file and not facts.io_weight_works:
            wanted = "io.cost.qos enabled" if facts.io_weight_file == "io.weight" else "the bfq scheduler"
            remedy = (
                "" if facts.io_weight_file == "io.weight" else " (echo bfq > /sys/block/DISK/queue/scheduler)"
            )
            notes.append(f"io_weight: no disk has {wanted}{remedy}")
        if resources.memory_high is not None and versions.get("memory") == 1:
            notes.append("memory_high: with cgroup v1 it only matters while the host is short of memory")
        if resources.oom_group and versions.get("memory") == 1:
            notes.append(
                "oom_group: with cgroup v1 orch kills the others, a moment after the kernel killed one"
            )
        if versions.get("io") == 1 and any(limit.write_bps or limit.write_iops for limit in resources.io):
            notes.append("io: with cgroup v1 writes through the page cache are not limited, only direct ones")
        return notes

    def _unsupported(self, resources: Resources, device: limits.DeviceResolver) -> Iterator[str]:
        facts, versions = self.hierarchies.facts, self.hierarchies.versions
        for controller in limits.FIELDS:
            if controller not in versions:
                for name in limits.wanted(controller, resources):
                    yield f"{name}: {self._missing(controller)}"
        if "cpu" in versions and resources.cpus is not None and resources.cpus < 0.001:
            yield f"cpus: {resources.cpus:g} is less than the kernel's least share, 0.001"
        if "cpu" in versions and resources.cpu_burst is not None and not facts.cpu_burst:
            yield "cpu_burst: the kernel keeps no unused processor time (use Linux 5.14 or later)"
        if "cpuset" in versions:
            if resources.cpuset is not None:
                yield from _list_problem("cpuset", "processor", resources.cpuset, facts.cpus)
            if resources.cpuset_mems is not None:
                yield from _list_problem("cpuset_mems", "memory node", resources.cpuset_mems, facts.mems)
        if versions.get("memory") == 1:
            for name in ("memory_low", "memory_min"):
                if getattr(resources, name) is not None:
                    yield f"{name}: {_NO_PROTECTION}"
        if "memory" in versions and resources.memory_swap is not None:
            if not facts.swap_accounting:
                yield "memory_swap: the kernel does not account swap (boot with swapaccount=1)"
            elif versions["memory"] == 1 and resources.memory is None:
                yield "memory_swap: cgroup v1 limits memory and swap together (set memory as well)"
        if "io" in versions:
            if resources.io_weight is not None and facts.io_weight_file is None:
                yield "io_weight: the kernel has no weights for disks (it needs the bfq scheduler: modprobe bfq)"
            for limit in resources.io:
                yield from _device_problem(limit.device, device)
        if "hugetlb" in versions:
            sizes = ", ".join(sorted(facts.hugepage_sizes)) or "none"
            for size in resources.hugepages:
                if size not in facts.hugepage_sizes:
                    yield f"hugepages.{size}: this host has no such page size (it has {sizes})"

    def _missing(self, controller: str) -> str:
        if self.kind == "v2":
            where = f"{self.hierarchies.unified}/cgroup.controllers"
            return (
                f"the cgroup controller {controller} is not in {where} (see cgroup_disable= in /proc/cmdline)"
            )
        name = v1_name(controller)
        mount = f"mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} none /sys/fs/cgroup/{name}"
        return f"the cgroup controller {name} is not mounted ({mount})"


def _list_problem(name: str, what: str, wanted: str, present: str) -> Iterator[str]:
    try:
        lacking = parse_list(wanted) - parse_list(present)
    except ValueError:
        yield f"{name}: {wanted!r} is not a list of {what}s (write it like 0-1,3)"
        return
    if lacking:
        yield f"{name}: this host has no {what} {', '.join(map(str, sorted(lacking)))} (it has {present})"


def _device_problem(path: str, device: limits.DeviceResolver) -> Iterator[str]:
    try:
        number = device(path)
    except OSError as error:
        yield f"io: {path}: {error.strerror} (name a whole disk, like /dev/vda)"
        return
    if cgroupfs.is_partition(number):
        yield f"io: {path} is a partition (the kernel limits whole disks only)"


def parse_list(text: str) -> set[int]:
    """The numbers in the kernel's list format, ``0-1,3`` (cpuset(7), "List format").

    :raises ValueError: for anything else.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if low > high or high >= 1 << 16:
            raise ValueError(text)
        numbers.update(range(low, high + 1))
    return numbers
