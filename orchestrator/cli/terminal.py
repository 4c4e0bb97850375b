"""The terminal: colours, width, and a region of lines that is drawn over and over.

Escape codes are those of ECMA-48 (``console_codes(4)``). Whoever is not a terminal gets none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

_STYLES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35",
    "cyan": "36", "bright-red": "91", "bright-green": "92", "bright-yellow": "93", "bright-blue": "94",
    "bright-magenta": "95", "bright-cyan": "96",
}  # fmt: skip
#: Colours that tell services apart; red is kept for trouble.
SERVICE_STYLES = (
    "cyan", "yellow", "green", "magenta", "blue",
    "bright-cyan", "bright-yellow", "bright-green", "bright-magenta", "bright-blue",
)  # fmt: skip

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI sequences
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS and other strings
    r"|\x1b[ -/]*[0-~]"  # other sequences
    r"|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]"  # control characters but for tab and newline
)


def want_color(choice: str, is_terminal: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to use colours: ``--color``, then NO_COLOR (no-color.org), CLICOLOR_FORCE, then the terminal."""
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return is_terminal and environ.get("TERM") != "dumb"


def harmless(text: str) -> str:
    """Foreign text without what could move the cursor or reprogram the terminal; colours stay."""
    if not _ESCAPES.search(text):
        return text
    return _ESCAPES.sub(lambda match: match[0] if _SGR.fullmatch(match[0]) else "", text) + "\x1b[0m"


def plain(text: str) -> str:
    """Foreign text as one line without any control characters or escape codes."""
    return _ESCAPES.sub("", text.replace("\n", " ").replace("\t", " "))


def clip(text: str, width: int) -> str:
    """The text cut to ``width`` visible characters; escape codes for colours have no width."""
    if len(_SGR.sub("", text)) <= width:
        return text
    out, room = [], max(width - 1, 0)
    position = 0
    for match in _SGR.finditer(text):
        piece = text[position : match.start()][:room]
        room -= len(piece)
        out += [piece, match[0]]
        position = match.end()
    out.append(text[position:][:room])
    return "".join(out) + "…"


class Terminal:
    """A text stream that may be a terminal.

    :param color: ``auto``, ``always`` or ``never``.
    """

    def __init__(self, stream: TextIO, color: str = "auto", environ: Mapping[str, str] = os.environ) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.color = want_color(color, self.is_terminal, environ)
        #: Whether lines can be drawn over.
        self.is_live = self.is_terminal and environ.get("TERM") not in (None, "", "dumb")

    def style(self, text: str, *styles: str) -> str:
        """The text in these styles, if there are colours."""
        codes = [_STYLES[style] for style in styles if style]
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.color and codes and text else text

    def line(self, text: str = "") -> None:
        """Write a line."""
        self.stream.write(text + "\n")

    def complain(self, error: Exception) -> None:
        """Say what went wrong; a stranger's words in it, such as a program's output, do no harm."""
        self.line(f"{self.style('orch:', 'red')} {harmless(str(error))}")

    def write(self, text: str) -> None:
        """Write text as it is, at once."""
        self.stream.write(text)
        self.stream.flush()

    def flush(self) -> None:
        """Let everything written so far be seen."""
        self.stream.flush()

    @property
    def width(self) -> int | None:
        """Columns, or None when the stream is no terminal (then nothing needs to be cut)."""
        return self.size()[0] if self.is_terminal else None

    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal; 80 and 24 when they are unknown."""
        try:
            columns, rows = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            columns, rows = 0, 0
        return columns or 80, rows or 24


class LiveRegion:
    """The last lines of a terminal, drawn over and over while other text goes above them."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._drawn: list[str] = []

    @property
    def room(self) -> int:
        """How many lines the region may have."""
        return max(self._terminal.size()[1] - 2, 1)

    def draw(self, lines: Sequence[str]) -> None:
        """Replace the region's lines."""
        columns = self._terminal.size()[0]
        clipped = [clip(line, columns) for line in lines]
        if clipped != self._drawn:
            self._terminal.write(self._erase() + "".join(line + "\n" for line in clipped))
            self._drawn = clipped

    def clear(self) -> None:
        """Take the region away."""
        if self._drawn:
            self._terminal.write(self._erase())
            self._drawn = []

    def leave(self) -> None:
        """Let the region's lines stand where they are; the next drawing starts below."""
        self._drawn = []

    def _erase(self) -> str:
        return f"\r\x1b[{len(self._drawn)}A\x1b[J" if self._drawn else ""


def write_bytes(descriptor: int, data: bytes | bytearray) -> None:
    """Write all of ``data`` to a descriptor that may be slow."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def open_streams() -> None:
    """Have /dev/null wherever our caller has closed stdin, stdout or stderr: their numbers must not be reused."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115 - for the whole run


def make_streams_forgiving() -> None:
    """Let what the locale cannot show become ``?`` instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
