"""What a test left behind: two inventories of the host and their difference.

Meant for the sandbox, where every process, interface, cgroup and nft table there is is the tests' own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields

from support.requirements import program_path
from support.sandbox import cgroup_hierarchies
from support.waiting import DeadlineError, wait_until

#: How long the kernel and dying processes may take to finish what the test began to remove. Network
#: namespaces, for one, are dismantled by a kernel worker some time after their last user has gone.
SETTLE_SECONDS = 5.0

Things = Mapping[str, str]  #: key -> how to call it in a report


@dataclass(frozen=True)
class Inventory:
    """What is there now. A field's name is the kind of thing that a report names."""

    process: Things
    descriptor: Things
    mount: Things
    network_namespace: Things
    interface: Things
    cgroup: Things
    nft_table: Things

    def left_since(self, before: Inventory) -> list[str]:
        """One line for each thing that is here now and was not before."""
        lines = []
        for field in fields(self):
            had, has = getattr(before, field.name), getattr(self, field.name)
            kind = field.name.replace("_", " ")
            lines += [f"{kind} {has[key]}" for key in sorted(has.keys() - had.keys())]
        return lines


def take() -> Inventory:
    """The inventory of this moment."""
    return Inventory(
        process=_processes(),
        descriptor=_descriptors(),
        mount=_mounts(),
        network_namespace=_network_namespaces(),
        interface={name: name for name in os.listdir("/sys/class/net")},
        cgroup=_cgroups(),
        nft_table=_nft_tables(),
    )


def left_since(before: Inventory, settle: float = SETTLE_SECONDS) -> list[str]:
    """What was not there ``before`` and does not go away by itself within ``settle`` seconds; [] is clean."""
    left = take().left_since(before)
    if not left:
        return []
    gc.collect()  # a reference cycle may still hold a socket or a pidfd
    try:
        wait_until("nothing is left", lambda: not take().left_since(before), timeout=settle)
    except DeadlineError:
        return take().left_since(before)
    return []


def _processes() -> dict[str, str]:
    found: dict[str, str] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # It may end while we look: then it is not left behind.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/stat") as file:
                name, _, rest = file.read().partition(" (")[2].rpartition(") ")
            state, parent, start = rest.split()[0], rest.split()[1], rest.split()[19]
            with open(f"/proc/{pid}/cmdline", "rb") as raw:
                command = raw.read().replace(b"\0", b" ").decode(errors="replace").strip() or name
            kind = "zombie " if state == "Z" else ""
            found[f"{pid}.{start}"] = f"{kind}{pid} (parent {parent}): {command[:200]}"
    return found


def _descriptors() -> dict[str, str]:
    """Of this process. The one that lists them is gone by the time it is looked up."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{number}")
            found[f"{number} {target}"] = f"{number} -> {target}"
    return found


def _mounts() -> dict[str, str]:
    found = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            number, _, _, root, point = left.split()[:5]
            found[number] = f"{point} ({right.split()[0]}, root {root})"
    return found


def _network_namespaces() -> dict[str, str]:
    found: dict[str, str] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/{pid}/ns/net")
            found.setdefault(name, f"{name} of process {pid}")
    return found


def _cgroups() -> dict[str, str]:
    found = {}
    for hierarchy in cgroup_hierarchies():
        for entry in os.scandir(hierarchy.point):
            if entry.is_dir():
                found[entry.path] = entry.path
    return found


def _nft_tables() -> dict[str, str]:
    nft = program_path("nft")
    if nft is None:
        return {}
    listed = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=True).stdout
    return {line: line.removeprefix("table ") for line in listed.splitlines()}


def files_left(folder: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Files beneath ``folder`` whose path relative to it is not, and is not beneath, one of ``allowed``."""

    def is_allowed(path: str) -> bool:
        return any(path == one or path.startswith(one + "/") for one in allowed)

    left = []
    for parent, _, files in os.walk(folder):
        paths = (os.path.relpath(os.path.join(parent, name), folder) for name in files)
        left += [f"file {os.path.join(folder, path)}" for path in paths if not is_allowed(path)]
    return sorted(left)
