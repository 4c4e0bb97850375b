"""The entry point of ``orch``: parse, do, and turn errors into a line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from orchestrator.cli import exit_codes, parser
from orchestrator.cli.terminal import Terminal, make_streams_forgiving, open_streams
from orchestrator.errors import ManifestError, OrchError, UsageError


def run() -> NoReturn:
    """The program ``orch``. It ends without Python's tidying up: that takes 8 ms, and nothing is left to tidy."""
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # its reader has gone
            pass
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    open_streams()
    make_streams_forgiving()
    try:
        code = _execute(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except OrchError as error:
        _print(error)
        return error.exit_code
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, as in: orch logs | head
        _drop_output()
        return exit_codes.BROKEN_PIPE
    except OSError as error:
        _drop_output()
        what = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        _print(OrchError(what, error.strerror or str(error)))
        return exit_codes.FAILED


def _drop_output() -> None:
    """What could not be written shall not be tried again by the flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _execute(arguments: Sequence[str]) -> int:
    grammar = parser.build()
    if not arguments:
        grammar.print_help()
        return exit_codes.OK
    args = grammar.parse_args(arguments)
    if args.version:
        from orchestrator.cli.serve import client_version

        print(f"orch {client_version()}")
        return exit_codes.OK
    if args.command is None:
        grammar.error("no command is named")
    from orchestrator.cli.context import Context

    context = Context(args)
    try:
        code: int = args.execute(context)
    except UsageError as error:
        raise context.loaded.placed(error) if context.loaded else error from None
    return code


def _print(error: OrchError) -> None:
    terminal = Terminal(sys.stderr)
    if isinstance(error, ManifestError):
        for problem in error.problems:
            terminal.line(problem)
    else:
        terminal.complain(error)
    terminal.flush()


if __name__ == "__main__":
    run()
