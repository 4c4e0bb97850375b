"""A host of one's own: the test process moves into fresh network, mount, process and cgroup namespaces.

    pytest as started            waits, removes the cgroups, hands the exit status on
      └─ init  (pid 1)           reaps orphans; when it ends the kernel kills all that is left
           └─ pytest (pid 2)     goes on where it was, in the same call

So no test can touch the host's interfaces, firewall, mounts or cgroups; orphans are reaped as on a real
host, so a zombie is always the doing of its parent; every process in /proc belongs to the tests; several
runs at the same time do not see each other; and nothing outlives a run, not even one that is killed (but for
its empty cgroups).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from support.waiting import DeadlineError, wait_until

# sched.h, mount.h, prctl.h, sockios.h, if.h
CLONE_NEWNS, CLONE_NEWCGROUP = 0x00020000, 0x02000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 0x1000, 0x2000, 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1

_libc = ctypes.CDLL(None, use_errno=True)
_entered = False


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    words = (source.encode(), target.encode(), kind.encode())
    _call("mount", *words, ctypes.c_ulong(flags), data.encode() or None)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _call("umount2", target.encode(), flags)


def entered() -> bool:
    """Whether this process is in the sandbox."""
    return _entered


def enter() -> None:
    """Move this process into the sandbox; once is enough, further calls do nothing.

    Must be called before the process has a second thread, for only the calling one moves.

    :raises OSError: when the kernel refuses (not root, or no such namespaces).
    """
    global _entered
    if _entered:
        return
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        raise RuntimeError(f"the sandbox must be entered before any thread is started, found {others}")
    sys.stdout.flush()
    sys.stderr.flush()
    hierarchies = cgroup_hierarchies()
    folders = _make_cgroups(hierarchies)
    _call("unshare", CLONE_NEWPID)
    _continue_in_child(folders)  # the first child of a new pid namespace is its init
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _enter_cgroups(hierarchies, folders)
    _call("unshare", CLONE_NEWNS | CLONE_NEWNET)
    _make_mounts(hierarchies, folders)
    _loopback_up()
    _continue_in_child()
    _entered = True


def _continue_in_child(cgroups: list[str] | None = None) -> None:
    """Return in a new child; the caller reaps until that child ends, and ends the same way.

    :param cgroups: what the caller, being the outermost process, has to remove in the end.
    """
    alarm = signal.setitimer(signal.ITIMER_REAL, 0)  # a test's time-out, which a fork does not inherit
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_REAL, *alarm)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the tests as well
    if cgroups is not None:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    for folder in cgroups or ():
        _remove_cgroup(folder)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy.

    :param point: its mount point.
    :param kind: ``unified``, or the v1 controllers (``cpu,cpuacct``, ``name=systemd``).
    :param own: the folder of the cgroup in which this process is.
    """

    point: str
    kind: str
    own: str


def cgroup_hierarchies() -> list[Hierarchy]:
    """Every mounted hierarchy."""
    own = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, kind, path = line.rstrip("\n").split(":", 2)
            own[kind or "unified"] = path
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            root, point = left.split()[3:5]
            filesystem, _, options = right.split()[:3]
            if filesystem not in ("cgroup", "cgroup2"):
                continue
            words = set(options.split(","))
            kinds = (kind for kind in own if set(kind.split(",")) <= words)
            kind = "unified" if filesystem == "cgroup2" else next(kinds)
            path = os.path.relpath(own[kind], root)
            found.append(Hierarchy(point, kind, os.path.normpath(os.path.join(point, path))))
    return found


def _make_cgroups(hierarchies: list[Hierarchy]) -> list[str]:
    """One new cgroup in each hierarchy, which the sandbox will take for the hierarchy's root.

    On v1 it is beneath our own, whose limits go on to apply. On v2 a cgroup that has processes cannot have
    children with controllers, so there it is at the top.
    """
    folders = []
    for hierarchy in hierarchies:
        unified = hierarchy.kind == "unified"
        parent = hierarchy.point if unified else hierarchy.own
        folder = f"{parent}/orch-sandbox-{os.getpid()}"
        os.mkdir(folder)
        folders.append(folder)
        if unified:
            os.mkdir(f"{folder}/tests")
            for controller in _read(f"{parent}/cgroup.controllers").split():
                with contextlib.suppress(OSError):  # not every controller can be enabled everywhere
                    _write(f"{parent}/cgroup.subtree_control", f"+{controller}")
        if "cpuset" in hierarchy.kind.split(","):  # empty in a new cgroup, which then can have no process
            for name in ("cpuset.cpus", "cpuset.mems"):
                _write(f"{folder}/{name}", _read(f"{parent}/{name}"))
    return folders


def _enter_cgroups(hierarchies: list[Hierarchy], folders: list[str]) -> None:
    """Move in and make each folder the root of what /proc/self/cgroup and mounts show."""
    for folder in folders:
        _write(f"{folder}/cgroup.procs", "0")
    _call("unshare", CLONE_NEWCGROUP)
    for hierarchy, folder in zip(hierarchies, folders, strict=True):
        if hierarchy.kind == "unified":
            _write(f"{folder}/tests/cgroup.procs", "0")


def _remove_cgroup(folder: str) -> None:
    def gone() -> bool:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):  # a process is not quite dead
                os.rmdir(path)
        return not os.path.exists(folder)

    try:
        wait_until(f"{folder} is removed", gone, timeout=5)
    except DeadlineError as error:
        print(error, file=sys.stderr)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _make_mounts(hierarchies: list[Hierarchy], folders: list[str]) -> None:
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", "/proc", "proc", safe)  # of the new pid namespace
    for hierarchy, folder in zip(hierarchies, folders, strict=True):
        with _staging() as staging:
            mount(folder, staging, "", MS_BIND)
            _replace(hierarchy.point, staging)
    # sysfs shows the network namespace of its mounter: mount one anew, and keep what is mounted on it.
    with _staging() as staging:
        mount("sysfs", staging, "sysfs", safe)
        for point in _mounted_on("/sys"):
            mount(point, staging + point.removeprefix("/sys"), "", MS_MOVE)
        _replace("/sys", staging)


@contextlib.contextmanager
def _staging() -> Iterator[str]:
    """A folder to mount on before the mount is moved to its place."""
    folder = tempfile.mkdtemp()
    yield folder
    os.rmdir(folder)


def _replace(point: str, staging: str) -> None:
    """The mount at ``staging`` takes the place of the one at ``point``: covering it would show both."""
    umount(point, MNT_DETACH)
    mount(staging, point, "", MS_MOVE)


def _mounted_on(path: str) -> list[str]:
    """The mount points directly on the (topmost) mount at ``path``."""
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    top = [row[0] for row in rows if row[4] == path][-1]
    return [row[4] for row in rows if row[1] == top and row[4] != path]


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
