"""The spawner: the one process that forks, and the parent of every container.

It is freshly exec'd by the service, has one thread, imports next to nothing, and decides nothing: it clones
what it is told to (see ``protocol``), reports, and reaps. When the service goes away it kills all its
children and becomes the sweeper (``argv`` after ``--``), which removes what they leave behind.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from orchestrator.kernel import netlink as _loaded_for_children  # noqa: F401 - they cannot: they have pivoted
from orchestrator.kernel.operations import Operation, perform
from orchestrator.kernel.syscalls import (
    CLONE_NEWPID,
    PR_SET_CHILD_SUBREAPER,
    clone3,
    default_signal,
    forbid_tracing,
    prctl,
    setns,
)
from orchestrator.runtime.child import Child
from orchestrator.runtime.child_operations import OPERATIONS
from orchestrator.runtime.child_program import retitle
from orchestrator.runtime.protocol import Message, last_words, receive, send, share_words

_STDIO = ("stdin", "stdout", "stderr")
_CHILD_SIGNALS = (
    signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD,
)  # fmt: skip
#: Seconds that killed children may take to die before the sweeper comes for their cgroups.
_PATIENCE = 5.0


class _Process:
    """One child that has not been reaped yet."""

    def __init__(self, id: str, pid: int, pidfd: int, status: socket.socket, words: mmap.mmap) -> None:
        self.id = id
        self.pid = pid
        self.pidfd = pidfd
        self.status: socket.socket | None = status
        self.words = words


class _Plumbing:
    """The descriptors of one launch: ours (which the service gets), and the child's.

    :param stdio: what the child has as 0, 1 and 2 unless pipes are made for them.
    """

    def __init__(self, stdio: list[int]) -> None:
        self.stdio = stdio
        self.ready = -1
        self.cgroup: int | None = None
        self.give: dict[str, int] = {}
        self.status: socket.socket | None = None
        self.child_status: socket.socket | None = None
        self.words: mmap.mmap
        self._childs: list[int] = []

    def open(
        self, give: list[str], cgroup: str | None, prepare: list[Operation], fifos: tuple[str, str] | None
    ) -> None:
        """Prepare for the clone, and make what is needed for it.

        :raises OSError: what was made until then is there to be closed.
        """
        perform(prepare)
        self.words = share_words()
        if cgroup is not None:
            self.cgroup = os.open(cgroup, os.O_RDONLY | os.O_CLOEXEC)
            self._childs.append(self.cgroup)
        self.status, self.child_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for name in give:
            if name == "netns":
                continue  # it comes with the child
            reader, writer = _labelled_pipe(*fifos) if fifos and name in _STDIO else os.pipe2(os.O_CLOEXEC)
            self.give[name], its = (writer, reader) if name in ("stdin", "ready") else (reader, writer)
            self._childs.append(its)
            if name == "ready":
                self.ready = its
            else:
                self.stdio[_STDIO.index(name)] = its

    def add_netns(self, pid: int) -> None:
        """Take the child's network namespace in; a child that is dead already says why by itself."""
        with contextlib.suppress(OSError):
            self.give["netns"] = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def take_status(self) -> socket.socket:
        """Our end of the status socket, now the caller's."""
        assert self.status is not None
        status, self.status = self.status, None
        return status

    def close_ours(self) -> None:
        """Close our ends."""
        for fd in self.give.values():
            os.close(fd)
        if self.status:
            self.status.close()

    def close_childs(self) -> None:
        """Close the child's ends."""
        for fd in self._childs:
            os.close(fd)
        if self.child_status:
            self.child_status.close()


def _labelled_pipe(folder: str, context: str) -> tuple[int, int]:
    """A pipe with an SELinux context: pipe(2)'s has that of its maker, for ever, and no container may use it."""
    path = f"{folder}/pipe-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):  # of a spawner that was killed right here
        os.unlink(path)
    os.mkfifo(path, 0o600)
    try:
        os.setxattr(path, "security.selinux", context.encode() + b"\0")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.set_blocking(reader, True)
            return reader, os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            os.close(reader)
            raise
    finally:
        os.unlink(path)


class Spawner:
    """Serves one service over ``control`` until it hangs up."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.poll = select.epoll()
        self.poll.register(control, select.EPOLLIN)
        self.processes: dict[int, _Process] = {}  # by pidfd
        self.statuses: dict[int, _Process] = {}  # by the descriptor of their status socket
        self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        #: Whether processes may be left to this one by others of the host's pid namespace.
        self.adopting = False
        #: Whether there may be something to sweep when the service has gone away.
        self.sweeping = True
        self.orphaned, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # what it does is to write to that descriptor
        self.poll.register(self.orphaned, select.EPOLLIN)

    def serve(self) -> None:
        """Handle messages and exits; returns when the service has gone away."""
        try:
            while self._turn():
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # there was something to tell it, and nobody to hear it

    def kill_all(self) -> None:
        """Kill and reap every child; those that are frozen (v1) cannot die before the sweeper thaws them."""
        dying = select.poll()
        for pidfd in self.processes:
            dying.register(pidfd, select.POLLIN)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + _PATIENCE
        while self.processes and (rest := deadline - time.monotonic()) > 0:
            for pidfd, _ in dying.poll(rest * 1000):
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
                dying.unregister(pidfd)
                del self.processes[pidfd]

    def _turn(self) -> bool:
        """Handle what there is, once; False when the service has gone away."""
        for fd, _ in self.poll.poll():
            if fd == self.control.fileno():
                if not self._handle():
                    return False
            elif fd == self.orphaned:
                os.read(fd, 4096)
                self._reap_orphans()
            elif fd in self.statuses:
                self._hear(self.statuses[fd])
            elif fd in self.processes:
                self._reap(self.processes[fd])
        return True

    def _handle(self) -> bool:
        try:
            message, fds = receive(self.control)
        except ConnectionError:
            return False
        if message is None:
            return False
        try:
            if message["op"] == "end":
                self.sweeping = False
            else:
                self._launch(message["id"], message["program"], fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _launch(self, id: str, program: dict[str, Any], fds: list[int]) -> None:
        slots = dict(zip(program["slots"], fds, strict=True))
        plumbing = _Plumbing([slots.get(name, self.null) for name in _STDIO])
        try:
            plumbing.open(program["give"], program["cgroup"], program["prepare"], program["fifos"])
            pid, pidfd = self._clone(program["flags"], plumbing.cgroup, slots.get(program["join"]))
        except OSError as error:
            plumbing.close_childs()
            plumbing.close_ours()
            failure = {"errno": error.errno, "text": error.strerror, "path": error.filename, "status": 125}
            operation = getattr(error, "operation", None)
            where = "clone" if operation is None else "prepare"
            index = program["prepare"].index(operation) if operation in program["prepare"] else -1
            send(self.control, {"id": id, "event": "failed",
                                "error": {"where": where, "operation": index, **failure}})  # fmt: skip
            send(self.control, {"id": id, "event": "exited", "code": 125, "signal": None})
            return
        if pid == 0:
            self._become_child(program, plumbing, slots)
        plumbing.close_childs()
        if "netns" in program["give"]:
            plumbing.add_netns(pid)
        status = plumbing.take_status()
        process = _Process(id, pid, pidfd, status, plumbing.words)
        self.adopting |= not program["flags"] & CLONE_NEWPID and program["join"] is None
        self.processes[pidfd] = self.statuses[status.fileno()] = process
        self.poll.register(pidfd, select.EPOLLIN)
        self.poll.register(status, select.EPOLLIN)
        names = [name for name in program["give"] if name in plumbing.give]
        try:
            send(self.control, {"id": id, "event": "cloned", "pid": pid, "give": names},
                 [pidfd, *(plumbing.give[name] for name in names)])  # fmt: skip
        finally:
            plumbing.close_ours()

    def _clone(self, flags: int, cgroup: int | None, container: int | None) -> tuple[int, int]:
        """clone3; the child is born in the pid namespace of the pidfd ``container`` if there is one."""
        if container is None:
            return clone3(flags, cgroup)
        setns(container, CLONE_NEWPID)  # says where this process's next children are born
        pid = -1
        try:
            pid, pidfd = clone3(flags, cgroup)
            return pid, pidfd
        finally:
            if pid != 0:  # the child is where it belongs, and could not come back
                setns(self.own_pid_namespace, CLONE_NEWPID)

    def _become_child(self, program: dict[str, Any], plumbing: _Plumbing, slots: dict[str, int]) -> NoReturn:
        try:
            assert plumbing.child_status is not None
            forbid_tracing()  # it will be where others are, and it has the host's files and the service's environment
            plumbing.close_ours()
            if plumbing.cgroup is not None:
                os.close(plumbing.cgroup)  # a folder of the host: not even its link in /proc shall be there
            for number in _CHILD_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            for target, source in enumerate(plumbing.stdio):
                os.dup2(source, target)  # dup2'd descriptors survive exec; all others are close-on-exec
            child = Child(plumbing.child_status, plumbing.words, plumbing.ready, slots)
            child.run(program["operations"], OPERATIONS)
        finally:
            os._exit(125)  # never let the parent's code run on in the child

    def _hear(self, process: _Process) -> None:
        """Read everything the child says; its end of file means that exec succeeded, or that it failed."""
        status = process.status
        if status is None:
            return
        while True:
            try:
                status.setblocking(False)
                message, fds = receive(status)
            except BlockingIOError:
                return
            except ConnectionError:
                message, fds = None, []
            if message is None:
                break
            self._relay(process, message, fds)
        self.poll.unregister(status)
        del self.statuses[status.fileno()]
        status.close()
        process.status = None
        words = last_words(process.words)
        if "error" in words:
            error = {"where": "child", **words["error"]}
            send(self.control, {"id": process.id, "event": "failed", "error": error})
        else:
            stages = words.get("stages", [])
            send(self.control, {"id": process.id, "event": "started", "stages": stages})

    def _relay(self, process: _Process, message: Message, fds: list[int]) -> None:
        send(self.control, {"id": process.id, "event": next(iter(message))}, fds)
        for fd in fds:
            os.close(fd)

    def _reap_orphans(self) -> None:
        """Reap what others have left to this process: those of a container in the host's pid namespace."""
        if self.adopting:
            own = {process.pid for process in self.processes.values()}
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
                children = file.read().split()
            for pid in set(map(int, children)) - own:
                os.waitpid(pid, os.WNOHANG)

    def _reap(self, process: _Process) -> None:
        self._hear(process)
        if process.status is not None:
            # Dead, and yet its status socket is open: a child of its own (init) holds it and has not exec'd.
            return
        result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
        self.poll.unregister(process.pidfd)
        del self.processes[process.pidfd]
        os.close(process.pidfd)
        if result is None:
            code, number = 125, None
        elif result.si_code == os.CLD_EXITED:
            code, number = result.si_status, None
        else:
            code, number = 128 + result.si_status, result.si_status
        send(self.control, {"id": process.id, "event": "exited", "code": code, "signal": number})


def main(control_fd: int, sweeper: Sequence[str]) -> None:
    """Serve on the inherited socket ``control_fd``; afterwards exec ``sweeper`` if there is one."""
    retitle("orch-spawner")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, *_CHILD_SIGNALS):
            default_signal(number)  # whoever started the service may have ignored it, and so would containers
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the terminal's signals are the service's affair
    os.umask(0o022)
    control = socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    gc.disable()  # nothing here makes cycles, and a collection in a fresh child would copy every page
    gc.freeze()
    spawner = Spawner(control)
    spawner.serve()
    spawner.kill_all()
    if sweeper and spawner.sweeping:
        os.execv(sweeper[0], list(sweeper))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
