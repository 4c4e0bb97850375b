"""A terminal with a person at it, who runs one ``orch`` command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

from support.cli import COMMAND, Orch


class Terminal:
    """A pseudoterminal whose foreground process is ``orch WORDS``. Make it with :func:`terminal`."""

    def __init__(self, orch: Orch, words: tuple[str, ...], rows: int, columns: int, term: str) -> None:
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (rows, columns))
        self.settings = termios.tcgetattr(self._slave)
        self.seen = ""
        self.process = subprocess.Popen(
            (*COMMAND, *words),
            env={**orch.environment, "TERM": term},
            cwd=orch.work,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that it hears of Ctrl-C and size
        )

    def type(self, text: str) -> None:
        """Press these keys; ``\\x03`` is Ctrl-C, ``\\r`` is Enter."""
        os.write(self._master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Drag the window's corner."""
        termios.tcsetwinsize(self._master, (rows, columns))

    def read_until(self, text: str, timeout: float = 10.0) -> str:
        """What is shown up to ``text``; what follows is left for the next call.

        :raises AssertionError: when it does not come in time.
        """
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown within {timeout:g} s, but {self.seen!r}"
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def rest(self, timeout: float = 10.0) -> str:
        """Wait for the command's end; everything that has not been read yet."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None or select.select([self._master], [], [], 0)[0]:
            assert time.monotonic() < deadline, f"it has not ended; it shows {self.seen!r}"
            if select.select([self._master], [], [], 0.02)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")
        shown, self.seen = self.seen, ""
        return shown

    def wait(self, timeout: float = 10.0) -> int:
        """The command's exit code; whatever it still shows is dropped."""
        self.rest(timeout)
        return self.process.wait()

    @property
    def waiting(self) -> int:
        """How many bytes whoever reads the terminal next would get."""
        return input_waiting(self._slave)

    @property
    def is_raw(self) -> bool:
        """Whether keys go through as they are."""
        return not termios.tcgetattr(self._slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    @property
    def is_restored(self) -> bool:
        """Whether the settings are those from before the command."""
        return termios.tcgetattr(self._slave) == self.settings

    def hang_up(self) -> None:
        """Close the window: the command's session gets SIGHUP."""
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def close(self) -> None:
        """Kill what still runs."""
        self.process.kill()
        self.process.wait()
        if self._master >= 0:
            self.hang_up()


def input_waiting(terminal: int) -> int:
    """How many bytes of input wait in a terminal (FIONREAD, ioctl_tty(2))."""
    return int(struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)))[0])


@contextlib.contextmanager
def terminal(
    orch: Orch, *words: str, rows: int = 24, columns: int = 80, term: str = "xterm-256color"
) -> Iterator[Terminal]:
    """A person at a terminal runs ``orch WORDS``."""
    opened = Terminal(orch, words, rows, columns, term)
    try:
        yield opened
    finally:
        opened.close()
