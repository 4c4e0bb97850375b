from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.loglines import LogPrinter
from orchestrator.cli.progress import Model
from orchestrator.cli.tables import Cell, Column, render
from orchestrator.cli.terminal import LiveRegion, Terminal, clip, harmless, plain, want_color
from orchestrator.cli.times import parse_moment, parse_seconds, span, stopwatch, timestamp
from orchestrator.errors import OrchError, UsageError
from orchestrator.views import LogLine, ProgressKind
from support.fake_service import operation, plan, progress

SGR = re.compile(r"\x1b\[[0-9;]*m")


class Screen(io.StringIO):
    """A terminal of a given width, as far as the code can see."""

    def isatty(self) -> bool:
        return True


def terminal(width: int | None = None, color: str = "never") -> Terminal:
    class Sized(Terminal):
        def size(self) -> tuple[int, int]:
            return width or 80, 24

    return Sized(Screen() if width else io.StringIO(), color, {"TERM": "xterm"})


def text(of: Terminal) -> str:
    assert isinstance(of.stream, io.StringIO)
    return of.stream.getvalue()


@pytest.mark.parametrize(
    ("choice", "is_terminal", "environ", "wanted"),
    [
        ("auto", True, {"TERM": "xterm"}, True),
        ("auto", False, {"TERM": "xterm"}, False),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", False, {"CLICOLOR_FORCE": "1"}, True),
        ("auto", False, {"CLICOLOR_FORCE": "0"}, False),
        ("auto", True, {"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {"CLICOLOR_FORCE": "1"}, False),
    ],
)
def test_colours_follow_the_flag_then_the_environment_then_the_terminal(
    choice: str, is_terminal: bool, environ: dict[str, str], wanted: bool
) -> None:
    assert want_color(choice, is_terminal, environ) is wanted


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    columns = [Column("NAME"), Column("PIDS", right=True), Column("STATE")]
    rows: list[list[Cell | str]] = [["a", "1", Cell("running", "green")], ["longer-name", "12345", ""]]
    assert render(columns, rows, terminal()) == [
        "NAME           PIDS   STATE",
        "a                 1   running",
        "longer-name   12345",
    ]


def test_styles_do_not_disturb_the_alignment() -> None:
    columns = [Column("A"), Column("B")]
    styled = render(columns, [[Cell("x", "red"), "y"], ["xxx", "z"]], terminal(color="always"))
    assert styled[1] == "\x1b[31mx\x1b[0m     y"
    assert [SGR.sub("", line) for line in styled] == render(columns, [["x", "y"], ["xxx", "z"]], terminal())


def test_flexible_columns_are_cut_to_the_terminal_and_only_there() -> None:
    columns = [Column("NAME"), Column("REASON", flexible=True)]
    rows = [["web", "a reason that goes on and on"]]
    assert render(columns, rows, terminal(20)) == ["NAME   REASON", "web    a reason tha…"]
    assert render(columns, rows, terminal(20), cut=False)[1].endswith("on and on")
    assert render(columns, rows, terminal())[1].endswith("on and on")


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=5), st.integers(60, 120))
def test_a_table_fits_its_terminal(rows: list[list[str]], width: int) -> None:
    columns = [Column("A", flexible=True), Column("B"), Column("C", flexible=True)]
    lines = render(columns, rows, terminal(width))
    assert len(lines) == len(rows) + 1
    assert all(len(line) <= width for line in lines)


def test_foreign_text_cannot_drive_the_terminal_but_may_be_coloured() -> None:
    assert harmless("\x1b[31mred\x1b[2Jgone\x1b]0;title\x07\r\x08") == "\x1b[31mredgone\x1b[0m"
    assert harmless("tab\tand ünicode") == "tab\tand ünicode"
    assert plain("two\nlines \x1b[31mred") == "two lines red"


@given(st.text(alphabet="\x1b[]0123456789;mHJP\x07\\\x9b\r\nab", max_size=40))
def test_plain_text_has_no_control_characters(foreign: str) -> None:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", plain(foreign))


def test_clipping_counts_visible_characters_only() -> None:
    assert clip("\x1b[31mabcdef\x1b[0m", 4) == "\x1b[31mabc\x1b[0m…"
    assert clip("\x1b[31mabcd\x1b[0m", 4) == "\x1b[31mabcd\x1b[0m"


def test_a_live_region_is_erased_before_it_is_drawn_again() -> None:
    screen = terminal(10)
    region = LiveRegion(screen)
    region.draw(["one", "two"])
    region.draw(["one", "two"])
    region.draw(["a very long line"])
    region.clear()
    region.clear()
    assert text(screen) == "one\ntwo\n\r\x1b[2A\x1b[Ja very lo…\n\r\x1b[1A\x1b[J"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0s"), (4.9, "4s"), (192, "3m 12s"), (7500, "2h 5m"), (90_000, "1d 1h")],
)
def test_spans_have_two_units_at_most(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_a_stopwatch_shows_tenths_for_a_minute() -> None:
    assert (stopwatch(0.04), stopwatch(59.94), stopwatch(61)) == ("0.0s", "59.9s", "1m 1s")


@pytest.mark.parametrize(
    ("given", "moment"),
    [("10m", 400.0), ("123.5", 123.5), ("1970-01-01T00:01:00Z", 60.0), ("1970-01-01T02:00:00+02:00", 0.0)],
)
def test_moments_are_read_as_people_write_them(given: str, moment: float) -> None:
    assert parse_moment(given, now=1000.0) == moment


@pytest.mark.parametrize("given", ["yesterday", "", "10 minutes", "9999999999999-01-01"])
def test_what_is_no_moment_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_moment(given, now=1000.0)


def test_seconds_may_be_plain_numbers() -> None:
    assert (parse_seconds("10"), parse_seconds("1m30s")) == (10.0, 90.0)
    with pytest.raises(UsageError, match="is not a duration"):
        parse_seconds("soon")


def test_a_timestamp_read_back_is_never_after_its_moment() -> None:
    moment = 1795405493.6443305
    assert timestamp(moment) == "2026-11-23T03:44:53.644330Z"
    assert parse_moment(timestamp(moment), 0) <= moment


def test_timestamps_are_utc_to_the_microsecond() -> None:
    assert timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"


def line(service: str, replica: int, words: str) -> LogLine:
    return LogLine(time=1.0, stream="stdout", service=service, name=f"shop-{service}-{replica}", line=words)


def test_log_prefixes_are_aligned_and_leave_the_project_out() -> None:
    out = terminal()
    printer = LogPrinter(out, "shop", ["shop-api-1", "shop-worker-2"])
    printer.print(line("api", 1, "hello"))
    printer.print(line("worker", 2, ""))
    assert text(out) == "api-1     | hello\nworker-2  | \n"


def test_each_service_has_a_colour_of_its_own() -> None:
    out = terminal(color="always")
    printer = LogPrinter(out, "shop")
    for service, replica in (("api", 1), ("api", 2), ("web", 1)):
        printer.print(line(service, replica, "x"))
    first, second, third = (shown.split("api")[0].split("web")[0] for shown in text(out).splitlines())
    assert first == second != third


def test_files_get_log_lines_as_they_were_written_and_terminals_do_not() -> None:
    file, screen = terminal(), terminal(80)
    for out in (file, screen):
        LogPrinter(out, "shop", prefix=False).print(line("api", 1, "a\x1b[2Jb"))
    assert text(file) == "a\x1b[2Jb\n"
    assert text(screen) == "ab\x1b[0m\n"


def model(*lines: tuple[ProgressKind, str, dict[str, Any]]) -> Model:
    result = Model()
    operations = [
        operation("create-network", "default"),
        operation("create", "shop-db-1"),
        operation("create", "shop-api-1"),
    ]
    result.apply(progress(ProgressKind.PLAN, plan=plan(*operations)), 0.0)
    for kind, name, fields in lines:
        result.apply(progress(kind, name, **fields), 1.0)
    return result


def test_progress_has_a_line_for_each_operation() -> None:
    failure = OrchError('cannot start "api"', "ENOENT: no such file").to_wire()
    shown = model(
        (ProgressKind.RUNNING, "create-network default", {}),
        (ProgressKind.DONE, "create-network default", {"seconds": 0.25}),
        (ProgressKind.WAITING, "create shop-db-1", {"message": "for the network, until 12:00"}),
        (ProgressKind.FAILED, "create shop-api-1", {"seconds": 1.5, "error": failure}),
    ).render(4.0, terminal())
    assert shown == [
        "[1/3]",
        " ✔ network default  created     250ms",
        " … shop-db-1        waiting      3.0s  for the network, until 12:00",
        ' ✘ shop-api-1       failed       1.5s  cannot start "api": ENOENT: no such file',
    ]


def test_when_room_is_short_what_is_under_way_is_shown_before_what_is_over() -> None:
    shown = model(
        (ProgressKind.DONE, "create-network default", {"seconds": 0.25}),
        (ProgressKind.RUNNING, "create shop-api-1", {}),
    ).render(2.0, terminal(), room=3)
    assert [words.split() for words in shown] == [
        ["[1/3]"],
        ["⠋", "shop-api-1", "creating", "1.0s"],
        ["and", "2", "more"],
    ]
