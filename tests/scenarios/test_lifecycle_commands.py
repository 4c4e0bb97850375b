"""The commands upon a project that is up: each does what its help says, and shows what the issue promises."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from support.cli import Orch
from support.lifecycle import actions, events, free_port, pids
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

PAIR = """
name = "pair"
[defaults]
init = true
stop_grace_period = "2s"
[services.db]
command = ["sleep", "1000"]
[services.web]
command = ["sleep", "1000"]
depends_on = ["db"]
"""


@pytest.fixture
def pair(orch: Orch) -> Orch:
    """Two services that run."""
    orch.project = "pair"
    orch.up(orch.manifest(PAIR, "pair.toml"))
    return orch


# ps


def test_ps_tells_everything_that_scripts_need(orch: Orch) -> None:
    port = free_port()
    orch.project = "shop"
    began = time.time()
    orch.up(
        orch.manifest(f"""
        name = "shop"
        [services.web]
        command = ["sleep", "1000"]
        init = true
        ports = ["{port}:80"]
        healthcheck = {{ test = ["CMD", "true"], interval = "1s" }}
        [services.job]
        kind = "job"
        command = ["true"]
        """)
    )
    job, web = orch.ps()
    promised = {
        "project", "service", "name", "id", "state", "health", "pid", "address", "ports", "restarts", "exit_code",
        "reason", "started_at",
    }  # fmt: skip
    assert promised <= web.keys()
    assert promised <= job.keys()
    assert (web["project"], web["service"], web["name"], web["replica"]) == ("shop", "web", "shop-web-1", 1)
    assert (web["state"], web["health"], web["restarts"], web["exit_code"]) == ("running", "healthy", 0, None)
    assert os.readlink(f"/proc/{web['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
    assert web["ports"] == [{"host_ip": "127.0.0.1", "published": port, "target": 80, "protocol": "tcp"}]
    assert began < web["started_at"] < time.time()
    assert (job["state"], job["pid"], job["exit_code"], job["ports"]) == ("exited", None, 0, [])
    assert began < job["started_at"] <= job["finished_at"]


def test_ps_leaves_out_what_exited_unless_asked(orch: Orch) -> None:
    orch.up(
        orch.manifest("""
        name = "mixed"
        [services.web]
        command = ["sleep", "1000"]
        init = true
        [services.job]
        kind = "job"
        command = ["true"]
        """)
    )
    assert [one["service"] for one in orch.run("ps", "--format", "json").json()] == ["web"]
    assert [one["service"] for one in orch.run("ps", "-a", "--format", "json").json()] == ["job", "web"]
    table = orch.run("ps", "-a").stdout.splitlines()
    assert table[0].split()[:5] == ["NAME", "SERVICE", "STATE", "HEALTH", "PID"]
    assert table[1].split()[:4] == ["mixed-job-1", "job", "exited", "(0)"]


def test_ps_of_nothing_is_an_empty_array(orch: Orch) -> None:
    assert orch.run("ps", "-a", "--format", "json").json() == []


# stop, start, restart


def test_stop_keeps_the_container_and_start_starts_it_again(pair: Orch) -> None:
    before = pair.container("web")
    pair.run("stop", "-p", "pair", "web")
    stopped = pair.container("web")
    assert (stopped["state"], stopped["pid"], stopped["id"]) == ("exited", None, before["id"])
    assert pair.container("db")["state"] == "running"
    pair.run("start", "-p", "pair", "web")
    after = pair.container("web")
    assert (after["state"], after["id"], after["address"]) == ("running", before["id"], before["address"])
    assert after["pid"] != before["pid"]


def test_start_brings_the_dependencies_too(pair: Orch) -> None:
    pair.run("stop", "-p", "pair")
    assert pids(pair) == {}
    pair.run("start", "-p", "pair", "web")
    assert pids(pair).keys() == {"pair-db-1", "pair-web-1"}


def test_what_was_stopped_by_hand_is_not_restarted_by_its_policy(orch: Orch) -> None:
    orch.project = "keep"
    orch.up(
        orch.manifest("""
        name = "keep"
        [services.a]
        command = ["sleep", "1000"]
        init = true
        restart = "always"
        """)
    )
    orch.run("stop", "-p", "keep")
    assert orch.container("a")["state"] == "exited"
    assert "restarting" not in [event["action"] for event in events(orch, "keep")]


def test_restart_keeps_the_writable_layer_and_the_address(pair: Orch) -> None:
    pair.run("exec", "-p", "pair", "web", "sh", "-c", "echo mine > /root/file")
    before = pair.container("web")
    pair.run("restart", "-p", "pair", "web")
    after = pair.container("web")
    assert after["pid"] != before["pid"]
    assert (after["id"], after["address"]) == (before["id"], before["address"])
    assert pair.run("exec", "-p", "pair", "web", "cat", "/root/file").stdout == "mine\n"


def test_restart_of_everything_is_in_dependency_order(pair: Orch) -> None:
    pair.run("restart", "-p", "pair")
    assert actions(pair, "pair", "started")[2:] == [("started", "db-1"), ("started", "web-1")]


def test_stop_gives_the_grace_period_and_then_kills(orch: Orch) -> None:
    orch.project = "deaf"
    orch.up(
        orch.manifest("""
        name = "deaf"
        [services.a]
        command = ["sh", "-c", "trap : TERM; echo ready; while :; do sleep 0.05; done"]
        stop_grace_period = "30s"
        """)
    )
    wait_until("it has its trap", lambda: "ready" in orch.logs())
    began = time.monotonic()
    orch.run("stop", "-p", "deaf", "-t", "300ms")
    assert 0.3 <= time.monotonic() - began < 5
    assert orch.container("a")["exit_code"] == 137
    assert [event["message"] for event in events(orch, "deaf") if event["action"] == "killed"] == [
        "did not stop within 300ms"
    ]


def test_a_restart_that_had_to_kill_leaves_it_running(orch: Orch) -> None:
    orch.project = "deaf"
    orch.up(orch.manifest('name = "deaf"\n[services.a]\ncommand = ["sleep", "1000"]\n'))
    for _ in range(2):
        orch.run("restart", "-p", "deaf", "-t", "0")
        found = orch.run("wait", "-p", "deaf", "--timeout", "300ms", "a", check=False)
        assert found.returncode == 124, found


def test_stop_sends_the_signal_that_the_manifest_names(orch: Orch) -> None:
    orch.project = "usr"
    orch.up(
        orch.manifest("""
        name = "usr"
        [services.a]
        command = ["sh", "-c", "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done"]
        stop_signal = "SIGUSR1"
        """)
    )
    wait_until("it has its trap", lambda: "ready" in orch.logs())
    orch.run("stop", "-p", "usr")
    assert orch.container("a")["exit_code"] == 42


# kill, pause, wait


def test_kill_sends_a_signal_to_the_program(orch: Orch) -> None:
    orch.project = "hup"
    orch.up(
        orch.manifest("""
        name = "hup"
        [services.a]
        command = ["sh", "-c", "trap 'echo reloaded' HUP; echo ready; while :; do sleep 0.05; done"]
        """)
    )
    wait_until("it has its trap", lambda: "ready" in orch.logs())
    pid = orch.container("a")["pid"]
    assert orch.run("kill", "-p", "hup", "-s", "HUP", "a").stdout == "hup-a-1 signalled\n"
    wait_until("it has heard", lambda: "reloaded" in orch.logs())
    assert orch.container("a")["pid"] == pid


def test_kill_without_a_signal_kills_and_the_reason_says_so(pair: Orch) -> None:
    pair.run("kill", "-p", "pair", "web")
    (web,) = pair.wait_state("web", "exited")
    assert web["exit_code"] == 137
    assert "SIGKILL" in web["reason"]


def test_kill_refuses_what_is_no_signal(pair: Orch) -> None:
    before = pids(pair)
    done = pair.run("kill", "-p", "pair", "-s", "SIGNOT", "web", check=False)
    assert done.returncode == 2
    assert 'there is no signal "SIGNOT"' in done.stderr
    assert pids(pair) == before


def test_pause_freezes_and_unpause_lets_go_on(orch: Orch) -> None:
    orch.project = "tick"
    orch.up(
        orch.manifest("""
        name = "tick"
        [services.a]
        command = ["sh", "-c", "trap 'echo heard' HUP; echo ready; while :; do sleep 0.02; done"]
        """)
    )
    wait_until("it has its trap", lambda: "ready" in orch.logs())
    orch.run("pause", "-p", "tick", "a")
    paused = orch.container("a")
    assert paused["state"] == "paused"
    orch.run("kill", "-p", "tick", "-s", "HUP", "a")
    assert "heard" not in orch.logs()
    assert orch.run("exec", "-p", "tick", "a", "true", check=False).returncode == 1
    orch.run("unpause", "-p", "tick", "a")
    wait_until("it has heard", lambda: "heard" in orch.logs())
    assert orch.container("a") == {**paused, "state": "running", "reason": ""}


def test_what_is_paused_can_be_stopped(pair: Orch) -> None:
    pair.run("pause", "-p", "pair")
    assert {one["state"] for one in pair.ps()} == {"paused"}
    pair.run("stop", "-p", "pair")
    assert {one["state"] for one in pair.ps()} == {"exited"}


def test_up_leaves_what_is_paused_alone(pair: Orch) -> None:
    pair.run("pause", "-p", "pair", "web")
    before = pair.ps()
    pair.up(f"{pair.work}/pair.toml")
    assert pair.ps() == before
    pair.run("unpause", "-p", "pair", "web")


def test_wait_passes_the_exit_code_on(orch: Orch) -> None:
    orch.project = "job"
    orch.run(
        "up", "-d", "--no-wait",
        orch.manifest("""
        name = "job"
        [services.a]
        kind = "job"
        command = ["sh", "-c", "sleep 0.2; exit 7"]
        """),
    )  # fmt: skip
    done = orch.run("wait", "-p", "job", "a", check=False)
    assert (done.returncode, done.stdout) == (7, "job-a-1 exited (7)\n")


def test_wait_gives_up_when_told(pair: Orch) -> None:
    done = pair.run("wait", "-p", "pair", "--timeout", "100ms", "web", check=False)
    assert done.returncode == 124
    assert "pair-web-1 is running after 0.1s" in done.stderr
    assert pair.run("wait", "-p", "pair", "--condition", "running").returncode == 0


# port, top, stats, inspect, events


def test_port_shows_where_a_port_is_published(orch: Orch) -> None:
    port = free_port()
    orch.project = "ports"
    orch.up(
        orch.manifest(f"""
        name = "ports"
        [services.a]
        command = ["sleep", "1000"]
        init = true
        ports = ["{port}:80", "53/udp"]
        """)
    )
    assert orch.run("port", "-p", "ports", "a", "80").stdout == f"127.0.0.1:{port}\n"
    chosen = orch.run("port", "-p", "ports", "a", "53/udp").stdout
    assert chosen.startswith("127.0.0.1:")
    assert int(chosen.split(":")[1]) > 0
    assert orch.run("port", "-p", "ports", "a", "81", check=False).returncode == 1


def test_top_shows_the_processes_inside(pair: Orch) -> None:
    found = pair.run("top", "-p", "pair", "web", "--format", "json").json()
    assert [one["name"] for one in found] == ["pair-web-1", "pair-web-1"]  # init, and the program
    assert found[0]["pid"] == pair.container("web")["pid"]
    assert found[1]["ppid"] == found[0]["pid"]
    assert found[1]["command"] == "sleep 1000"
    assert Path(f"/proc/{found[1]['pid']}/comm").read_text() == "sleep\n"


def test_stats_shows_what_is_used(orch: Orch) -> None:
    orch.project = "busy"
    orch.up(
        orch.manifest("""
        name = "busy"
        [services.a]
        command = ["sh", "-c", "while :; do :; done"]
        resources = { memory = "64M", pids = 10, cpus = 0.2 }
        """)
    )
    (sample,) = orch.run("stats", "-p", "busy", "--no-stream", "--format", "json").json()
    assert (sample["project"], sample["service"], sample["name"]) == ("busy", "a", "busy-a-1")
    assert sample["cpu_seconds"] > 0
    assert 0 < sample["memory"] < sample["memory_limit"] == 64 << 20
    assert (sample["pids"], sample["pids_limit"]) == (1, 10)


def test_inspect_shows_everything(pair: Orch) -> None:
    view = pair.inspect("web")
    assert view["container"] == pair.container("web")
    assert view["spec"]["command"] == ["sleep", "1000"]
    assert view["container"]["pid"] in [
        int(pid)
        for folder in view["cgroup"].values()
        for pid in Path(f"{folder}/cgroup.procs").read_text().split()
    ]
    assert {"compile", "clone", "total"} <= {stage["name"] for stage in view["stages"]}
    assert any(line.startswith("pivot_root") for line in view["program"])
    assert view["log_path"] == f"{pair.instance.state_dir}/logs/pair/pair-web-1/container.log"
    by_id = pair.inspect(view["container"]["id"][:6])
    assert by_id["container"]["name"] == pair.inspect("web-1")["container"]["name"] == "pair-web-1"


def test_events_follows_what_happens(pair: Orch) -> None:
    listener = pair.popen("events", "-f", "--format", "json", "-p", "pair", "web")
    pair.read_until(listener, '"started"')
    pair.run("restart", "-p", "pair", "web")
    text = pair.read_until(listener, '"started"')
    seen = [json.loads(line) for line in text.splitlines()]
    assert [event["action"] for event in seen] == ["stopping", "exited", "reset", "starting", "started"]
    assert {event["name"] for event in seen} == {"pair-web-1"}
    listener.send_signal(signal.SIGINT)
    assert listener.wait(5) == 130


def test_what_does_not_exist_is_named(pair: Orch) -> None:
    for words in (
        ("stop",),
        ("kill",),
        ("restart",),
        ("logs",),
        ("wait",),
        ("port",),
        ("inspect",),
        ("exec",),
    ):
        extra = ("true",) if words == ("exec",) else ()
        done = pair.run(*words, "-p", "pair", "wbe", *extra, check=False)
        assert done.returncode == 1, words
        assert '"wbe"' in done.stderr
        assert "db, web" in done.stderr, words


# scale


def test_scale_up_and_down(orch: Orch) -> None:
    orch.project = "fleet"
    manifest = orch.manifest("""
    name = "fleet"
    [defaults]
    init = true
    [services.api]
    command = ["sleep", "1000"]
    replicas = 2
    [services.web]
    command = ["sleep", "1000"]
    """)
    orch.up(manifest)
    before = {one["name"]: (one["pid"], one["address"]) for one in orch.ps()}
    orch.run("scale", "-p", "fleet", "api=4")
    more = {one["name"]: (one["pid"], one["address"]) for one in orch.ps()}
    assert more.keys() == before.keys() | {"fleet-api-3", "fleet-api-4"}
    assert {**more, **before} == more
    assert len({address for _, address in more.values()}) == len(more)

    def addresses() -> set[str]:
        found = orch.run("exec", "-p", "fleet", "web", "getent", "ahostsv4", "api").stdout
        return {line.split()[0] for line in found.splitlines()}

    assert addresses() == {more[f"fleet-api-{number}"][1] for number in range(1, 5)}
    orch.run("scale", "-p", "fleet", "api=1")
    less = {one["name"]: (one["pid"], one["address"]) for one in orch.ps()}
    assert less == {name: before[name] for name in ("fleet-api-1", "fleet-web-1")}
    assert addresses() == {before["fleet-api-1"][1]}
    orch.up(manifest)  # the manifest's number again
    assert {one["name"]: one["address"] for one in orch.ps()} == {n: a for n, (_, a) in before.items()}


def test_scale_to_nothing_and_back(pair: Orch) -> None:
    pair.run("scale", "-p", "pair", "web=0")
    assert pids(pair).keys() == {"pair-db-1"}
    pair.run("scale", "-p", "pair", "web=1")
    assert pids(pair).keys() == {"pair-db-1", "pair-web-1"}


def test_scale_refuses_two_of_one_port(orch: Orch) -> None:
    orch.up(
        orch.manifest(f"""
        name = "fixed"
        [services.a]
        command = ["sleep", "1000"]
        init = true
        ports = ["{free_port()}:80"]
        """)
    )
    done = orch.run("scale", "-p", "fixed", "a=2", check=False)
    assert done.returncode == 2
    assert "it publishes a fixed port" in done.stderr
    assert len(orch.ps()) == 1
