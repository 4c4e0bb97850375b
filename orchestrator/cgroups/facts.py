"""What the host's hierarchies offer beyond their controllers: found once, without changing anything."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import Literal

from orchestrator.cgroups.mountinfo import CgroupMounts
from orchestrator.kernel import cgroupfs, devices

_CAP_SYS_RESOURCE = 24  # linux/capability.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What limits can be set, and how.

    :param complete_core: whether the v2 hierarchy has all core files, which needs no controller: cgroup.freeze
        (Linux 5.2), CLONE_INTO_CGROUP (5.7) and cgroup.kill (5.14).
    :param unified_controllers: controllers that the v2 hierarchy has, in v2's words.
    :param cpu_burst: whether unused processor time can be kept for later (Linux 5.14).
    :param swap_accounting: whether swap can be limited.
    :param io_weight_file: the file of a cgroup that takes the io weight; None when the kernel has none.
    :param io_weight_works: whether any disk's scheduler heeds it.
    :param hugepage_sizes: as the kernel writes them, ``2MB``.
    :param pressure_lack: why the v2 hierarchy accounts no pressure, and the remedy; "" when it does.
    :param pressure_windows: what windows the kernel lets this process watch pressure in: ``free`` (0.5 s to 10 s),
        ``even`` (multiples of 2 s, without CAP_SYS_RESOURCE) or ``none``.
    :param cpus: processors that may be used, the kernel's list format.
    :param mems: memory nodes, the same.
    :param device_programs: whether an eBPF program can rule devices; not looked for where v1 does that.
    """

    complete_core: bool = True
    unified_controllers: frozenset[str] = frozenset()
    cpu_burst: bool = True
    swap_accounting: bool = True
    io_weight_file: str | None = None
    io_weight_works: bool = False
    hugepage_sizes: frozenset[str] = frozenset()
    pressure_lack: str = ""
    pressure_windows: Literal["free", "even", "none"] = "free"
    cpus: str = "0"
    mems: str = "0"
    device_programs: bool = True


def probe(mounts: CgroupMounts) -> Facts:
    """Look at the files of the hierarchies' roots, and at /sys.

    Many files exist in child cgroups only, so what they can do is told from a file of the root that the
    same kernel option brings (block/bfq-cgroup.c, block/blk-iocost.c, mm/memcontrol-v1.c).
    """
    unified = (_text(f"{mounts.unified}/cgroup.controllers") if mounts.unified else "").split()
    weight_file, weight_works = _io_weight(mounts, "io" in unified)
    cpu = mounts.v1.get("cpu")
    if cpuset := mounts.v1.get("cpuset"):
        cpus, mems = f"{cpuset}/cpuset.effective_cpus", f"{cpuset}/cpuset.effective_mems"
    else:
        cpus, mems = f"{mounts.unified}/cpuset.cpus.effective", f"{mounts.unified}/cpuset.mems.effective"
    return Facts(
        complete_core=_kernel_version() >= (5, 14),
        unified_controllers=frozenset(unified),
        cpu_burst=os.path.exists(f"{cpu}/cpu.cfs_burst_us") if cpu else _kernel_version() >= (5, 14),
        swap_accounting=_swap_accounting(mounts),
        io_weight_file=weight_file,
        io_weight_works=weight_works,
        hugepage_sizes=frozenset(map(_page_size, _names("/sys/kernel/mm/hugepages"))),
        pressure_lack=_pressure_lack(mounts),
        pressure_windows=_pressure_windows(),
        cpus=_text(cpus) or _text("/sys/devices/system/cpu/online") or "0",
        mems=_text(mems) or _text("/sys/devices/system/node/online") or "0",
        device_programs="devices" not in mounts.v1 and devices.programs_work(),
    )


def _kernel_version() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor.partition("-")[0])


def _swap_accounting(mounts: CgroupMounts) -> bool:
    if memory := mounts.v1.get("memory"):
        return os.path.exists(f"{memory}/memory.memsw.limit_in_bytes")
    return "swapaccount=0" not in _text("/proc/cmdline").split()


def _pressure_lack(mounts: CgroupMounts) -> str:
    if not os.path.exists("/proc/pressure/cpu"):
        return "the kernel accounts no pressure (boot with psi=1)"
    if mounts.unified and not os.path.exists(f"{mounts.unified}/cpu.pressure"):
        return "the kernel accounts no pressure of cgroups (boot without cgroup_disable=pressure)"
    return ""


def _pressure_windows() -> Literal["free", "even", "none"]:
    """See psi_trigger_create in kernel/sched/psi.c; before Linux 6.4 nobody could without the capability."""
    effective = re.search(r"^CapEff:\t([0-9a-f]+)$", _text("/proc/self/status"), re.MULTILINE)
    if effective and int(effective[1], 16) >> _CAP_SYS_RESOURCE & 1:
        return "free"
    return "even" if _kernel_version() >= (6, 4) else "none"


def _io_weight(mounts: CgroupMounts, io_on_v2: bool) -> tuple[str | None, bool]:
    schedulers = [_text(f"/sys/block/{disk}/queue/scheduler") for disk in _names("/sys/block")]
    bfq_used = any("[bfq]" in each for each in schedulers)
    if blkio := mounts.v1.get("blkio"):
        if os.path.exists(f"{blkio}/blkio.bfq.io_service_bytes"):
            return "blkio.bfq.weight", bfq_used
        if os.path.exists(f"{blkio}/blkio.time"):  # CFQ, kernels before 5.0
            return "blkio.weight", any("[cfq]" in each for each in schedulers)
        return None, False
    if io_on_v2:
        cost = f"{mounts.unified}/io.cost.qos"
        if os.path.exists(cost) and ("enable=1" in _text(cost) or not bfq_used):
            return "io.weight", "enable=1" in _text(cost)
        if any("bfq" in each for each in schedulers):
            return "io.bfq.weight", bfq_used
    return None, False


def _page_size(folder: str) -> str:
    """``hugepages-2048kB`` -> ``2MB``, as mm/hugetlb_cgroup.c names its files."""
    kib = int(folder.removeprefix("hugepages-").removesuffix("kB"))
    for size, unit in ((1 << 20, "GB"), (1 << 10, "MB")):
        if kib >= size:
            return f"{kib // size}{unit}"
    return f"{kib}KB"


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return cgroupfs.read(path).strip()
    return ""


def _names(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []
