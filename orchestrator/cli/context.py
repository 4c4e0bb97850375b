"""What every command is handed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from orchestrator.cli.project import split_words
from orchestrator.cli.terminal import Terminal
from orchestrator.errors import UsageError
from orchestrator.ids import Instance
from orchestrator.service.client import Client

if TYPE_CHECKING:
    from orchestrator.manifest.load import Loaded


class Context:
    """The arguments, the instance and its client, and where and how to print.

    ``manifest`` is the manifest that was named, if one was; ``names`` are the other arguments without a dash.

    :raises UsageError: when the command cannot print in the format that was asked for.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.format = _format(args)
        self.instance = Instance.from_environment(args.state_dir, args.run_dir)
        self.client = Client(self.instance)
        self.out = Terminal(sys.stdout, args.color)
        self.err = Terminal(sys.stderr, args.color)
        self.manifest, self.names = split_words(getattr(args, "words", []), args.file)
        #: The manifest, once it has been read.
        self.loaded: Loaded | None = None

    @property
    def json(self) -> bool:
        """Whether to print JSON."""
        return self.format == "json"

    def print_json(self, value: object, *, pretty: bool = False) -> None:
        """Print a value (views included) as JSON, on one line unless ``pretty``."""
        import msgspec

        text = msgspec.json.encode(value)
        self.out.line((msgspec.json.format(text, indent=2) if pretty else text).decode())

    def warn(self, text: str) -> None:
        """Tell the user something on stderr."""
        self.err.line(f"{self.err.style('warning:', 'yellow')} {text}")
        self.err.flush()


def _format(args: argparse.Namespace) -> str:
    formats: tuple[str, ...] = getattr(args, "formats", ("text",))
    wanted: str = args.format or formats[0]
    if wanted in formats:
        return wanted
    if wanted == "text":  # before the command it means: for people
        return formats[0]
    raise UsageError(f'"{args.command}" cannot print {wanted}', f"it can print {', '.join(formats)}")
