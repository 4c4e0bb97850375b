"""``orch up`` in the foreground: logs, Ctrl-C once and twice, a kill of the command itself, exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.cli import Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

PAIR = """
name = "fore"
[defaults]
init = true
stop_grace_period = "5s"
[services.db]
command = ["sh", "-c", "echo db here; echo db trouble >&2; exec sleep 1000"]
[services.web]
command = ["sh", "-c", "echo web here; exec sleep 1000"]
depends_on = ["db"]
ports = ["80"]
volumes = ["data:/data"]
[volumes.data]
"""
#: A program that is asked to stop and takes its time.
STUBBORN = """
name = "fore"
[services.a]
command = ["sh", "-c", "trap : TERM; echo ready; while :; do sleep 0.05; done"]
stop_grace_period = "60s"
"""


def up(orch: Orch, text: str, *words: str, ready: str) -> subprocess.Popen[str]:
    """``orch up`` in the foreground, when its output shows ``ready``."""
    process = orch.popen("up", *words, orch.manifest(text), stderr=subprocess.STDOUT)
    orch.read_until(process, ready)
    return process


def end(process: subprocess.Popen[str], timeout: float = 15) -> tuple[int, str]:
    """Its exit code, and the rest of its output."""
    text, _ = process.communicate(timeout=timeout)
    return process.returncode, text


def nothing_is_left(orch: Orch) -> bool:
    """Whether the service, which was started for this command only, has gone with everything of its own."""
    return not os.path.exists(f"{orch.instance.run_dir}/lock") and not os.path.exists(orch.instance.ledger)


def test_logs_are_shown_with_prefixes(orch: Orch) -> None:
    process = orch.popen("up", orch.manifest(PAIR), stderr=subprocess.DEVNULL)
    seen = orch.read_until(process, "web here\n")
    assert sorted(seen.splitlines()) == ["db-1   | db here", "db-1   | db trouble", "web-1  | web here"]
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130


def test_progress_and_logs_go_to_different_places(orch: Orch) -> None:
    with open(f"{orch.work}/err", "w+") as err:
        process = orch.popen("up", orch.manifest(PAIR), stderr=err)
        orch.read_until(process, "web here\n")
        said = Path(f"{orch.work}/err")
        wait_until("it is said to be up", lambda: "fore is up: 2 containers running" in said.read_text())
        process.send_signal(signal.SIGINT)
        end(process)
    assert "web here" not in said.read_text()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_in_dependency_order_and_leaves_nothing(
    orch: Orch, number: signal.Signals, code: int
) -> None:
    process = up(orch, PAIR, ready="web here")
    process.send_signal(number)
    status, text = end(process)
    assert status == code
    assert re.search(
        r"stopping \(Ctrl-C again kills\).*fore-web-1: removed.*fore-db-1: removed", text, re.DOTALL
    )
    wait_until("nothing is left", lambda: nothing_is_left(orch))
    assert os.listdir(f"{orch.instance.state_dir}/volumes/fore") == ["data"]


def test_logs_are_shown_to_the_end(orch: Orch) -> None:
    process = up(
        orch,
        """
        name = "fore"
        [services.a]
        command = ["sh", "-c", "trap 'echo the last word; exit 0' TERM; echo ready; while :; do sleep 0.02; done"]
        """,
        ready="ready",
    )
    process.send_signal(signal.SIGINT)
    assert "a-1  | the last word" in end(process)[1]


def test_a_second_interrupt_kills_at_once(orch: Orch) -> None:
    process = up(orch, STUBBORN, ready="ready")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    orch.read_until(process, "Ctrl-C again kills")
    process.send_signal(signal.SIGINT)
    status, text = end(process)
    assert status == 130
    assert "killing" in text
    assert time.monotonic() - began < 10
    wait_until("nothing is left", lambda: nothing_is_left(orch))


def test_an_interrupt_while_it_comes_up_leaves_nothing(orch: Orch) -> None:
    process = up(
        orch,
        """
        name = "fore"
        [defaults]
        init = true
        [services.db]
        command = ["sleep", "1000"]
        healthcheck = { test = ["CMD", "false"], interval = "1s", retries = 100 }
        [services.web]
        command = ["sleep", "1000"]
        depends_on = { db = "healthy" }
        """,
        ready="waits for fore-db-1 to be healthy",
    )
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130
    wait_until("nothing is left", lambda: nothing_is_left(orch))


def test_when_the_command_is_killed_the_project_goes_down(orch: Orch) -> None:
    process = up(orch, PAIR, ready="web here")
    process.kill()
    process.wait()
    wait_until("nothing is left", lambda: nothing_is_left(orch), timeout=15)
    assert os.listdir(f"{orch.instance.state_dir}/logs") == []


def test_a_kill_while_it_comes_up_leaves_nothing(orch: Orch) -> None:
    manifest = orch.manifest(PAIR)
    for _ in range(3):
        process = orch.popen("up", manifest, stderr=subprocess.STDOUT)
        orch.read_until(process, "network default")
        process.kill()
        process.wait()
        wait_until("nothing is left", lambda: nothing_is_left(orch), timeout=15)


def test_it_ends_when_somebody_else_brings_it_down(orch: Orch) -> None:
    process = up(orch, PAIR, ready="web here")
    orch.run("down", "-p", "fore")
    status, _ = end(process)
    assert status == 0
    wait_until("nothing is left", lambda: nothing_is_left(orch))


def test_it_ends_when_all_has_ended(orch: Orch) -> None:
    text = """
    name = "jobs"
    [defaults]
    kind = "job"
    [services.a]
    command = ["echo", "first"]
    [services.b]
    command = ["sh", "-c", "echo second; exit CODE"]
    depends_on = { a = "completed" }
    """
    for code in ("0", "5"):
        done = orch.run("up", orch.manifest(text.replace("CODE", code)), check=False)
        assert done.returncode == min(int(code), 1)
        assert done.stdout == "a-1  | first\nb-1  | second\n"


def test_exit_code_from_passes_the_code_on_and_stops_the_rest(orch: Orch) -> None:
    done = orch.run(
        "up", "--exit-code-from", "test",
        orch.manifest("""
        name = "ci"
        [services.server]
        command = ["sleep", "1000"]
        init = true
        [services.test]
        command = ["sh", "-c", "echo testing; exit 9"]
        depends_on = ["server"]
        """),
        check=False,
    )  # fmt: skip
    assert done.returncode == 9
    assert "test-1    | testing" in done.stdout
    wait_until("nothing is left", lambda: nothing_is_left(orch))


def test_abort_on_exit_stops_the_rest(orch: Orch) -> None:
    done = orch.run(
        "up", "--abort-on-exit",
        orch.manifest("""
        name = "ci"
        [defaults]
        init = true
        [services.stays]
        command = ["sleep", "1000"]
        [services.job]
        kind = "job"
        command = ["true"]
        [services.ends]
        command = ["sh", "-c", "sleep 0.3; exit 4"]
        """),
        check=False,
    )  # fmt: skip
    assert done.returncode == 4
    wait_until("nothing is left", lambda: nothing_is_left(orch))


def test_a_start_that_fails_says_why_and_leaves_nothing(orch: Orch) -> None:
    done = orch.run(
        "up",
        orch.manifest("""
        name = "broken"
        [services.good]
        command = ["sleep", "1000"]
        init = true
        [services.bad]
        command = ["/no/such/program"]
        """),
        check=False,
    )
    assert done.returncode == 1
    assert 'cannot start "broken-bad-1"' in done.stderr
    assert "/no/such/program" in done.stderr
    wait_until("nothing is left", lambda: nothing_is_left(orch))


def test_only_the_named_services_are_shown(orch: Orch) -> None:
    process = orch.popen("up", orch.manifest(PAIR), "web", stderr=subprocess.DEVNULL)
    assert orch.read_until(process, "web here\n") == "web-1  | web here\n"
    process.send_signal(signal.SIGINT)
    end(process)
