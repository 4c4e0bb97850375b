"""``orch up``: in the background, or in the foreground with the logs until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import time
from typing import Any, TypeVar

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.loglines import LogPrinter
from orchestrator.cli.loop import Loop
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.progress import Reporter, check, error_text, reporter, show
from orchestrator.cli.project import check_services, load_project
from orchestrator.cli.start import ensure_service
from orchestrator.cli.terminal import plain
from orchestrator.cli.times import elapsed, parse_seconds
from orchestrator.errors import NotFoundError, OrchError, UsageError, from_wire
from orchestrator.service.client import Client, Stream
from orchestrator.spec import ProjectSpec
from orchestrator.states import ENDED, Health, State
from orchestrator.views import ContainerView, EventView, LogLine, Progress, ProgressKind

T = TypeVar("T")
_IDLE = "up to date"  # what to say of an empty plan
_GRACE = 0.25  # seconds in which a container that ended may turn out to be only restarted by somebody
_DRAIN = 2.0  # seconds for the last log lines after everything has been removed


def configure(parser: Parser) -> None:
    """The arguments of ``up``."""
    parser.description = """\
Make the manifest so: create what is missing, change what the manifest changed, start what does not run, and
remove what is no longer named. Run again, it changes nothing.

In the foreground the logs of all containers are shown; Ctrl-C stops everything in dependency order, a second
Ctrl-C kills. Nothing is left behind but volumes. With -d it returns when everything is running and healthy, or
says what is not, and why."""
    parser.epilog = """\
examples:
  orch up                          the manifest of the current folder, in the foreground
  orch up -d manifest.toml         in the background
  orch up manifest.toml api db     only these services, and what they depend on
  orch up --exit-code-from test    for CI: stop when the service "test" ended, exit with its code"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_profile()
    option = parser.add_argument
    option("-d", "--detach", action="store_true", help="run in the background")
    option("--name", dest="project", metavar="NAME", default=argparse.SUPPRESS, help="the same as --project")
    option("--wait-timeout", type=parse_seconds, metavar="TIME", help="with -d: how long to wait at most")
    option("--no-wait", action="store_true", help="with -d: return once everything is started")
    option("--force-recreate", action="store_true", help="make all containers anew")
    option("--no-remove-orphans", action="store_true", help="keep containers the manifest does not name")
    option("--abort-on-exit", action="store_true", help="stop everything when a service ends or a job fails")
    option("--exit-code-from", metavar="SERVICE", help="stop when SERVICE ended, and exit with its code")
    option("-t", "--timestamps", action="store_true", help="show when each line was logged")
    option("-q", "--quiet", action="store_true", help="do not show progress")
    parser.add_format("text", "json")


def execute(context: Context) -> int:
    """``orch up``."""
    args = context.args
    if args.detach and (args.abort_on_exit or args.exit_code_from):
        raise UsageError("--detach cannot be combined with --abort-on-exit or --exit-code-from")
    project = load_project(context, takes_ports=True).project
    check_services(project, filter(None, [*context.names, args.exit_code_from]))
    ensure_service(context.client)
    return _in_background(context, project) if args.detach else _Foreground(context, project).run()


def _start(context: Context, project: ProjectSpec, *, wait: bool) -> Stream[Progress]:
    args = context.args
    return context.client.up(
        project,
        services=context.names,
        force_recreate=args.force_recreate,
        remove_orphans=not args.no_remove_orphans,
        wait=wait,
        wait_timeout=args.wait_timeout,
    )


def _in_background(context: Context, project: ProjectSpec) -> int:
    started = time.monotonic()
    stream = _start(context, project, wait=not context.args.no_wait)
    result = show(context, stream, idle=_IDLE)
    if context.args.quiet or context.json:
        check(result)
        return exit_codes.OK
    containers = result.containers or []
    if not result.ok:
        told = error_text(result.error).splitlines()
        for container in containers:
            known = any(text in container.reason for text in told)
            if not known and (trouble := _trouble(container)):
                context.err.line(f"{container.name}: {trouble}")
        check(result)
    _summary(context, project.name, containers, time.monotonic() - started)
    return exit_codes.OK


def _trouble(container: ContainerView) -> str:
    """What keeps a container from being well, or ``""``."""
    fine = container.state is State.RUNNING and container.health in (Health.NONE, Health.HEALTHY)
    if fine or (container.state is State.EXITED and container.exit_code == 0):
        return ""
    words = [container.state.value]
    if container.health is Health.UNHEALTHY:
        words.append("unhealthy")
    if container.state in ENDED and container.exit_code is not None:
        words.append(f"exit code {container.exit_code}")
    return ", ".join(words) + (f": {plain(container.reason)}" if container.reason else "")


def _summary(context: Context, project: str, containers: list[ContainerView], seconds: float) -> None:
    running = sum(container.state is State.RUNNING for container in containers)
    completed = sum(container.state is State.EXITED for container in containers)
    parts = [f"{running} {'container' if running == 1 else 'containers'} running"]
    if completed:
        parts.append(f"{completed} completed")
    context.err.line(f"{project} is up: {', '.join(parts)}, after {elapsed(seconds)}")
    for container in containers:
        for port in container.ports:
            context.err.line(
                f"  {container.service} listens on {port.host_ip}:{port.published} "
                f"(its port {port.target}/{port.protocol})"
            )
    context.err.flush()


class _Foreground:
    """``up`` with the logs: the project belongs to this process and goes away with it.

    First a lease is taken, so that nothing is left behind whatever happens to this process; then everything is
    started; logs are followed from the beginning; at the end everything is brought down.
    """

    def __init__(self, context: Context, project: ProjectSpec) -> None:
        self._context = context
        self._client: Client = context.client
        self._project = project
        self._logs = LogPrinter(
            context.out,
            project.name,
            (f"{name}-{service.replicas}" for name, service in project.services.items()),
            timestamps=context.args.timestamps,
        )
        self._reporter: Reporter = reporter(context, idle=_IDLE)
        self._streams: list[Stream[Any]] = []
        self._began = time.time()
        self._log_stream: Stream[LogLine] | None = None
        self._is_up = False  # the result of ``up`` has come
        self._downs = 0  # how often ``down`` has been asked for
        self._due: float | None = None  # when to look again whether there is a reason to stay up
        self._is_down = False
        self._code = exit_codes.OK
        self._error: OrchError | None = None

    def run(self) -> int:
        """Everything, from lease to exit code."""
        stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        try:
            with Loop(stops, self._on_signal) as loop:
                self._loop = loop
                lease = self._keep(self._client.lease(self._project.name))
                loop.follow(lease, lambda item: None, self._on_lease_lost)
                loop.follow(self._keep(_start(self._context, self._project, wait=False)), self._on_up)
                while not self._is_down:
                    self._step()
                deadline = time.monotonic() + _DRAIN
                while self._log_stream and not self._log_stream.ended and time.monotonic() < deadline:
                    self._step(deadline - time.monotonic())
        finally:
            self._reporter.finish()
            self._context.out.flush()
            for stream in self._streams:
                stream.close()
        if self._error:
            raise self._error
        return self._code

    def _step(self, timeout: float | None = None) -> None:
        interval = self._reporter.interval if self._is_busy() else None
        waits = [wait for wait in (timeout, interval, self._until_due()) if wait is not None]
        self._loop.step(min(waits, default=None))
        self._context.out.flush()
        if self._is_busy():
            self._reporter.tick()
        elif self._until_due() == 0:
            self._due = None
            if (code := self._verdict()) is not None:
                self._code = code
                self._down()

    def _until_due(self) -> float | None:
        return None if self._due is None else max(self._due - time.monotonic(), 0)

    def _is_busy(self) -> bool:
        return not self._is_up or self._downs > 0

    def _keep(self, stream: Stream[T]) -> Stream[T]:
        self._streams.append(stream)
        return stream

    def _on_lease_lost(self) -> None:
        if not self._is_down:
            self._say(f"{self._project.name} was brought down by somebody else")
            self._is_down = True

    def _on_up(self, progress: Progress) -> None:
        if self._downs:
            return
        self._reporter.apply(progress)
        if self._log_stream is None:
            self._follow_logs()
        if progress.kind is ProgressKind.RESULT:
            self._is_up = True
            self._reporter.finish()
            if progress.ok:
                if progress.containers and not self._context.args.quiet and not self._context.json:
                    _summary(
                        self._context, self._project.name, progress.containers, time.time() - self._began
                    )
                self._check_containers()
            else:
                self._fail(from_wire(progress.error) if progress.error else OrchError(progress.message))
                self._down()

    def _follow_logs(self) -> None:
        """Follow logs and events from the beginning of the run, as soon as the service knows the project."""
        name = self._project.name
        try:
            logs = self._client.logs(name, services=self._context.names, follow=True, since=self._began)
        except NotFoundError:
            return
        self._log_stream = self._keep(logs)
        self._loop.follow(logs, self._on_line)
        events = self._client.events(name, follow=True, since=self._began)
        self._loop.follow(self._keep(events), self._on_event)

    def _on_line(self, line: LogLine) -> None:
        if self._context.json:
            return
        if self._is_busy():
            self._reporter.above(lambda: self._print_at_once(line))
        else:
            self._logs.print(line)

    def _print_at_once(self, line: LogLine) -> None:
        self._logs.print(line)
        self._context.out.flush()

    def _on_event(self, event: EventView) -> None:
        if event.type == "container" and self._is_up and not self._downs:
            self._check_containers()

    def _check_containers(self) -> None:
        """See whether there is still a reason to stay up; if not, look once more soon, and then go."""
        if self._verdict() is None:
            self._due = None
        elif self._due is None:
            self._due = time.monotonic() + _GRACE

    def _verdict(self) -> int | None:
        try:
            containers = self._client.containers(self._project.name, all=True)
        except NotFoundError:  # somebody else has brought it down
            containers = []
        args = self._context.args
        return _verdict(containers, abort=args.abort_on_exit, exit_from=args.exit_code_from)

    def _on_signal(self, number: signal.Signals) -> None:
        self._code = exit_codes.SIGNALLED + number
        if self._downs == 0:
            self._say("stopping (Ctrl-C again kills)")
        elif self._downs == 1:
            self._say("killing")
        else:
            self._is_down, self._log_stream = True, None  # the service goes on, as the lease ends
        self._down(kill=self._downs > 0)

    def _down(self, *, kill: bool = False) -> None:
        if self._is_down:
            return
        self._downs += 1
        is_first = self._downs == 1
        if is_first:
            self._reporter.finish()
            self._reporter = reporter(self._context)
        try:
            stream = self._client.down(self._project.name, kill=kill)
        except NotFoundError:  # nothing had been made yet, or somebody else was faster
            self._is_down = True
            return
        # A second one only hurries the first, which goes on to tell what happens.
        self._loop.follow(self._keep(stream), self._on_down if is_first else lambda progress: None)

    def _on_down(self, progress: Progress) -> None:
        self._reporter.apply(progress)
        if progress.kind is ProgressKind.RESULT:
            self._is_down = True
            if not progress.ok:
                self._fail(from_wire(progress.error) if progress.error else OrchError(progress.message))

    def _fail(self, error: OrchError) -> None:
        """Keep the first error: later ones follow from it."""
        self._error = self._error or error

    def _say(self, text: str) -> None:
        if not self._context.args.quiet and not self._context.json:
            self._reporter.above(lambda: self._context.err.line(text))
            self._context.err.flush()


def _verdict(containers: list[ContainerView], *, abort: bool, exit_from: str | None) -> int | None:
    """The exit code if it is time to go, else None.

    :param abort: go when a service has ended, or a job has failed.
    :param exit_from: go when this service has ended, with its exit code.
    """
    over = [container for container in containers if container.state in ENDED]
    if exit_from:
        chosen = [container for container in containers if container.service == exit_from]
        if all(container in over for container in chosen):
            return _exit_code(chosen)
    if abort:
        aborting = [container for container in over if container.kind == "service" or _exit_code([container])]
        if aborting:
            return _exit_code(aborting)
    if len(over) == len(containers):
        return min(_exit_code(over), 1)
    return None


def _exit_code(containers: list[ContainerView]) -> int:
    """The first exit code that is not 0; a container that could not be started counts as 1."""
    for container in containers:
        if code := container.exit_code or (1 if container.state is State.FAILED else 0):
            return code
    return 0


COMMANDS = {"up": Command(configure, execute)}
