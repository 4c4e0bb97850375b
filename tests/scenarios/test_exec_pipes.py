"""``orch exec`` without a terminal: bytes, exit codes, signals, and clients that go away."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess

import pytest

from support.cli import COMMAND, Orch
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


def start(orch: Orch, *words: str) -> subprocess.Popen[bytes]:
    """``orch WORDS`` with pipes of bytes."""
    return subprocess.Popen(
        (*COMMAND, *words), env=orch.environment, cwd=orch.work, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def processes(orch: Orch) -> list[str]:
    """The commands that run in the containers."""
    return sorted(row["command"] for row in orch.run("top", "--format", "json").json())


IDLE = ["init", "sleep 1000"]


def wait_until_idle(orch: Orch) -> None:
    """Wait until the container has no process but its own."""
    wait_until("nothing but the container's own program runs", lambda: processes(orch) == IDLE)


def test_stdout_and_stderr_stay_apart_and_the_exit_code_is_passed_on(box: Orch) -> None:
    done = box.run("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_a_program_ended_by_a_signal_exits_as_in_a_shell(box: Orch) -> None:
    assert box.run("exec", "web", "sh", "-c", "kill -9 $$", check=False).returncode == 137


def test_a_missing_program_is_127(box: Orch) -> None:
    done = box.run("exec", "web", "no-such-program", check=False)
    assert done.returncode == 127
    assert 'cannot exec no-such-program in "box-web-1"' in done.stderr


def test_a_file_that_cannot_be_executed_is_126(box: Orch) -> None:
    done = box.run("exec", "web", "/etc/hostname", check=False)
    assert done.returncode == 126
    assert "EACCES" in done.stderr


def test_fifty_megabytes_of_bytes_go_in_and_come_out_unchanged(box: Orch) -> None:
    data = os.urandom(1 << 20) * 50
    with start(box, "exec", "web", "cat") as process:
        out, err = process.communicate(data)
    assert (process.returncode, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_the_end_of_the_input_is_passed_on(box: Orch) -> None:
    assert box.run("exec", "web", "wc", "-c", input="12345").stdout == "5\n"


def test_without_input_the_program_reads_nothing(box: Orch) -> None:
    assert box.run("exec", "--no-stdin", "web", "cat").stdout == ""


def test_a_closed_standard_input_is_no_input(box: Orch) -> None:
    words = " ".join((*COMMAND, "exec", "web", "sh", "-c", "'cat; echo end'"))
    done = subprocess.run(
        ["sh", "-c", f"exec {words} <&-"], env=box.environment, cwd=box.work, capture_output=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end\n", b"")


def test_a_program_that_does_not_read_its_input_ends_nevertheless(box: Orch) -> None:
    with start(box, "exec", "web", "true") as process:
        assert process.wait(20) == 0  # our end of its input is still open


def test_all_that_was_written_before_the_end_arrives(box: Orch) -> None:
    assert len(box.run("exec", "web", "sh", "-c", "head -c 60000 /dev/zero | tr '\\0' x").stdout) == 60000


def test_a_process_left_behind_that_goes_on_writing_does_not_keep_us(box: Orch) -> None:
    with start(box, "exec", "web", "sh", "-c", "yes & echo $!") as process:
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"y\n" in out or out.strip().isdigit()
    wait_until_idle(box)  # nobody reads it any more


def test_a_signal_to_the_client_reaches_the_program_and_its_children(box: Orch) -> None:
    script = "trap 'echo caught; exit 3' INT; echo up; sleep 500; echo not reached"
    with start(box, "exec", "web", "sh", "-c", script) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(20) == 3
    wait_until_idle(box)


def test_signals_other_than_interrupts_are_passed_on_too(box: Orch) -> None:
    script = "trap 'echo usr1' USR1; trap 'exit 4' TERM; echo up; while :; do sleep 0.02; done"
    with start(box, "exec", "web", "bash", "-c", script.replace("sleep", "read -t")) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"usr1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 4


def test_the_third_interrupt_ends_a_program_that_ignores_it(box: Orch) -> None:
    with start(box, "exec", "web", "sh", "-c", "trap '' INT; echo up; sleep 500") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        for _ in range(3):
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            wait_until("the signal is taken", lambda: not pending(process.pid))
        assert process.wait(20) == 130
    wait_until_idle(box)


def pending(pid: int) -> bool:
    """Whether a signal waits for the process."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return any(int(line.split()[1], 16) for line in file if line.startswith("ShdPnd"))
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_when_the_client_is_killed_the_program_and_its_children_are(box: Orch) -> None:
    with start(box, "exec", "web", "sh", "-c", "echo up; sleep 500; true") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.kill()
    wait_until_idle(box)


def test_a_reader_that_goes_away_ends_the_program(box: Orch) -> None:
    with start(box, "exec", "web", "yes") as process:
        assert process.stdout
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 128 + signal.SIGPIPE
    wait_until_idle(box)


def test_a_slow_reader_loses_nothing_and_holds_up_nobody_else(box: Orch) -> None:
    with start(box, "exec", "web", "sh", "-c", "seq 200000; echo end >&2") as slow:
        assert box.run("exec", "web", "echo", "other").stdout == "other\n"
        assert slow.stdout
        assert slow.poll() is None  # it waits for us
        assert slow.stdout.read() == b"".join(b"%d\n" % number for number in range(1, 200001))
        assert slow.wait(20) == 0


def test_a_full_disk_under_our_output_is_an_error(box: Orch) -> None:
    with open("/dev/full", "w") as full:
        process = box.popen("exec", "web", "seq", "100000", stdout=full)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "No space left on device" in err
    assert "Traceback" not in err


def test_a_container_that_ends_takes_the_session_with_it(box: Orch) -> None:
    with start(box, "exec", "web", "sh", "-c", "echo up; sleep 500") as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        box.run("kill", "web")
        assert process.wait(20) == 137


def test_exec_in_a_stopped_container_says_so(box: Orch) -> None:
    box.run("stop", "web")
    done = box.run("exec", "web", "true", check=False)
    assert done.returncode == 1
    assert done.stderr == 'orch: cannot exec in "box-web-1": it is exited (start it first)\n'


def test_exec_in_a_paused_container_says_so(box: Orch) -> None:
    box.run("pause", "web")
    done = box.run("exec", "web", "true", check=False)
    assert done.returncode == 1
    assert done.stderr == 'orch: cannot exec in "box-web-1": it is paused (unpause it first)\n'
