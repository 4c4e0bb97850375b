"""``orch stats`` and ``orch top``."""

from __future__ import annotations

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import optional_project
from orchestrator.cli.tables import Cell, Column, render
from orchestrator.cli.terminal import LiveRegion
from orchestrator.cli.times import parse_seconds, stopwatch
from orchestrator.errors import ServiceUnavailableError
from orchestrator.units import format_size
from orchestrator.views import PressureView, StatsView

#: From this part of the time on (percent) nothing goes on, it is shown in red.
_BAD = 10


def _configure_stats(parser: Parser) -> None:
    parser.description = """\
Show containers' use of processors, memory, disks and network: on a terminal a table that is drawn anew each
second until Ctrl-C. CPU is in percent of one core; memory is without the page cache that could be given back, its
peak with all of it. STALL is the pressure, where the kernel accounts it: in what part of the last ten seconds, in
percent, some of the processes waited for a processor, for memory or for a disk, and after the slash: all of them."""
    parser.epilog = """\
examples:
  orch stats
  orch stats --no-stream --format json     one array"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_argument("--no-stream", action="store_true", help="show one sample and exit")
    parser.add_argument("--interval", type=parse_seconds, metavar="TIME", help="between samples (default 1s)")
    parser.add_format("table", "json")


def _stats(context: Context) -> int:
    args = context.args
    stream = context.client.stats(
        optional_project(context),
        services=context.names,
        stream=not args.no_stream,
        interval=args.interval,
    )
    region = LiveRegion(context.out) if context.out.is_live and not args.no_stream else None
    with stream:
        for sample in stream:
            if context.json:
                context.print_json(sample)
            else:
                columns, rows = stats_table(sample)
                lines = render(columns, rows, context.out)
                if region:
                    region.draw(lines[: region.room])
                else:
                    for line in lines:
                        context.out.line(line)
            context.out.flush()
    return exit_codes.OK


def stats_table(sample: list[StatsView]) -> tuple[list[Column], list[list[Cell | str]]]:
    """The table of ``orch stats``, the busiest first."""
    columns = [
        Column("NAME"), Column("CPU %", right=True), Column("THROTTLED", right=True), Column("MEMORY", right=True),
        Column("PEAK", right=True), Column("LIMIT", right=True), Column("PIDS", right=True),
        Column("NET IN / OUT", right=True), Column("DISK READ / WRITTEN", right=True), Column("OOM", right=True),
    ]  # fmt: skip
    stalls = {"cpu": "CPU STALL", "memory": "MEM STALL", "io": "IO STALL"}
    if not any(stats.pressure for stats in sample):
        stalls.clear()  # orch doctor says why
    columns += [Column(title, right=True) for title in stalls.values()]
    rows: list[list[Cell | str]] = []
    for stats in sorted(sample, key=lambda stats: (-(stats.cpu_percent or 0), stats.name)):
        limit = stats.memory_limit
        pids = str(stats.pids) if stats.pids_limit is None else f"{stats.pids}/{stats.pids_limit}"
        rows.append(
            [
                stats.name,
                "-" if stats.cpu_percent is None else f"{stats.cpu_percent:.1f}",
                stopwatch(stats.cpu_throttled_seconds),
                Cell(format_size(stats.memory), "red" if limit and stats.memory > 0.9 * limit else ""),
                "-" if stats.memory_peak is None else format_size(stats.memory_peak),
                "-" if limit is None else format_size(limit),
                Cell(pids, "red" if stats.pids_refused else ""),
                f"{format_size(stats.net_rx_bytes)} / {format_size(stats.net_tx_bytes)}",
                f"{format_size(stats.io_read_bytes)} / {format_size(stats.io_write_bytes)}",
                Cell(str(stats.oom_kills), "red" if stats.oom_kills else ""),
                *(_stall((stats.pressure or {}).get(resource)) for resource in stalls),
            ]
        )
    return columns, rows


def _stall(pressure: PressureView | None) -> Cell | str:
    if pressure is None:
        return "-"
    text = f"{pressure.some_avg10:.0f}/{pressure.full_avg10:.0f}"
    return Cell(text, "red" if pressure.full_avg10 >= _BAD else "")


def _configure_top(parser: Parser) -> None:
    parser.description = "Show the processes inside containers, with their numbers on the host."
    parser.epilog = "examples:\n  orch top api"
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_format("table", "json")


def _top(context: Context) -> int:
    try:
        processes = context.client.top(optional_project(context), services=context.names)
    except ServiceUnavailableError:
        if context.names:
            raise
        processes = []
    if context.json:
        context.print_json(processes)
        return exit_codes.OK
    columns = [
        Column("NAME"), Column("PID", right=True), Column("PPID", right=True), Column("USER"),
        Column("CPU", right=True), Column("MEMORY", right=True), Column("S"), Column("COMMAND", flexible=True),
    ]  # fmt: skip
    rows = [
        [
            process.name,
            str(process.pid),
            str(process.ppid),
            process.user,
            stopwatch(process.cpu_seconds),
            format_size(process.rss),
            process.state,
            process.command,
        ]
        for process in processes
    ]
    for line in render(columns, rows, context.out):
        context.out.line(line)
    return exit_codes.OK


COMMANDS = {"stats": Command(_configure_stats, _stats), "top": Command(_configure_top, _top)}
