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
from orchestrator.launch.stages import remove_tree
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
    if entries:
        parents = {entry.data["cgroup"].rpartition("/")[0] for entry in entries if entry.kind == "container"}
        await asyncio.to_thread(_remove_parents, cgroups, parents)
    await networks.destroy()
    if entries:
        await asyncio.to_thread(_remove_parents, cgroups, {instance.cgroup_parent})
    return len(entries)


def _remove_container(entry: Entry, cgroups: CgroupHost) -> None:
    group = cgroups.group(entry.data["cgroup"])
    if group.populated():
        group.kill()
    group.remove()
    for path in entry.data["paths"]:
        if os.path.isdir(path):
            remove_tree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _remove_parents(cgroups: CgroupHost, parents: set[str]) -> None:
    for path in sorted(parents, reverse=True):
        while "/" in path:
            cgroups.group(path).remove_if_empty()
            path = path.rpartition("/")[0]
        cgroups.group(path).remove_if_empty()


def take_lock(instance: Instance) -> int | None:
    """A descriptor that holds the instance's lock until it is closed; None when another process holds it."""
    fd = os.open(f"{instance.run_dir}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


async def _run_here(argv: Sequence[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate(stdin)
    return process.returncode or 0, output, errors


async def _sweep_alone(instance: Instance) -> None:
    run: Runner = _run_here
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
    if lock is None or not os.path.exists(instance.ledger):
        return
    try:
        os.unlink(instance.socket)
    except FileNotFoundError:
        pass
    asyncio.run(_sweep_alone(instance))
    os.close(lock)


if __name__ == "__main__":
    main(*sys.argv[1:3])
