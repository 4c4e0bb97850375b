"""The event loop's watchdog sees a blocked loop, names the code, and leaves a turning loop alone."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from structlog.testing import capture_logs

from orchestrator.service import watchdog
from orchestrator.service.watchdog import LoopWatchdog, Stall
from support.waiting import wait_until

LIMIT = 0.02


def _hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.may_block
async def test_a_blocked_loop_is_reported_with_the_stack_of_the_blocker() -> None:
    reported = asyncio.Event()
    stalls: list[Stall] = []
    loop = asyncio.get_running_loop()

    def on_stall(stall: Stall) -> None:
        stalls.append(stall)
        loop.call_soon_threadsafe(reported.set)

    with LoopWatchdog(loop, LIMIT, on_stall) as dog:
        _hold_the_loop(LIMIT * 4)
        await asyncio.wait_for(reported.wait(), 5)
    assert dog.stalls == len(stalls) >= 1
    assert LIMIT <= stalls[0].seconds <= LIMIT * 4 + 0.5
    assert "_hold_the_loop" in stalls[0].stack


async def test_a_loop_that_waits_is_not_blocked() -> None:
    with LoopWatchdog(asyncio.get_running_loop(), 0.1, lambda _: None) as dog:
        await asyncio.sleep(0.25)
    assert dog.stalls == 0


async def test_stopping_does_not_wait_for_the_limit() -> None:
    threads = set(threading.enumerate())
    dog = LoopWatchdog(asyncio.get_running_loop(), 30, lambda _: None).start()
    assert set(threading.enumerate()) > threads
    began = time.monotonic()
    dog.stop()
    assert time.monotonic() - began < 5
    assert set(threading.enumerate()) == threads


@pytest.mark.may_block
async def test_the_service_logs_stalls_when_the_environment_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watchdog.VARIABLE, "20")
    with capture_logs() as logs:
        dog = watchdog.watch_from_environment()
        assert dog is not None
        _hold_the_loop(0.08)
        await asyncio.to_thread(wait_until, "the stall is reported", lambda: dog.stalls and logs)
        dog.stop()
    entry = next(entry for entry in logs if entry["event"] == watchdog.EVENT)
    assert entry["milliseconds"] >= 20
    assert "_hold_the_loop" in entry["stack"]


async def test_it_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(watchdog.VARIABLE, raising=False)
    assert watchdog.watch_from_environment() is None
