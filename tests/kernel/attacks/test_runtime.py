"""What a container can do to the runtime's own processes that are in it: its init, and those that are about to exec."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.runtime.handle import SpawnerHandle
from orchestrator.runtime.program import Program
from support import inside
from support.attack import HOST_USERS, Changes, Ended, Target, capabilities, joined

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
    stats = {pid: inside.read(f"/proc/{pid}/stat") for pid in inside.processes()}
    (found,) = [pid for pid, stat in stats.items() if "(orch-spawner)" in stat and ") Z" not in stat]
    words = look_into(found)
    words["title"] = inside.read(f"/proc/{found}/cmdline").strip("\0")
    os.close(os.open(fifos[1], os.O_RDONLY))
    return words


@pytest.mark.parametrize(
    "place", ["environment", "user", "enter-user-namespace", "privileges", "tidy", "exec"]
)
@pytest.mark.parametrize("options", ["", PTRACE], ids=["default", "SYS_PTRACE"])
def test_a_process_that_is_about_to_exec_is_closed(target: Target, place: str, options: str) -> None:
    """CVE-2016-9962: ``orch exec`` puts a process into the container that is the host's root, and has not exec'd yet.

    Here it stops at each of its steps, and the attacker in the container may trace whatever is the container's.
    """
    with target.container(options) as name:
        result = run_during_exec(target, name, place)
        assert result.pop("title") == "orch-spawner"  # nothing of the host's paths, which everybody may read
        assert set(result.values()) <= {"EACCES", "EPERM"}, result


@pytest.mark.parametrize("place", ["private-mounts", "pivot-root", "read-only", "privileges", "exec"])
def test_a_process_that_is_about_to_start_is_closed(target: Target, place: str, fifo_folder: str) -> None:
    """The same of a container that is started in another's pid namespace: its first process has the host's files."""
    volume = f"volumes = ['{fifo_folder}:{fifo_folder}']"
    fifos = [f"{fifo_folder}/first", f"{fifo_folder}/second"]
    with target.container(joined(PTRACE, volume)) as name:
        options = joined(f'pid = "container:{name}"', volume)
        result = run_meanwhile(target, name, fifos, place, lambda: target.run(["true"], options=options))
        assert result.pop("title") == "orch-spawner"
        assert set(result.values()) <= {"EACCES", "EPERM"}, result


def look_for_host(path: str, until: str) -> list[str]:
    """Look for a file of the host by way of every process of the runtime, however short its life, until told to end."""
    words = set()
    while not os.path.exists(until):
        for pid in inside.processes():
            try:
                if "orch-spawner" in inside.read(f"/proc/{pid}/comm"):
                    words.add(inside.attempt(os.stat, f"/proc/{pid}/root{path}"))
            except OSError:  # it has ended
                pass
    return sorted(words)


def test_who_makes_the_namespaces_is_closed(target: Target, fifo_folder: str) -> None:
    """The helper that makes a container's namespaces is in the container's user namespace, and has the host's root.

    Where the pid namespace is another's, whoever has CAP_SYS_PTRACE there sees it for less than a millisecond; without
    PR_SET_DUMPABLE, prctl(2), that was enough to open files of the host by its /proc/PID/root.
    """
    marker, end = target.marker("host"), Path(fifo_folder, "end")
    options = joined(PTRACE, f"volumes = ['{fifo_folder}:/shared']")
    with target.container(options) as name, ThreadPoolExecutor(1) as thread:
        attacker = thread.submit(target.exec, look_for_host, marker, "/shared/end", container=name)
        try:
            for _ in range(15):
                target.run(["true"], options=f'pid = "container:{name}"')
        finally:
            end.touch()
        words = attacker.result()
    assert words, "it has not seen any"
    assert set(words) <= {"EACCES", "EPERM", "ENOENT", "ESRCH"}


@pytest.fixture
def fifo_folder(target: Target) -> Iterator[str]:
    """A folder of the host with two fifos, which everybody may use."""
    folder = Path(target.orch.work, "fifos")
    folder.mkdir()
    for name in ("first", "second"):
        os.mkfifo(folder / name)
        (folder / name).chmod(0o666)
    yield str(folder)
    shutil.rmtree(folder)


def test_twin_of_a_process_that_is_about_to_exec(target: Target) -> None:
    """Without a user namespace, CAP_SYS_PTRACE is the host's."""
    with target.container(joined(HOST_USERS, PTRACE)) as name:
        assert set(run_during_exec(target, name, "exec").values()) == {inside.DONE, "orch-spawner"}


def run_during_exec(target: Target, name: str, place: str) -> dict[str, str]:
    """What an attacker sees of an exec'd process that stops before the operation ``place``."""
    fifos = ["/tmp/first", "/tmp/second"]
    target.exec(make_fifos, fifos, container=name)
    return run_meanwhile(target, name, fifos, place, lambda: target.run_in(name, ["true"]))


def run_meanwhile(
    target: Target, name: str, fifos: list[str], place: str, run: Callable[[], Ended]
) -> dict[str, str]:
    """What an attacker in the container ``name`` sees of what ``run`` makes, which stops before ``place``."""
    waiting: Changes = [["if", "true"], ["before", [place], *(["write", fifo, ""] for fifo in fifos)]]
    thread = ThreadPoolExecutor(1)
    try:
        with target.tampered(waiting):
            victim = thread.submit(run)
            result: dict[str, str] = target.exec(look_into_next, fifos, container=name)
            assert victim.result(10).code == 0
    finally:
        thread.shutdown(wait=False)  # when the container ends, so does whatever waits in it
    return result


#: A program whose interpreter is whatever executes it: the runtime's own, in the container.
EVIL = """#!/proc/self/exe
import os, sys
fd = os.open("/proc/self/exe", os.O_RDONLY)
os.set_inheritable(fd, True)
os.execv("/usr/bin/python3", ["python3", *sys.argv[1:], str(fd)])
"""


#: What becomes of it, which has that interpreter open still.
OVERWRITE = """
import os, sys
try:
    fd = os.open(f"/proc/self/fd/{sys.argv[-1]}", os.O_WRONLY)
    os.write(fd, b"#!/bin/pwned")
    print("done")
except OSError as error:
    print(error.errno)
"""


@pytest.fixture
def evil(target: Target) -> Iterator[str]:
    """A line that mounts a folder with the program :data:`EVIL`."""
    folder = Path(target.orch.work, "evil")
    folder.mkdir()
    (folder / "evil").write_text(EVIL)
    (folder / "evil").chmod(0o755)
    yield f"volumes = ['{folder}:/evil']"
    shutil.rmtree(folder)


def test_the_runtimes_interpreter_is_not_overwritten(target: Target, evil: str) -> None:
    """CVE-2019-5736: a container executes /proc/self/exe, and so gets hold of the runtime's own program.

    It belongs to the host's root, who is nobody in the container (EACCES). Where the container's root is the host's, it
    cannot be written to as long as it runs (ETXTBSY, execve(2)), and no container outlives the spawner.
    """
    before = target.interpreter.read_bytes()
    command = ["/evil/evil", "-I", "-S", "-c", OVERWRITE]
    for options, refused in ((evil, errno.EACCES), (joined(evil, HOST_USERS), errno.ETXTBSY)):
        assert target.run(command, options=options).output.strip() == str(refused)
        with target.container(options) as name:
            assert target.run_in(name, command).output.strip() == str(refused)
    assert target.interpreter.read_bytes() == before


async def test_twin_of_overwriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a user namespace, and a container that goes on when its spawner has died."""
    interpreter = tmp_path / "bin/python3"
    interpreter.parent.mkdir()
    shutil.copy(os.path.realpath(sys.executable), interpreter)
    (tmp_path / "lib").symlink_to(f"{sys.base_prefix}/lib")
    (tmp_path / "evil").write_text(EVIL)
    (tmp_path / "evil").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    spawner = await SpawnerHandle.start()
    program = Program(
        flags=0, cgroup=None, prepare=[], give=["stdout", "stdin"],
        operations=[["environment", {}], ["exec", [str(tmp_path / "evil"), "-I", "-S", "-c", AFTER]]],
    )  # fmt: skip
    process = spawner.launch(program)
    await process.started()
    os.kill(spawner.pid, signal.SIGKILL)
    await spawner.gone.wait()
    await spawner.close()
    os.write(process.descriptors["stdin"], b"\n")
    assert await asyncio.to_thread(os.read, process.descriptors["stdout"], 100) == b"done\n"
    process.close()
    assert interpreter.read_bytes().startswith(b"#!/bin/pwned")


#: As :data:`OVERWRITE`, when it has been told to.
AFTER = "input()" + OVERWRITE
