"""How the benchmarks judge and show what they measured."""

from __future__ import annotations

import pytest

from bench.measure import Result, from_samples, interleave, ratio, table


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "ok"),
    [
        (1, 1, False, True),
        (1.1, 1, False, False),
        (1, 1, True, True),
        (0.9, 1, True, False),
        (9, None, False, None),
    ],
)
def test_a_limit_is_kept_or_not(value: float, limit: float | None, at_least: bool, ok: bool | None) -> None:
    assert Result("a", "b", value, "x", limit, at_least=at_least).ok is ok


def test_the_value_is_the_median_and_the_ratio_is_to_the_peer() -> None:
    result = from_samples("start", "start", [9.0, 1.0, 2.0], "ms", peer=4.0)
    assert result.value == 2.0
    assert ratio(result, 0.9, "to the peer").value == 0.5


def test_measures_take_turns() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return len(calls)

    assert interleave(2, lambda: measure("a"), lambda: measure("b")) == [[1, 3], [2, 4]]
    assert calls == ["a", "b", "a", "b"]


def test_the_table_is_aligned_and_says_what_is_too_much() -> None:
    results = [
        Result("a", "start", 16.25, "ms", 15.0, peer=17.0),
        Result("b", "traffic", 0.97, "x", 0.95, at_least=True),
        Result("c", "for information", 123.4, "KiB"),
    ]
    assert table(results).splitlines() == [
        "what             measured       limit     peer",
        "start             16.2 ms  <= 15.0 ms  17.0 ms  TOO MUCH",
        "traffic            0.97 x   >= 0.95 x           ok",
        "for information   123 KiB",
    ]
