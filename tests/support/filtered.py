"""Programs that the spawner starts under a seccomp filter, and nothing else around them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from orchestrator import capabilities
from orchestrator.runtime.handle import Process, SpawnerHandle
from orchestrator.runtime.program import Program, SeccompPart
from orchestrator.runtime.seccomp.filters import SeccompFilters
from orchestrator.spec import Seccomp, SeccompProfile, SyscallRule

#: Everything fails, without exception.
NOTHING_WORKS = SeccompProfile(action="ERRNO", errno=1)


def profile(action: str, *rules: tuple[str, str], architectures: Iterable[str] = ()) -> Seccomp:
    """A profile of a file: what happens to all calls, and to some by name."""
    content = SeccompProfile(
        action=action,
        errno=1,
        architectures=tuple(architectures),
        rules=tuple(SyscallRule(names=(name,), action=what, errno=1) for name, what in rules),
    )
    return Seccomp(profile="test", content=content)


class Runner:
    """Starts programs of the host, as root of the host, with nothing of a container but the filter."""

    def __init__(self, spawner: SpawnerHandle) -> None:
        self._spawner = spawner
        self._filters = SeccompFilters()

    async def start(self, *command: str, seccomp: Seccomp | None = None, init: bool = False) -> Process:
        """Start a program; without ``seccomp`` under the default profile."""
        filter = await self._filters.get(seccomp or Seccomp(), frozenset(capabilities.DEFAULT))
        part = SeccompPart(str(filter), filter.flags) if filter else None
        program = Program(
            flags=0,
            cgroup=None,
            prepare=[],
            operations=[
                ["environment", {"PATH": os.environ["PATH"]}],
                *(part.compile() if part else []),
                *([["init"]] if init else []),
                ["exec", list(command)],
            ],
            give=["stdout", "stderr"],
            slots=["seccomp"] if filter else [],
        )
        return self._spawner.launch(program, [filter.fd] if filter else [])

    async def run(self, *command: str, seccomp: Seccomp | None = None, init: bool = False) -> tuple[int, str]:
        """Run a program to its end: exit code, and output and errors together."""
        process = await self.start(*command, seccomp=seccomp, init=init)
        try:
            await process.started()
            texts = [asyncio.to_thread(_read, process.take(name)) for name in ("stdout", "stderr")]
            output = "".join(await asyncio.gather(*texts))
            return (await process.exited()).code, output
        finally:
            process.close()

    def close(self) -> None:
        """Let the filters go."""
        self._filters.close()


def _read(fd: int) -> str:
    with open(fd, "rb") as file:
        return file.read().decode()


@asynccontextmanager
async def runner() -> AsyncIterator[Runner]:
    """A spawner with a runner."""
    spawner = await SpawnerHandle.start()
    made = Runner(spawner)
    try:
        yield made
    finally:
        made.close()
        await spawner.close()
