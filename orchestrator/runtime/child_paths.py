"""How a child resolves paths of the container: beneath its root, whatever links the image or a volume holds.

An image is somebody else's: any name in it may be a symbolic link to anywhere, a FIFO, or a device. So a path is
resolved once, by the kernel, beneath the container's root and without magic links such as /proc/self/fd/3 (openat2(2)),
and what follows is done to the descriptor.
"""

from __future__ import annotations

import errno
import os

from orchestrator.kernel.syscalls import (
    CGROUP2_SUPER_MAGIC,
    CGROUP_SUPER_MAGIC,
    PROC_SUPER_MAGIC,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    SYSFS_MAGIC,
    openat2,
    statfs_type,
)
from orchestrator.runtime.child import Refused

_MAX_LINKS = 40  # as the kernel has it (path_resolution(7))
_KERNELS = frozenset({PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC})


def open_beneath(path: str, flags: int, resolve: int = 0) -> int:
    """Open a path of the container; ``resolve`` are further limits (RESOLVE_...)."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)
    finally:
        os.close(root)


def ensure(path: str, folder: bool, resolve: int = 0) -> int:
    """An O_PATH descriptor of ``path`` in the container; made, with its parents, if it is missing.

    A symbolic link to nowhere is followed, beneath the container's root, and what it points to is made.
    """
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return ensure_at(root, path, folder, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)
    finally:
        os.close(root)


def ensure_at(root: int, path: str, folder: bool, resolve: int, links: int = 0) -> int:
    """As :func:`ensure`, beneath the folder that ``root`` is open on, within the limits of ``resolve``."""
    try:
        return openat2(root, path, os.O_PATH | (os.O_DIRECTORY if folder else 0), resolve)
    except FileNotFoundError:
        parent_path, _, name = path.rstrip("/").rpartition("/")
        parent = ensure_at(root, parent_path or ("/" if path.startswith("/") else "."), True, resolve, links)
    try:
        if folder:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileExistsError:
        if links >= _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        try:
            target = os.readlink(name, dir_fd=parent)
        except OSError:  # no link: somebody else has made it just now
            target = name
    finally:
        os.close(parent)
    # A link starts in its own folder, which is where the parent's path leads.
    target = target if target.startswith("/") else f"{parent_path or '.'}/{target}"
    return ensure_at(root, target, folder, resolve, links + 1)


def place(target: str, folder: bool) -> int:
    """Where the manifest mounts something: as :func:`ensure`, but never the root or the kernel's own files.

    Otherwise an image could say, with a symbolic link, that a volume covers /proc: what is written to
    /proc/sys or /proc/self/attr later would go to the volume's files, or where its links lead (CVE-2019-16884,
    CVE-2025-52881). What the manifest itself puts into /sys or /dev goes there, through no links at all.

    :raises Refused: where it leads instead.
    """
    named = f"{target}/".startswith(("/sys/", "/dev/"))
    fd = ensure(target, folder, RESOLVE_NO_SYMLINKS if named else 0)
    if not named and is_kernels(fd):
        where = "into the kernel's own files (/proc, /sys)"
    elif os.path.samestat(os.fstat(fd), os.stat("/")):
        where = "to the root of the container"
    else:
        return fd
    os.close(fd)
    raise Refused(f"a symbolic link of the image leads {where}, where nothing can be mounted")


def is_kernels(fd: int) -> bool:
    """Whether ``fd`` is a file of /proc, /sys or a cgroup, whatever name it was opened by."""
    return statfs_type(fd) in _KERNELS
