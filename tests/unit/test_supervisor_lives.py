"""One container's life, from start to end, and what the restart policy makes of its ends."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import cast

import msgspec
import pytest

from orchestrator.errors import LaunchError
from orchestrator.runtime.handle import Process
from orchestrator.spec import Resources, RestartPolicy, ServiceSpec
from orchestrator.states import Health, State
from orchestrator.supervise.supervisor import Supervisor
from support.fake_launcher import FakeProcess, Kept, eventually, keep

MISSING = LaunchError('cannot start "shop-web-1"', "exec nope: ENOENT", status=127)
NO_ROOM = LaunchError('cannot start "shop-web-1"', "clone: ENOMEM", status=125)


async def test_a_program_that_runs_is_running_and_its_end_is_its_exit_code() -> None:
    kept = keep()
    kept.supervisor.start()
    (await kept.started(1)).end(3)
    await kept.reach(State.EXITED)
    assert [state for _, state, _ in kept.heard] == [State.STARTING, State.RUNNING, State.EXITED]
    assert (kept.supervisor.exit_code, kept.supervisor.reason) == (3, "exited (3)")
    assert kept.supervisor.pid is None
    assert kept.process.closed


async def test_a_start_that_fails_for_good_is_failed_with_its_error() -> None:
    kept = keep(script=[MISSING], policy="on-failure")
    kept.supervisor.start()
    await kept.reach(State.FAILED)
    assert kept.supervisor.error is MISSING
    assert kept.supervisor.reason.startswith(str(MISSING))
    assert kept.launcher.starts == 1


async def test_a_start_that_may_succeed_later_is_tried_again() -> None:
    kept = keep(script=[NO_ROOM], policy="on-failure")
    kept.supervisor.start()
    await kept.started(1)
    assert (kept.launcher.starts, kept.supervisor.restarts, kept.supervisor.error) == (2, 1, None)
    await kept.supervisor.stop()


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [
        ("no", 1, False),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("always", 0, True),
        ("unless-stopped", 0, True),
    ],
)
async def test_what_follows_an_exit_is_the_policys(policy: str, code: int, restarts: bool) -> None:
    kept = keep(policy=policy)
    kept.supervisor.start()
    (await kept.started(1)).end(code)
    if restarts:
        await kept.started(2)
        assert kept.supervisor.restarts == 1
        await kept.supervisor.stop()
    else:
        await kept.reach(State.EXITED)
        assert kept.launcher.starts == 1


async def test_while_it_waits_for_its_next_attempt_it_says_when_and_why() -> None:
    kept = keep(policy="always", backoff=30.0)
    kept.supervisor.start()
    (await kept.started(1)).end(1)
    await kept.reach(State.RESTARTING)
    assert kept.supervisor.reason == "exited (1), restart 1 in 30s"
    assert kept.supervisor.next_attempt_at is not None
    assert 28 < kept.supervisor.next_attempt_at - time.time() <= 30
    assert kept.supervisor.pid is None
    await kept.supervisor.stop()
    assert kept.supervisor.next_attempt_at is None


async def test_a_crash_loop_ends_when_its_attempts_are_used_up() -> None:
    kept = keep(policy="on-failure", max_attempts=2, backoff=0.001)
    kept.supervisor.start()
    for number in (1, 2, 3):
        (await kept.started(number)).end(1)
    await kept.reach(State.FAILED)
    assert "restarted 2 times" in kept.supervisor.reason
    assert "giving up (restart = on-failure:2)" in kept.supervisor.reason
    assert (kept.launcher.starts, kept.supervisor.exit_code) == (3, 1)


async def test_attempts_count_anew_after_a_stable_time() -> None:
    kept = keep(policy="on-failure", max_attempts=1, backoff=0.001, reset_after=0.05)
    kept.supervisor.start()
    for number in (1, 2, 3):
        process = await kept.started(number)
        await asyncio.sleep(0.06)  # the stable time itself
        process.end(1)
    await kept.started(4)
    assert kept.supervisor.restarts == 3
    await kept.supervisor.stop()


async def test_starting_an_ended_container_gives_it_a_clean_history() -> None:
    kept = keep(policy="on-failure", max_attempts=1, backoff=0.001)
    kept.supervisor.start()
    for number in (1, 2):
        (await kept.started(number)).end(1)
    await kept.reach(State.FAILED)
    kept.supervisor.start()
    (await kept.started(3)).end(1)
    await kept.started(4)
    await kept.supervisor.stop()


async def test_starting_what_lives_changes_nothing() -> None:
    kept = keep()
    kept.supervisor.start()
    await kept.started(1)
    kept.supervisor.start()
    await asyncio.sleep(0)
    assert (kept.launcher.starts, kept.supervisor.state) == (1, State.RUNNING)
    await kept.supervisor.stop()


async def test_a_container_that_was_given_up_is_failed_and_can_be_started_later() -> None:
    kept = keep()
    kept.supervisor.give_up("dependency shop-db-1 is exited (1)")
    assert (kept.supervisor.state, kept.supervisor.reason) == (
        State.FAILED,
        "dependency shop-db-1 is exited (1)",
    )
    kept.supervisor.start()
    await kept.started(1)
    assert kept.supervisor.reason == ""
    await kept.supervisor.stop()


async def test_giving_up_does_not_take_a_container_from_its_restart_policy() -> None:
    kept = keep(script=[NO_ROOM, NO_ROOM], policy="always", backoff=0.02)
    kept.supervisor.start()
    await kept.reach(State.RESTARTING)
    kept.supervisor.give_up("the command that started it reports the failure")
    await kept.started(1)
    await kept.supervisor.stop()


async def test_a_pending_container_says_once_what_it_waits_for() -> None:
    kept = keep()
    kept.supervisor.explain_wait("waits for shop-db-1 to be healthy")
    kept.supervisor.explain_wait("waits for shop-db-1 to be healthy")
    assert kept.heard == [("waiting", State.PENDING, "waits for shop-db-1 to be healthy")]
    kept.supervisor.start()
    await kept.started(1)
    kept.supervisor.explain_wait("too late")
    assert kept.supervisor.reason == ""
    await kept.supervisor.stop()


async def test_when_the_spawner_is_lost_the_program_counts_as_ended() -> None:
    kept = keep()
    kept.supervisor.start()
    (await kept.started(1)).lose()
    await kept.reach(State.EXITED)
    assert kept.supervisor.exit_code == 255


def _limited() -> ServiceSpec:
    return ServiceSpec(name="web", resources=Resources(memory=64 << 20))


async def test_a_program_killed_for_want_of_memory_says_so_with_its_limit() -> None:
    kept = keep(_limited())
    kept.supervisor.start()
    process = await kept.started(1)
    kept.cgroup.kills = 1
    process.end(by=signal.SIGKILL)
    await kept.reach(State.EXITED)
    assert kept.supervisor.reason == "killed: out of memory, limit 64M"
    assert kept.actions.count("oom") == 1
    assert kept.said("oom") == "killed: out of memory, limit 64M"


async def test_a_parent_that_passes_an_oom_kill_on_as_its_exit_code_was_out_of_memory_too() -> None:
    kept = keep(_limited())  # init = true, or a shell: pid 1 ends with 137 by itself
    kept.supervisor.start()
    process = await kept.started(1)
    kept.cgroup.kills = 1
    process.end(137)
    await kept.reach(State.EXITED)
    assert kept.supervisor.reason == "killed: out of memory, limit 64M"


async def test_a_plain_kill_is_not_taken_for_an_oom_kill_of_an_earlier_run() -> None:
    kept = keep(_limited())
    kept.cgroup.kills = 1
    kept.supervisor.start()
    (await kept.started(1)).end(by=signal.SIGKILL)
    await kept.reach(State.EXITED)
    assert kept.supervisor.reason == "exited (137: killed by SIGKILL)"
    assert "oom" not in kept.actions


async def test_an_oom_kill_of_a_child_is_an_event_although_the_program_goes_on() -> None:
    kept = keep(_limited())
    kept.supervisor.start()
    process = await kept.started(1)
    kept.cgroup.kills = 1
    process.end(0)
    await kept.reach(State.EXITED)
    assert kept.supervisor.reason == "exited (0)"
    assert kept.actions.count("oom") == 1


async def test_a_group_ends_whole_when_one_process_is_killed_for_want_of_memory() -> None:
    spec = ServiceSpec(name="web", resources=Resources(memory=64 << 20, oom_group=True))
    kept = keep(msgspec.structs.replace(spec, restart=RestartPolicy(policy="on-failure")))
    kept.supervisor.start()
    first = await kept.started(1)
    kept.cgroup.run_out_of_memory()
    await kept.started(2)
    assert first.signals == [signal.SIGKILL]
    assert kept.cgroup.calls == ["kill", "renew"]
    assert kept.actions.count("oom") == 1
    assert kept.said("restarting") == "killed: out of memory, limit 64M, restart 1 at once"
    await kept.supervisor.stop()


async def test_without_a_group_the_others_go_on() -> None:
    kept = keep(_limited())
    kept.supervisor.start()
    process = await kept.started(1)
    kept.cgroup.run_out_of_memory()
    await eventually(lambda: "oom" in kept.actions)
    assert (process.signals, kept.supervisor.state) == ([], State.RUNNING)
    await kept.supervisor.stop()


async def test_limits_change_in_place_while_it_lives() -> None:
    kept = keep()
    kept.supervisor.start()
    await kept.started(1)
    changed = ServiceSpec(name="web", resources=Resources(pids=7))
    kept.supervisor.update(changed)
    assert kept.launcher.limits == [changed]
    assert (kept.supervisor.spec, kept.supervisor.state) == (changed, State.RUNNING)
    assert kept.launcher.starts == 1
    await kept.supervisor.stop()


async def test_the_cgroup_of_an_ended_container_is_made_anew_with_new_limits() -> None:
    kept = keep()
    kept.supervisor.start()
    (await kept.started(1)).end(0)
    await kept.reach(State.EXITED)
    kept.supervisor.update(ServiceSpec(name="web", resources=Resources(pids=7)))
    assert kept.cgroup.calls == ["remove"]
    assert kept.launcher.limits == []


async def test_a_new_restart_policy_counts_from_the_next_end() -> None:
    kept = keep(policy="no")
    kept.supervisor.start()
    process = await kept.started(1)
    kept.supervisor.update(ServiceSpec(name="web", restart=RestartPolicy(policy="always")))
    process.end(0)
    await kept.started(2)
    await kept.supervisor.stop()


async def test_an_attached_container_runs_once_and_its_descriptors_are_the_callers() -> None:
    kept = keep(policy="always")
    process = await kept.supervisor.attach(None, stdin=False)
    assert [cast(Process, made) for made in kept.launcher.processes] == [process]
    assert kept.supervisor.state is State.RUNNING
    kept.process.end(5)
    await kept.reach(State.EXITED)
    assert (kept.supervisor.exit_code, kept.launcher.starts) == (5, 1)


async def test_an_attached_container_that_cannot_start_tells_its_caller() -> None:
    kept = keep(script=[MISSING])
    with pytest.raises(LaunchError, match="ENOENT"):
        await kept.supervisor.attach(None, stdin=False)
    assert kept.supervisor.state is State.FAILED


async def test_a_defect_of_orch_is_told_and_does_not_leave_anybody_waiting() -> None:
    kept = keep(script=[TypeError("describe() takes 3 arguments")])
    kept.supervisor.start()
    await kept.reach(State.FAILED)
    assert "TypeError: describe() takes 3 arguments (this is a bug in orch)" in str(kept.supervisor.error)


async def test_whoever_waits_for_a_change_is_woken_by_each(kept: Kept) -> None:
    seen: list[State] = []

    async def watch(supervisor: Supervisor) -> None:
        while supervisor.state is not State.EXITED:
            await supervisor.wait_change()
            seen.append(supervisor.state)

    watcher = asyncio.create_task(watch(kept.supervisor))
    kept.supervisor.start()
    (await kept.started(1)).end(0)
    await watcher
    assert seen[-1] is State.EXITED
    assert kept.supervisor.health is Health.NONE


@pytest.fixture
async def kept() -> Kept:
    return keep()


async def test_a_program_that_ends_before_it_is_looked_at_is_seen_to_have_run() -> None:
    process = FakeProcess()
    process.end(0)
    kept = keep(script=[process])
    kept.supervisor.start()
    await kept.reach(State.EXITED)
    assert State.RUNNING in [state for _, state, _ in kept.heard]
