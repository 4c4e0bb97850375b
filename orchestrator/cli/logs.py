"""``orch logs`` and ``orch events``."""

from __future__ import annotations

import time

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.loglines import LogPrinter
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import optional_project, require_project
from orchestrator.cli.terminal import Terminal, plain
from orchestrator.cli.times import parse_moment, timestamp
from orchestrator.errors import UsageError
from orchestrator.views import EventView

_ACTION_STYLES = {
    "started": "green", "healthy": "green", "created": "green", "unhealthy": "red", "oom": "red",
    "failed": "red", "exited": "yellow", "restarting": "yellow",
}  # fmt: skip


def _configure_logs(parser: Parser) -> None:
    parser.description = """\
Show what containers wrote, those of all services or of those that are named, in the order of time. With
--follow go on until the project is brought down."""
    parser.epilog = """\
examples:
  orch logs -f api                 follow one service
  orch logs --tail 20 --since 10m  the last 20 lines of the last ten minutes
  orch logs --format json          one JSON object a line"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    _add_following(parser)
    parser.add_argument(
        "-n", "--tail", type=_tail, metavar="N", help="only the last N lines (of each container)"
    )
    parser.add_argument("-t", "--timestamps", action="store_true", help="show when each line was written")
    parser.add_argument("--no-prefix", action="store_true", help="do not show which container wrote a line")
    parser.add_format("text", "json")


def _logs(context: Context) -> int:
    args = context.args
    project = require_project(context)
    stream = context.client.logs(
        project, services=context.names, follow=args.follow, tail=args.tail, since=_since(context)
    )
    with stream:
        if context.json:
            for line in stream:
                context.print_json(line)
                if args.follow:
                    context.out.flush()
            return exit_codes.OK
        containers = context.client.containers(project, services=context.names, all=True)
        printer = LogPrinter(
            context.out,
            project,
            (container.name for container in containers),
            prefix=not args.no_prefix,
            timestamps=args.timestamps,
        )
        lines = stream.pending()
        while lines or not stream.ended:
            for line in lines:
                printer.print(line)
            context.out.flush()
            lines = [] if stream.ended else stream.receive()
    return exit_codes.OK


def _configure_events(parser: Parser) -> None:
    parser.description = (
        "Show what happened to containers: the recent past, and with --follow also what happens."
    )
    parser.epilog = """\
examples:
  orch events -f
  orch events --since 1h --format json"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    _add_following(parser)
    parser.add_format("text", "json")


def _events(context: Context) -> int:
    stream = context.client.events(
        optional_project(context), services=context.names, follow=context.args.follow, since=_since(context)
    )
    with stream:
        for event in stream:
            if context.json:
                context.print_json(event)
            else:
                context.out.line(event_text(event, context.out))
            context.out.flush()
    return exit_codes.OK


def event_text(event: EventView, terminal: Terminal) -> str:
    """An event as a line."""
    action = terminal.style(event.action, _ACTION_STYLES.get(event.action, ""))
    text = (
        f"{terminal.style(timestamp(event.time), 'dim')} {event.type} {event.name or event.project} {action}"
    )
    return f"{text}: {plain(event.message)}" if event.message else text


def _add_following(parser: Parser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is to come")
    parser.add_argument(
        "--since", metavar="TIME", help='not older: "10m" (ago), an RFC 3339 time, or epoch seconds'
    )


def _since(context: Context) -> float | None:
    since = context.args.since
    return None if since is None else parse_moment(since, time.time())


def _tail(text: str) -> int | None:
    """``--tail``: a number, or ``all``."""
    if text == "all":
        return None
    if not text.isdigit():
        raise UsageError(f"--tail {text}", 'it must be a number of lines, or "all"')
    return int(text)


COMMANDS = {
    "logs": Command(_configure_logs, _logs),
    "events": Command(_configure_events, _events),
}
