"""A spec becomes a launch program: the flat list of operations between clone3 and execve. Pure.

This is the middle of the way from ``orch up`` to ``execve``; read :func:`compile_start` top to bottom and
``child`` beside it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator import capabilities
from orchestrator.devices import Node
from orchestrator.kernel import operations as plain
from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
)
from orchestrator.lsm.confinement import UNCONFINED, Confinement
from orchestrator.runtime import idmap, rootfs
from orchestrator.runtime.userns import IdMaps
from orchestrator.spec import DEFAULT_ULIMITS, HOST, PRIVATE, ServiceSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class CgroupPart:
    """What the cgroups room contributes; see ``Cgroup.compile_prepare`` and ``compile_enter``."""

    prepare: list[Operation] = field(default_factory=list)
    enter: list[Operation] = field(default_factory=list)
    clone_into: str | None = None


@dataclass(frozen=True, slots=True)
class RootfsPart:
    """What the container's files are made from.

    :param root: an empty folder of the host to build on; each child has it to itself, in its mount namespace.
    :param directory: of the writable layers, made with them on the first start.
    :param files: small files of the container's own, by target.
    :param nodes: the devices that it is given.
    :param cgroups: those of its cgroups that it may look at.
    :param masked_cpus: the files of this host that ``rootfs.MASKED_OF_CPUS`` means.
    """

    root: str
    directory: str
    layers: tuple[rootfs.Layer, ...]
    binds: tuple[rootfs.Bind, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    cgroups: tuple[rootfs.CgroupMount, ...] = ()
    masked_cpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPart:
    """``new``: a network namespace of its own is made; ``existing``: the one that slot "netns" names is joined.

    ``configure`` are the operations to perform in it, ``wait`` whether the host's part must be awaited first.
    """

    new: bool
    existing: bool = False
    wait: bool = False
    configure: list[Operation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NamespacesPart:
    """Whose namespaces the container gets, but for the network's.

    :param maps: of its user namespace; None leaves it in the host's.
    :param owner: where its user namespace is found: ``netns`` (it owns that one), or the slot of a process in it; ""
        makes a new one.
    :param neighbours: kind -> slot of the process (a pidfd) that shares its own.
    """

    maps: IdMaps | None = None
    owner: str = ""
    neighbours: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeccompPart:
    """The filter of system calls; its program is in slot "seccomp". ``label`` says for people which one it is."""

    label: str
    flags: int = 0

    def compile(self) -> list[Operation]:
        """The last thing before the program (and its init): from here on a call may be refused."""
        return [["seccomp", "seccomp", self.flags, self.label]]


@dataclass(frozen=True, slots=True)
class Program:
    """A launch program; the fields are those of the ``launch`` message (see ``protocol``).

    :param fifos: a folder and a SELinux context, for pipes that the container's processes may use.
    """

    flags: int
    cgroup: str | None
    prepare: list[Operation]
    operations: list[Operation]
    give: list[str]
    slots: list[str] = field(default_factory=list)
    join: str | None = None
    fifos: list[str] | None = None

    def to_wire(self) -> dict[str, Any]:
        """The program as the spawner gets it."""
        return {name: getattr(self, name) for name in self.__slots__}

    def describe(self) -> list[str]:
        """One line an operation, for logs and ``orch inspect``."""
        return [describe(operation) for operation in (*self.prepare, *self.operations)]


def _base_sysctls() -> dict[str, str]:
    """Docker's defaults for a network namespace of one's own: low ports and ping need no capability in it."""
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def environment(spec: ServiceSpec, hostname: str, terminal: bool = False) -> dict[str, str]:
    """The program's environment; HOME is added by the child, which knows the user."""
    base = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if terminal:
        base["TERM"] = "xterm"
    return base | spec.environment


def compile_limits(spec: ServiceSpec) -> list[Operation]:
    """What each process of a container may have of getrlimit(2), those of exec too."""
    limits = DEFAULT_ULIMITS | {name: (limit.soft, limit.hard) for name, limit in spec.ulimits.items()}
    return [["limit", name, soft, hard] for name, (soft, hard) in limits.items()]


def compile_oom(spec: ServiceSpec, otherwise: int | None) -> list[Operation]:
    """How soon the kernel kills it when memory runs out. To be done first: it takes root, and the host's /proc.

    :param otherwise: for a container that says nothing of it; None leaves what the spawner has.
    """
    adjustment = otherwise if spec.oom_score_adj is None else spec.oom_score_adj
    return [] if adjustment is None else [plain.write("/proc/self/oom_score_adj", str(adjustment))]


def _become(
    spec: ServiceSpec,
    environment: dict[str, str],
    enter: Sequence[Operation],
    last_capability: int,
    terminal: bool,
    user: str | None,
    working_dir: str | None,
    confinement: Confinement,
    volumes: Sequence[str] = (),
    seccomp: SeccompPart | None = None,
) -> list[Operation]:
    """From root of the host to the container's user; ``enter`` is the way into its user namespace.

    Without no_new_privs a filter of system calls takes CAP_SYS_ADMIN, so it is loaded here, before that goes.
    """
    early = seccomp.compile() if seccomp and not spec.no_new_privileges else []
    held = capabilities.mask(capabilities.granted(spec.cap_add, spec.cap_drop))
    ambient = capabilities.mask(capabilities.ambient(spec.cap_add, spec.cap_drop))
    optional = held & ~capabilities.mask(set(spec.cap_add) - {"ALL"}) if "ALL" in spec.cap_add else 0
    return [
        ["environment", environment],
        ["work", working_dir or "/"],
        ["user", user or "0:0", terminal, list(spec.group_add)],
        *enter,
        *(["adopt", target] for target in volumes),
        ["tidy"],
        *early,
        ["privileges", held, ambient, last_capability, spec.no_new_privileges, optional],
        ["die-with-parent"],
        *_confine(confinement),
    ]


def _confine(confinement: Confinement) -> list[Operation]:
    if not (confinement.process or confinement.profile):
        return []
    return [["confine", confinement.process, confinement.profile]]


def _fifos(confinement: Confinement, folder: str) -> list[str] | None:
    return [folder, confinement.files] if confinement.files else None


def _clone_flags(spec: ServiceSpec, network: NetworkPart) -> int:
    """The namespaces that the child is born in, all of the host's user namespace."""
    flags = CLONE_NEWNS if spec.mnt == PRIVATE else 0
    if spec.pid == PRIVATE:
        flags |= CLONE_NEWPID
    if spec.uts == PRIVATE:
        flags |= CLONE_NEWUTS
    if spec.ipc == PRIVATE:
        flags |= CLONE_NEWIPC
    if network.new:
        flags |= CLONE_NEWNET
    return flags


def _enter_namespaces(
    spec: ServiceSpec, network: NetworkPart, namespaces: NamespacesPart
) -> tuple[int, list[Operation]]:
    """The flags to be cloned with, and the operations that bring about all other namespaces."""
    flags = _clone_flags(spec, network)
    operations: list[Operation] = []
    made = ["time"] if spec.time == PRIVATE else []
    if namespaces.maps:
        # What the container's user namespace shall own is made in it, and not before.
        flags &= CLONE_NEWNS | CLONE_NEWPID
        made = [kind for kind in ("uts", "ipc", "cgroup", "time") if getattr(spec, kind) == PRIVATE]
        if network.new:
            made.append("net")
        if namespaces.owner:
            source = "owner" if namespaces.owner == "netns" else "user-namespace-of"
            operations.append([source, namespaces.owner])
    elif spec.cgroup == PRIVATE:
        operations.append(["unshare-cgroup"])
    fresh = namespaces.maps is not None and not namespaces.owner
    if made or fresh:
        maps = None
        if namespaces.maps and fresh:
            maps = [idmap.render(each) for each in namespaces.maps]
        offsets = spec.time_offsets
        clocks = [("monotonic", offsets.monotonic), ("boottime", offsets.boottime)] if offsets else []
        text = "".join(f"{name} {_seconds(value)}\n" for name, value in clocks)
        operations.append(["namespaces", made, maps, text, "net" in made])
    if network.existing:
        operations.append(["join", "netns", ["net"]])
    for kind, slot in namespaces.neighbours.items():
        if kind not in ("pid", "mnt"):
            operations.append(["join", slot, [kind]])
    return flags, operations


def _seconds(value: float) -> str:
    """As /proc/PID/timens_offsets takes it: whole seconds, rounded down, and nanoseconds (time_namespaces(7))."""
    whole = math.floor(value)
    return f"{whole} {round((value - whole) * 1e9)}"


def compile_start(
    spec: ServiceSpec,
    hostname: str,
    cgroup: CgroupPart,
    files: RootfsPart,
    network: NetworkPart,
    last_capability: int,
    namespaces: NamespacesPart = NamespacesPart(),
    terminal: tuple[int, int] | None = None,
    stdin: bool = False,
    seccomp: SeccompPart | None = None,
    oom_score_adj: int | None = None,
    confinement: Confinement = UNCONFINED,
    run_dir: str = "/run",
) -> Program:
    """The program that starts a container.

    :param last_capability: the kernel's highest capability number (/proc/sys/kernel/cap_last_cap).
    :param oom_score_adj: of a container that says nothing of it, as :func:`compile_oom` has it.
    :param run_dir: a folder of the host for pipes that need a label.
    :param terminal: rows and columns of a terminal to run on; None gives pipes.
    :param stdin: whether the program reads from a pipe; otherwise from /dev/null.
    """
    maps = namespaces.maps
    own_files = spec.mnt == PRIVATE
    sysctls = [
        ["sysctl", *pair] for pair in ((_base_sysctls() if network.new else {}) | spec.sysctls).items()
    ]
    flags, enter_namespaces = _enter_namespaces(spec, network, namespaces)
    operations: list[Operation] = [
        *cgroup.enter,
        *compile_oom(spec, oom_score_adj),
        ["keyring", confinement.process],
        *enter_namespaces,
        ["stage", "namespaces"],
    ]
    if spec.uts == PRIVATE:
        operations.append(["hostname", hostname])
    if own_files:
        if spec.ipc == HOST:
            operations.append(["open-tree", "shm", "/dev/shm", False, False])
        elif "ipc" in namespaces.neighbours:  # POSIX shared memory is files there (shm_overview(7))
            operations.append(["shared-memory-of", namespaces.neighbours["ipc"]])
        if confinement.files:
            operations.append(["label-mounts", confinement.files])
        operations += rootfs.enter_root(
            files.root, files.directory, files.layers, files.binds, files.cgroups, maps, spec.user
        )
        operations.append(["files", list(files.files.values()), spec.read_only])
        operations += rootfs.secrets(spec)
        operations += rootfs.make_nodes(files.nodes)
        masked = rootfs.masked_paths(spec, files.masked_cpus)
        shm_size = spec.shm_size if spec.ipc == PRIVATE else None
        operations += rootfs.default_mounts(files.cgroups, masked, shm_size, maps)
        operations += rootfs.attach_mounts(spec, files.binds, files.files, files.nodes)
    operations.append(["stage", "rootfs"])
    if network.wait:
        operations.append(["wait"])
    operations += network.configure
    operations.append(["stage", "network"])
    operations += sysctls
    if own_files:
        operations += rootfs.restrict(spec, files.layers)
    elif maps:
        operations += [["join", namespaces.neighbours["mnt"], ["mnt"]], rootfs.act_as(maps)]
    elif "mnt" in namespaces.neighbours:
        operations.append(["join", namespaces.neighbours["mnt"], ["mnt"]])
    operations += compile_limits(spec)
    if terminal:
        operations.append(["terminal", *terminal])
    operations += _become(
        spec, environment(spec, hostname, terminal is not None),
        [["enter-user-namespace", own_files]] if maps else [], last_capability, terminal is not None,
        spec.user, spec.working_dir, confinement,
        [m.target for m in spec.mounts if own_files and m.type == "volume" and not m.read_only], seccomp,
    )  # fmt: skip
    operations.append(["stage", "restrict"])
    if seccomp and spec.no_new_privileges:
        operations += seccomp.compile()
    if spec.init:
        operations.append(["init"])
    operations.append(["exec", list(spec.argv)])
    give = [] if terminal else [*(["stdin"] if stdin else []), "stdout", "stderr"]
    if flags & CLONE_NEWNET:
        give.append("netns")
    if network.wait:
        give.append("ready")
    slots = ["netns"] if network.existing else []
    return Program(
        flags=flags,
        cgroup=cgroup.clone_into,
        prepare=cgroup.prepare,
        operations=operations,
        give=give,
        slots=list(
            dict.fromkeys([*slots, *namespaces.neighbours.values(), *(["seccomp"] if seccomp else [])])
        ),
        join=namespaces.neighbours.get("pid"),
        fifos=_fifos(confinement, run_dir),
    )


def compile_exec(
    spec: ServiceSpec,
    argv: Sequence[str],
    environment: dict[str, str],
    cgroup: CgroupPart,
    last_capability: int,
    maps: IdMaps | None = None,
    user: str | None = None,
    working_dir: str | None = None,
    terminal: tuple[int, int] | None = None,
    stdin: bool = False,
    seccomp: SeccompPart | None = None,
    limits: Sequence[Operation] = (),
    confinement: Confinement = UNCONFINED,
    run_dir: str = "/run",
) -> Program:
    """The program that runs one more process in a running container (slot "container" is its pidfd).

    :param maps: those of the container's user namespace.
    :param limits: as :func:`compile_oom` and :func:`compile_limits` make them.
    """
    kinds = ["mnt", "net", "uts", "ipc", "cgroup", *(["time"] if spec.time != HOST else [])]
    operations: list[Operation] = [*cgroup.enter, *limits, ["keyring", confinement.process]]
    if maps:
        operations.append(["user-namespace-of", "container"])
    operations.append(["join", "container", kinds])
    if maps:
        operations.append(rootfs.act_as(maps))
    if terminal:
        operations.append(["terminal", *terminal])
    operations += _become(
        spec, environment, [["enter-user-namespace", False]] if maps else [], last_capability,
        terminal is not None, user or spec.user, working_dir or spec.working_dir, confinement,
        seccomp=seccomp,
    )  # fmt: skip
    if seccomp and spec.no_new_privileges:
        operations += seccomp.compile()
    operations.append(["exec", list(argv)])
    return Program(
        flags=0,
        cgroup=cgroup.clone_into,
        prepare=[],
        operations=operations,
        give=[] if terminal else [*(["stdin"] if stdin else []), "stdout", "stderr"],
        slots=["container", *(["seccomp"] if seccomp else [])],
        join="container",
        fifos=_fifos(confinement, run_dir),
    )


def compile_host_command(argv: Sequence[str], environment: dict[str, str]) -> Program:
    """The program that runs a command of the host (``nft``), with files as its stdin, stdout and stderr."""
    return Program(
        flags=0,
        cgroup=None,
        prepare=[],
        operations=[["environment", environment], ["exec", list(argv)]],
        give=[],
        slots=["stdin", "stdout", "stderr"],
    )


def _names(bits: int) -> str:
    names = capabilities.names(bits)
    return "all" if len(names) == len(capabilities.NUMBERS) else ",".join(names) or "none"


def _describe_map(text: str) -> str:
    return ", ".join(line.replace(" ", ":") for line in text.splitlines())


def _describe_namespaces(kinds: list[str], maps: tuple[str, str] | None, offsets: str, give: bool) -> str:
    whose = f" with a user namespace ({_describe_map(maps[0])})" if maps else ""
    return f"make {', '.join(kinds)} namespaces{whose}" + (
        f", clocks {_describe_map(offsets)}" if offsets else ""
    )


_DESCRIBE: dict[str, Callable[..., str]] = {
    **plain.DESCRIBE,
    "stage": lambda name: f"-- {name} done",
    "die-with-parent": lambda: "die with the spawner",
    "private-mounts": lambda: "make all mounts private",
    "unshare-cgroup": lambda: "new cgroup namespace",
    "namespaces": _describe_namespaces,
    "owner": lambda slot: f"take the user namespace that owns {slot}",
    "mount-map": lambda slot, root, user, uid, gid: f"make {slot}: what {user} makes belongs to {uid}:{gid}",
    "act-as": lambda uid, gid: f"make files as root of the container, user {uid[0][1]} of the host",
    "user-namespace-of": lambda slot: f"take the user namespace of {slot}",
    "enter-user-namespace": lambda lock: (
        "enter the user namespace" + (", and lock all mounts" if lock else "")
    ),
    "tidy": lambda: "reap what made the namespaces, close all on exec",
    "keyring": lambda context: "new session keyring" + (f" labelled {context}" if context else ""),
    "label-mounts": lambda context: f"label whatever is mounted {context}",
    "confine": lambda context, profile: (
        "confine the program to "
        + " and ".join(
            ([f"SELinux label {context}"] if context else [])
            + ([f"AppArmor profile {profile}"] if profile else [])
        )
    ),
    "join": lambda slot, kinds: f"join {', '.join(kinds)} namespace of {slot}",
    "hostname": lambda name: f"set hostname {name}",
    "layers": lambda directory, layers: f"make writable layers in {directory}",
    "files": lambda files, read_only: f"make {len(files)} {'read-only ' if read_only else ''}files in memory",
    "secrets": lambda files: f"make {len(files)} read-only files of secrets and configs in memory",
    "overlay": lambda target, lower, upper, work: (
        f"mount overlay on {target} (lower {':'.join(lower)}, upper {upper}, work {work})"
    ),
    "open-tree": lambda slot, path, recursive, read_only, propagation="private", subpath="", ids="": (
        f"open {path}{subpath and '/' + subpath}{' read-only' if read_only else ''}"
        f"{'' if propagation == 'private' else f', {propagation} with the host,'}"
        f"{f' with ids of {ids}' if ids else ''} as {slot}"
    ),
    "shared-memory-of": lambda slot: f"open /dev/shm of {slot} as shm",
    "idmap-folders": lambda paths: f"idmap {' '.join(paths)}",
    "idmap-tree": lambda slot, recursive, ids: f"give {slot} the ids of {ids}",
    "sysctl": lambda key, value: f"set {key} to {value}",
    "fill": lambda slot, target: f"fill {slot} with the image's {target} if it is a new volume",
    "pivot-root": lambda root: f"pivot_root to {root}",
    "mount": lambda fstype, target, flags, data: (
        f"mount {fstype} on {target}" + (f" ({data})" if data else "")
    ),
    "tmpfs": lambda target, flags, data, uid, gid: f"mount tmpfs on {target} ({data},uid={uid},gid={gid})",
    "attach-tree": lambda slot, target: f"mount {slot} on {target}",
    "devices": lambda devices, links: "make devices " + " ".join(device[0] for device in devices),
    "nodes": lambda nodes: (
        "make devices "
        + ", ".join(f"{slot} ({kind} {major}:{minor})" for slot, kind, major, minor, *_ in nodes)
    ),
    "cgroups": lambda names, links: (
        f"mount {' '.join(name or 'cgroup2' for name in names)} read-only in /sys/fs/cgroup"
    ),
    "mask": lambda path: f"mask {path}",
    "hide": lambda path: f"mask {path}",
    "read-only": lambda path: f"make {path} read-only",
    "write-protect": lambda path: f"make {path} read-only",
    "read-only-roots": lambda targets: f"make {' '.join(targets)} read-only",
    "wait": lambda: "wait for the network",
    "limit": lambda name, soft, hard: f"set ulimit {name} to {soft}:{'its own' if hard is None else hard}",
    "environment": lambda environment: f"set {len(environment)} environment variables",
    "work": lambda path: f"change to working folder {path}",
    "user": lambda user, terminal, groups: f"find user {user}" + (f" and groups {groups}" if groups else ""),
    "adopt": lambda path: f"own {path} if it is a new volume",
    "privileges": lambda bits, ambient, last, no_new_privileges, optional: (
        f"become that user, keep capabilities {_names(bits)}"
        + (f", ambient {_names(ambient)}" if ambient else "")
        + (", no_new_privs" if no_new_privileges else "")
    ),
    "seccomp": lambda slot, flags, label: f"let a seccomp filter decide on system calls: {label}",
    "terminal": lambda rows, columns: f"make a terminal of {rows} x {columns}",
    "init": lambda: "stay as pid 1 that reaps and forwards signals",
    "exit": lambda: "exit",
    "exec": lambda argv: f"exec {shlex.join(argv)}",
}


def describe(operation: Operation) -> str:
    """One line for people: what the operation does, to what."""
    name, *arguments = operation
    return _DESCRIBE[name](*arguments)
