"""Several containers' logs as one stream: what there is, ordered by time, and then what comes.

Files are read in worker threads, a limited amount at a time and only when the consumer wants more: a slow
consumer costs neither memory nor the pump anything. If files were rotated away before it came to them, a line
says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from errno import errorcode
from typing import NamedTuple

from orchestrator.errors import KernelError
from orchestrator.logs.files import LogFile, open_files, path
from orchestrator.logs.format import Joiner, LogRecord, Parser
from orchestrator.logs.pump import LogPump
from orchestrator.logs.read import BLOCK, Snapshot, history

_BATCH = 1000  # records
_ROTATING = 0.001  # seconds; a rotation takes a few microseconds


class Source(NamedTuple):
    """One log of a stream.

    :param key: under which the pump has it, or had, or will have.
    :param name: what its records are marked with.
    :param directory: where its files are, or will be.
    """

    key: str
    name: str
    directory: str


class _Cursor:
    """Where a stream is in one log. Its methods run in worker threads, one at a time.

    The current file is known by the number that the pump's rotation counter had when it was the newest: from the
    counter follows what the file is called now. The counter is read before and after a file is opened, so the
    pump needs no lock to rotate under a reader.

    :ivar dirty: there may be more to read.
    :ivar ending: nothing more will be written; set by :meth:`LogStream.discard`.
    :ivar ended: everything of it has been read.
    """

    def __init__(self, pump: LogPump, source: Source, tail: int | None, since: float | None) -> None:
        self.source = source
        self.dirty = True
        self.ending = False
        self.ended = False
        self._pump = pump
        self._tail = tail
        self._since = since
        self._parser = Parser()
        self._joiner = Joiner()
        self._rotation = 0
        self._file: LogFile | None = None
        self._offset = 0
        self.history = self._history()

    def _history(self) -> Iterator[LogRecord]:
        """What is there at the first call; :meth:`read` goes on from its end."""
        while True:
            rotation = self._settled()
            files = open_files(self.source.directory)
            current = self._open(0)
            # The first file is made without a rotation, so see that both mean the same one.
            consistent = current is None or (files and files[-1].is_same(current))
            if consistent and self._pump.rotation(self.source.key) == rotation:
                break
        snapshot = Snapshot(files)
        self._rotation = rotation
        self._file = current
        self._offset = snapshot.sizes[-1] if current else 0
        yield from history(snapshot, self._joiner, self._tail, self._since)

    def read(self) -> list[LogRecord] | None:
        """The next records, if any, of the next block; None when there is nothing more at the moment."""
        if batch := list(itertools.islice(self.history, _BATCH)):
            return batch
        notices: list[LogRecord] = []
        while True:
            if self._file is None:
                notices += self._reopen()
            if self._file is None:
                return notices or None
            rotation = self._pump.rotation(self.source.key)
            block = self._file.read(BLOCK, self._offset)
            end = block.rfind(b"\n")
            if end >= 0:
                self._offset += end + 1
                entries = map(self._parser.parse, block[:end].split(b"\n"))
                return notices + self._recent(self._joiner.join(entries))
            if rotation - self._rotation < 2:
                return notices or None
            self._file = None  # this one is complete: it was rotated before we read to its end
            self._rotation += 2
            self._offset = 0

    def finish(self) -> list[LogRecord]:
        """The lines whose end will not come."""
        return self._recent(self._joiner.finish())

    def _recent(self, records: Iterator[LogRecord]) -> list[LogRecord]:
        return [record for record in records if self._since is None or record.time >= self._since]

    def _settled(self) -> int:
        """The rotation counter while no rotation is under way."""
        while (rotation := self._pump.rotation(self.source.key)) % 2:
            time.sleep(_ROTATING)
        return rotation

    def _open(self, index: int) -> LogFile | None:
        try:
            return LogFile(path(self.source.directory, index))
        except FileNotFoundError:
            return None

    def _reopen(self) -> list[LogRecord]:
        """Open our file, or if it is gone the oldest that there is, with a notice of the gap."""
        gap = False
        while True:
            rotation = self._settled()
            index = (rotation - self._rotation) // 2
            file = self._open(index)
            if self._pump.rotation(self.source.key) != rotation:
                continue
            if file is not None or index == 0:
                break
            self._rotation += 2
            gap = True
        self._file = file
        if not gap:
            return []
        text = b"[orch] lines are missing here: the log was rotated away before it was read"
        return [*self.finish(), LogRecord(time.time(), "stderr", text)]


class LogStream:
    """The records of many logs, each with its source's name. For one consumer; made within an event loop.

    ::

        stream = LogStream(pump, sources, tail=100, follow=True)
        async with contextlib.aclosing(stream.batches()) as batches:
            async for batch in batches:
                for name, record in batch: ...

    :param tail: only the last so many lines of each of the first sources.
    :param since: only lines of this time or later, seconds since the epoch.
    :param follow: go on with what comes, until :meth:`stop`.
    """

    def __init__(
        self,
        pump: LogPump,
        sources: list[Source],
        *,
        tail: int | None = None,
        since: float | None = None,
        follow: bool = False,
    ) -> None:
        self._pump = pump
        self._since = since
        self._follow = follow
        self._tail = tail
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        self._waking = False
        self._running = False
        self._stopping = False
        self._cursors: dict[str, _Cursor] = {}
        self._subscriptions: dict[str, Callable[[], None]] = {}
        for source in sources:
            self.add(source)

    def add(self, source: Source) -> None:
        """Take in another log, also while the stream runs: then from its beginning."""
        cursor = _Cursor(self._pump, source, None if self._running else self._tail, self._since)
        cursor.ending = self._stopping
        self._cursors[source.key] = cursor
        if self._running:
            self._subscribe(cursor)
            self._wake()

    def discard(self, key: str) -> None:
        """Let go of a log that grows no more, once everything of it has been delivered."""
        if key in self._cursors:
            self._cursors[key].ending = self._cursors[key].dirty = True
            self._wake()

    def stop(self) -> None:
        """End the stream once everything that has been written is delivered."""
        self._stopping = True
        for key in self._cursors:
            self.discard(key)
        self._wake()

    async def batches(self) -> AsyncGenerator[list[tuple[str, LogRecord]], None]:
        """The records, several at a time and never none; for consumers with much to do.

        :raises KernelError: when a log can't be read.
        """
        self._running = True
        try:
            for cursor in self._cursors.values():
                self._subscribe(cursor)
            merged = heapq.merge(*map(_named, self._cursors.values()), key=_time)
            while batch := await asyncio.to_thread(_take, merged):
                yield batch
            while self._follow:
                self._awake.clear()
                self._waking = False
                stopping = self._stopping
                if batch := await asyncio.to_thread(self._collect):
                    yield batch
                for key in [key for key, cursor in self._cursors.items() if cursor.ended]:
                    del self._cursors[key]
                    self._subscriptions.pop(key)()
                if stopping and not self._cursors:
                    break
                if not any(cursor.dirty for cursor in self._cursors.values()):
                    await self._awake.wait()
            last = [
                (cursor.source.name, record)
                for cursor in self._cursors.values()
                for record in cursor.finish()
            ]
            if last:
                yield sorted(last, key=_time)
        except OSError as error:
            what = f'cannot read the log "{error.filename or ""}"'
            cause = f"{errorcode.get(error.errno or 0, '?')}: {error.strerror}"
            raise KernelError(what, cause, errno=error.errno or 0)
        finally:
            self._running = False
            for unsubscribe in self._subscriptions.values():
                unsubscribe()
            self._subscriptions.clear()

    async def __aiter__(self) -> AsyncIterator[tuple[str, LogRecord]]:
        """The records, one at a time."""
        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    def _collect(self) -> list[tuple[str, LogRecord]]:
        """The next records of the logs that have some. Runs in a worker thread."""
        found: list[list[tuple[str, LogRecord]]] = []
        for cursor in tuple(self._cursors.values()):  # the loop may add one meanwhile
            if not cursor.dirty:
                continue
            ending = cursor.ending
            cursor.dirty = False  # before reading: what is written meanwhile makes it dirty again
            records = cursor.read()
            if records is not None:
                cursor.dirty = True
            elif ending:
                records = cursor.finish()
                cursor.ended = True
            found.append([(cursor.source.name, record) for record in records or ()])
        return list(heapq.merge(*found, key=_time))  # unlike sort(), leaves the order within each log alone

    def _subscribe(self, cursor: _Cursor) -> None:
        def grown(_: int | None) -> None:
            cursor.dirty = True
            self._wake()

        self._subscriptions[cursor.source.key] = self._pump.subscribe(cursor.source.key, grown)

    def _wake(self) -> None:
        """Wake the stream, at most once until it has woken. From any thread."""
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._awake.set)
            except RuntimeError:  # the loop is closed, so nobody waits any more
                pass


def _named(cursor: _Cursor) -> Iterator[tuple[str, LogRecord]]:
    return ((cursor.source.name, record) for record in cursor.history)


def _take(records: Iterator[tuple[str, LogRecord]]) -> list[tuple[str, LogRecord]]:
    return list(itertools.islice(records, _BATCH))


def _time(item: tuple[str, LogRecord]) -> float:
    return item[1].time
