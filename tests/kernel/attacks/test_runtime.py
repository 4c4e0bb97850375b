"""What a container can do to the runtime's own processes that are in it: its init, and those that are about to exec."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import inside
from support.attack import HOST_USERS, Target, capabilities, joined

pytestmark = pytest.mark.requires("root", "netns", "overlay")

PTRACE = capabilities("SYS_PTRACE")


def look_into(pid: int) -> dict[str, str]:
    """Everything by which a process gives something away, or can be made to do something."""
    attach, detach = 16, 17  # sys/ptrace.h

    def trace() -> None:
        inside.call("ptrace", attach, pid, 0, 0)
        os.waitpid(pid, 0x40000000)  # __WALL
        inside.call("ptrace", detach, pid, 0, 0)

    def read(name: str) -> str:
        return inside.attempt(lambda: os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY)))

    words = {name: read(name) for name in ("environ", "exe", "mem", "root", "cwd", "maps", "ns/mnt")}
    write = inside.attempt(lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)))
    return {**words, "write mem": write, "ptrace": inside.attempt(trace)}


def test_init_is_closed(target: Target) -> None:
    """CVE-2016-9962's and CVE-2019-5736's way in: a process of the runtime that goes on in the container.

    Process 1 of ``init = true`` is the spawner's interpreter, with the environment of the service and a program that is
    not the container's. It is not dumpable (PR_SET_DUMPABLE, prctl(2)), so that only CAP_SYS_PTRACE of the host's user
    namespace opens it (ptrace(2), "Ptrace access mode checking").
    """
    refused = {"EACCES", "EPERM"}
    assert set(target.start(look_into, 1).values()) <= refused
    assert set(target.start(look_into, 1, options=HOST_USERS).values()) <= refused
    assert set(target.start(look_into, 1, options=PTRACE).values()) <= refused
    twin = target.start(look_into, 1, options=joined(HOST_USERS, PTRACE))
    assert set(twin.values()) == {inside.DONE}


def kill_init() -> list[str]:
    words = [inside.attempt(os.kill, 1, number) for number in (signal.SIGKILL, signal.SIGSTOP)]
    return [*words, inside.read("/proc/1/stat").split()[2]]


def test_init_is_not_killed_from_within(target: Target) -> None:
    """pid_namespaces(7), "The namespace init process": it gets no signal from within that it has no handler for."""
    assert target.start(kill_init) == [inside.DONE, inside.DONE, "S"]


def make_fifos(paths: list[str]) -> None:
    for path in paths:
        os.mkfifo(path, 0o666)


def look_into_next(fifos: list[str]) -> dict[str, str]:
    """Look into a process that is about to exec: it has been made to wait for a reader of one fifo after the other."""
    os.close(os.open(fifos[0], os.O_RDONLY))
    (found,) = [pid for pid in inside.processes() if inside.read(f"/proc/{pid}/comm") == "orch-spawner\n"]
    words = look_into(found)
    os.close(os.open(fifos[1], os.O_RDONLY))
    return words


@pytest.mark.parametrize("place", ["environment", "user", "enter-user-namespace", "privileges", "tidy", "exec"])
@pytest.mark.parametrize("options", ["", PTRACE], ids=["default", "SYS_PTRACE"])
def test_a_process_that_is_about_to_exec_is_closed(target: Target, place: str, options: str) -> None:
    """CVE-2016-9962: ``orch exec`` puts a process into the container that is the host's root, and has not exec'd yet.

    Here it stops at each of its steps, and the attacker in the container may trace whatever is the container's.
    """
    with target.container(options) as name:
        result = run_during_exec(target, name, place)
        assert set(result.values()) <= {"EACCES", "EPERM"}, result


def test_twin_of_a_process_that_is_about_to_exec(target: Target) -> None:
    """Without a user namespace, CAP_SYS_PTRACE is the host's."""
    with target.container(joined(HOST_USERS, PTRACE)) as name:
        assert set(run_during_exec(target, name, "exec").values()) == {inside.DONE}


def run_during_exec(target: Target, name: str, place: str) -> dict[str, str]:
    """What an attacker sees of a process that stops before the operation ``place``."""
    fifos = ["/tmp/first", "/tmp/second"]
    target.exec(make_fifos, fifos, container=name)
    waiting = [["if", "true"], ["before", [place], *(["write", fifo, ""] for fifo in fifos)]]
    thread = ThreadPoolExecutor(1)
    try:
        with target.tampered(waiting):
            victim = thread.submit(target.run_in, name, ["true"])
            result: dict[str, str] = target.exec(look_into_next, fifos, container=name)
            assert victim.result(10).code == 0
    finally:
        thread.shutdown(wait=False)  # when the container ends, so does whatever waits in it
    return result
