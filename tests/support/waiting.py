"""Waiting for a state, with a deadline and a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineError(AssertionError):
    """The state did not come; the text says which, and what was seen last."""


def wait_until(what: str, probe: Callable[[], T], timeout: float = 10.0, interval: float = 0.01) -> T:
    """The first truthy value of ``probe``, asked every ``interval`` seconds.

    :param what: the state that is waited for, in words.
    :raises DeadlineError: after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise DeadlineError(f"after {timeout:g} s still waiting until {what}; last seen: {value!r}")
        time.sleep(interval)
