"""The progress of an operation: what the stream says, as lines that come and go or as plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cli.loop import Loop
from orchestrator.cli.terminal import LiveRegion, Terminal, harmless, plain
from orchestrator.cli.times import elapsed
from orchestrator.errors import OrchError, from_wire
from orchestrator.views import OperationView, Progress, ProgressKind

if TYPE_CHECKING:
    from orchestrator.cli.context import Context
    from orchestrator.service.client import Stream

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME = 0.1  # seconds
_LONG_WAIT = 1.0  # seconds
#: action -> what it is doing, what it has done
_WORDS = {
    "create": ("creating", "created"),
    "start": ("starting", "started"),
    "recreate": ("recreating", "recreated"),
    "update": ("updating", "updated"),
    "restart": ("restarting", "restarted"),
    "stop": ("stopping", "stopped"),
    "remove": ("removing", "removed"),
    "kill": ("killing", "killed"),
    "wait": ("waiting", "ready"),
}
_ORDER = {"failed": 0, "running": 1, "waiting": 2, "done": 3, "pending": 4}
_MARKS = {"failed": ("✘", "red"), "waiting": ("…", "yellow"), "done": ("✔", "green"), "pending": ("·", "dim")}


def words(action: str) -> tuple[str, str]:
    """What an operation is doing and what it has done; ``create-network`` reads like ``create``."""
    return _WORDS.get(action.partition("-")[0], (action, action))


def subject(operation: OperationView) -> str:
    """The operation's object with its kind, where that is no container: ``network front``."""
    _, _, kind = operation.action.partition("-")
    return f"{kind} {operation.target}" if kind else operation.target


def error_text(error: dict[str, Any] | None) -> str:
    """The sentence of an error that came with a progress line."""
    return plain(str(from_wire(error))) if error else ""


@dataclass
class Row:
    """Where one operation is; ``state`` is a key of the tables above."""

    operation: OperationView
    state: str = "pending"
    message: str = ""
    since: float = 0.0
    seconds: float | None = None


class Model:
    """What a stream of progress has said so far. Pure: the clock is handed in."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.result: Progress | None = None

    def apply(self, progress: Progress, now: float) -> Row | None:
        """Take one line in; the row it is about, if any."""
        if progress.plan:
            self.rows = {operation.id: Row(operation) for operation in progress.plan.operations}
        if progress.kind is ProgressKind.RESULT:
            self.result = progress
        if progress.kind is ProgressKind.WAITING and progress.operation not in self.rows:
            self._add_wait(progress.operation)
        row = self.rows.get(progress.operation)
        if row is None or progress.kind in (ProgressKind.PLAN, ProgressKind.WARNING, ProgressKind.RESULT):
            return None
        if row.state not in ("running", "waiting"):
            row.since = now
        row.state = progress.kind.value
        row.message = plain(progress.message) or error_text(progress.error)
        row.seconds = progress.seconds
        return row

    def _add_wait(self, id: str) -> None:
        """A wait that comes after the plan: ``wait shop-db-1``."""
        action, _, target = id.partition(" ")
        view = OperationView(id=id, action=action, target=target, service="", cause="", after=[])
        self.rows[id] = Row(view)

    def render(self, now: float, terminal: Terminal, room: int | None = None) -> list[str]:
        """The lines to show, at most ``room``: what is under way before what is over."""
        rows = list(self.rows.values())
        done = sum(row.state == "done" for row in rows)
        hidden = 0
        if room is not None and len(rows) > max(room - 2, 1):
            hidden = len(rows) - max(room - 2, 1)
            rows = sorted(rows, key=lambda row: _ORDER[row.state])[: len(rows) - hidden]
        width = max((len(subject(row.operation)) for row in rows), default=0)
        lines = [f"{terminal.style(f'[{done}/{len(self.rows)}]', 'bold')}"] if self.rows else []
        lines += [self._line(row, width, now, terminal) for row in rows]
        if hidden:
            lines.append(terminal.style(f"  and {hidden} more", "dim"))
        return lines

    def _line(self, row: Row, width: int, now: float, terminal: Terminal) -> str:
        doing, done = words(row.operation.action)
        if row.state == "running":
            mark, style = _SPINNER[int(now / _FRAME) % len(_SPINNER)], "cyan"
        else:
            mark, style = _MARKS[row.state]
        state = {"running": doing, "done": done}.get(row.state, row.state)
        seconds = row.seconds
        if seconds is None and row.state in ("running", "waiting"):
            seconds = now - row.since
        clock = elapsed(seconds) if seconds is not None else ""
        text = (
            f" {terminal.style(mark, style)} {subject(row.operation):<{width}}  "
            f"{terminal.style(f'{state:<10}', style)} {clock:>6}  {row.message}"
        )
        return text.rstrip()


class Reporter:
    """Shows progress to somebody; this one, which the others build on, to nobody."""

    #: Seconds between two calls of :meth:`tick`, or None when the clock does not matter.
    interval: float | None = None

    def apply(self, progress: Progress) -> None:
        """Show one line of the stream."""

    def tick(self) -> None:
        """Time has passed."""

    def above(self, write: Callable[[], None]) -> None:
        """Let ``write`` print something that stays."""
        write()

    def finish(self) -> None:
        """The stream is over, or never began: what is shown stays. May be called again."""


class PlainReporter(Reporter):
    """One line for each thing worth knowing, for files and pipes: what is done, and long waits."""

    interval = _LONG_WAIT

    def __init__(self, terminal: Terminal, idle: str) -> None:
        self._terminal = terminal
        self._idle = idle
        self._model = Model()
        self._told: dict[str, str] = {}  # operation -> the wait that was printed last

    def apply(self, progress: Progress) -> None:
        """Print the line, unless something is only under way."""
        row = self._model.apply(progress, time.monotonic())
        if progress.plan and not progress.plan.operations and self._idle:
            self._print(f"{progress.plan.project}: {self._idle}")
        if progress.kind is ProgressKind.WARNING:
            self._print(f"warning: {plain(progress.message)}")
        if row is None or row.state not in ("done", "failed"):
            return
        text = words(row.operation.action)[1] if row.state == "done" else row.state
        if row.seconds is not None:
            text += f" in {elapsed(row.seconds)}"
        self._print(f"{subject(row.operation)}: {text}{': ' if row.message else ''}{row.message}")

    def tick(self) -> None:
        """Print what waits for long already."""
        now = time.monotonic()
        for id, row in self._model.rows.items():
            is_long = row.state == "waiting" and now - row.since >= _LONG_WAIT
            if is_long and self._told.get(id) != row.message:
                self._told[id] = row.message
                self._print(f"{subject(row.operation)}: {row.message}")

    def _print(self, text: str) -> None:
        self._terminal.line(text)
        self._terminal.flush()


class LiveReporter(Reporter):
    """A line for each operation, drawn over as it proceeds, for terminals."""

    interval = _FRAME

    def __init__(self, terminal: Terminal, idle: str) -> None:
        self._terminal = terminal
        self._idle = idle
        self._region = LiveRegion(terminal)
        self._model = Model()

    def apply(self, progress: Progress) -> None:
        """Take the line in, and draw."""
        self._model.apply(progress, time.monotonic())
        if progress.plan and not progress.plan.operations and self._idle:
            self._terminal.line(f"{progress.plan.project}: {self._idle}")
        if progress.kind is ProgressKind.WARNING:
            text = f"{self._terminal.style('warning:', 'yellow')} {harmless(progress.message)}"
            self.above(lambda: self._terminal.line(text))
        self.tick()

    def tick(self) -> None:
        """Draw: spinners turn and clocks run."""
        self._region.draw(self._model.render(time.monotonic(), self._terminal, self._region.room))

    def above(self, write: Callable[[], None]) -> None:
        """Print it above the region."""
        self._region.clear()
        write()
        self._terminal.flush()
        self.tick()

    def finish(self) -> None:
        """Draw once more, all lines this time, and let them stand."""
        self._region.clear()
        for line in self._model.render(time.monotonic(), self._terminal):
            self._terminal.line(line)
        self._terminal.flush()
        self._model = Model()


class JsonReporter(Reporter):
    """The stream itself, one JSON object a line, for programs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def apply(self, progress: Progress) -> None:
        """Print it as it came."""
        self._context.print_json(progress)
        self._context.out.flush()


class QuietReporter(Reporter):
    """Warnings only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def apply(self, progress: Progress) -> None:
        """Print it if it is a warning."""
        if progress.kind is ProgressKind.WARNING:
            self._context.warn(plain(progress.message))


def reporter(context: Context, idle: str = "nothing to do") -> Reporter:
    """The reporter that suits the arguments and stderr.

    :param idle: what to say of a plan without operations; "" says nothing.
    """
    if context.json:
        return JsonReporter(context)
    if getattr(context.args, "quiet", False):
        return QuietReporter(context)
    return LiveReporter(context.err, idle) if context.err.is_live else PlainReporter(context.err, idle)


def show(context: Context, stream: Stream[Progress], idle: str = "nothing to do") -> Progress:
    """Show a whole stream; its result, which may be a failure: see :func:`check`."""
    reporting = reporter(context, idle)
    results: list[Progress] = []

    def apply(progress: Progress) -> None:
        reporting.apply(progress)
        if progress.kind is ProgressKind.RESULT:
            results.append(progress)

    try:
        with stream, Loop() as loop:
            loop.follow(stream, apply)
            while not stream.ended and not results:
                loop.step(reporting.interval)
                reporting.tick()
    finally:
        reporting.finish()
    if not results:
        raise OrchError("the orch service gave no result")
    return results[0]


def check(result: Progress) -> None:
    """Raise what a result says when it is not ok.

    :raises OrchError: the result's error.
    """
    if not result.ok:
        raise from_wire(result.error) if result.error else OrchError("it did not work", result.message)
