"""``orch run``: a one-off container of a service, beside its project or without one."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from support.cli import COMMAND, Orch
from support.terminal import terminal
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

MANIFEST = """
name = "box"

[services.db]
command = ["sh", "-c", "sleep 0.1; touch /tmp/ready; exec sleep 1000"]
init = true
stop_grace_period = "1s"
healthcheck = { test = ["CMD", "test", "-e", "/tmp/ready"], interval = "1s" }

[services.tool]
command = ["sh", "-c", "echo own command"]
environment = { KIND = "tool" }
depends_on = { db = "healthy" }
ports = ["127.0.0.1:8099:80"]
restart = "always"

[services.never]
command = ["sleep", "1000"]
depends_on = { sick = "healthy" }

[services.sick]
command = ["sleep", "1000"]
init = true
stop_grace_period = "1s"
healthcheck = { test = ["CMD", "false"], interval = "1s", start_period = "60s" }
"""


@pytest.fixture
def box(orch: Orch) -> Orch:
    """A manifest; nothing of it is up."""
    orch.project = "box"
    orch.manifest(MANIFEST, "orch.toml")
    return orch


def start(orch: Orch, *words: str) -> subprocess.Popen[bytes]:
    """``orch WORDS`` with pipes of bytes."""
    return subprocess.Popen(
        (*COMMAND, *words), env=orch.environment, cwd=orch.work, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def names(orch: Orch) -> list[str]:
    """The containers that there are; none when nothing is up."""
    done = orch.run("ps", "-a", "--format", "json", check=False)
    return sorted(row["name"] for row in done.json()) if done.returncode == 0 else []


def test_it_runs_the_services_own_command_after_its_dependencies(box: Orch) -> None:
    done = box.run("run", "tool")
    assert done.stdout == "own command\n"
    assert "box-db-1: created" in done.stderr
    assert names(box) == ["box-db-1"]  # the dependency stays, the one-off is gone
    assert box.container("db")["health"] == "healthy"


def test_the_exit_code_is_the_programs(box: Orch) -> None:
    assert box.run("run", "--no-deps", "tool", "sh", "-c", "exit 7", check=False).returncode == 7
    assert box.run("run", "--no-deps", "tool", "sh", "-c", "kill -9 $$", check=False).returncode == 137


def test_without_dependencies_nothing_at_all_is_left(box: Orch) -> None:
    assert box.run("run", "--no-deps", "tool", "echo", "alone").stdout == "alone\n"
    wait_until("the service has gone", lambda: not os.path.exists(box.instance.socket))


def test_beside_its_project_nothing_else_is_touched(box: Orch) -> None:
    box.up("orch.toml", "db")
    before = box.container("db")
    done = box.run("run", "tool", "sh", "-c", "getent hosts db")
    assert done.stdout.split()[0] == before["address"]
    assert done.stderr == ""
    assert box.container("db")["id"] == before["id"]


def test_input_output_and_errors_are_pipes(box: Orch) -> None:
    data = os.urandom(5 << 20)
    with start(box, "run", "--no-deps", "tool", "sh", "-c", "cat; echo done >&2") as process:
        out, err = process.communicate(data)
    assert (out == data, process.returncode) == (True, 0)
    assert err.splitlines()[-1] == b"done"  # before it, what was made for it


def test_the_entrypoint_and_environment_can_be_replaced(box: Orch) -> None:
    done = box.run(
        "run", "--no-deps", "--entrypoint", "sh -c", "-e", "X=1", "tool", "echo $KIND $X ${TERM-none}"
    )
    assert done.stdout == "tool 1 none\n"


def test_it_publishes_no_ports_unless_asked(box: Orch) -> None:
    with start(box, "run", "--no-deps", "--name", "one", "tool", "sleep", "500") as process:
        (row,) = box.wait_state("tool", "running")
        assert (row["name"], row["ports"]) == ("one", [])
        process.kill()
    wait_until("it is gone", lambda: names(box) == [])
    with start(box, "run", "--no-deps", "--publish", "tool", "sleep", "500") as process:
        (row,) = box.wait_state("tool", "running")
        assert [port["published"] for port in row["ports"]] == [8099]
        process.kill()
    wait_until("it is gone", lambda: names(box) == [])


def test_the_planner_does_not_see_it(box: Orch) -> None:
    box.up("orch.toml", "db")
    with start(box, "run", "--name", "one", "tool", "sh", "-c", "echo up; exec sleep 500") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        box.run("plan", "orch.toml", "db")  # exit code 0: nothing to do
        assert box.up("orch.toml", "db").stderr.startswith("box: up to date")
        assert names(box) == ["box-db-1", "one"]
        process.kill()


def test_down_removes_it_and_its_client_hears_of_it(box: Orch) -> None:
    with start(box, "run", "--no-deps", "tool", "sh", "-c", "echo up; exec sleep 500") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        box.run("down", "-p", "box")
        assert process.wait(20) != 0
    assert names(box) == []


def test_kept_it_can_be_looked_at_afterwards(box: Orch) -> None:
    done = box.run("run", "--no-deps", "--keep", "--name", "kept", "tool", "sh", "-c", "exit 3", check=False)
    assert done.returncode == 3
    (row,) = box.containers("tool")
    assert (row["name"], row["state"], row["exit_code"], row["reason"]) == ("kept", "exited", 3, "exited (3)")
    box.run("down", "-p", "box")
    assert names(box) == []


def test_a_name_that_is_taken_is_refused(box: Orch) -> None:
    box.run("run", "--no-deps", "--keep", "--name", "kept", "tool", "true")
    done = box.run("run", "--no-deps", "--name", "kept", "tool", "true", check=False)
    assert done.returncode == 1
    assert 'cannot run "kept": a container of that name exists' in done.stderr


def test_a_name_can_be_used_again_at_once(box: Orch) -> None:
    for _ in range(3):
        box.run("run", "--no-deps", "--name", "once", "tool", "true")


def test_a_missing_program_is_127_and_leaves_nothing(box: Orch) -> None:
    done = box.run("run", "--no-deps", "tool", "no-such-program", check=False)
    assert done.returncode == 127
    assert "no such program" in done.stderr
    wait_until("the service has gone", lambda: not os.path.exists(box.instance.socket))


def test_an_interrupt_ends_a_program_without_a_handler(box: Orch) -> None:
    with start(box, "run", "--no-deps", "tool", "sh", "-c", "echo up; exec sleep 500") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_an_interrupt_while_dependencies_start_ends_the_waiting(box: Orch) -> None:
    with start(box, "run", "never", "true") as process:
        box.wait_state("sick", "running")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert names(box) == ["box-sick-1"]


def test_when_the_client_is_killed_it_is_removed(box: Orch) -> None:
    with start(box, "run", "--no-deps", "tool", "sh", "-c", "echo up; exec sleep 500") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.kill()
    wait_until("the service has gone", lambda: not os.path.exists(box.instance.socket))


def test_many_at_once_share_a_project_that_none_of_them_ends(box: Orch) -> None:
    running = [start(box, "run", "--no-deps", "tool", "sh", "-c", f"echo {n}") for n in range(6)]
    outputs = sorted(process.communicate(timeout=30)[0] for process in running)
    assert outputs == [b"%d\n" % number for number in range(6)]
    assert [process.returncode for process in running] == [0] * 6
    wait_until("the service has gone", lambda: not os.path.exists(box.instance.socket))


def test_on_a_terminal_it_has_size_keys_and_job_control(box: Orch) -> None:
    with terminal(box, "run", "--no-deps", "tool", "bash", "--norc", "-i", rows=40, columns=100) as person:
        person.type("stty size; echo $TERM\r")
        person.read_until("40 100\r\n")
        person.read_until("xterm\r\n")
        person.type("sleep 500\r")
        wait_until("the job runs", lambda: "sleep 500" in box.run("top").stdout)
        person.type("\x1a")
        person.read_until("Stopped")
        person.type("exit 6\r")
        person.read_until("stopped jobs")
        person.type("exit 6\r")
        assert person.wait() == 6
        assert person.is_restored


def test_interrupt_on_a_terminal_is_delivered_once(box: Orch) -> None:
    script = "trap 'echo caught' INT; echo up; while :; do read line && echo \"[$line]\"; done"
    with terminal(box, "run", "--no-deps", "tool", "bash", "-c", script) as person:
        person.read_until("up\r\n")
        person.type("\x03")
        person.read_until("caught")
        person.type("a\r")
        assert "caught" not in person.read_until("[a]")


def test_no_tty_and_no_terminal_are_pipes(box: Orch) -> None:
    with terminal(box, "run", "-T", "--no-deps", "tool", "sh", "-c", "test -t 1 || echo pipe") as person:
        person.read_until("pipe\r\n")
        assert person.wait() == 0
