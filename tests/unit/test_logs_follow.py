import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import KernelError
from orchestrator.logs import follow as module
from orchestrator.logs.files import LogWriter
from orchestrator.logs.follow import LogStream, Source
from orchestrator.logs.format import LogRecord, entry, format_time
from orchestrator.logs.pump import LogPump
from orchestrator.spec import Logging

_START = 1_475_713_029_000_000_000


@pytest.fixture
def pump() -> Iterator[LogPump]:
    reports: list[str] = []
    pump = LogPump(reports.append)
    pump.start()
    yield pump
    pump.stop()
    assert reports == []


class Run:
    """A container's side of its log: one pipe."""

    def __init__(self, pump: LogPump, source: Source, logging: Logging | None = None) -> None:
        out, self.stdout = os.pipe()
        self.closed = threading.Event()
        pump.attach(source.key, out, -1, source.directory, logging or Logging(), self.closed.set)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.stdout, view) :]

    async def end(self) -> None:
        os.close(self.stdout)
        assert await asyncio.to_thread(self.closed.wait, 10)


def _past(source: Source, *records: tuple[int, bytes], logging: Logging | None = None) -> None:
    """A log as an earlier pump left it: (second, line)."""
    writer = LogWriter(source.directory, logging or Logging())
    for second, line in records:
        writer.append(entry(format_time(_START + second * 1_000_000_000), b"stdout", False, line))
    writer.close()


@contextlib.asynccontextmanager
async def _records(stream: LogStream) -> AsyncIterator[AsyncIterator[tuple[str, LogRecord]]]:
    iterator = aiter(stream)
    try:
        yield iterator
    finally:
        await iterator.aclose()  # type: ignore[attr-defined]


async def _all(stream: LogStream) -> list[tuple[str, bytes]]:
    return [(name, record.line) async for name, record in stream]


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Source, Source]:
    return Source("1", "web", str(tmp_path / "web")), Source("2", "db", str(tmp_path / "db"))


async def test_what_is_there_comes_ordered_by_time(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, db = sources
    _past(web, (1, b"a"), (4, b"d"), (4, b"e"))
    _past(db, (2, b"b"), (3, b"c"), (5, b"f"))
    found = await _all(LogStream(pump, [web, db]))
    assert found == [("web", b"a"), ("db", b"b"), ("db", b"c"), ("web", b"d"), ("web", b"e"), ("db", b"f")]


async def test_tail_counts_for_each_log(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, db = sources
    _past(web, (1, b"a"), (2, b"b"), (3, b"c"))
    _past(db, (1, b"x"))
    assert await _all(LogStream(pump, [web, db], tail=1)) == [("db", b"x"), ("web", b"c")]


async def test_an_unfinished_line_is_shown_when_not_following(
    pump: LogPump, sources: tuple[Source, Source]
) -> None:
    web, _ = sources
    writer = LogWriter(web.directory, Logging())
    writer.append(entry(format_time(_START), b"stdout", True, b"Password: "))
    writer.close()
    assert await _all(LogStream(pump, [web])) == [("web", b"Password: ")]


async def test_following_goes_on_where_the_past_ends(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, _ = sources
    _past(web, (1, b"past"))
    run = Run(pump, web)
    stream = LogStream(pump, [web], follow=True)
    async with _records(stream) as records:
        assert (await anext(records))[1].line == b"past"
        for line in (b"first", b"second"):
            run.write(line + b"\n")
            assert (await anext(records))[1].line == line
        await run.end()
        stream.stop()
        with pytest.raises(StopAsyncIteration):
            await anext(records)


async def test_stop_delivers_everything_first(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, _ = sources
    run = Run(pump, web)
    stream = LogStream(pump, [web], follow=True)
    async with _records(stream) as records:
        run.write(b"0\n")
        assert (await anext(records))[1].line == b"0"
        run.write(b"".join(b"%d\n" % number for number in range(1, 5000)) + b"no newline")
        await run.end()
        stream.stop()
        rest = [record.line async for _, record in records]
    assert rest == [*(b"%d" % number for number in range(1, 5000)), b"no newline"]


async def test_a_log_may_come_into_being_later(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, db = sources
    _past(web, (1, b"left out"), (2, b"past"))
    stream = LogStream(pump, [web], tail=1, follow=True)
    async with _records(stream) as records:
        assert (await anext(records))[1].line == b"past"
        late = Run(pump, db)
        late.write(b"before it was added\n")
        late.write(b"not only the tail\n")
        await late.end()
        stream.add(db)
        assert [(await anext(records))[1].line for _ in range(2)] == [
            b"before it was added",
            b"not only the tail",
        ]


async def test_a_discarded_log_is_delivered_to_its_end(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, db = sources
    run, other = Run(pump, web), Run(pump, db)
    stream = LogStream(pump, [web, db], follow=True)
    async with _records(stream) as records:
        run.write(b"first\n")
        assert (await anext(records))[1].line == b"first"
        run.write(b"last")
        await run.end()
        stream.discard(web.key)
        assert (await anext(records))[1].line == b"last"
        other.write(b"goes on\n")
        assert (await anext(records))[1].line == b"goes on"
        assert pump.rotation(web.key) == 0
    await other.end()


async def test_a_stream_of_no_logs_ends_when_told(pump: LogPump) -> None:
    stream = LogStream(pump, [], follow=True)
    everything = asyncio.ensure_future(_all(stream))
    await asyncio.sleep(0)
    stream.stop()
    assert await everything == []


async def test_a_restart_is_followed(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, _ = sources
    stream = LogStream(pump, [web], follow=True)
    async with _records(stream) as records:
        for number in range(3):
            run = Run(pump, web)
            run.write(b"run %d\n" % number)
            assert (await anext(records))[1].line == b"run %d" % number
            await run.end()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=30),
    st.integers(1000, 9000),
    st.integers(16_384, 70_000),
)
async def test_rotation_under_a_follower_neither_loses_nor_repeats(
    pump: LogPump, tmp_path_factory: pytest.TempPathFactory, bursts: list[int], max_size: int, block: int
) -> None:
    source = Source("web", "web", str(tmp_path_factory.mktemp("log")))
    run = Run(pump, source, Logging(max_size=max_size, max_files=100_000))
    stream = LogStream(pump, [source], follow=True)
    total = sum(bursts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found: list[bytes] = []
        number = 0
        async with _records(stream) as records:
            for burst in bursts:
                run.write(b"".join(b"%d\n" % line for line in range(number, number + burst)))
                number += burst
                if burst:
                    found.append((await anext(records))[1].line)
            await run.end()
            stream.stop()
            found += [record.line async for _, record in records]
    assert found == [b"%d" % line for line in range(total)]


async def test_a_follower_that_is_too_slow_is_told_of_the_gap(
    pump: LogPump, sources: tuple[Source, Source]
) -> None:
    web, _ = sources
    run = Run(pump, web, Logging(max_size=1000, max_files=2))
    stream = LogStream(pump, [web], follow=True)
    async with _records(stream) as records:
        run.write(b"first\n")
        assert (await anext(records))[1].line == b"first"
        run.write(b"".join(b"%d\n" % number for number in range(1000)))  # nobody holds the writer up
        await run.end()
        stream.stop()
        rest = [record.line async for _, record in records]
    gap = next(index for index, line in enumerate(rest) if line.startswith(b"[orch] lines are missing here"))
    kept = [int(line) for line in rest[gap + 1 :]]
    assert kept == list(range(kept[0], 1000))
    assert [int(line) for line in rest[:gap]] == list(range(gap))


async def test_with_one_file_no_gap_is_told_where_there_is_none(
    pump: LogPump, sources: tuple[Source, Source]
) -> None:
    web, _ = sources
    run = Run(pump, web, Logging(max_size=60, max_files=1))  # each line begins the file anew
    stream = LogStream(pump, [web], follow=True)
    async with _records(stream) as records:
        for number in range(20):
            run.write(b"%d\n" % number)
            assert (await anext(records))[1].line == b"%d" % number
    await run.end()


async def test_a_consumer_that_goes_away_leaves_nothing_behind(
    pump: LogPump, sources: tuple[Source, Source]
) -> None:
    web, _ = sources
    run = Run(pump, web)
    before = len(os.listdir("/proc/self/fd"))
    consumer = asyncio.ensure_future(_all(LogStream(pump, [web], follow=True)))
    run.write(b"one\n")
    for _ in range(3):
        await asyncio.sleep(0)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await run.end()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert (
        len(os.listdir("/proc/self/fd")) <= before - 1
    )  # the pipe's two ends are closed, the log's file was not


async def test_a_log_that_cannot_be_read_says_so(pump: LogPump, sources: tuple[Source, Source]) -> None:
    web, _ = sources
    os.makedirs(web.directory)
    os.symlink("container.log", os.path.join(web.directory, "container.log"))
    with pytest.raises(KernelError, match=r'cannot read the log ".*container.log": ELOOP'):
        await _all(LogStream(pump, [web]))
