"""Scenarios run in the sandbox, drive one instance of their own, and leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator

import pytest

from support.cli import Orch, make_base
from support.plugin import inside_the_sandbox, leaves_nothing_behind

__all__ = ["inside_the_sandbox", "leaves_nothing_behind", "orch"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put an instance's artifacts into the report of the test that failed, while it still lives."""
    report = yield
    if report.failed and call.when == "call" and isinstance(item, pytest.Function):
        instance = item.funcargs.get("orch")
        if isinstance(instance, Orch):
            report.sections += [(title, text) for title, text in instance.artifacts() if text]
    return report


@pytest.fixture
def orch(leaves_nothing_behind: None, request: pytest.FixtureRequest) -> Iterator[Orch]:
    """An instance of the test's own. Afterwards everything is brought down, and nothing may be left."""
    instance = Orch(make_base())
    yield instance
    problems = instance.close()
    if problems:
        for title, text in instance.artifacts():
            request.node.add_report_section("teardown", title, text)
    shutil.rmtree(instance.base, ignore_errors=True)
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
