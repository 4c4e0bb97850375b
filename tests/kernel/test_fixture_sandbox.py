"""The sandbox is what it says: an empty network, a process table and a sysfs of its own, the host's cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import sandbox

pytestmark = pytest.mark.requires("root", "netns", "pidns")


def test_the_network_has_only_a_loopback_that_is_up() -> None:
    assert os.listdir("/sys/class/net") == ["lo"]
    assert int(Path("/sys/class/net/lo/flags").read_text(), 16) & 1


def test_every_process_belongs_to_the_tests() -> None:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    assert sorted(pids) == [1, os.getpid()]


def test_the_cgroup_hierarchies_are_still_there_and_usable() -> None:
    hierarchies = sandbox.cgroup_hierarchies()
    assert hierarchies
    for hierarchy in hierarchies:
        path = f"{hierarchy.point}/orch-sandbox-{os.getpid()}"
        os.mkdir(path)
        try:
            assert os.path.exists(f"{path}/cgroup.procs")
        finally:
            os.rmdir(path)


def test_the_cgroups_of_the_host_are_out_of_reach() -> None:
    """What the sandbox shows as each hierarchy's top is a cgroup that no other process is in."""
    for hierarchy in sandbox.cgroup_hierarchies():
        inside = f"{hierarchy.point}/tests" if hierarchy.kind == "unified" else hierarchy.point
        assert hierarchy.own == inside
        assert set(Path(f"{inside}/cgroup.procs").read_text().split()) <= {"1", str(os.getpid())}
        below = [entry.name for entry in os.scandir(hierarchy.point) if entry.is_dir()]
        assert below == (["tests"] if hierarchy.kind == "unified" else [])


def test_mounts_do_not_reach_the_host() -> None:
    with open("/proc/self/mountinfo") as file:
        shared = [line for line in file if "shared:" in line.partition(" - ")[0]]
    assert shared == []


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_exit_status_is_handed_on(ending: str, code: int) -> None:
    script = f"import os, sys; from support import sandbox; sandbox.enter(); {ending}"
    support = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": support}, check=False
    )
    assert done.returncode == code
