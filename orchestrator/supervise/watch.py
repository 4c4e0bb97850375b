"""Watching one running container: its health checks, the kernel's OOM killer, and what it waits for."""

from __future__ import annotations

import asyncio
import collections
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.cgroups.group import Cgroup
from orchestrator.errors import OrchError
from orchestrator.health.monitor import HealthState, next_state
from orchestrator.health.probe import Target, probe
from orchestrator.launch.launcher import ExecRequest
from orchestrator.spec import PressureTrigger
from orchestrator.states import State
from orchestrator.supervise import pressure
from orchestrator.views import ProbeView

if TYPE_CHECKING:
    from orchestrator.supervise.supervisor import Supervisor

_OUTPUT_LIMIT = 4096
_KEPT_PROBES = 5
#: Seconds from the notice of an OOM kill until the kernel has counted it, generously.
_OOM_SETTLING = 0.1


class HealthWatch:
    """Probes a container as its health check says, from its start to :meth:`close`, and tells its supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.probes: collections.deque[ProbeView] = collections.deque(maxlen=_KEPT_PROBES)
        self._supervisor = supervisor
        name = f"health of {supervisor.container.name}"
        self._task = asyncio.create_task(self._watch(), name=name)

    def close(self) -> None:
        """Stop probing."""
        self._task.cancel()

    async def _watch(self) -> None:
        supervisor = self._supervisor
        check = supervisor.spec.healthcheck
        assert check is not None
        state = HealthState.begin(time.monotonic())
        target = self._target()
        while True:
            if supervisor.state is State.PAUSED:
                await supervisor.wait_until(lambda: supervisor.state is not State.PAUSED)
            result = await probe(check.test, target, check.timeout, self._run_exec)
            if supervisor.state is State.PAUSED:
                continue  # frozen in the middle of it: that says nothing
            self.probes.append(
                ProbeView(time=time.time(), ok=result.ok, output=result.output, seconds=result.seconds)
            )
            state, health, delay = next_state(check, state, result, time.monotonic())
            supervisor.health_is(health, state.describe(check))
            await asyncio.sleep(delay)

    def _target(self) -> Target:
        endpoints = self._supervisor.container.network_home.endpoints
        return Target(str(endpoints[0].address) if endpoints else "127.0.0.1")

    async def _run_exec(self, command: tuple[str, ...], timeout: float) -> tuple[int, bytes]:
        """Run a check's command in the container; its exit code and the start of its output.

        :raises TimeoutError: when it took too long; it is killed.
        """
        try:
            process = await self._supervisor.exec(ExecRequest(command))
        except OrchError as error:
            return getattr(error, "status", 125), str(error).encode()
        reader = _OutputReader([process.take("stdout"), process.take("stderr")])
        try:
            async with asyncio.timeout(timeout):
                exit = await process.exited()
            return exit.code, reader.output()
        finally:
            process.abandon()
            reader.close()


class _OutputReader:
    """Drains pipes so that their writer never blocks, and keeps the first bytes."""

    def __init__(self, fds: list[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fds = fds
        self._kept = bytearray()
        for fd in fds:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, fd)

    def output(self) -> bytes:
        """What came, at most the first 4 KiB."""
        for fd in list(self._fds):
            self._read(fd)
        return bytes(self._kept[:_OUTPUT_LIMIT])

    def close(self) -> None:
        """Stop reading."""
        for fd in list(self._fds):
            self._end(fd)

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._end(fd)
        elif len(self._kept) < _OUTPUT_LIMIT:
            self._kept += data

    def _end(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._fds.remove(fd)
        os.close(fd)


class OomWatch:
    """Calls ``found`` on the event loop for new OOM kills in a cgroup, until :meth:`close`.

    :param before: kills that the cgroup had counted already.
    """

    def __init__(self, cgroup: Cgroup, before: int, found: Callable[[], None]) -> None:
        self._cgroup = cgroup
        self._found = found
        self._loop = asyncio.get_running_loop()
        self._before = self._seen = before
        self._later: asyncio.TimerHandle | None = None
        self._notifier = cgroup.oom_watch()
        if self._notifier:
            self._loop.add_reader(self._notifier.fileno(), self._notified)

    def close(self) -> int:
        """Stop watching; how many kills there were altogether."""
        if self._later:
            self._later.cancel()
        if self._notifier:
            self._loop.remove_reader(self._notifier.fileno())
            self._notifier.close()
            self._notifier = None
        self._look()
        return self._seen - self._before

    def _notified(self) -> None:
        assert self._notifier
        self._notifier.drain()
        self._look()
        if self._later:
            self._later.cancel()
        # v1 tells of it just before it kills: the kill may not have been counted yet.
        self._later = self._loop.call_later(_OOM_SETTLING, self._look)

    def _look(self) -> None:
        kills = self._cgroup.oom_kills()
        if kills > self._seen:
            self._seen = kills
            self._found()


class PressureWatch:
    """Tells its supervisor when a container waits too much for a resource, and when that is over.

    :raises KernelError: the kernel refuses to watch.
    """

    def __init__(self, supervisor: Supervisor, trigger: PressureTrigger) -> None:
        self.trigger = trigger
        #: The notices that keep coming, if they do.
        self.spell: pressure.Spell | None = None
        #: Whether that is sustained: once it is, until it is over.
        self.sustained = False
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.TimerHandle | None = None
        self._notifier = supervisor.container.cgroup.pressure_watch(trigger)
        self._loop.add_reader(self._notifier.fileno(), self._noticed)

    @property
    def text(self) -> str:
        """For people: what it is, or ``""``."""
        return pressure.describe(self.trigger, self.spell) if self.spell else ""

    def close(self) -> None:
        """Stop watching."""
        if self._over:
            self._over.cancel()
        self._loop.remove_reader(self._notifier.fileno())
        self._loop.run_in_executor(None, self._notifier.close)  # it takes some 10 ms

    def _noticed(self) -> None:
        self._notifier.drain()
        if not self._supervisor.is_attended:
            return
        try:
            waited = self._supervisor.container.cgroup.waited(self.trigger.resource, self.trigger.kind)
        except OrchError:  # the cgroup is gone
            return
        self.spell = pressure.notice(self.trigger, self.spell, self._loop.time(), waited)
        if self._over:
            self._over.cancel()
        self._over = self._loop.call_later(pressure.patience(self.trigger), self._ended)
        if not self.sustained and pressure.is_sustained(self.trigger, self.spell):
            self.sustained = True
            self._supervisor.pressure_found(self)
        elif self.sustained:
            self._supervisor.explain()

    def _ended(self) -> None:
        self.spell = None
        if self.sustained:
            self.sustained = False
            self._supervisor.pressure_eased(self)
