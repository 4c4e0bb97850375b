"""The new process, from clone3 to execve.

It performs its launch program, one operation after the other, and then is the container's program. Whatever
fails is reported whole (which operation, errno, path) over a socket that closes on exec; see ``protocol``.

Every path is resolved where it cannot lead out: sources on the host are opened *before* pivot_root, targets
only *after* it, when the host's files are out of reach, and beneath the new root (RESOLVE_IN_ROOT).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import sys
import termios
import time
from collections.abc import Callable
from typing import Any, NoReturn

from orchestrator.kernel import operations
from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import (
    AT_RECURSIVE,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    MNT_DETACH,
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
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    capset,
    close_range,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
    pivot_root,
    prctl,
    set_name,
    setns,
    statfs_type,
    umount,
    unshare,
)
from orchestrator.runtime.protocol import send

_DEVPTS_SUPER_MAGIC = 0x1CD1  # linux/magic.h
_PTMX_DEVICE = os.makedev(5, 2)
_MAX_ACCOUNTS_FILE = 1 << 20
#: Names of setrlimit(2)'s resources, in the order of their numbers (asm-generic/resource.h).
_LIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip
_MAX_LINKS = 40  # as the kernel has it (path_resolution(7))


class Refused(Exception):
    """An operation cannot be done for a reason that has no errno; ``status`` is the exit code it means."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status = status


class Child:
    """The state that operations of one program share."""

    def __init__(self, status: socket.socket, ready: int, slots: dict[str, int]) -> None:
        self.status = status
        self.ready = ready
        self.slots = slots
        self.environment: dict[str, str] = {}
        self.user = (0, 0)
        self.stages: list[tuple[str, float]] = []
        self.mark = time.perf_counter()

    def run(self, program: list[Operation]) -> NoReturn:
        """Perform the program; its last operation execs. Never returns."""
        # An import after pivot_root would run what the image has in that place; so would a codec's name.
        sys.meta_path.clear()
        index = 0
        failure: dict[str, Any]
        try:
            for index, (name, *arguments) in enumerate(program):
                OPERATIONS[name](self, *arguments)
            failure = {"text": "the launch program does not end in exec", "status": 125}
        except OSError as error:
            failure = {"errno": error.errno, "text": error.strerror, "path": error.filename, "status": 125}
            if program[index][0] == "exec":
                failure["status"] = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
        except Refused as error:
            failure = {"text": str(error), "status": error.status}
        except BaseException as error:  # whatever it is, it must reach the user
            failure = {"text": f"{type(error).__name__}: {error}", "status": 125}
        send(self.status, {"error": {"operation": index, **failure}})
        os._exit(failure["status"])


def _stage(child: Child, name: str) -> None:
    now = time.perf_counter()
    child.stages.append((name, now - child.mark))
    child.mark = now


def _die_with_parent(child: Child) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _private_mounts(child: Child) -> None:
    mount("", "/", "", MS_REC | MS_PRIVATE)


def _unshare_cgroup(child: Child) -> None:
    # Only now: the root of a cgroup namespace is the group its creator is in (cgroup_namespaces(7)).
    unshare(CLONE_NEWCGROUP)


def _join(child: Child, slot: str, what: str) -> None:
    if what == "net":
        setns(child.slots[slot], CLONE_NEWNET)
    else:  # all of a container's namespaces; its pid namespace the child was born in
        prctl(PR_SET_DUMPABLE, 0)  # nobody in there may look into this process before it has exec'd
        setns(child.slots[slot], CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP)
        os.chdir("/")


def _hostname(child: Child, name: str) -> None:
    socket.sethostname(name)


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


def _open_tree(child: Child, slot: str, path: str, recursive: bool, read_only: bool) -> None:
    recurse = AT_RECURSIVE if recursive else 0
    tree = open_tree(path, OPEN_TREE_CLONE | recurse)
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if read_only else 0)
    mount_setattr(tree, attributes, recursive)
    child.slots[slot] = tree


def _pivot_root(child: Child, root: str) -> None:
    # The old root ends up on top of the new one's "." and is detached from there (pivot_root(2), NOTES).
    os.chdir(root)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")


def _open_beneath(path: str, flags: int, resolve: int = 0) -> int:
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
        return _open_beneath(path, os.O_PATH | (os.O_DIRECTORY if folder else 0), resolve)
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


def _wait(child: Child) -> None:
    # One byte: the network is there. End of file: whoever would have sent it is gone.
    if not os.read(child.ready, 1):
        raise Refused("the service went away before the network was ready")


def _limit(child: Child, name: str, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(_LIMITS.index(name), (soft, hard))
    except ValueError as error:  # how setrlimit reports EPERM and EINVAL
        raise Refused(
            f"{error} (asked for {soft}:{hard}; raising a hard limit needs CAP_SYS_RESOURCE)"
        ) from None


def _environment(child: Child, environment: dict[str, str]) -> None:
    child.environment = environment


def _work(child: Child, path: str) -> None:
    fd = _ensure(path, True)
    os.fchdir(fd)
    os.close(fd)


def _accounts(path: str) -> list[list[str]]:
    try:
        fd = _open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        data = os.read(fd, _MAX_ACCOUNTS_FILE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    return [line.split(":") for line in data.decode("utf-8", "replace").splitlines()]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) < 2**32 - 1 else None


def _user(child: Child, user: str, terminal: bool) -> None:
    """``user[:group]``, names or numbers, as the container's own /etc/passwd and /etc/group know them."""
    name, _, group = user.partition(":")
    passwd = [row for row in _accounts("/etc/passwd") if len(row) >= 6]
    rows = [row for row in passwd if name in (row[0], row[2])]
    uid = _number(rows[0][2] if rows else name)
    if uid is None:
        raise Refused(f'user "{name}" is not in the container\'s /etc/passwd', 126)
    gid = _number(rows[0][3]) if rows else 0
    groups: list[int] = []
    known = [row for row in _accounts("/etc/group") if len(row) >= 3]
    if group:
        matches = [row[2] for row in known if group in (row[0], row[2])]
        gid = _number(matches[0] if matches else group)
        if gid is None:
            raise Refused(f'group "{group}" is not in the container\'s /etc/group', 126)
    elif rows:
        member = [_number(row[2]) for row in known if len(row) >= 4 and rows[0][0] in row[3].split(",")]
        groups = [number for number in member if number is not None]
    child.environment.setdefault("HOME", rows[0][5] if rows and rows[0][5] else "/")
    child.user = (uid, gid or 0)
    # The program may reopen its own output (/dev/stdout), so the pipes are its own.
    for fd in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(fd).st_mode) or terminal:
            os.fchown(fd, uid, -1)
    os.setgroups([gid or 0, *groups])
    os.setresgid(child.user[1], child.user[1], child.user[1])


def _adopt(child: Child, target: str) -> None:
    """A volume that is new (empty, root's) belongs to the user of the first container that mounts it."""
    fd = _open_beneath(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        info = os.fstat(fd)
        if child.user != (0, 0) and (info.st_uid, info.st_gid) == (0, 0) and not os.listdir(fd):
            os.fchown(fd, *child.user)
    finally:
        os.close(fd)


def _privileges(child: Child, capabilities: int, last: int) -> None:
    """Become the user, with at most ``capabilities`` (a bit mask) now and ever after."""
    for number in range(last + 1):
        if not capabilities >> number & 1:
            prctl(PR_CAPBSET_DROP, number)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    uid = child.user[0]
    os.setresuid(uid, uid, uid)
    held = 0 if uid else capabilities
    capset(held, held, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _terminal(child: Child, rows: int, columns: int) -> None:
    """Make a terminal in the container's own devpts, hand its master end out, and sit on the other end."""
    master = _open_beneath("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, RESOLVE_NO_SYMLINKS)
    if os.fstat(master).st_rdev != _PTMX_DEVICE or statfs_type(master) != _DEVPTS_SUPER_MAGIC:
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


def _retitle(title: str) -> None:
    """Be seen as ``title``: a container shall not read the host's paths in its pid 1's command line."""
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
    _retitle("init")
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
    _stage(child, "exec")
    send(child.status, {"stages": child.stages})
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


def _plain(name: str) -> Callable[..., None]:
    function = operations.PERFORM[name]
    return lambda _child, *arguments: function(*arguments)


OPERATIONS: dict[str, Callable[..., None]] = {
    **{name: _plain(name) for name in operations.PERFORM},
    "stage": _stage,
    "die-with-parent": _die_with_parent,
    "private-mounts": _private_mounts,
    "unshare-cgroup": _unshare_cgroup,
    "join": _join,
    "hostname": _hostname,
    "layers": _layers,
    "files": _files,
    "overlay": _overlay,
    "open-tree": _open_tree,
    "pivot-root": _pivot_root,
    "mount": _mount,
    "tmpfs": _tmpfs,
    "attach-tree": _attach_tree,
    "devices": _devices,
    "mask": _mask,
    "read-only": _read_only,
    "read-only-roots": _read_only_roots,
    "wait": _wait,
    "limit": _limit,
    "environment": _environment,
    "work": _work,
    "user": _user,
    "adopt": _adopt,
    "privileges": _privileges,
    "terminal": _terminal,
    "init": _init,
    "exec": _exec,
}
