"""Parts of orch are killed: whatever it was doing, nothing is left, and the next ``up`` works."""

from __future__ import annotations

import os
import signal

import pytest

from support import faults, leaks
from support.cli import Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "nft")

#: Containers of every sort: on a network with a published port, deaf, with an init, in host mode, one that
#: lives in sub-processes of other sessions, and a volume.
MANIFEST = """
name = "victim"
[defaults]
stop_grace_period = "1s"
[services.web]
command = ["sleep", "1000"]
ports = ["127.0.0.1:0:80"]
[services.api]
command = ["sh", "-c", "setsid sh -c 'setsid sleep 1000 & sleep 1000' & trap '' TERM; sleep 1000 & wait"]
replicas = 2
[services.tidy]
command = ["sleep", "1000"]
init = true
user = "nobody"
[services.host]
command = ["sleep", "1000"]
network_mode = "host"
[services.store]
command = ["sleep", "1000"]
volumes = ["data:/data"]
[volumes.data]
"""


@pytest.fixture
def before(orch: Orch) -> leaks.Inventory:
    return leaks.take()


@pytest.fixture
def victim(orch: Orch, before: leaks.Inventory) -> str:
    """The manifest of a project that is up."""
    manifest = orch.manifest(MANIFEST)
    orch.up(manifest)
    return manifest


def works(orch: Orch, manifest: str) -> None:
    """The next ``up`` finds nothing in its way."""
    orch.up(manifest)
    assert {container["state"] for container in orch.ps()} == {"running"}
    orch.run("down", "-p", "victim")
    assert orch.ps() == []


def test_a_killed_service_takes_everything_with_it(orch: Orch, before: leaks.Inventory, victim: str) -> None:
    programs, spawner = faults.programs(orch), faults.spawner(orch)
    faults.kill(faults.service(orch))
    faults.wait_dead(*programs, spawner)
    assert faults.left(orch, before) == []
    works(orch, victim)


def test_a_service_killed_with_a_paused_container_takes_that_with_it(
    orch: Orch, before: leaks.Inventory, victim: str
) -> None:
    orch.run("pause", "-p", "victim", "api")
    programs, spawner = faults.programs(orch), faults.spawner(orch)
    faults.kill(faults.service(orch))
    faults.wait_dead(*programs, spawner)
    assert faults.left(orch, before) == []


def test_an_up_right_after_a_kill_waits_for_the_sweep_and_works(orch: Orch, victim: str) -> None:
    faults.kill(faults.service(orch))
    works(orch, victim)


def test_a_killed_spawner_ends_containers_and_service_which_cleans_up_and_says_why(
    orch: Orch, before: leaks.Inventory, victim: str
) -> None:
    programs, service = faults.programs(orch), faults.service(orch)
    faults.kill(faults.spawner(orch))
    faults.wait_dead(*programs, service)
    assert "the spawner is gone" in orch.service_log
    assert faults.left(orch, before) == []
    works(orch, victim)


def test_service_and_spawner_killed_together_leave_no_process_and_the_next_service_sweeps(
    orch: Orch, victim: str
) -> None:
    programs, service, spawner = faults.programs(orch), faults.service(orch), faults.spawner(orch)
    faults.kill(spawner, service)
    faults.wait_dead(*programs, service, spawner)
    works(orch, victim)
    assert "removed what a killed service had left" in orch.service_log


#: Changing its user clears a process's parent-death signal (prctl(2), PR_SET_PDEATHSIG).
SHEDS = """
name = "victim"
[services.x]
command = ["python3", "-c", "import os, signal; os.setuid(65534); print('shed', flush=True); signal.pause()"]
"""


@pytest.mark.parametrize("target", ["spawner", "both"])
def test_a_program_that_outlives_its_spawner_is_swept(
    orch: Orch, before: leaks.Inventory, target: str
) -> None:
    manifest = orch.manifest(SHEDS)
    orch.up(manifest)
    wait_until("it has changed its user", lambda: "shed" in orch.logs("-p", "victim"), interval=0.05)
    (program,), service = faults.programs(orch), faults.service(orch)
    faults.kill(*[faults.spawner(orch), service][: 1 if target == "spawner" else 2])
    faults.wait_dead(service)
    if target == "both":
        assert faults.alive(program)
        works(orch, manifest)
        wait_until("the service has gone", lambda: faults.find_service(orch) is None)
    faults.wait_dead(program)
    assert faults.left(orch, before) == []


def test_a_spawner_killed_while_a_container_is_paused_leaves_nothing(
    orch: Orch, before: leaks.Inventory, victim: str
) -> None:
    orch.run("pause", "-p", "victim", "web")
    programs, service = faults.programs(orch), faults.service(orch)
    faults.kill(faults.spawner(orch))
    faults.wait_dead(*programs, service)
    assert faults.left(orch, before) == []
    works(orch, victim)


def test_a_container_whose_program_is_stopped_by_a_signal_goes_down(orch: Orch, victim: str) -> None:
    (store,) = orch.containers("store")
    os.kill(store["pid"], signal.SIGSTOP)
    orch.run("down", "-p", "victim")
    assert orch.ps() == []


def test_a_foreground_up_that_is_killed_leaves_nothing(orch: Orch, before: leaks.Inventory) -> None:
    process = orch.popen("up", orch.manifest(MANIFEST))
    orch.wait_state("store", "running")
    spawner = faults.spawner(orch)
    process.kill()
    process.communicate()
    faults.wait_dead(spawner)
    assert faults.left(orch, before) == []


def test_a_fork_bomb_stays_within_its_limit_and_goes_down(orch: Orch) -> None:
    manifest = orch.manifest("""
    name = "bomb"
    [services.bomb]
    command = ["python3", "-c", '''
import os, time
while True:
    try: os.fork()
    except BlockingIOError: time.sleep(0.05)
''']
    resources = { pids = 50 }
    stop_grace_period = "200ms"
    """)
    orch.up(manifest)
    wait_until("the limit is reached", lambda: _stats(orch)["pids"] == 50, interval=0.1)
    assert orch.container("bomb")["state"] == "running"
    orch.run("down", "-p", "bomb")
    assert orch.ps() == []


def _stats(orch: Orch) -> dict[str, int]:
    (one,) = orch.run("stats", "--no-stream", "--format", "json", "-p", "bomb").json()
    return dict(one)
