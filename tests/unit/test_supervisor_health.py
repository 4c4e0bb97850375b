"""What a supervisor makes of its container's health."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import msgspec
import pytest

from orchestrator.health.probe import ProbeResult
from orchestrator.spec import ExecCheck, Healthcheck, RestartPolicy, ServiceSpec
from orchestrator.states import Health, State
from orchestrator.supervise import watch
from support.fake_launcher import FakeProcess, Kept, eventually, keep

GOOD, BAD = ProbeResult(True, "", 0.0), ProbeResult(False, "connection refused by 10.0.0.2:80", 0.0)


class Probes:
    """What the next probes find; while there is nothing, a probe hangs."""

    def __init__(self) -> None:
        self.results: asyncio.Queue[ProbeResult] = asyncio.Queue()
        self.begun = 0

    async def __call__(self, *_: Any) -> ProbeResult:
        self.begun += 1
        return await self.results.get()

    def find(self, *results: ProbeResult) -> None:
        for result in results:
            self.results.put_nowait(result)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    found = Probes()
    monkeypatch.setattr(watch, "probe", found)
    return found


def checked(**fields: Any) -> ServiceSpec:
    check = Healthcheck(test=ExecCheck(command=("true",)), interval=0.001, retries=2, **fields)
    return ServiceSpec(name="web", healthcheck=check, stop_grace_period=600.0)


async def running(spec: ServiceSpec, *script: FakeProcess) -> Kept:
    kept = keep(spec, script=list(script))
    kept.supervisor.start()
    await kept.started(1)
    return kept


async def health(kept: Kept, wanted: Health) -> None:
    async with asyncio.timeout(5):
        await kept.supervisor.wait_until(lambda: kept.supervisor.health is wanted)


async def test_health_goes_from_starting_to_healthy(probes: Probes) -> None:
    kept = await running(checked())
    seen = [kept.supervisor.health]
    probes.find(GOOD)
    await health(kept, Health.HEALTHY)
    assert "healthy" in kept.actions
    await kept.supervisor.stop()
    seen.append(kept.supervisor.health)
    assert seen == [Health.STARTING, Health.NONE]


async def test_before_it_is_healthy_the_reason_is_what_the_last_probe_said(probes: Probes) -> None:
    kept = await running(checked(start_period=600.0))
    probes.find(BAD)
    async with asyncio.timeout(5):
        await kept.supervisor.wait_until(lambda: BAD.output in kept.supervisor.reason)
    assert kept.supervisor.health is Health.STARTING
    probes.find(GOOD)
    await health(kept, Health.HEALTHY)
    assert kept.supervisor.reason == ""
    await kept.supervisor.stop()


async def test_unhealthy_is_a_reason_and_no_more_when_nothing_is_to_be_done(probes: Probes) -> None:
    kept = await running(checked(action="none"))
    probes.find(GOOD, BAD, BAD)
    await health(kept, Health.UNHEALTHY)
    assert kept.supervisor.reason == f"2/2 checks failed: {BAD.output}"
    assert (kept.supervisor.state, kept.process.signals) == (State.RUNNING, [])
    probes.find(GOOD)
    await health(kept, Health.HEALTHY)
    assert kept.supervisor.reason == ""
    await kept.supervisor.stop()


async def test_unhealthy_with_action_restart_restarts_under_every_policy(probes: Probes) -> None:
    kept = await running(checked(action="restart"))
    probes.find(GOOD, BAD, BAD)
    await kept.started(2)
    assert kept.launcher.processes[0].signals == [signal.SIGTERM]
    assert kept.said("restarting").startswith("unhealthy, exited (0), restart 1")
    await kept.supervisor.stop()


async def test_unhealthy_with_action_stop_stops_and_says_why(probes: Probes) -> None:
    spec = checked(action="stop")
    kept = await running(spec)
    kept.supervisor.update(msgspec.structs.replace(spec, restart=RestartPolicy(policy="always")))
    probes.find(GOOD, BAD, BAD)
    await kept.reach(State.EXITED)
    assert kept.supervisor.reason == f"stopped because unhealthy: 2/2 checks failed: {BAD.output}"
    assert kept.launcher.starts == 1


async def test_a_kill_cuts_the_grace_of_an_unhealthy_container_short(probes: Probes) -> None:
    stubborn = FakeProcess(dies_of=(signal.SIGKILL,))
    kept = await running(checked(action="restart"), stubborn)
    probes.find(GOOD, BAD, BAD)
    await eventually(lambda: stubborn.signals)
    async with asyncio.timeout(5):
        await kept.supervisor.stop(0, kill=True)
    assert (kept.supervisor.state, kept.launcher.starts) == (State.EXITED, 1)


async def test_no_probe_begins_while_it_is_paused_and_one_under_way_says_nothing(probes: Probes) -> None:
    kept = await running(checked(action="restart"))
    probes.find(GOOD)
    await health(kept, Health.HEALTHY)
    await eventually(lambda: probes.begun == 2)
    await kept.supervisor.pause()
    probes.find(BAD, BAD)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert probes.begun == 2
    assert kept.supervisor.health is Health.HEALTHY
    await kept.supervisor.unpause()
    await eventually(lambda: probes.begun == 3)
    await kept.supervisor.stop()


async def test_a_changed_check_begins_anew_and_the_program_goes_on(probes: Probes) -> None:
    kept = await running(checked())
    probes.find(GOOD)
    await health(kept, Health.HEALTHY)
    kept.supervisor.update(checked(timeout=7.0))
    assert kept.supervisor.health is Health.STARTING
    probes.find(GOOD, GOOD)
    await health(kept, Health.HEALTHY)
    assert kept.launcher.starts == 1
    await kept.supervisor.stop()


async def test_a_check_that_was_taken_away_leaves_no_health(probes: Probes) -> None:
    kept = await running(checked())
    kept.supervisor.update(ServiceSpec(name="web"))
    assert kept.supervisor.health is Health.NONE
    await kept.supervisor.stop()


async def test_a_restart_begins_with_a_health_of_its_own(probes: Probes) -> None:
    kept = await running(msgspec.structs.replace(checked(), restart=RestartPolicy(policy="always")))
    probes.find(GOOD)
    await health(kept, Health.HEALTHY)
    kept.process.end(1)
    await kept.started(2)
    assert kept.supervisor.health is Health.STARTING
    await kept.supervisor.stop()


async def test_an_exec_check_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Healthcheck(test=ExecCheck(command=("sleep", "600")), timeout=0.02, interval=0.01, retries=1)
    hanging = FakeProcess()
    kept = keep(ServiceSpec(name="web", healthcheck=check))
    kept.launcher.exec_script = [hanging]
    kept.supervisor.start()
    await eventually(lambda: hanging.closed)
    assert hanging.signals == [signal.SIGKILL]
    assert kept.supervisor.health_watch is not None
    assert kept.supervisor.health_watch.probes[0].output == "no answer within 20ms"
    await kept.supervisor.stop()
