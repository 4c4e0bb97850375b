"""Where an exec'd process is: the container's namespaces and cgroup, its limits, its environment."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.cli import COMMAND, Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

MANIFEST = """
name = "box"
[services.web]
command = ["sleep", "1000"]
init = true
replicas = 2
working_dir = "/usr"
stop_grace_period = "1s"
environment = { KIND = "web", KEPT = "yes" }
resources = { pids = 20, memory = "64M" }
"""


@pytest.fixture
def box(orch: Orch) -> Orch:
    """Two containers, ``web-1`` and ``web-2``, that only sleep."""
    orch.project = "box"
    orch.up(orch.manifest(MANIFEST, "orch.toml"))
    return orch


@contextlib.contextmanager
def running(box: Orch, container: str, command: str) -> Iterator[None]:
    """``orch exec CONTAINER sh -c COMMAND`` runs meanwhile."""
    with subprocess.Popen(
        (*COMMAND, "exec", container, "sh", "-c", f"echo up; {command}"), env=box.environment, cwd=box.work,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        yield
        process.kill()


def host_pid(box: Orch, command: str) -> int:
    """The host's number of the container's process of that name."""
    rows = box.run("top", "--format", "json").json()
    (found,) = [row["pid"] for row in rows if row["command"] == command]
    return int(found)


def test_it_joins_all_namespaces_of_the_container(box: Orch) -> None:
    with running(box, "web-1", "exec sleep 555"):
        pid, first = host_pid(box, "sleep 555"), box.containers("web")[0]["pid"]
        for name in ("mnt", "net", "pid", "uts", "ipc", "cgroup"):
            assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{first}/ns/{name}"), name
        assert os.readlink(f"/proc/{pid}/root") == os.readlink(f"/proc/{first}/root")


def test_it_is_in_the_cgroups_of_the_container(box: Orch) -> None:
    with running(box, "web-1", "exec sleep 555"):
        pid, first = host_pid(box, "sleep 555"), box.containers("web")[0]["pid"]
        with open(f"/proc/{pid}/cgroup") as ours, open(f"/proc/{first}/cgroup") as theirs:
            assert ours.read() == theirs.read()


def test_it_has_no_more_privileges_than_the_container(box: Orch) -> None:
    shown = box.run("exec", "web", "grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status").stdout
    assert shown == box.run("exec", "web", "grep", "-E", "^(Cap|NoNewPrivs)", "/proc/1/status").stdout


def test_the_containers_limit_counts_it(box: Orch) -> None:
    script = "import os, signal\nwhile True:\n    if os.fork() == 0: signal.pause()"
    done = box.run("exec", "web", "python3", "-c", script, check=False)
    assert "BlockingIOError: [Errno 11] Resource temporarily unavailable" in done.stderr


@pytest.mark.vm
def test_out_of_memory_kills_it_and_not_the_container(box: Orch) -> None:
    done = box.run("exec", "web", "python3", "-c", "b'x' * (100 << 20)", check=False)
    assert done.returncode == 137
    assert {container["state"] for container in box.containers("web")} == {"running"}


def test_pause_freezes_it_too(box: Orch) -> None:
    with running(box, "web-1", "while :; do :; done"):
        pid = host_pid(box, "sh -c echo up; while :; do :; done")
        box.run("pause", "web")

        def ticks() -> str:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[11]

        assert len({ticks() for _ in range(200)}) == 1
        before = ticks()
        box.run("unpause", "web")
        wait_until("it runs again", lambda: ticks() != before)


def test_the_environment_is_the_containers_and_ours_on_top(box: Orch) -> None:
    script = "echo $KIND $KEPT $NEW $HOSTNAME ${TERM-none}"
    done = box.run("exec", "-e", "KIND=other", "-e", "NEW=a b", "web", "sh", "-c", script)
    assert done.stdout == f"other yes a b {box.containers('web')[0]['id'][:12]} none\n"


def test_user_and_working_folder(box: Orch) -> None:
    script = "id -u; id -g; pwd; echo $HOME"
    assert box.run("exec", "web", "sh", "-c", script).stdout == "0\n0\n/usr\n/root\n"
    done = box.run("exec", "-u", "nobody", "-w", "/tmp", "web", "sh", "-c", script)
    assert done.stdout == "65534\n65534\n/tmp\n/nonexistent\n"
    assert box.run("exec", "-u", "1234:56", "web", "sh", "-c", script).stdout == "1234\n56\n/usr\n/\n"


def test_an_unknown_user_is_named(box: Orch) -> None:
    done = box.run("exec", "-u", "nosuch", "web", "id", check=False)
    assert done.returncode == 126
    assert 'user "nosuch" is not in the container\'s /etc/passwd' in done.stderr


def test_the_index_chooses_a_replica(box: Orch) -> None:
    ids = [container["id"][:12] for container in sorted(box.containers("web"), key=lambda c: c["name"])]
    assert box.run("exec", "web", "hostname").stdout.strip() == ids[0]
    assert box.run("exec", "--index", "2", "web", "hostname").stdout.strip() == ids[1]
    assert (
        'no service or container "web-3"'
        in box.run("exec", "--index", "3", "web", "true", check=False).stderr
    )


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_many_at_once_leave_no_descriptor_and_no_process(box: Orch) -> None:
    (spawner,) = {parent(container["pid"]) for container in box.containers("web")}
    service = parent(spawner)
    box.run("exec", "web-2", "true")
    before = descriptors(service), descriptors(spawner)
    half = [["web-1", "echo", "one"], ["web-2", "no-such-program"]] * 25
    with ThreadPoolExecutor(8) as pool:  # no more than web-1's limit of processes
        codes = list(pool.map(lambda words: box.run("exec", *words, check=False).returncode, half))
    assert codes == [0, 127] * 25
    wait_until("all is closed", lambda: (descriptors(service), descriptors(spawner)) == before)
    assert len(box.run("top", "--format", "json").json()) == 4  # an init and a sleep in each
    with open(f"/proc/{spawner}/task/{spawner}/children") as file:
        assert len(file.read().split()) == 2


def parent(pid: int) -> int:
    """The parent's process id."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
