"""The supervisor: one per container, from its first start until it is removed.

It owns the container's state and is the only one to change it. A life (``_live``) is one task: start, watch
until the program ends, ask the policy, start again or end. Everybody else asks (``start``, ``stop``,
``pause``...) and waits for a state (``wait_until``).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.errors import ConflictError, KernelError, LaunchError, OrchError, SpawnerError
from orchestrator.launch.container import Container
from orchestrator.launch.launcher import Attached, ExecRequest, Launcher, Terminal
from orchestrator.runtime.handle import Exit, Process
from orchestrator.spec import ServiceSpec
from orchestrator.states import ALIVE, ENDED, Event, Health, State, transition
from orchestrator.supervise.policy import Decision, History, Outcome, Verdict, decide, describe_exit
from orchestrator.supervise.stopping import SETTLING, heeds, signal_number
from orchestrator.supervise.watch import HealthWatch, OomWatch, PressureWatch
from orchestrator.units import format_duration
from orchestrator.views import Stage

#: Called after every change: what happened (past tense or state), and a sentence about it.
Listener = Callable[["Supervisor", str, str], None]


@dataclass(slots=True)
class _StopRequest:
    grace: float
    reason: str
    kill: bool = False


class Supervisor:
    """One container's keeper. All methods are called on the event loop."""

    def __init__(self, container: Container, launcher: Launcher, listener: Listener) -> None:
        self.container = container
        self.state = State.PENDING
        self.health = Health.NONE
        #: Why it is in its state, for people.
        self.reason = ""
        self.exit_code: int | None = None
        self.restarts = 0
        self.created_at = time.time()
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.next_attempt_at: float | None = None
        self.stages: list[Stage] = []
        self.error: LaunchError | None = None
        self.process: Process | None = None
        self.health_watch: HealthWatch | None = None
        self.pressure_watches: list[PressureWatch] = []
        self._launcher = launcher
        self._listener = listener
        self._history = History()
        self._life: asyncio.Task[None] | None = None
        self._stop: _StopRequest | None = None
        self._ending: _StopRequest | None = None  # what ends the present run: a stop, or a complaint
        self._ailment = ""  # what the health check says, unless all is well
        self._killing: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()

    # What others may ask

    @property
    def spec(self) -> ServiceSpec:
        """What it is made from, as updates in place have left it."""
        return self.container.spec

    @property
    def pid(self) -> int | None:
        """Its first process, as the host sees it."""
        return self.process.pid if self.process and self.state in ALIVE else None

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop and has not ended yet."""
        return self._stop is not None and self.state not in ENDED

    @property
    def is_attended(self) -> bool:
        """Whether what is wrong with it is acted upon: it runs, and nothing is about to end it."""
        return self.state is State.RUNNING and self._ending is None

    @property
    def _lives(self) -> bool:
        return self._life is not None and not self._life.done()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition()`` is true; it is looked at after every change of this container."""
        while not condition():
            await self.wait_change()

    async def wait_change(self) -> None:
        """Wait until something about the container changes."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def explain_wait(self, reason: str) -> None:
        """Say what a pending container waits for."""
        if self.state is State.PENDING and self.reason != reason:
            self.reason = reason
            self._changed("waiting", reason)

    def give_up(self, reason: str) -> None:
        """It will not be started: something it depends on failed. What was started is its restart policy's."""
        if self.state is State.PENDING and not self._lives:
            self._to(Event.GIVE_UP, reason, "failed")

    def reset(self) -> None:
        """An ended container is to be started anew: it is pending again, with a clean history."""
        if self.state in ENDED:
            self._history = History()
            self.health = Health.NONE
            self.exit_code = None
            self.error = None
            self._to(Event.RESET, "", "reset")

    def start(self) -> None:
        """Start it, and keep it as its restart policy says. Returns at once; see :meth:`wait_until`."""
        if self._lives:
            return
        self.reset()
        self._stop = None
        self._stop_asked.clear()
        self._life = asyncio.create_task(self._live(), name=f"supervise {self.container.name}")

    async def stop(self, timeout: float | None = None, kill: bool = False, reason: str = "stopped") -> None:
        """Stop it: stop signal, grace (default: the spec's), then the whole cgroup is killed.

        Returns when it has ended. A second call with ``kill`` cuts the first one's grace short.
        """
        grace = self.spec.stop_grace_period if timeout is None else timeout
        if self._stop is None:
            self._stop = _StopRequest(grace, reason, kill)
            if self.state in (State.PENDING, State.RESTARTING, State.FAILED):
                self._to(Event.STOP, reason, "stopped")
            elif self.state in (State.STARTING, State.RUNNING, State.PAUSED):
                if self.state is State.PAUSED:
                    await asyncio.to_thread(self.container.cgroup.thaw)
                if self.state in (State.STARTING, State.RUNNING, State.PAUSED):
                    self._to(Event.STOP, "stopping", "stopping")
        for request in (self._stop, self._ending):
            if request and kill:
                request.kill = True
        self._stop_asked.set()
        self._wake()
        if self._life:
            await asyncio.shield(self._life)
        if self.state is State.FAILED:
            self._to(Event.STOP, reason, "stopped")

    def kill(self, number: int) -> None:
        """Send a signal to its first process.

        :raises ConflictError: when it has none.
        """
        if self.process is None or self.state not in ALIVE:
            raise ConflictError(f'cannot signal "{self.container.name}"', f"it is {self.state}", "")
        self.process.send_signal(number)
        if number == signal.SIGKILL and self.state is State.PAUSED:
            self.container.cgroup.thaw()  # v1 lets nobody die who is frozen

    async def pause(self) -> None:
        """Freeze all its processes.

        :raises ConflictError: when it does not run.
        """
        if self.state is not State.RUNNING:
            raise ConflictError(f'cannot pause "{self.container.name}"', f"it is {self.state}", "")
        self.container.cgroup.freeze()
        self._to(Event.PAUSE, "paused", "paused")
        await self.container.cgroup.wait_frozen(5.0)

    async def unpause(self) -> None:
        """Let them go on.

        :raises ConflictError: when it is not paused.
        """
        if self.state is not State.PAUSED:
            raise ConflictError(f'cannot unpause "{self.container.name}"', f"it is {self.state}", "")
        self.container.cgroup.thaw()
        self._to(Event.UNPAUSE, "", "unpaused")

    def check_exec(self) -> None:
        """Say why no process can be run in it now, if none can.

        :raises ConflictError: when it does not run.
        """
        if self.process is None or self.state not in (State.RUNNING, State.STOPPING):
            raise ConflictError(
                f'cannot exec in "{self.container.name}"', f"it is {self.state}",
                "unpause it first" if self.state is State.PAUSED else "start it first",
            )  # fmt: skip

    async def exec(self, request: ExecRequest) -> Process:
        """Run one more process in it.

        :raises ConflictError: when it does not run.
        :raises LaunchError: when the process cannot be started.
        """
        self.check_exec()
        assert self.process
        return await self._launcher.exec(self.container, self.process, request)

    def update(self, spec: ServiceSpec) -> None:
        """Change in place what can be changed in place: limits, device rules, policy, health check, labels.

        :raises LaunchError: when the kernel refuses a limit.
        """
        old = self.spec
        if (spec.resources, spec.device_cgroup_rules) != (old.resources, old.device_cgroup_rules):
            if self.state in ALIVE:
                self._launcher.limit(self.container, spec)
            else:
                self.container.cgroup.remove()  # the next start makes it anew, with the new limits
        self.container.spec = spec
        if spec.healthcheck != old.healthcheck and self.state in (State.RUNNING, State.PAUSED):
            self._start_health()
        if spec.pressure != old.pressure and self.state in (State.RUNNING, State.PAUSED):
            self._watch_pressure()
        self.explain()
        self._changed("updated", "")

    def attach(self, terminal: Terminal | None, stdin: bool) -> asyncio.Future[Process]:
        """Start it with its terminal, or its pipes, left to the caller, once, without restarts (``orch run``).

        The future brings the process, which is the caller's to close, or a LaunchError.

        :raises ConflictError: when it has been stopped already.
        """
        if self.state is not State.PENDING:
            raise ConflictError(f'cannot run "{self.container.name}"', self.reason, "")
        self._to(Event.START, "", "starting")
        started: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        attached = self._live_attached(Attached(terminal, stdin), started)
        self._life = asyncio.create_task(attached, name=f"run {self.container.name}")
        return started

    # One life

    async def _live(self) -> None:
        while True:
            if self._stop:
                if self.state in (State.PENDING, State.RESTARTING):
                    self._to(Event.STOP, self._stop.reason, "stopped")
                return
            self._to(Event.START, "", "starting")
            outcome = await self._attempt()
            if self._stop:
                ending = Event.EXIT if self.exit_code is not None else Event.START_FAILED
                self._to(
                    ending, self._stop.reason, "exited" if self.exit_code is not None else "start-failed"
                )
                return
            decision = self._decide(outcome)
            self._history = decision.history
            match decision.verdict:
                case Verdict.RESTART:
                    await self._await_next_attempt(decision)
                case Verdict.EXIT:
                    event = Event.START_FAILED if outcome.launch_failed else Event.EXIT
                    self._to(event, decision.reason, "start-failed" if outcome.launch_failed else "exited")
                    return
                case Verdict.GIVE_UP:
                    event = Event.START_FAILED if outcome.launch_failed else Event.GIVE_UP
                    self._to(event, decision.reason, "failed")
                    return

    async def _attempt(self) -> Outcome:
        """One start, and the program's whole run."""
        try:
            process = await self._begin()
        except LaunchError as error:
            self.error, self.exit_code = error, None
            return Outcome(
                exit_code=error.status, signal=None, oom=False, launch_failed=True, retryable=error.status == 125,
                ran_for=0.0, stop_requested=self._stop is not None, unhealthy=False,
            )  # fmt: skip
        try:
            return await self._see_out(process)
        finally:
            process.close()

    async def _begin(self, attached: Attached | None = None) -> Process:
        try:
            if self.container.cgroup.spent:
                await asyncio.to_thread(self.container.cgroup.renew)
            self._oom_kills = self._count_oom_kills()
            process, stages = await self._launcher.start(self.container, attached)
        except OrchError as error:
            raise (
                error
                if isinstance(error, LaunchError)
                else LaunchError(error.what, error.cause, error.remedy)
            )
        except Exception as error:  # a defect of ours: whoever waits for the container must hear of it
            what, cause = f'cannot start "{self.container.name}"', f"{type(error).__name__}: {error}"
            raise LaunchError(what, cause, "this is a bug in orch") from error
        self.process = process
        self.stages = [Stage(name=name, seconds=seconds) for name, seconds in stages]
        self.started_at, self.finished_at, self.exit_code, self.error = time.time(), None, None, None
        self._started = time.monotonic()
        if self.state is State.STARTING:
            self.health = Health.STARTING if self.spec.healthcheck else Health.NONE
            self._to(Event.STARTED, "", "started")
        return process

    async def _see_out(self, process: Process) -> Outcome:
        """Wait for the end of the program, or bring it about; leaves no process of the container."""
        oom_watch = OomWatch(self.container.cgroup, self._oom_kills, self._oom)
        if self.state is State.RUNNING:
            self._start_health()
            self._watch_pressure()
        stopping: asyncio.Task[None] | None = None
        complaint = ""
        try:
            exited = asyncio.ensure_future(process.exited())
            asked = asyncio.ensure_future(self._stop_asked.wait())
            sick = asyncio.ensure_future(self._sick())
            await asyncio.wait((exited, asked, sick), return_when=asyncio.FIRST_COMPLETED)
            if sick.done() and not exited.done() and not asked.done():
                complaint = sick.result()
            if not exited.done():
                self._ending = self._stop or _StopRequest(self.spec.stop_grace_period, self.reason)
                stopping = asyncio.create_task(self._terminate(process, self._ending))
            exit = await exited
        except SpawnerError as error:
            exit = Exit(255, None)
            self.reason = str(error)
        finally:
            asked.cancel()
            sick.cancel()
            if stopping:
                stopping.cancel()
            self._ending = None
            oom_kills = oom_watch.close()
            self._end_health()
            self._end_pressure()
        await self._finish_kill()
        return self._ended(process, exit, complaint, oom_kills)

    def _ended(self, process: Process, exit: Exit, complaint: str, oom_kills: int) -> Outcome:
        self.finished_at = time.time()
        self.exit_code = exit.code
        self.process = None
        self.health = Health.NONE
        if self.state is State.PAUSED:
            self.container.cgroup.thaw()  # the next run shall not be born frozen
        return Outcome(
            exit_code=exit.code, signal=exit.signal,
            # A shell, or an init, passes the kill of its child on as its own exit code.
            oom=exit.code == 128 + signal.SIGKILL and oom_kills > 0, launch_failed=False, retryable=True,
            ran_for=time.monotonic() - self._started, stop_requested=self._stop is not None,
            unhealthy=bool(complaint), complaint=complaint,
        )  # fmt: skip

    async def _live_attached(self, attached: Attached, started: asyncio.Future[Process]) -> None:
        try:
            process = await self._begin(attached)
        except LaunchError as error:
            self.error = error
            self._to(Event.START_FAILED, str(error), "start-failed")
            started.set_exception(error)
            return
        started.set_result(process)
        outcome = await self._see_out(process)
        reason = describe_exit(
            outcome.exit_code or 0, outcome.signal, outcome.oom, self.spec.resources.memory
        )
        self._to(Event.EXIT, reason, "exited")

    def _decide(self, outcome: Outcome) -> Decision:
        decision = decide(
            self.spec.restart, self.spec.kind, self._history, outcome, time.monotonic(), random.random(),
            memory_limit=self.spec.resources.memory,
        )  # fmt: skip
        if outcome.launch_failed and self.error:
            return decision.with_reason(f"{self.error}; {decision.reason}")
        return decision

    async def _await_next_attempt(self, decision: Decision) -> None:
        self.restarts += 1
        self.next_attempt_at = time.time() + decision.delay
        self._to(Event.RETRY, decision.reason, "restarting")
        if decision.delay > 0:
            try:
                async with asyncio.timeout(decision.delay):
                    await self._stop_asked.wait()
            except TimeoutError:
                pass
        self.next_attempt_at = None

    # Stopping

    async def _terminate(self, process: Process, request: _StopRequest) -> None:
        """Stop signal, grace, kill. Ends with the process dead, or never (it is cancelled when it is)."""
        number = signal_number(self.spec.stop_signal)
        begin = time.monotonic()
        if not request.kill:
            heard, cut = heeds(process.pid, number), False
            process.send_signal(number)
            if not heard:
                # It may still be settling in; a program that has not is beyond asking.
                settling = min(self._started + SETTLING - begin, request.grace)
                cut = await self._grace(settling, request)
                if not cut and heeds(process.pid, number):
                    process.send_signal(number)
                    heard = True
            if heard:
                cut = await self._grace(begin + request.grace - time.monotonic(), request)
            why = self._why_killed(heard, cut, request)
            request.reason += f" (killed: {why})"
            self._listener(self, "killed", why)
        await self._kill_all(process)

    async def _grace(self, seconds: float, request: _StopRequest) -> bool:
        """Let a grace pass; whether it was cut short."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.wait_until(lambda: request.kill)
        except TimeoutError:
            pass
        return request.kill

    def _why_killed(self, heard: bool, cut: bool, request: _StopRequest) -> str:
        if cut:
            return "its stop was cut short"
        if heard:
            return f"did not stop within {format_duration(request.grace)}"
        return f"its pid 1 has no handler for {self.spec.stop_signal} (init = true gives it one)"

    async def _kill_all(self, process: Process) -> None:
        await asyncio.shield(self._begin_kill(process))

    def _begin_kill(self, process: Process) -> asyncio.Task[None]:
        # All of the container's processes die with the first of its pid namespace; the cgroup kill is for
        # those that a thawing or uninterruptible first process would leave waiting.
        process.send_signal(signal.SIGKILL)
        if self._killing is None:
            self._killing = asyncio.create_task(asyncio.to_thread(self.container.cgroup.kill))
        return self._killing

    async def _finish_kill(self) -> None:
        """A kill of the cgroup that is under way must not meet the next run."""
        if self._killing:
            await asyncio.wait([self._killing])
            if error := self._killing.exception():
                self._listener(self, "trouble", str(error))
            self._killing = None

    # Watching

    def _start_health(self) -> None:
        self._end_health()
        self.health = Health.NONE
        self._ailment = ""
        if self.spec.healthcheck:
            self.health = Health.STARTING
            self.health_watch = HealthWatch(self)

    def _end_health(self) -> None:
        if self.health_watch:
            self.health_watch.close()
            self.health_watch = None

    def health_is(self, health: Health, text: str) -> None:
        """The health watch's finding."""
        if self.is_attended:
            self._ailment = "" if health is Health.HEALTHY else text
            self.explain()
        if health is not self.health:
            self.health = health
            self._changed(health.value, text)

    def explain(self) -> None:
        """Say what is wrong with it while it runs: what its health check says, what it waits too much for."""
        if self.is_attended:
            pressed = (watch.text for watch in self.pressure_watches if watch.sustained)
            self.reason = "; ".join(filter(None, (self._ailment, *pressed)))
            self._wake()

    def _watch_pressure(self) -> None:
        self._end_pressure()
        for trigger in self.spec.pressure:
            try:
                self.pressure_watches.append(PressureWatch(self, trigger))
            except KernelError as error:
                self._listener(self, "trouble", str(error))

    def _end_pressure(self) -> None:
        for watch in self.pressure_watches:
            watch.close()
        self.pressure_watches = []

    def pressure_found(self, watch: PressureWatch) -> None:
        """A pressure watch's finding."""
        word, _, name = watch.trigger.action.partition(":")
        text = watch.text
        if word == "signal" and self.process:
            self.process.send_signal(signal_number(name))
            text += f", sent {name}"
        self.explain()
        self._changed("pressure", text)

    def pressure_eased(self, watch: PressureWatch) -> None:
        """What a pressure watch had found is over."""
        self.explain()
        self._changed("pressure-eased", f"{watch.trigger.resource} pressure: no longer")

    async def _sick(self) -> str:
        """Wait until something must be done about it, as the manifest says; what is wrong with it."""
        await self.wait_until(lambda: self._complaint() is not None)
        complaint = self._complaint()
        assert complaint
        action, short, full = complaint
        if action == "stop" and self._stop is None:
            self._stop = _StopRequest(self.spec.stop_grace_period, f"stopped because {full}")
        return short

    def _complaint(self) -> tuple[str, str, str] | None:
        """What must be done about it, and why: in short, and so that it goes on after "because"."""
        check = self.spec.healthcheck
        if self.health is Health.UNHEALTHY and check and check.action != "none":
            return check.action, "unhealthy", f"unhealthy: {self._ailment}"
        for watch in self.pressure_watches:
            if watch.sustained and watch.trigger.action in ("restart", "stop"):
                return watch.trigger.action, watch.text, f"of {watch.text}"
        return None

    def _count_oom_kills(self) -> int:
        try:
            return self.container.cgroup.oom_kills()
        except KernelError:  # it has not been made yet
            return 0

    def _oom(self) -> None:
        limit = self.spec.resources.memory
        self._listener(self, "oom", describe_exit(137, 9, True, limit))
        if self.spec.resources.oom_group and self.process:
            # With cgroup v1 the kernel kills one process only; with v2 it has killed them all, and this does nothing.
            self._begin_kill(self.process)

    # State

    def _to(self, event: Event, reason: str, action: str) -> None:
        self.state = transition(self.state, event)
        self.reason = reason
        self._changed(action, reason)

    def _changed(self, action: str, message: str) -> None:
        self._wake()
        self._listener(self, action, message)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
