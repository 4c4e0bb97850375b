"""Finds what blocks the event loop: a thread that pings the loop and photographs it when it doesn't answer.

Off in normal service; ``ORCH_DEBUG_LOOP=100`` reports every stall of 100 ms or more, with the stack of the
code that held the loop. The tests have it on always.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

#: Milliseconds; unset or 0 is off.
VARIABLE = "ORCH_DEBUG_LOOP"
#: The event's name in the log.
EVENT = "event loop blocked"


@dataclass(frozen=True, slots=True)
class Stall:
    """The loop did not turn for ``seconds``; ``stack`` is where it was when the limit was reached.

    Time for which the loop's thread was runnable but had no processor is not counted: on a busy machine
    that is nobody's fault.
    """

    seconds: float
    stack: str

    def __str__(self) -> str:
        return f"{EVENT} for {self.seconds * 1000:.0f} ms at\n{self.stack}"


class LoopWatchdog:
    """Watches one event loop from a thread of its own, between :meth:`start` and :meth:`stop`.

    A callback that holds the loop longer than 1.5 limits is always seen, one between 1 and 1.5 usually.

    :param limit_seconds: how long the loop may go without turning.
    :param on_stall: called in the watchdog's thread, once the loop turns again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit_seconds: float, on_stall: Callable[[Stall], None]
    ) -> None:
        self._loop = loop
        self._limit = limit_seconds
        self._on_stall = on_stall
        self._wake = threading.Event()  # the loop answered, or stop() was called
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="loop-watchdog", daemon=True)
        self._loop_thread = 0
        self.stalls = 0  #: how many were reported

    def start(self) -> Self:
        """Start watching; call it in the loop's thread."""
        self._loop_thread = threading.get_ident()
        self._schedstat = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop watching, and wait for the thread (which ends at once)."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._wake.wait(self._limit / 2) and not self._loop.is_closed():
            self._ping()
            if self._stopping:
                return
            self._wake.clear()

    def _ping(self) -> None:
        answers: list[float] = []

        def answer() -> None:
            answers.append(time.monotonic())
            self._wake.set()

        sent, starved = time.monotonic(), self._starved()
        try:
            self._loop.call_soon_threadsafe(answer)
        except RuntimeError:  # closed meanwhile
            return
        if self._wake.wait(self._limit):
            return
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        while not self._wake.wait(self._limit):
            if self._loop.is_closed():
                return
        if not answers:  # stop() was called by the loop itself: it does turn
            return
        seconds = answers[0] - sent - (self._starved() - starved)
        if seconds >= self._limit:
            self.stalls += 1
            self._on_stall(Stall(seconds, stack))

    def _starved(self) -> float:
        """Seconds for which the loop's thread has waited for a processor (sched-stats.rst, second field)."""
        try:
            with open(self._schedstat) as file:
                return int(file.read().split()[1]) / 1e9
        except FileNotFoundError:  # a kernel without scheduler statistics
            return 0.0


def watch_from_environment() -> LoopWatchdog | None:
    """Watch the running loop and log its stalls, if :data:`VARIABLE` asks for it; the caller stops it."""
    limit = float(os.environ.get(VARIABLE) or 0) / 1000
    if limit <= 0:
        return None
    log = structlog.get_logger()

    def report(stall: Stall) -> None:
        log.warning(EVENT, milliseconds=round(stall.seconds * 1000), stack=stall.stack)

    return LoopWatchdog(asyncio.get_running_loop(), limit, report).start()
