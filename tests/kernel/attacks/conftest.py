"""One service that all attacks share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from support.attack import Target
from support.cli import Orch, make_base


@pytest.fixture(scope="package")
def target(inside_the_sandbox: None) -> Iterator[Target]:
    """A service with a default container; it and all it made is gone afterwards."""
    orch = Orch(make_base())
    made = Target(orch)
    with made.serve():
        try:
            yield made
        finally:
            problems = orch.close()
    shutil.rmtree(orch.base, ignore_errors=True)
    assert not problems, "\n".join(problems)
