"""Waits for streams, descriptors, signals and the clock at once, in one thread."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, TypeVar

T = TypeVar("T")
_BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Source(Protocol[T]):
    """A stream of the client."""

    #: Whether nothing will come any more.
    ended: bool

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def pending(self) -> list[T]:
        """What has arrived already."""

    def receive(self) -> list[T]:
        """What one read brings."""


class Loop:
    """Calls back when something is ready; :meth:`step` waits once.

    :param signals: caught while the loop is open, and given to ``on_signal``.
    """

    def __init__(
        self, signals: Iterable[int] = (), on_signal: Callable[[signal.Signals], None] | None = None
    ) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], object]] = {}
        self._on_signal = on_signal
        self._handlers: dict[int, Any] = {}
        self._wakeup, self._signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous_wakeup = signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        self.read(self._wakeup, self._take_signals)
        for number in signals:
            self._handlers[number] = signal.signal(number, _nothing)

    def read(self, descriptor: int, callback: Callable[[], object] | None) -> None:
        """Call back whenever ``descriptor`` can be read or is at its end; None stops it."""
        _set(self._readers, descriptor, callback)
        self._update(descriptor)

    def write(self, descriptor: int, callback: Callable[[], object] | None) -> None:
        """Call back whenever ``descriptor`` can be written; None stops it."""
        _set(self._writers, descriptor, callback)
        self._update(descriptor)

    def follow(
        self, source: Source[T], on_item: Callable[[T], None], on_end: Callable[[], object] | None = None
    ) -> None:
        """Call back with every item of a stream, and at its end."""
        descriptor = source.fileno()

        def deliver(items: list[T]) -> None:
            for item in items:
                on_item(item)
            if source.ended:
                self.read(descriptor, None)
                if on_end:
                    on_end()

        self.read(descriptor, lambda: deliver(source.receive()))
        deliver(source.pending())

    def step(self, timeout: float | None = None) -> None:
        """Wait until something is ready, at most ``timeout`` seconds, and call back."""
        for descriptor, events in self._poll.poll(None if timeout is None else timeout * 1000):
            if events & (select.POLLIN | _BROKEN) and (callback := self._readers.get(descriptor)):
                callback()
            if events & (select.POLLOUT | _BROKEN) and (callback := self._writers.get(descriptor)):
                callback()

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._wakeup)
        os.close(self._signalled)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _update(self, descriptor: int) -> None:
        events = select.POLLIN if descriptor in self._readers else 0
        events |= select.POLLOUT if descriptor in self._writers else 0
        if events:
            self._poll.register(descriptor, events)
        else:
            try:
                self._poll.unregister(descriptor)
            except KeyError:
                pass

    def _take_signals(self) -> None:
        for number in os.read(self._wakeup, 64):
            if self._on_signal and number in self._handlers:
                self._on_signal(signal.Signals(number))


def _set(
    table: dict[int, Callable[[], object]], descriptor: int, callback: Callable[[], object] | None
) -> None:
    if callback is None:
        table.pop(descriptor, None)
    else:
        table[descriptor] = callback


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal does nothing but write to the wakeup descriptor."""
