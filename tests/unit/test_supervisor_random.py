"""Whatever is asked of a supervisor, in whatever order: it never loses its container, and always ends."""

from __future__ import annotations

import asyncio
import itertools
import signal

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConflictError, LaunchError
from orchestrator.launch.launcher import ExecRequest
from orchestrator.spec import RestartPolicy, ServiceSpec
from orchestrator.states import ENDED, TRANSITIONS, State
from support.fake_launcher import FakeProcess, Kept, keep

NO_ROOM = LaunchError('cannot start "shop-web-1"', "clone: ENOMEM", status=125)
ACTS = (
    "start", "stop", "kill-stop", "pause", "unpause", "exec", "sigkill", "exit 0", "exit 1", "update",
    "give-up", "turn", "turn", "turn",
)  # fmt: skip


async def act(kept: Kept, name: str, asked: list[asyncio.Task[None]]) -> None:
    supervisor = kept.supervisor
    try:
        match name.split():
            case ["start"]:
                supervisor.start()
            case ["stop"]:
                asked.append(asyncio.create_task(supervisor.stop(0.0)))
            case ["kill-stop"]:
                asked.append(asyncio.create_task(supervisor.stop(0.0, kill=True)))
            case ["pause"]:
                await supervisor.pause()
            case ["unpause"]:
                await supervisor.unpause()
            case ["exec"]:
                await supervisor.exec(ExecRequest(["true"]))
            case ["sigkill"]:
                supervisor.kill(signal.SIGKILL)
            case ["exit", code] if kept.launcher.processes:
                kept.process.end(int(code))
            case ["update"]:
                supervisor.update(supervisor.spec)
            case ["give-up"]:
                supervisor.give_up("a dependency failed")
            case ["turn"]:
                await asyncio.sleep(0)
    except ConflictError:
        pass  # a refusal is an answer


@given(
    acts=st.lists(st.sampled_from(ACTS), max_size=30),
    policy=st.sampled_from(["no", "on-failure", "always"]),
    failures=st.lists(st.booleans(), max_size=4),
)
def test_any_order_of_requests_keeps_to_the_table_and_can_be_stopped(
    acts: list[str], policy: str, failures: list[bool]
) -> None:
    async def scenario() -> None:
        spec = ServiceSpec(
            name="web",
            restart=RestartPolicy(policy=policy, backoff=0.0),  # type: ignore[arg-type]
        )
        kept = keep(spec, script=[NO_ROOM if failed else FakeProcess() for failed in failures])
        states = [State.PENDING]
        asked: list[asyncio.Task[None]] = []
        for name in acts:
            await act(kept, name, asked)
        async with asyncio.timeout(5):
            await kept.supervisor.stop(0.0, kill=True)
            await asyncio.gather(*asked)
        states += [state for _, state, _ in kept.heard]
        steps = {(before, after) for before, after in itertools.pairwise(states) if before != after}
        assert steps <= {(before, after) for (before, _), after in TRANSITIONS.items()}
        assert kept.supervisor.state in ENDED
        assert kept.supervisor.pid is None
        assert all(process.closed for process in kept.launcher.processes)

    asyncio.run(scenario())
