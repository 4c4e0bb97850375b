"""The format of log files: the Container Runtime Interface's, one entry a line.

``2016-10-06T00:17:09.669794202Z stdout F The content of the line``: time (RFC 3339, UTC, nanoseconds),
stream, tag, and the rest is content. A line of more than :data:`LINE_LIMIT` bytes is cut into entries tagged
``P`` (partial), the last one ``F`` (full). Source: Kubernetes, design proposal "kubelet-cri-logging".
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

#: The longest content of one entry, bytes (containerd's default ``max_container_log_line_size``).
LINE_LIMIT = 16 << 10
#: The longest line that readers put together from its pieces, bytes; what is longer comes as several records.
#: (A program may write gigabytes without a newline.)
RECORD_LIMIT = 1 << 20


class Entry(NamedTuple):
    """One line of a log file.

    :param time: seconds since the epoch.
    :param partial: the line goes on in the stream's next entry.
    """

    time: float
    stream: str
    partial: bool
    content: bytes


class LogRecord(NamedTuple):
    """One line that a container wrote, without its newline.

    :param time: when it (or its first piece) was read from the pipe, seconds since the epoch.
    :param stream: ``stdout`` or ``stderr``; of a terminal everything is ``stdout``.
    """

    time: float
    stream: str
    line: bytes

    @property
    def text(self) -> str:
        """The line as text; what is not UTF-8 is shown as U+FFFD."""
        return self.line.decode("utf-8", "replace")


def format_time(nanoseconds: int) -> bytes:
    """The entry's time field for nanoseconds since the epoch."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    moment = time.gmtime(seconds)
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%09dZ" % (*moment[:6], fraction)


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time with any number of fractional digits.

    :raises ValueError: when it isn't one.
    """
    whole, rest = text[:19], text[19:]
    fraction = 0.0
    if rest.startswith("."):
        digits = rest[1 : len(rest.rstrip("Z")) if rest.endswith("Z") else -6]
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"{text!r} is not an RFC 3339 time")
        fraction = int(digits) / 10 ** len(digits)
        rest = rest[1 + len(digits) :]
    moment = datetime.fromisoformat(whole + rest)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.timestamp() + fraction


def frame(data: bytes, stamp: bytes, stream: bytes) -> tuple[bytes, bytes]:
    """Make entries of all lines in ``data``.

    :param data: what came from the pipe, with the rest of last time before it.
    :param stamp: the time field of all entries.
    :returns: the entries, and the rest: the beginning, at most :data:`LINE_LIMIT` bytes, of a line whose end
        hasn't come yet.
    """
    full = b"%b %b F " % (stamp, stream)
    between = b"\n" + full
    pieces: list[bytes] = []
    start = 0
    while True:
        # Hop from newline to newline in steps of at most the limit: this finds the lines that are too long
        # at the cost of one memrchr per 16 KiB, and all lines before them are framed by one replace().
        end = start
        while (newline := data.rfind(b"\n", end, end + LINE_LIMIT + 1)) >= 0:
            end = newline + 1
        if end > start:
            pieces += full, data[start : end - 1].replace(b"\n", between), b"\n"
        if len(data) - end <= LINE_LIMIT:
            return b"".join(pieces), data[end:]
        start = end + LINE_LIMIT
        pieces += b"%b %b P " % (stamp, stream), data[end:start], b"\n"


def entry(stamp: bytes, stream: bytes, partial: bool, content: bytes) -> bytes:
    """One entry, for content without a newline."""
    return b"%b %b %b %b\n" % (stamp, stream, b"P" if partial else b"F", content)


class Parser:
    """Parses the lines of one log, in either direction.

    A line that isn't an entry (the file was damaged) becomes a full entry of its own, at the time of the entry
    parsed before: nothing that is in the file is withheld.
    """

    __slots__ = ("_field", "_time")

    def __init__(self) -> None:
        self._field = b""  # all lines of one chunk have the same time, so remembering one is enough
        self._time = 0.0

    def parse(self, line: bytes) -> Entry:
        """The entry that ``line`` (without its newline) is."""
        fields = line.split(b" ", 3)
        if len(fields) != 4 or fields[1] not in (b"stdout", b"stderr") or fields[2][:1] not in (b"P", b"F"):
            return Entry(self._time, "stdout", False, line)
        if fields[0] != self._field:
            try:
                self._time = parse_time(fields[0].decode("ascii"))
            except ValueError:  # UnicodeDecodeError is one
                return Entry(self._time, "stdout", False, line)
            self._field = fields[0]
        stream = "stdout" if fields[1] == b"stdout" else "stderr"
        return Entry(self._time, stream, fields[2][:1] == b"P", fields[3])


class Joiner:
    """Puts the pieces of long lines together again."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[str, tuple[float, bytearray]] = {}

    def join(self, entries: Iterable[Entry]) -> Iterator[LogRecord]:
        """The lines that end in ``entries``; pieces of one that doesn't are kept for the next call."""
        for time_, stream, partial, content in entries:
            if not partial and stream not in self._open:
                yield LogRecord(time_, stream, content)
                continue
            began, line = self._open.pop(stream, (time_, bytearray()))
            if line and len(line) + len(content) > RECORD_LIMIT:
                yield LogRecord(began, stream, bytes(line))
                began, line = time_, bytearray()
            line += content
            if partial:
                self._open[stream] = began, line
            else:
                yield LogRecord(began, stream, bytes(line))

    def finish(self) -> Iterator[LogRecord]:
        """The lines whose end hasn't come."""
        for stream in list(self._open):
            began, line = self._open.pop(stream)
            yield LogRecord(began, stream, bytes(line))
