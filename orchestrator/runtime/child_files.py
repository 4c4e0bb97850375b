"""What a child does about files: layers, pivot_root, mounts, devices, masks.

Sources on the host are opened *before* pivot_root; targets are resolved only *after* it, when the host's files are
out of reach, and beneath the new root (RESOLVE_IN_ROOT).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from orchestrator.kernel import operations
from orchestrator.kernel.syscalls import (
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
    pivot_root,
    set_file_ids,
    umount,
)
from orchestrator.runtime.child import Child
from orchestrator.runtime.idmap import outside

_MAX_LINKS = 40  # as the kernel has it (path_resolution(7))


def open_beneath(path: str, flags: int, resolve: int = 0) -> int:
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)
    finally:
        os.close(root)


def _ensure(path: str, folder: bool, resolve: int = 0, links: int = 0) -> int:
    """An O_PATH descriptor of ``path`` in the container; made, with its parents, if it is missing.

    A symbolic link to nowhere is followed, beneath the container's root, and what it points to is made.
    """
    try:
        return open_beneath(path, os.O_PATH | (os.O_DIRECTORY if folder else 0), resolve)
    except FileNotFoundError:
        parent_path, _, name = path.rstrip("/").rpartition("/")
        parent = _ensure(parent_path or "/", True, resolve, links)
    try:
        if folder:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileExistsError:
        if links >= _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        target = os.readlink(name, dir_fd=parent)
    finally:
        os.close(parent)
    return _ensure(
        target if target.startswith("/") else f"{parent_path}/{target}", folder, resolve, links + 1
    )


def _layers(child: Child, directory: str, layers: list[tuple[str, str, str]]) -> None:
    """Make the folders of writable layers, the first time; what they lie above gives them owner and mode."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return
    for lower, upper, work in layers:
        info = os.stat(lower)
        os.mkdir(upper)
        os.mkdir(work)
        os.chown(upper, info.st_uid, info.st_gid)
        os.chmod(upper, stat.S_IMODE(info.st_mode))


def _overlay(child: Child, target: str, lower: list[str], upper: str, work: str) -> None:
    def escape(path: str) -> str:
        return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

    lowers = ":".join(map(escape, lower))
    mount(
        "overlay", target, "overlay", MS_NODEV,
        f"lowerdir={lowers},upperdir={escape(upper)},workdir={escape(work)}",
    )  # fmt: skip


def _open_tree(child: Child, slot: str, path: str, recursive: bool, read_only: bool, ids: str) -> None:
    """:param ids: whose map the mount gets: ``container``, or the slot of another user namespace; "" for none."""
    recurse = AT_RECURSIVE if recursive else 0
    tree = open_tree(path, OPEN_TREE_CLONE | recurse)
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if read_only else 0)
    mount_setattr(tree, attributes, recursive)
    if ids:
        _idmap(child, tree, recursive, ids)
    child.slots[slot] = tree


def _idmap(child: Child, tree: int, recursive: bool, ids: str = "container") -> None:
    namespace = child.user_namespace if ids == "container" else child.slots[ids]
    mount_setattr(tree, MOUNT_ATTR_IDMAP, recursive, namespace)


def _idmap_folders(child: Child, paths: list[str]) -> None:
    """Cover folders with idmapped mounts of themselves, for an overlay to be made of (it takes paths, not mounts)."""
    for path in paths:
        tree = open_tree(path, OPEN_TREE_CLONE)
        _idmap(child, tree, recursive=False)
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        move_mount(tree, place)
        os.close(place)
        os.close(tree)


def _private_mounts(child: Child) -> None:
    mount("", "/", "", MS_REC | MS_PRIVATE)


def _pivot_root(child: Child, root: str) -> None:
    # The old root ends up on top of the new one's "." and is detached from there (pivot_root(2), NOTES).
    os.chdir(root)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")


def _mount_on(fd: int, source: str, fstype: str, flags: int, data: str) -> None:
    os.fchdir(fd)
    os.close(fd)
    mount(source, ".", fstype, flags, data)
    os.chdir("/")


def _mount(child: Child, fstype: str, target: str, flags: int, data: str) -> None:
    # The kernel's own file systems go where their names say: an image whose /proc is a symlink is refused.
    _mount_on(_ensure(target, True, RESOLVE_NO_SYMLINKS), fstype, fstype, flags, data)


def _tmpfs(child: Child, target: str, flags: int, data: str) -> None:
    _mount_on(_ensure(target, True), "tmpfs", "tmpfs", flags, data)


def _attach_tree(child: Child, slot: str, target: str) -> None:
    tree = child.slots.pop(slot)
    fd = _ensure(target, stat.S_ISDIR(os.fstat(tree).st_mode))
    move_mount(tree, fd)
    os.close(fd)
    os.close(tree)


def _files(child: Child, files: dict[str, str]) -> None:
    """Small files in memory, each mounted where it belongs. They are made where /proc is about to be mounted."""
    _mount(child, "tmpfs", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=256k")
    for number, (target, text) in enumerate(files.items()):
        path = f"/proc/{number}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        os.write(fd, text.encode())
        os.close(fd)
        child.slots[path] = open_tree(path, OPEN_TREE_CLONE)
        _attach_tree(child, path, target)
    umount("/proc", MNT_DETACH)


def _devices(child: Child, devices: list[tuple[str, int, int]], links: list[tuple[str, str]]) -> None:
    os.umask(0)
    for name, major, minor in devices:
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    os.umask(0o022)
    for name, target in links:
        os.symlink(target, f"/dev/{name}")


def _sysctl(child: Child, key: str, value: str) -> None:
    """Set a kernel parameter of the container's own.

    Those of the network ask for a capability, those of the IPC namespace for its owner (ipc/ipc_sysctl.c).
    """
    owner = child.host_uid(0) if key.startswith(("kernel.", "fs.mqueue.")) else 0
    if owner:
        os.seteuid(owner)
    try:
        operations.perform([operations.write("/proc/sys/" + key.replace(".", "/"), value)])
    finally:
        if owner:
            os.seteuid(0)
            set_file_ids(owner, child.host_gid(0))


def _nodes(child: Child, nodes: list[tuple[str, str, int, int, int, int, int]]) -> None:
    """Device nodes in memory, each to be mounted where it belongs, whatever ``nodev`` mount that is on. They are
    made where /proc is about to be mounted. They have the host's owners, by the container's numbers.
    """
    _mount(child, "tmpfs", "/proc", MS_NOSUID | MS_NOEXEC, "mode=755,size=256k")
    os.umask(0)
    for slot, kind, major, minor, mode, uid, gid in nodes:
        path = f"/proc/{slot}"
        os.mknod(path, mode | (stat.S_IFBLK if kind == "b" else stat.S_IFCHR), os.makedev(major, minor))
        owner, group = outside(child.uid_map, uid), outside(child.gid_map, gid)
        if owner is not None and group is not None:  # else it is left to root of the container
            os.chown(path, owner, group)
        child.slots[slot] = open_tree(path, OPEN_TREE_CLONE)
    os.umask(0o022)
    umount("/proc", MNT_DETACH)


def _mask(child: Child, path: str) -> None:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0k")
    else:
        mount("/dev/null", path, "", MS_BIND)


def _read_only(child: Child, path: str) -> None:
    try:
        mount(path, path, "", MS_BIND | MS_REC)
    except FileNotFoundError:
        return
    mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _read_only_roots(child: Child, targets: list[str]) -> None:
    for target in targets:
        mount("", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV)


def _work(child: Child, path: str) -> None:
    fd = _ensure(path, True)
    os.fchdir(fd)
    os.close(fd)


OPERATIONS: dict[str, Callable[..., None]] = {
    "layers": _layers,
    "overlay": _overlay,
    "open-tree": _open_tree,
    "idmap-folders": _idmap_folders,
    "private-mounts": _private_mounts,
    "pivot-root": _pivot_root,
    "mount": _mount,
    "tmpfs": _tmpfs,
    "attach-tree": _attach_tree,
    "files": _files,
    "devices": _devices,
    "sysctl": _sysctl,
    "nodes": _nodes,
    "mask": _mask,
    "read-only": _read_only,
    "read-only-roots": _read_only_roots,
    "work": _work,
}
