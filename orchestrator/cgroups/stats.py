"""What a cgroup has used: one reading of the kernel's counters, the same words for v1 and v2."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from orchestrator.kernel import cgroupfs

#: v1 says "no limit" with the largest number of whole pages below 2**63, whatever the page size.
_V1_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much of the time tasks waited for one resource (accounting/psi.rst): ``some``: at least one did; ``full``:
    none could go on. ``avg10`` is in percent of the last ten seconds.
    """

    some_avg10: float
    some_seconds: float
    full_avg10: float
    full_seconds: float


#: What the kernel accounts the pressure of.
PRESSURES = ("cpu", "memory", "io")


@dataclass(frozen=True, slots=True)
class CgroupStats:
    """Use of resources; counters are since the cgroup was made. A controller that is missing counts 0.

    :param memory: bytes without the inactive file cache, as ``docker stats`` counts.
    :param memory_peak: bytes, with all file cache; None where the kernel does not keep it (v2 before 5.19).
    :param swap: bytes that are swapped out; None where the kernel does not count them.
    :param pids_refused: how often a process or thread was not made since there were as many as may be.
    :param pressure: resource -> how much was waited for it; empty where the kernel does not account it.
    :param io_read_bytes: from block devices, page cache hits not counted; with v1 see
        :meth:`orchestrator.cgroups.group.Cgroup.enable_io_accounting`.
    """

    cpu_seconds: float = 0.0
    cpu_throttled_seconds: float = 0.0
    memory: int = 0
    memory_peak: int | None = None
    memory_limit: int | None = None
    pids: int = 0
    pids_limit: int | None = None
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    oom_kills: int = 0
    swap: int | None = None
    pids_refused: int = 0
    pressure: dict[str, Pressure] = field(default_factory=dict)


def read_stats(directories: dict[str, str], versions: dict[str, int], pressure: bool = False) -> CgroupStats:
    """Read the counters.

    :param directories: v1 controller or ``unified`` -> directory of the cgroup.
    :param versions: controller -> 1 or 2.
    :param pressure: whether the v2 hierarchy accounts it.
    :raises OSError: the cgroup is not there.
    """
    used, throttled = _cpu(directories, versions.get("cpu"))
    memory, peak, limit, swap = _memory(directories, versions.get("memory"))
    pids, pids_limit, refused = _pids(directories, versions.get("pids"))
    io_read, io_written = _io(directories, versions.get("io"))
    return CgroupStats(
        cpu_seconds=used,
        cpu_throttled_seconds=throttled,
        memory=memory,
        memory_peak=peak,
        memory_limit=limit,
        pids=pids,
        pids_limit=pids_limit,
        io_read_bytes=io_read,
        io_write_bytes=io_written,
        oom_kills=read_oom_kills(directories, versions.get("memory")),
        swap=swap,
        pids_refused=refused,
        pressure=read_pressure(directories["unified"]) if pressure else {},
    )


def read_pressure(directory: str) -> dict[str, Pressure]:
    """How much has been waited for each resource in a cgroup of the v2 hierarchy.

    :raises OSError: the cgroup is not there.
    """
    return {name: parse_pressure(cgroupfs.read(f"{directory}/{name}.pressure")) for name in PRESSURES}


def read_oom_kills(directories: dict[str, str], version: int | None) -> int:
    """How many processes of the cgroup the kernel killed for want of memory, its own limit's or the host's."""
    if version is None:
        return 0
    file = (
        f"{directories['unified']}/memory.events"
        if version == 2
        else f"{directories['memory']}/memory.oom_control"
    )
    return cgroupfs.flat_keyed(cgroupfs.read(file)).get("oom_kill", 0)


def _cpu(directories: dict[str, str], version: int | None) -> tuple[float, float]:
    used = throttled = 0.0
    if unified := directories.get("unified"):
        # v2 counts time in every cgroup, even when the cpu controller is on v1 (cgroup-v2.rst, "CPU").
        numbers = cgroupfs.flat_keyed(cgroupfs.read(f"{unified}/cpu.stat"))
        used, throttled = numbers["usage_usec"] / 1e6, numbers.get("throttled_usec", 0) / 1e6
    elif cpuacct := directories.get("cpuacct"):
        used = int(cgroupfs.read(f"{cpuacct}/cpuacct.usage")) / 1e9
    if version == 1:
        throttled = (
            cgroupfs.flat_keyed(cgroupfs.read(f"{directories['cpu']}/cpu.stat"))["throttled_time"] / 1e9
        )
    return used, throttled


def _memory(
    directories: dict[str, str], version: int | None
) -> tuple[int, int | None, int | None, int | None]:
    if version is None:
        return 0, None, None, None
    peak = swap = None
    if version == 2:
        base = f"{directories['unified']}/memory"
        current, cache = int(cgroupfs.read(f"{base}.current")), "inactive_file"
        limit = number_or_max(cgroupfs.read(f"{base}.max"))
        with contextlib.suppress(FileNotFoundError):
            peak = int(cgroupfs.read(f"{base}.peak"))
        with contextlib.suppress(FileNotFoundError):
            swap = int(cgroupfs.read(f"{base}.swap.current"))
    else:
        base = f"{directories['memory']}/memory"
        current, cache = int(cgroupfs.read(f"{base}.usage_in_bytes")), "total_inactive_file"
        limit = number_or_max(cgroupfs.read(f"{base}.limit_in_bytes"))
        peak = int(cgroupfs.read(f"{base}.max_usage_in_bytes"))
        with contextlib.suppress(FileNotFoundError):  # both together, as v1 has it
            swap = max(0, int(cgroupfs.read(f"{base}.memsw.usage_in_bytes")) - current)
    reclaimable = cgroupfs.flat_keyed(cgroupfs.read(f"{base}.stat")).get(cache, 0)
    return max(0, current - reclaimable), peak, limit, swap


def _pids(directories: dict[str, str], version: int | None) -> tuple[int, int | None, int]:
    if version is None:
        return 0, None, 0
    base = directories["unified" if version == 2 else "pids"]
    refused = cgroupfs.flat_keyed(cgroupfs.read(f"{base}/pids.events")).get("max", 0)
    limit = number_or_max(cgroupfs.read(f"{base}/pids.max"))
    return int(cgroupfs.read(f"{base}/pids.current")), limit, refused


def _io(directories: dict[str, str], version: int | None) -> tuple[int, int]:
    if version is None:
        return 0, 0
    with contextlib.suppress(FileNotFoundError):  # a kernel without CONFIG_BLK_DEV_THROTTLING
        if version == 2:
            return parse_io_stat(cgroupfs.read(f"{directories['unified']}/io.stat"))
        file = f"{directories['blkio']}/blkio.throttle.io_service_bytes_recursive"
        return parse_io_service_bytes(cgroupfs.read(file))
    return 0, 0


def number_or_max(text: str) -> int | None:
    """A limit as the kernel shows it; None is unlimited."""
    word = text.strip()
    return None if word == "max" or int(word) >= _V1_UNLIMITED else int(word)


def parse_io_stat(text: str) -> tuple[int, int]:
    """Bytes read and written in all of v2's io.stat: ``8:0 rbytes=1 wbytes=2 rios=3 ...`` a line."""
    sums = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        key, _, number = word.partition("=")
        if key in sums:
            sums[key] += int(number)
    return sums["rbytes"], sums["wbytes"]


def parse_io_service_bytes(text: str) -> tuple[int, int]:
    """Bytes read and written in all of v1's blkio.throttle.io_service_bytes: ``8:0 Read 4096`` a line."""
    sums = {"Read": 0, "Write": 0}
    for row in map(str.split, text.splitlines()):
        if len(row) == 3 and row[1] in sums:
            sums[row[1]] += int(row[2])
    return sums["Read"], sums["Write"]


def parse_pressure(text: str) -> Pressure:
    """A pressure file: a line ``some avg10=0.12 avg60=... avg300=... total=MICROSECONDS``, and one for ``full``.

    Kernels before 5.13 have no ``full`` line for cpu.
    """
    nothing: dict[str, str] = {}
    found = {"some": nothing, "full": nothing} | {
        kind: dict(pair.split("=") for pair in pairs) for kind, *pairs in map(str.split, text.splitlines())
    }

    def average(kind: str) -> float:
        return float(found[kind].get("avg10", 0))

    def seconds(kind: str) -> float:
        return int(found[kind].get("total", 0)) / 1e6

    return Pressure(average("some"), seconds("some"), average("full"), seconds("full"))
