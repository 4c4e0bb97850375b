"""The grammar of the command line: the commands, their modules, and the options they all have.

A command's module is imported when its arguments are parsed, so that a command loads its own module only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from orchestrator.cli import exit_codes
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.cli.context import Context


class Command(NamedTuple):
    """One command: ``configure`` adds its arguments, ``execute`` does it and returns the exit code."""

    configure: Callable[[Parser], None]
    execute: Callable[[Context], int]


#: name -> (module in this package, summary), in the order of the help text.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up", "make the manifest so: create, start and change what is needed"),
    "down": ("lifecycle", "stop and remove a project's containers and networks"),
    "plan": ("plan", "show what up would do, and why"),
    "ps": ("ps", "list containers"),
    "ls": ("ps", "list projects"),
    "logs": ("logs", "show what containers wrote"),
    "exec": ("exec", "run a program in a running container"),
    "run": ("exec", "run a one-off container of a service"),
    "start": ("lifecycle", "start containers that were stopped"),
    "stop": ("lifecycle", "stop containers, dependants first"),
    "restart": ("lifecycle", "stop containers and start them again"),
    "kill": ("lifecycle", "send a signal to containers"),
    "pause": ("lifecycle", "freeze containers"),
    "unpause": ("lifecycle", "thaw frozen containers"),
    "scale": ("lifecycle", "change the number of a service's replicas"),
    "wait": ("wait", "wait until containers exited, run or are healthy"),
    "inspect": ("inspect", "show everything about a container"),
    "port": ("inspect", "show where a service's ports are published"),
    "events": ("logs", "show what happened to containers"),
    "stats": ("stats", "show containers' use of resources, live"),
    "top": ("stats", "show the processes inside containers"),
    "ns": ("ns", "list containers' namespaces, and who shares them"),
    "audit": ("audit", "show what deviates from the secure default, and how risky that is"),
    "config": ("config", "check a manifest and print what it amounts to"),
    "doctor": ("doctor", "show what this host offers and lacks"),
    "serve": ("serve", "run the host service in the foreground"),
    "version": ("serve", "show the versions of client and service"),
    "completion": ("completion", "print a shell's completion script"),
}

_DESCRIPTION = """\
Runs many containers on one Linux host from one manifest.

A MANIFEST is a file whose name ends in ".toml". It may be named before the services of any command, or with
--file; without one it is orch.toml or manifest.toml in the current folder. Commands other than up, plan, config
and run need only the project's name, so they find the one project that is up by themselves.
"""
_EPILOG = f"""\
{exit_codes.DESCRIPTION}
environment:
  ORCH_STATE_DIR, ORCH_RUN_DIR   folders of the instance (as --state-dir, --run-dir)
  NO_COLOR, CLICOLOR_FORCE       no colours, colours even where there is no terminal

examples:
  orch up manifest.toml          start everything, show the logs, stop everything on Ctrl-C
  orch up -d manifest.toml       start everything and return once it is healthy
  orch ps                        what runs
  orch COMMAND --help            more about a command
"""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of exiting, and fetches a command's arguments when they are needed."""

    def __init__(self, *, command: str = "", **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._command = command

    def load(self) -> None:
        """Add the command's own arguments, once."""
        if self._command:
            name, self._command = self._command, ""
            loaded = load_command(name)
            loaded.configure(self)
            self.set_defaults(execute=loaded.execute)

    def add_words(self, words: str, *, remainder: bool = False) -> None:
        """The arguments without a dash: what ``words`` describes, which may be nothing.

        :param remainder: everything after the first of them belongs to a program of the user's.
        """
        self.usage = f"%(prog)s [OPTION...] {words}"
        if not words:
            return
        nargs = argparse.REMAINDER if remainder else "*"
        self.add_argument("words", nargs=nargs, help=argparse.SUPPRESS, metavar="NAME", default=[])

    def add_format(self, *choices: str) -> None:
        """``--format``; the first choice is the default."""
        self.add_argument(
            "--format",
            choices=choices,
            default=argparse.SUPPRESS,
            help=f"how to print (default {choices[0]})",
        )
        self.set_defaults(formats=choices)

    def add_profile(self) -> None:
        """``--profile``, for the commands that read a manifest."""
        self.add_argument(
            "--profile", action="append", default=[], metavar="NAME", help="also the services of this profile"
        )

    def parse_known_args(  # type: ignore[override]  # argparse's overloads say no more than this
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, but names may also stand after options: ``orch up manifest.toml -d web``."""
        self.load()
        result, rest = super().parse_known_args(args, namespace)
        if rest and hasattr(result, "words"):
            result.words = [*result.words, *(word for word in rest if not word.startswith("-"))]
            rest = [word for word in rest if word.startswith("-")]
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return result, rest

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        remedy = f"see: {self.prog} --help"
        if message.startswith("argument COMMAND: invalid choice: "):
            word = message.split("'")[1]
            message = f'there is no command "{word}"'
            if guess := _similar(word):
                remedy = f"did you mean: orch {guess}"
        raise UsageError(message, remedy=remedy)


def build() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(prog="orch", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="store_true", help="print the client's version and exit")
    parser.add_argument(
        "--format", choices=("table", "text", "json", "toml"), help="how to print, where a command can"
    )
    _add_common(parser, {"state_dir": None, "run_dir": None, "color": "auto", "file": None, "project": None})
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", parser_class=Parser, required=False
    )
    for name, (_, summary) in COMMANDS.items():
        child: Parser = commands.add_parser(name, help=summary, command=name, description=_sentence(summary))
        _add_common(child, {}, short_file=name not in ("logs", "events"))  # there -f is --follow
    return parser


def load_command(name: str) -> Command:
    """Import a command's module."""
    table: dict[str, Command] = import_module(f"orchestrator.cli.{COMMANDS[name][0]}").COMMANDS
    return table[name]


def _add_common(parser: Parser, defaults: dict[str, str | None], short_file: bool = True) -> None:
    """The options that may stand before and after the command; only the former have defaults."""

    def default(name: str) -> Any:
        return defaults.get(name, argparse.SUPPRESS)

    group = parser.add_argument_group("common options")
    short = ["-f"] if short_file else []
    group.add_argument(
        *short, "--file", metavar="MANIFEST", default=default("file"), help="the manifest of the project"
    )
    group.add_argument(
        "-p", "--project", metavar="NAME", default=default("project"), help="the project, by its name"
    )
    group.add_argument(
        "--state-dir", metavar="DIR", default=default("state_dir"), help="folder of what survives a reboot"
    )
    group.add_argument(
        "--run-dir", metavar="DIR", default=default("run_dir"), help="folder of the service's socket"
    )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default=default("color"),
        help="when to use colours (default auto)",
    )


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def _similar(word: str) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, COMMANDS, n=1)), "")
