"""An orch service to be measured, and what /proc says of its processes."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from bench.image import make_image
from orchestrator.service.client import Client, StdioChannel, Stream, Terminal
from orchestrator.views import ContainerView, Progress, ProgressKind
from support.cli import Orch, make_base
from support.waiting import wait_until

#: As pid 1 a program gets only the signals that it handles; the shell does, and ends at once.
UNTIL_TERM = 'trap "exit 0" TERM; echo up >/probe/up; sleep 100000 & wait'


class Instance:
    """A running service without the debugging aids of the tests; a context manager that leaves nothing."""

    def __init__(self) -> None:
        self.orch = Orch(make_base(), watched=False)
        self.base = self.orch.base
        self.client = Client(self.orch.instance)
        self.rootfs = make_image(f"{self.base}/rootfs")
        self.probe = Probe(f"{self.base}/probe")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folders = self.orch.instance
        # As /run is on most hosts. The sandbox's mount namespace is the only one to see it.
        os.makedirs(folders.run_dir, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "run", folders.run_dir], check=True)
        with open(f"{self.base}/service.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "orchestrator.service.main"),
                    *("--state-dir", folders.state_dir, "--run-dir", folders.run_dir),
                ],
                env=self.orch.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until("the service listens", self.client.is_listening, timeout=15)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        try:
            if kind is None:
                self.client.shutdown()
            else:
                print(self.orch.service_log[-5000:], file=sys.stderr)
                self._process.terminate()
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait()
            self.probe.close()
            subprocess.run(["umount", self.orch.instance.run_dir], check=True)
            shutil.rmtree(self.base, ignore_errors=True)

    def service(self, name: str, command: Sequence[str] | str = UNTIL_TERM, more: str = "") -> str:
        """The manifest text of one service on the small image, with limits; a string is a shell script."""
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        return (
            f"[services.{name}]\n"
            f"image = 'dir:{self.rootfs}'\n"
            f"command = {[*words]!r}\n"
            f"volumes = ['{self.probe.folder}:/probe']\n"
            "resources = { memory = '64M', pids = 64, cpus = 0.5 }\n"
            f"{more}\n"
        )

    def up(self, project: str, *services: str) -> float:
        """``orch up -d`` of a project of these services; the seconds that the whole command took."""
        path = self.orch.manifest(f"name = '{project}'\n" + "".join(services), f"{project}.toml")
        began = time.perf_counter()
        self.orch.up(path, timeout=120)
        return time.perf_counter() - began

    def down(self, project: str) -> float:
        """``orch down`` of a project; the seconds that the whole command took."""
        began = time.perf_counter()
        self.orch.run("down", "-p", project, timeout=120)
        return time.perf_counter() - began

    def kill(self, project: str) -> None:
        """Remove a project at once, unmeasured."""
        finish(self.client.down(project, kill=True))

    def containers(self, project: str) -> list[ContainerView]:
        """Its containers that have not ended."""
        return self.client.containers(project)

    def exec(self, project: str, container: str, *command: str) -> float:
        """Run a program in a container through the API; seconds until its end is reported."""
        began = time.perf_counter()
        channel = self.client.exec(project, container, command, Terminal(stdin=False))
        try:
            _until_exited(channel)
        finally:
            channel.close()
            for descriptor in channel.take_descriptors():
                os.close(descriptor)
        return time.perf_counter() - began

    # What /proc says

    def pids(self) -> tuple[int, int]:
        """(the service's pid, the spawner's)."""
        assert self._process is not None
        # The spawner is no child of the service; a container's process looks like it until it execs.
        found = [
            int(pid)
            for pid in os.listdir("/proc")
            if pid.isdigit() and _read(f"/proc/{pid}/comm") == b"orch-spawner\n"
        ]
        if not found:
            raise RuntimeError("the service has no spawner")
        return self._process.pid, min(found)

    def resident(self) -> tuple[int, int]:
        """Resident memory (VmRSS, bytes) of service and spawner."""
        service, spawner = self.pids()
        return _resident(service), _resident(spawner)

    def cpu_seconds(self) -> float:
        """Processor time used so far by service and spawner, with the children that they have reaped."""
        ticks = 0
        for pid in self.pids():
            fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
            ticks += sum(int(field) for field in fields[11:15])  # utime stime cutime cstime, proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")


class Probe:
    """A named pipe that containers write to when they run, so that "has exec'd" is seen from outside.

    What is measured with it includes the start of the program's shell.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        os.makedirs(folder)
        os.mkfifo(f"{folder}/up")
        self._pipe = os.open(f"{folder}/up", os.O_RDWR | os.O_CLOEXEC)

    def wait(self, count: int = 1, timeout: float = 30.0) -> None:
        """Until ``count`` containers have reported.

        :raises TimeoutError: when they do not within ``timeout`` seconds.
        """
        got = 0
        while got < count:
            if not select.select([self._pipe], [], [], timeout)[0]:
                raise TimeoutError(f"only {got} of {count} containers reported within {timeout:g} s")
            got += os.read(self._pipe, 4096).count(b"\n")
        assert got == count, f"{got} containers reported, {count} were expected"

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._pipe)


def finish(stream: Stream[Progress]) -> None:
    """Read a progress stream to its end.

    :raises RuntimeError: when its result is not good.
    """
    with stream:
        last = None
        for progress in stream:
            last = progress
    if last is None or last.kind is not ProgressKind.RESULT or not last.ok:
        raise RuntimeError(f"the operation failed: {last}")


def _until_exited(channel: StdioChannel) -> None:
    messages = channel.pending()
    while True:
        for message in messages:
            if message.error is not None:
                raise RuntimeError(str(message.error))
            if message.exited is not None:
                if message.exited.code != 0:
                    raise RuntimeError(f"the program ended with {message.exited}")
                return
        if channel.ended:
            raise channel.lost()
        messages = channel.receive()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _resident(pid: int) -> int:
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")
