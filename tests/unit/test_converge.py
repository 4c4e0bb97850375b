"""Walking a plan: order, waits and their ends, and what a failure takes with it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from orchestrator.converge import Execution, Request, settle
from orchestrator.errors import DependencyError, LaunchError, OrchError
from orchestrator.plan import lifecycle
from orchestrator.plan.operations import Plan
from orchestrator.plan.reconcile import reconcile
from orchestrator.spec import (
    Attachment,
    Condition,
    Dependency,
    ExecCheck,
    Healthcheck,
    NetworkSpec,
    ProjectSpec,
    RestartPolicy,
    ServiceSpec,
)
from orchestrator.states import Health, State
from orchestrator.supervise.project import Project
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import Progress, ProgressKind
from support.fake_launcher import FakeLauncher, FakeProcess, eventually
from support.fake_project import FakeProject

#: A health check that the tests answer themselves: its first probe takes longer than they do.
CHECK = Healthcheck(test=ExecCheck(command=("true",)), timeout=600.0)


class Run:
    """One execution and what it reported."""

    def __init__(self, project: FakeProject, plan: Plan | None = None) -> None:
        self.project = project
        self.progress: list[Progress] = []
        self.request = Request(self.progress.append)
        self.plan = reconcile(project.spec, project.observe()) if plan is None else plan
        execution = Execution(cast(Project, project), self.plan, self.request)
        self.task = asyncio.create_task(execution.run())

    def said(self, kind: ProgressKind, operation: str = "") -> list[str]:
        return [
            p.message or p.operation
            for p in self.progress
            if p.kind is kind and operation in ("", p.operation)
        ]

    async def waits(self, operation: str, text: str) -> None:
        await eventually(lambda: any(text in said for said in self.said(ProgressKind.WAITING, operation)))

    async def errors(self) -> list[OrchError]:
        async with asyncio.timeout(5):
            return await self.task


def shop(*services: ServiceSpec, **more: Any) -> FakeProject:
    return FakeProject(ProjectSpec(name="shop", services={spec.name: spec for spec in services}, **more))


def needs(service: str, condition: Condition = Condition.STARTED, **more: Any) -> Dependency:
    return Dependency(service=service, condition=condition, **more)


def healthy(project: FakeProject, name: str) -> None:
    supervisor = project.supervisors[name]
    supervisor.health_is(Health.HEALTHY, "healthy")


async def end(project: FakeProject) -> None:
    """Leave no task behind."""
    run = Run(project, lifecycle.bring_down(project.observe()))
    assert await run.errors() == []
    assert project.supervisors == {}


async def test_dependencies_start_first_and_stop_last() -> None:
    project = shop(
        ServiceSpec(name="web", depends_on=(needs("api"),)),
        ServiceSpec(name="api", depends_on=(needs("db"),)),
        ServiceSpec(name="db"),
    )
    assert await Run(project).errors() == []
    started = [step for step in project.steps if step.startswith("started")]
    assert started == ["started shop-db-1", "started shop-api-1", "started shop-web-1"]
    await end(project)
    exited = [step for step in project.steps if step.startswith("exited")]
    assert exited == ["exited shop-web-1", "exited shop-api-1", "exited shop-db-1"]


async def test_what_does_not_depend_on_each_other_starts_at_the_same_time() -> None:
    project = shop(ServiceSpec(name="a"), ServiceSpec(name="b"))
    gate = asyncio.Event()
    project.launchers = {name: FakeLauncher(gate=gate) for name in ("a", "b")}
    run = Run(project)
    await eventually(lambda: all(launcher.starts for launcher in project.launchers.values()))
    gate.set()
    assert await run.errors() == []
    await end(project)


async def test_a_network_is_there_before_and_gone_after_its_containers() -> None:
    spec = ServiceSpec(name="web", networks=(Attachment(network="default"),))
    project = shop(spec, networks={"default": NetworkSpec(name="default")})
    assert await Run(project).errors() == []
    assert project.steps[0] == "create-network default"
    await end(project)
    assert project.steps[-2:] == ["remove-network default", "tell-names"]
    assert project.steps[-3] == "remove shop-web-1"


async def test_healthy_waits_for_health_and_says_so() -> None:
    project = shop(
        ServiceSpec(name="db", healthcheck=CHECK),
        ServiceSpec(name="web", depends_on=(needs("db", Condition.HEALTHY, timeout=30.0),)),
    )
    run = Run(project)
    await run.waits("create web-1", "shop-db-1 to be healthy (is not healthy yet; at most 30s)")
    web = project.supervisors["shop-web-1"]
    seen = [(web.state, web.reason)]
    healthy(project, "shop-db-1")
    assert await run.errors() == []
    seen.append((web.state, web.reason))
    text = "waits for shop-db-1 to be healthy (is not healthy yet; at most 30s)"
    assert seen == [(State.PENDING, text), (State.RUNNING, "")]
    await end(project)


async def test_completed_waits_for_the_end_of_the_job() -> None:
    project = shop(
        ServiceSpec(name="migrate", kind="job"),
        ServiceSpec(name="web", depends_on=(needs("migrate", Condition.COMPLETED),)),
    )
    run = Run(project)
    await run.waits("create web-1", "shop-migrate-1 to be completed")
    project.launchers["migrate"].processes[0].end(0)
    assert await run.errors() == []
    await end(project)


async def test_a_dependency_that_exits_fails_its_dependants_at_once_and_all_the_way_up() -> None:
    project = shop(
        ServiceSpec(name="db", healthcheck=CHECK),
        ServiceSpec(name="api", depends_on=(needs("db", Condition.HEALTHY, timeout=600.0),)),
        ServiceSpec(name="web", depends_on=(needs("api"),)),
        ServiceSpec(name="other"),
    )
    run = Run(project)
    await run.waits("create api-1", "shop-db-1 to be healthy")
    project.launchers["db"].processes[0].end(1)
    errors = {error.what: error for error in await run.errors()}
    assert set(errors) == {"cannot create api-1", "cannot create web-1"}
    assert "dependency shop-db-1 exited (1)" in str(errors["cannot create api-1"])
    assert "orch logs db" in str(errors["cannot create api-1"])
    assert "shop-db-1 exited (1)" in str(errors["cannot create web-1"])
    states = {name: supervisor.state for name, supervisor in project.supervisors.items()}
    assert states["shop-api-1"] is states["shop-web-1"] is State.FAILED
    assert states["shop-other-1"] is State.RUNNING
    assert "shop-db-1 exited (1)" in project.supervisors["shop-web-1"].reason
    await end(project)


async def test_a_failed_dependency_is_noticed_while_another_is_still_waited_for() -> None:
    project = shop(
        ServiceSpec(name="slow", healthcheck=CHECK),
        ServiceSpec(name="db"),
        ServiceSpec(
            name="web",
            depends_on=(needs("slow", Condition.HEALTHY), needs("db", Condition.COMPLETED)),
        ),
    )
    run = Run(project)
    await run.waits("create web-1", "shop-slow-1 to be healthy")
    await run.waits("create web-1", "shop-db-1 to be completed")
    project.launchers["db"].processes[0].end(3)
    (error,) = await run.errors()
    assert "shop-db-1 exited (3)" in str(error)
    await end(project)


async def test_every_deadline_counts_from_the_start_of_its_own_dependency() -> None:
    project = shop(
        ServiceSpec(name="a", healthcheck=CHECK),
        ServiceSpec(name="b", healthcheck=CHECK),
        ServiceSpec(
            name="web",
            depends_on=(
                needs("a", Condition.HEALTHY, timeout=600.0),
                needs("b", Condition.HEALTHY, timeout=0.05),
            ),
        ),
    )
    (error,) = await Run(project).errors()
    assert "shop-b-1 is not healthy yet after 50ms" in str(error)
    await end(project)


async def test_a_deadline_says_what_it_waited_for_how_long_and_what_was_wrong_last() -> None:
    project = shop(
        ServiceSpec(name="db", healthcheck=CHECK),
        ServiceSpec(name="web", depends_on=(needs("db", Condition.HEALTHY, timeout=0.05),)),
    )
    run = Run(project)
    await run.waits("create web-1", "shop-db-1 to be healthy")
    text = "last check failed: connection refused by 10.0.0.2:5432"
    project.supervisors["shop-db-1"].health_is(Health.STARTING, text)
    (error,) = await run.errors()
    assert isinstance(error, DependencyError)
    assert str(error) == (
        f"cannot create web-1: dependency shop-db-1 is not healthy yet after 50ms: {text} "
        "(see orch logs db, or raise depends_on.db.timeout)"
    )
    await end(project)


@pytest.mark.parametrize("condition", [Condition.HEALTHY, Condition.COMPLETED])
async def test_a_dependency_that_is_not_required_only_warns(condition: Condition) -> None:
    project = shop(
        ServiceSpec(name="db", healthcheck=CHECK),
        ServiceSpec(name="web", depends_on=(needs("db", condition, required=False),)),
    )
    run = Run(project)
    await run.waits("create web-1", "shop-db-1 to be")
    project.launchers["db"].processes[0].end(1)
    assert await run.errors() == []
    (warning,) = run.said(ProgressKind.WARNING)
    assert "shop-db-1 exited (1)" in warning
    assert project.supervisors["shop-web-1"].state is State.RUNNING
    await end(project)


async def test_a_dependency_that_cannot_start_fails_its_dependants_with_its_own_error() -> None:
    project = shop(ServiceSpec(name="db"), ServiceSpec(name="web", depends_on=(needs("db"),)))
    missing = LaunchError('cannot start "shop-db-1"', "exec nope: ENOENT", status=127)
    project.launchers["db"] = FakeLauncher([missing])
    errors = await Run(project).errors()
    assert errors[0] is missing
    assert str(missing) in str(errors[1])
    assert [error.code for error in errors] == ["launch", "dependency"]
    await end(project)


async def test_a_start_that_is_tried_again_fails_the_command_and_goes_on_being_tried() -> None:
    spec = ServiceSpec(name="db", restart=RestartPolicy(policy="always", backoff=0.05, jitter=0.0))
    project = shop(spec)
    project.launchers["db"] = FakeLauncher([LaunchError('cannot start "shop-db-1"', "exec nope: ENOENT")])
    assert [str(error) for error in await Run(project).errors()] == [
        'cannot start "shop-db-1": exec nope: ENOENT'
    ]
    supervisor = project.supervisors["shop-db-1"]
    assert supervisor.state is State.RESTARTING
    await supervisor.wait_until(lambda: supervisor.state is State.RUNNING)
    await end(project)


async def test_an_error_of_the_system_names_the_operation_and_the_file() -> None:
    project = shop(ServiceSpec(name="web"))
    project.failing["create shop-web-1"] = OSError(28, "No space left on device", "/state/containers")
    (error,) = await Run(project).errors()
    assert str(error) == "cannot create web-1: /state/containers: No space left on device"


async def test_a_failed_network_takes_only_what_is_on_it_with_it() -> None:
    project = shop(
        ServiceSpec(name="web", networks=(Attachment(network="front"),)),
        ServiceSpec(name="db", networks=(Attachment(network="back"),)),
        networks={name: NetworkSpec(name=name) for name in ("front", "back")},
    )
    project.failing["create-network front"] = OrchError("cannot make the bridge", "EPERM")
    errors = await Run(project).errors()
    assert [error.what for error in errors] == ["cannot make the bridge", "cannot create web-1"]
    assert project.supervisors["shop-db-1"].state is State.RUNNING
    await end(project)


async def test_a_kill_that_is_asked_for_on_the_way_spares_nobody_a_grace() -> None:
    stubborn = FakeProcess(dies_of=(9,))
    project = shop(ServiceSpec(name="db", stop_grace_period=600.0))
    project.launchers["db"] = FakeLauncher([stubborn])
    assert await Run(project).errors() == []
    run = Run(project, lifecycle.bring_down(project.observe()))
    run.request.kill = True
    assert await run.errors() == []
    assert stubborn.signals == [9]


async def test_settle_returns_when_all_is_well() -> None:
    project = shop(ServiceSpec(name="db", healthcheck=CHECK), ServiceSpec(name="job", kind="job"))
    await Run(project).errors()
    settling = asyncio.create_task(settle(cast(Project, project), ["db", "job"], 600.0, lambda _: None))
    healthy(project, "shop-db-1")
    project.launchers["job"].processes[0].end(0)
    assert await settling == []
    await end(project)


async def test_settle_says_what_can_never_be_without_waiting_for_the_rest_of_it() -> None:
    project = shop(ServiceSpec(name="db", healthcheck=CHECK), ServiceSpec(name="job", kind="job"))
    await Run(project).errors()
    project.launchers["job"].processes[0].end(4)
    healthy(project, "shop-db-1")
    (error,) = await settle(cast(Project, project), ["db", "job"], 600.0, lambda _: None)
    assert str(error) == "shop-job-1 exited (4) (see orch logs job)"
    await end(project)


async def test_settle_gives_up_at_its_deadline_and_says_on_what() -> None:
    project = shop(ServiceSpec(name="db", healthcheck=CHECK))
    await Run(project).errors()
    project.supervisors["shop-db-1"].health_is(Health.STARTING, "last check failed: exited (1)")
    said: list[Progress] = []
    (error,) = await settle(cast(Project, project), ["db"], 0.02, said.append)
    assert str(error) == (
        "shop-db-1 is not healthy yet after 20ms: last check failed: exited (1) "
        "(raise --wait-timeout if it only needs more time)"
    )
    assert [(progress.kind, progress.operation) for progress in said] == [
        (ProgressKind.WAITING, "wait shop-db-1"),
        (ProgressKind.FAILED, "wait shop-db-1"),
    ]
    assert said[0].message == "is not healthy yet: last check failed: exited (1) (waits at most 20ms)"
    await end(project)


async def test_a_walk_that_is_cut_short_leaves_its_containers_to_the_next_command() -> None:
    project = shop(
        ServiceSpec(name="db", healthcheck=CHECK),
        ServiceSpec(name="web", depends_on=(needs("db", Condition.HEALTHY),)),
    )
    run = Run(project)
    await run.waits("create web-1", "shop-db-1 to be healthy")
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    states: dict[str, Supervisor] = project.supervisors
    assert {name: s.state for name, s in states.items()} == {
        "shop-db-1": State.RUNNING,
        "shop-web-1": State.PENDING,
    }
    await end(project)
