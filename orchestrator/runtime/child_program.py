"""The end of a child: its terminal, its pid 1, and the program itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable

from orchestrator.kernel.syscalls import (
    DEVPTS_SUPER_MAGIC,
    RESOLVE_NO_SYMLINKS,
    close_range,
    load_seccomp_filter,
    set_name,
    statfs_type,
)
from orchestrator.runtime.child import Child, Refused
from orchestrator.runtime.child_lsm import change_profile
from orchestrator.runtime.child_paths import open_beneath
from orchestrator.runtime.protocol import send

_PTMX_DEVICE = os.makedev(5, 2)


def _terminal(child: Child, rows: int, columns: int) -> None:
    """Make a terminal in the container's own devpts, hand its master end out, and sit on the other end."""
    master = open_beneath("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, RESOLVE_NO_SYMLINKS)
    if os.fstat(master).st_rdev != _PTMX_DEVICE or statfs_type(master) != DEVPTS_SUPER_MAGIC:
        raise Refused("/dev/pts/ptmx in the container is not a pseudoterminal multiplexer")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK: unlock
    peer = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER: no path, so nothing to trick
    fcntl.ioctl(peer, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(peer, fd)
    os.close(peer)
    send(child.status, {"pty": True}, [master])
    os.close(master)


def _seccomp(child: Child, slot: str, flags: int, label: str) -> None:
    """Let the filter decide about every system call from now on, also about those of this process itself."""
    load_seccomp_filter(child.slots[slot], flags)
    child.stage("seccomp")


def retitle(title: str) -> None:
    """Be seen as ``title``: a container shall not read the host's paths in a command line."""
    set_name(title)
    with open("/proc/self/stat", "rb") as file:
        start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])  # arg_start, arg_end
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title.encode(), len(title))


def _init(child: Child) -> None:
    """Stay behind as pid 1 that forwards signals and reaps; go on in a child (what tini does)."""
    everything = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    main = os.fork()
    if main == 0:
        os.setpgid(0, 0)  # what a terminal signals reaches this group alone, and is not passed on once more
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    if child.profile:  # pid 1 does not exec; SELinux would want dyntransition, which policies give to nobody
        change_profile("current", f"changeprofile {child.profile}")
    retitle("init")
    os.closerange(0, 3)
    close_range(3)
    while True:
        caught = signal.sigwait(everything)
        if caught != signal.SIGCHLD:
            os.kill(main, caught)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == main:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)


def _exec(child: Child, argv: list[str]) -> None:
    """execvp(3) with the container's PATH; a script without #! is not guessed at."""
    child.stage("exec")
    child.leave({"stages": child.stages})
    name = argv[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{folder or '.'}/{name}" for folder in child.environment.get("PATH", "").split(":")]
    failure = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    denied: OSError | None = None
    for path in candidates:
        try:
            os.execve(path, argv, child.environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            failure = FileNotFoundError(error.errno, error.strerror, name)
        except OSError as error:
            denied = denied or OSError(error.errno, error.strerror, path)
    raise denied or failure


OPERATIONS: dict[str, Callable[..., None]] = {
    "terminal": _terminal,
    "seccomp": _seccomp,
    "init": _init,
    "exec": _exec,
}
