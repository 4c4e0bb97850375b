"""What a container can do to processes that are not its own."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support import inside
from support.attack import HOST_PIDS, HOST_USERS, Target, capabilities, joined

pytestmark = pytest.mark.requires("root", "netns", "overlay")

MARKER = "orch-attack-marker"
SECRET = "orch-attack-secret"
#: A program that ends when its standard input does.
WAITS = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host, root's: :data:`MARKER` is in its command line, :data:`SECRET` in its environment."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WAITS, MARKER],
        env={"SECRET": SECRET}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as made:  # fmt: skip
        assert made.stdout
        made.stdout.readline()
        yield made
        made.kill()


def see(marker: str) -> bool:
    return inside.find(marker) != 0


def test_processes_of_the_host_are_not_seen(target: Target, process: subprocess.Popen[bytes]) -> None:
    """pid_namespaces(7): a /proc of the container's own."""
    assert target.both(see, MARKER) is False
    assert target.start(see, MARKER, options=HOST_PIDS) is True


def kill(marker: str) -> str:
    return inside.attempt(os.kill, inside.find(marker) or 4_000_000, 9)


def test_processes_of_the_host_are_not_signalled(target: Target, process: subprocess.Popen[bytes]) -> None:
    """kill(2): out of sight, and where it is in sight, of other users."""
    assert target.both(kill, MARKER) == "ESRCH"
    assert target.start(kill, MARKER, options=HOST_USERS) == "ESRCH"
    assert target.start(kill, MARKER, options=HOST_PIDS) == "EPERM"
    assert process.poll() is None
    assert target.start(kill, MARKER, options=joined(HOST_PIDS, HOST_USERS)) == inside.DONE
    assert process.wait(5) == -9


def kill_everybody() -> str:
    return inside.attempt(os.kill, -1, 9)


def test_whoever_kills_everybody_kills_its_own(target: Target, process: subprocess.Popen[bytes]) -> None:
    """kill(2), pid -1: every process of the pid namespace. (In the host's it would be all of the host's: no twin.)"""
    assert target.start(kill_everybody) in (inside.DONE, "ESRCH")
    assert process.poll() is None


def trace(marker: str) -> str:
    pid = inside.find(marker) or 4_000_000
    attach, detach = 16, 17  # sys/ptrace.h

    def stop_it() -> None:
        inside.call("ptrace", attach, pid, 0, 0)
        os.waitpid(pid, 0x40000000)  # __WALL
        inside.call("ptrace", detach, pid, 0, 0)

    return inside.attempt(stop_it)


def test_processes_of_the_host_are_not_traced(target: Target, process: subprocess.Popen[bytes]) -> None:
    """ptrace(2), "Ptrace access mode checking": three guards, any two of which may be gone."""
    ptrace = capabilities("SYS_PTRACE")
    assert target.both(trace, MARKER) == "ESRCH"
    assert target.start(trace, MARKER, options=joined(HOST_PIDS, HOST_USERS)) == "EPERM"
    assert target.start(trace, MARKER, options=joined(HOST_PIDS, ptrace)) == "EPERM"
    assert target.start(trace, MARKER, options=joined(HOST_USERS, ptrace)) == "ESRCH"
    assert target.start(trace, MARKER, options=joined(HOST_PIDS, HOST_USERS, ptrace)) == inside.DONE


def spy(marker: str) -> list[str]:
    """Environment, memory and descriptors of a process."""
    pid = inside.find(marker) or 4_000_000
    found = []

    def read_environment() -> None:
        found.append(inside.read(f"/proc/{pid}/environ"))

    def take_descriptor() -> None:
        inside.call("pidfd_getfd", inside.call("pidfd_open", pid, 0), 0, 0)

    def read_memory() -> None:
        buffer = ctypes.create_string_buffer(8)
        size = ctypes.sizeof(buffer)
        local = struct.pack("PN", ctypes.addressof(buffer), size)
        remote = struct.pack("PN", ctypes.addressof(buffer), size)
        inside.call("process_vm_readv", pid, local, 1, remote, 1, 0)

    attempts = (read_environment, take_descriptor, read_memory, lambda: os.listdir(f"/proc/{pid}/root/"))
    return [inside.attempt(each) for each in attempts] + found


def test_processes_of_the_host_keep_their_secrets(target: Target, process: subprocess.Popen[bytes]) -> None:
    """ptrace(2), PTRACE_MODE_READ and ATTACH: /proc/PID/environ and root, pidfd_getfd(2), process_vm_readv(2)."""
    ptrace = capabilities("SYS_PTRACE")
    unseen = target.both(spy, MARKER)
    assert set(unseen) <= {"ESRCH", "ENOENT"}
    for options in (joined(HOST_PIDS, HOST_USERS), joined(HOST_PIDS, ptrace)):
        assert set(target.start(spy, MARKER, options=options)) <= {"EPERM", "EACCES"}
    got = target.start(spy, MARKER, options=joined(HOST_PIDS, HOST_USERS, ptrace))
    # Memory at that address may not be there, which is another matter than not being let in.
    assert [got[0], got[1], got[3]] == [inside.DONE] * 3
    assert got[2] in (inside.DONE, "EFAULT")
    assert SECRET in got[4]


def read_by_root_link(pid: int, path: str) -> str:
    try:
        return inside.read(f"/proc/{pid}/root{path}")
    except OSError as error:
        return inside.name(error)


def test_the_hosts_files_are_not_reached_by_proc_root(target: Target) -> None:
    """proc_pid_root(5): /proc/1/root is the container's own root, and nobody else's is there."""
    marker = target.marker("root")
    assert target.exec(read_by_root_link, 1, marker) == "ENOENT"
    assert target.start(read_by_root_link, 1, marker) == "EACCES"  # an init that nobody may look into
    assert target.start(read_by_root_link, 1, marker, options=joined(HOST_PIDS, HOST_USERS)) == "EACCES"
    all_off = joined(HOST_PIDS, HOST_USERS, capabilities("SYS_PTRACE"))
    assert target.start(read_by_root_link, 1, marker, options=all_off) == "root"


def join_namespaces(marker: str) -> list[str]:
    pid = inside.find(marker)
    words = []
    for kind in ("net", "uts", "ipc"):
        try:
            fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        except OSError as error:
            words.append(inside.name(error))
        else:
            words.append(inside.attempt_call("setns", fd, 0))
    return words


def test_namespaces_of_the_host_are_not_joined(target: Target, process: subprocess.Popen[bytes]) -> None:
    """setns(2): needs CAP_SYS_ADMIN in the user namespace that owns the namespace."""
    rights = capabilities("SYS_PTRACE", "SYS_ADMIN")
    assert target.both(join_namespaces, MARKER) == ["ENOENT"] * 3
    assert target.start(join_namespaces, MARKER, options=joined(HOST_PIDS, rights)) == ["EACCES"] * 3
    everything = joined(HOST_PIDS, HOST_USERS, rights)
    assert target.start(join_namespaces, MARKER, options=everything) == [inside.DONE] * 3
    assert target.both(join_own_namespaces) == "EPERM"
    assert target.start(join_own_namespaces, options=capabilities("SYS_ADMIN")) == inside.DONE


def join_own_namespaces() -> str:
    return inside.attempt_call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0)
