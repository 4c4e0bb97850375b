"""``down``: in order, with and without volumes, in the middle of ``up``; and several projects and instances."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from support.cli import Orch, make_base
from support.lifecycle import actions, free_port, pids
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

CHAIN = """
name = "NAME"
[defaults]
init = true
stop_grace_period = "2s"
[services.db]
command = ["sleep", "1000"]
volumes = ["data:/data"]
[services.api]
command = ["sleep", "1000"]
depends_on = ["db"]
replicas = 2
[services.web]
command = ["sleep", "1000"]
depends_on = ["api"]
[volumes.data]
"""


def chain(orch: Orch, name: str = "chain") -> str:
    """The manifest of three services, each of which needs the one before."""
    return orch.manifest(CHAIN.replace("NAME", name), f"{name}.toml")


@pytest.fixture
def other(orch: Orch) -> Iterator[Orch]:
    """A second instance, beside the first."""
    instance = Orch(make_base())
    yield instance
    problems = instance.close()
    shutil.rmtree(instance.base)
    assert problems == []


def test_down_removes_dependants_first(orch: Orch) -> None:
    orch.up(chain(orch))
    # The last word of the project's life is only to be had from somebody who listens.
    listener = orch.popen("events", "-f", "-p", "chain")
    orch.read_until(listener, "chain-web-1 started")
    orch.run("down", "-p", "chain")
    seen = orch.read_until(listener, "project chain removed")
    removed = re.findall(r"container (\S+) removed$", seen, re.MULTILINE)
    assert removed[0] == "chain-web-1"
    assert sorted(removed[1:3]) == ["chain-api-1", "chain-api-2"]
    assert removed[3] == "chain-db-1"
    assert orch.ps() == []


def test_down_keeps_volumes(orch: Orch) -> None:
    orch.up(chain(orch))
    orch.run("exec", "-p", "chain", "db", "sh", "-c", "echo kept > /data/file")
    orch.run("down", "-p", "chain")
    orch.up(chain(orch))
    assert orch.run("exec", "-p", "chain", "db", "cat", "/data/file").stdout == "kept\n"


def test_down_with_volumes_deletes_them(orch: Orch) -> None:
    orch.up(chain(orch))
    folder = f"{orch.instance.state_dir}/volumes/chain"
    assert os.listdir(folder) == ["data"]
    orch.run("down", "-p", "chain", "--volumes")
    assert not os.path.exists(folder)


def test_down_of_one_service_leaves_the_others(orch: Orch) -> None:
    orch.up(chain(orch))
    before = pids(orch)
    orch.run("down", "-p", "chain", "web")
    del before["chain-web-1"]
    assert pids(orch) == before


def test_down_of_nothing_is_no_error(orch: Orch) -> None:
    assert orch.run("down", "-p", "nobody").stderr.startswith("nothing to do: ")
    orch.up(chain(orch))
    assert orch.run("down", "-p", "nobody").stderr.startswith("nothing to do: ")


def test_down_cuts_an_up_short(orch: Orch) -> None:
    manifest = orch.manifest("""
    name = "slow"
    [defaults]
    init = true
    [services.db]
    command = ["sleep", "1000"]
    healthcheck = { test = ["CMD", "false"], interval = "1s", retries = 1000 }
    [services.web]
    command = ["sleep", "1000"]
    depends_on = { db = "healthy" }
    """)
    up = orch.popen("up", "-d", manifest)
    wait_until("the service serves", orch.is_serving)
    orch.wait_state("db", "running")
    orch.run("down", "-p", "slow", timeout=5)
    _, text = up.communicate(timeout=5)
    assert up.returncode == 1
    assert "up was cut short" in text
    assert orch.ps() == []


@pytest.mark.parametrize("seed", range(3))
def test_down_at_any_moment_of_up_leaves_nothing(orch: Orch, seed: int) -> None:
    rng = random.Random(seed)
    text = (
        CHAIN.replace("NAME", "torn")
        + f'[networks.n]\n[services.p]\ncommand = ["sleep", "1000"]\nnetworks = ["n"]\nports = ["{free_port()}:80"]\n'
    )
    manifest = orch.manifest(text, "torn.toml")
    orch.up(orch.manifest('name = "other"\n[services.x]\ncommand = ["sleep", "1000"]\ninit = true\n'))
    for _ in range(4):
        up = orch.popen("up", "-d", manifest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            up.wait(rng.uniform(0.1, 0.4))  # not a wait for a state: any moment will do
        orch.run("down", "-p", "torn")
        up.wait(10)
        orch.run("down", "-p", "torn")  # of an up that came only after the first
        assert [one["project"] for one in orch.ps()] == ["other"]
        assert not os.path.exists(f"{orch.instance.state_dir}/logs/torn")
    orch.run("down", "-p", "other")


def test_up_right_after_a_down_waits_for_it(orch: Orch) -> None:
    manifest = orch.manifest("""
    name = "again"
    [services.a]
    command = ["sh", "-c", "trap 'sleep 0.5; exit 0' TERM; echo ready; while :; do sleep 0.05; done"]
    """)
    orch.up(manifest)
    wait_until("it has its trap", lambda: "ready" in orch.logs("-p", "again"))
    down = orch.popen("down", "-p", "again")
    orch.read_until(orch.popen("events", "-f", "-p", "again"), "stopping")
    orch.up(manifest)
    assert down.wait(10) == 0
    orch.project = "again"
    assert orch.container("a")["state"] == "running"
    os.kill(orch.container("a")["pid"], 0)


def test_two_projects_live_side_by_side(orch: Orch) -> None:
    for name in ("one", "two"):
        orch.up(chain(orch, name))
    assert [project["name"] for project in orch.run("ls", "--format", "json").json()] == ["one", "two"]
    orch.project = "two"
    before = pids(orch)
    assert len(before) == 4
    assert "two-" not in orch.run("exec", "-p", "one", "web", "cat", "/etc/hosts").stdout
    orch.run("down", "-p", "one")
    assert pids(orch) == before


def test_two_instances_do_not_see_each_other(orch: Orch, other: Orch) -> None:
    for instance in (orch, other):
        instance.up(chain(instance))
    mine, theirs = pids(orch), pids(other)
    assert mine.keys() == theirs.keys()
    assert not set(mine.values()) & set(theirs.values())
    networks = [{one["address"].rpartition(".")[0] for one in instance.ps()} for instance in (orch, other)]
    assert not networks[0] & networks[1]
    orch.run("down", "-p", "chain")
    assert pids(other) == theirs


def test_a_project_whose_last_service_is_taken_out_is_gone(orch: Orch) -> None:
    orch.up(chain(orch))
    orch.up(orch.manifest('name = "chain"\n', "chain.toml"))
    assert orch.ps() == []
    assert orch.run("ls", "--quiet").stdout == ""


def test_stop_is_in_dependency_order_and_start_too(orch: Orch) -> None:
    orch.up(chain(orch))
    orch.run("stop", "-p", "chain")
    stops = [name for _, name in actions(orch, "chain", "exited")]
    assert (stops[0], sorted(stops[1:3]), stops[3]) == ("web-1", ["api-1", "api-2"], "db-1")
    orch.run("start", "-p", "chain")
    starts = [name for _, name in actions(orch, "chain", "started")][4:]
    assert (starts[0], sorted(starts[1:3]), starts[3]) == ("db-1", ["api-1", "api-2"], "web-1")
