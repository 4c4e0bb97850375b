"""What a child does about files: layers, pivot_root, mounts, devices, masks.

Sources on the host are opened *before* pivot_root; targets are resolved only *after* it, when the host's files are
out of reach, and beneath the new root (``child_paths``).
"""

from __future__ import annotations

import os
import stat
from binascii import a2b_base64
from collections.abc import Callable

from orchestrator.kernel import operations
from orchestrator.kernel.syscalls import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
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
    RESOLVE_BENEATH,
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
from orchestrator.runtime.child import Child, Refused
from orchestrator.runtime.child_paths import ensure, open_beneath, place
from orchestrator.runtime.idmap import outside

_CGROUPS = "/sys/fs/cgroup"
_NULL = os.makedev(1, 3)


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
    options = _labelled(child, f"lowerdir={lowers},upperdir={escape(upper)},workdir={escape(work)}")
    if child.root < 0:
        mount("overlay", target, "overlay", MS_NODEV, options)
        child.root, child.root_path = os.open(target, os.O_PATH | os.O_CLOEXEC), target
        return
    # An upper folder that a container had before may have a link in this place by now.
    inner = target.removeprefix(child.root_path + "/")
    fd = openat2(child.root, inner, os.O_PATH | os.O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    _mount_on(fd, "overlay", "overlay", MS_NODEV, options)


def _labelled(child: Child, options: str) -> str:
    """Mount options, with the container's SELinux context if it has one (``context=`` of mount(8)).

    Everything in the file system then has this context, whatever label it is stored with. The quotes are for
    the comma between categories.
    """
    return f'{options},context="{child.files_context}"' if child.files_context else options


def _private_mounts(child: Child) -> None:
    mount("", "/", "", MS_REC | MS_PRIVATE)


def _pivot_root(child: Child, root: str) -> None:
    # The old root ends up on top of the new one's "." and is detached from there (pivot_root(2), NOTES).
    os.chdir(root)
    if child.root >= 0:
        os.close(child.root)
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
    if fstype in ("tmpfs", "ramfs", "devpts"):
        data = _labelled(child, data)
    _mount_on(ensure(target, True, RESOLVE_NO_SYMLINKS), fstype, fstype, flags, data)
    if fstype == "mqueue" and child.files_context:  # whose mount takes no context in a user namespace
        os.setxattr(target, "security.selinux", child.files_context.encode() + b"\0")


def _tmpfs(child: Child, target: str, flags: int, data: str, uid: int, gid: int) -> None:
    owner = f"uid={child.host_uid(uid)},gid={child.host_gid(gid)}"
    _mount_on(place(target, True), "tmpfs", "tmpfs", flags, _labelled(child, f"{data},{owner}"))


def _attach_tree(child: Child, slot: str, target: str) -> None:
    tree = child.slots.pop(slot)
    info = os.fstat(tree)
    fd = place(target, stat.S_ISDIR(info.st_mode))
    move_mount(tree, fd)
    child.attached[target] = info.st_dev, info.st_ino
    os.close(fd)
    os.close(tree)


def _files(child: Child, files: list[str], read_only: bool) -> None:
    """Small files of the container's own, as slots file0, file1, ..."""
    _mount(child, "tmpfs", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=256k")
    owner = child.host_uid(0), child.host_gid(0)
    for number, text in enumerate(files):
        _file(child, f"file{number}", text.encode(), owner, 0o644, read_only)
    umount("/proc", MNT_DETACH)


def _secrets(child: Child, files: list[tuple[str, int, int, int]]) -> None:
    """Secrets and configs, as slots secret0, ...: in a ramfs, whose pages are never swapped out (tmpfs.rst)."""
    _mount(child, "ramfs", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
    for number, (content, uid, gid, mode) in enumerate(files):
        owner = child.host_uid(uid), child.host_gid(gid)
        _file(child, f"secret{number}", a2b_base64(content), owner, mode, True)
    umount("/proc", MNT_DETACH)


def _file(
    child: Child, slot: str, content: bytes, owner: tuple[int, int], mode: int, read_only: bool
) -> None:
    """One file in what is mounted on /proc just now, as a mount of its own.

    Before Linux 6.15 a mount can only be cloned while it is attached somewhere, and /proc is about to be covered.
    """
    path = f"/proc/{slot}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    while content:
        content = content[os.write(fd, content) :]
    os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    os.close(fd)
    child.slots[slot] = tree = open_tree(path, OPEN_TREE_CLONE)
    if read_only:
        mount_setattr(tree, MOUNT_ATTR_RDONLY)


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


def _cgroups(child: Child, names: list[str], links: list[tuple[str, str]]) -> None:
    """The container's own cgroups (slots cgroup0, ...), read-only, where programs look for them.

    One without a name is all there is (v2); otherwise each has its folder, as on a v1 host.
    """
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    if names != [""]:
        _mount(child, "tmpfs", _CGROUPS, flags & ~MS_RDONLY, "mode=755,size=64k")
    for number, name in enumerate(names):
        path = f"{_CGROUPS}/{name}"
        if name:
            os.mkdir(path, 0o755)
        tree = child.slots.pop(f"cgroup{number}")
        mount_setattr(tree, attributes)
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # the kernel's, or just made: no links
        move_mount(tree, fd)
        os.close(fd)
        os.close(tree)
    for link, name in links:
        os.symlink(name, f"{_CGROUPS}/{link}")
    if names != [""]:
        mount("", _CGROUPS, "", MS_REMOUNT | MS_BIND | flags)


def _mask(child: Child, path: str) -> None:
    """Hide one of the kernel's own files, while nothing is mounted but these: no link can lead astray."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        mount("tmpfs", path, "tmpfs", flags, _labelled(child, "size=0k"))
    else:
        mount("/dev/null", path, "", MS_BIND)


def _hide(child: Child, path: str) -> None:
    """Hide a path that the manifest names, wherever the image has it. What is not there need not be hidden."""
    try:
        fd = open_beneath(path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        _mount_on(fd, "tmpfs", "tmpfs", flags, _labelled(child, "size=0k"))
        return
    # A volume on /dev may have put something else in its place (CVE-2025-31133).
    null = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    info = os.fstat(null)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != _NULL:
        raise Refused("/dev/null, which hides files, has been replaced by a mount")
    tree = open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH, null)
    move_mount(tree, fd)
    for each in (null, tree, fd):
        os.close(each)


def _read_only(child: Child, path: str) -> None:
    """Forbid to write to one of the kernel's own files; ``place`` sees to it that nothing covers them."""
    try:
        mount(path, path, "", MS_BIND | MS_REC)
    except FileNotFoundError:
        return
    mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _write_protect(child: Child, path: str) -> None:
    """Make a path that the manifest names read-only, with all that is mounted in it."""
    try:
        fd = open_beneath(path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    tree = open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE, fd)
    mount_setattr(tree, MOUNT_ATTR_RDONLY, recursive=True)
    move_mount(tree, fd)
    os.close(tree)
    os.close(fd)


def _read_only_roots(child: Child, targets: list[str]) -> None:
    for target in targets:
        fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        mount_setattr(fd, MOUNT_ATTR_RDONLY)
        os.close(fd)


def _work(child: Child, path: str) -> None:
    fd = ensure(path, True)
    os.fchdir(fd)
    os.close(fd)


OPERATIONS: dict[str, Callable[..., None]] = {
    "layers": _layers,
    "overlay": _overlay,
    "private-mounts": _private_mounts,
    "pivot-root": _pivot_root,
    "mount": _mount,
    "tmpfs": _tmpfs,
    "attach-tree": _attach_tree,
    "files": _files,
    "secrets": _secrets,
    "devices": _devices,
    "sysctl": _sysctl,
    "nodes": _nodes,
    "cgroups": _cgroups,
    "mask": _mask,
    "hide": _hide,
    "read-only": _read_only,
    "write-protect": _write_protect,
    "read-only-roots": _read_only_roots,
    "work": _work,
}
