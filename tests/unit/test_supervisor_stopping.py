"""How a container is stopped, from whatever state, paused, signalled and entered."""

from __future__ import annotations

import asyncio
import signal

import pytest

from orchestrator.errors import ConflictError, LaunchError
from orchestrator.launch.launcher import ExecRequest
from orchestrator.spec import ExecCheck, Healthcheck, RestartPolicy, ServiceSpec
from orchestrator.states import Health, State
from orchestrator.supervise import supervisor as module
from support.fake_launcher import FakeProcess, Kept, eventually, keep

STUBBORN = (signal.SIGKILL,)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs without a handler for their stop signal."""
    monkeypatch.setattr(module, "heeds", lambda pid, number: False)
    monkeypatch.setattr(module, "SETTLING", 0.02)


async def running(process: FakeProcess | None = None, spec: ServiceSpec | None = None) -> Kept:
    kept = keep(spec, script=[process] if process else None)
    kept.supervisor.start()
    await kept.started(1)
    return kept


def patient(**fields: object) -> ServiceSpec:
    """A service whose grace nobody wants to wait for."""
    return ServiceSpec(name="web", stop_grace_period=600.0, **fields)  # type: ignore[arg-type]


async def test_it_gets_its_stop_signal_and_no_other_when_it_heeds_it() -> None:
    process = FakeProcess(dies_of=(signal.SIGQUIT,))
    kept = await running(process, patient(stop_signal="SIGQUIT"))
    await kept.supervisor.stop(reason="removed")
    assert process.signals == [signal.SIGQUIT]
    assert (kept.supervisor.state, kept.supervisor.reason) == (State.EXITED, "removed")
    assert "killed" not in kept.actions


async def test_what_does_not_stop_within_its_grace_is_killed_with_its_cgroup() -> None:
    process = FakeProcess(STUBBORN)
    kept = await running(process)
    await kept.supervisor.stop(timeout=0.02)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert kept.said("killed") == "did not stop within 20ms"
    assert kept.supervisor.exit_code == 137


async def test_the_whole_cgroup_is_killed_even_if_the_first_process_hangs() -> None:
    process = FakeProcess(dies_of=())
    kept = await running(process)
    stopping = asyncio.create_task(kept.supervisor.stop(timeout=0.0))
    await eventually(lambda: "kill" in kept.cgroup.calls)
    process.end(by=signal.SIGKILL)
    await stopping


@pytest.mark.usefixtures("deaf")
async def test_a_pid_1_without_a_handler_is_killed_at_once_and_told_why() -> None:
    process = FakeProcess(STUBBORN)
    kept = await running(process, patient())
    await kept.supervisor.stop()
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert kept.said("killed") == "its pid 1 has no handler for SIGTERM (init = true gives it one)"


async def test_a_program_that_is_still_settling_in_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, True]
    monkeypatch.setattr(module, "heeds", lambda pid, number: answers.pop(0))
    monkeypatch.setattr(module, "SETTLING", 0.02)
    process = FakeProcess(STUBBORN)
    kept = await running(process, patient())
    stopping = asyncio.create_task(kept.supervisor.stop())
    await eventually(lambda: len(process.signals) == 2)
    assert process.signals == [signal.SIGTERM, signal.SIGTERM]
    process.end(0)
    await stopping
    assert "killed" not in kept.actions


async def test_the_kill_of_a_cgroup_is_over_before_the_next_program_is_in_it() -> None:
    check = Healthcheck(test=ExecCheck(command=("true",)), timeout=600.0, action="restart")
    kept = await running(
        FakeProcess(STUBBORN), ServiceSpec(name="web", healthcheck=check, stop_grace_period=0.0)
    )
    kept.cgroup.may_kill.clear()
    kept.supervisor.health_is(Health.UNHEALTHY, "3/3 checks failed")
    await eventually(lambda: signal.SIGKILL in kept.process.signals)
    for _ in range(10):
        await asyncio.sleep(0)
    assert kept.launcher.starts == 1
    kept.cgroup.may_kill.set()
    await kept.started(2)
    assert kept.cgroup.calls[0] == "kill"
    await kept.supervisor.stop()


async def test_a_second_stop_with_kill_cuts_the_grace_short() -> None:
    process = FakeProcess(STUBBORN)
    kept = await running(process, patient())
    first = asyncio.create_task(kept.supervisor.stop())
    await eventually(lambda: process.signals)
    await kept.supervisor.stop(0, kill=True)
    await first
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert "did not stop within" not in kept.said("killed")


async def test_a_stop_with_kill_asks_nobody() -> None:
    process = FakeProcess(STUBBORN)
    kept = await running(process, patient())
    await kept.supervisor.stop(0, kill=True)
    assert process.signals == [signal.SIGKILL]


async def test_all_who_ask_for_a_stop_wait_for_its_end() -> None:
    process = FakeProcess(STUBBORN)
    kept = await running(process, patient())
    asked = [asyncio.create_task(kept.supervisor.stop()) for _ in range(3)]
    await eventually(lambda: process.signals)
    process.end(0)
    await asyncio.gather(*asked)
    assert process.signals == [signal.SIGTERM]
    assert kept.actions.count("stopping") == 1


async def test_a_stop_is_never_followed_by_a_restart() -> None:
    kept = keep(policy="always")
    kept.supervisor.start()
    await kept.started(1)
    await kept.supervisor.stop()
    await asyncio.sleep(0.01)
    assert (kept.supervisor.state, kept.launcher.starts) == (State.EXITED, 1)


async def test_a_container_that_never_ran_is_stopped_by_saying_so() -> None:
    kept = keep()
    await kept.supervisor.stop(reason="removed")
    assert kept.heard == [("stopped", State.EXITED, "removed")]
    assert kept.launcher.starts == 0


async def test_a_stop_during_the_start_waits_for_it_and_ends_it() -> None:
    gate = asyncio.Event()
    kept = keep(gate=gate)
    kept.supervisor.start()
    await kept.reach(State.STARTING)
    stopping = asyncio.create_task(kept.supervisor.stop())
    await kept.reach(State.STOPPING)
    gate.set()
    await stopping
    assert kept.process.signals == [signal.SIGTERM]
    assert State.RUNNING not in [state for _, state, _ in kept.heard]


async def test_a_start_that_fails_while_it_is_being_stopped_is_not_tried_again() -> None:
    gate = asyncio.Event()
    error = LaunchError('cannot start "shop-web-1"', "clone: ENOMEM", status=125)
    kept = keep(script=[error], gate=gate, policy="always")
    kept.supervisor.start()
    await kept.reach(State.STARTING)
    stopping = asyncio.create_task(kept.supervisor.stop())
    await kept.reach(State.STOPPING)
    gate.set()
    await stopping
    assert (kept.supervisor.state, kept.launcher.starts) == (State.EXITED, 1)


async def test_a_stop_during_the_backoff_ends_it_at_once() -> None:
    kept = keep(policy="always", backoff=600.0, backoff_max=600.0)
    kept.supervisor.start()
    (await kept.started(1)).end(1)
    await kept.reach(State.RESTARTING)
    async with asyncio.timeout(1):
        await kept.supervisor.stop()
    assert (kept.supervisor.state, kept.launcher.starts) == (State.EXITED, 1)


async def test_a_failed_container_can_be_stopped_and_is_then_just_ended() -> None:
    kept = keep()
    kept.supervisor.give_up("a dependency failed")
    await kept.supervisor.stop()
    assert kept.supervisor.state is State.EXITED


async def test_it_can_be_started_again_after_a_stop() -> None:
    kept = await running()
    await kept.supervisor.stop()
    kept.supervisor.start()
    await kept.started(2)
    assert kept.supervisor.exit_code is None
    await kept.supervisor.stop()


async def test_a_pause_freezes_and_an_unpause_thaws() -> None:
    kept = await running()
    await kept.supervisor.pause()
    await kept.supervisor.unpause()
    assert kept.heard[-2:] == [("paused", State.PAUSED, "paused"), ("unpaused", State.RUNNING, "")]
    assert kept.cgroup.calls == ["freeze", "wait_frozen", "thaw"]
    await kept.supervisor.stop()


async def test_a_paused_container_is_thawed_to_be_stopped() -> None:
    kept = await running()
    await kept.supervisor.pause()
    await kept.supervisor.stop()
    assert kept.cgroup.calls[2:] == ["thaw"]
    assert kept.supervisor.state is State.EXITED


async def test_a_program_that_ends_while_paused_leaves_no_frozen_cgroup_to_its_next_run() -> None:
    kept = await running(spec=ServiceSpec(name="web", restart=RestartPolicy(policy="always")))
    await kept.supervisor.pause()
    kept.process.end(by=signal.SIGKILL)
    await kept.started(2)
    assert kept.cgroup.calls == ["freeze", "wait_frozen", "thaw"]
    await kept.supervisor.stop()


async def test_a_kill_of_a_paused_container_ends_it() -> None:
    kept = await running()
    await kept.supervisor.pause()
    kept.supervisor.kill(signal.SIGKILL)
    await kept.reach(State.EXITED)
    assert "thaw" in kept.cgroup.calls


async def test_a_signal_goes_to_the_first_process() -> None:
    kept = await running()
    kept.supervisor.kill(signal.SIGHUP)
    assert kept.process.signals == [signal.SIGHUP]
    assert kept.supervisor.state is State.RUNNING
    await kept.supervisor.stop()


async def test_what_needs_a_running_program_is_refused_without_one() -> None:
    kept = keep()
    request = ExecRequest(["true"])
    for state in ("pending", "exited"):
        with pytest.raises(ConflictError, match=f'cannot exec in "shop-web-1": it is {state}'):
            await kept.supervisor.exec(request)
        with pytest.raises(ConflictError, match=f'cannot pause "shop-web-1": it is {state}'):
            await kept.supervisor.pause()
        with pytest.raises(ConflictError, match=f'cannot unpause "shop-web-1": it is {state}'):
            await kept.supervisor.unpause()
        with pytest.raises(ConflictError, match=f'cannot signal "shop-web-1": it is {state}'):
            kept.supervisor.kill(signal.SIGTERM)
        await kept.supervisor.stop()
    assert kept.launcher.execs == []


async def test_nobody_enters_a_paused_container() -> None:
    kept = await running()
    await kept.supervisor.pause()
    with pytest.raises(ConflictError, match=r"it is paused .unpause"):
        await kept.supervisor.exec(ExecRequest(["true"]))
    await kept.supervisor.stop()


async def test_a_container_that_is_stopping_can_still_be_entered() -> None:
    process = FakeProcess(STUBBORN)
    kept = await running(process, patient())
    stopping = asyncio.create_task(kept.supervisor.stop())
    await kept.reach(State.STOPPING)
    await kept.supervisor.exec(ExecRequest(["true"]))
    assert len(kept.launcher.execs) == 1
    process.end(0)
    await stopping
