import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.logs.files import LogWriter, open_files, path
from orchestrator.logs.format import entry
from orchestrator.logs.read import read
from orchestrator.spec import Logging

STAMP = b"2016-10-06T00:17:09.669794202Z"


def _entries(*contents: bytes) -> bytes:
    return b"".join(entry(STAMP, b"stdout", False, content) for content in contents)


def _contents(directory: Path) -> list[bytes]:
    return [record.line for record in read(str(directory))]


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """A limit on files' sizes, at which write(2) fails with EFBIG as it does with ENOSPC on a full disk."""
    limit = 20_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")), max_size=9), max_size=12
    ),
    st.integers(1, 600),
)
def test_rotation_neither_loses_nor_repeats_nor_exceeds(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[bytes]], max_size: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    writer = LogWriter(str(directory), Logging(max_size=max_size, max_files=1000))
    for contents in appends:
        writer.append(_entries(*contents))
    writer.close()
    assert _contents(directory) == [content for contents in appends for content in contents]
    for file in directory.iterdir():
        data = file.read_bytes()
        assert len(data) <= max_size or data.count(b"\n") == 1
        assert data.endswith(b"\n") or not data


def test_no_more_than_max_files_are_kept(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path), Logging(max_size=100, max_files=3))
    for number in range(50):
        writer.append(_entries(b"%d" % number))
    writer.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "container.log",
        "container.log.1",
        "container.log.2",
    ]
    kept = _contents(tmp_path)
    assert kept == [b"%d" % number for number in range(50 - len(kept), 50)]


def test_with_one_file_rotation_begins_it_anew(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path), Logging(max_size=100, max_files=1))
    for number in range(9):
        writer.append(_entries(b"%d" % number))
    writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["container.log"]
    assert _contents(tmp_path)[-1] == b"8"


def test_files_beyond_a_lowered_limit_are_removed(tmp_path: Path) -> None:
    for max_files in (5, 2):
        writer = LogWriter(str(tmp_path), Logging(max_size=60, max_files=max_files))
        for number in range(9):
            writer.append(_entries(b"%d" % number))
        writer.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_half_written_entry_of_a_killed_service_is_ended(tmp_path: Path) -> None:
    (tmp_path / "container.log").write_bytes(STAMP + b" stdout F one\n" + STAMP + b" stdout F tw")
    writer = LogWriter(str(tmp_path), Logging())
    writer.append(_entries(b"three"))
    writer.close()
    assert _contents(tmp_path) == [b"one", b"tw", b"three"]


def test_a_full_disk_costs_whole_lines_and_says_how_many(tmp_path: Path, file_size_limit: int) -> None:
    writer = LogWriter(str(tmp_path), Logging(max_size=1 << 20))
    line = b"x" * 100
    count = 300
    writer.append(_entries(*[line] * count))
    assert writer.trouble == "File too large"
    written = len(_contents(tmp_path))
    assert 0 < written < count
    assert os.path.getsize(path(str(tmp_path), 0)) <= file_size_limit
    assert Path(path(str(tmp_path), 0)).read_bytes().endswith(b"\n")
    soft, hard = file_size_limit * 10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # the disk has room again
    writer.append(_entries(b"after"))
    writer.close()
    lost = count - written
    size = lost * len(_entries(line))
    gap = b"[orch] %d lines (%d bytes) of log lost here: File too large" % (lost, size)
    assert _contents(tmp_path)[written:] == [gap, b"after"]
    assert writer.trouble == ""


def test_what_was_lost_at_the_end_is_said_at_the_end(tmp_path: Path, file_size_limit: int) -> None:
    writer = LogWriter(str(tmp_path), Logging(max_size=1 << 20))
    writer.append(_entries(*[b"x" * 100] * 300))
    soft, hard = file_size_limit * 10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.finish()
    assert b"of log lost here" in _contents(tmp_path)[-1]


def test_a_directory_that_cannot_be_made_loses_lines_and_recovers(tmp_path: Path) -> None:
    blocker = tmp_path / "logs"
    blocker.write_text("a file where the directory should be")
    writer = LogWriter(str(blocker), Logging())
    writer.append(_entries(b"lost"))
    assert writer.trouble
    blocker.unlink()
    writer.append(_entries(b"kept"))
    writer.close()
    assert [line[:15] for line in _contents(blocker)] == [b"[orch] 1 line (", b"kept"]


def test_if_rotation_is_refused_the_file_grows(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path), Logging(max_size=60, max_files=3))
    (tmp_path / "container.log.new").mkdir()  # where the new file would be made
    writer.append(_entries(b"one", b"two", b"three"))
    writer.close()
    assert _contents(tmp_path) == [b"one", b"two", b"three"]


def test_a_file_met_twice_while_rotating_is_opened_once(tmp_path: Path) -> None:
    (tmp_path / "container.log").write_bytes(b"new")
    os.link(tmp_path / "container.log", tmp_path / "container.log.1")
    (tmp_path / "container.log.3").write_bytes(b"old")
    assert [file.read(9, 0) for file in open_files(str(tmp_path))] == [b"old", b"new"]


def test_a_directory_that_does_not_exist_has_no_files(tmp_path: Path) -> None:
    assert open_files(str(tmp_path / "none")) == []
