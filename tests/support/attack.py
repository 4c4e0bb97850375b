"""Somebody hostile inside a container: functions of the tests, performed there with what ``inside`` offers.

A function that attacks is an ordinary function of a test module. It uses builtins, the standard library's modules
named in :data:`_PRELUDE`, and ``inside``; what it returns is what JSON can say.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchError, from_wire
from orchestrator.manifest.load import load
from orchestrator.service.client import Client, Exited, StdioChannel, Terminal
from orchestrator.spec import ProjectSpec
from support import inside
from support.cli import Orch

PROJECT, SERVICE = "attacks", "idle"
_PRELUDE = """
import ctypes, errno, fcntl, json, mmap, os, signal, socket, stat, struct, sys, time, types
inside = types.ModuleType("inside")
exec({inside!r}, inside.__dict__)
{function}
arguments = json.loads(sys.argv[1])
print("\\n" + json.dumps({name}(*arguments)), flush=True)
"""


class AttackFailed(AssertionError):
    """The attacker itself did not work; the text is what it said."""


def compile_attack(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The command line that performs ``function`` and prints what it returns as its last line."""
    source = Path(inspect.getfile(inside)).read_text()
    text = _PRELUDE.format(
        inside=source,
        function=textwrap.dedent(inspect.getsource(function)),
        name=function.__name__,
    )
    return ["python3", "-I", "-S", "-c", "from __future__ import annotations\n" + text, json.dumps(arguments)]


def read_result(output: str) -> Any:
    """What the function returned."""
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise AttackFailed(output) from None


class Target:
    """A service of its own with one container that a manifest says nothing about, and more on demand."""

    def __init__(self, orch: Orch) -> None:
        self._orch = orch
        self._client = Client(orch.instance)
        orch.project = PROJECT
        orch.up(self._manifest(""))

    @property
    def orch(self) -> Orch:
        """The instance."""
        return self._orch

    def _manifest(self, options: str) -> str:
        text = f'name = "{PROJECT}"\n[services.{SERVICE}]\ncommand = ["sleep", "infinity"]\n{options}\n'
        return self._orch.manifest(text, "attacks.toml")

    def spec(self, options: str) -> ProjectSpec:
        """The project whose service has these lines in the manifest."""
        return load(self._manifest(options), environ={}).project

    def start(self, function: Callable[..., Any], *arguments: Any, options: str = "") -> Any:
        """Perform the attack as the program of a new container.

        :param options: the service's lines in the manifest; none is a default container.
        """
        command = compile_attack(function, *arguments)
        return self._listen(
            self._client.run(self.spec(options), SERVICE, command, Terminal(stdin=False), dependencies=False)
        )

    def exec(self, function: Callable[..., Any], *arguments: Any, user: str | None = None) -> Any:
        """Perform the attack as one more process of the default container."""
        command = compile_attack(function, *arguments)
        return self._listen(self._client.exec(PROJECT, SERVICE, command, Terminal(stdin=False), user=user))

    def both(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Perform the attack in both ways in default containers; what it returned, which must be the same."""
        started, executed = self.start(function, *arguments), self.exec(function, *arguments)
        assert started == executed, f"started: {started!r}, exec'd: {executed!r}"
        return started

    def run(self, command: Sequence[str], options: str = "") -> str:
        """What a program of a new container prints.

        :raises OrchError: when it cannot be started.
        """
        channel = self._client.run(
            self.spec(options), SERVICE, command, Terminal(stdin=False), dependencies=False
        )
        return "".join(_converse(channel)[:2])

    def _listen(self, channel: StdioChannel) -> Any:
        output, errors, exited = _converse(channel)
        if exited.code:
            raise AttackFailed(f"{output}{errors}[{exited.reason}]")
        return read_result(output)


def _converse(channel: StdioChannel) -> tuple[str, str, Exited]:
    """A program's output, its errors, and how it ended."""
    output, errors, exited = "", "", None
    try:
        while not exited:
            for message in channel.pending() or channel.receive():
                if message.error:
                    raise from_wire(message.error)
                if message.started:
                    stdout, stderr = channel.take_descriptors()[-2:]
                    output, errors = _read_all(stdout), _read_all(stderr)
                exited = message.exited or exited
            if channel.ended and not exited:
                raise OrchError("the service hung up", "", "")
    finally:
        channel.close()
    return output, errors, exited


def _read_all(fd: int) -> str:
    with open(fd, "rb") as file:
        return file.read().decode(errors="replace")
