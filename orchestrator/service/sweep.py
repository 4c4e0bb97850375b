"""Removing what a killed service left behind: exactly what its ledger says it owned.

The spawner execs this when its service has gone away; a starting service calls :func:`sweep` before anything
else. Every step is safe to repeat, and a failing one does not stop the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Sequence

import structlog

from orchestrator.cgroups.host import CgroupHost, detect
from orchestrator.errors import OrchError
from orchestrator.ids import Instance
from orchestrator.launch.stages import kill_and_remove, remove_tree
from orchestrator.ledger import Entry, Ledger
from orchestrator.network.manager import NetworkManager
from orchestrator.network.model import Runner

log = structlog.get_logger()


async def sweep(instance: Instance, ledger: Ledger, cgroups: CgroupHost, networks: NetworkManager) -> int:
    """Remove everything that the ledger owns; how many things there were."""
    entries = ledger.owned()
    for entry in sorted(entries, key=lambda entry: entry.kind != "container"):
        try:
            if entry.kind == "container":
                await asyncio.to_thread(_remove_container, entry, cgroups)
            elif entry.kind == "network":
                await networks.discard(*entry.name.split("/", 1))
            ledger.free(entry.kind, entry.name)
        except (OSError, OrchError) as error:
            log.error("cannot sweep", kind=entry.kind, name=entry.name, error=str(error))
    await networks.destroy()
    try:  # with all levels beneath it: none of them has a process that the ledger does not know
        await asyncio.to_thread(cgroups.group(instance.cgroup_parent).remove)
    except OrchError as error:
        log.error("cannot sweep", kind="cgroup", name=instance.cgroup_parent, error=str(error))
    return len(entries)


def _remove_container(entry: Entry, cgroups: CgroupHost) -> None:
    kill_and_remove(cgroups.group(entry.data["cgroup"]))
    for path in entry.data["paths"]:
        if os.path.isdir(path):
            remove_tree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def take_lock(instance: Instance) -> int | None:
    """A descriptor that holds the instance's lock until it is closed; None when another process holds it.

    Who holds it may remove its file (see :func:`remove_run_dir`): one that is gone locks nobody out.
    """
    path = f"{instance.run_dir}/lock"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        os.close(fd)


def remove_run_dir(instance: Instance, *, keep_log: bool) -> None:
    """Leave nothing in the run folder; the caller holds the lock.

    :param keep_log: but the service's log, for it ended badly.
    """
    for name in ("lock",) if keep_log else ("lock", "service.log"):
        with contextlib.suppress(OSError):
            os.unlink(f"{instance.run_dir}/{name}")
    for folder in (f"{instance.run_dir}/hosts", instance.run_dir):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


async def run_here(argv: Sequence[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Run a short command of the host without a spawner; its exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate(stdin)
    return process.returncode or 0, output, errors


async def _sweep_alone(instance: Instance) -> None:
    run: Runner = run_here
    networks = NetworkManager(instance, run)
    await networks.start()
    try:
        ledger = Ledger(instance.ledger)
        await sweep(instance, ledger, detect(), networks)
        ledger.close()
    finally:
        await networks.close()


def main(state_dir: str, run_dir: str) -> None:
    """Sweep an instance whose service has gone away; nothing happens when another service has taken over."""
    instance = Instance(state_dir, run_dir)
    try:
        lock = take_lock(instance)
    except FileNotFoundError:
        return
    if lock is None:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(instance.socket)
    if os.path.exists(instance.ledger):
        asyncio.run(_sweep_alone(instance))
    remove_run_dir(instance, keep_log=True)
    os.close(lock)


if __name__ == "__main__":
    main(*sys.argv[1:3])
