"""The processes of a cgroup as a whole: stop them, kill them. Two ways, v2's core files and v1's freezer.

v2 (and hybrid, where the v2 hierarchy holds every container too): ``cgroup.freeze`` and ``cgroup.kill`` are
one write each, and the kernel takes care of processes that fork meanwhile.
v1: the freezer. Frozen processes cannot fork, so a list of them is complete; SIGKILL waits for the thaw.
"""

from __future__ import annotations

import signal
import time

from orchestrator.errors import KernelError
from orchestrator.kernel import cgroupfs

_FREEZE_SECONDS = 0.1  # of one attempt; a process in an uninterruptible call freezes only after it
_KILL_ROUNDS = 20


class UnifiedMembers:
    """Members of a cgroup by its directory in the v2 hierarchy (cgroup-v2.rst, "Core Interface Files")."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def freeze(self) -> None:
        """Begin to freeze."""
        cgroupfs.write(f"{self._directory}/cgroup.freeze", "1")

    def thaw(self) -> None:
        """Let all go on."""
        cgroupfs.write(f"{self._directory}/cgroup.freeze", "0")

    def frozen(self) -> bool:
        """Whether all are frozen."""
        return self._events()["frozen"] == 1

    def populated(self) -> bool:
        """Whether any process lives."""
        return self._events()["populated"] == 1

    def kill(self) -> None:
        """SIGKILL to all, frozen or not."""
        cgroupfs.write(f"{self._directory}/cgroup.kill", "1")

    def notifier(self) -> cgroupfs.Notifier | None:
        """Tells when ``frozen`` or ``populated`` changes."""
        return cgroupfs.FileNotifier(f"{self._directory}/cgroup.events")

    def _events(self) -> dict[str, int]:
        return cgroupfs.flat_keyed(cgroupfs.read(f"{self._directory}/cgroup.events"))


class FreezerMembers:
    """Members of a cgroup by its directory in the v1 freezer hierarchy (cgroup-v1/freezer-subsystem.rst)."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def freeze(self) -> None:
        """Begin to freeze."""
        cgroupfs.write(f"{self._directory}/freezer.state", "FROZEN")

    def thaw(self) -> None:
        """Let all go on."""
        cgroupfs.write(f"{self._directory}/freezer.state", "THAWED")

    def frozen(self) -> bool:
        """Whether all are frozen (reading the state is what makes the kernel look)."""
        return cgroupfs.read(f"{self._directory}/freezer.state").strip() == "FROZEN"

    def populated(self) -> bool:
        """Whether any process lives."""
        return bool(cgroupfs.processes(self._directory))

    def kill(self) -> None:
        """SIGKILL to all, none of which can fork meanwhile; also ends a pause.

        When not all freeze in time (one is in an uninterruptible call), those that are there get the signal
        all the same and it is tried again: it may have been forking.

        :raises KernelError: some would not freeze in all the rounds, so that one may have escaped.
        """
        for _ in range(_KILL_ROUNDS):
            self.freeze()
            try:
                complete = self._freezes()
                cgroupfs.signal_processes(self._directory, signal.SIGKILL)
            finally:
                self.thaw()
            if complete or not self.populated():
                return
        pids = ", ".join(map(str, cgroupfs.processes(self._directory)))
        raise KernelError(
            f"cannot kill all processes of {self._directory}",
            f"they do not freeze, so new ones may have escaped: {pids}",
            "a process in an uninterruptible call (state D in ps) must be let out of it first",
        )

    def notifier(self) -> cgroupfs.Notifier | None:
        """None: v1 tells nobody."""
        return None

    def _freezes(self) -> bool:
        deadline = time.monotonic() + _FREEZE_SECONDS
        while not self.frozen():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True


Members = UnifiedMembers | FreezerMembers


def members(directories: dict[str, str]) -> Members:
    """The way that this host offers."""
    if unified := directories.get("unified"):
        return UnifiedMembers(unified)
    return FreezerMembers(directories["freezer"])
