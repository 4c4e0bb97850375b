"""The operations that give a container its files: an overlay root, pivot_root, /proc, /sys, /dev, mounts.

Pure. Which paths are present follows the OCI runtime specification (config-linux.md, "Default Filesystems",
"Default Devices"); which are masked or read-only is what Docker (daemon/pkg/oci/defaults.go) and Podman
(containers-common, pkg/config) have, taken together.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from orchestrator.devices import Node
from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from orchestrator.runtime.idmap import outside
from orchestrator.runtime.userns import IdMaps
from orchestrator.spec import Mount, ServiceSpec


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
    :param propagation: as in the spec; ``subpath`` likewise.
    :param fill: a volume that gets what the image has at the target if it is new.
    """

    source: str
    target: str
    read_only: bool = False
    recursive: bool = True
    owner: tuple[int, int] | None = None
    #: Whether the container's ids are written to the disk as they are; otherwise the host's are.
    idmapped: bool = True
    propagation: str = "private"
    subpath: str = ""
    fill: bool = False


DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"),
)  # fmt: skip
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/dev/block",
    "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
#: Masked too, for each processor that has it: how hot it runs tells what others compute (GHSA-6fw5-f8r9-fgfm).
MASKED_OF_CPUS = "/sys/devices/system/cpu/cpu*/thermal_throttle"
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: The group of terminals, on every distribution (devpts, Documentation/filesystems/devpts.rst).
_TTY = 5
_QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC
_EVERYTHING = "all"


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """The container's cgroup ``path`` of one hierarchy, to be seen as ``name`` in /sys/fs/cgroup.

    ``name`` is empty where there is only one hierarchy: it is then /sys/fs/cgroup itself. ``links`` are
    further names of it.
    """

    path: str
    name: str
    links: tuple[str, ...] = ()


def cgroup_mounts(folders: Mapping[str, Sequence[str]]) -> tuple[CgroupMount, ...]:
    """What a container sees of its cgroups: folders of the host -> v1 controllers, or "unified".

    Names are those that systemd gives: a v1 hierarchy is called after all its controllers, and each of several has a
    symbolic link of its own.
    """
    if list(folders.values()) == [["unified"]]:
        return (CgroupMount(next(iter(folders)), ""),)
    return tuple(
        CgroupMount(path, ",".join(names), tuple(names) if len(names) > 1 else ())
        for path, names in folders.items()
    )


def enter_root(
    root: str,
    directory: str,
    layers: Sequence[Layer],
    binds: Sequence[Bind],
    cgroups: Sequence[CgroupMount] = (),
    maps: IdMaps | None = None,
    user: str | None = None,
) -> list[Operation]:
    """From the host's files to the container's: afterwards nothing of the host can be named any more.

    ``root`` is an empty folder to build on, ``directory`` that of the writable layers; sources of ``binds`` and
    ``cgroups`` are opened here and attached by :func:`attach_mounts` and :func:`default_mounts`. ``maps`` are those
    of the container's user namespace, and what ``user`` makes on a bind belongs to the bind's owner.
    """
    folders = [[layer.lower[0], layer.upper, layer.work] for layer in layers]
    operations: list[Operation] = [["layers", directory, folders]]
    # What shall propagate is taken from the host's mounts before this process's copies of them lose touch.
    early, late = (
        [(number, bind) for number, bind in enumerate(binds) if (bind.propagation != "private") is propagates]
        for propagates in (True, False)
    )
    operations += [_open(number, bind, maps) for number, bind in early]
    operations.append(["private-mounts"])
    # The rest before layers are covered with idmapped mounts of themselves: one may be a part of a layer.
    operations += [_open(number, bind, maps) for number, bind in late]
    if maps:
        lowers = dict.fromkeys(folder for layer in layers for folder in layer.lower)
        operations += [["idmap-folders", [*lowers, directory]], act_as(maps)]
    for layer in layers:
        target = root + layer.target.rstrip("/")
        operations.append(["overlay", target, list(layer.lower), layer.upper, layer.work])
    for number, bind in enumerate(binds):
        if bind.owner:  # the root is there by now, and with it the container's users
            ids = f"ids{number}"
            operations.append(["mount-map", ids, root, user or "0:0", *bind.owner])
            operations.append(["idmap-tree", f"bind{number}", bind.recursive, ids])
    for number, cgroup in enumerate(cgroups):
        operations.append(["open-tree", f"cgroup{number}", cgroup.path, False, True])
    operations.append(["pivot-root", root])
    return operations


def _open(number: int, bind: Bind, maps: IdMaps | None) -> Operation:
    ids = "container" if maps and bind.idmapped and not bind.owner else ""
    operation = ["open-tree", f"bind{number}", bind.source, bind.recursive, bind.read_only]
    return [*operation, bind.propagation, bind.subpath, ids]


def act_as(maps: IdMaps) -> Operation:
    """What is made from now on belongs to root of the container."""
    return ["act-as", maps.uid, maps.gid]


def make_nodes(nodes: Sequence[Node]) -> list[Operation]:
    """Make the devices that the container is given; :func:`attach_mounts` puts them in place."""
    if not nodes:
        return []
    made = [
        [f"node{number}", node.kind, node.major, node.minor, node.mode, node.uid, node.gid]
        for number, node in enumerate(nodes)
    ]
    return [["nodes", made]]


def default_mounts(
    cgroups: Sequence[CgroupMount] = (),
    masked: Iterable[str] = MASKED,
    shm_size: int | None = 64 << 20,
    maps: IdMaps | None = None,
) -> list[Operation]:
    """/proc, /sys and /dev, and what of them a container does not see.

    Masks come at once, before anything that an image or a volume could have a say in. What is only read-only
    comes later (:func:`restrict`), when /proc/sys has been written to.

    :param shm_size: None: /dev/shm is another's, in slot "shm".
    """
    tty = outside(maps.gid, _TTY) if maps else _TTY
    terminals = "newinstance,ptmxmode=0666,mode=0620" + ("" if tty is None else f",gid={tty}")
    operations: list[Operation] = [
        ["mount", "proc", "/proc", _QUIET, ""],
        ["mount", "sysfs", "/sys", _QUIET | MS_RDONLY, ""],
    ]
    if cgroups:
        links = [[link, cgroup.name] for cgroup in cgroups for link in cgroup.links]
        operations.append(["cgroups", [cgroup.name for cgroup in cgroups], links])
    shared_memory: Operation = ["attach-tree", "shm", "/dev/shm"]
    if shm_size is not None:
        shared_memory = ["mount", "tmpfs", "/dev/shm", _QUIET, f"mode=1777,size={shm_size}"]
    return [
        *operations,
        ["mount", "tmpfs", "/dev", MS_NOSUID, "mode=755,size=65536k"],
        ["devices", [list(device) for device in DEVICES], [list(link) for link in DEVICE_LINKS]],
        ["mount", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, terminals],
        shared_memory,
        ["mount", "mqueue", "/dev/mqueue", _QUIET, ""],
        *(["mask", path] for path in masked),
    ]


def secrets(spec: ServiceSpec) -> list[Operation]:
    """Make the files of secrets and configs; :func:`attach_mounts` puts them where they belong."""
    grants = (*spec.secrets, *spec.configs)
    if not grants:
        return []
    return [
        ["secrets", [[b2a_base64(g.content, newline=False).decode(), g.uid, g.gid, g.mode] for g in grants]]
    ]


def attach_mounts(
    spec: ServiceSpec, binds: Sequence[Bind], files: Iterable[str] = (), nodes: Sequence[Node] = ()
) -> list[Operation]:
    """Put files, binds, secrets, devices and tmpfs in place, outer targets before inner ones.

    :param files: the targets of what ``files`` made, in its order.
    """
    slots = [
        *((target, f"file{number}") for number, target in enumerate(files)),
        *((bind.target, f"bind{number}") for number, bind in enumerate(binds)),
        *((grant.target, f"secret{number}") for number, grant in enumerate((*spec.secrets, *spec.configs))),
        *((node.target, f"node{number}") for number, node in enumerate(nodes)),
    ]
    attach: list[tuple[str, Operation]] = [
        (bind.target, ["fill", f"bind{number}", bind.target])
        for number, bind in enumerate(binds)
        if bind.fill
    ]
    attach += [(target, ["attach-tree", slot, target]) for target, slot in slots]
    attach += [(mount.target, _tmpfs(mount)) for mount in spec.mounts if mount.type == "tmpfs"]
    return [operation for _, operation in sorted(attach, key=lambda pair: pair[0].rstrip("/").count("/"))]


def _tmpfs(mount: Mount) -> Operation:
    options = [f"mode={mount.mode if mount.mode is not None else 0o1777:o}"]
    if mount.size is not None:
        options.append(f"size={mount.size}")
    if mount.nr_inodes is not None:
        options.append(f"nr_inodes={mount.nr_inodes}")
    flags = (_QUIET & ~MS_NOEXEC if mount.exec else _QUIET) | (MS_RDONLY if mount.read_only else 0)
    return ["tmpfs", mount.target, flags, ",".join(options), mount.uid or 0, mount.gid or 0]


def masked_paths(spec: ServiceSpec, of_cpus: Iterable[str] = ()) -> list[str]:
    """The kernel's files that a container does not see; ``of_cpus`` are those of MASKED_OF_CPUS here."""
    return _not_unmasked((*MASKED, *of_cpus), spec.unmask)


def restrict(spec: ServiceSpec, layers: Sequence[Layer] = ()) -> list[Operation]:
    """Take away what the container has no business with: the last that happens to its files.

    A ``read_only`` root takes /dev with it, whose files are the devices: nothing can be left there either.
    """
    operations: list[Operation] = [["read-only", path] for path in _not_unmasked(READ_ONLY, spec.unmask)]
    operations += [["hide", path] for path in spec.masked_paths]
    operations += [["write-protect", path] for path in spec.read_only_paths]
    if spec.read_only:
        covered = {mount.target for mount in spec.mounts}
        roots = [target for target in (*(layer.target for layer in layers), "/dev") if target not in covered]
        operations.append(["read-only-roots", roots])
    return operations


def _not_unmasked(paths: Iterable[str], unmask: Sequence[str]) -> list[str]:
    return [path for path in paths if not any(_matches(path, pattern) for pattern in unmask)]


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern as podman's ``--security-opt unmask`` takes it, ``all`` or a glob, means the path."""
    if pattern == _EVERYTHING:
        return True
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
