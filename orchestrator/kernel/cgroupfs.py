"""The files of the cgroup file systems, v1 and v2: reading, notifications, signalling, removal.

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
from collections.abc import Iterator
from typing import Protocol

#: Processes signalled between two readings of the member list; bounds the descriptors in use at a time.
_BATCH = 256


def read(path: str) -> str:
    """The whole text of a kernel file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError as error:
        error.filename = path  # read(2) knows only the descriptor
        raise
    finally:
        os.close(fd)
    return b"".join(parts).decode()


def write(path: str, text: str) -> None:
    """Write ``text`` to an existing kernel file in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path  # write(2) knows only the descriptor
        raise
    finally:
        os.close(fd)


def flat_keyed(text: str) -> dict[str, int]:
    """The numbers of a "flat keyed" file (``memory.events``, ``cpu.stat``): one ``key number`` a line."""
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def nested(directory: str) -> Iterator[str]:
    """A cgroup's directory and those of all cgroups within it, deepest first; nothing if it is not there.

    A cgroup without children, as nearly all are, costs one stat and no listing: a directory of kernfs has
    one link for itself, one for its name and one for each child directory.
    """
    try:
        children = os.stat(directory).st_nlink > 2
        if children:
            with os.scandir(directory) as entries:
                names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            for name in names:
                yield from nested(name)
    except FileNotFoundError:
        return
    yield directory


def processes(directory: str) -> list[int]:
    """Pids, as this process's pid namespace counts them, of all processes in the cgroup and beneath it.

    Processes that this namespace cannot see are left out. Zombies are not members.
    """
    pids: set[int] = set()
    for each in nested(directory):
        try:
            pids.update(map(int, read(f"{each}/cgroup.procs").split()))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # it was removed while we looked
                raise
    return sorted(pids - {0})


def signal_processes(directory: str, number: signal.Signals) -> None:
    """Send a signal to every member, also to those that appear while it is at it.

    A pid read from the file may end and be given to a stranger before the signal is sent. So the process
    is pinned by a pidfd first and looked up again: a pid that is still a member then is the pinned process,
    or the pinned one has been reaped and the signal goes nowhere.
    """
    done: set[int] = set()
    while fresh := [pid for pid in processes(directory) if pid not in done][:_BATCH]:
        pinned: dict[int, int] = {}
        try:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    pinned[pid] = os.pidfd_open(pid)
            members = set(processes(directory))
            for pid, fd in pinned.items():
                if pid in members:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(fd, number)
        finally:
            for fd in pinned.values():
                os.close(fd)
        done.update(fresh)


def remove(directory: str) -> bool:
    """rmdir(2) one cgroup; False if it was not there.

    :raises OSError: EBUSY while processes or child cgroups live in it.
    """
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return False
    return True


def device_number(path: str) -> str:
    """``major:minor`` of a block device, as the io and blkio files want it.

    :raises OSError: the path is missing, or (ENOTBLK) is not a block device.
    """
    status = os.stat(path)
    if not stat.S_ISBLK(status.st_mode):
        raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), path)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def is_partition(number: str) -> bool:
    """Whether ``major:minor`` is a part of a disk; limits are for whole disks (block/blk-cgroup.c)."""
    return os.path.exists(f"/sys/dev/block/{number}/partition")


def disks() -> list[str]:
    """``major:minor`` of the host's disks, leaving out those that hold nothing and memory-backed ones."""
    found = []
    for name in os.listdir("/sys/block"):
        if not name.startswith(("loop", "ram", "zram")):
            with contextlib.suppress(FileNotFoundError):  # unplugged meanwhile
                if int(read(f"/sys/block/{name}/size")):
                    found.append(read(f"/sys/block/{name}/dev").strip())
    return found


class Notifier(Protocol):
    """A descriptor that is readable when something happened; hand it to ``loop.add_reader``.

    :meth:`drain` after each time, then look at what changed; :meth:`close` in the end.
    """

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def drain(self) -> None:
        """Make the descriptor wait for the next event."""

    def close(self) -> None:
        """Let go of the descriptors; closing twice does nothing."""


class FileNotifier:
    """Events of a v2 file that announces its changes (``cgroup.events``, ``memory.events``).

    Such a file reports a change as POLLPRI, but POLLIN all the time, so an event loop cannot wait on it; an
    epoll that watches it for EPOLLPRI alone is readable exactly when it changed. (inotify reports the same
    changes, but a user may have 128 instances of it only, unless the host was told otherwise.)

    :raises OSError: there is no such file.
    """

    def __init__(self, path: str) -> None:
        self._source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll(1)
        try:
            self._epoll.register(self._source, select.EPOLLPRI)
            self.drain()  # what happened until now is not news
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._epoll.fileno()

    def drain(self) -> None:
        """Make the descriptor wait for the next event: kernfs counts one as seen when the file is read."""
        try:
            os.pread(self._source, 4096, 0)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._epoll.unregister(self._source)  # the cgroup is gone, and would be "changed" for ever

    def close(self) -> None:
        """Let go of the descriptors; closing twice does nothing."""
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._source)


class PressureNotifier:
    """A trigger on a pressure file of a v2 cgroup (accounting/psi.rst); it lives as long as its descriptor.

    A poll that finds an event takes it, also the one that an event loop makes of the epoll here. So the loop hears of
    each event exactly once.

    :param trigger: ``some THRESHOLD WINDOW``, or ``full ...``, in microseconds.
    :raises OSError: there is no such file, or (EINVAL, EPERM) the kernel refuses the trigger.
    """

    def __init__(self, path: str, trigger: str) -> None:
        self._source = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll(1)
        try:
            os.write(self._source, trigger.encode())
            self._epoll.register(self._source, select.EPOLLPRI)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                error.filename = path  # write(2) knows only the descriptor
            raise

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._epoll.fileno()

    def drain(self) -> None:
        """Make the descriptor wait for the next event."""
        for _, events in self._epoll.poll(0):
            if events & select.EPOLLERR:
                self._epoll.unregister(self._source)  # the cgroup is gone, and would be an event for ever

    def close(self) -> None:
        """Let go of the descriptors; closing twice does nothing.

        The kernel waits out an RCU grace period meanwhile (psi_trigger_destroy), 7 to 16 ms.
        """
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._source)


class EventNotifier:
    """Events of a v1 file (``memory.oom_control``), registered by cgroup.event_control (cgroup-v1/memory.rst).

    The kernel signals it once more when the cgroup is removed.

    :raises OSError: there is no such file, or it has no events.
    """

    def __init__(self, directory: str, file: str) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            subject = os.open(f"{directory}/{file}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write(f"{directory}/cgroup.event_control", f"{self._fd} {subject}")
            finally:
                os.close(subject)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._fd

    def drain(self) -> None:
        """Make the descriptor wait for the next event."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Let go of the descriptor; closing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
