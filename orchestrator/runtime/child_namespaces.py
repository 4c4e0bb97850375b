"""What a child does about its namespaces: make them, join another's, and go into its user namespace last.

A child stays root of the host until its files are in place, since only that one may mount them, make device nodes and
join cgroups. So the container's user namespace, and all that it owns, is made by a *holder*: a process that exists
for a moment only. The child joins what the holder has made but for the user namespace, whose root it becomes at the
end (:func:`_enter_user_namespace`); all mounts are then copied into a mount namespace that the user namespace owns, and
the kernel locks them: no mask can be taken off, no read-only mount made writable (mount_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
from collections.abc import Callable

from orchestrator.kernel.syscalls import (
    AT_EMPTY_PATH,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLOSE_RANGE_CLOEXEC,
    OPEN_TREE_CLONE,
    PR_SET_PDEATHSIG,
    PR_SET_SECUREBITS,
    RESOLVE_NO_SYMLINKS,
    SECBIT_NO_SETUID_FIXUP,
    clone3,
    close_range,
    forbid_tracing,
    open_tree,
    owning_user_namespace,
    prctl,
    set_file_ids,
    setns,
    unshare,
)
from orchestrator.runtime.accounts import find_account
from orchestrator.runtime.child import Child
from orchestrator.runtime.child_paths import open_beneath
from orchestrator.runtime.idmap import IdMap, for_owner, render
from orchestrator.runtime.protocol import send

#: Seconds that a holder may take.
_PATIENCE = 10
_FLAGS = {
    "mnt": CLONE_NEWNS,
    "net": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
    "user": CLONE_NEWUSER,
}


def _proc_folder(pidfd: int) -> str:
    """A process's folder in the host's /proc, which counts processes as the host does (proc_pid_fdinfo(5))."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return "/proc/" + text.partition(b"\nPid:")[2].split(maxsplit=1)[0].decode()


class Holder:
    """A process that has namespaces of its own and waits to be killed.

    Most are made by clone3(2) itself, so that nobody waits until the holder has its turn: it need not run at all. Only
    within a user namespace that is there already, and for clocks, it must do so itself.

    :param flags: what to make, CLONE_NEW...
    :param user_namespace: in this one; -1 for the host's, or for a new one if ``flags`` say so.
    """

    def __init__(self, flags: int, user_namespace: int = -1) -> None:
        itself = flags if user_namespace >= 0 else flags & CLONE_NEWTIME
        reader, writer = os.pipe2(os.O_CLOEXEC) if itself else (-1, -1)
        parent = os.getpid()
        pid, self._pidfd = clone3(flags & ~itself)
        if pid == 0:
            self._hold(parent, writer, itself, user_namespace)
        self._proc = _proc_folder(self._pidfd)
        if itself:
            os.close(writer)
            self._await(reader)

    def _await(self, reader: int) -> None:
        waiting = select.poll()
        waiting.register(reader, select.POLLIN)
        # Whoever shares the pid namespace may be able to stop it.
        data = os.read(reader, 4) if waiting.poll(_PATIENCE * 1000) else struct.pack("i", errno.ETIMEDOUT)
        os.close(reader)
        error = struct.unpack("i", data)[0] if data else 0
        if error or not data:
            self.end()
            raise OSError(error, os.strerror(error) if error else "the holder of the namespaces was killed")

    @staticmethod
    def _hold(parent: int, writer: int, flags: int, user_namespace: int) -> None:
        try:
            if user_namespace >= 0:
                setns(user_namespace, CLONE_NEWUSER)
            keep = os.dup2(writer, 3) if flags else 2
            close_range(keep + 1)  # it shall hold nothing open that others wait for the end of
            if flags:
                unshare(flags)
                os.write(keep, struct.pack("i", 0))
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after unshare(2), which clears it
            if os.getppid() == parent:  # who may have died before that
                signal.pause()
        except OSError as error:
            os.write(3, struct.pack("i", error.errno))
        finally:
            os._exit(0)

    def map_ids(self, uid: str, gid: str) -> None:
        """Say which ids its user namespace has; only a process outside of it may."""
        self.write("uid_map", uid)
        self.write("gid_map", gid)

    def write(self, name: str, text: str) -> None:
        """Write to one of its files in /proc."""
        fd = os.open(f"{self._proc}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def open(self, namespace: str) -> int:
        """A descriptor of one of its namespaces."""
        return os.open(f"{self._proc}/ns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)

    def lend(self, flags: int) -> None:
        """Join those of its namespaces."""
        setns(self._pidfd, flags)

    def dismiss(self) -> int:
        """Let it end, and do not wait for that; :func:`_reap` must follow, with what this returns."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        return self._pidfd

    def end(self) -> None:
        """Let it end."""
        _reap(self.dismiss())


def _reap(pidfd: int) -> None:
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)


def _namespaces(
    child: Child, kinds: list[str], maps: tuple[str, str] | None, offsets: str, give: bool
) -> None:
    """Make namespaces of these kinds and join them, owned by the container's user namespace.

    :param maps: of a new user namespace; None: the one at hand, or the host's.
    :param offsets: of a new time namespace's clocks.
    :param give: whether the service shall get the new network namespace.
    """
    flags = sum(_FLAGS[kind] for kind in kinds)
    holder = Holder(flags | (CLONE_NEWUSER if maps else 0), child.user_namespace)
    if maps:
        holder.map_ids(*maps)
        child.user_namespace = holder.open("user")
    if offsets:
        holder.write("timens_offsets", offsets)
    if joined := flags & ~CLONE_NEWTIME:
        holder.lend(joined)
    if "time" in kinds:
        # Whoever makes a time namespace is not in it; its children would be (time_namespaces(7)).
        clock = holder.open("time_for_children")
        setns(clock, CLONE_NEWTIME)
        os.close(clock)
    if give:
        network = holder.open("net")
        send(child.status, {"netns": True}, [network])
        os.close(network)
    child.zombies.append(holder.dismiss())


def _shared_memory_of(child: Child, slot: str) -> None:
    """Take the /dev/shm of a process (a pidfd), to be mounted in this container as well."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(child.slots[slot], CLONE_NEWNS)
    try:
        source = open_beneath("/dev/shm", os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
        child.slots["shm"] = open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH, source)
        os.close(source)
    finally:
        setns(own, CLONE_NEWNS)
        os.close(own)


def _owner(child: Child, slot: str) -> None:
    """The container's user namespace is the one that owns the namespace ``slot``."""
    child.user_namespace = owning_user_namespace(child.slots[slot])


def _user_namespace_of(child: Child, slot: str) -> None:
    """The container's user namespace is that of the process ``slot`` (a pidfd)."""
    child.user_namespace = os.open(f"{_proc_folder(child.slots[slot])}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _mount_map(child: Child, slot: str, root: str, user: str, uid: int, gid: int) -> None:
    """A user namespace that no process is ever in: its map is for mounts, on which ``user``'s files are ``uid``'s.

    :param root: the container's root, where its accounts are.
    """
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        account = find_account(place, user)
    finally:
        os.close(place)
    child.host_uid(account.uid), child.host_gid(account.gid)  # says so if there is none
    holder = Holder(CLONE_NEWUSER)
    holder.map_ids(
        render(for_owner(child.uid_map, account.uid, uid)), render(for_owner(child.gid_map, account.gid, gid))
    )
    child.slots[slot] = holder.open("user")
    child.zombies.append(holder.dismiss())


def _act_as(child: Child, uid: IdMap, gid: IdMap) -> None:
    """What this process makes from now on belongs to root of the container, while it stays root of the host.

    ``uid`` and ``gid`` are its user namespace's maps.
    """
    child.uid_map, child.gid_map = uid, gid
    prctl(
        PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP
    )  # or it would lose its power over files (capabilities(7))
    set_file_ids(child.host_uid(0), child.host_gid(0))


def _unshare_cgroup(child: Child) -> None:
    # Only now: the root of a cgroup namespace is the group its creator is in (cgroup_namespaces(7)).
    unshare(CLONE_NEWCGROUP)


def _join(child: Child, slot: str, kinds: list[str]) -> None:
    """Join namespaces of these kinds: a process's, by its pidfd, or the one that ``slot`` is open on."""
    setns(child.slots[slot], sum(_FLAGS[kind] for kind in kinds))
    if "mnt" in kinds:
        os.chdir("/")


def _enter_user_namespace(child: Child, lock: bool) -> None:
    """Become root of the user namespace at hand.

    :param lock: into a copy of all mounts, which are then locked.
    """
    setns(child.user_namespace, CLONE_NEWUSER)
    if lock:
        unshare(CLONE_NEWNS)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _tidy(child: Child) -> None:
    """Leave nothing behind of how the container was made: no zombie and no descriptor.

    Every descriptor is close-on-exec already; one that is not would be a way out (CVE-2024-21626).
    """
    close_range(3, CLOSE_RANGE_CLOEXEC)
    forbid_tracing()  # again: to become another user may have undone it (fs.suid_dumpable, proc_sys_fs(5))
    for pidfd in child.zombies:
        _reap(pidfd)
    child.zombies.clear()


OPERATIONS: dict[str, Callable[..., None]] = {
    "namespaces": _namespaces,
    "shared-memory-of": _shared_memory_of,
    "owner": _owner,
    "user-namespace-of": _user_namespace_of,
    "mount-map": _mount_map,
    "act-as": _act_as,
    "unshare-cgroup": _unshare_cgroup,
    "join": _join,
    "enter-user-namespace": _enter_user_namespace,
    "tidy": _tidy,
}
