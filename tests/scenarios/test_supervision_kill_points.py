"""Kills at every step of ``up`` and ``down``, as far as the ledger shows the steps, and at random moments."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable

import pytest

from support import faults, leaks
from support.cli import Orch
from support.waiting import wait_until

pytestmark = [pytest.mark.requires("root", "netns", "pidns", "overlay", "nft"), pytest.mark.timeout(120)]

MANIFEST = """
name = "victim"
[defaults]
stop_grace_period = "1s"
[services.web]
command = ["sleep", "1000"]
ports = ["127.0.0.1:0:80"]
depends_on = ["api"]
[services.api]
command = ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"]
init = true
[services.store]
command = ["sleep", "1000"]
network_mode = "host"
volumes = ["data:/data"]
[volumes.data]
"""
#: The network and three containers are written down before they are made.
STEPS = 4
TARGETS = ("service", "spawner", "both")


def strike(orch: Orch, target: str) -> tuple[int, ...]:
    """Kill; the pids of service and spawner."""
    service = faults.find_service(orch)
    assert service is not None
    spawner = wait_until("there is a spawner", lambda: faults.find_spawner(service))
    assert spawner is not None
    faults.kill(*{"service": (service,), "spawner": (spawner,), "both": (spawner, service)}[target])
    return service, spawner


def swept(orch: Orch, target: str, pids: tuple[int, ...], before: leaks.Inventory) -> None:
    """Nothing is left; after the death of both, the next service has to see to that."""
    faults.wait_dead(*pids)
    if target == "both":
        orch.run(
            "up", "-d", orch.manifest('name = "next"\n[services.x]\ncommand = ["sleep", "9"]', "next.toml")
        )
        orch.run("down", "-p", "next", "--timeout", "0")
        wait_until("the service has gone", lambda: faults.find_service(orch) is None)
    assert faults.left(orch, before) == []
    assert "Traceback" not in orch.service_log


def finish(process: subprocess.Popen[str]) -> None:
    """Whatever the command says now, it must not hang."""
    process.communicate(timeout=20)


def interrupted_up(orch: Orch, target: str, when: Callable[[], object]) -> None:
    before = leaks.take()
    process = orch.popen("up", "-d", orch.manifest(MANIFEST, "victim.toml"))
    wait_until("it is time to strike", when, interval=0.0005)
    pids = strike(orch, target)
    finish(process)
    swept(orch, target, pids, before)


def interrupted_down(orch: Orch, target: str, when: Callable[[int], object]) -> None:
    before = leaks.take()
    orch.up(orch.manifest(MANIFEST, "victim.toml"))
    lines = faults.ledger_lines(orch)
    process = orch.popen("down", "-p", "victim")
    wait_until("it is time to strike", lambda: when(lines), interval=0.0005)
    if faults.find_service(orch) is None:  # the last line is also the service's last
        finish(process)
        return
    pids = strike(orch, target)
    finish(process)
    swept(orch, target, pids, before)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_a_step_of_up(orch: Orch, target: str, step: int) -> None:
    interrupted_up(orch, target, lambda: faults.ledger_lines(orch) >= step)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", [1, STEPS - 1])
def test_killed_at_a_step_of_down(orch: Orch, target: str, step: int) -> None:
    interrupted_down(orch, target, lambda lines: faults.ledger_lines(orch) >= lines + step)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment_of_up(orch: Orch, seed: int) -> None:
    chance = random.Random(seed)
    target, delay = chance.choice(TARGETS), chance.uniform(0.0, 0.15)
    began: list[float] = []

    def due() -> bool:
        if not began and faults.ledger_lines(orch):
            began.append(time.monotonic())
        return bool(began) and time.monotonic() >= began[0] + delay

    interrupted_up(orch, target, due)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_of_down(orch: Orch, seed: int) -> None:
    chance = random.Random(seed)
    target, due = chance.choice(TARGETS), time.monotonic() + 60
    delay = chance.uniform(0.15, 0.35)  # of which a command needs some 150 ms to start

    def struck(_: int) -> bool:
        nonlocal due
        due = min(due, time.monotonic() + delay)
        return time.monotonic() >= due

    interrupted_down(orch, target, struck)


def test_a_service_killed_before_it_listens_leaves_nothing(orch: Orch) -> None:
    before = leaks.take()
    process = orch.popen("up", "-d", orch.manifest(MANIFEST, "victim.toml"))
    service = wait_until("there is a service", lambda: faults.find_service(orch), interval=0.0005)
    assert service is not None
    faults.kill(service)
    finish(process)
    assert faults.left(orch, before) == []
    assert "Traceback" not in orch.service_log
