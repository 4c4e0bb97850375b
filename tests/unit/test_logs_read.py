import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.logs import read as module
from orchestrator.logs.files import LogFile, LogWriter
from orchestrator.logs.format import LogRecord, entry, format_time
from orchestrator.logs.read import read
from orchestrator.spec import Logging

_START = 1_475_713_029_000_000_000
#: seconds since the entry before, stream, partial, content
_ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["stdout", "stderr"]),
        st.booleans(),
        st.binary(max_size=20).map(lambda content: content.replace(b"\n", b"")),
    ),
    max_size=40,
)


def _write(directory: Path, entries: list[tuple[int, str, bool, bytes]], max_size: int) -> list[LogRecord]:
    """Write the entries; the lines that they are, each at the place of its last piece, found naively."""
    writer = LogWriter(str(directory), Logging(max_size=max_size, max_files=1000))
    now = _START
    placed: list[tuple[int, LogRecord]] = []
    pieces: dict[str, list[tuple[int, float, bytes]]] = {"stdout": [], "stderr": []}

    def complete(stream: str) -> None:
        if found := pieces[stream]:
            placed.append(
                (found[-1][0], LogRecord(found[0][1], stream, b"".join(piece[2] for piece in found)))
            )
            found.clear()

    for place, (seconds, stream, partial, content) in enumerate(entries):
        now += seconds * 1_000_000_000
        writer.append(entry(format_time(now), stream.encode(), partial, content))
        pieces[stream].append((place, now / 1e9, content))
        if not partial:
            complete(stream)
    writer.close()
    complete("stdout")
    complete("stderr")
    return [record for _, record in sorted(placed)]


@settings(deadline=None)
@given(
    _ENTRIES,
    st.integers(1, 400),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 60),
    st.integers(1, 99),
)
def test_tail_and_since_give_what_reading_everything_would(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[int, str, bool, bytes]],
    max_size: int,
    tail: int | None,
    since: int | None,
    block: int,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    expected = _write(directory, entries, max_size)
    if tail is not None:
        expected = expected[max(0, len(expected) - tail) :]
    start = None if since is None else _START / 1e9 + since
    expected = [record for record in expected if start is None or record.time >= start]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = list(read(str(directory), tail, start))
    assert sorted(found) == sorted(expected)
    for stream in ("stdout", "stderr"):
        assert [record for record in found if record.stream == stream] == [
            record for record in expected if record.stream == stream
        ]


def test_a_log_that_was_never_written_has_no_lines(tmp_path: Path) -> None:
    assert list(read(str(tmp_path / "none"), tail=5)) == []


def test_an_entry_in_the_middle_of_being_written_is_left_for_later(tmp_path: Path) -> None:
    whole = entry(format_time(_START), b"stdout", False, b"whole")
    (tmp_path / "container.log").write_bytes(whole + whole[:-3])
    assert [record.line for record in read(str(tmp_path))] == [b"whole"]
    assert [record.line for record in read(str(tmp_path), tail=9)] == [b"whole"]


def test_tail_reads_only_the_end_of_a_long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = entry(format_time(_START), b"stdout", False, b"x" * 100)
    (tmp_path / "container.log").write_bytes(line * 100_000)
    amounts: list[int] = []
    original = LogFile.read

    def counted(self: LogFile, size: int, offset: int) -> bytes:
        amounts.append(size)
        return original(self, size, offset)

    monkeypatch.setattr(LogFile, "read", counted)
    assert len(list(read(str(tmp_path), tail=100))) == 100
    assert sum(amounts) <= 3 * module.BLOCK


def test_files_that_ended_before_since_are_not_opened_to_the_reader(tmp_path: Path) -> None:
    newest = entry(format_time(_START), b"stdout", False, b"newest")
    (tmp_path / "container.log").write_bytes(newest)
    (tmp_path / "container.log.1").write_bytes(newest.replace(b"newest", b"older"))
    os.utime(tmp_path / "container.log.1", (0, 0))
    assert [record.line for record in read(str(tmp_path), since=_START / 1e9)] == [b"newest"]
