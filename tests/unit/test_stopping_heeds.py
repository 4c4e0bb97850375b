"""Whether a program would notice a signal, as the kernel shows it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.supervise.stopping import heeds
from support.waiting import wait_until

BLOCKED = "s = signal.valid_signals(); signal.pthread_sigmask(signal.SIG_BLOCK, s); "


@contextmanager
def program(text: str) -> Iterator[int]:
    """The pid of a Python program, which has printed a line and sleeps in its last statement."""
    code = f"import signal, time; {text}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        wait_until("it sleeps", lambda: state(process.pid) == "S")
        yield process.pid
        process.kill()


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    "text",
    [
        "signal.signal(signal.SIGTERM, lambda *_: None); print(flush=True); time.sleep(1000)",
        BLOCKED + "print(flush=True); time.sleep(1000)",
        BLOCKED + "print(flush=True); signal.sigwait(s)",  # as orch's own init does, and tini
    ],
    ids=["handled", "blocked", "awaited"],
)
def test_a_signal_that_is_handled_blocked_or_awaited_is_noticed(text: str) -> None:
    with program(text) as pid:
        assert heeds(pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "text", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN); "], ids=["default", "ignored"]
)
def test_a_signal_without_a_handler_is_not(text: str) -> None:
    with program(text + "print(flush=True); time.sleep(1000)") as pid:
        assert not heeds(pid, signal.SIGTERM)
        assert heeds(pid, signal.SIGKILL)


def test_a_process_that_has_ended_needs_no_asking() -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    assert heeds(done.pid, signal.SIGTERM)
