import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.logs.format import (
    LINE_LIMIT,
    RECORD_LIMIT,
    Entry,
    Joiner,
    LogRecord,
    Parser,
    entry,
    format_time,
    frame,
    parse_time,
)

STAMP = b"2016-10-06T00:17:09.669794202Z"
SECONDS = 1475713029.669794202
_LINES = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, 3 * LINE_LIMIT).map(lambda n: b"x" * n)).map(
        lambda line: line.replace(b"\n", b"\0")
    ),
    max_size=12,
)


def _lines(entries: bytes) -> list[bytes]:
    parser = Parser()
    return [record.line for record in Joiner().join(map(parser.parse, entries.split(b"\n")[:-1]))]


def test_an_entry_is_written_as_the_cri_has_it() -> None:
    entries, rest = frame(b"The content\n", STAMP, b"stdout")
    assert entries == b"2016-10-06T00:17:09.669794202Z stdout F The content\n"
    assert rest == b""


def test_time_field_has_nanoseconds() -> None:
    assert format_time(1475713029_669794202) == STAMP
    assert format_time(0) == b"1970-01-01T00:00:00.000000000Z"


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_time_survives_the_round_trip_to_a_microsecond(nanoseconds: int) -> None:
    assert parse_time(format_time(nanoseconds).decode()) == pytest.approx(nanoseconds / 1e9, abs=1e-6, rel=0)


@pytest.mark.parametrize(
    "text",
    [
        "2016-10-06T00:17:09.669794202Z",
        "2016-10-06T02:17:09.669794202+02:00",
        "2016-10-05T23:47:09.669794202-00:30",
    ],
)
def test_times_of_other_zones_are_read(text: str) -> None:
    assert parse_time(text) == pytest.approx(SECONDS, abs=1e-6, rel=0)


def test_a_time_without_fraction_is_read() -> None:
    assert parse_time("1970-01-01T00:00:01Z") == 1.0


@given(st.text(max_size=40))
def test_what_is_no_time_is_refused_with_value_error(text: str) -> None:
    try:
        assert parse_time(text) == parse_time(text)
    except ValueError:
        pass


@given(_LINES, st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), st.data())
def test_framed_lines_come_back_however_they_were_cut_into_chunks(
    lines: list[bytes], end: bytes, data: st.DataObject
) -> None:
    stream = b"".join(line + b"\n" for line in lines) + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    framed, rest = b"", b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        entries, rest = frame(rest + stream[start:stop], STAMP, b"stderr")
        framed += entries
        assert len(rest) <= LINE_LIMIT
    assert _lines(framed + entry(STAMP, b"stderr", False, rest)) == [*lines, end]
    assert all(len(line) <= LINE_LIMIT + len(STAMP) + 10 for line in framed.split(b"\n"))


@pytest.mark.parametrize("excess", [-1, 0, 1, LINE_LIMIT - 1, LINE_LIMIT, LINE_LIMIT + 1])
def test_only_a_line_beyond_the_limit_is_partial(excess: int) -> None:
    entries, _ = frame(b"a\n" + b"x" * (LINE_LIMIT + excess) + b"\nb\n", STAMP, b"stdout")
    tags = [line.split(b" ")[2] for line in entries.split(b"\n")[:-1]]
    pieces = 1 if excess <= 0 else 2 if excess <= LINE_LIMIT else 3
    assert tags == [b"F", *[b"P"] * (pieces - 1), b"F", b"F"]


@given(st.binary(max_size=80).filter(lambda line: b"\n" not in line))
def test_a_damaged_line_is_shown_as_it_is(line: bytes) -> None:
    parser = Parser()
    before = parser.parse(STAMP + b" stderr F before")
    assert parser.parse(line) == Entry(before.time, "stdout", False, line)


def test_pieces_of_both_streams_may_be_interleaved() -> None:
    entries = [
        Entry(1.0, "stdout", True, b"a"),
        Entry(2.0, "stderr", True, b"x"),
        Entry(3.0, "stdout", False, b"b"),
        Entry(4.0, "stderr", True, b"y"),
    ]
    joiner = Joiner()
    assert list(joiner.join(entries)) == [LogRecord(1.0, "stdout", b"ab")]
    assert list(joiner.finish()) == [LogRecord(2.0, "stderr", b"xy")]
    assert list(joiner.finish()) == []


def test_a_line_without_end_comes_in_records_of_bounded_length() -> None:
    piece = Entry(1.0, "stdout", True, b"x" * LINE_LIMIT)
    joiner = Joiner()
    records = [*joiner.join([piece] * 200), *joiner.finish()]
    assert sum(len(record.line) for record in records) == 200 * LINE_LIMIT
    assert max(len(record.line) for record in records) == RECORD_LIMIT


def test_a_record_that_is_not_utf8_has_a_text_all_the_same() -> None:
    assert LogRecord(1.0, "stdout", b"a\xffb").text == "a�b"
