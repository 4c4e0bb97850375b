import contextlib
import os
import pty
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.logs import pump as module
from orchestrator.logs.pump import LogPump
from orchestrator.logs.read import read
from orchestrator.spec import Logging
from support.waiting import wait_until


@contextlib.contextmanager
def _running() -> Iterator[LogPump]:
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()
    try:
        yield pump
    finally:
        pump.stop()
    assert reports == []


@pytest.fixture
def pump() -> Iterator[LogPump]:
    with _running() as pump:
        yield pump


class Run:
    """A container's side: two pipes."""

    def __init__(
        self, pump: LogPump, directory: Path, key: str = "web", logging: Logging | None = None
    ) -> None:
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.closed = threading.Event()
        pump.attach(key, out, err, str(directory), logging or Logging(), self.closed.set)

    def end(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        assert self.closed.wait(10)


def _lines(directory: Path, stream: str = "stdout") -> list[bytes]:
    return [record.line for record in read(str(directory)) if record.stream == stream]


def test_lines_of_both_streams_arrive(pump: LogPump, tmp_path: Path) -> None:
    run = Run(pump, tmp_path)
    os.write(run.stdout, b"one\ntwo\n")
    os.write(run.stderr, b"trouble\n")
    run.end()
    assert _lines(tmp_path) == [b"one", b"two"]
    assert _lines(tmp_path, "stderr") == [b"trouble"]


def test_a_last_line_without_newline_is_kept(pump: LogPump, tmp_path: Path) -> None:
    run = Run(pump, tmp_path)
    os.write(run.stdout, b"one\nno newline")
    run.end()
    assert _lines(tmp_path) == [b"one", b"no newline"]


def test_a_pipe_is_read_to_its_end_after_its_writer_died(pump: LogPump, tmp_path: Path) -> None:
    out, stdout = os.pipe()
    os.write(stdout, b"last words\n")
    os.close(stdout)
    closed = threading.Event()
    pump.attach("web", out, -1, str(tmp_path), Logging(), closed.set)
    assert closed.wait(10)
    assert _lines(tmp_path) == [b"last words"]


def test_nothing_to_read_is_closed_at_once(pump: LogPump, tmp_path: Path) -> None:
    closed = threading.Event()
    pump.attach("web", -1, -1, str(tmp_path), Logging(), closed.set)
    assert closed.wait(10)


def test_a_terminal_is_one_stream_and_ends_when_it_hangs_up(pump: LogPump, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    closed = threading.Event()
    pump.attach("web", master, master, str(tmp_path), Logging(), closed.set)
    os.write(slave, b"hello\n")
    wait_until("the line is in the log", lambda: _lines(tmp_path))
    os.close(slave)
    assert closed.wait(10)
    assert _lines(tmp_path) == [b"hello\r"]


def test_a_restarted_container_appends(pump: LogPump, tmp_path: Path) -> None:
    for number in range(3):
        run = Run(pump, tmp_path)
        os.write(run.stdout, b"run %d" % number)
        run.end()
    assert _lines(tmp_path) == [b"run 0", b"run 1", b"run 2"]


def test_a_restart_needs_not_wait_for_the_old_pipes(pump: LogPump, tmp_path: Path) -> None:
    old = Run(pump, tmp_path)
    new = Run(pump, tmp_path)
    os.write(new.stdout, b"new\n")
    new.end()
    assert not old.closed.is_set()
    os.write(old.stdout, b"old\n")
    old.end()
    assert _lines(tmp_path) == [b"new", b"old"]


def test_drain_takes_what_is_there_and_closes_held_open_pipes(pump: LogPump, tmp_path: Path) -> None:
    run = Run(pump, tmp_path)
    os.write(run.stdout, b"x" * 9_999 + b"\nlast")
    pump.drain("web")
    assert run.closed.wait(10)
    assert _lines(tmp_path) == [b"x" * 9_999, b"last"]
    with pytest.raises(BrokenPipeError):
        os.write(run.stdout, b"nobody reads")
    os.close(run.stdout)
    os.close(run.stderr)


def test_a_line_cut_by_the_end_of_one_pump_is_completed_by_the_next(tmp_path: Path) -> None:
    out, stdout = os.pipe()
    spare = os.dup(out)  # as the spawner has one
    with _running() as pump:
        pump.attach("web", out, -1, str(tmp_path), Logging(), pytest.fail)
        os.write(stdout, b"one\ntwo, be")
    with _running() as pump:
        closed = threading.Event()
        pump.attach("web", spare, -1, str(tmp_path), Logging(), closed.set)
        os.write(stdout, b"gun before\n")
        os.close(stdout)
        assert closed.wait(10)
    assert _lines(tmp_path) == [b"one", b"two, begun before"]


def test_a_cut_line_whose_end_never_comes_does_not_swallow_the_next_run(tmp_path: Path) -> None:
    out, stdout = os.pipe()
    spare = os.dup(out)
    with _running() as pump:
        pump.attach("web", out, -1, str(tmp_path), Logging(), pytest.fail)
        os.write(stdout, b"cut")
    os.close(stdout)
    with _running() as pump:
        closed = threading.Event()
        pump.attach("web", spare, -1, str(tmp_path), Logging(), closed.set)
        assert closed.wait(10)
        run = Run(pump, tmp_path)
        os.write(run.stdout, b"next run\n")
        run.end()
    assert _lines(tmp_path) == [b"cut", b"next run"]


def test_an_unfinished_line_is_in_the_file_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOLD", 0.01)
    with _running() as pump:
        run = Run(pump, tmp_path)
        os.write(run.stdout, b"Password: ")
        wait_until("the prompt is in the log", lambda: _lines(tmp_path) == [b"Password: "])
        os.write(run.stdout, b"***\n")
        run.end()
    assert _lines(tmp_path) == [b"Password: ***"]


@given(
    st.lists(
        st.tuples(st.booleans(), st.binary(max_size=99) | st.integers(1, 40_000).map(lambda n: b"y" * n)),
        max_size=20,
    ),
    st.integers(5_000, 100_000),
)
def test_bytes_written_in_any_pieces_come_back_as_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bool, bytes]], max_size: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    with _running() as pump:
        run = Run(pump, directory, logging=Logging(max_size=max_size, max_files=100_000))
        for to_stdout, data in writes:
            fd = run.stdout if to_stdout else run.stderr
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        run.end()
    for name, side in (("stdout", True), ("stderr", False)):
        written = b"".join(data for to_stdout, data in writes if to_stdout is side)
        expected = written.split(b"\n")
        if not expected[-1]:
            expected.pop()
        assert _lines(directory, name) == expected


def test_no_line_is_lost_when_many_write_fast(pump: LogPump, tmp_path: Path) -> None:
    count, runs = 20_000, [Run(pump, tmp_path / str(number), str(number)) for number in range(8)]

    def write(run: Run) -> None:
        with os.fdopen(run.stdout, "wb", closefd=False) as file:
            for number in range(count):
                file.write(b"line %d of many\n" % number)

    writers = [threading.Thread(target=write, args=(run,)) for run in runs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    expected = [b"line %d of many" % number for number in range(count)]
    for number, run in enumerate(runs):
        run.end()
        assert _lines(tmp_path / str(number)) == expected


def test_subscribers_hear_of_growth_and_of_the_end(pump: LogPump, tmp_path: Path) -> None:
    heard: list[int | None] = []
    unsubscribe = pump.subscribe("web", heard.append)
    run = Run(pump, tmp_path)
    os.write(run.stdout, b"one\n")
    run.end()
    assert heard == [(tmp_path / "container.log").stat().st_size, None]
    unsubscribe()
    run = Run(pump, tmp_path)
    os.write(run.stdout, b"two\n")
    run.end()
    assert len(heard) == 2


def test_notifications_are_fewer_than_lines(pump: LogPump, tmp_path: Path) -> None:
    heard: list[int | None] = []
    pump.subscribe("web", heard.append)
    run = Run(pump, tmp_path)
    with os.fdopen(run.stdout, "wb", closefd=False, buffering=0) as file:
        for _ in range(10_000):
            file.write(b"tick\n")
    run.end()
    assert len(_lines(tmp_path)) == 10_000
    assert len(heard) < 2_000


def test_what_others_do_wrong_in_a_callback_is_reported_and_the_pump_goes_on(tmp_path: Path) -> None:
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()

    def fail(_: int | None) -> None:
        raise LookupError("a bug")

    pump.subscribe("web", fail)
    run = Run(pump, tmp_path)
    os.write(run.stdout, b"one\n")
    run.end()
    pump.stop()
    assert _lines(tmp_path) == [b"one"]
    assert all("a bug" in report for report in reports)
    assert len(reports) == 2


def test_a_disk_that_refuses_is_reported_once_and_holds_nobody_up(tmp_path: Path) -> None:
    blocker = tmp_path / "logs"
    blocker.write_text("a file where the directory should be")
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()
    run = Run(pump, blocker)
    with os.fdopen(run.stdout, "wb", closefd=False) as file:
        for _ in range(100):
            file.write(b"x" * 10_000 + b"\n")
    wait_until("the loss is reported", lambda: reports)
    assert len(reports) == 1
    assert "lines are being lost" in reports[0]
    blocker.unlink()
    os.write(run.stderr, b"room again\n")
    run.end()
    pump.stop()
    assert _lines(blocker, "stderr")[-1] == b"room again"
    assert b"lost here" in _lines(blocker, "stderr")[0]
    assert "written again" in reports[1]


def test_a_descriptor_that_cannot_be_polled_is_reported_and_closed(tmp_path: Path) -> None:
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()
    closed = threading.Event()
    pump.attach("web", os.open(__file__, os.O_RDONLY), -1, str(tmp_path), Logging(), closed.set)
    assert closed.wait(10)
    pump.stop()
    assert reports == ["stdout of web can't be read: Operation not permitted"]


def test_all_descriptors_are_closed(tmp_path: Path, open_descriptors: Callable[[], int]) -> None:
    before = open_descriptors()
    with _running() as pump:
        for key in ("a", "b"):
            Run(pump, tmp_path / key, key).end()
        left = Run(pump, tmp_path / "c", "c")
    os.close(left.stdout)
    os.close(left.stderr)
    assert open_descriptors() == before


@pytest.fixture
def open_descriptors() -> Callable[[], int]:
    return lambda: len(os.listdir("/proc/self/fd"))


def test_a_loss_that_the_log_has_no_room_to_tell_is_reported_at_the_end(tmp_path: Path) -> None:
    blocker = tmp_path / "logs"
    blocker.write_text("a file where the directory should be")
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()
    run = Run(pump, blocker)
    os.write(run.stdout, b"one\ntwo\n")
    run.end()
    pump.stop()
    assert any("2 lines were lost" in report for report in reports)
