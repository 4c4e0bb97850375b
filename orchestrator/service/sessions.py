"""Exec and run: one process whose terminal or pipes go to the client as descriptors.

The request is an HTTP upgrade. After the 101 the connection carries JSON lines; the descriptors travel with
the ``started`` line (SCM_RIGHTS), so that the service never touches a byte of what is typed or printed. When
the client hangs up, the server cancels the request's handler (``handler_cancellation``), and what it started
is killed.
"""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web

from orchestrator.errors import ConflictError, NotFoundError, OrchError, UsageError, from_wire
from orchestrator.launch.launcher import ExecRequest, Terminal
from orchestrator.plan.reconcile import Options
from orchestrator.runtime.handle import Process
from orchestrator.service.client import Exited
from orchestrator.service.daemon import Daemon
from orchestrator.spec import ProjectSpec, RestartPolicy, ServiceSpec
from orchestrator.states import ENDED
from orchestrator.supervise.stopping import signal_number
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import ProgressKind

log = structlog.get_logger()
_PROTOCOL = "orch-stdio"
#: Seconds that the end of a run waits for its container to be removed, before that goes on unseen.
_REMOVAL = 5.0


class _Signal(msgspec.Struct):
    """What the client says: a signal for the program, by name."""

    signal: str


class ExecBody(msgspec.Struct):
    """Body of ``exec``."""

    command: list[str]
    container: str
    project: str | None = None
    tty: bool = False
    stdin: bool = False
    environment: dict[str, str] = {}
    user: str | None = None
    working_dir: str | None = None
    rows: int = 24
    columns: int = 80


class RunBody(msgspec.Struct):
    """Body of ``run``."""

    project: ProjectSpec
    service: str
    command: list[str] | None = None
    entrypoint: list[str] | None = None
    tty: bool = False
    stdin: bool = False
    environment: dict[str, str] = {}
    user: str | None = None
    working_dir: str | None = None
    rows: int = 24
    columns: int = 80
    name: str | None = None
    keep: bool = False
    dependencies: bool = True
    publish: bool = False


class _Connection(asyncio.Protocol):
    """The upgraded connection: JSON lines both ways."""

    def __init__(self, transport: asyncio.Transport) -> None:
        #: Called with the number of each signal that the client passes on.
        self.on_signal: Callable[[int], None] = lambda number: None
        self._buffer = b""
        self._lost = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._transport = transport
        self._server = transport.get_protocol()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=0)
        header = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {_PROTOCOL}\r\n\r\n"
        transport.write(header.encode())

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                self.on_signal(signal_number(msgspec.json.decode(line, type=_Signal).signal))
            except msgspec.DecodeError:
                self._transport.abort()  # not a client of ours
            except ValueError:
                pass  # not a signal: a client that knows more than we do
        if len(self._buffer) > 65536:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._drained.set()
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    async def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """One line, with descriptors (which stay the caller's), when the client has taken those before it."""
        data = msgspec.json.encode(message) + b"\n"
        await self._drained.wait()
        if fds and not self._lost:
            data = data[await self._send_rights(data, fds) :]
        if data and not self._lost:
            self._transport.write(data)

    async def _send_rights(self, data: bytes, fds: Sequence[int]) -> int:
        """Send descriptors, which asyncio's transport cannot; how much of ``data`` went with them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        with self._transport.get_extra_info("socket").dup() as sock:
            while True:
                try:
                    sent: int = sock.sendmsg([data], rights)
                    return sent
                except BlockingIOError:  # the transport's last line has just filled it
                    await _until_writable(sock)
                except ConnectionError:
                    return 0  # it hung up, of which we are about to be told

    def close(self) -> None:
        """Send what is waiting, then hang up."""
        self._transport.close()


async def _until_writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(sock, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(sock)


def _upgrade(request: web.Request) -> _Connection:
    if request.headers.get("Upgrade", "").lower() != _PROTOCOL:
        raise UsageError(
            f"{request.method} {request.path}", "no upgrade was asked for", f"say Upgrade: {_PROTOCOL}"
        )
    if not isinstance(request.transport, asyncio.Transport):
        raise ConflictError(f"{request.method} {request.path}", "the connection is closed", "")
    return _Connection(request.transport)


async def serve_exec(daemon: Daemon, request: web.Request, body: ExecBody) -> web.StreamResponse:
    """Run a process in a container for the client."""
    if not body.command:
        raise UsageError("cannot exec", "no command is given", "")
    supervisor = daemon.find(body.project, body.container)
    supervisor.check_exec()
    connection = _upgrade(request)
    return await _converse(connection, _exec(connection, supervisor, body))


async def serve_run(daemon: Daemon, request: web.Request, body: RunBody) -> web.StreamResponse:
    """Run a one-off container of a service for the client."""
    base = body.project.services.get(body.service)
    if base is None:
        known = ", ".join(sorted(body.project.services))
        raise NotFoundError(f'no service "{body.service}"', f"services that exist: {known}")
    spec = _one_off_spec(base, body)
    if not spec.argv:
        raise UsageError(f"cannot run {body.service}", "it has no command", "give one")
    daemon.preflight(body.project)
    connection = _upgrade(request)
    return await _converse(connection, _Run(daemon, connection, body).execute(spec))


async def _converse(connection: _Connection, work: Coroutine[Any, Any, Exited]) -> web.StreamResponse:
    """The client learns how ``work`` ended, whatever it was. When it hangs up, ``work`` is cancelled."""
    message: dict[str, Any]
    try:
        message = {"exited": msgspec.to_builtins(await work)}
    except OrchError as error:
        message = {"error": error.to_wire()}
    except Exception as error:
        log.exception("session failed")
        bug = OrchError("it failed", f"{type(error).__name__}: {error}", "this is a bug in orch")
        message = {"error": bug.to_wire()}
    await connection.send(message)
    connection.close()
    return web.Response()


async def _exec(connection: _Connection, supervisor: Supervisor, body: ExecBody) -> Exited:
    process = await supervisor.exec(
        ExecRequest(
            body.command, body.environment, body.user, body.working_dir,
            Terminal(body.rows, body.columns) if body.tty else None, body.stdin,
        )
    )  # fmt: skip
    try:
        connection.on_signal = process.signal_group
        await _hand_over(connection, process, supervisor.container.id)
        exit = await process.exited()
    finally:
        process.abandon()
    reason = f"killed by {signal.Signals(exit.signal).name}" if exit.signal else f"exited ({exit.code})"
    return Exited(code=exit.code, signal=exit.signal, reason=reason)


class _Run:
    """One ``orch run``, from its dependencies to its removal."""

    def __init__(self, daemon: Daemon, connection: _Connection, body: RunBody) -> None:
        self._connection = connection
        self._daemon = daemon
        self._body = body
        self._supervisor: Supervisor | None = None
        self._started: asyncio.Future[Process] | None = None

    async def execute(self, spec: ServiceSpec) -> Exited:
        """All of it."""
        try:
            supervisor = await self._bring_up(spec)
            exited = await self._attend(supervisor)
        finally:
            cleaning = self._daemon.background(self._clean_up())  # though the client may have hung up
        await asyncio.wait([cleaning], timeout=_REMOVAL)
        return exited

    async def _bring_up(self, spec: ServiceSpec) -> Supervisor:
        """Dependencies and networks first, then the container itself, not started yet."""
        wanted = [d.service for d in spec.depends_on] if self._body.dependencies else []
        options = Options(services=tuple(wanted), remove_orphans=False)
        async for batch in self._daemon.prepare_run(self._body.project, spec, options).batches():
            for progress in batch:
                await self._connection.send({"progress": msgspec.to_builtins(progress)})
                if progress.kind is ProgressKind.RESULT and not progress.ok:
                    raise from_wire(progress.error or {})
        name = self._body.project.name
        self._supervisor = await self._daemon.create_one_off(name, spec, self._body.name)
        return self._supervisor

    async def _attend(self, supervisor: Supervisor) -> Exited:
        """Start it, hand its descriptors to the client, and wait for its end."""
        body = self._body
        if body.publish:
            await self._daemon.project(body.project.name).publish(supervisor)
        terminal = Terminal(body.rows, body.columns) if body.tty else None
        self._started = supervisor.attach(terminal, body.stdin)
        process = await asyncio.shield(self._started)
        self._connection.on_signal = process.send_signal
        await _hand_over(self._connection, process, supervisor.container.id)
        await supervisor.wait_until(lambda: supervisor.state in ENDED)
        number = process.exit.signal if process.exit else None
        return Exited(code=supervisor.exit_code or 0, signal=number, reason=supervisor.reason)

    async def _clean_up(self) -> None:
        """Leave nothing that was only made for this run."""
        await self._daemon.finish_run(self._body.project.name, self._supervisor, self._body.keep)
        if self._started and not self._started.exception():
            self._started.result().close()


def _one_off_spec(base: ServiceSpec, body: RunBody) -> ServiceSpec:
    """The service's spec as a one-off container has it: own command, no restarts, nothing that watches it, no ports.

    And an init, without which the kernel would drop the Ctrl-C that a program has no handler for.
    """
    changes: dict[str, Any] = {
        "restart": RestartPolicy(), "healthcheck": None, "pressure": (), "replicas": 1, "init": True,
        "environment": base.environment | body.environment,
    }  # fmt: skip
    if body.command is not None:
        changes["command"] = tuple(body.command)
    if body.entrypoint is not None:
        changes["entrypoint"] = tuple(body.entrypoint)
    if not body.publish:
        changes["ports"] = ()
    for key in ("user", "working_dir"):
        if value := getattr(body, key):
            changes[key] = value
    return msgspec.structs.replace(base, **changes)


async def _hand_over(connection: _Connection, process: Process, id: str) -> None:
    """Give the client the process's descriptors."""
    names = ("terminal", "stdin", "stdout", "stderr")
    held = [process.take(name) for name in names if name in process.descriptors]
    try:
        await connection.send({"started": {"id": id, "pid": process.pid}}, held)
    finally:
        for fd in held:
            os.close(fd)
