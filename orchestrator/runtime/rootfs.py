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
from orchestrator.runtime.idmap import outside
from orchestrator.runtime.userns import IdMaps
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
    """A file or folder of the host, seen at ``target`` of the container.

    :param owner: user and group that own on the host what the container's user makes there; None: whoever has
        the container's numbers.
    """

    source: str
    target: str
    read_only: bool = False
    recursive: bool = True
    owner: tuple[int, int] | None = None
    #: Whether the container's ids are written to the disk as they are; otherwise the host's are.
    idmapped: bool = True


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

#: The group of terminals, on every distribution (devpts, Documentation/filesystems/devpts.rst).
_TTY = 5
_QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC


def enter_root(
    root: str,
    directory: str,
    layers: Sequence[Layer],
    binds: Sequence[Bind],
    maps: IdMaps | None = None,
    user: str | None = None,
) -> list[Operation]:
    """From the host's files to the container's: afterwards nothing of the host can be named any more.

    ``root`` is an empty folder to build on, ``directory`` that of the writable layers; sources of ``binds``
    are opened here and attached by :func:`attach_mounts`. ``maps`` are those of the container's user namespace,
    and what ``user`` makes on a bind belongs to the bind's owner.
    """
    folders = [[layer.lower[0], layer.upper, layer.work] for layer in layers]
    operations: list[Operation] = [["layers", directory, folders], ["private-mounts"]]
    if maps:
        lowers = dict.fromkeys(folder for layer in layers for folder in layer.lower)
        operations += [["idmap-folders", [*lowers, directory]], act_as(maps)]
    for layer in layers:
        target = root + layer.target.rstrip("/")
        operations.append(["overlay", target, list(layer.lower), layer.upper, layer.work])
    for number, bind in enumerate(binds):
        ids = "container" if maps and bind.idmapped else ""
        if bind.owner:
            ids = f"ids{number}"
            operations.append(["mount-map", ids, root, user or "0:0", *bind.owner])
        operations.append(["open-tree", f"bind{number}", bind.source, bind.recursive, bind.read_only, ids])
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


def act_as(maps: IdMaps) -> Operation:
    """What is made from now on belongs to root of the container."""
    return ["act-as", maps.uid, maps.gid]


def default_mounts(maps: IdMaps | None = None) -> list[Operation]:
    """/proc, /sys and /dev; the masks come later (:func:`restrict`), when /proc/sys has been written to."""
    tty = outside(maps.gid, _TTY) if maps else _TTY
    terminals = "newinstance,ptmxmode=0666,mode=0620" + ("" if tty is None else f",gid={tty}")
    return [
        ["mount", "proc", "/proc", _QUIET, ""],
        ["mount", "sysfs", "/sys", _QUIET | MS_RDONLY, ""],
        ["mount", "tmpfs", "/dev", MS_NOSUID, "mode=755,size=65536k"],
        ["devices", [list(device) for device in DEVICES], [list(link) for link in DEVICE_LINKS]],
        ["mount", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, terminals],
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
