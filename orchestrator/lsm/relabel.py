"""A folder's SELinux label, file by file: what ``relabel`` of a volume does.

What lies in the folder is hostile: a container may have written it, and may be writing. So no name is followed that is
a symbolic link, and each file is labelled through the descriptor by which it was found.
"""

from __future__ import annotations

import errno
import os

_ATTRIBUTE = "security.selinux"
#: Folders of the whole system: with another label the host's own programs could no longer use them. Podman and
#: Docker refuse the same (and homes, beneath).
_SYSTEM = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/media", "/mnt", "/opt",
     "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64",
     "/usr/local", "/usr/sbin", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/run", "/var/spool",
     "/var/tmp", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/pki", "/etc/ssl")
)  # fmt: skip
#: Nothing at all beneath these is a container's.
_KERNELS = ("/boot/", "/dev/", "/proc/", "/sys/")
#: Each level costs two descriptors for as long as one is beneath it.
MAX_DEPTH = 128


def refusal(path: str) -> str:
    """Why a path must not get a container's label; ``""`` when it may."""
    real = os.path.realpath(path)
    homes = os.path.dirname(real) == "/home"
    if real in _SYSTEM or homes or real.startswith(_KERNELS):
        return f'"{path}" is the system\'s own and cannot be relabelled (mount a folder of the service alone)'
    return ""


def label(path: str, context: str) -> int:
    """Give a file or folder, and all beneath it, a context; how many had another one.

    File systems without labels (FAT, NFS) are left as they are; what disappears meanwhile is no error.

    :raises OSError: naming the file whose label cannot be changed.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _label(fd, path, context.encode() + b"\0")
    finally:
        os.close(fd)


def _label(fd: int, path: str, value: bytes, depth: int = 0) -> int:
    """As :func:`label`, for what ``fd`` (of O_PATH) is open on; ``path`` is for messages."""
    changed = 0
    magic = f"/proc/self/fd/{fd}"
    try:
        if _current(magic) != value:
            os.setxattr(magic, _ATTRIBUTE, value)
            changed = 1
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise OSError(error.errno, error.strerror, path) from None
    try:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except NotADirectoryError:
        return changed
    try:
        if depth == MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {MAX_DEPTH} deep", path)
        for name in os.listdir(folder):
            try:
                inner = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except FileNotFoundError:
                continue
            try:
                changed += _label(inner, f"{path}/{name}", value, depth + 1)
            finally:
                os.close(inner)
    finally:
        os.close(folder)
    return changed


def current(path: str) -> str:
    """The context that a file has; ``""`` when it has none."""
    return _current(path).rstrip(b"\0").decode("utf-8", "replace")


def _current(path: str) -> bytes:
    try:
        return os.getxattr(path, _ATTRIBUTE)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return b""
        raise
