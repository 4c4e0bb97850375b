"""How a container could take more than its share, or reach the host through its cgroups."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import CLONE_NEWNS
from orchestrator.runtime.handle import SpawnerHandle
from orchestrator.runtime.program import Program
from support import inside
from support.attack import HOST_USERS, UNCONFINED, Target, capabilities, compile_attack, joined, read_result
from support.sandbox import cgroup_hierarchies

pytestmark = pytest.mark.requires("root", "netns", "overlay")

#: The cgroup namespace in which the tests were started: here, since the sandbox has one of its own.
OUTER = os.open("/proc/self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
#: Its number if it is the host's first (PROC_CGROUP_INIT_INO, linux/proc_ns.h).
FIRST = 0xEFFFFFFB


def hierarchy_ends(name: str) -> bool:
    """Whether a hierarchy ends by itself. It does when its last mount goes and all its cgroups have gone before."""
    deadline = time.monotonic() + 0.5
    while name in inside.read("/proc/self/cgroup"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def escape_by_release_agent(options: str, agent: str, proof: str) -> list[str]:
    """Make a hierarchy whose release agent the kernel runs on the host, as soon as one of its cgroups is empty."""
    place = "/tmp/orch-attack-cgroup"
    os.makedirs(place, exist_ok=True)
    words = [inside.attempt(inside.mount, "cgroup", place, "cgroup", 0, options)]
    if words == ["done"]:
        words.append(inside.attempt(inside.write, f"{place}/release_agent", agent))
        os.mkdir(f"{place}/empty")
        inside.write(f"{place}/empty/notify_on_release", "1")
        inside.run_in_child(lambda: inside.attempt(inside.write, f"{place}/empty/cgroup.procs", "0"))
        deadline = time.monotonic() + 5
        while not os.path.exists(proof) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.rmdir(f"{place}/empty")
        inside.umount(place)
        while not hierarchy_ends(options.partition("name=")[2]):
            inside.mount("cgroup", place, "cgroup", 0, options)
            inside.umount(place)
    os.rmdir(place)
    return words


def escape_in_new_namespaces(options: str) -> list[str]:
    """As CVE-2022-0492 does: with the capabilities that a new user namespace gives."""

    def escape() -> str:
        wanted = inside.CLONE_NEWUSER | inside.CLONE_NEWNS | inside.CLONE_NEWCGROUP
        word = inside.attempt_call("unshare", wanted)
        if word != "done":
            return word
        return inside.attempt(inside.mount, "cgroup", "/tmp", "cgroup", 0, options)

    return [inside.run_in_child(escape)]


def test_no_release_agent_is_set(target: Target) -> None:
    """CVE-2022-0492 (cgroups(7), "Cgroups v1 release notification"): no cgroup file system can be mounted.

    Whoever may mount one gets a hierarchy that exists, from its own cgroup on; the file is at its top only.
    """
    attack = ("none,name=orch-attack", "/nosuch", "/nosuch")
    assert target.both(escape_by_release_agent, *attack) == ["EPERM"]
    assert target.both(escape_in_new_namespaces, attack[0]) == ["EPERM"]
    assert target.start(escape_in_new_namespaces, attack[0], options=UNCONFINED) == ["EPERM"]
    admin = capabilities("SYS_ADMIN")
    assert target.start(escape_by_release_agent, *attack, options=admin) == ["EPERM"]
    assert target.start(escape_by_release_agent, *attack, options=joined(admin, HOST_USERS)) == ["EPERM"]


@pytest.mark.requires("cgroup-v1")
@pytest.mark.skipif(
    os.fstat(OUTER).st_ino != FIRST, reason="only the host's first cgroup namespace can have new hierarchies"
)
async def test_twin_of_the_release_agent(tmp_path: Path) -> None:
    """Root in the host's user and cgroup namespaces, a hierarchy of the test's own, an agent that writes a file."""
    agent, proof = tmp_path / "agent", tmp_path / "proof"
    agent.write_text(f"#!/bin/sh\nid -u >{proof}.new; mv {proof}.new {proof}\n")
    agent.chmod(0o755)
    attack = compile_attack(
        escape_by_release_agent,
        f"none,name=orch-attack-{os.getpid()}-{time.time_ns()}",
        str(agent),
        str(proof),
    )
    spawner = await SpawnerHandle.start()
    operations: list[Operation] = [
        ["private-mounts"],
        ["join", "outer", ["cgroup"]],
        ["environment", dict(os.environ)],
        ["exec", attack],
    ]
    process = spawner.launch(Program(CLONE_NEWNS, None, [], operations, ["stdout"], ["outer"]), [OUTER])
    await process.started()
    assert (await process.exited()).code == 0
    assert read_result(os.read(process.descriptors["stdout"], 4096).decode()) == [inside.DONE, inside.DONE]
    process.close()
    await spawner.close()
    assert proof.read_text() == "0\n"


def write_to_cgroups(mount: bool) -> list[str]:
    """Open the files of its cgroups that limit it, and make new ones."""
    found = []
    if mount:
        os.mkdir("/tmp/pids")
        kinds = [line.split()[-1] for line in inside.read("/proc/filesystems").splitlines()]
        v1 = "cgroup" in kinds and ":pids:" in inside.read("/proc/self/cgroup")
        inside.mount("cgroup", "/tmp/pids", "cgroup" if v1 else "cgroup2", 0, "pids" if v1 else "")
    for top in ("/sys/fs/cgroup", "/tmp/pids"):
        for folder, _, files in os.walk(top):
            limits = {
                "pids.max",
                "memory.max",
                "memory.limit_in_bytes",
                "cgroup.procs",
                "tasks",
                "devices.allow",
            }
            for name in limits & {*files}:
                try:
                    os.close(os.open(f"{folder}/{name}", os.O_WRONLY))
                except OSError:
                    continue
                found.append(f"{folder}/{name}")
            if files and inside.attempt(os.mkdir, f"{folder}/more") == "done":
                found.append(f"{folder}/more")
                os.rmdir(f"{folder}/more")
    return found


def test_cgroups_are_not_written(target: Target) -> None:
    """cgroups(7): who can write to the files of a cgroup has no limits, and on v1 no devices controller.

    What is mounted is read-only; and belongs to the host's root. The twin mounts its own cgroup anew.
    """
    assert target.both(write_to_cgroups, False) == []
    assert target.start(write_to_cgroups, False, options=HOST_USERS) == []
    admin = capabilities("SYS_ADMIN")
    assert target.start(write_to_cgroups, True, options=admin) == []
    found = target.start(write_to_cgroups, True, options=joined(admin, HOST_USERS))
    assert {"/tmp/pids/pids.max", "/tmp/pids/more"} <= set(found)


def fork(count: int) -> int:
    """How many processes it can have besides."""
    pids = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
    except OSError:
        pass
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return len(pids)


def test_processes_are_limited(target: Target) -> None:
    """cgroups(7), the pids controller: a fork bomb stays in its container."""
    assert target.start(fork, 60, options="resources = { pids = 30 }") < 30
    assert target.start(fork, 60) == 60


def test_a_default_container_has_a_limit_of_processes(target: Target) -> None:
    """It is more than anybody needs, and less than the host has."""
    limit = int(Path(cgroup_of(target, "attacks-idle-1", "pids"), "pids.max").read_text())
    assert 0 < limit < int(Path("/proc/sys/kernel/pid_max").read_text())


def cgroup_of(target: Target, name: str, controller: str) -> str:
    """The folder of a container's cgroup in the hierarchy of a controller."""
    (pid,) = [each["pid"] for each in target.orch.ps() if each["name"] == name]
    rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    paths = {kind or "unified": path for _, kinds, path in rows for kind in kinds.split(",")}
    for hierarchy in cgroup_hierarchies():
        if controller in hierarchy.kind.split(","):
            return hierarchy.point + paths[controller]
    (unified,) = [each.point for each in cgroup_hierarchies() if each.kind == "unified"]
    return unified + paths["unified"]


def allocate(size: int) -> str:
    return inside.run_in_child(lambda: str(len(b"x" * size)))


def test_memory_is_limited(target: Target) -> None:
    """cgroups(7), the memory controller: who takes too much is killed, and alone."""
    assert target.start(allocate, 128 << 20, options='resources = { memory = "64M" }') == ""
    assert target.start(allocate, 128 << 20) == str(128 << 20)


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def throttled(target: Target, options: str) -> int:
    """How often a container had to wait that wants a whole processor (cpu.stat)."""
    with target.container(options) as name:
        folder = cgroup_of(target, name, "cpu")
        target.exec(burn, 0.5, container=name)
        stat = dict(line.split() for line in Path(folder, "cpu.stat").read_text().splitlines())
        return int(stat["nr_throttled"])


def test_processors_are_limited(target: Target) -> None:
    """cgroups(7), the cpu controller."""
    assert throttled(target, "resources = { cpus = 0.1 }") > 0
    assert throttled(target, "") == 0
