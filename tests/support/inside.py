"""What an attacker has at hand inside a container: its text is sent there (see :mod:`support.attack`).

Standard library only. Every attempt returns a word: the errno's name, or ``done`` when it succeeded.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

#: What :func:`attempt` returns when nothing stood in the way.
DONE = "done"

# sched.h, mount.h, fcntl.h
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x2000000, 0x10000000, 0x40000000
MS_RDONLY, MS_NODEV, MS_REMOUNT, MS_BIND = 0x1, 0x4, 0x20, 0x1000
MNT_DETACH = 2
AT_FDCWD = -100

#: System calls without a function in libc; the last column is for what is younger than Linux 5.0.
_NUMBERS: dict[str, tuple[int, int]] = {  # x86-64, aarch64
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "pivot_root": (155, 41),
    "adjtimex": (159, 171),
    "settimeofday": (164, 170),
    "acct": (163, 89),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "quotactl": (179, 60),
    "clock_settime": (227, 112),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "clock_adjtime": (305, 266),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "clone3": (435, 435),
    "mount_setattr": (442, 442),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}[os.uname().machine]

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def check(result: int) -> int:
    """A result of libc.

    :raises OSError: when it says so.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(number: str, *arguments: object) -> int:
    """A system call by its name."""
    words = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    return check(_syscall(_NUMBERS[number][_COLUMN], *words))


def name(error: OSError) -> str:
    """The name of its errno."""
    return errno.errorcode[error.errno or 0]


def attempt(action: Callable[..., object], *arguments: object) -> str:
    """``done``, or the name of the errno that ``action`` failed with."""
    try:
        action(*arguments)
    except OSError as error:
        return name(error)
    return DONE


def attempt_call(number: str, *arguments: object) -> str:
    """:func:`attempt` of a system call."""
    return attempt(call, number, *arguments)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = (source.encode(), target.encode(), kind.encode())
    check(libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None))


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    check(libc.umount2(target.encode(), flags))


def write(path: str, text: str) -> None:
    """Write to a file that exists."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """All of a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def processes() -> list[int]:
    """Every process that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def find(marker: str) -> int:
    """The process with ``marker`` in its command line; 0 when none is to be seen."""
    for pid in processes():
        try:
            if pid != os.getpid() and marker in read(f"/proc/{pid}/cmdline").split("\0"):
                return pid
        except OSError:  # it has just ended
            pass
    return 0


def run_in_child(action: Callable[[], str]) -> str:
    """The word that ``action`` returns, performed in a child process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, action().encode())
        finally:
            os._exit(0)
    os.close(writer)
    word = b""
    while chunk := os.read(reader, 4096):
        word += chunk
    os.close(reader)
    os.waitpid(pid, 0)
    return word.decode()
