"""The operations that give a container its files: an overlay root, pivot_root, /proc, /sys, /dev, mounts.

Pure. Which paths are masked, read-only or present follows the OCI runtime specification (config-linux.md,
"Default Filesystems", "Default Devices") and Docker's defaults where the specification is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.devices import Node
from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from orchestrator.spec import Mount


@dataclass(frozen=True, slots=True)
class Layer:
    """One overlay: ``lower`` (top first) seen at ``target`` of the container, with a writable layer of its own.

    ``upper`` and ``work`` are the writable layer's folders.
    """

    target: str
    lower: tuple[str, ...]
    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the host, seen at ``target`` of the container."""

    source: str
    target: str
    read_only: bool = False
    recursive: bool = True


DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"),
)  # fmt: skip
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC


def enter_root(root: str, directory: str, layers: Sequence[Layer], binds: Sequence[Bind]) -> list[Operation]:
    """From the host's files to the container's: afterwards nothing of the host can be named any more.

    ``root`` is an empty folder to build on, ``directory`` that of the writable layers; sources of ``binds``
    are opened here and attached by :func:`attach_mounts`.
    """
    folders = [[layer.lower[0], layer.upper, layer.work] for layer in layers]
    operations: list[Operation] = [["layers", directory, folders], ["private-mounts"]]
    for layer in layers:
        target = root + layer.target.rstrip("/")
        operations.append(["overlay", target, list(layer.lower), layer.upper, layer.work])
    for number, bind in enumerate(binds):
        operations.append(["open-tree", f"bind{number}", bind.source, bind.recursive, bind.read_only])
    operations.append(["pivot-root", root])
    return operations


def make_nodes(nodes: Sequence[Node]) -> list[Operation]:
    """Make the devices that the container is given; :func:`attach_mounts` puts them in place."""
    if not nodes:
        return []
    made = [
        [f"node{number}", node.kind, node.major, node.minor, node.mode, node.uid, node.gid]
        for number, node in enumerate(nodes)
    ]
    return [["nodes", made]]


def default_mounts() -> list[Operation]:
    """/proc, /sys and /dev; the masks come later (:func:`restrict`), when /proc/sys has been written to."""
    return [
        ["mount", "proc", "/proc", _QUIET, ""],
        ["mount", "sysfs", "/sys", _QUIET | MS_RDONLY, ""],
        ["mount", "tmpfs", "/dev", MS_NOSUID, "mode=755,size=65536k"],
        ["devices", [list(device) for device in DEVICES], [list(link) for link in DEVICE_LINKS]],
        ["mount", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"],
        ["mount", "tmpfs", "/dev/shm", _QUIET, "mode=1777,size=65536k"],
        ["mount", "mqueue", "/dev/mqueue", _QUIET, ""],
    ]


def attach_mounts(
    binds: Sequence[Bind], tmpfs: Sequence[Mount], nodes: Sequence[Node] = ()
) -> list[Operation]:
    """Put binds, tmpfs and devices in place, outer targets before inner ones."""
    attach: list[tuple[str, Operation]] = [
        (bind.target, ["attach-tree", f"bind{number}", bind.target]) for number, bind in enumerate(binds)
    ]
    attach += [
        (node.target, ["attach-tree", f"node{number}", node.target]) for number, node in enumerate(nodes)
    ]
    for mount in tmpfs:
        options = [f"mode={mount.mode if mount.mode is not None else 0o1777:o}"]
        if mount.size is not None:
            options.append(f"size={mount.size}")
        flags = _QUIET | (MS_RDONLY if mount.read_only else 0)
        attach.append((mount.target, ["tmpfs", mount.target, flags, ",".join(options)]))
    return [operation for _, operation in sorted(attach, key=lambda pair: pair[0].rstrip("/").count("/"))]


def restrict(read_only: Sequence[Layer] = ()) -> list[Operation]:
    """Take away what a container has no business with, and the writing to ``read_only`` layers."""
    operations: list[Operation] = [["mask", path] for path in MASKED]
    operations += [["read-only", path] for path in READ_ONLY]
    if read_only:
        operations.append(["read-only-roots", [layer.target for layer in read_only]])
    return operations
