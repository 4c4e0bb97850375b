"""Killing parts of orch, and seeing that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal

from support import leaks
from support.cli import Orch
from support.waiting import wait_until

#: Seconds that a sweep may take on a busy machine.
SWEEP_SECONDS = 15.0
#: What a killed service may leave in its run folder: its log, for whoever wants to know why.
_KEPT = ("service.log",)


def service(orch: Orch) -> int:
    """The pid of the host service that answers."""
    return int(orch.run("version", "--format", "json").json()["service"]["pid"])


def spawner(orch: Orch) -> int:
    """The pid of the latest service's spawner, as its log tells."""
    lines = (json.loads(line) for line in orch.service_log.splitlines() if line.startswith("{"))
    return int([line for line in lines if line["event"] == "ready"][-1]["spawner"])


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_dead(*pids: int, timeout: float = SWEEP_SECONDS) -> None:
    """Wait until none of the processes lives."""
    wait_until(f"{pids} are dead", lambda: not any(map(alive, pids)), timeout)


def kill(*pids: int) -> None:
    """SIGKILL to all of them, as close together as can be."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def left(orch: Orch, before: leaks.Inventory) -> list[str]:
    """What is left of an instance whose service was killed, once there was time to sweep; [] is clean."""
    things = leaks.left_since(before, SWEEP_SECONDS)
    folders = (orch.instance.run_dir, f"{orch.instance.state_dir}/containers")
    entries = [entry for folder in folders if os.path.isdir(folder) for entry in os.scandir(folder)]
    things += [entry.path for entry in entries if entry.name not in _KEPT]
    return things


def programs(orch: Orch) -> list[int]:
    """The pids of all containers' first processes."""
    return [container["pid"] for container in orch.ps() if container["pid"]]


def find_service(orch: Orch) -> int | None:
    """The pid of the instance's service as soon as there is one, listening or not."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"orchestrator.service.main" in words and orch.instance.run_dir.encode() in words:
            return int(entry)
    return None


def find_spawner(service_pid: int) -> int | None:
    """The service's spawner, if it has one."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                name, _, rest = file.read().partition(" (")[2].rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name == "orch-spawner" and int(rest.split()[1]) == service_pid:
            return int(entry)
    return None


def ledger_lines(orch: Orch) -> int:
    """How much the service has written down so far."""
    try:
        with open(orch.instance.ledger, "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0
