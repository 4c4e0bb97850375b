"""What /proc says of a process, read without a kernel."""

from __future__ import annotations

import os

from orchestrator import capabilities
from orchestrator.kernel import process
from orchestrator.kernel.process import Privileges, parse_status

STATUS = """\
Name:\tsleep: x
Uid:\t0\t0\t0\t0
CapInh:\t0000000000000001
CapPrm:\t00000000800425fb
CapEff:\t0000000000000003
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""


def test_a_status() -> None:
    sets = {
        "effective": 3, "permitted": 0x800425FB, "inheritable": 1, "bounding": (1 << 41) - 1, "ambient": 0,
    }  # fmt: skip
    assert parse_status(STATUS) == Privileges(sets, True, "filter")
    assert len(capabilities.names(sets["bounding"])) == 41


def test_a_kernel_without_seccomp_says_nothing_of_it() -> None:
    text = "".join(line for line in STATUS.splitlines(True) if "Seccomp" not in line)
    assert parse_status(text.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0")).seccomp == "none"


def test_oneself() -> None:
    assert process.privileges("self").capabilities == process.privileges(os.getpid()).capabilities
    assert process.inodes("self")["mnt"] == os.stat("/proc/self/ns/mnt").st_ino
    assert process.namespace("self", "net").inode == os.stat("/proc/self/ns/net").st_ino
    assert sum(count for _, _, count in process.id_map("self", "uid")) > 0


def test_who_is_gone_is_nowhere() -> None:
    assert process.inodes(1 << 30) == {}
