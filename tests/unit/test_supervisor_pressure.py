"""What a supervisor does about a container that waits too much."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import msgspec
import pytest

from orchestrator.errors import KernelError
from orchestrator.spec import ExecCheck, Healthcheck, PressureTrigger, ServiceSpec
from orchestrator.states import Health, State
from orchestrator.supervise import pressure
from support.fake_launcher import FakeProcess, Kept, eventually, keep


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is never late, and whose numbers are always up to date."""
    monkeypatch.setattr(pressure, "LATE", 0.1)
    monkeypatch.setattr(pressure, "STALE", 0.0)


def pressed(action: str, sustained: float = 0.02, **fields: Any) -> ServiceSpec:
    trigger = PressureTrigger(
        resource="memory", threshold=20.0, window=0.1, sustained=sustained, action=action
    )
    return ServiceSpec(name="web", pressure=(trigger,), stop_grace_period=600.0, **fields)


async def running(spec: ServiceSpec, *script: FakeProcess) -> Kept:
    kept = keep(spec, script=list(script))
    kept.supervisor.start()
    await kept.started(1)
    return kept


async def press(kept: Kept, condition: Any) -> None:
    """Let processes wait all the time until ``condition`` holds."""
    async with asyncio.timeout(5):
        while not condition():
            kept.cgroup.press(0.005)
            await asyncio.sleep(0.005)


def found(kept: Kept) -> bool:
    return "pressure" in kept.actions


async def test_pressure_that_lasts_is_an_event_and_a_reason_until_it_is_over() -> None:
    kept = await running(pressed("none"))
    await press(kept, lambda: found(kept))
    assert kept.said("pressure").startswith("memory pressure: some ")
    assert kept.supervisor.reason.startswith("memory pressure: some ")
    assert kept.supervisor.pressure_watches[0].sustained
    await eventually(lambda: "pressure-eased" in kept.actions)
    assert kept.supervisor.reason == ""
    assert (kept.actions.count("pressure"), kept.launcher.starts) == (1, 1)
    assert kept.supervisor.pressure_watches[0].text == ""
    await kept.supervisor.stop()


async def test_pressure_that_does_not_last_is_no_reason() -> None:
    kept = await running(pressed("restart", sustained=600.0))
    for _ in range(5):
        kept.cgroup.press(1.0)
        await asyncio.sleep(0.002)
    assert kept.supervisor.pressure_watches[0].spell is not None
    await eventually(lambda: kept.supervisor.pressure_watches[0].spell is None)
    assert (kept.supervisor.reason, kept.actions) == ("", ["starting", "started"])
    await kept.supervisor.stop()


async def test_action_restart_restarts_under_every_policy_and_says_why() -> None:
    kept = await running(pressed("restart"))
    first = kept.process
    await press(kept, lambda: found(kept))
    await kept.started(2)
    assert first.signals == [signal.SIGTERM]
    assert kept.said("restarting").startswith("memory pressure: some ")
    assert ", exited (0), restart 1" in kept.said("restarting")
    assert kept.cgroup.pressure[0].closed
    assert len(kept.cgroup.pressure) == 2  # the next run is watched too
    await kept.supervisor.stop()


async def test_action_stop_stops_and_says_why() -> None:
    kept = await running(pressed("stop"))
    await press(kept, lambda: found(kept))
    await kept.reach(State.EXITED)
    assert kept.supervisor.reason.startswith("stopped because of memory pressure: some ")
    assert kept.launcher.starts == 1


async def test_action_signal_signals_once_and_the_program_goes_on() -> None:
    kept = await running(pressed("signal:SIGUSR1"))
    await press(kept, lambda: found(kept))
    for _ in range(5):
        kept.cgroup.press(1.0)
        await asyncio.sleep(0.002)
    assert kept.process.signals == [signal.SIGUSR1]
    assert kept.said("pressure").endswith(", sent SIGUSR1")
    assert kept.supervisor.state is State.RUNNING
    await kept.supervisor.stop()


async def test_the_reason_holds_what_the_health_check_says_as_well() -> None:
    check = Healthcheck(test=ExecCheck(command=("true",)), interval=600.0)
    kept = await running(msgspec.structs.replace(pressed("none"), healthcheck=check))
    kept.supervisor.health_is(Health.UNHEALTHY, "3/3 checks failed")
    await press(kept, lambda: found(kept))
    assert kept.supervisor.reason.startswith("3/3 checks failed; memory pressure: some ")
    kept.supervisor.health_is(Health.HEALTHY, "healthy")
    assert kept.supervisor.reason.startswith("memory pressure: some ")
    await kept.supervisor.stop()


async def test_a_paused_container_is_left_alone() -> None:
    kept = await running(pressed("restart", sustained=0.0))
    await kept.supervisor.pause()
    kept.cgroup.press(1.0)
    await eventually(lambda: kept.cgroup.pressure[0].drained)
    assert not found(kept)
    await kept.supervisor.unpause()
    kept.cgroup.press(1.0)
    await kept.started(2)
    await kept.supervisor.stop()


async def test_triggers_change_in_place() -> None:
    spec = pressed("none")
    kept = await running(spec)
    changed = msgspec.structs.replace(spec.pressure[0], resource="io", action="stop")
    kept.supervisor.update(msgspec.structs.replace(spec, pressure=(changed, *spec.pressure)))
    assert [trigger.resource for trigger in kept.cgroup.triggers] == ["memory", "io", "memory"]
    await eventually(lambda: kept.cgroup.pressure[0].closed)
    kept.supervisor.update(ServiceSpec(name="web"))
    assert kept.supervisor.pressure_watches == []
    assert kept.launcher.starts == 1
    await kept.supervisor.stop()


async def test_a_kernel_that_refuses_is_trouble_and_the_program_goes_on() -> None:
    kept = keep(pressed("restart"))
    kept.cgroup.refuses = KernelError(
        "cannot watch the memory pressure of cgroup x", "EINVAL: Invalid argument"
    )
    kept.supervisor.start()
    await kept.started(1)
    await eventually(lambda: "trouble" in kept.actions)
    assert "EINVAL" in kept.said("trouble")
    await kept.supervisor.stop()
