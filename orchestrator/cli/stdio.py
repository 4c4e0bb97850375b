"""Moves bytes between this process's terminal or pipes and a program in a container.

The service hands over the program's own ends (the pty's master, or its pipes) and stays out of the way; see
pty(7), termios(3) and TIOCSWINSZ in ioctl_tty(2).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import termios
import tty
from contextlib import suppress
from functools import partial
from typing import Any

from orchestrator.cli.exit_codes import SIGNALLED
from orchestrator.cli.loop import Loop
from orchestrator.cli.progress import Reporter
from orchestrator.cli.terminal import write_bytes
from orchestrator.errors import OrchError, from_wire
from orchestrator.service.client import Exited, StdioChannel, StdioMessage

_CHUNK = 1 << 16
_HIGH_WATER = 1 << 18  # bytes of input that wait for a slow reader before no more is read
_FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3  # of these signals make us go, whatever the program makes of them
_LAST_WORDS = 1 << 20  # bytes: the most that a pipe may hold of what a program wrote before it ended
_END_OF_INPUT = b"\x04"  # VEOF: what a terminal in canonical mode reads as the end of its input


class Session:
    """One program, from its start to its exit code.

    :param tty: the program has a terminal of its own; ours, if stdin is one, is in raw mode meanwhile.
    :param stdin: our input goes to the program.
    :param reporter: shows what is done before a one-off container can start.
    """

    def __init__(
        self,
        channel: StdioChannel,
        *,
        tty: bool,
        stdin: bool,
        reporter: Reporter | None = None,
    ) -> None:
        self._channel = channel
        self._tty = tty
        self._stdin = stdin
        self._reporter = reporter or Reporter()
        self._exited: Exited | None = None
        self._is_started = False
        self._stops = 0  # how often we were asked to stop
        self._last = b"\n"  # what was read last
        self._input: int | None = None  # where the program reads
        self._waiting = bytearray()  # input that the program has not taken yet
        self._at_end = False  # of our input
        self._outputs: dict[int, int] = {}  # what the program writes -> where it goes
        self._saved: list[Any] | None = None  # our terminal's settings

    def run(self) -> int:
        """Until the program has ended and all of its output is written; its exit code.

        :raises OrchError: when the program could not be started, or the service is gone.
        """
        signals = (*_FORWARDED, signal.SIGWINCH) if self._tty else _FORWARDED
        try:
            with Loop(signals, self._on_signal) as self._loop:
                self._loop.read(self._channel.fileno(), lambda: self._take(self._channel.receive()))
                self._take(self._channel.pending())
                while self._exited is None:
                    if self._channel.ended:
                        raise self._channel.lost()
                    self._loop.step(None if self._is_started else self._reporter.interval)
                    if not self._is_started:
                        self._reporter.tick()
                self._drain()
        finally:
            self._restore()
            self._close()
        return self._exited.code

    def _take(self, messages: list[StdioMessage]) -> None:
        for message in messages:
            if message.progress:
                self._reporter.apply(message.progress)
            if message.started:
                self._reporter.finish()
                self._start(self._channel.take_descriptors())
            if message.exited:
                self._exited = message.exited
            if message.error:
                raise from_wire(message.error)

    def _start(self, descriptors: list[int]) -> None:
        """Begin to move bytes."""
        self._is_started = True
        if len(descriptors) not in ((1,) if self._tty else (2, 3)):
            for descriptor in descriptors:
                os.close(descriptor)
            raise OrchError("the orch service sent the wrong descriptors", f"{len(descriptors)} of them")
        if self._tty:
            self._outputs = {descriptors[0]: _STDOUT}
            self._input = os.dup(descriptors[0]) if self._stdin else None
            self._resize()
            self._make_raw()
        else:
            *first, stdout, stderr = descriptors
            self._outputs = {stdout: _STDOUT, stderr: _STDERR}
            self._input = first[0] if first else None
            if self._input is not None and not self._stdin:
                os.close(self._input)
                self._input = None
        for descriptor in self._outputs:
            os.set_blocking(descriptor, False)
            self._loop.read(descriptor, partial(self._copy_out, descriptor))
        if self._input is not None:
            os.set_blocking(self._input, False)
            self._loop.read(_STDIN, self._read_input)

    def _read_input(self) -> None:
        try:
            data = os.read(_STDIN, _CHUNK)
        except OSError:  # our terminal is gone
            data = b""
        if not data:
            self._at_end = True
            self._loop.read(_STDIN, None)
            if self._tty:  # in the middle of a line, the first VEOF only ends the line (termios(3))
                self._waiting += _END_OF_INPUT * (1 if self._last.endswith(b"\n") else 2)
        self._last = data
        self._waiting += data
        self._copy_in()

    def _copy_in(self) -> None:
        """Give the program what it takes now; the rest when it reads on."""
        if self._input is None:
            return
        try:
            while self._waiting:
                del self._waiting[: os.write(self._input, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:  # it closed its input
            self._waiting.clear()
            self._at_end = True
            self._loop.read(_STDIN, None)
        self._loop.write(self._input, self._copy_in if self._waiting else None)
        if self._at_end and not self._waiting:
            os.close(self._input)
            self._input = None
        elif not self._at_end:
            self._loop.read(_STDIN, self._read_input if len(self._waiting) < _HIGH_WATER else None)

    def _copy_out(self, descriptor: int) -> int:
        """Pass on what the program wrote; how many bytes, 0 if there are none (yet)."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        try:
            write_bytes(self._outputs[descriptor], data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise OrchError("cannot write what the program says", error.strerror or "") from None
            data = b""  # nobody reads us, or our terminal is gone: let the program notice, as in a pipeline
        if not data:
            self._loop.read(descriptor, None)
            del self._outputs[descriptor]
            os.close(descriptor)
        return len(data)

    def _drain(self) -> None:
        """Pass on what the program wrote before it ended, without waiting for processes it left behind."""
        for descriptor in list(self._outputs):
            left = _LAST_WORDS
            while left > 0 and (count := self._copy_out(descriptor)):
                left -= count

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGWINCH:
            self._resize()
            return
        self._stops += number in _STOPPING
        if self._is_started and self._stops < _PATIENCE:
            self._channel.signal(number.name)
        else:  # hanging up ends the program, or what is done before it can start
            self._exited = Exited(code=SIGNALLED + number)

    def _resize(self) -> None:
        """Give the program's terminal the size of ours."""
        try:
            size = termios.tcgetwinsize(_STDIN)
        except termios.error:
            return
        for descriptor in self._outputs:
            termios.tcsetwinsize(descriptor, size)

    def _make_raw(self) -> None:
        if self._stdin and os.isatty(_STDIN):
            self._saved = termios.tcgetattr(_STDIN)
            tty.setraw(_STDIN, termios.TCSADRAIN)  # keeps what has been typed ahead

    def _restore(self) -> None:
        if self._saved is not None:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._saved)

    def _close(self) -> None:
        for descriptor in [*self._outputs, *([] if self._input is None else [self._input])]:
            os.close(descriptor)
        self._outputs.clear()
        self._channel.close()


def terminal_size() -> tuple[int, int]:
    """Columns and rows of our terminal; 80 and 24 when we have none."""
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if columns and rows:
            return columns, rows
    return 80, 24


def has_terminal() -> bool:
    """Whether both our input and our output are a terminal."""
    return sys.stdin is not None and os.isatty(_STDIN) and os.isatty(_STDOUT)
