"""For every test: what it requires of the host, property-test profiles, and a watched event loop."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator

import hypothesis
import pytest

from orchestrator.service.watchdog import LoopWatchdog, Stall
from support import requirements

#: An async test whose loop does not turn for this long is blocking it; may_block takes a test out.
STALL_SECONDS = 0.25

# "default" is quick and varies from run to run; CI tries the same, many examples each time, so that a red
# build is about the change. No deadline per example: the machine may be busy.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True, database=None)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if requirements.in_ci() else "default")
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: skip or fail a test whose host lacks something."""
    names = tuple(str(name) for mark in item.iter_markers("requires") for name in mark.args)
    what, why = requirements.verdict(names, requirements.in_ci())
    if what == "skip":
        pytest.skip(why)
    if what == "fail":
        pytest.fail(why, pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Watch the loop of every async test."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.function)
            and item.get_closest_marker("may_block") is None
        ):
            item.fixturenames.append("watched_loop")


@pytest.fixture
async def watched_loop() -> AsyncIterator[LoopWatchdog]:
    """Fails the test when a callback held the event loop for :data:`STALL_SECONDS` or longer."""
    stalls: list[Stall] = []
    with LoopWatchdog(asyncio.get_running_loop(), STALL_SECONDS, stalls.append) as watchdog:
        yield watchdog
    if stalls:
        pytest.fail("\n".join(str(stall) for stall in stalls), pytrace=False)
