"""Durations and sizes, both ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(("text", "seconds"), [
    ("0s", 0.0), ("500ms", 0.5), ("10s", 10.0), ("1.5s", 1.5), ("1m30s", 90.0), ("1h5m30s20ms", 3930.02),
    ("2h", 7200.0), ("1d", 86400.0), ("30us", 3e-05), (" 5s ", 5.0),
])  # fmt: skip
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-5s", "5x", "1s1s", "1m 5s", "1e3s", "five", ".5s", "infs"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"1m30s|names a unit twice"):
        parse_duration(text)


@given(st.integers(0, 10**15))
def test_written_durations_read_back_to_the_microsecond(micros: int) -> None:
    assert parse_duration(format_duration(micros / 1e6)) == pytest.approx(micros / 1e6, abs=1e-6)


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0s"), (0.25, "250ms"), (90, "1m30s"), (86400 * 2 + 0.001, "2d1ms"), (1e-6, "1us"), (1e-9, "0s"),
])  # fmt: skip
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("text", "count"), [
    ("0", 0), ("4096", 4096), ("1k", 1024), ("256M", 256 << 20), ("256MB", 256 << 20), ("256MiB", 256 << 20),
    ("1.5G", 3 << 29), ("2 GB", 2 << 30), ("1T", 1 << 40), ("12b", 12),
])  # fmt: skip
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1MM", "1e3", "0x10", "1,5G"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="256M"):
        parse_size(text)


@pytest.mark.parametrize(("count", "text"), [
    (0, "0"), (1000, "1000"), (64 << 20, "64M"), (3 << 29, "1.5G"), (1 << 40, "1T"), (1 << 50, "1024T"),
])  # fmt: skip
def test_sizes_are_written_short(count: int, text: str) -> None:
    assert format_size(count) == text


@given(st.integers(0, 1 << 60))
def test_written_sizes_read_back_to_a_twentieth(count: int) -> None:
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.05)


@pytest.mark.parametrize("parse", [parse_duration, parse_size])
@given(text=st.text(max_size=12) | st.from_regex(r"[0-9.]{1,6}[a-zA-Z]{0,3}", fullmatch=True))
def test_any_text_is_read_or_refused_by_name(parse: Callable[[str], float], text: str) -> None:
    refusal = ""
    value = 0.0
    try:
        value = parse(text)
    except ValueError as error:
        refusal = str(error)
    assert value >= 0
    assert not refusal or repr(text) in refusal


@pytest.mark.parametrize(("parse", "unit"), [(parse_duration, "s"), (parse_size, "")])
def test_absurd_numbers_are_refused(parse: Callable[[str], float], unit: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse("9" * 400 + unit)
