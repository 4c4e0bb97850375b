"""Exec and run: one process whose terminal or pipes go to the client as descriptors.

The request is an HTTP upgrade. After the 101 the connection carries JSON lines; the descriptors travel with
the ``started`` line (SCM_RIGHTS), so that the service never touches a byte of what is typed or printed. When
the client hangs up, what it started is killed.
"""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from orchestrator.errors import ConflictError, NotFoundError, OrchError, UsageError
from orchestrator.launch.launcher import ExecRequest, Terminal
from orchestrator.plan.reconcile import Options
from orchestrator.runtime.handle import Process
from orchestrator.service.daemon import Daemon
from orchestrator.spec import ProjectSpec, RestartPolicy, ServiceSpec
from orchestrator.states import State
from orchestrator.supervise.stopping import signal_number
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.views import ProgressKind

_PROTOCOL = "orch-stdio"


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
        self.hung_up = asyncio.Event()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=64)
        self._buffer = b""
        self._drained = asyncio.Event()
        self._drained.set()
        self._transport = transport
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=0)
        header = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {_PROTOCOL}\r\n\r\n"
        transport.write(header.encode())

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                self.messages.put_nowait(msgspec.json.decode(line, type=dict[str, Any]))
            except (msgspec.DecodeError, asyncio.QueueFull):
                self._transport.abort()  # not a client of ours, or one that floods us
        if len(self._buffer) > 65536:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drained.set()
        self.hung_up.set()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def eof_received(self) -> bool:
        return False

    async def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """One line, with descriptors (which stay the caller's)."""
        data = msgspec.json.encode(message) + b"\n"
        if not fds:
            self._transport.write(data)
            return
        # Descriptors go around the transport: what it holds goes first.
        await self._drained.wait()
        sock = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        with sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            sent = sock.sendmsg([data], rights)
        self._transport.write(data[sent:])

    def close(self) -> None:
        """Send what is waiting, then hang up."""
        self._transport.close()


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
    if supervisor.state is not State.RUNNING:
        raise ConflictError(
            f'cannot exec in "{supervisor.container.name}"', f"it is {supervisor.state}", "start it first"
        )
    connection = _upgrade(request)
    try:
        process = await supervisor.exec(
            ExecRequest(
                body.command, body.environment, body.user, body.working_dir,
                Terminal(body.rows, body.columns) if body.tty else None, body.stdin,
            )
        )  # fmt: skip
    except OrchError as error:
        return await _refuse(connection, error)
    await _attend(connection, process, supervisor.container.id)
    try:
        exit = await process.exited()
        reason = f"killed by {signal.Signals(exit.signal).name}" if exit.signal else f"exited ({exit.code})"
        await _farewell(connection, exit.code, exit.signal, reason)
    finally:
        process.close()
    return web.Response()


async def serve_run(daemon: Daemon, request: web.Request, body: RunBody) -> web.StreamResponse:
    """Run a one-off container of a service for the client."""
    base = body.project.services.get(body.service)
    if base is None:
        known = ", ".join(sorted(body.project.services))
        raise NotFoundError(f'no service "{body.service}"', f"services that exist: {known}")
    spec = _one_off_spec(base, body)
    if not spec.argv:
        raise UsageError(f"cannot run {body.service}", "it has no command", "give one")
    connection = _upgrade(request)
    try:
        supervisor = await _bring_up(daemon, connection, spec, body)
    except OrchError as error:
        return await _refuse(connection, error)
    project = daemon.project(body.project.name)
    try:
        terminal = Terminal(body.rows, body.columns) if body.tty else None
        try:
            if body.publish:
                await project.publish(supervisor)
            process = await supervisor.attach(terminal, body.stdin)
        except OrchError as error:
            return await _refuse(connection, error)
        await _attend(connection, process, supervisor.container.id)
        await supervisor.wait_until(lambda: supervisor.state is State.EXITED)
        exit = process.exit
        await _farewell(
            connection, supervisor.exit_code or 0, exit.signal if exit else None, supervisor.reason
        )
    finally:
        if not body.keep:
            daemon.background(_remove(daemon, supervisor))
    return web.Response()


def _one_off_spec(base: ServiceSpec, body: RunBody) -> ServiceSpec:
    """The service's spec as a one-off container has it: own command, no restarts, no health check, no ports."""
    changes: dict[str, Any] = {
        "restart": RestartPolicy(), "healthcheck": None, "replicas": 1,
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


async def _bring_up(daemon: Daemon, connection: _Connection, spec: ServiceSpec, body: RunBody) -> Supervisor:
    """Dependencies and networks first, then the container itself, not started yet."""
    wanted = [d.service for d in spec.depends_on] if body.dependencies else []
    options = Options(services=tuple(wanted), remove_orphans=False)
    async for progress in daemon.prepare_run(body.project, spec, options):
        if progress.kind is ProgressKind.RESULT:
            if not progress.ok:
                raise OrchError(f"cannot run {spec.name}", (progress.error or {}).get("what", ""),
                                (progress.error or {}).get("cause", ""))  # fmt: skip
            break
        await connection.send({"progress": msgspec.to_builtins(progress)})
    return await daemon.create_one_off(body.project.name, spec, body.name)


async def _remove(daemon: Daemon, supervisor: Supervisor) -> None:
    await supervisor.stop(0, kill=True, reason="removed")
    await daemon.remove_one_off(supervisor)


async def _attend(connection: _Connection, process: Process, id: str) -> None:
    """Hand the process's descriptors to the client, pass its signals on, and mind that it may hang up."""
    names = ("terminal", "stdin", "stdout", "stderr")
    held = [process.take(name) for name in names if name in process.descriptors]
    try:
        await connection.send({"started": {"id": id, "pid": process.pid}}, held)
    finally:
        for fd in held:
            os.close(fd)
    task = asyncio.create_task(_listen(connection, process), name=f"session of {id}")
    process.keep(task)


async def _listen(connection: _Connection, process: Process) -> None:
    ended = asyncio.ensure_future(process.exited())
    gone = asyncio.ensure_future(connection.hung_up.wait())
    try:
        while True:
            message = asyncio.ensure_future(connection.messages.get())
            await asyncio.wait((ended, gone, message), return_when=asyncio.FIRST_COMPLETED)
            if message.done():
                try:
                    process.send_signal(signal_number(str(message.result().get("signal", ""))))
                except ValueError:
                    pass  # not a signal: a client that knows more than we do
                continue
            message.cancel()
            if gone.done() and not ended.done():
                process.send_signal(signal.SIGKILL)
            return
    finally:
        gone.cancel()
        ended.cancel()


async def _refuse(connection: _Connection, error: OrchError) -> web.StreamResponse:
    await connection.send({"error": error.to_wire()})
    connection.close()
    return web.Response()


async def _farewell(connection: _Connection, code: int, number: int | None, reason: str) -> None:
    if not connection.hung_up.is_set():
        await connection.send({"exited": {"code": code, "signal": number, "reason": reason}})
        connection.close()
        await connection.hung_up.wait()
