"""Namespaces: of one's own, the host's, and shared with another container."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from support.cli import Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "userns")
KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time")


def namespaces(pid: int) -> dict[str, str]:
    """Each kind -> what identifies the namespace of a process."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def up(orch: Orch, text: str) -> None:
    """Bring a project up, called ``t`` if the manifest does not say."""
    orch.up(orch.manifest(text if text.startswith("name =") else f'name = "t"\n{text}'))


def pids(orch: Orch) -> dict[str, int]:
    """Each container's first process."""
    return {container["name"]: container["pid"] for container in orch.ps()}


def fetch(address: str) -> str:
    """What a server answers."""
    with urllib.request.urlopen(f"http://{address}/index.html", timeout=5) as answer:
        return str(answer.read().decode())


def shared(one: int, other: int) -> set[str]:
    mine, theirs = namespaces(one), namespaces(other)
    return {kind for kind in KINDS if mine[kind] == theirs[kind]}


def test_by_default_a_container_shares_only_the_clocks(orch: Orch) -> None:
    up(orch, '[services.a]\ncommand = ["sleep", "inf"]\n[services.b]\ncommand = ["sleep", "inf"]\n')
    one, other = pids(orch).values()
    assert shared(one, os.getpid()) == {"time"}
    assert shared(one, other) == {"time"}
    maps = [Path(f"/proc/{pid}/uid_map").read_text().split() for pid in (one, other)]
    assert [(m[0], m[2]) for m in maps] == [("0", "65536")] * 2
    assert abs(int(maps[0][1]) - int(maps[1][1])) >= 65536
    assert min(int(m[1]) for m in maps) >= 65536  # nobody of the host's


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts", "cgroup", "mnt", "net"])
def test_a_namespace_can_be_the_hosts(orch: Orch, kind: str) -> None:
    key = "network_mode" if kind == "net" else kind
    up(orch, f'[services.a]\ncommand = ["sleep", "inf"]\n{key} = "host"\n')
    (pid,) = pids(orch).values()
    assert shared(pid, os.getpid()) == {"time", kind} | ({"user"} if kind == "mnt" else set())


def test_a_sidecar_shares_what_it_says_and_its_user_namespace(orch: Orch) -> None:
    up(
        orch,
        """
[services.app]
command = ["sh", "-c", "echo text >/dev/shm/file; echo hello >/greeting; exec sleep inf"]
hostname = "application"
[services.side]
command = ["sleep", "inf"]
network_mode = "service:app"
pid = "service:app"
ipc = "service:app"
uts = "service:app"
cgroup = "service:app"
[services.inside]
command = ["sleep", "inf"]
mnt = "service:app"
pid = "service:app"
""",
    )
    found = pids(orch)
    app, side, inside = (found[f"t-{name}-1"] for name in ("app", "side", "inside"))
    assert shared(app, side) == {"net", "pid", "ipc", "uts", "cgroup", "user", "time"}
    assert shared(app, inside) == {"mnt", "pid", "user", "time"}
    look = orch.run(
        "exec", "side", "sh", "-c", "hostname; cat /dev/shm/file; cat /proc/1/comm; ls /greeting", check=False
    )
    assert look.stdout.split("\n")[:3] == ["application", "text", "sleep"]
    assert "No such file" in look.stderr
    assert orch.run("exec", "inside", "cat", "/greeting").stdout == "hello\n"


def test_a_shared_network_outlives_its_owner(orch: Orch) -> None:
    """The network namespace is orch's, so that the death of one member does not break the others."""
    up(
        orch,
        """
[services.app]
command = ["sleep", "inf"]
restart = "always"
ports = ["80"]
[services.side]
command = ["sh", "-c", "echo up >/index.html; exec busybox httpd -f -p 80 -h /"]
network_mode = "service:app"
healthcheck = { tcp = 80 }
""",
    )
    before = pids(orch)
    address = orch.run("port", "app", "80").stdout.strip()
    assert fetch(address) == "up\n"
    app, side = (f"t-{name}-1" for name in ("app", "side"))
    os.kill(before[app], signal.SIGKILL)
    wait_until("app has been restarted", lambda: pids(orch)[app] not in (before[app], None))
    assert pids(orch)[side] == before[side]
    assert shared(pids(orch)[app], before[side]) >= {"net", "user"}
    assert fetch(address) == "up\n"


def test_who_shares_processes_with_one_that_is_not_there_says_so(orch: Orch) -> None:
    up(
        orch,
        """
[services.app]
command = ["sleep", "inf"]
[services.side]
command = ["sleep", "inf"]
pid = "service:app"
""",
    )
    orch.run("stop", "app", "side")
    orch.run("start", "app")
    orch.run("stop", "app")
    done = orch.run("restart", "side", check=False)
    assert done.returncode == 1
    assert "cannot start side-1: dependency t-app-1 exited" in done.stderr


def test_another_projects_container_is_shared_by_its_name(orch: Orch) -> None:
    up(orch, 'name = "one"\n[services.app]\ncommand = ["sleep", "inf"]\n')
    up(orch, 'name = "two"\n[services.side]\ncommand = ["sleep", "inf"]\npid = "container:one-app-1"\n')
    found = pids(orch)
    assert shared(found["one-app-1"], found["two-side-1"]) == {"pid", "user", "time"}
    done = orch.run(
        "up", "-d",
        orch.manifest('name = "three"\n[services.side]\ncommand = ["sleep", "inf"]\npid = "container:nobody"\n'),
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no container nobody, whose pid namespace it is to share" in done.stderr


def test_clocks_of_its_own_are_ahead_and_survive_a_restart(orch: Orch) -> None:
    up(
        orch,
        """
[services.a]
command = ["sleep", "inf"]
time = { boottime = "1000h", monotonic = "-1s" }
[services.b]
command = ["sleep", "inf"]
userns = "host"
time = { boottime = "1000h" }
""",
    )
    for _ in range(2):
        host = float(Path("/proc/uptime").read_text().split()[0])
        for name in ("a", "b"):
            uptime = float(orch.run("exec", name, "cat", "/proc/uptime").stdout.split()[0])
            assert 3_599_000 < uptime - host < 3_601_000
        orch.run("restart")


def test_a_container_in_the_hosts_pid_namespace_leaves_no_zombie(orch: Orch) -> None:
    script = "for n in 1 2 3 4 5; do (sleep 0.01 &) ; done; exec sleep inf"
    up(orch, f'[services.a]\ncommand = ["sh", "-c", "{script}"]\npid = "host"\n')
    (pid,) = pids(orch).values()
    with open(f"/proc/{pid}/stat") as file:
        spawner = int(file.read().rpartition(")")[2].split()[1])
    children = Path(f"/proc/{spawner}/task/{spawner}/children")
    wait_until("orphans have been reaped", lambda: children.read_text().split() == [str(pid)])
