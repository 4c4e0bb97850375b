"""The daemon: an instance's projects, and every command upon them.

A command that changes a project is one task at a time (``Project`` has a lock here), survives the client that
asked for it, and answers with a stream of progress. ``down`` does not wait for an ``up`` that is under way: it
cuts it short.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from orchestrator.converge import Execution, Report, Request, settle
from orchestrator.errors import ConflictError, NotFoundError, OrchError, UsageError
from orchestrator.manifest.host import limit_problems
from orchestrator.plan import lifecycle
from orchestrator.plan.graph import closure, dependency_graph
from orchestrator.plan.one_off import keep_services
from orchestrator.plan.operations import Plan
from orchestrator.plan.reconcile import Options, reconcile
from orchestrator.service.describe import project_containers
from orchestrator.service.events import EventLog
from orchestrator.spec import ProjectSpec, ServiceSpec
from orchestrator.states import ENDED
from orchestrator.supervise.project import Facilities, Project
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import EventView, PlanView, Progress, ProgressKind

log = structlog.get_logger()
_MEMORY_OF_PROGRESS = 100_000
#: Seconds for which progress is gathered: nobody sees less, and a busy start is not held up by its own report.
_GATHERING = 0.01
#: Seconds that those who follow a project's logs have to read its end before it is deleted.
_LAST_WORDS = 2.0


class ProgressStream:
    """The progress of one command: kept, so that whoever listens late misses nothing."""

    def __init__(self) -> None:
        self._lines: collections.deque[Progress] = collections.deque(maxlen=_MEMORY_OF_PROGRESS)
        self._grown = asyncio.Event()
        self._ended = asyncio.Event()

    def add(self, progress: Progress) -> None:
        """One more line; RESULT is the last."""
        self._lines.append(progress)
        self._grown.set()
        if progress.kind is ProgressKind.RESULT:
            self._ended.set()

    async def batches(self) -> AsyncIterator[list[Progress]]:
        """Every line, up to and with the RESULT, as many at a time as there are."""
        index = 0
        while True:
            self._grown.clear()
            batch = list(itertools.islice(self._lines, index, None))
            index += len(batch)
            if batch:
                yield batch
                if batch[-1].kind is ProgressKind.RESULT:
                    return
                with contextlib.suppress(TimeoutError):  # gather what comes meanwhile
                    async with asyncio.timeout(_GATHERING):
                        await self._ended.wait()
            await self._grown.wait()

    async def result(self) -> Progress:
        """The RESULT, when it is there."""
        return [batch async for batch in self.batches()][-1][-1]


class _Readers:
    """Who reads what, by name, and the end of it."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        self._counts[name] += 1
        try:
            yield
        finally:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
            self._ended.set()

    async def wait_for(self, name: str) -> None:
        """Wait until nobody reads ``name``."""
        while self._counts[name]:
            self._ended.clear()
            await self._ended.wait()


@dataclass(slots=True)
class _Command:
    """A command that is changing a project."""

    name: str
    request: Request
    task: asyncio.Task[list[OrchError]]


@dataclass(slots=True)
class _Entry:
    """A project, and the commands that change it: one at a time, the others wait for the lock in their order."""

    project: Project
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    commands: list[_Command] = field(default_factory=list)


class Daemon:
    """Everything that one instance runs."""

    def __init__(self, facilities: Facilities) -> None:
        self.facilities = facilities
        self.events = EventLog()
        self.started_at = time.time()
        #: Set whenever the number of projects or leases changes.
        self.changed = asyncio.Event()
        self._entries: dict[str, _Entry] = {}
        self._leases: collections.Counter[str] = collections.Counter()
        self._runs: collections.Counter[str] = collections.Counter()  # one-off containers, by project
        self._tasks: set[asyncio.Task[Any]] = set()
        self._log_readers = _Readers()

    # Looking

    @property
    def idle(self) -> bool:
        """Whether there is no project and nobody who means to bring one."""
        return not self._entries and not self._leases and not self._tasks

    @property
    def projects(self) -> list[Project]:
        """All projects, by name."""
        return [entry.project for _, entry in sorted(self._entries.items())]

    def project(self, name: str) -> Project:
        """The project of that name.

        :raises NotFoundError: when it is not up.
        """
        if entry := self._entries.get(name):
            return entry.project
        known = ", ".join(sorted(self._entries)) or "none"
        raise NotFoundError(
            f'no project "{name}" is up', f"projects that are: {known}", "bring it up with orch up"
        )

    def select(self, name: str | None, references: Sequence[str] = ()) -> list[Supervisor]:
        """Containers by project (None: all projects) and references (empty: all).

        :raises NotFoundError: naming the reference that nothing matches.
        """
        projects = [self.project(name)] if name else self.projects
        everything = [supervisor for project in projects for supervisor in project.supervisors.values()]
        if not references:
            return everything
        selected: dict[str, Supervisor] = {}
        for reference in references:
            matches = [supervisor for supervisor in everything if _matches(supervisor, reference)]
            if not matches:
                known = ", ".join(sorted({supervisor.spec.name for supervisor in everything})) or "none"
                raise NotFoundError(f'no service or container "{reference}"', f"services that exist: {known}")
            selected |= {supervisor.container.id: supervisor for supervisor in matches}
        return list(selected.values())

    def find(self, name: str | None, reference: str) -> Supervisor:
        """The one container that ``reference`` names; of a service, the first replica.

        :raises NotFoundError: when there is none.
        """
        matches = self.select(name, [reference])
        return min(
            matches, key=lambda supervisor: (supervisor.container.one_off, supervisor.container.replica)
        )

    def names(self, name: str, references: Sequence[str]) -> tuple[str, ...]:
        """References as the names that planners understand: services stay services, others become containers."""
        services = {spec.name for spec in (s.spec for s in self.project(name).supervisors.values())}
        words: list[str] = []
        for reference in references:
            if reference in services:
                words.append(reference)
            else:
                words += [supervisor.container.name for supervisor in self.select(name, [reference])]
        return tuple(words)

    # Changing

    def plan(self, spec: ProjectSpec, options: Options) -> PlanView:
        """What ``up`` would do now."""
        entry = self._entries.get(spec.name)
        return reconcile(spec, entry.project.observe() if entry else None, options).to_view()

    def up(
        self, spec: ProjectSpec, options: Options, wait: bool, wait_timeout: float | None
    ) -> ProgressStream:
        """Bring a project up, or to what its manifest now says.

        :raises OrchError: when it cannot be right; nothing has then been changed.
        """
        self.preflight(spec)
        reconcile(spec, None, options)  # names what does not exist before anything is changed
        entry = self._ensure(spec)
        services = closure(dependency_graph(spec.services), options.services or spec.services)

        def decide(project: Project) -> Plan:
            plan = reconcile(spec, project.observe(), options)
            project.spec = spec
            project.refresh()
            return plan

        async def finish(project: Project, report: Report) -> list[OrchError]:
            return await settle(project, services, wait_timeout, report) if wait else []

        return self._command("up", entry, decide, finish)

    def down(
        self, name: str, services: Sequence[str], volumes: bool, timeout: float | None, kill: bool
    ) -> ProgressStream:
        """Stop and remove a project's containers (all, or those of some services) and then its networks."""
        entry = self._entry(name)
        words = self.names(name, services)
        for command in entry.commands:
            if command.name != "down":
                command.task.cancel()
            elif kill:
                command.request.kill = True
        if kill:
            self._hurry(entry.project)

        def decide(project: Project) -> Plan:
            return lifecycle.bring_down(project.observe(), volumes, words)

        async def finish(project: Project, report: Report) -> list[OrchError]:
            for one_off in [s for s in project.supervisors.values() if s.container.one_off and not services]:
                await one_off.stop(timeout, kill=kill, reason="removed")
                await project.remove_containers([one_off])
            return []

        return self._command("down", entry, decide, finish, timeout, kill)

    def start(self, name: str, services: Sequence[str]) -> ProgressStream:
        """Start what does not run."""
        words = self.names(name, services)
        return self._command(
            "start", self._entry(name), lambda project: lifecycle.start_plan(project.observe(), words)
        )

    def stop(self, name: str, services: Sequence[str], timeout: float | None) -> ProgressStream:
        """Stop what runs; it stays known, and can be started again."""
        words = self.names(name, services)
        return self._command(
            "stop",
            self._entry(name),
            lambda project: lifecycle.stop_plan(project.observe(), words),
            None,
            timeout,
        )

    def restart(self, name: str, services: Sequence[str], timeout: float | None) -> ProgressStream:
        """Stop and start."""
        words = self.names(name, services)
        return self._command(
            "restart",
            self._entry(name),
            lambda project: lifecycle.restart_plan(project.observe(), words),
            None,
            timeout,
        )

    def scale(self, name: str, counts: Mapping[str, int]) -> ProgressStream:
        """Give services another number of containers."""
        entry = self._entry(name)
        for service, count in counts.items():
            spec = entry.project.spec.services.get(service)
            if count < 0:
                raise UsageError(f"cannot scale {service}", f"{count} is negative", "")
            if spec and count > 1 and any(port.published for port in spec.ports):
                raise UsageError(
                    f"cannot scale {service} to {count}", "it publishes a fixed port, which only one can have",
                    "leave the published port out, so that each replica gets its own",
                )  # fmt: skip

        def decide(project: Project) -> Plan:
            plan = lifecycle.scale(project.observe(), counts, project.spec)
            services = dict(project.spec.services)
            for service, count in counts.items():
                if service in services:
                    services[service] = msgspec.structs.replace(services[service], replicas=count)
            project.spec = msgspec.structs.replace(project.spec, services=services)
            return plan

        return self._command("scale", entry, decide)

    # One-off containers

    def prepare_run(self, spec: ProjectSpec, service: ServiceSpec, options: Options) -> ProgressStream:
        """Bring up what a one-off container of ``service`` needs: its dependencies, networks and volumes.

        :meth:`finish_run` must follow.
        """
        self._runs[spec.name] += 1
        entry = self._ensure(spec)
        needed = closure(dependency_graph(spec.services), options.services) if options.services else set()

        def decide(project: Project) -> Plan:
            if not project.supervisors:
                project.spec = spec
            wanted = Options((*options.services, service.name), remove_orphans=False)
            return keep_services(reconcile(project.spec, project.observe(), wanted), set(needed))

        async def finish(project: Project, report: Report) -> list[OrchError]:
            return await settle(project, needed, None, report)

        return self._command("run", entry, decide, finish)

    async def create_one_off(self, name: str, spec: ServiceSpec, wish: str | None) -> Supervisor:
        """A container that no plan knows, not started yet.

        :raises ConflictError: when there is a container of that name.
        """
        project = self.project(name)
        label = wish or f"{name}-{spec.name}-run-{secrets.token_hex(3)}"
        if label in project.supervisors:
            raise ConflictError(
                f'cannot run "{label}"', "a container of that name exists", "choose another --name"
            )
        return await project.create_container(spec, 0, one_off=label)

    async def finish_run(self, name: str, one_off: Supervisor | None, keep: bool) -> None:
        """The end of what :meth:`prepare_run` began: stop the one-off container (if it came to that) and remove
        it, unless it is to be kept; and the project, when it was brought up for nothing else.
        """
        self._runs[name] -= 1
        entry = self._entries.get(name)
        if entry is None:
            return
        project = entry.project
        if one_off and one_off.state not in ENDED:
            await one_off.stop(0, kill=True, reason="the client hung up")
        if one_off and not keep:
            async with entry.lock:
                if project.supervisors.get(one_off.container.name) is one_off:  # no `down` was faster
                    await project.remove_containers([one_off])

        def decide(project: Project) -> Plan:
            used = project.supervisors or self._runs[name]
            return Plan(name) if used else lifecycle.bring_down(project.observe())

        await self._command("run", entry, decide).result()

    async def shut_down(self) -> None:
        """Bring every project down."""
        for name in list(self._entries):
            await self.down(name, (), volumes=False, timeout=None, kill=False).result()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def hold_lease(self, name: str) -> AsyncIterator[None]:
        """Own a project while this is iterated: when that ends, in whatever way, the project is brought down."""
        self._leases[name] += 1
        self.changed.set()
        try:
            while True:
                yield
                await asyncio.sleep(15.0)
        finally:
            self.background(self._end_lease(name))

    async def _end_lease(self, name: str) -> None:
        self._leases[name] -= 1
        if not self._leases[name]:
            del self._leases[name]
            if name in self._entries:
                await self.down(name, (), volumes=False, timeout=None, kill=False).result()
        self.changed.set()

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that goes on when the client who asked for it hangs up."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self.changed.set())
        return task

    def reading_logs(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A client reads a project's logs: they are not deleted under its eyes."""
        return self._log_readers.reading(name)

    async def _end_logs(self, project: Project) -> None:
        """Tell those who follow the project's logs that no more comes, let them finish, and delete the logs."""
        self._tell("project", "ended", project.name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._log_readers.wait_for(project.name)
        await project.remove_logs()

    def _ensure(self, spec: ProjectSpec) -> _Entry:
        entry = self._entries.get(spec.name)
        if entry is None:
            entry = self._entries[spec.name] = _Entry(Project(spec, self.facilities, self._heard))
            entry.project.find_volumes()
        return entry

    def _entry(self, name: str) -> _Entry:
        self.project(name)
        return self._entries[name]

    def _hurry(self, project: Project) -> None:
        """Cut the grace of every stop that is under way short."""
        for supervisor in project.supervisors.values():
            if supervisor.stopping:
                self.background(supervisor.stop(0, kill=True))

    def _command(
        self,
        name: str,
        entry: _Entry,
        decide: Callable[[Project], Plan],
        finish: Callable[[Project, Report], Awaitable[list[OrchError]]] | None = None,
        timeout: float | None = None,
        kill: bool = False,
    ) -> ProgressStream:
        """Run a command as a task of its own: decide with the lock held, execute the plan, finish, report."""
        stream = ProgressStream()
        request = Request(stream.add, timeout, kill)
        project = entry.project

        async def work() -> list[OrchError]:
            try:
                async with entry.lock:
                    errors = await Execution(project, decide(project), request).run()
                    if finish and not (errors and name == "up"):
                        errors += await finish(project, stream.add)
                    if self._is_over(project):
                        await project.remove_cgroups()
                        await self._end_logs(project)
                return errors
            except OrchError as error:
                return [error]
            except Exception as error:  # a defect of ours: the client must hear of it, the service goes on
                log.exception("command failed", command=name, project=project.name)
                text = f"{type(error).__name__}: {error}"
                return [OrchError(f"{name} failed", text, "this is a bug in orch")]

        def done(task: asyncio.Task[list[OrchError]]) -> None:
            entry.commands.remove(command)
            over = self._is_over(project) and not entry.commands  # which might bring it up again
            if over and self._entries.get(project.name) is entry:
                del self._entries[project.name]
                self._tell("project", "removed", project.name)
            cut_short = ConflictError(f"{name} was cut short", "another command took over")
            stream.add(_result(project, [cut_short] if task.cancelled() else task.result()))
            self._tasks.discard(task)
            self.changed.set()

        task = asyncio.create_task(work(), name=f"{name} {project.name}")
        command = _Command(name, request, task)
        entry.commands.append(command)
        self._tasks.add(task)
        task.add_done_callback(done)
        return stream

    def _is_over(self, project: Project) -> bool:
        """Whether nothing is left of a project, and no ``run`` is about to use it."""
        return project.gone and not self._runs[project.name]

    def preflight(self, spec: ProjectSpec) -> None:
        """Refuse what this host cannot do before anything is changed.

        :raises UsageError: with a line ``services.NAME.KEY: what is wrong`` for each problem; whoever has the
            manifest can say on which of its lines that is.
        """
        problems = [str(problem) for problem in limit_problems(spec)]
        for service in spec.services.values():
            for problem in self.facilities.cgroups.unsupported(service.resources):
                problems.append(f"services.{service.name}.resources.{problem}")
            for index, trigger in enumerate(service.pressure):
                if problem := self.facilities.cgroups.unwatchable(trigger):
                    problems.append(f"services.{service.name}.pressure.{index}: {problem}")
        if problems:
            raise UsageError("\n".join(problems))

    # Hearing

    def _heard(self, supervisor: Supervisor, action: str, message: str) -> None:
        container = supervisor.container
        self.events.add(
            EventView(
                time=time.time(), type="container", action=action, project=container.project,
                service=container.spec.name, name=container.name, id=container.id, message=message,
                attributes={"state": supervisor.state.value, "pid": supervisor.pid, "exit_code": supervisor.exit_code},
            )
        )  # fmt: skip
        log.debug(action, container=container.name, state=supervisor.state.value, message=message)

    def _tell(self, type: str, action: str, project: str, name: str = "") -> None:
        self.events.add(
            EventView(
                time=time.time(), type=type, action=action, project=project, service="", name=name or project,
                id="", message="", attributes={},
            )
        )  # fmt: skip


def _matches(supervisor: Supervisor, reference: str) -> bool:
    container = supervisor.container
    if reference in (container.name, container.spec.name, f"{container.spec.name}-{container.replica}"):
        return not (container.one_off and reference == container.spec.name)
    return len(reference) >= 4 and container.id.startswith(reference)


def _result(project: Project, errors: list[OrchError]) -> Progress:
    error: OrchError | None = None
    if len(errors) == 1:
        error = errors[0]
    elif errors:
        roots = [error for error in errors if error.code != "dependency"] or errors
        error = type(roots[0])("\n".join(str(error) for error in errors))
    return Progress(
        kind=ProgressKind.RESULT, time=time.time(), ok=not errors,
        error=error.to_wire() if error else None, containers=project_containers(project),
    )  # fmt: skip
