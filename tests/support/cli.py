"""One orch instance with folders of its own, driven through its command as a user drives it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import http.client
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

from orchestrator.ids import Instance
from orchestrator.service import watchdog
from support import leaks
from support.waiting import DeadlineError, wait_until

#: What may remain beneath an instance's two folders after every project is down and the service has gone.
KEPT_STATE = ("images", "volumes", "logs")
KEPT_RUN = ("service.log",)
#: A stall of the service's loop of this many milliseconds fails the scenario; generous, for machines of two
#: busy processors.
STALL_MILLISECONDS = 100

COMMAND = (sys.executable, "-m", "orchestrator.cli.main")


class Completed(subprocess.CompletedProcess[str]):
    """A command that ended; all of its output is text."""

    def json(self) -> Any:
        """Its standard output, read as JSON."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        command = " ".join(str(word) for word in self.args[len(COMMAND) :])
        return f"$ orch {command}\n{self.stdout}{self.stderr}[exit code {self.returncode}]"


class CommandError(AssertionError):
    """A command that was to succeed did not; the text is its whole output."""


def _on_overlay(folder: str) -> bool:
    """Whether ``folder`` is on an overlay: the kernel refuses one as the upper layer of another."""
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "overlayfs"


def make_base() -> str:
    """A folder for an instance: short, since a socket's path has 107 bytes, and fit for writable layers."""
    candidates = (os.environ.get("ORCH_TEST_DIR") or tempfile.gettempdir(), "/var/tmp", "/dev/shm")
    for parent in candidates:
        if not _on_overlay(parent):
            return tempfile.mkdtemp(prefix="o-", dir=parent)
    raise RuntimeError(f"all of {candidates} are on overlayfs; name another folder in ORCH_TEST_DIR")


class Orch:
    """An instance beneath ``base``.

    Commands inherit the environment of the tests, with the instance's folders and without a terminal.

    :param watched: have the service watch its event loop (see :mod:`orchestrator.service.watchdog`).
    """

    def __init__(self, base: str, watched: bool = True) -> None:
        self.base = base
        self._watched = watched
        self.instance = Instance(state_dir=f"{base}/state", run_dir=f"{base}/run")
        self.project: str | None = None  #: passed as ``-p`` by the methods that ask about containers
        self._running: list[subprocess.Popen[Any]] = []
        self._manifests = 0
        os.makedirs(self.work)

    @property
    def work(self) -> str:
        """The folder of manifests and of whatever files a scenario needs; the instance owns nothing in it."""
        return f"{self.base}/work"

    @property
    def environment(self) -> dict[str, str]:
        """What every command of this instance is started with."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ORCH_", "COLUMNS"))}
        return {
            **kept,
            "ORCH_STATE_DIR": self.instance.state_dir,
            "ORCH_RUN_DIR": self.instance.run_dir,
            watchdog.VARIABLE: str(STALL_MILLISECONDS if self._watched else 0),
            "NO_COLOR": "1",
        }

    # Commands

    def manifest(self, text: str, name: str = "") -> str:
        """Write a manifest file; its path. Write to the same ``name`` again to change it."""
        if not name:
            self._manifests += 1
            name = f"manifest{self._manifests}.toml"
        path = os.path.join(self.work, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def run(
        self, *words: str, timeout: float = 30.0, check: bool = True, input: str | None = None
    ) -> Completed:
        """Run ``orch WORDS`` to its end, with ``input`` (or nothing) as standard input.

        :raises CommandError: when ``check`` and its exit code is not 0, or after ``timeout`` seconds.
        """
        # Files, not pipes: a service started by `up -d` must not be able to hold the command open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.popen(*words, stdout=out, stderr=err, stdin=subprocess.PIPE if input else None)
            timed_out = False
            try:
                process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                process.kill()
                process.wait()
            finally:
                self._running.remove(process)
            out.seek(0)
            err.seek(0)
            done = Completed(process.args, process.returncode, out.read(), err.read())
        if timed_out:
            raise CommandError(f"not done after {timeout:g} s:\n{done}")
        if check and done.returncode != 0:
            raise CommandError(str(done))
        return done

    def popen(
        self,
        *words: str,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
        stdin: int | None = None,
        start_new_session: bool = False,
    ) -> subprocess.Popen[str]:
        """Start ``orch WORDS`` and let it run; it is killed at the end of the test."""
        self._keep_service_log()
        process = subprocess.Popen(
            (*COMMAND, *words),
            env=self.environment,
            cwd=self.work,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=start_new_session,
        )
        self._running.append(process)
        return process

    def up(self, manifest: str, *words: str, timeout: float = 30.0, check: bool = True) -> Completed:
        """``orch up -d MANIFEST WORDS``."""
        return self.run("up", "-d", manifest, *words, timeout=timeout, check=check)

    # States

    def _project(self) -> tuple[str, ...]:
        return ("-p", self.project) if self.project else ()

    def ps(self, *words: str) -> list[dict[str, Any]]:
        """``orch ps -a --format json``: every container, as the views tell it."""
        return list(self.run("ps", *self._project(), "-a", "--format", "json", *words).json())

    def containers(self, service: str) -> list[dict[str, Any]]:
        """All containers of a service."""
        return [container for container in self.ps() if container["service"] == service]

    def container(self, service: str) -> dict[str, Any]:
        """The one container of a service."""
        found = self.containers(service)
        assert len(found) == 1, f"{service} has {len(found)} containers"
        return found[0]

    def inspect(self, reference: str) -> dict[str, Any]:
        """``orch inspect --format json``: everything about one container."""
        found: Any = self.run("inspect", *self._project(), "--format", "json", reference).json()
        if isinstance(found, list):
            assert len(found) == 1
            return dict(found[0])
        return dict(found)

    def wait_state(self, service: str, state: str, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Wait until every container of ``service`` (at least one) is in ``state``, or has that health."""

        def there() -> list[dict[str, Any]]:
            found = self.containers(service)
            met = all(state in (container["state"], container["health"]) for container in found)
            return found if met else []

        try:
            return wait_until(f'"{service}" is {state}', there, timeout, interval=0.05)
        except DeadlineError as error:
            shown = ("name", "state", "health", "reason")
            seen = [tuple(one[key] for key in shown) for one in self.containers(service)]
            raise DeadlineError(f"{error}; it is {seen}") from None

    def logs(self, *words: str) -> str:
        """``orch logs``, of what has been written up to now."""
        return self.run("logs", *self._project(), *words).stdout

    def read_until(self, process: subprocess.Popen[str], text: str, timeout: float = 10.0) -> str:
        """Read a command's standard output until ``text`` has come; all that was read.

        :raises CommandError: when the output ends before, or after ``timeout`` seconds.
        """
        assert process.stdout is not None
        # Beneath the file object, whose buffer select() cannot see; nothing else may have read from it.
        source, deadline, seen = process.stdout.fileno(), time.monotonic() + timeout, b""
        while text.encode() not in seen:
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(source, 65536) if ready else b""
            if not chunk:
                why = "ended" if ready else f"had after {timeout:g} s"
                raise CommandError(f"{text!r} did not come; the output {why}:\n{seen.decode()}")
            seen += chunk
        return seen.decode()

    @property
    def service_log(self) -> str:
        """What the host services of this instance have logged."""
        return _tail(f"{self.base}/service.log", 1 << 20)

    def _keep_service_log(self) -> None:
        """A service started by a command removes its log when it ends well: have it log through a link."""
        link = f"{self.instance.run_dir}/service.log"
        while not os.path.lexists(link):
            os.makedirs(self.instance.run_dir, exist_ok=True)
            with contextlib.suppress(
                FileNotFoundError
            ):  # a service that is ending may remove the folder meanwhile
                os.symlink(f"{self.base}/service.log", link)

    def is_serving(self) -> bool:
        """Whether a host service answers."""
        try:
            return self.call("GET", "/v1/version") == 200
        except OSError:
            return False

    def call(self, method: str, path: str, timeout: float = 30.0) -> int:
        """Make an API request without the client; the answer's status.

        :raises OSError: when no service answers.
        """
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(timeout)
            stream.connect(self.instance.socket)
            connection = http.client.HTTPConnection("orch")
            connection.sock = stream
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            response.read()
            return response.status

    # The end

    def _is_locked(self) -> bool:
        """Whether a service, listening or not, holds the instance's lock."""
        try:
            with open(f"{self.instance.run_dir}/lock") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def close(self) -> list[str]:
        """Bring everything down, stop the service, and say what is wrong or left: [] is clean."""
        for process in self._running:
            process.kill()
            process.communicate()
        self._running.clear()
        problems = []
        with contextlib.suppress(FileNotFoundError, ConnectionError):  # it is not there, or just about to end
            if (status := self.call("POST", "/v1/shutdown", timeout=60)) != 200:
                problems.append(f"the service answered {status} to the request to shut down")
        try:
            wait_until("the service is gone", lambda: not self._is_locked(), timeout=30)
        except DeadlineError as error:
            problems.append(str(error))
        problems += leaks.files_left(self.instance.run_dir, KEPT_RUN)
        problems += leaks.files_left(self.instance.state_dir, KEPT_STATE)
        if watchdog.EVENT in self.service_log:
            problems.append("the service's event loop was blocked (see service.log)")
        return problems

    def artifacts(self) -> Iterator[tuple[str, str]]:
        """(title, text) of everything that explains a failure, as far as it can still be had."""
        yield "service.log", self.service_log[-20_000:]
        if os.path.exists(self.instance.socket):
            for words in (("ps", "-a"), ("events",)):
                with contextlib.suppress(CommandError, OSError):
                    yield "orch " + " ".join(words), str(self.run(*words, check=False, timeout=10))[-10_000:]
        for path in sorted(glob.glob(f"{self.instance.state_dir}/logs/**", recursive=True)):
            if os.path.isfile(path):
                yield os.path.relpath(path, self.base), _tail(path, 2000)


def _tail(path: str, count: int) -> str:
    """The last ``count`` bytes of a file, as text."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - count))
        return file.read().decode(errors="replace")
    return ""
