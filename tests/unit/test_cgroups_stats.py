"""Counters as the kernel writes them, in both versions, read from files of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cgroups.stats import (
    CgroupStats,
    Pressure,
    number_or_max,
    parse_io_service_bytes,
    parse_io_stat,
    parse_pressure,
    read_stats,
)

IO_STAT = "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=7 dios=0\n254:0 rbytes=1 wbytes=2 rios=1\n"
SERVICE_BYTES = (
    "8:0 Read 100\n8:0 Write 20\n8:0 Sync 120\n8:0 Total 120\n254:0 Read 1\n254:0 Write 2\nTotal 123\n"
)


PRESSURE = (
    "some avg10=12.50 avg60=1.89 avg300=0.39 total=1500000\n"
    "full avg10=0.25 avg60=0.00 avg300=0.00 total=750000\n"
)


def test_v2_counters_are_read(tmp_path: Path) -> None:
    files = {
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\nthrottled_usec 500000\n",
        "memory.current": "5000\n",
        "memory.stat": "anon 1\ninactive_file 1000\n",
        "memory.max": "max\n",
        "memory.peak": "9000\n",
        "memory.events": "low 0\noom 3\noom_kill 2\n",
        "memory.swap.current": "300\n",
        "pids.current": "4\n",
        "pids.max": "50\n",
        "pids.events": "max 7\n",
        "cpu.pressure": PRESSURE,
        "memory.pressure": PRESSURE,
        "io.pressure": PRESSURE,
        "io.stat": IO_STAT,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    versions = dict.fromkeys(("cpu", "memory", "pids", "io"), 2)
    expected = CgroupStats(2.5, 0.5, 4000, 9000, None, 4, 50, 101, 22, 2, 300, 7)
    assert read_stats({"unified": str(tmp_path)}, versions) == expected
    pressure = dict.fromkeys(("cpu", "memory", "io"), Pressure(12.5, 1.5, 0.25, 0.75))
    assert read_stats({"unified": str(tmp_path)}, versions, True) == replace(expected, pressure=pressure)
    (tmp_path / "memory.peak").unlink()
    (tmp_path / "memory.swap.current").unlink()
    assert read_stats({"unified": str(tmp_path)}, versions).memory_peak is None
    assert read_stats({"unified": str(tmp_path)}, versions).swap is None


def test_v1_counters_are_read(tmp_path: Path) -> None:
    files = {
        "cpuacct.usage": "2500000000\n",
        "cpu.stat": "nr_periods 5\nnr_throttled 1\nthrottled_time 500000000\n",
        "memory.usage_in_bytes": "5000\n",
        "memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.max_usage_in_bytes": "9000\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.memsw.usage_in_bytes": "5300\n",
        "pids.current": "4\n",
        "pids.max": "max\n",
        "pids.events": "max 0\n",
        "blkio.throttle.io_service_bytes_recursive": SERVICE_BYTES,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    directories = dict.fromkeys(("cpu", "cpuacct", "memory", "pids", "blkio"), str(tmp_path))
    versions = dict.fromkeys(("cpu", "memory", "pids", "io"), 1)
    expected = CgroupStats(2.5, 0.5, 4000, 9000, None, 4, None, 101, 22, 2, 300)
    assert read_stats(directories, versions) == expected


def test_hybrid_takes_processor_time_from_the_v2_hierarchy(tmp_path: Path) -> None:
    for name, content in (("unified", "usage_usec 1500000\n"), ("cpu", "throttled_time 250000000\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpu.stat").write_text(content)
    stats = read_stats({name: f"{tmp_path}/{name}" for name in ("unified", "cpu")}, {"cpu": 1})
    assert (stats.cpu_seconds, stats.cpu_throttled_seconds) == (1.5, 0.25)


def test_a_host_without_controllers_counts_nothing() -> None:
    assert read_stats({}, {}) == CgroupStats()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("max\n", None),
        ("9223372036854771712\n", None),
        ("9223372036854710272\n", None),
        ("67108864\n", 67108864),
        ("0", 0),
    ],
)
def test_an_unlimited_limit_is_none(text: str, number: int | None) -> None:
    assert number_or_max(text) == number


def test_io_counters_without_any_disk_are_zero() -> None:
    assert parse_io_stat("") == (0, 0)
    assert parse_io_service_bytes("Total 0\n") == (0, 0)


def test_a_kernel_that_tells_of_some_only_is_understood() -> None:
    assert parse_pressure(PRESSURE.splitlines()[0]) == Pressure(12.5, 1.5, 0.0, 0.0)
