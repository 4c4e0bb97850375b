"""Waits that come after a plan are shown like its operations."""

from __future__ import annotations

from orchestrator.cli.progress import Model
from orchestrator.views import ProgressKind
from support.fake_service import operation, plan, progress


def test_a_wait_after_the_plan_has_a_row_of_its_own_until_it_is_over() -> None:
    model = Model()
    model.apply(progress(ProgressKind.PLAN, plan=plan(operation("create", "shop-db-1"))), 0.0)
    text = "is not healthy yet (waits at most 1m)"
    row = model.apply(progress(ProgressKind.WAITING, "wait shop-db-1", message=text), 1.0)
    assert row is not None
    assert (row.operation.target, row.message, row.since) == ("shop-db-1", text, 1.0)
    over = model.apply(progress(ProgressKind.DONE, "wait shop-db-1", seconds=2.5), 3.5)
    assert over is row
    assert (row.state, row.seconds) == ("done", 2.5)


def test_a_line_about_nothing_known_makes_no_row() -> None:
    model = Model()
    assert model.apply(progress(ProgressKind.DONE, "wait shop-db-1", seconds=1.0), 0.0) is None
    assert model.rows == {}
