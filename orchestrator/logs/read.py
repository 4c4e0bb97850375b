"""Reading logs: all of it, the last N lines, or since a moment. Synchronous: call it in a worker thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.logs.files import LogFile, open_files
from orchestrator.logs.format import Entry, Joiner, LogRecord, Parser

BLOCK = 64 << 10
_SLACK = 1.0  # seconds; a file's mtime comes from a coarser clock than the entries' times


def read(directory: str, tail: int | None = None, since: float | None = None) -> Iterator[LogRecord]:
    """The lines of a log, in the order they were written, across its rotated files.

    :param directory: where its files are; one that doesn't exist has no lines.
    :param tail: only the last so many lines.
    :param since: only lines read at or after this time, seconds since the epoch. Together with ``tail``: those
        of the last lines that are recent enough.
    """
    joiner = Joiner()
    yield from history(Snapshot(open_files(directory)), joiner, tail, since)
    yield from (record for record in joiner.finish() if since is None or record.time >= since)


class Snapshot:
    """Log files, oldest first, and how far each goes now.

    The newest counts up to its last whole entry: the rest may be in the middle of being written.
    """

    def __init__(self, files: list[LogFile]) -> None:
        self.parts = [(file, file.status()) for file in files]
        self.sizes = [status.st_size for _, status in self.parts]
        if files:
            self.sizes[-1] = _whole(files[-1], self.sizes[-1])

    def forward(self, since: float | None) -> Iterator[bytes]:
        """Lines; files that ended before ``since`` are left out."""
        for (file, status), size in zip(self.parts, self.sizes, strict=True):
            if since is None or status.st_mtime >= since - _SLACK:
                yield from lines(file, 0, size)

    def backward(self) -> Iterator[bytes]:
        """Lines, the last one first."""
        for (file, _), size in zip(reversed(self.parts), reversed(self.sizes), strict=True):
            yield from _lines_backward(file, size)


def history(
    snapshot: Snapshot, joiner: Joiner, tail: int | None = None, since: float | None = None
) -> Iterator[LogRecord]:
    """The records of a snapshot; the pieces of a line that has no end there stay in ``joiner``."""
    parser = Parser()
    if tail is None:
        records = joiner.join(map(parser.parse, snapshot.forward(since)))
    else:
        last = list(joiner.join(_last(map(parser.parse, snapshot.backward()), tail)))
        records = iter(last[max(0, len(last) - tail) :])
    for record in records:
        if since is None or record.time >= since:
            yield record


def _last(backward: Iterable[Entry], count: int) -> list[Entry]:
    """The entries that the last ``count`` lines are made of, in their order, from all entries in reverse."""
    chosen: list[Entry] = []
    unsure: set[str] = set()  # streams of which more pieces of a chosen line may come
    for entry in backward:
        if not entry.partial or entry.stream not in unsure:  # the last piece of a line
            unsure.discard(entry.stream)
            if count > 0:
                count -= 1
                chosen.append(entry)
                unsure.add(entry.stream)
        else:
            chosen.append(entry)
        if not count and not unsure:
            break
    chosen.reverse()
    return chosen


def lines(file: LogFile, start: int, end: int) -> Iterator[bytes]:
    """The lines between two positions, without their newlines; an unfinished last one counts."""
    rest = b""
    while start < end and (block := file.read(min(BLOCK, end - start), start)):
        start += len(block)
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _lines_backward(file: LogFile, end: int) -> Iterator[bytes]:
    rest = b""
    first = True
    while end > 0:
        start = max(0, end - BLOCK)
        rest, *whole = (file.read(end - start, start) + rest).split(b"\n")
        end = start
        if first and whole and not whole[-1]:
            whole.pop()  # what is after the last newline is not a line
        first = first and not whole
        yield from reversed(whole)
    if rest:
        yield rest


def _whole(file: LogFile, size: int) -> int:
    """Where the last whole entry ends."""
    end = size
    while end > 0:
        start = max(0, end - BLOCK)
        newline = file.read(end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
