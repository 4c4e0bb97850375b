"""``orch completion``."""

from __future__ import annotations

import argparse

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser, build


def _configure(parser: Parser) -> None:
    parser.description = "Print a script that lets a shell complete the commands, options and files of orch."
    parser.epilog = """\
examples:
  orch completion bash > /etc/bash_completion.d/orch
  orch completion zsh > ~/.zfunc/_orch"""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _execute(context: Context) -> int:
    import shtab

    grammar = build()
    for action in grammar._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                child.load()
                _add_completions(child, shtab.FILE, shtab.DIRECTORY)
    _add_completions(grammar, shtab.FILE, shtab.DIRECTORY)
    context.out.line(shtab.complete(grammar, context.args.shell))
    return exit_codes.OK


def _add_completions(parser: argparse.ArgumentParser, file: object, directory: object) -> None:
    """Say which arguments are files; shtab reads that from an attribute of argparse's actions."""
    for action in parser._actions:
        if action.dest in ("words", "file"):
            action.complete = file  # type: ignore[attr-defined]
        elif action.dest in ("state_dir", "run_dir"):
            action.complete = directory  # type: ignore[attr-defined]


COMMANDS = {"completion": Command(_configure, _execute)}
