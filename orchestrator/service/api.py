"""The API: HTTP and JSON on the instance's Unix socket.

Handlers translate and nothing else: a body or query becomes a call of the daemon, views become JSON, an error
becomes ``{"error": ...}`` with a fitting status. Streams are newline-delimited JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from orchestrator.errors import ManifestError, NotFoundError, OrchError, UsageError
from orchestrator.logs.follow import LogStream, Source
from orchestrator.logs.format import LogRecord
from orchestrator.plan.conditions import Outlook, judge
from orchestrator.plan.reconcile import Options
from orchestrator.runtime.survey import NAMESPACES
from orchestrator.service.audit import audit
from orchestrator.service.daemon import Daemon, ProgressStream
from orchestrator.service.describe import container_view, inspect_view
from orchestrator.service.isolation import inspect_isolation, namespaces
from orchestrator.service.sessions import ExecBody, RunBody, serve_exec, serve_run
from orchestrator.service.usage import StatsReader, processes
from orchestrator.service.version import API_VERSION, version
from orchestrator.spec import Condition, ProjectSpec
from orchestrator.states import ENDED, State
from orchestrator.supervise.stopping import signal_number
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import LogLine, StatsView, VersionView

log = structlog.get_logger()
_MAX_BODY = 16 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = TypeVar("Body")
_encoder = msgspec.json.Encoder()


class UpBody(msgspec.Struct):
    """Body of ``up`` and ``plan``."""

    project: ProjectSpec
    services: list[str] = []
    force_recreate: bool = False
    remove_orphans: bool = True
    wait: bool = False
    wait_timeout: float | None = None

    @property
    def options(self) -> Options:
        """As the planner wants them."""
        return Options(tuple(self.services), self.force_recreate, self.remove_orphans)


class ChangeBody(msgspec.Struct):
    """Body of ``down``, ``start``, ``stop``, ``restart``, ``pause``, ``unpause`` and ``kill``."""

    services: list[str] = []
    timeout: float | None = None
    volumes: bool = False
    kill: bool = False
    signal: str = "SIGKILL"


class ScaleBody(msgspec.Struct):
    """Body of ``scale``: how many containers each service shall have."""

    services: dict[str, int]


class WaitBody(msgspec.Struct):
    """Body of ``wait``."""

    services: list[str] = []
    condition: str = "exited"
    timeout: float | None = None


class Api:
    """The routes of one daemon."""

    def __init__(self, daemon: Daemon, shut_down: Callable[[], None]) -> None:
        self._daemon = daemon
        self._shut_down = shut_down

    def application(self) -> web.Application:
        """The web application, to be served on a Unix socket."""
        app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY)
        project = "/v1/projects/{project}"
        app.add_routes(
            [
                web.get("/v1/version", self.version),
                web.post("/v1/shutdown", self.shutdown),
                web.get("/v1/projects", self.projects),
                web.post("/v1/plan", self.plan),
                web.post("/v1/up", self.up),
                web.post(f"{project}/lease", self.lease),
                web.post(f"{project}/down", self.down),
                web.post(f"{project}/start", self.start),
                web.post(f"{project}/stop", self.stop),
                web.post(f"{project}/restart", self.restart),
                web.post(f"{project}/kill", self.kill),
                web.post(f"{project}/pause", self.pause),
                web.post(f"{project}/unpause", self.unpause),
                web.post(f"{project}/scale", self.scale),
                web.post(f"{project}/wait", self.wait),
                web.get("/v1/containers", self.containers),
                web.get("/v1/containers/{reference}", self.inspect),
                web.get("/v1/logs", self.logs),
                web.get("/v1/events", self.events),
                web.get("/v1/stats", self.stats),
                web.get("/v1/top", self.top),
                web.get("/v1/namespaces", self.namespaces),
                web.get("/v1/audit", self.audit),
                web.post("/v1/exec", self.exec),
                web.post("/v1/run", self.run),
            ]
        )
        return app

    # The service

    async def version(self, request: web.Request) -> web.StreamResponse:
        """Who answers."""
        instance = self._daemon.facilities.instance
        return _json(
            VersionView(
                version=version(), api=API_VERSION, instance=instance.id, pid=os.getpid(),
                started_at=self._daemon.started_at, state_dir=instance.state_dir, run_dir=instance.run_dir,
            )
        )  # fmt: skip

    async def shutdown(self, request: web.Request) -> web.StreamResponse:
        """Stop every project and end."""
        self._shut_down()
        return _json({})

    # Projects

    async def projects(self, request: web.Request) -> web.StreamResponse:
        """All projects that are up."""
        return _json(
            [
                {
                    "name": project.name,
                    "source": project.spec.source,
                    "state": _project_state([s.state for s in project.supervisors.values()]),
                    "services": {
                        name: sum(s.spec.name == name for s in project.supervisors.values())
                        for name in project.spec.services
                    },
                }
                for project in self._daemon.projects
            ]
        )

    async def plan(self, request: web.Request) -> web.StreamResponse:
        """What ``up`` would do."""
        body = await _body(request, UpBody)
        return _json(self._daemon.plan(body.project, body.options))

    async def up(self, request: web.Request) -> web.StreamResponse:
        """Bring up."""
        body = await _body(request, UpBody)
        return await _progress(
            request, self._daemon.up(body.project, body.options, body.wait, body.wait_timeout)
        )

    async def lease(self, request: web.Request) -> web.StreamResponse:
        """Own the project for as long as the connection lasts."""
        response = await _begin_stream(request)
        async for _ in self._daemon.hold_lease(request.match_info["project"]):
            await response.write(b"{}\n")
        return response

    async def down(self, request: web.Request) -> web.StreamResponse:
        """Bring down."""
        body = await _body(request, ChangeBody)
        name = request.match_info["project"]
        return await _progress(
            request, self._daemon.down(name, body.services, body.volumes, body.timeout, body.kill)
        )

    async def start(self, request: web.Request) -> web.StreamResponse:
        """Start what does not run."""
        body = await _body(request, ChangeBody)
        return await _progress(request, self._daemon.start(request.match_info["project"], body.services))

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """Stop what runs."""
        body = await _body(request, ChangeBody)
        name = request.match_info["project"]
        return await _progress(request, self._daemon.stop(name, body.services, body.timeout))

    async def restart(self, request: web.Request) -> web.StreamResponse:
        """Stop and start."""
        body = await _body(request, ChangeBody)
        name = request.match_info["project"]
        return await _progress(request, self._daemon.restart(name, body.services, body.timeout))

    async def scale(self, request: web.Request) -> web.StreamResponse:
        """Another number of containers."""
        body = await _body(request, ScaleBody)
        return await _progress(request, self._daemon.scale(request.match_info["project"], body.services))

    async def kill(self, request: web.Request) -> web.StreamResponse:
        """Send a signal."""
        body = await _body(request, ChangeBody)
        try:
            number = signal_number(body.signal)
        except ValueError as error:
            raise UsageError("cannot send the signal", str(error)) from None
        signalled = []
        for supervisor in self._selected(request, body.services):
            if supervisor.pid is not None or body.services:
                supervisor.kill(number)
                signalled.append(supervisor.container.name)
        return _json({"signalled": signalled})

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Freeze."""
        return await self._freeze(request, State.RUNNING, Supervisor.pause)

    async def unpause(self, request: web.Request) -> web.StreamResponse:
        """Let go on."""
        return await self._freeze(request, State.PAUSED, Supervisor.unpause)

    async def _freeze(
        self, request: web.Request, fitting: State, change: Callable[[Supervisor], Awaitable[None]]
    ) -> web.StreamResponse:
        """Change the selected containers; when none is named, those whose state fits."""
        body = await _body(request, ChangeBody)
        names = []
        for supervisor in self._selected(request, body.services):
            if supervisor.state is fitting or body.services:
                await change(supervisor)
                names.append(supervisor.container.name)
        return _json({"containers": names})

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """Answer when all containers meet a condition."""
        body = await _body(request, WaitBody)
        if body.condition not in ("exited", "running", "healthy"):
            raise UsageError(f'cannot wait for "{body.condition}"', "", "allowed: exited, running, healthy")
        supervisors = self._selected(request, body.services)
        try:
            async with asyncio.timeout(body.timeout):
                for supervisor in supervisors:
                    await _wait_for(supervisor, body.condition)
        except TimeoutError:
            late = next(s for s in supervisors if not _outlook(s, body.condition))
            text = f"{late.container.name} is {late.state} after {body.timeout:g}s"
            raise OrchError(f"waited for {body.condition}", text, late.reason) from None
        return _json([container_view(supervisor) for supervisor in supervisors])

    # Containers

    async def containers(self, request: web.Request) -> web.StreamResponse:
        """``ps``."""
        supervisors = self._query_selection(request)
        if not _flag(request, "all"):
            supervisors = [s for s in supervisors if s.state is not State.EXITED]
        return _json([container_view(supervisor) for supervisor in _in_order(supervisors)])

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        """Everything about one container."""
        supervisor = self._daemon.find(request.query.get("project"), request.match_info["reference"])
        isolation = await asyncio.to_thread(inspect_isolation, supervisor, self._daemon.select(None))
        return _json(inspect_view(supervisor, isolation))

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """What containers wrote."""
        project = self._daemon.project(_project_of(request))
        references = _list(request, "services")
        tail, since = request.query.get("tail"), request.query.get("since")
        selected = self._daemon.select(project.name, references)
        known = {supervisor.container.name: supervisor for supervisor in selected}
        stream = LogStream(
            self._daemon.facilities.logs, [_source(supervisor) for supervisor in selected],
            tail=int(tail) if tail not in (None, "all") else None, since=float(since) if since else None,
            follow=_flag(request, "follow"),
        )  # fmt: skip
        response = await _begin_stream(request)
        with self._daemon.reading_logs(project.name):
            adding = asyncio.create_task(self._add_sources(stream, project.name, references, known))
            try:
                async with contextlib.aclosing(stream.batches()) as batches:
                    async for batch in batches:
                        lines = (_log_line(known[name], record) for name, record in batch)
                        await response.write(b"".join(_encoder.encode(line) + b"\n" for line in lines))
            finally:
                adding.cancel()
        return response

    async def _add_sources(
        self, stream: LogStream, name: str, references: list[str], known: dict[str, Supervisor]
    ) -> None:
        """Let containers that start later take part in a stream, until the project is gone."""
        async for event in self._daemon.events.follow():
            if event.project != name:
                continue
            if event.type == "project" and event.action == "ended":
                stream.stop()
                return
            if event.action != "starting":
                continue
            for supervisor in self._daemon.select(name, [event.id]):
                container = supervisor.container
                wanted = not references or any(
                    supervisor in self._daemon.select(name, [r]) for r in references
                )
                if wanted and known.get(container.name) is not supervisor:
                    known[container.name] = supervisor
                    stream.add(_source(supervisor))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happened."""
        project, references = request.query.get("project"), _list(request, "services")
        since = float(request.query.get("since") or 0)
        response = await _begin_stream(request)

        def wanted(event: Any) -> bool:
            names = (event.service, event.name, event.id)
            return (not project or event.project == project) and (
                not references or any(reference in names for reference in references)
            )

        following = self._daemon.events.follow()
        first = asyncio.ensure_future(anext(following)) if _flag(request, "follow") else None
        await asyncio.sleep(0)  # the follower is registered before the past is read
        for event in self._daemon.events.recent(since):
            if wanted(event):
                await response.write(_encoder.encode(event) + b"\n")
        if first is None:
            return response
        try:
            while True:
                event = await first
                if wanted(event):
                    await response.write(_encoder.encode(event) + b"\n")
                first = asyncio.ensure_future(anext(following))
        finally:
            first.cancel()
            await following.aclose()

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """What they use; each line a list."""
        interval = max(0.1, float(request.query.get("interval") or 1.0))
        reader = StatsReader()
        self._query_selection(request)
        response = await _begin_stream(request)
        await self._read_stats(reader, self._query_selection(request))
        while True:
            await asyncio.sleep(interval if _flag(request, "stream") else min(interval, 0.2))
            try:
                supervisors = self._query_selection(request)
            except NotFoundError:
                return response  # the project has gone meanwhile
            views = await self._read_stats(reader, supervisors)
            await response.write(_encoder.encode(views) + b"\n")
            if not _flag(request, "stream"):
                return response

    async def _read_stats(self, reader: StatsReader, supervisors: list[Supervisor]) -> list[StatsView]:
        veths = [endpoint.veth for s in supervisors for endpoint in s.container.endpoints]
        traffic = await self._daemon.facilities.networks.stats(veths)
        return await asyncio.to_thread(reader.read, supervisors, traffic)

    async def top(self, request: web.Request) -> web.StreamResponse:
        """Their processes."""
        return _json(await asyncio.to_thread(processes, self._query_selection(request)))

    # Isolation

    async def namespaces(self, request: web.Request) -> web.StreamResponse:
        """Their namespaces, and who shares them."""
        kinds = _list(request, "kinds") or NAMESPACES
        if unknown := [kind for kind in kinds if kind not in NAMESPACES]:
            raise UsageError(
                f"there is no kind of namespace {unknown[0]}", "", f"allowed: {', '.join(NAMESPACES)}"
            )
        selected, everyone = self._query_selection(request), self._daemon.select(None)
        return _json(await asyncio.to_thread(namespaces, _in_order(selected), everyone, kinds))

    async def audit(self, request: web.Request) -> web.StreamResponse:
        """What deviates from the default."""
        selected, everyone = self._query_selection(request), self._daemon.select(None)
        return _json(await asyncio.to_thread(audit, _in_order(selected), everyone))

    # Sessions

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """One more process in a container."""
        return await serve_exec(self._daemon, request, await _body(request, ExecBody))

    async def run(self, request: web.Request) -> web.StreamResponse:
        """A one-off container."""
        return await serve_run(self._daemon, request, await _body(request, RunBody))

    def _selected(self, request: web.Request, references: list[str]) -> list[Supervisor]:
        return self._daemon.select(request.match_info["project"], references)

    def _query_selection(self, request: web.Request) -> list[Supervisor]:
        return self._daemon.select(request.query.get("project") or None, _list(request, "services"))


def _in_order(supervisors: list[Supervisor]) -> list[Supervisor]:
    return sorted(
        supervisors, key=lambda s: (s.container.project, s.spec.name, s.container.replica, s.container.name)
    )


async def _wait_for(supervisor: Supervisor, condition: str) -> None:
    await supervisor.wait_until(lambda: _outlook(supervisor, condition))


def _outlook(supervisor: Supervisor, condition: str) -> bool:
    """Whether the condition is met.

    :raises OrchError: when it never will be.
    """
    if condition == "exited":
        return supervisor.state in ENDED
    wanted = Condition.HEALTHY if condition == "healthy" else Condition.STARTED
    judgement = judge(wanted, supervisor.spec, supervisor.state, supervisor.health, supervisor.exit_code)
    if judgement.outlook is Outlook.NEVER:
        raise OrchError(
            f"{supervisor.container.name} will not be {condition}", judgement.reason, supervisor.reason
        )
    return judgement.outlook is Outlook.MET


def _project_state(states: list[State]) -> str:
    for state in (
        State.FAILED,
        State.STOPPING,
        State.RESTARTING,
        State.STARTING,
        State.PENDING,
        State.RUNNING,
    ):
        if state in states:
            return state.value
    return states[0].value if states else "empty"


def _source(supervisor: Supervisor) -> Source:
    container = supervisor.container
    return Source(name=container.name, key=container.id, directory=container.log_directory)


def _log_line(supervisor: Supervisor, record: LogRecord) -> LogLine:
    return LogLine(
        time=record.time, stream=record.stream, service=supervisor.spec.name,
        name=supervisor.container.name, line=record.line.decode("utf-8", "replace"),
    )  # fmt: skip


# HTTP


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ConnectionResetError, asyncio.CancelledError):
        raise  # the client has gone
    except OrchError as error:
        return await _answer_error(request, error, _status(error))
    except web.HTTPException as error:
        return await _answer_error(
            request, UsageError(f"{request.method} {request.path}", error.reason), error.status
        )
    except Exception as error:
        log.exception("request failed", path=request.path)
        text = f"{type(error).__name__}: {error}"
        return await _answer_error(
            request, OrchError("the service failed", text, "this is a bug in orch"), 500
        )


async def _answer_error(request: web.Request, error: OrchError, status: int) -> web.StreamResponse:
    """The error as the answer or, when a stream has begun, as its last line."""
    body = {"error": error.to_wire()}
    stream: web.StreamResponse | None = request.get("stream")
    if stream is None:
        return _json(body, status)
    await stream.write(_encoder.encode(body) + b"\n")
    return stream


def _status(error: OrchError) -> int:
    if isinstance(error, (UsageError, ManifestError)):
        return 400
    return {"not-found": 404, "conflict": 409}.get(error.code, 500)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")


async def _body(request: web.Request, type: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=type)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{request.method} {request.path}: the body is not right", str(error)) from None


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "0") not in ("", "0", "false")


def _list(request: web.Request, name: str) -> list[str]:
    return [word for word in request.query.get(name, "").split(",") if word]


def _project_of(request: web.Request) -> str:
    if name := request.query.get("project"):
        return name
    raise UsageError(f"{request.method} {request.path}", "no project is named", "say project=NAME")


async def _begin_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    request["stream"] = response
    return response


async def _progress(request: web.Request, stream: ProgressStream) -> web.StreamResponse:
    response = await _begin_stream(request)
    async for batch in stream.batches():
        await response.write(b"".join(_encoder.encode(progress) + b"\n" for progress in batch))
    return response
