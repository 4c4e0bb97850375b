"""Observe, plan, execute: this walks a plan against a live project, and takes no decision itself.

Every operation of the plan is one task; it waits for the operations and conditions that the plan names, and
says so while it waits. There is no second way to bring a project up or down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from orchestrator.errors import DependencyError, LaunchError, OrchError
from orchestrator.plan.conditions import Judgement, Outlook, judge
from orchestrator.plan.operations import Action, After, Operation, Plan
from orchestrator.plan.reconcile import runs_to_completion
from orchestrator.spec import Condition, NetworkSpec, ServiceSpec, VolumeSpec
from orchestrator.states import State
from orchestrator.supervise.project import Project
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.units import format_duration
from orchestrator.views import Progress, ProgressKind

Report = Callable[[Progress], None]
#: A wait that nobody gave a deadline ends after this many seconds.
DEFAULT_WAIT = 3600.0


@dataclass(slots=True)
class Request:
    """How a plan shall be executed.

    :param timeout: grace of stops, seconds; None means each service's own.
    :param kill: set while it runs to cut every grace short.
    """

    report: Report
    timeout: float | None = None
    kill: bool = False
    errors: list[OrchError] = field(default_factory=list)


class Execution:
    """One walk through one plan."""

    def __init__(self, project: Project, plan: Plan, request: Request) -> None:
        self._project = project
        self._plan = plan
        self._request = request
        loop = asyncio.get_running_loop()
        self._results: dict[str, asyncio.Future[OrchError | None]] = {
            operation.id: loop.create_future() for operation in plan.operations
        }
        #: Networks that are known well enough to make containers for, though not finished yet.
        self._opened: dict[str, asyncio.Future[None]] = {
            op.id: loop.create_future() for op in plan.operations if op.action is Action.CREATE_NETWORK
        }
        removed_networks = {op.target for op in plan.operations if op.action is Action.REMOVE_NETWORK}
        self._removes_network = removed_networks

    async def run(self) -> list[OrchError]:
        """Execute every operation; what fails fails what waits for it, and nothing else. The failures."""
        self._say(ProgressKind.PLAN, plan=self._plan.to_view())
        self._project.assign_addresses(self._project.spec.services.values())
        async with anyio.create_task_group() as tasks:
            for operation in self._plan.operations:
                tasks.start_soon(self._run, operation, name=operation.id)
        try:
            await self._project.tell_names()
        except OSError as error:
            cause = f"{error.filename}: {error.strerror}"
            self._request.errors.append(
                LaunchError("cannot tell running containers their neighbours' names", cause)
            )
        return self._request.errors

    async def _run(self, operation: Operation) -> None:
        result = self._results[operation.id]
        try:
            await self._wait(operation, [after for after in operation.after if after.condition is None])
            if operation.action is Action.CREATE:  # known, and seen to wait, as soon as it can be
                assert isinstance(operation.spec, ServiceSpec)
                await self._project.create_container(operation.spec, operation.replica)
            await self._wait(operation, [after for after in operation.after if after.condition is not None])
            began = time.monotonic()
            self._say(ProgressKind.RUNNING, operation)
            await self._perform(operation)
            self._say(ProgressKind.DONE, operation, seconds=time.monotonic() - began)
            result.set_result(None)
        except OrchError as error:
            self._fail(operation, error)
        except OSError as error:
            cause = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
            self._fail(operation, LaunchError(f"cannot {operation.id}", cause))
        finally:
            if not result.done():
                result.cancel()

    def _fail(self, operation: Operation, error: OrchError) -> None:
        self._request.errors.append(error)
        self._say(ProgressKind.FAILED, operation, error=error.to_wire())
        if supervisor := self._supervisor(operation):
            supervisor.give_up(str(error))
        self._results[operation.id].set_result(error)

    # Waiting

    async def _wait(self, operation: Operation, afters: Sequence[After]) -> None:
        """Wait for all of them at once: one that fails ends the wait, however long the others may take."""
        waiting = _Waiting(lambda text: self._explain(operation, text))
        waits = [asyncio.ensure_future(self._wait_for(operation, after, waiting)) for after in afters]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    async def _wait_for(self, operation: Operation, after: After, waiting: _Waiting) -> None:
        try:
            if after.operation:
                await self._wait_operation(operation, after, waiting)
            if after.condition is not None:
                await self._wait_condition(operation, after, after.condition, waiting)
        except DependencyError as error:
            if after.required:
                raise
            self._say(ProgressKind.WARNING, operation, message=str(error))
        finally:
            waiting.over(after)

    async def _wait_operation(self, operation: Operation, after: After, waiting: _Waiting) -> None:
        result = self._results[after.operation]
        if not result.done():
            waiting.say(after, after.operation)
        if opened := self._opened.get(after.operation):
            await asyncio.wait((result, opened), return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                return
        error = await asyncio.shield(result)
        if error is not None:
            what = f"cannot {operation.id}"
            if isinstance(error, DependencyError):
                raise DependencyError(what, str(error))
            raise DependencyError(what, f"{after.operation} failed: {error}")

    async def _wait_condition(
        self, operation: Operation, after: After, condition: Condition, waiting: _Waiting
    ) -> None:
        supervisor = self._project.supervisors[after.container]
        limit = DEFAULT_WAIT if after.timeout is None else after.timeout
        deadline = time.monotonic() + limit
        until = format_duration(limit)
        while True:
            judgement = judge(
                condition, supervisor.spec, supervisor.state, supervisor.health, supervisor.exit_code
            )
            if judgement.outlook is Outlook.MET:
                return
            if judgement.outlook is Outlook.NEVER:
                reason = describe(supervisor, judgement.reason)
                raise DependencyError(f"cannot {operation.id}", f"dependency {reason}", _see_logs(supervisor))
            text = f"{after.container} to be {condition} ({judgement.reason}; at most {until})"
            waiting.say(after, text)
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await supervisor.wait_change()
            except TimeoutError:
                reason = describe(supervisor, f"{judgement.reason} after {until}")
                raise DependencyError(
                    f"cannot {operation.id}", f"dependency {reason}",
                    f"see orch logs {supervisor.spec.name}, or raise depends_on.{supervisor.spec.name}.timeout",
                ) from None  # fmt: skip

    def _explain(self, operation: Operation, text: str) -> None:
        self._say(ProgressKind.WAITING, operation, message=text)
        if operation.action in (Action.CREATE, Action.START) and (supervisor := self._supervisor(operation)):
            supervisor.explain_wait(text)

    # Performing

    async def _perform(self, operation: Operation) -> None:
        project, spec = self._project, operation.spec
        match operation.action:
            case Action.CREATE_NETWORK:
                assert isinstance(spec, NetworkSpec)
                await project.create_network(spec, lambda: self._network_opened(operation))
            case Action.REMOVE_NETWORK:
                await project.remove_network(operation.target)
            case Action.CREATE_VOLUME:
                assert isinstance(spec, VolumeSpec)
                project.create_volume(spec.name)
            case Action.REMOVE_VOLUME:
                await project.remove_volume(operation.target)
            case Action.CREATE:
                await self._publish_and_start(project.supervisors[operation.target])
            case Action.START:
                supervisor = project.supervisors[operation.target]
                await self._start(supervisor)
            case Action.RECREATE:
                assert isinstance(spec, ServiceSpec)
                supervisor = project.supervisors[operation.target]
                await self._stop(supervisor, "recreated")
                await project.remove_containers([supervisor])
                await self._publish_and_start(await project.create_container(spec, operation.replica))
            case Action.UPDATE:
                assert isinstance(spec, ServiceSpec)
                project.supervisors[operation.target].update(spec)
            case Action.RESTART:
                supervisor = project.supervisors[operation.target]
                await self._stop(supervisor, "restarted")
                await self._start(supervisor)
            case Action.STOP:
                await self._stop(project.supervisors[operation.target], "stopped")
            case Action.REMOVE:
                supervisor = project.supervisors[operation.target]
                await self._stop(supervisor, "removed")
                networks = {endpoint.network.name for endpoint in supervisor.container.endpoints}
                await project.remove_containers([supervisor], with_networks=networks <= self._removes_network)

    def _network_opened(self, operation: Operation) -> None:
        self._project.assign_addresses(self._project.spec.services.values())
        self._opened[operation.id].set_result(None)

    async def _publish_and_start(self, supervisor: Supervisor) -> None:
        publishing = asyncio.create_task(self._project.publish(supervisor))
        try:
            await self._start(supervisor)
        finally:
            with anyio.CancelScope(shield=True):  # or it might be published after it has been removed
                await publishing

    async def _start(self, supervisor: Supervisor) -> None:
        supervisor.start()
        await supervisor.wait_until(lambda: supervisor.state not in (State.PENDING, State.STARTING))
        failed = supervisor.state is State.FAILED or (
            supervisor.state is State.RESTARTING and supervisor.error
        )
        if failed:
            raise supervisor.error or LaunchError(
                f'cannot start "{supervisor.container.name}"', supervisor.reason
            )

    async def _stop(self, supervisor: Supervisor, reason: str) -> None:
        if supervisor.state is State.EXITED:
            return
        if self._request.kill:
            await supervisor.stop(0, kill=True, reason=reason)
        else:
            await supervisor.stop(self._request.timeout, reason=reason)

    def _supervisor(self, operation: Operation) -> Supervisor | None:
        return self._project.supervisors.get(operation.target)

    def _say(
        self,
        kind: ProgressKind,
        operation: Operation | None = None,
        **fields: Any,
    ) -> None:
        name = operation.id if operation else ""
        self._request.report(Progress(kind=kind, time=time.time(), operation=name, **fields))


class _Waiting:
    """What one operation waits for at the moment, told whenever that changes."""

    def __init__(self, explain: Callable[[str], None]) -> None:
        self._explain = explain
        self._texts: dict[After, str] = {}

    def say(self, after: After, text: str) -> None:
        """This is waited for."""
        if self._texts.get(after) != text:
            self._texts[after] = text
            self._tell()

    def over(self, after: After) -> None:
        """This is not waited for any more."""
        if self._texts.pop(after, None) and self._texts:
            self._tell()

    def _tell(self) -> None:
        self._explain("waits for " + ", ".join(self._texts.values()))


def describe(supervisor: Supervisor, reason: str) -> str:
    """``shop-db-1 is unhealthy: 3/3 checks failed: connection refused``."""
    return f"{supervisor.container.name} {_with_detail(supervisor, reason)}"


def _with_detail(supervisor: Supervisor, reason: str) -> str:
    detail = supervisor.reason if supervisor.reason not in reason else ""
    return f"{reason}: {detail}" if detail else reason


def _see_logs(supervisor: Supervisor) -> str:
    return f"see orch logs {supervisor.spec.name}" if supervisor.started_at else ""


async def settle(
    project: Project, services: Iterable[str], timeout: float | None, report: Report
) -> list[OrchError]:
    """Wait until every container of ``services`` is running and healthy, or has completed if it is to end.

    The errors say what is not, and why; as soon as one can never be, the wait for it ends. Each wait is told
    as an operation ``wait NAME``, which no plan has.
    """
    wanted = set(services)
    to_completion = runs_to_completion(project.spec.services)
    limit = DEFAULT_WAIT if timeout is None else timeout
    deadline = time.monotonic() + limit
    errors: list[OrchError] = []

    async def one(supervisor: Supervisor) -> None:
        condition = Condition.COMPLETED if supervisor.spec.name in to_completion else Condition.HEALTHY
        began, told = time.monotonic(), ""

        def say(kind: ProgressKind, **fields: Any) -> None:
            report(
                Progress(kind=kind, time=time.time(), operation=f"wait {supervisor.container.name}", **fields)
            )

        def look() -> Judgement:
            return judge(
                condition, supervisor.spec, supervisor.state, supervisor.health, supervisor.exit_code
            )

        try:
            async with asyncio.timeout(max(0.0, deadline - began)):
                while (judgement := look()).outlook is Outlook.WAIT:
                    text = f"{_with_detail(supervisor, judgement.reason)} (waits at most {format_duration(limit)})"
                    if text != told:
                        say(ProgressKind.WAITING, message=text)
                        told = text
                    await supervisor.wait_change()
        except TimeoutError:
            judgement = look()
        if judgement.outlook is Outlook.MET:
            if told:
                say(ProgressKind.DONE, seconds=time.monotonic() - began)
            return
        if judgement.outlook is Outlook.NEVER:
            error = DependencyError(describe(supervisor, judgement.reason), "", _see_logs(supervisor))
        else:
            text = describe(supervisor, f"{judgement.reason} after {format_duration(limit)}")
            error = DependencyError(text, "", "raise --wait-timeout if it only needs more time")
        errors.append(error)
        if told:
            say(ProgressKind.FAILED, error=error.to_wire())

    async with anyio.create_task_group() as tasks:
        for supervisor in list(project.supervisors.values()):
            if supervisor.spec.name in wanted and not supervisor.container.one_off:
                tasks.start_soon(one, supervisor)
    return errors
