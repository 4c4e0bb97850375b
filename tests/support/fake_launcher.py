"""A launcher without a kernel: its processes are objects, and it keeps what it was asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from orchestrator.cgroups.group import Cgroup
from orchestrator.errors import KernelError, SpawnerError
from orchestrator.ids import Instance
from orchestrator.images.resolve import Image
from orchestrator.launch.container import Container
from orchestrator.launch.launcher import Attached, ExecRequest, Launcher
from orchestrator.runtime.handle import Exit, Process
from orchestrator.spec import PressureTrigger, RestartPolicy, ServiceSpec
from orchestrator.states import State
from orchestrator.supervise.supervisor import Supervisor

#: No pid has this number (the kernel's maximum is 4194304), so nothing about it is found in /proc.
NO_PID = 1 << 30


class FakeProcess:
    """A program that runs until :meth:`end`, or until a signal that it ``dies_of``."""

    def __init__(self, dies_of: tuple[int, ...] = (signal.SIGTERM, signal.SIGKILL), code: int = 0) -> None:
        self.pid = NO_PID
        self.signals: list[int] = []
        self.closed = False
        self._dies_of = dies_of
        self._code = code
        self._exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def end(self, code: int = 0, by: int | None = None) -> None:
        """The program ends, with ``code`` or by a signal."""
        if not self._exited.done():
            self._exited.set_result(Exit(128 + by, by) if by else Exit(code, None))

    def lose(self) -> None:
        """The spawner goes away."""
        self._exited.set_exception(SpawnerError("the spawner is gone"))

    async def exited(self) -> Exit:
        return await asyncio.shield(self._exited)

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        if number in self._dies_of:
            self.end(self._code, by=signal.SIGKILL if number == signal.SIGKILL else None)

    def take(self, name: str) -> int:
        reader, writer = os.pipe()
        os.close(writer)
        return reader

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.close()


class FakeNotifier:
    """What a test makes readable with :meth:`tell`."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.closed = False
        self.drained = 0

    def tell(self) -> None:
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        return self._fd

    def drain(self) -> None:
        self.drained += 1
        os.eventfd_read(self._fd)

    def close(self) -> None:
        self.closed = True
        os.close(self._fd)


class FakeCgroup:
    """Counts; ``calls`` is what was done to it, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kills = 0
        self.may_kill = threading.Event()  #: a kill takes until this is set
        self.may_kill.set()
        self.spent = False
        self.triggers: list[PressureTrigger] = []
        self.pressure: list[FakeNotifier] = []
        self.refuses: KernelError | None = None
        self.seconds_waited = 0.0

    def oom_kills(self) -> int:
        return self.kills

    def oom_watch(self) -> FakeNotifier:
        self.oom = FakeNotifier()
        return self.oom

    def pressure_watch(self, trigger: PressureTrigger) -> FakeNotifier:
        if self.refuses:
            raise self.refuses
        self.triggers.append(trigger)
        self.pressure.append(FakeNotifier())
        return self.pressure[-1]

    def waited(self, resource: str, kind: str) -> float:
        return self.seconds_waited

    def press(self, seconds: float, trigger: int = -1) -> None:
        """Processes have waited for so long; the kernel tells."""
        self.seconds_waited += seconds
        self.pressure[trigger].tell()

    def run_out_of_memory(self) -> None:
        """The kernel kills one process, and tells."""
        self.kills += 1
        self.oom.tell()

    def freeze(self) -> None:
        self.calls.append("freeze")

    def renew(self) -> None:
        self.spent = False
        self.calls.append("renew")

    def thaw(self) -> None:
        self.calls.append("thaw")

    async def wait_frozen(self, timeout: float) -> None:
        self.calls.append("wait_frozen")

    def kill(self) -> None:
        self.spent = True
        self.may_kill.wait(5)
        self.calls.append("kill")

    def remove(self) -> None:
        self.calls.append("remove")


@dataclass
class FakeLauncher:
    """Starts what ``script`` holds, one entry a start, then plain processes.

    :param script: a process, or the error of a start that fails.
    :param gate: while it is not set, starts wait.
    """

    script: list[FakeProcess | Exception] = field(default_factory=list)
    exec_script: list[FakeProcess] = field(default_factory=list)
    processes: list[FakeProcess] = field(default_factory=list)
    execs: list[ExecRequest] = field(default_factory=list)
    limits: list[ServiceSpec] = field(default_factory=list)
    starts: int = 0
    gate: asyncio.Event | None = None

    async def start(
        self, container: Container, attached: Attached | None = None
    ) -> tuple[Process, list[tuple[str, float]]]:
        self.starts += 1
        if self.gate:
            await self.gate.wait()
        made = self.script.pop(0) if self.script else FakeProcess()
        if isinstance(made, Exception):
            raise made
        self.processes.append(made)
        return cast(Process, made), [("total", 0.001)]

    async def exec(self, container: Container, process: Process, request: ExecRequest) -> Process:
        self.execs.append(request)
        return cast(Process, self.exec_script.pop(0) if self.exec_script else FakeProcess())

    def limit(self, container: Container, spec: ServiceSpec) -> None:
        self.limits.append(spec)


async def eventually(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait until ``condition()`` holds: for what nobody announces."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


@dataclass
class Kept:
    """A supervisor of a fake container, and everything that it said."""

    supervisor: Supervisor
    launcher: FakeLauncher
    cgroup: FakeCgroup
    heard: list[tuple[str, State, str]]

    @property
    def process(self) -> FakeProcess:
        """The latest one."""
        return self.launcher.processes[-1]

    @property
    def actions(self) -> list[str]:
        """What happened, in order."""
        return [action for action, _, _ in self.heard]

    def said(self, action: str) -> str:
        """The sentence of the last such event."""
        return [message for name, _, message in self.heard if name == action][-1]

    async def reach(self, state: State, timeout: float = 5.0) -> None:
        """Wait for a state."""
        async with asyncio.timeout(timeout):
            await self.supervisor.wait_until(lambda: self.supervisor.state is state)

    async def started(self, count: int, timeout: float = 5.0) -> FakeProcess:
        """Wait until its program runs for the ``count``-th time; the process."""
        async with asyncio.timeout(timeout):
            await self.supervisor.wait_until(
                lambda: len(self.launcher.processes) == count and self.supervisor.state is State.RUNNING
            )
        return self.process


def fake_container(spec: ServiceSpec, cgroup: FakeCgroup, replica: int = 1) -> Container:
    """A container that nothing has been made for."""
    return Container(
        id=f"{spec.name}{replica}".ljust(12, "0"), instance=Instance("/nowhere/state", "/nowhere/run"),
        project="shop", replica=replica, spec=spec, image=Image("host", ()), cgroup=cast(Cgroup, cgroup),
    )  # fmt: skip


def keep(
    spec: ServiceSpec | None = None,
    script: list[FakeProcess | Exception] | None = None,
    gate: asyncio.Event | None = None,
    **restart: Any,
) -> Kept:
    """A supervisor of one container; ``restart`` are the fields of its restart policy."""
    spec = spec or ServiceSpec(name="web", restart=RestartPolicy(**{"jitter": 0.0, **restart}))
    launcher, cgroup = FakeLauncher(script or [], gate=gate), FakeCgroup()
    heard: list[tuple[str, State, str]] = []
    supervisor = Supervisor(
        fake_container(spec, cgroup),
        cast(Launcher, launcher),
        lambda who, action, message: heard.append((action, who.state, message)),
    )
    return Kept(supervisor, launcher, cgroup, heard)
