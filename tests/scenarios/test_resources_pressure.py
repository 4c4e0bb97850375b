"""Containers that wait too much: for processors, of which two programs get a fifth together."""

from __future__ import annotations

import pytest

from support.cli import Orch
from support.lifecycle import events
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "psi")

SPIN = "while :; do :; done"
#: Two seconds: the kernel watches these windows for everybody.
TRIGGER = 'resource = "cpu", threshold = "20%", window = "2s", sustained = "2s"'


def manifest(orch: Orch, action: str, script: str = f"({SPIN}) & {SPIN}", trigger: str = TRIGGER) -> str:
    """Two services with the same trigger: one waits all the time, the other has nothing to do."""
    orch.project = "p"
    return orch.manifest(
        f"""
        name = "p"
        [defaults]
        resources = {{ cpus = 0.2 }}
        pressure = {{ {trigger}, action = "{action}" }}
        stop_grace_period = "200ms"
        [services.busy]
        command = ["sh", "-c", '''{script}''']
        [services.idle]
        command = ["sleep", "1000"]
        """,
        "pressure.toml",
    )


def told(orch: Orch, service: str, action: str) -> list[str]:
    """The sentences of such events."""
    return [event["message"] for event in events(orch, "p", service) if event["action"] == action]


def test_a_container_that_waits_too_much_is_restarted_and_one_that_does_not_is_left_alone(orch: Orch) -> None:
    orch.up(manifest(orch, "restart"))
    idle = orch.container("idle")
    before = orch.container("busy")

    def again() -> bool:
        now = orch.container("busy")
        return (now["restarts"], now["state"]) == (1, "running")

    wait_until("it has been restarted", again, timeout=40, interval=0.2)
    assert orch.container("busy")["pid"] != before["pid"]
    (reason,) = told(orch, "busy", "pressure")
    assert reason.startswith("cpu pressure: some ")
    assert reason.endswith("(threshold 20% over 2s)")
    assert told(orch, "busy", "restarting")[0].startswith("cpu pressure: some ")
    assert (orch.container("idle")["pid"], told(orch, "idle", "pressure")) == (idle["pid"], [])


def test_pressure_is_a_reason_while_it_lasts_and_the_trigger_changes_in_place(orch: Orch) -> None:
    spinners = f"({SPIN}) & first=$$!; ({SPIN}) & second=$$!; trap 'kill $$first $$second' USR1"
    script = f"{spinners}; while :; do sleep 1000 & wait $$!; done"
    orch.up(manifest(orch, "none", script))
    wait_until(
        "ps says so", lambda: "cpu pressure" in orch.container("busy")["reason"], timeout=40, interval=0.2
    )
    (trigger,) = orch.inspect("busy")["pressure"]
    assert (trigger["trigger"], trigger["action"]) == ("cpu some 20% over 2s for 2s", "none")
    assert trigger["sustained"]
    assert "cpu some 20% over 2s for 2s" in orch.run("inspect", "--format", "text", "-p", "p", "busy").stdout
    # The same program, which ends its work when it is told to: by the trigger.
    orch.up(manifest(orch, "signal:SIGUSR1", script))
    wait_until("it is over", lambda: told(orch, "busy", "pressure-eased"), timeout=40, interval=0.2)
    now = orch.container("busy")
    assert (now["reason"], now["restarts"], now["state"]) == ("", 0, "running")
    assert told(orch, "busy", "pressure")[-1].endswith(", sent SIGUSR1")


def test_a_window_that_the_kernel_does_not_watch_for_us_is_refused_with_its_line(orch: Orch) -> None:
    done = orch.up(manifest(orch, "none", trigger=TRIGGER.replace('"2s"', '"3s"', 1)), check=False)
    if done.returncode == 0:  # orch has CAP_SYS_RESOURCE here
        return
    assert done.returncode == 2
    assert ":5: defaults.pressure: a window of 3s takes CAP_SYS_RESOURCE, which orch lacks" in done.stderr
    assert orch.ps() == []
