"""``orch wait``."""

from __future__ import annotations

import time

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import require_project
from orchestrator.cli.times import parse_seconds
from orchestrator.errors import OrchError, ServiceUnavailableError


def _configure(parser: Parser) -> None:
    parser.description = """\
Wait until all the containers meet a condition. With "exited" (the default) the exit code is the first of theirs
that is not 0; when --timeout is over it is 124."""
    parser.epilog = """\
examples:
  orch wait migrate                         until the job ended; its exit code
  orch wait --condition healthy --timeout 30s"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_argument(
        "--condition", choices=("exited", "running", "healthy"), default="exited", help="(default exited)"
    )
    parser.add_argument("--timeout", type=parse_seconds, metavar="TIME", help="how long at most")
    parser.add_format("text", "json")


def _execute(context: Context) -> int:
    args = context.args
    project = require_project(context)
    began = time.monotonic()
    try:
        containers = context.client.wait(
            project, services=context.names, condition=args.condition, timeout=args.timeout
        )
    except ServiceUnavailableError:
        raise
    except OrchError as error:
        if args.timeout is None or time.monotonic() - began < args.timeout:
            raise
        context.err.complain(error)
        return exit_codes.TIMED_OUT
    if context.json:
        context.print_json(containers)
    for container in containers if not context.json else ():
        code = f" ({container.exit_code})" if container.exit_code is not None else ""
        context.out.line(f"{container.name} {container.state.value}{code}")
    if args.condition != "exited":
        return exit_codes.OK
    return next((container.exit_code for container in containers if container.exit_code), exit_codes.OK)


COMMANDS = {"wait": Command(_configure, _execute)}
