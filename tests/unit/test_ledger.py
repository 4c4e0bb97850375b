from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ledger import Entry, Ledger, read

NAMES = st.sampled_from(["a", "b", "c", "d"])


def test_what_is_owned_and_not_freed_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger")
    ledger = Ledger(path)
    ledger.own("container", "c1", cgroup="orch/x", folders=["/a"])
    ledger.own("network", "p/default", bridge="orb-1")
    ledger.own("container", "c2", cgroup="orch/y", folders=[])
    ledger.free("container", "c1")
    assert list(read(path)) == [
        Entry("network", "p/default", {"bridge": "orb-1"}),
        Entry("container", "c2", {"cgroup": "orch/y", "folders": []}),
    ]


def test_a_new_ledger_takes_over_what_an_old_one_owned(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger")
    Ledger(path).own("container", "c1", cgroup="x")
    successor = Ledger(path)
    assert [entry.name for entry in successor.owned("container")] == ["c1"]
    successor.free("container", "c1")
    assert list(read(path)) == []


def test_a_line_that_was_cut_short_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(str(path))
    ledger.own("container", "c1")
    ledger.own("container", "c2")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert [entry.name for entry in read(str(path))] in ([], ["c1"], ["c1", "c2"])


def test_closing_removes_the_file_exactly_when_nothing_is_owned(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(str(path))
    ledger.own("container", "c1")
    ledger.close()
    assert path.exists()
    ledger = Ledger(str(path))
    ledger.free("container", "c1")
    ledger.close()
    assert not path.exists()


@given(st.lists(st.tuples(st.booleans(), NAMES), max_size=60))
def test_any_history_reads_back_as_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[bool, str]]
) -> None:
    path = str(tmp_path_factory.mktemp("l") / "ledger")
    ledger = Ledger(path)
    model: dict[str, int] = {}
    for number, (own, name) in enumerate(history):
        if own:
            ledger.own("container", name, number=number)
            model[name] = number
        else:
            ledger.free("container", name)
            model.pop(name, None)
    assert {entry.name: entry.data["number"] for entry in read(path)} == model
    ledger.close()
