"""Limits as a user meets them: what they contain, and what happens when they are reached or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.cli import Orch
from support.lifecycle import actions
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

BOMB = """
import os, time
while True:
    try: os.fork()
    except BlockingIOError: time.sleep(1)
"""
EATS = "x = bytearray(256 << 20)"


def stats(orch: Orch) -> dict[str, Any]:
    """The use of resources of the one container."""
    (one,) = orch.run("stats", "--no-stream", "--format", "json", "-p", "r").json()
    return dict(one)


def up(orch: Orch, command: str, keys: str, *words: str) -> dict[str, Any]:
    """Bring up, or change, the project whose one service has these keys; its container."""
    orch.project = "r"
    text = f'name = "r"\n[services.x]\ncommand = {command}\nstop_grace_period = "200ms"\n{keys}\n'
    orch.up(orch.manifest(text, "r.toml"), *words)
    return orch.container("x")


def test_a_fork_bomb_of_a_service_that_says_nothing_is_contained(orch: Orch) -> None:
    up(orch, f'["nice", "python3", "-S", "-c", """{BOMB}"""]', "")
    wait_until("the limit is reached", lambda: stats(orch)["pids"] == 2048, interval=0.2, timeout=40)
    assert stats(orch)["pids_limit"] == 2048
    assert stats(orch)["pids_refused"] > 0
    orch.run("kill", "-s", "KILL", "-p", "r", "x")
    orch.run("down", "-p", "r")
    assert orch.ps() == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_kill_for_want_of_memory_ends_one_process_or_the_whole_container(orch: Orch, whole: bool) -> None:
    limits = 'memory = "64M", memory_swap = 0'
    command = f"""["sh", "-c", '''python3 -c "{EATS}"; echo child $$?; sleep 1000''']"""
    keys = f"resources = {{ {limits}, oom_group = {str(whole).lower()} }}"
    before = up(orch, command, keys, "--no-wait")
    if whole:
        (after,) = orch.wait_state("x", "exited")
        assert (after["exit_code"], after["reason"]) == (137, "killed: out of memory, limit 64M")
    else:
        wait_until("the child was killed", lambda: "child 137" in orch.logs(), interval=0.05)
        assert orch.container("x")["pid"] == before["pid"]


def test_limits_change_under_a_running_container(orch: Orch) -> None:
    first = up(orch, '["sleep", "1000"]', "resources = { cpus = 0.5, cpu_burst = 0.25 }")
    second = up(
        orch,
        '["sleep", "1000"]',
        'resources = { cpus = 0.2, cpu_burst = 0.1, cpuset_mems = "0", pids = "unlimited", oom_group = true }',
    )
    assert (first["pid"], first["id"]) == (second["pid"], second["id"])
    assert stats(orch)["pids_limit"] is None
    cgroup = orch.inspect("x")["cgroup"]
    burst = Path(cgroup.get("cpu", ""), "cpu.cfs_burst_us")
    if not burst.exists():
        burst = Path(cgroup["unified"], "cpu.max.burst")
    assert int(burst.read_text()) == 10_000
    up(orch, '["sleep", "1000"]', "")
    assert int(burst.read_text()) == 0
    assert stats(orch)["pids_limit"] == 2048
    assert actions(orch, "r", "started") == [("started", "x-1")]


@pytest.mark.vm
@pytest.mark.requires("cgroup-v2")
def test_protected_memory_is_claimed_by_every_level_while_the_container_is_there(orch: Orch) -> None:
    up(orch, '["sleep", "1000"]', 'replicas = 1\nresources = { memory_low = "8M", memory_min = "4M" }')
    cgroup = Path(orch.inspect("x")["cgroup"]["unified"])
    levels = [cgroup, *list(cgroup.parents)[:3]]
    assert [int((level / "memory.low").read_text()) for level in levels] == [8 << 20] * 4
    assert [int((level / "memory.min").read_text()) for level in levels] == [4 << 20] * 4
    up(orch, '["sleep", "1000"]', 'resources = { memory_low = "2M" }')
    assert [int((level / "memory.low").read_text()) for level in levels] == [2 << 20] * 4
    assert [int((level / "memory.min").read_text()) for level in levels] == [0] * 4


def _accounts_pressure() -> bool:
    return Path("/proc/pressure/cpu").exists()


def test_stats_show_how_much_is_waited_for_processors(orch: Orch) -> None:
    """Two programs that want a core each, of which they have a fifth together."""
    spin = "while :; do :; done"
    up(orch, f"""["sh", "-c", "({spin}) & {spin}"]""", "resources = { cpus = 0.2 }")
    if not _accounts_pressure():
        assert stats(orch)["pressure"] is None
        return

    def stalled() -> float:
        return float(stats(orch)["pressure"]["cpu"]["some_avg10"])

    wait_until("they wait most of the time", lambda: stalled() > 30, interval=0.5, timeout=30)
    assert stats(orch)["pressure"]["cpu"]["some_seconds"] > 0.5
    assert set(stats(orch)["pressure"]) == {"cpu", "memory", "io"}
    assert "CPU STALL" in orch.run("stats", "--no-stream", "-p", "r").stdout
