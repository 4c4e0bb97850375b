"""Somebody hostile inside a container: functions of the tests, performed there with what ``inside`` offers.

A function that attacks is an ordinary function of a test module. It uses builtins, the standard library's modules
named in :data:`_MODULES`, and ``inside``; what it returns is what JSON can say.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import from_wire
from orchestrator.manifest.load import load
from orchestrator.service.client import Client, StdioChannel, Terminal
from orchestrator.spec import ProjectSpec
from support import inside
from support.cli import Orch
from support.waiting import wait_until

Changes = Sequence[Sequence[Any]]
#: Lines of a manifest that switch a guard off.
HOST_USERS = 'userns = "host"'
HOST_PIDS = 'pid = "host"'
UNCONFINED = 'seccomp = "unconfined"'
PROJECT, SERVICE = "attacks", "idle"
_PROGRAM = """
from __future__ import annotations
import json, sys, types
{imports}
inside = types.ModuleType("inside")
exec({inside!r}, inside.__dict__)
{functions}
arguments = json.loads(sys.argv[1])
print("\\n" + json.dumps({name}(*arguments)), flush=True)
"""
#: What attackers may use of the standard library; they import what they use, to begin soon.
_MODULES = ("ctypes", "errno", "fcntl", "os", "signal", "socket", "stat", "struct", "termios", "time")


def capabilities(*names: str) -> str:
    """A line that gives these capabilities."""
    return f"cap_add = {json.dumps(names)}"


def joined(*lines: str) -> str:
    """Several lines of a manifest."""
    return "\n".join(lines)


class Ended(NamedTuple):
    """A program that has ended."""

    output: str
    errors: str
    code: int


class AttackFailed(AssertionError):
    """The attacker itself did not work; the text is what it said."""


def compile_attack(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The command line that performs ``function`` and prints what it returns as its last line.

    Functions of its module that it calls go with it.
    """
    module: dict[str, Any] = function.__globals__
    called = [module.get(name) for name in function.__code__.co_names]
    needed: list[Callable[..., Any]] = [
        each for each in called if inspect.isfunction(each) and each.__module__ == function.__module__
    ]
    functions = "\n".join(textwrap.dedent(inspect.getsource(each)) for each in (*needed, function))
    text = _PROGRAM.format(
        imports="\n".join(f"import {name}" for name in _MODULES if f"{name}." in functions),
        inside=Path(inspect.getfile(inside)).read_text(),
        functions=functions,
        name=function.__name__,
    )
    return ["python3", "-I", "-S", "-c", text, json.dumps(arguments)]


def read_result(output: str) -> Any:
    """What the function returned."""
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise AttackFailed(output) from None


class Target:
    """A service of its own with one container that a manifest says nothing about, and more on demand.

    :param orch: the instance; beneath its ``base`` are the things that :mod:`support.tampered_service` names.
    """

    def __init__(self, orch: Orch) -> None:
        self.orch = orch
        self._client = Client(orch.instance)

    @property
    def interpreter(self) -> Path:
        """What the spawner is executed from: a copy that may come to harm."""
        return Path(self.orch.base, "bin/python3")

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the service, and wait until the default container runs."""
        base = Path(self.orch.base)
        for folder in ("bin", "open"):
            (base / folder).mkdir()
        shutil.copy(os.path.realpath(sys.executable), self.interpreter)
        (base / "lib").symlink_to(f"{sys.base_prefix}/lib")  # where it finds its modules
        self._tamper(())
        reading, writing = os.pipe()
        with open(reading) as ready, open(base / "service.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "support.tampered_service", self.orch.base,
                 "--state-dir", self.orch.instance.state_dir, "--run-dir", self.orch.instance.run_dir,
                 "--ready-fd", str(writing)],
                env={**self.orch.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writing],
            )  # fmt: skip
            os.close(writing)
            word = ready.readline()
        if word != "ready\n":
            process.wait()
            raise AssertionError(word + self.orch.service_log)
        base.chmod(
            0o755
        )  # mkdtemp(3) made it root's alone: what the service makes in it must be safe by itself
        self.orch.project = PROJECT
        try:
            self.orch.up(self.manifest(""))
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def _tamper(self, changes: Changes) -> None:
        draft = Path(self.orch.base, "tamper.new")
        draft.write_text(json.dumps(changes))
        draft.rename(draft.with_suffix(""))

    def manifest(self, options: str) -> str:
        """The manifest whose service has these lines, as a file."""
        text = f'name = "{PROJECT}"\n[services.{SERVICE}]\ncommand = ["sleep", "infinity"]\n{options}\n'
        return self.orch.manifest(text, "attacks.toml")

    def marker(self, text: str) -> str:
        """A new file of the host, root's, with that text in it; its path."""
        path = Path(self.orch.work, "marker")
        path.unlink(missing_ok=True)
        path.write_text(text)
        return str(path)

    def spec(self, options: str) -> ProjectSpec:
        """The project whose service has these lines in the manifest."""
        return load(self.manifest(options), environ={}).project

    def start(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        options: str = "",
        user: str | None = None,
        working_dir: str | None = None,
        tamper: Changes = (),
    ) -> Any:
        """Perform the attack as the program of a new container.

        :param options: the service's lines in the manifest; none is a default container.
        :param tamper: what is changed in its launch program (see :func:`support.tampered_service.tamper`).
        """
        return _result(
            self.run(
                compile_attack(function, *arguments),
                options=options, user=user, working_dir=working_dir, tamper=tamper,
            )
        )  # fmt: skip

    def exec(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        project: str = PROJECT,
        container: str = SERVICE,
        user: str | None = None,
        working_dir: str | None = None,
        tamper: Changes = (),
    ) -> Any:
        """Perform the attack as one more process of the default container, or of another."""
        command = compile_attack(function, *arguments)
        return _result(
            self.run_in(
                container, command, project=project, user=user, working_dir=working_dir, tamper=tamper
            )
        )

    def run_in(
        self,
        container: str,
        command: Sequence[str],
        *,
        project: str = PROJECT,
        user: str | None = None,
        working_dir: str | None = None,
        tamper: Changes = (),
    ) -> Ended:
        """Run one more program in a container.

        :raises OrchError: when it cannot be started.
        """
        with self.tampered(tamper):
            return _converse(
                self._client.exec(
                    project, container, command, Terminal(stdin=False), user=user, working_dir=working_dir
                )
            )

    def both(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Perform the attack in both ways in default containers; what it returned, which must be the same."""
        started, executed = self.start(function, *arguments), self.exec(function, *arguments)
        assert started == executed, f"started: {started!r}, exec'd: {executed!r}"
        return started

    def run(
        self,
        command: Sequence[str],
        *,
        options: str = "",
        user: str | None = None,
        working_dir: str | None = None,
        tamper: Changes = (),
    ) -> Ended:
        """Run a program in a new container.

        :raises OrchError: when it cannot be started.
        """
        with self.tampered(tamper):
            return _converse(
                self._client.run(
                    self.spec(options), SERVICE, command, Terminal(stdin=False),
                    user=user, working_dir=working_dir, dependencies=False,
                )
            )  # fmt: skip

    @contextlib.contextmanager
    def container(self, options: str = "") -> Iterator[str]:
        """A new container that only waits, for :meth:`exec`; its name."""
        name = f"{PROJECT}-other"
        channel = self._client.run(
            self.spec(options), SERVICE, None, Terminal(stdin=False), name=name, dependencies=False
        )
        try:
            while not any(message.started for message in channel.pending() or channel.receive()):
                assert not channel.ended
            descriptors = channel.take_descriptors()
            try:
                yield name
            finally:
                for fd in descriptors:
                    os.close(fd)
        finally:
            channel.close()
            wait_until(f"{name} is gone", lambda: name not in {each["name"] for each in self.orch.ps()})

    @contextlib.contextmanager
    def tampered(self, changes: Changes) -> Iterator[None]:
        """Change launch programs meanwhile."""
        if not changes:
            yield
            return
        self._tamper(changes)
        try:
            yield
        finally:
            self._tamper(())


def _result(ended: Ended) -> Any:
    if ended.code:
        raise AttackFailed(str(ended))
    return read_result(ended.output)


def _converse(channel: StdioChannel) -> Ended:
    """Listen to a program until it ends."""
    output, errors = "", ""
    try:
        while not channel.ended:
            for message in channel.pending() or channel.receive():
                if message.error:
                    raise from_wire(message.error)
                if message.started:
                    stdout, stderr = channel.take_descriptors()[-2:]
                    output, errors = _read_all(stdout), _read_all(stderr)
                if message.exited:
                    return Ended(output, errors, message.exited.code)
        raise channel.lost()
    finally:
        channel.close()


def _read_all(fd: int) -> str:
    with open(fd, "rb") as file:
        return file.read().decode(errors="replace")
