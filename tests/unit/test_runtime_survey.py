"""Who is in which namespace, from what /proc has said."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernel.process import Namespace
from orchestrator.runtime.survey import Occupants, Resident, find_places, survey

HOST = {"net": 1, "pid": 2}


def test_the_first_process_comes_first() -> None:
    inodes = {7: {"net": 20, "pid": 30}, 5: {"net": 21, "pid": 30}}
    assert find_places([7, 5], inodes) == {"net": {20: 7, 21: 5}, "pid": {30: 7}}
    assert find_places([5, 7], inodes) == {"net": {21: 5, 20: 7}, "pid": {30: 5}}


def test_what_is_kept_without_a_process() -> None:
    kept = [Namespace("net", 20), Namespace("user", 40)]
    assert find_places([], {}, kept) == {"net": {20: None}, "user": {40: None}}
    assert find_places([7], {7: {"net": 20}}, kept) == {"net": {20: 7}, "user": {40: None}}


def test_a_process_that_is_gone_is_nowhere() -> None:
    assert find_places([7, 8], {8: {"net": 3}}) == {"net": {3: 8}}


def test_who_shares() -> None:
    places = {"a": {"net": {20: 7}}, "b": {"net": {20: 8, 1: 9}}, "c": {"net": {1: 3}}, "d": {"pid": {20: 4}}}
    occupants = Occupants(places, HOST)
    assert occupants.others("a", "net", 20) == ("b",)
    assert occupants.others("x", "net", 20) == ("a", "b")
    assert occupants.others("c", "net", 1) == ("host",)
    assert occupants.others("d", "pid", 20) == ()


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.integers(2, 5), max_size=3)))
def test_sharing_is_mutual(seats: dict[str, set[int]]) -> None:
    occupants = Occupants({name: {"net": dict.fromkeys(inodes, 1)} for name, inodes in seats.items()}, HOST)
    for name, inodes in seats.items():
        for inode in inodes:
            for other in occupants.others(name, "net", inode):
                assert name in occupants.others(other, "net", inode)


def test_a_survey_of_this_process() -> None:
    found = survey([Resident("me", [os.getpid()]), Resident("ended")], ["uts", "pid"])
    assert found["ended"] == []
    assert [(each.namespace.kind, each.first, each.pid) for each in found["me"]] == [
        ("uts", True, os.getpid()), ("pid", True, os.getpid()),
    ]  # fmt: skip
    assert all("host" in each.sharers and each.processes > 0 for each in found["me"])
