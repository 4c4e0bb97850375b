"""The fixtures that the kernel tests and the scenarios share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support import leaks, sandbox


@pytest.fixture(scope="session", autouse=True)
def inside_the_sandbox() -> None:
    """Everything from the first of these tests on happens in the sandbox (see :mod:`support.sandbox`)."""
    if os.geteuid() == 0:  # without root every such test skips or fails for that reason
        sandbox.enter()


@pytest.fixture(autouse=True)
def leaves_nothing_behind(inside_the_sandbox: None) -> Iterator[None]:
    """Fails a test that leaves a process, mount, namespace, interface, cgroup or table behind, by name."""
    if not sandbox.entered():
        yield
        return
    before = leaks.take()
    yield
    left = leaks.left_since(before, leaks.SETTLE_SECONDS)
    if left:
        pytest.fail("left behind:\n" + "\n".join(f"  {line}" for line in left), pytrace=False)
