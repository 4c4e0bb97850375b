"""How containers are stopped, frozen and killed, and what the kernel's limits do to them."""

from __future__ import annotations

import glob
import os
import signal
import time

import pytest

from support.cli import Orch
from support.lifecycle import events
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")


def run(orch: Orch, command: str, more: str = "") -> dict[str, object]:
    """Bring one container up; it, running."""
    orch.up(orch.manifest(f'name = "s"\n[services.x]\ncommand = {command}\n{more}'), "--no-wait")
    return orch.wait_state("x", "running")[0]


def stop(orch: Orch, *words: str) -> float:
    """Stop it; the seconds that took."""
    began = time.monotonic()
    orch.run("stop", "-p", "s", *words)
    return time.monotonic() - began


def messages(orch: Orch, action: str) -> list[str]:
    return [event["message"] for event in events(orch, "s", "x") if event["action"] == action]


def shell(script: str) -> str:
    """A TOML command for a shell script; it must not have ' in it."""
    return f"""["sh", "-c", '''{script.replace("$", "$$")}''']"""


@pytest.mark.parametrize("name", ["SIGQUIT", "SIGINT", "SIGHUP", "SIGUSR1", "SIGRTMIN+3"])
def test_the_stop_signal_is_what_the_program_gets(orch: Orch, name: str) -> None:
    number = 37 if "RTMIN" in name else signal.Signals[name].value
    script = f"""
import signal, sys
def end(number, frame):
    print("got", number, flush=True)
    sys.exit(5)
signal.signal({number}, end)
print("ready", flush=True)
while True: signal.pause()
"""
    run(orch, f"""["python3", "-c", '''{script}''']""", f'stop_signal = "{name}"\nstop_grace_period = "1m"')
    wait_until("it is ready", lambda: "ready" in orch.logs("-p", "s"), interval=0.05)
    stop(orch)
    assert f"got {number}" in orch.logs("-p", "s")
    container = orch.container("x")
    assert (container["state"], container["exit_code"]) == ("exited", 5)
    assert messages(orch, "killed") == []


IGNORES = shell('trap "" TERM; echo ready; while :; do sleep 0.05; done')
REFUSES = shell('trap "echo no" TERM; echo ready; while :; do sleep 0.05; done')


def ready(orch: Orch, command: str, more: str) -> None:
    """Run it, and wait until its handlers are there."""
    run(orch, command, more)
    wait_until("it is ready", lambda: "ready" in orch.logs("-p", "s"), interval=0.05)


@pytest.mark.parametrize(("command", "init"), [(IGNORES, "true"), (REFUSES, "true"), (REFUSES, "false")])
def test_what_does_not_stop_is_killed_after_its_grace(orch: Orch, command: str, init: str) -> None:
    ready(orch, command, f'stop_grace_period = "300ms"\ninit = {init}')
    assert stop(orch) >= 0.3
    assert orch.container("x")["exit_code"] == 137
    assert messages(orch, "killed") == ["did not stop within 300ms"]


def test_a_pid_1_that_ignores_the_signal_is_not_waited_for(orch: Orch) -> None:
    ready(orch, IGNORES, 'stop_grace_period = "1m"')
    assert stop(orch) < 10
    assert messages(orch, "killed") == ["its pid 1 has no handler for SIGTERM (init = true gives it one)"]


def test_a_pid_1_without_a_handler_is_not_waited_for(orch: Orch) -> None:
    run(orch, '["sleep", "1000"]', 'stop_grace_period = "1m"')
    assert stop(orch) < 10
    assert messages(orch, "killed") == ["its pid 1 has no handler for SIGTERM (init = true gives it one)"]


def test_an_init_forwards_the_signal(orch: Orch) -> None:
    run(orch, '["sleep", "1000"]', 'stop_grace_period = "1m"\ninit = true')
    assert stop(orch) < 10
    assert orch.container("x")["exit_code"] == 143
    assert messages(orch, "killed") == []


def test_a_timeout_given_to_stop_replaces_the_grace(orch: Orch) -> None:
    ready(orch, IGNORES, 'stop_grace_period = "10m"\ninit = true')
    stop(orch, "--timeout", "100ms")
    assert messages(orch, "killed") == ["did not stop within 100ms"]


def test_grandchildren_in_sessions_of_their_own_are_gone_after_a_stop(orch: Orch) -> None:
    run(orch, shell('setsid sh -c "setsid sleep 4242 & sleep 4242 &" & trap exit TERM; sleep 1000 & wait'))
    wait_until("its descendants are there", lambda: _processes("sleep\x004242") == 2)
    stop(orch)
    assert _processes("sleep\x004242") == 0


def _processes(words: str) -> int:
    found = 0
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path) as file:
                found += file.read().startswith(words)
        except OSError:
            pass
    return found


def test_a_container_whose_program_closed_its_output_is_supervised_as_any(orch: Orch) -> None:
    script = "import os, signal; os.closerange(0, 3); signal.pause()"
    run(orch, f"""["python3", "-c", "{script}"]""", 'restart = "always"')
    assert orch.container("x")["state"] == "running"
    orch.run("kill", "-p", "s", "-s", "KILL", "x")

    def back() -> bool:
        now = orch.container("x")
        return (now["state"], now["restarts"]) == ("running", 1)

    wait_until("it was restarted", back, interval=0.05)
    stop(orch)
    assert orch.container("x")["state"] == "exited"


COUNTS = shell("n=0; while :; do n=$((n+1)); echo $n > /work/count; done")


def counted(orch: Orch) -> int:
    with open(f"{orch.work}/count") as file:
        return int(file.read().strip() or 0)


def test_a_pause_stops_all_progress_and_unpause_goes_on(orch: Orch) -> None:
    before = run(orch, COUNTS, f'volumes = ["{orch.work}:/work"]')
    wait_until("it counts", lambda: os.path.exists(f"{orch.work}/count") and counted(orch) > 10)
    orch.run("pause", "-p", "s", "x")
    stood = counted(orch)
    assert orch.container("x")["state"] == "paused"  # which takes the time of a command
    assert counted(orch) == stood
    orch.run("unpause", "-p", "s", "x")
    wait_until("it counts on", lambda: counted(orch) > stood)
    assert orch.container("x")["pid"] == before["pid"]


def test_a_paused_container_is_stopped_with_its_signal(orch: Orch) -> None:
    run(orch, '["sleep", "1000"]', "init = true")
    orch.run("pause", "-p", "s")
    stop(orch)
    container = orch.container("x")
    assert (container["state"], container["exit_code"]) == ("exited", 143)


def test_a_paused_container_that_is_killed_from_outside_is_restarted_and_runs(orch: Orch) -> None:
    before = run(orch, '["sleep", "1000"]', 'restart = "always"')
    orch.run("pause", "-p", "s")
    orch.run("kill", "-p", "s", "-s", "KILL", "x")
    (after,) = orch.wait_state("x", "running")
    assert after["pid"] != before["pid"]
    assert orch.run("exec", "-p", "s", "x", "echo", "moving").stdout == "moving\n"


def test_exec_in_a_paused_or_ended_container_is_refused(orch: Orch) -> None:
    run(orch, '["sleep", "1000"]', "init = true")
    orch.run("pause", "-p", "s")
    refused = orch.run("exec", "-p", "s", "x", "true", check=False)
    assert refused.returncode != 0
    assert "it is paused" in refused.stderr
    stop(orch)
    refused = orch.run("exec", "-p", "s", "x", "true", check=False)
    assert "it is exited" in refused.stderr


EATS = "x = bytearray(256 << 20)"


def test_an_oom_kill_is_called_so_with_the_limit(orch: Orch) -> None:
    manifest = f"""
    name = "s"
    [services.x]
    command = ["python3", "-c", "{EATS}"]
    resources = {{ memory = "64M", memory_swap = 0 }}
    """
    orch.up(orch.manifest(manifest), "--no-wait")
    (container,) = orch.wait_state("x", "exited")
    assert (container["exit_code"], container["reason"]) == (137, "killed: out of memory, limit 64M")
    assert messages(orch, "oom") == ["killed: out of memory, limit 64M"]


def test_an_oom_kill_behind_an_init_is_called_so_too(orch: Orch) -> None:
    manifest = f"""
    name = "s"
    [services.x]
    command = ["python3", "-c", "{EATS}"]
    init = true
    resources = {{ memory = "64M", memory_swap = 0 }}
    """
    orch.up(orch.manifest(manifest), "--no-wait")
    (container,) = orch.wait_state("x", "exited")
    assert container["reason"] == "killed: out of memory, limit 64M"


def test_an_oom_kill_of_a_child_is_an_event_and_the_program_lives(orch: Orch) -> None:
    command = shell(f'python3 -c "{EATS}"; echo child $?; sleep 1000')
    before = run(orch, command, 'resources = { memory = "64M", memory_swap = 0 }')
    wait_until("the child was killed", lambda: "child 137" in orch.logs("-p", "s"), interval=0.05)
    wait_until("it is an event", lambda: messages(orch, "oom"), interval=0.05)
    assert messages(orch, "oom") == ["killed: out of memory, limit 64M"]
    after = orch.container("x")
    assert (after["state"], after["pid"]) == ("running", before["pid"])


def test_the_limit_of_processes_holds(orch: Orch) -> None:
    script = """
import os, time
made = 0
try:
    while made < 100:
        if os.fork() == 0: time.sleep(1000)
        made += 1
except OSError as error: print("made", made, error.strerror, flush=True)
time.sleep(1000)
"""
    run(orch, f"""["python3", "-c", '''{script}''']""", "resources = { pids = 20 }")
    text = wait_until("it hit its limit", lambda: orch.logs("-p", "s"), interval=0.05)
    assert "made 19 Resource temporarily unavailable" in text
    stop(orch)
