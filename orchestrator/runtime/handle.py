"""The service's end of the spawner: start processes, learn how they end.

Nothing here blocks: messages that do not fit into the socket wait in a queue.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import SpawnerError
from orchestrator.runtime.program import Program, compile_host_command
from orchestrator.runtime.protocol import Message, receive, send

#: What the spawner, and the sweeper that it may become, have of the service's environment.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL")


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: ``code`` as a shell shows it, ``signal`` if one killed it."""

    code: int
    signal: int | None


class ProgramFailed(Exception):
    """A launch program did not reach its exec.

    :param operation: the operation that failed; None when the clone itself did.
    """

    def __init__(self, operation: list[Any] | None, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("text"))
        self.operation = operation
        self.errno: int = error.get("errno") or 0
        self.text: str = error.get("text") or ""
        self.path: str | None = error.get("path")
        self.status: int = error["status"]


class Process:
    """One process that the spawner made. Its descriptors are closed by :meth:`close` or by their taker."""

    def __init__(self, id: str, program: Program, loop: asyncio.AbstractEventLoop) -> None:
        self.id = id
        self.program = program
        self.pid = 0
        self.pidfd = -1
        self.stages: list[tuple[str, float]] = []
        self.descriptors: dict[str, int] = {}
        self._cloned: asyncio.Future[None] = loop.create_future()
        self._connectable: asyncio.Future[None] = loop.create_future()
        self._started: asyncio.Future[None] = loop.create_future()
        self._exited: asyncio.Future[Exit] = loop.create_future()
        for future in (self._cloned, self._connectable, self._started, self._exited):
            future.add_done_callback(_retrieve)

    async def cloned(self) -> None:
        """Wait until the process exists: ``pid``, ``pidfd`` and ``descriptors`` are set.

        :raises ProgramFailed: when it never came to be.
        """
        await asyncio.shield(self._cloned)

    async def connectable(self) -> None:
        """Wait until its new network namespace is there to be taken: ``take("netns")``.

        :raises ProgramFailed: when it will not be.
        """
        await asyncio.shield(self._connectable)

    async def started(self) -> None:
        """Wait until the program has been exec'd.

        :raises ProgramFailed: with the operation that failed.
        """
        await asyncio.shield(self._started)

    async def exited(self) -> Exit:
        """Wait until the process has ended and been reaped."""
        return await asyncio.shield(self._exited)

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._exited.result() if self._exited.done() and not self._exited.exception() else None

    def take(self, name: str) -> int:
        """A descriptor by its name in the program's ``give``; now the caller's."""
        return self.descriptors.pop(name)

    def proceed(self) -> None:
        """Let the child's ``wait`` operation go on."""
        fd = self.take("ready")
        try:
            os.write(fd, b"\1")
        except BrokenPipeError:
            pass  # it died; that is reported elsewhere
        finally:
            os.close(fd)

    def send_signal(self, number: int) -> None:
        """Signal the process; nothing happens when it has ended."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def signal_group(self, number: int) -> None:
        """Signal the process and what it has started in its process group, which it leads (``setsid``)."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, 0)  # not reaped, so its number is nobody else's
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    def abandon(self) -> None:
        """Nobody wants the process any more: kill it and its group if it exists or as soon as it does, and
        close it when it has ended.
        """
        self._cloned.add_done_callback(lambda _: self._kill())
        self._exited.add_done_callback(lambda _: self.close())

    def _kill(self) -> None:
        self.signal_group(signal.SIGKILL)
        self.send_signal(signal.SIGKILL)  # it may not lead its group yet

    def close(self) -> None:
        """Close every descriptor that nobody has taken."""
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _hear(self, message: Message, fds: list[int]) -> None:
        match message["event"]:
            case "cloned":
                self.pid, self.pidfd = message["pid"], fds[0]
                self.descriptors |= dict(zip(message["give"], fds[1:], strict=True))
                self._cloned.set_result(None)
                if "netns" in self.descriptors:
                    self._connectable.set_result(None)
            case "netns":
                self.descriptors["netns"] = fds[0]
                self._connectable.set_result(None)
            case "pty":
                self.descriptors["terminal"] = fds[0]
            case "started":
                self.stages = [(name, seconds) for name, seconds in message["stages"]]
                self._started.set_result(None)
            case "failed":
                error = message["error"]
                program, index = self.program, error["operation"]
                operation = {
                    "prepare": program.prepare[index : index + 1],
                    "child": program.operations[index : index + 1],
                }.get(error["where"], [])
                self._fail(ProgramFailed(operation[0] if operation else None, error))
            case "exited":
                self._fail(
                    ProgramFailed(None, {"text": "the process was killed before its exec", "status": 125})
                )
                self._exited.set_result(Exit(message["code"], message["signal"]))

    def _fail(self, error: Exception) -> None:
        for future in (self._cloned, self._connectable, self._started):
            if not future.done():
                future.set_exception(error)

    def _lose(self, error: Exception) -> None:
        self._fail(error)
        if not self._exited.done():
            self._exited.set_exception(error)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # nobody needs to have waited for it


class SpawnerHandle:
    """A running spawner. Make it with :meth:`start`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._control = control
        self._ids = itertools.count(1)
        self._processes: dict[str, Process] = {}
        self._queue: collections.deque[tuple[Message, list[int]]] = collections.deque()
        #: Set when the spawner has gone away, wanted or not.
        self.gone = asyncio.Event()
        control.setblocking(False)
        self._loop.add_reader(control, self._receive)

    @property
    def pid(self) -> int:
        """Process id of the spawner."""
        return self._process.pid

    @classmethod
    async def start(cls, sweeper: Sequence[str] = ()) -> SpawnerHandle:
        """Exec a spawner; ``sweeper`` is the command line that it becomes when this process goes away."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = (
            f"import sys; sys.path.insert(0, {root!r}); sys.dont_write_bytecode = True\n"
            "from orchestrator.runtime.spawner import main; main(int(sys.argv[1]), sys.argv[2:])"
        )
        with theirs:
            process = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-I", "-S", "-c", code, str(theirs.fileno()), *sweeper],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                # Nothing else of the service's environment: containers that share its pid namespace could see it.
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        return cls(process, ours)

    def launch(self, program: Program, fds: Sequence[int] = ()) -> Process:
        """Ask for a process; ``fds`` fill the program's slots (they stay the caller's).

        :raises SpawnerError: when the spawner is gone.
        """
        if self.gone.is_set():
            raise SpawnerError("cannot start a process", "the spawner is gone", "restart the orch service")
        process = Process(str(next(self._ids)), program, self._loop)
        self._processes[process.id] = process
        message = {"op": "launch", "id": process.id, "program": program.to_wire()}
        if self._queue:
            self._queue.append((message, [os.dup(fd) for fd in fds]))
            return process
        try:
            send(self._control, message, fds)
        except BlockingIOError:
            self._queue.append((message, [os.dup(fd) for fd in fds]))
            self._loop.add_writer(self._control, self._flush)
        except OSError:
            self._lose()
        return process

    async def run_host(
        self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0
    ) -> tuple[int, bytes, bytes]:
        """Run a short command of the host in the service's own namespaces; its exit code, output, errors.

        :raises SpawnerError: when it cannot be executed or takes longer than ``timeout`` seconds.
        """
        files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        process: Process | None = None
        try:
            os.write(files[0], stdin)
            os.lseek(files[0], 0, os.SEEK_SET)
            environment = {
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C",
            }
            process = self.launch(compile_host_command(argv, environment), files)
            await process.started()
            async with asyncio.timeout(timeout):
                exit = await process.exited()
            output, errors = (os.pread(fd, os.fstat(fd).st_size, 0) for fd in files[1:])
            return exit.code, output, errors
        except ProgramFailed as error:
            raise SpawnerError(
                f"cannot run {argv[0]}", error.text, f"install the package of {argv[0]}"
            ) from None
        except TimeoutError:
            if process:
                process.send_signal(signal.SIGKILL)
            raise SpawnerError(f"cannot run {argv[0]}", f"it did not end within {timeout:g}s") from None
        finally:
            for fd in files:
                os.close(fd)
            if process:
                process.close()

    def dismiss(self) -> None:
        """Say that nothing is left to be swept; :meth:`close` must follow."""
        with contextlib.suppress(OSError):  # then it looks for itself
            send(self._control, {"op": "end"})

    async def close(self) -> None:
        """Hang up: the spawner kills what is left of its children and exits, or becomes the sweeper."""
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        self.gone.set()
        await asyncio.to_thread(self._process.wait)

    def _flush(self) -> None:
        while self._queue:
            message, fds = self._queue[0]
            try:
                send(self._control, message, fds)
            except BlockingIOError:
                return
            except OSError:
                self._lose()
                return
            self._queue.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._control)

    def _receive(self) -> None:
        for _ in range(64):  # then let others have the loop
            try:
                message, fds = receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                message, fds = None, []
            if message is None:
                self._lose()
                return
            process = self._processes[message["id"]]
            if message["event"] == "exited":
                del self._processes[message["id"]]
            process._hear(message, fds)

    def _lose(self) -> None:
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        error = SpawnerError(
            "the spawner is gone", f"process {self._process.pid} ended", "restart the orch service"
        )
        for process in self._processes.values():
            process._lose(error)
        self._processes.clear()
        self.gone.set()
