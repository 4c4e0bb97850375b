"""What containers use: readings of their cgroups, interfaces and processes."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping
from dataclasses import asdict

from orchestrator.errors import OrchError
from orchestrator.states import ALIVE
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import PressureView, ProcessView, StatsView

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class StatsReader:
    """Reads stats of the same containers again and again; CPU percentages are since its previous reading."""

    def __init__(self) -> None:
        self._previous: dict[str, tuple[float, float]] = {}  # id -> (time, cpu seconds)

    def read(self, supervisors: list[Supervisor], traffic: Mapping[str, tuple[int, int]]) -> list[StatsView]:
        """One reading of all that run. Reads kernel files: call it off the event loop.

        :param traffic: bytes received and sent, by veth.
        """
        views = []
        for supervisor in supervisors:
            if supervisor.state not in ALIVE:
                continue
            try:
                views.append(self._read_one(supervisor, traffic))
            except (OSError, OrchError):
                continue  # it ended while we looked
        return views

    def _read_one(self, supervisor: Supervisor, traffic: Mapping[str, tuple[int, int]]) -> StatsView:
        container = supervisor.container
        stats = container.cgroup.stats()
        now = time.time()
        before = self._previous.get(container.id)
        self._previous[container.id] = (now, stats.cpu_seconds)
        percent = None
        if before and now > before[0]:
            percent = 100.0 * (stats.cpu_seconds - before[1]) / (now - before[0])
        links = [traffic[e.veth] for e in container.endpoints if e.veth in traffic]
        return StatsView(
            project=container.project,
            service=container.spec.name,
            name=container.name,
            id=container.id,
            time=now,
            cpu_seconds=stats.cpu_seconds,
            cpu_percent=percent,
            cpu_throttled_seconds=stats.cpu_throttled_seconds,
            memory=stats.memory,
            memory_peak=stats.memory_peak,
            memory_limit=stats.memory_limit,
            pids=stats.pids,
            pids_limit=stats.pids_limit,
            io_read_bytes=stats.io_read_bytes,
            io_write_bytes=stats.io_write_bytes,
            net_rx_bytes=sum(received for received, _ in links),
            net_tx_bytes=sum(sent for _, sent in links),
            oom_kills=stats.oom_kills,
            swap=stats.swap,
            pids_refused=stats.pids_refused,
            pressure={name: PressureView(**asdict(each)) for name, each in stats.pressure.items()} or None,
        )


def processes(supervisors: list[Supervisor]) -> list[ProcessView]:
    """Every process of these containers, with host pids. Reads /proc: call it off the event loop."""
    views = []
    for supervisor in supervisors:
        if supervisor.state not in ALIVE:
            continue
        for pid in sorted(supervisor.container.cgroup.pids()):
            try:
                views.append(_process(supervisor.container.name, pid))
            except (OSError, ValueError, IndexError):
                continue  # it ended while we looked
    return views


def _process(name: str, pid: int) -> ProcessView:
    """See proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        head, _, tail = file.read().rpartition(")")
    fields = tail.split()
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    uid = os.stat(f"/proc/{pid}").st_uid
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return ProcessView(
        name=name,
        pid=pid,
        ppid=int(fields[1]),
        user=user,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        rss=int(fields[21]) * _PAGE,
        state=fields[0],
        command=command or f"[{head.partition('(')[2]}]",
    )
