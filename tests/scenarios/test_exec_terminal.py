"""``orch exec`` on a terminal: its size, its keys, job control, and what is left of it afterwards."""

from __future__ import annotations

import signal

import pytest

from support.cli import Orch
from support.terminal import terminal
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

MANIFEST = """
name = "box"
[services.web]
command = ["sleep", "1000"]
init = true
stop_grace_period = "1s"
"""


@pytest.fixture
def box(orch: Orch) -> Orch:
    """One container, ``web``, that only sleeps."""
    orch.project = "box"
    orch.up(orch.manifest(MANIFEST, "orch.toml"))
    return orch


def states(orch: Orch) -> dict[str, str]:
    """The state of each process in the container, by its command."""
    return {row["command"]: row["state"] for row in orch.run("top", "--format", "json").json()}


def commands(orch: Orch) -> list[str]:
    """What runs in the container."""
    return [row["command"] for row in orch.run("top", "--format", "json").json()]


def test_the_program_has_our_size_and_its_exit_code_is_ours(box: Orch) -> None:
    with terminal(box, "exec", "web", "sh", "-c", "stty size; exit 5", rows=33, columns=111) as person:
        person.read_until("33 111\r\n")
        assert person.wait() == 5


def test_keys_go_through_and_the_terminal_is_restored(box: Orch) -> None:
    with terminal(box, "exec", "web", "sh", "-c", "read word; echo got $word") as person:
        wait_until("the terminal is raw", lambda: person.is_raw)
        person.type("hello\r")
        person.read_until("got hello\r\n")
        assert person.wait() == 0
        assert person.is_restored


def test_a_resized_window_is_told_to_the_program(box: Orch) -> None:
    script = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.02; done"
    with terminal(box, "exec", "web", "sh", "-c", script) as person:
        person.read_until("up\r\n")
        person.resize(50, 132)
        person.read_until("50 132\r\n")


def test_interrupt_ends_the_foreground_job_and_not_the_shell(box: Orch) -> None:
    with terminal(box, "exec", "web", "sh", "-i") as person:
        person.type("PS1='> '; echo rea''dy\r")
        person.read_until("ready\r\n")
        person.type("sleep 500\r")
        wait_until("the job runs", lambda: "sleep 500" in commands(box))
        person.type("\x03")
        person.read_until("> ")
        person.type("echo code $?\r")
        person.read_until("code 130\r\n")
        person.type("exit 9\r")
        assert person.wait() == 9


def test_a_job_is_suspended_and_taken_up_again(box: Orch) -> None:
    with terminal(box, "exec", "web", "bash", "--norc", "-i") as person:
        person.type("sleep 500\r")
        wait_until("the job runs", lambda: "sleep 500" in commands(box))
        person.type("\x1a")
        person.read_until("Stopped")
        person.read_until("# ")
        person.type("fg\r")
        person.read_until("fg\r\n")
        person.read_until("sleep 500\r\n")
        wait_until("it goes on", lambda: states(box)["sleep 500"] == "S")
        person.type("\x03")
        person.read_until("^C")
        person.read_until("# ")
        person.type("echo a''live\r")
        person.read_until("alive\r\n")
        person.type("exit 8\r")
        assert person.wait() == 8
        assert person.is_restored


def test_the_terminal_belongs_to_the_user(box: Orch) -> None:
    with terminal(
        box, "exec", "-u", "nobody", "web", "sh", "-c", "echo hi > $(tty); tty; ls /dev/pts"
    ) as person:
        person.read_until("hi\r\n")
        person.read_until("/dev/pts/0\r\n")
        assert person.wait() == 0


def test_the_programs_terminal_is_one_of_the_containers(box: Orch) -> None:
    with terminal(box, "exec", "web", "sh", "-c", "echo $TERM; ps -o tty= -p $$") as person:
        person.read_until("xterm\r\npts/0\r\n")


def test_our_kind_of_terminal_is_passed_on_when_asked(box: Orch) -> None:
    with terminal(box, "exec", "-e", "TERM", "web", "sh", "-c", "echo $TERM", term="vt220") as person:
        person.read_until("vt220\r\n")


def test_a_closed_window_ends_the_program(box: Orch) -> None:
    with terminal(box, "exec", "web", "bash", "--norc", "-i") as person:
        person.type("sleep 500\r")
        wait_until("the job runs", lambda: "sleep 500" in commands(box))
        person.hang_up()
        person.process.wait(20)
    wait_until("all of it has ended", lambda: commands(box) == ["init", "sleep 1000"])


def test_a_killed_client_ends_the_program(box: Orch) -> None:
    with terminal(box, "exec", "web", "bash", "--norc", "-i") as person:
        person.type("trap '' HUP; sleep 500\r")
        wait_until("the job runs", lambda: "sleep 500" in commands(box))
        person.process.send_signal(signal.SIGKILL)
        person.process.wait(20)
        wait_until("the shell has ended", lambda: not any("bash" in line for line in commands(box)))


def test_a_container_that_ends_gives_the_terminal_back(box: Orch) -> None:
    with terminal(box, "exec", "web", "sh", "-c", "echo up; exec sleep 500") as person:
        person.read_until("up\r\n")
        box.run("kill", "web")
        assert person.wait() == 137
        assert person.is_restored


def test_a_program_that_cannot_start_leaves_the_terminal_as_it_was(box: Orch) -> None:
    with terminal(box, "exec", "web", "no-such-program") as person:
        person.read_until("no such program")
        assert person.wait() == 127
        assert person.is_restored


def test_input_from_a_pipe_ends_a_forced_terminals_program_even_within_a_line(box: Orch) -> None:
    done = box.run("exec", "-t", "web", "sh", "-c", "stty -echo; cat; echo end", input="no newline")
    assert done.stdout.endswith("end\n")
    assert "no newline" in done.stdout
