"""The log pump: one thread that moves what all containers write into their log files.

It is a thread, and not part of the event loop, so that a busy loop never makes a container wait for its log; and
it waits for nobody: a follower only gets a callback, a disk that refuses costs lines (counted and reported in
the log), never time. Pipes are read to their end, whether or not the container still lives.

Each pass reads at most one chunk from every pipe that has something, frames it (one time stamp a chunk) and
appends it with one write. Under a steady trickle the passes are :data:`PAUSE` apart, so that many small writes
become one chunk instead of thousands of turns with the interpreter lock.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable

from orchestrator.logs.files import LogWriter
from orchestrator.logs.format import entry, format_time, frame
from orchestrator.spec import Logging

#: Bytes read at a time, and the size asked for each pipe (the kernel's default pipe holds 64 KiB).
CHUNK = 256 << 10
#: Seconds between passes while something comes all the time.
PAUSE = 0.002
#: Bytes of freed memory that may stay with the thread for its next chunk.
_KEPT = 2 << 20
#: Seconds after which the beginning of a line whose end doesn't come is written all the same, as a partial
#: entry, so that a kill of the service loses no more than that.
HOLD = 1.0


class _Log:
    """One key: its files and who wants to know that they grew."""

    __slots__ = ("attachments", "subscribers", "trouble", "writer")

    def __init__(self) -> None:
        self.writer: LogWriter | None = None
        self.attachments = 0
        self.subscribers: tuple[Callable[[int | None], None], ...] = ()
        self.trouble = ""


class _Attachment:
    """The pipes of one run of a container."""

    __slots__ = ("log", "on_closed", "streams", "writer")

    def __init__(self, log: _Log, writer: LogWriter, on_closed: Callable[[], None]) -> None:
        self.log = log
        self.writer = writer
        self.on_closed = on_closed
        self.streams: set[_Stream] = set()


class _Stream:
    """One pipe. ``rest`` is the beginning of a line whose end hasn't come yet."""

    __slots__ = ("attachment", "fd", "key", "name", "rest")

    def __init__(self, fd: int, name: bytes, key: str, attachment: _Attachment) -> None:
        self.fd = fd
        self.name = name
        self.key = key
        self.attachment = attachment
        self.rest = b""


class LogPump:
    """Pumps logs; see the module. All methods may be called from any thread.

    :param report: called from the pump's thread with a sentence when a log begins to lose lines, and when it no
        longer does.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._logs: dict[str, _Log] = {}
        self._lock = threading.Lock()  # guards _logs and what they count; never held during I/O
        self._commands: collections.deque[Callable[[], None]] = collections.deque()
        self._streams: dict[int, _Stream] = {}
        self._held: dict[_Stream, float] = {}  # streams with a rest -> when to write it; oldest first
        self._grown: dict[_Log, int] = {}  # bytes appended in this pass
        self._buffer = memoryview(bytearray(CHUNK))
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log-pump", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread.start()

    def stop(self) -> None:
        """Write what is in the pipes, close them (this process's ends) and end the thread.

        Nobody's ``on_closed`` is called: containers may well go on writing, and a later pump go on reading. The
        beginning of a line whose end hasn't come is written as partial, so that the later pump can complete it.
        """
        self._command(self._stop)
        self._thread.join()
        assert self._epoll is not None
        self._epoll.close()
        os.close(self._wake)

    def attach(
        self,
        key: str,
        stdout: int,
        stderr: int,
        directory: str,
        logging: Logging,
        on_closed: Callable[[], None],
    ) -> None:
        """Take over a container's pipes and append what comes to the files in ``directory``.

        The same key may be attached again, with the same directory, at any time: also before the pipes of the
        run before have reached their end.

        :param stdout: read end; the pump owns it from now on. -1 for none.
        :param stderr: the same; it may be the same descriptor as ``stdout`` (a terminal).
        :param on_closed: called from the pump's thread when all ends were reached and everything is written.
        """
        with self._lock:
            log = self._logs.setdefault(key, _Log())
            log.attachments += 1
            if log.writer is None:
                log.writer = LogWriter(directory, logging)
            attachment = _Attachment(log, log.writer, on_closed)
        pipes = [(stdout, b"stdout"), (stderr, b"stderr")] if stdout != stderr else [(stdout, b"stdout")]
        attachment.streams = {_Stream(fd, name, key, attachment) for fd, name in pipes if fd >= 0}
        self._command(lambda: self._attach(key, attachment, logging))

    def drain(self, key: str) -> None:
        """Take what is in the key's pipes now, and then close them although somebody may still have them open.

        ``on_closed`` follows as usual. For runs whose container is gone while a stranger holds its pipes.
        """
        self._command(lambda: self._drain(key))

    def subscribe(self, key: str, callback: Callable[[int | None], None]) -> Callable[[], None]:
        """Hear of a log's growth, until the function that is returned is called.

        ``callback`` is called from the pump's thread, at most once a pass, and must return at once. It gets the
        number of bytes appended (or lost), or None when a run's last line has been written. The key needn't be
        attached yet.
        """
        with self._lock:
            log = self._logs.setdefault(key, _Log())
            log.subscribers += (callback,)

        def unsubscribe() -> None:
            with self._lock:
                log.subscribers = tuple(other for other in log.subscribers if other is not callback)
                self._forget(key, log)

        return unsubscribe

    def rotation(self, key: str) -> int:
        """How often the key's files were rotated, as :attr:`LogWriter.rotation` counts, while somebody subscribes."""
        log = self._logs.get(key)
        return log.writer.rotation if log is not None and log.writer is not None else 0

    def _forget(self, key: str, log: _Log) -> None:
        if not log.attachments and not log.subscribers and self._logs.get(key) is log:
            del self._logs[key]

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        os.eventfd_write(self._wake, 1)

    # What follows runs in the pump's thread.

    def _run(self) -> None:
        assert self._epoll is not None
        # Freeing one large block makes glibc keep freed blocks of up to that size instead of unmapping them
        # (mallopt(3), M_MMAP_THRESHOLD); chunks would otherwise cost more in page faults than in everything else.
        bytes(_KEPT)
        rested = 0.0
        while not self._stopping:
            largest = 0
            ready = self._epoll.poll(self._patience())
            busy = time.monotonic() - rested < PAUSE
            for fd, _ in ready:
                if fd == self._wake:
                    self._obey()
                elif fd in self._streams:  # and not closed by a command of this pass
                    largest = max(largest, self._pull(self._streams[fd]))
            self._release()
            self._notify()
            if busy and not self._stopping and largest < CHUNK // 4:
                time.sleep(PAUSE)
            rested = time.monotonic()

    def _patience(self) -> float | None:
        """Seconds until the first held rest must be written."""
        return max(0.0, next(iter(self._held.values())) - time.monotonic()) if self._held else None

    def _obey(self) -> None:
        os.eventfd_read(self._wake)
        while self._commands:
            self._commands.popleft()()

    def _attach(self, key: str, attachment: _Attachment, logging: Logging) -> None:
        assert self._epoll is not None
        attachment.writer.logging = logging
        attachment.writer.adopt()
        for stream in tuple(attachment.streams):
            self._streams[stream.fd] = stream
            try:
                os.set_blocking(stream.fd, False)
                # A terminal has no such size, and the kernel may refuse more (pipe-user-pages-soft in pipe(7)).
                with contextlib.suppress(OSError):
                    fcntl.fcntl(stream.fd, fcntl.F_SETPIPE_SZ, CHUNK)
                self._epoll.register(stream.fd, select.EPOLLIN)
            except OSError as error:
                self._report(f"{stream.name.decode()} of {key} can't be read: {error.strerror}")
                self._end(stream)
        if not attachment.streams:
            self._closed(key, attachment)

    def _pull(self, stream: _Stream) -> int:
        """Move one chunk; how many bytes that was, 0 at the end or when there is nothing now."""
        try:
            count = os.readv(stream.fd, [self._buffer])
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:  # which is how a terminal says that its other side is closed
                self._report(f"{stream.name.decode()} of {stream.key} can't be read: {error.strerror}")
            count = 0
        if not count:
            self._end(stream)
            return 0
        entries, stream.rest = frame(stream.rest + self._buffer[:count], _now(), stream.name)
        if entries:
            self._append(stream, entries)
            stream.attachment.writer.cut.discard(stream.name)
            self._held.pop(stream, None)
        if stream.rest:
            self._held.setdefault(stream, time.monotonic() + HOLD)
        return count

    def _append(self, stream: _Stream, entries: bytes) -> None:
        log, writer = stream.attachment.log, stream.attachment.writer
        writer.append(entries)
        self._grown[log] = self._grown.get(log, 0) + len(entries)
        if writer.trouble != log.trouble:
            log.trouble = writer.trouble
            state = f"lines are being lost: {log.trouble}" if log.trouble else "lines are written again"
            self._report(f"log {writer.directory}: {state}")

    def _release(self) -> None:
        """Write the rests that were held long enough."""
        while self._held and not self._patience():
            self._write_partial(next(iter(self._held)))

    def _write_partial(self, stream: _Stream) -> None:
        self._held.pop(stream, None)
        if stream.rest:
            self._append(stream, entry(_now(), stream.name, True, stream.rest))
            stream.attachment.writer.cut.add(stream.name)
            stream.rest = b""

    def _end(self, stream: _Stream) -> None:
        """The pipe's end: complete its last line and close it."""
        writer = stream.attachment.writer
        self._held.pop(stream, None)
        if stream.rest or stream.name in writer.cut:
            self._append(stream, entry(_now(), stream.name, False, stream.rest))
            writer.cut.discard(stream.name)
        self._close(stream)
        stream.attachment.streams.discard(stream)
        if not stream.attachment.streams:
            self._closed(stream.key, stream.attachment)

    def _close(self, stream: _Stream) -> None:
        assert self._epoll is not None
        # Not left to close(): the pipe stays in the epoll set as long as anybody, the spawner say, has a
        # duplicate of the descriptor (epoll(7), question 6).
        with contextlib.suppress(OSError):
            self._epoll.unregister(stream.fd)
        os.close(stream.fd)
        del self._streams[stream.fd]

    def _closed(self, key: str, attachment: _Attachment) -> None:
        """All pipes of a run have ended."""
        log = attachment.log
        with self._lock:
            log.attachments -= 1
            idle = not log.attachments
        if idle:
            self._finish(attachment.writer)
        for callback in log.subscribers:
            self._call(callback, None)
        self._call(attachment.on_closed)
        with self._lock:
            self._forget(key, log)

    def _finish(self, writer: LogWriter) -> None:
        writer.finish()
        if writer.lost:
            self._report(
                f"log {writer.directory}: {writer.lost} lines were lost, and there is no room to say so there"
            )

    def _empty(self, stream: _Stream) -> None:
        """Move what is in the pipe now, but not what comes meanwhile: that could go on for ever."""
        amount = struct.unpack("i", fcntl.ioctl(stream.fd, termios.FIONREAD, bytes(4)))[0]
        while amount > 0 and (count := self._pull(stream)):
            amount -= count

    def _drain(self, key: str) -> None:
        for stream in [stream for stream in self._streams.values() if stream.key == key]:
            self._empty(stream)
            if stream.fd in self._streams:
                self._end(stream)

    def _stop(self) -> None:
        for stream in list(self._streams.values()):
            self._empty(stream)
            if stream.fd in self._streams:
                self._write_partial(stream)
                self._close(stream)
        for log in self._logs.values():
            if log.writer is not None:
                self._finish(log.writer)
        self._stopping = True

    def _notify(self) -> None:
        for log, count in self._grown.items():
            for callback in log.subscribers:
                self._call(callback, count)
        self._grown.clear()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call somebody else's function, which mustn't be able to end the pump."""
        try:
            function(*arguments)
        except Exception as error:
            self._report(f"log pump: {function!r} failed: {error!r}")


def _now() -> bytes:
    return format_time(time.time_ns())
