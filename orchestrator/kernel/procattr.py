"""Security attributes of this process: the files /proc/thread-self/attr/... (proc_pid_attr(5), apparmor(7))."""

from __future__ import annotations

import errno
import os

from orchestrator.kernel.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
    statfs_type,
)

_PROC_SUPER_MAGIC = 0x9FA0  # linux/magic.h
_PROC_ROOT_INO = 1  # linux/proc_fs.h
_AS_IT_IS = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


def set_attribute(name: str, value: str) -> None:
    """Write an attribute of this thread: ``exec``, ``apparmor/exec``, ...

    :raises OSError: the kernel's; ENOENT also when there is no such file, EXDEV when /proc is not the kernel's.

    A volume mounted on /proc, or on a file in it, could take the write and let the process run without its label
    (CVE-2019-16884): so it must be the root of a proc file system, and nothing may be mounted on the way.
    """
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if statfs_type(proc) != _PROC_SUPER_MAGIC or os.fstat(proc).st_ino != _PROC_ROOT_INO:
            raise OSError(errno.EXDEV, "it is not the kernel's", "/proc")
        path = f"{os.readlink('thread-self', dir_fd=proc)}/attr/{name}"  # our number where it was mounted
        fd = openat2(proc, path, os.O_WRONLY, _AS_IT_IS)
    finally:
        os.close(proc)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{path}") from None
    finally:
        os.close(fd)
