"""Limits as the text that goes into the kernel's files: pure.

One function for each controller and version yields the :class:`Setting` of every limit that is set.
Sources: cgroup-v2.rst; cgroup-v1/{memory,cpusets,blkio-controller,pids,hugetlb}.rst; sched-bwc.rst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.cgroups.facts import Facts
from orchestrator.spec import Resources

#: Block device path -> ``major:minor``.
DeviceResolver = Callable[[str], str]

#: Microseconds: the kernel's own default period, the longest one, and the shortest quota (sched-bwc.rst).
PERIOD = 100_000
MAX_PERIOD = 1_000_000
MIN_QUOTA = 1_000
DEFAULT_WEIGHT = 100
MAX_WEIGHT = 10_000
_V1_DEFAULT_SHARES = 1024
_IO_RATES = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}


#: Controller in v2's words -> the fields of Resources that it limits.
FIELDS = {
    "cpu": ("cpus", "cpu_burst", "cpu_weight"),
    "cpuset": ("cpuset", "cpuset_mems"),
    "memory": ("memory", "memory_high", "memory_low", "memory_min", "memory_swap", "oom_group"),
    "pids": ("pids",),
    "io": ("io_weight", "io"),
    "hugetlb": ("hugepages",),
}
_DEFAULTS = Resources()


def wanted(controller: str, resources: Resources) -> list[str]:
    """The fields that ask something of a controller which a service that says nothing does not ask."""
    return [
        name
        for name in FIELDS[controller]
        if getattr(resources, name) not in (None, (), {}, getattr(_DEFAULTS, name))
    ]


@dataclass(frozen=True, slots=True)
class Setting:
    """One limit: what is written where.

    :param directory: key of the cgroup's directory: a v1 controller, or ``unified``.
    :param reset: what is written to be rid of the limit again.
    :param subject: tells settings in the same file apart (a device).
    """

    directory: str
    file: str
    value: str
    reset: str
    subject: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What the setting is about, whatever its value."""
        return self.directory, self.file, self.subject


@dataclass(frozen=True, slots=True)
class Context:
    """What the limits' text depends on besides the limits."""

    facts: Facts
    device: DeviceResolver


def quota_and_period(cpus: float) -> tuple[int, int]:
    """Microseconds of processor time in each period; a small share needs a longer period for its 1 ms."""
    period = PERIOD if cpus * PERIOD >= MIN_QUOTA else min(MAX_PERIOD, math.ceil(MIN_QUOTA / cpus))
    return max(MIN_QUOTA, round(cpus * period)), period


def burst(cpus: float, cpu_burst: float) -> int:
    """Microseconds of unused quota that are kept for later; the kernel takes no more than the quota itself."""
    quota, period = quota_and_period(cpus)
    return min(quota, round(cpu_burst * period))


def cpu_shares(weight: int) -> int:
    """v1's cpu.shares for a weight. In proportion, so that 100 is the kernel's default in both versions and
    twice the weight is twice the time in both (systemd does the same). runc's and crun's formulas, made for
    the other direction, would give a container with the default weight 2.5 times the shares of one without.
    """
    return max(2, min(262_144, weight * _V1_DEFAULT_SHARES // DEFAULT_WEIGHT))


def bfq_weight(weight: int) -> int:
    """BFQ's 1 to 1000, default 100, for an io weight: exact up to 100, the rest squeezed (systemd's rule)."""
    if weight <= DEFAULT_WEIGHT:
        return weight
    return DEFAULT_WEIGHT + (weight - DEFAULT_WEIGHT) * (1000 - DEFAULT_WEIGHT) // (
        MAX_WEIGHT - DEFAULT_WEIGHT
    )


def cfq_weight(weight: int) -> int:
    """blkio.weight's 10 to 1000, default 500, for an io weight."""
    return max(10, min(1000, weight * 500 // DEFAULT_WEIGHT))


def io_weight_text(file: str, weight: int) -> str:
    """What is written to ``file`` (:attr:`Facts.io_weight_file`) for an io weight."""
    if file == "io.weight":
        return f"default {weight}"
    return str(cfq_weight(weight) if file == "blkio.weight" else bfq_weight(weight))


def memory_and_swap(resources: Resources) -> int | None:
    """v1 limits memory and swap together; None when that is not limited, or cannot be said."""
    if resources.memory is None or resources.memory_swap is None:
        return None
    return resources.memory + resources.memory_swap


def _v2_cpu(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.cpus is not None:
        quota, period = quota_and_period(resources.cpus)
        yield Setting("unified", "cpu.max", f"{quota} {period}", f"max {PERIOD}")
        if resources.cpu_burst is not None and context.facts.cpu_burst:
            yield Setting("unified", "cpu.max.burst", str(burst(resources.cpus, resources.cpu_burst)), "0")
    if resources.cpu_weight is not None:
        yield Setting("unified", "cpu.weight", str(resources.cpu_weight), str(DEFAULT_WEIGHT))


def _v1_cpu(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.cpus is not None:
        quota, period = quota_and_period(resources.cpus)
        if period != PERIOD:
            yield Setting("cpu", "cpu.cfs_period_us", str(period), str(PERIOD))
        yield Setting("cpu", "cpu.cfs_quota_us", str(quota), "-1")
        if resources.cpu_burst is not None and context.facts.cpu_burst:
            yield Setting("cpu", "cpu.cfs_burst_us", str(burst(resources.cpus, resources.cpu_burst)), "0")
    if resources.cpu_weight is not None:
        yield Setting("cpu", "cpu.shares", str(cpu_shares(resources.cpu_weight)), str(_V1_DEFAULT_SHARES))


def _v2_cpuset(resources: Resources, context: Context) -> Iterator[Setting]:
    # All that there are, as on v1: an empty list, the parent's, is refused with ENOSPC while processes live in it
    # (validate_change in kernel/cgroup/cpuset.c).
    if resources.cpuset is not None:
        yield Setting("unified", "cpuset.cpus", resources.cpuset, context.facts.cpus)
    if resources.cpuset_mems is not None:
        yield Setting("unified", "cpuset.mems", resources.cpuset_mems, context.facts.mems)


def _v1_cpuset(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.cpuset is not None:
        yield Setting("cpuset", "cpuset.cpus", resources.cpuset, context.facts.cpus)
    if resources.cpuset_mems is not None:
        yield Setting("cpuset", "cpuset.mems", resources.cpuset_mems, context.facts.mems)


def _v2_memory(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.memory is not None:
        yield Setting("unified", "memory.max", str(resources.memory), "max")
    if resources.memory_high is not None:
        yield Setting("unified", "memory.high", str(resources.memory_high), "max")
    if resources.memory_low is not None:
        yield Setting("unified", "memory.low", str(resources.memory_low), "0")
    if resources.memory_min is not None:
        yield Setting("unified", "memory.min", str(resources.memory_min), "0")
    if resources.memory_swap is not None and context.facts.swap_accounting:
        yield Setting("unified", "memory.swap.max", str(resources.memory_swap), "max")
    if resources.oom_group:
        yield Setting("unified", "memory.oom.group", "1", "0")


def _v1_memory(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.memory is not None:
        yield Setting("memory", "memory.limit_in_bytes", str(resources.memory), "-1")
    total = memory_and_swap(resources)
    if total is not None and context.facts.swap_accounting:
        yield Setting("memory", "memory.memsw.limit_in_bytes", str(total), "-1")
    if resources.memory_high is not None:
        yield Setting("memory", "memory.soft_limit_in_bytes", str(resources.memory_high), "-1")


def _v2_pids(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.pids is not None:
        yield Setting("unified", "pids.max", str(resources.pids), "max")


def _v1_pids(resources: Resources, context: Context) -> Iterator[Setting]:
    if resources.pids is not None:
        yield Setting("pids", "pids.max", str(resources.pids), "max")


def _io_weight(directory: str, resources: Resources, context: Context) -> Iterator[Setting]:
    file = context.facts.io_weight_file
    if resources.io_weight is not None and file is not None:
        reset = io_weight_text(file, DEFAULT_WEIGHT)
        yield Setting(directory, file, io_weight_text(file, resources.io_weight), reset)


def _v2_io(resources: Resources, context: Context) -> Iterator[Setting]:
    yield from _io_weight("unified", resources, context)
    for limit in resources.io:
        number = context.device(limit.device)
        for rate, word in _IO_RATES.items():
            value = getattr(limit, rate)
            if value is not None:
                subject = f"{number} {word}"
                yield Setting("unified", "io.max", f"{subject}={value}", f"{subject}=max", subject)


def _v1_io(resources: Resources, context: Context) -> Iterator[Setting]:
    yield from _io_weight("blkio", resources, context)
    for limit in resources.io:
        number = context.device(limit.device)
        for rate in _IO_RATES:
            value = getattr(limit, rate)
            if value is not None:
                yield Setting(
                    "blkio", f"blkio.throttle.{rate}_device", f"{number} {value}", f"{number} 0", number
                )


def _v2_hugetlb(resources: Resources, context: Context) -> Iterator[Setting]:
    for size, count in resources.hugepages.items():
        yield Setting("unified", f"hugetlb.{size}.max", str(count), "max")


def _v1_hugetlb(resources: Resources, context: Context) -> Iterator[Setting]:
    for size, count in resources.hugepages.items():
        yield Setting("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(count), "-1")


_Limiter = Callable[[Resources, Context], Iterator[Setting]]
#: Controller in v2's words -> its limits.
V2: dict[str, _Limiter] = {
    "cpu": _v2_cpu,
    "cpuset": _v2_cpuset,
    "memory": _v2_memory,
    "pids": _v2_pids,
    "io": _v2_io,
    "hugetlb": _v2_hugetlb,
}
V1: dict[str, _Limiter] = {
    "cpu": _v1_cpu,
    "cpuset": _v1_cpuset,
    "memory": _v1_memory,
    "pids": _v1_pids,
    "io": _v1_io,
    "hugetlb": _v1_hugetlb,
}


def changes(old: list[Setting], new: list[Setting]) -> list[tuple[str, str, str]]:
    """(directory, file, text) to write to get from the old settings to the new ones, in an order that works.

    Limits that are gone are reset. v1 refuses a memory limit above the limit of memory and swap at every
    moment, so the latter goes first when it grows and last when it shrinks (cgroup-v1/memory.rst, 5.). A burst
    above the quota is refused likewise (sched-bwc.rst), so that goes first when it shrinks and last when it grows.
    """
    before = {setting.key: setting for setting in old}
    after = {setting.key: setting for setting in new}
    writes = []
    for key in before | after:
        was, now = before.get(key), after.get(key)
        if now is None and was is not None:
            writes.append((was.directory, was.file, was.reset))
        elif now is not None and (was is None or was.value != now.value):
            writes.append((now.directory, now.file, now.value))

    def turn(write: tuple[str, str, str]) -> int:
        key = (*write[:2], "")
        if key[1] == "memory.memsw.limit_in_bytes":
            return -1 if _number(after.get(key), math.inf) >= _number(before.get(key), math.inf) else 1
        if key[1] in ("cpu.max.burst", "cpu.cfs_burst_us"):
            return 1 if _number(after.get(key), 0) > _number(before.get(key), 0) else -1
        return 0

    return sorted(writes, key=turn)


def _number(setting: Setting | None, otherwise: float) -> float:
    return otherwise if setting is None else int(setting.value)
