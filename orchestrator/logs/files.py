"""One container's log files: ``container.log`` and, the higher the older, ``container.log.1``, ``.2``, ...

A file is only ever appended to and renamed upwards, never truncated below a whole entry, so whoever holds it
open can read it to its end in peace. Looking through the names *upwards* from ``container.log`` can meet a file
twice while a rotation is under way, but never miss one.
"""

from __future__ import annotations

import contextlib
import os
import time

from orchestrator.logs.format import LINE_LIMIT, Parser, entry, format_time
from orchestrator.spec import Logging

NAME = "container.log"
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_TAIL = 2 * LINE_LIMIT  # holds at least one whole entry


def path(directory: str, index: int) -> str:
    """The ``index``-th newest file."""
    return os.path.join(directory, f"{NAME}.{index}" if index else NAME)


class _PartlyWrittenError(OSError):
    """The disk refused after ``kept`` bytes."""

    def __init__(self, error: OSError, kept: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.kept = kept


class LogWriter:
    """Appends entries to a directory's files, and rotates them. For one thread.

    Nothing is opened before the first :meth:`append`. When the disk refuses (it is full, read-only, broken),
    entries are dropped and counted, and the next append that works begins with an entry that says so: the
    container is never held up by its log.

    :ivar rotation: twice the number of rotations so far, and odd while one is under way; a reader of another
        thread, who sees the same even number before and after opening files, has opened what it meant to.
    :ivar cut: the streams whose last entry is a partial one.
    :ivar lost: lines dropped since the last entry that says so.
    :ivar trouble: why entries are being dropped now, or "".
    """

    __slots__ = (
        "_fd",
        "_lost_bytes",
        "_size",
        "cut",
        "directory",
        "logging",
        "lost",
        "rotation",
        "trouble",
    )  # fmt: skip

    def __init__(self, directory: str, logging: Logging) -> None:
        self.directory = directory
        self.logging = logging
        self.rotation = 0
        self.cut: set[bytes] = set()
        self.trouble = ""
        self._fd = -1
        self._size = 0
        self.lost = 0
        self._lost_bytes = 0

    def append(self, entries: bytes) -> None:
        """Write whole entries, in as many files as it takes; never raises for what the disk does."""
        position = 0
        try:
            if self._fd < 0:
                self._open()
            if self.lost:
                self._write(self._gap())
                self.lost = self._lost_bytes = 0
            while position < len(entries):
                end = self._fitting(entries, position)
                if end == position:
                    if self._rotate():
                        continue
                    end = len(entries)
                position += self._write(entries[position:end])
            self.trouble = ""
        except OSError as error:
            position += error.kept if isinstance(error, _PartlyWrittenError) else 0
            self.trouble = error.strerror or str(error)
            self.lost += entries.count(b"\n", position)
            self._lost_bytes += len(entries) - position

    def adopt(self) -> None:
        """Open the file if there is one from before, to know how it ends (:attr:`cut`)."""
        try:
            if self._fd < 0 and os.path.exists(path(self.directory, 0)):
                self._open()
        except OSError:
            pass  # the first append will meet it again

    def finish(self) -> None:
        """Say what was lost, if that is possible by now, and close the file. An append opens it again."""
        if self.lost:
            self.append(b"")
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fitting(self, entries: bytes, position: int) -> int:
        """Up to where entries fit in the current file. An empty file takes at least one, however long."""
        room = self.logging.max_size - self._size
        if len(entries) - position <= room:
            return len(entries)
        end = entries.rfind(b"\n", position, position + max(room, 0)) + 1
        if end or self._size:
            return max(end, position)
        return entries.index(b"\n", position) + 1

    def _write(self, entries: bytes) -> int:
        """Write all and return how many bytes that is.

        :raises OSError: when the disk refuses; the file then ends in a whole entry.
        """
        written = 0
        try:
            while written < len(entries):
                written += os.write(self._fd, memoryview(entries)[written:])
        except OSError as error:
            kept = entries.rfind(b"\n", 0, written) + 1
            self._size += kept
            if kept < written:
                os.ftruncate(self._fd, self._size)
            raise _PartlyWrittenError(error, kept)
        self._size += written
        return written

    def _gap(self) -> bytes:
        lines = "1 line" if self.lost == 1 else f"{self.lost} lines"
        text = f"[orch] {lines} ({self._lost_bytes} bytes) of log lost here: {self.trouble}"
        return entry(format_time(time.time_ns()), b"stderr", False, text.encode())

    def _open(self) -> None:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        self._fd = os.open(path(self.directory, 0), _APPEND, 0o600)
        try:
            self._size = os.fstat(self._fd).st_size
            surplus = max(self.logging.max_files, 1)
            while os.path.exists(older := path(self.directory, surplus)):  # max_files was higher before
                os.unlink(older)
                surplus += 1
            self._repair()
        except OSError:
            self.close()
            raise

    def _repair(self) -> None:
        """End the line that a killed predecessor left half written; learn if its last entry was a partial one."""
        tail = os.pread(self._fd, _TAIL, max(0, self._size - _TAIL))
        if tail and not tail.endswith(b"\n"):
            self._write(b"\n")
        last = Parser().parse(tail.removesuffix(b"\n").rpartition(b"\n")[2])
        if last.partial:
            self.cut.add(last.stream.encode())

    def _rotate(self) -> bool:
        """Shift every file up by one name and begin a new one.

        False when the disk won't have it (no descriptor or inode left, say): better a file that grows beyond its
        limit than lost lines.
        """
        fresh = path(self.directory, 0) + ".new"
        keep = self.logging.max_files
        try:
            fd = os.open(fresh, _APPEND | os.O_TRUNC, 0o600)
        except OSError:
            return False
        self.rotation += 1
        try:
            free = 1
            while free < keep - 1 and os.path.exists(path(self.directory, free)):
                free += 1
            for index in range(min(free, keep - 1), 0, -1):
                with contextlib.suppress(FileNotFoundError):  # somebody may have removed one
                    os.rename(path(self.directory, index - 1), path(self.directory, index))
            os.rename(fresh, path(self.directory, 0))
        except OSError:
            os.close(fd)
            return False
        finally:
            self.rotation += 1
        os.close(self._fd)
        self._fd, self._size = fd, 0
        return True


class LogFile:
    """A log file open for reading, for as long as somebody refers to it.

    Bound to the object's life, because blocks are read in worker threads, which outlast the cancelled task that
    wanted them: a close() from elsewhere would let them read a descriptor that is by then another file.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        """:raises OSError: when it can't be opened."""
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return os.pread(self._fd, size, offset)

    def status(self) -> os.stat_result:
        """The file's size, times and identity."""
        return os.fstat(self._fd)

    def is_same(self, other: LogFile) -> bool:
        """Whether both are the same file, whatever they were called when opened."""
        return os.path.samestat(self.status(), other.status())


def open_files(directory: str) -> list[LogFile]:
    """All files that there are, the oldest first; right even if another process rotates them meanwhile."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    numbers = [int(number) for name in names if (number := name.removeprefix(f"{NAME}.")).isdecimal()]
    files: list[LogFile] = []
    seen: set[tuple[int, int]] = set()
    for index in range(max(numbers, default=0) + 3):  # two more, for rotations since the listing
        try:
            file = LogFile(path(directory, index))
        except FileNotFoundError:
            continue
        status = file.status()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            files.append(file)
    files.reverse()
    return files
