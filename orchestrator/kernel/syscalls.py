"""System calls that Python's standard library does not offer (or not in 3.11), one typed function each.

Every function raises :class:`OSError` with the kernel's errno and, as ``filename``, the path it was about.
Numbers are those of the generic table that x86-64 and aarch64 share for everything added since Linux 5.0
(include/uapi/asm-generic/unistd.h); the few older calls are looked up by machine.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable

# linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_INTO_CGROUP = 0x200000000

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOEXEC = 0x08

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# linux/close_range.h
CLOSE_RANGE_CLOEXEC = 4

# linux/magic.h
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
DEVPTS_SUPER_MAGIC = 0x1CD1
OVERLAYFS_SUPER_MAGIC = 0x794C7630
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/securebits.h
SECBIT_NO_SETUID_FIXUP = 1 << 2

# linux/nsfs.h
_NS_GET_USERNS = 0xB701

# linux/keyctl.h
_KEYCTL_JOIN_SESSION_KEYRING = 1

_BPF = {"x86_64": 321, "aarch64": 280}
# linux/seccomp.h
_SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAGS = {"TSYNC": 1, "LOG": 2, "SPEC_ALLOW": 4}

_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, linux/bpf_common.h
_INSTRUCTION_SIZE = 8  # struct sock_filter, linux/filter.h

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

#: Room for struct statfs. Making a type of ctypes takes 60 us, in every new child anew if it is not made here.
_StatfsBuffer = ctypes.c_char * 256

# PyDLL keeps the GIL across the call: a child that is born in the middle of clone3 must own it.
_gil_libc = ctypes.PyDLL(None, use_errno=True)
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
#: Where a process reads its filter to. It is here since ctypes takes 0.2 ms to make one in a new process.
_filter = (ctypes.c_char * (_MAX_INSTRUCTIONS * _INSTRUCTION_SIZE))()


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
                     "set_tid", "set_tid_size", "cgroup")
    ]  # fmt: skip


def clone3(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Make a child process, as fork does, with ``flags`` (CLONE_NEW...) and a pidfd (clone3(2)).

    The calling process must have one thread only. ``cgroup_fd`` is a descriptor of the v2 cgroup directory
    that the child shall be born in. Returns ``(pid, pidfd)`` in the parent and ``(0, -1)`` in the child.
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=17
    )  # SIGCHLD
    if cgroup_fd is not None:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _gil_libc.syscall(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return pid, pidfd.value


def setns(fd: int, flags: int) -> None:
    """Join the namespaces in ``flags`` of a pidfd, or the one namespace of an nsfs descriptor (setns(2))."""
    _check(_libc.setns(fd, flags))


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones (unshare(2))."""
    _check(_libc.unshare(flags))


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2); ``""`` passes NULL for source, type and data."""
    encoded = [os.fsencode(word) if word else None for word in (source, target, fstype)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), os.fsencode(data) if data else None), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_syscall(_PIVOT_ROOT[os.uname().machine], os.fsencode(new_root), os.fsencode(put_old)), new_root)


def open_tree(path: str, flags: int, directory: int = AT_FDCWD) -> int:
    """A descriptor of a mount, a private copy of it with OPEN_TREE_CLONE (open_tree(2))."""
    fd = _syscall(_SYS_OPEN_TREE, directory, os.fsencode(path), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC))
    return _check(fd, path)


def move_mount(tree: int, target: int) -> None:
    """Attach the detached mount ``tree`` on top of the file or folder that ``target`` is open on."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(_syscall(_SYS_MOVE_MOUNT, tree, b"", target, b"", ctypes.c_uint(flags)))


def mount_setattr(
    tree: int, attributes: int, recursive: bool = False, propagation: int = 0, user_namespace: int = 0
) -> None:
    """Set MOUNT_ATTR_... flags on a mount (mount_setattr(2)).

    :param propagation: MS_SHARED and the like; 0 leaves it.
    :param user_namespace: descriptor of the namespace whose map the mount gets, with MOUNT_ATTR_IDMAP.
    """
    args = struct.pack("QQQQ", attributes, 0, propagation, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(_syscall(_SYS_MOUNT_SETATTR, tree, b"", ctypes.c_uint(flags), args, ctypes.c_size_t(len(args))))


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` with limits on how it may be resolved (openat2(2)); the descriptor is close-on-exec."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return _check(_syscall(_SYS_OPENAT2, directory, os.fsencode(path), how, ctypes.c_size_t(len(how))), path)


def default_signal(number: int) -> None:
    """Let a signal do what it does by default; also 32 and 33, which libc keeps for itself (rt_sigaction(2))."""
    action = bytes(32)  # struct sigaction of the kernel: SIG_DFL, no flags, no mask of 8 bytes
    _check(_syscall(_RT_SIGACTION[os.uname().machine], number, action, None, ctypes.c_size_t(8)))


def close_range(first: int, flags: int = 0) -> None:
    """Close all descriptors from ``first`` on, with CLOSE_RANGE_CLOEXEC only on exec (close_range(2))."""
    _check(_syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(flags)))


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, *(ctypes.c_ulong(word) for word in (argument, second, 0, 0))))


def forbid_tracing() -> None:
    """Let nobody without privileges on the host look into this process, until it execs (PR_SET_DUMPABLE)."""
    prctl(PR_SET_DUMPABLE, 0)


def drop_from_bounding_set(capabilities: Iterable[int]) -> None:
    """Give capabilities, by number, up for this process and all that it execs (PR_CAPBSET_DROP)."""
    call = _libc.prctl  # without :func:`prctl`'s wrapping: this is most of the 30 system calls of a start
    for number in capabilities:
        if call(PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            _check(-1)


def owning_user_namespace(namespace: int) -> int:
    """A descriptor of the user namespace that owns the namespace which ``namespace`` is open on (ioctl_ns(2))."""
    return fcntl.ioctl(namespace, _NS_GET_USERNS)


def set_file_ids(uid: int, gid: int) -> None:
    """Whose the files are that this process makes, as it counts ids (setfsuid(2), setfsgid(2))."""
    _libc.setfsgid(gid)  # both return the old id, and say nothing of errors
    _libc.setfsuid(uid)
    if (_libc.setfsuid(-1), _libc.setfsgid(-1)) != (uid, gid):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def join_session_keyring() -> None:
    """Leave the session keyring that was inherited for a new, empty one (keyctl_join_session_keyring(3))."""
    _check(_syscall(_KEYCTL[os.uname().machine], _KEYCTL_JOIN_SESSION_KEYRING, None, 0, 0, 0))


def load_seccomp_filter(fd: int, flags: int = 0) -> None:
    """Let a BPF program decide about every system call from now on, of whatever is exec'd too (seccomp(2)).

    Needs no_new_privs or CAP_SYS_ADMIN.

    :param fd: a file with the program, ``struct sock_filter``s; its offset, which others may share, stays.
    """
    length = os.preadv(fd, [_filter], 0) // _INSTRUCTION_SIZE
    header = struct.pack("HxxxxxxP", length, ctypes.addressof(_filter))  # struct sock_fprog
    _check(_syscall(_SECCOMP[os.uname().machine], _SECCOMP_SET_MODE_FILTER, ctypes.c_uint(flags), header))


def set_name(name: str) -> None:
    """The name that ps shows for this process, at most 15 bytes (PR_SET_NAME)."""
    _check(_libc.prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capability sets, as bit masks (capset(2), version 3)."""
    low = 0xFFFFFFFF
    sets = (effective, permitted, inheritable)
    data = struct.pack("6I", *(s & low for s in sets), *(s >> 32 for s in sets))
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.capset(header, data))


def permitted_capabilities() -> int:
    """The calling thread's permitted set, as a bit mask (capget(2), version 3)."""
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(struct.pack("Ii", 0x20080522, 0), data))
    sets = struct.unpack("6I", data.raw)
    return int(sets[1] | sets[4] << 32)


def statfs_type(fd: int) -> int:
    """The magic number of the file system that ``fd`` is on (fstatfs(2))."""
    buffer = _StatfsBuffer()
    _check(_libc.fstatfs(fd, buffer))
    return int(struct.unpack_from("l", buffer)[0])


def bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2): the result, a descriptor or 0, and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _syscall(_BPF[os.uname().machine], command, buffer, ctypes.c_uint(len(attributes)))
    return _check(result), buffer.raw
