"""What a child does about volumes: take the whole or a part of one, let mounts propagate, fill a new one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable

from orchestrator.kernel.syscalls import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLONE,
    OVERLAYFS_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
    statfs_type,
)
from orchestrator.runtime.child import Child, Refused
from orchestrator.runtime.child_paths import ensure_at, open_beneath

_PROPAGATION = {"private": 0, "slave": MS_SLAVE, "shared": MS_SHARED}
#: Says on a volume's folder that it is being, or has been, filled. No container can read or set it: trusted.*
#: needs CAP_SYS_ADMIN of the host's user namespace (xattr(7)).
_MARK = "trusted.orch.volume"
#: What is copied from an image must end some time, whatever the image holds.
_MAX_ENTRIES = 100_000
_MAX_BYTES = 4 << 30
_MAX_DEPTH = 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_tree(
    child: Child,
    slot: str,
    path: str,
    recursive: bool,
    read_only: bool,
    propagation: str = "private",
    subpath: str = "",
    ids: str = "",
) -> None:
    """Take a file or folder of the host, as a detached mount; it is attached once the host is out of reach.

    :param ids: whose map the mount gets: ``container``; "" for none, or one that ``idmap-tree`` gives it.
    """
    source = _open_part(child, path, subpath) if subpath else os.open(path, os.O_PATH | os.O_CLOEXEC)
    if propagation != "private":
        _require_shared(source, path, propagation)
    tree = open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), source)
    os.close(source)
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if read_only else 0)
    mount_setattr(tree, attributes, recursive, _PROPAGATION[propagation])
    if ids:
        idmap(child, tree, recursive, ids)
    child.slots[slot] = tree


def idmap(child: Child, tree: int, recursive: bool, ids: str = "container") -> None:
    """Give a detached mount the map of a user namespace: ``container``'s, or that in the slot ``ids``."""
    namespace = child.user_namespace if ids == "container" else child.slots[ids]
    mount_setattr(tree, MOUNT_ATTR_IDMAP, recursive, user_namespace=namespace)


def _idmap_tree(child: Child, slot: str, recursive: bool, ids: str) -> None:
    idmap(child, child.slots[slot], recursive, ids)


def _idmap_folders(child: Child, paths: list[str]) -> None:
    """Cover folders with idmapped mounts of themselves, for an overlay to be made of (it takes paths, not mounts)."""
    for path in paths:
        tree = open_tree(path, OPEN_TREE_CLONE)
        idmap(child, tree, recursive=False)
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        move_mount(tree, place)
        os.close(place)
        os.close(tree)


def _open_part(child: Child, volume: str, subpath: str) -> int:
    """An O_PATH descriptor of a path in a volume; a folder is made if nothing is there.

    Whatever containers have put into the volume: no link in it leads out, and since the descriptor is mounted, none
    that comes later does (CVE-2017-1002101 and CVE-2021-25741 of Kubernetes).
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    base = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(base, subpath, os.O_PATH, resolve)
    except FileNotFoundError:
        with child.as_host():  # the mount is not mapped yet
            return ensure_at(base, subpath, True, resolve)
    finally:
        os.close(base)


def _require_shared(fd: int, path: str, propagation: str) -> None:
    """Of a mount that the host does not share nothing would ever propagate (mount_namespaces(7))."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo") as file:
        row = next((line.split() for line in file if line.startswith(f"{number} ")), None)
    if row is None:
        raise Refused(f"{path} is on a mount that cannot be found in /proc/self/mountinfo")
    peers = ("shared:",) if propagation == "shared" else ("shared:", "master:")
    if not any(field.startswith(peers) for field in row[6 : row.index("-")]):
        raise Refused(f"{path} is on the mount {row[4]}, which the host does not share")


def _fill(child: Child, slot: str, target: str) -> None:
    """Give a new volume what the image has at its target, with owners and modes, as Docker does; once.

    Several containers may start with it at the same time: one copies, the others wait. A copy that is cut short is
    taken up by the next start: a file is there as a whole or not at all, and what is there stays.
    """
    tree = child.slots[slot]
    if not stat.S_ISDIR(os.fstat(tree).st_mode):
        return
    volume = os.open(".", _FOLDER, dir_fd=tree)
    try:
        if _mark(volume) != b"filled" and (source := _open_original(target)) >= 0:
            try:
                fcntl.flock(volume, fcntl.LOCK_EX)
                _fill_locked(source, volume)
            finally:
                os.close(source)
    finally:
        os.close(volume)


def _open_original(target: str) -> int:
    """The image's own folder at ``target``; -1 if it has none."""
    try:
        fd = open_beneath(target, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    if statfs_type(fd) == OVERLAYFS_SUPER_MAGIC:
        return fd
    os.close(fd)  # in another mount of the container's
    return -1


def _fill_locked(source: int, volume: int) -> None:
    if _mark(volume) is None and not os.listdir(volume):
        _set_mark(volume, b"filling")
        _like(volume, os.fstat(source))
    elif _mark(volume) != b"filling":
        _set_mark(volume, b"filled")  # it has been used before, or filled just now by another
        return
    _Copy().folder(source, volume, 0)
    _set_mark(volume, b"filled")


def _mark(volume: int) -> bytes | None:
    try:
        return os.getxattr(volume, _MARK)
    except OSError:
        return None


def _set_mark(volume: int, value: bytes) -> None:
    with contextlib.suppress(OSError):  # where there are none, that it is not empty any more has to do
        os.setxattr(volume, _MARK, value)


class _Copy:
    """Copies folders, files and symbolic links; never follows a link, and never replaces anything."""

    def __init__(self) -> None:
        self._entries = 0
        self._bytes = 0

    def folder(self, source: int, target: int, depth: int) -> None:
        """Copy what is in the folder that ``source`` is open on into that of ``target``."""
        if depth > _MAX_DEPTH:
            raise Refused(f"folders of the image are nested more than {_MAX_DEPTH} deep")
        with os.scandir(source) as entries:
            for entry in entries:
                name = entry.name
                info = os.stat(name, dir_fd=source, follow_symlinks=False)
                self._count(info)
                if stat.S_ISDIR(info.st_mode):
                    self._inner(source, target, name, info, depth)
                    continue
                with contextlib.suppress(FileExistsError):
                    if stat.S_ISREG(info.st_mode):
                        self._file(source, target, name, info)
                    elif stat.S_ISLNK(info.st_mode):
                        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                        os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)

    def _count(self, info: os.stat_result) -> None:
        self._entries += 1
        self._bytes += info.st_size if stat.S_ISREG(info.st_mode) else 0
        if self._entries > _MAX_ENTRIES or self._bytes > _MAX_BYTES:
            raise Refused(
                f"the image has more than {_MAX_ENTRIES} files or {_MAX_BYTES >> 30} GiB in this folder"
            )

    def _inner(self, source: int, target: int, name: str, info: os.stat_result, depth: int) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=target)
        inner_source = os.open(name, _FOLDER, dir_fd=source)
        try:
            inner_target = os.open(name, _FOLDER, dir_fd=target)
            try:
                self.folder(inner_source, inner_target, depth + 1)
                _like(inner_target, info)
            finally:
                os.close(inner_target)
        finally:
            os.close(inner_source)

    def _file(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        """Make it without a name, and give it its name when it is complete (O_TMPFILE in open(2))."""
        original = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            copy = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                offset = 0
                while sent := os.sendfile(copy, original, offset, 1 << 24):
                    offset += sent
                _like(copy, info)
                os.link(f"/proc/self/fd/{copy}", name, dst_dir_fd=target)
            finally:
                os.close(copy)
        finally:
            os.close(original)


def _like(fd: int, info: os.stat_result) -> None:
    """Owner, mode and time of another file."""
    os.fchown(fd, info.st_uid, info.st_gid)
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


OPERATIONS: dict[str, Callable[..., None]] = {
    "open-tree": _open_tree,
    "idmap-folders": _idmap_folders,
    "idmap-tree": _idmap_tree,
    "fill": _fill,
}
