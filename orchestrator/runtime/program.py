"""A spec becomes a launch program: the flat list of operations between clone3 and execve. Pure.

This is the middle of the way from ``orch up`` to ``execve``; read :func:`compile_start` top to bottom and
``child`` beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from orchestrator.runtime import capabilities, rootfs
from orchestrator.spec import ServiceSpec

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
    """

    root: str
    directory: str
    layers: tuple[rootfs.Layer, ...]
    binds: tuple[rootfs.Bind, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


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


def _base_sysctls(spec: ServiceSpec) -> dict[str, str]:
    """Docker's defaults for a network namespace of one's own: low ports and ping need no capability in it."""
    if spec.network_mode == "host":
        return {}
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def environment(spec: ServiceSpec, hostname: str, terminal: bool = False) -> dict[str, str]:
    """The program's environment; HOME is added by the child, which knows the user."""
    base = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if terminal:
        base["TERM"] = "xterm"
    return base | spec.environment


def _become(
    environment: dict[str, str],
    user: str | None,
    working_dir: str | None,
    last_capability: int,
    terminal: bool,
    confinement: Confinement,
    volumes: Sequence[str] = (),
) -> list[Operation]:
    return [
        ["environment", environment],
        ["work", working_dir or "/"],
        ["user", user or "0:0", terminal],
        *(["adopt", target] for target in volumes),
        ["privileges", capabilities.mask(), last_capability],
        ["die-with-parent"],
        *_confine(confinement),
    ]


def _confine(confinement: Confinement) -> list[Operation]:
    if not (confinement.process or confinement.profile):
        return []
    return [["confine", confinement.process, confinement.profile]]


def _fifos(confinement: Confinement, folder: str) -> list[str] | None:
    return [folder, confinement.files] if confinement.files else None


def compile_start(
    spec: ServiceSpec,
    hostname: str,
    cgroup: CgroupPart,
    files: RootfsPart,
    network: NetworkPart,
    last_capability: int,
    terminal: tuple[int, int] | None = None,
    stdin: bool = False,
    confinement: Confinement = UNCONFINED,
    run_dir: str = "/run",
) -> Program:
    """The program that starts a container.

    :param last_capability: the kernel's highest capability number (/proc/sys/kernel/cap_last_cap).
    :param run_dir: a folder of the host for pipes that need a label.
    :param terminal: rows and columns of a terminal to run on; None gives pipes.
    :param stdin: whether the program reads from a pipe; otherwise from /dev/null.
    """
    tmpfs = [mount for mount in spec.mounts if mount.type == "tmpfs"]
    sysctls = (_base_sysctls(spec) if network.new else {}) | spec.sysctls
    operations: list[Operation] = [
        *cgroup.enter,
        ["keyring", confinement.process],
        *([["label-mounts", confinement.files]] if confinement.files else []),
        ["unshare-cgroup"],
        ["stage", "cgroup"],
        ["hostname", hostname],
        *rootfs.enter_root(files.root, files.directory, files.layers, files.binds),
        ["files", files.files],
        *rootfs.default_mounts(),
        *rootfs.attach_mounts(files.binds, tmpfs),
        ["stage", "rootfs"],
    ]
    if network.existing:
        operations.append(["join", "netns", "net"])
    if network.wait:
        operations.append(["wait"])
    operations += network.configure
    operations.append(["stage", "network"])
    operations += [plain.write("/proc/sys/" + key.replace(".", "/"), value) for key, value in sysctls.items()]
    operations += rootfs.restrict(files.layers if spec.read_only else ())
    operations += [["limit", name, limit.soft, limit.hard] for name, limit in spec.ulimits.items()]
    if terminal:
        operations.append(["terminal", *terminal])
    operations += _become(
        environment(spec, hostname, terminal is not None), spec.user, spec.working_dir, last_capability,
        terminal is not None, confinement,
        [mount.target for mount in spec.mounts if mount.type == "volume" and not mount.read_only],
    )  # fmt: skip
    operations.append(["stage", "restrict"])
    if spec.init:
        operations.append(["init"])
    operations.append(["exec", list(spec.argv)])
    give = [] if terminal else [*(["stdin"] if stdin else []), "stdout", "stderr"]
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    if network.new:
        flags |= CLONE_NEWNET
        give.append("netns")
    if network.wait:
        give.append("ready")
    return Program(
        flags=flags,
        cgroup=cgroup.clone_into,
        prepare=cgroup.prepare,
        operations=operations,
        give=give,
        slots=["netns"] if network.existing else [],
        fifos=_fifos(confinement, run_dir),
    )


def compile_exec(
    argv: Sequence[str],
    environment: dict[str, str],
    cgroup: CgroupPart,
    last_capability: int,
    user: str | None = None,
    working_dir: str | None = None,
    terminal: tuple[int, int] | None = None,
    stdin: bool = False,
    confinement: Confinement = UNCONFINED,
    run_dir: str = "/run",
) -> Program:
    """The program that runs one more process in a running container (slot "container" is its pidfd)."""
    operations: list[Operation] = [
        *cgroup.enter,
        ["keyring", confinement.process],
        ["join", "container", "all"],
    ]
    if terminal:
        operations.append(["terminal", *terminal])
    operations += _become(environment, user, working_dir, last_capability, terminal is not None, confinement)
    operations.append(["exec", list(argv)])
    return Program(
        flags=0,
        cgroup=cgroup.clone_into,
        prepare=[],
        operations=operations,
        give=[] if terminal else [*(["stdin"] if stdin else []), "stdout", "stderr"],
        slots=["container"],
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


_DESCRIBE: dict[str, Callable[..., str]] = {
    **plain.DESCRIBE,
    "stage": lambda name: f"-- {name} done",
    "die-with-parent": lambda: "die with the spawner",
    "private-mounts": lambda: "make all mounts private",
    "unshare-cgroup": lambda: "new cgroup namespace",
    "join": lambda slot, what: f"join {what} namespaces of {slot}",
    "hostname": lambda name: f"set hostname {name}",
    "layers": lambda directory, layers: f"make writable layers in {directory}",
    "files": lambda files: "make " + " ".join(files),
    "overlay": lambda target, lower, upper, work: (
        f"mount overlay on {target} (lower {':'.join(lower)}, upper {upper}, work {work})"
    ),
    "open-tree": lambda slot, path, recursive, read_only: (
        f"open {path}{' read-only' if read_only else ''} as {slot}"
    ),
    "pivot-root": lambda root: f"pivot_root to {root}",
    "mount": lambda fstype, target, flags, data: (
        f"mount {fstype} on {target}" + (f" ({data})" if data else "")
    ),
    "tmpfs": lambda target, flags, data: f"mount tmpfs on {target} ({data})",
    "attach-tree": lambda slot, target: f"mount {slot} on {target}",
    "devices": lambda devices, links: "make devices " + " ".join(device[0] for device in devices),
    "mask": lambda path: f"mask {path}",
    "read-only": lambda path: f"make {path} read-only",
    "read-only-roots": lambda targets: f"make {' '.join(targets)} read-only",
    "wait": lambda: "wait for the network",
    "limit": lambda name, soft, hard: f"set ulimit {name} to {soft}:{hard}",
    "environment": lambda environment: f"set {len(environment)} environment variables",
    "work": lambda path: f"change to working folder {path}",
    "user": lambda user, terminal: f"become user {user}",
    "adopt": lambda path: f"own {path} if it is a new volume",
    "privileges": lambda bits, last: (
        f"keep capabilities {','.join(capabilities.names(bits)) or 'none'}, no_new_privs"
    ),
    "keyring": lambda context: "new session keyring" + (f" labelled {context}" if context else ""),
    "label-mounts": lambda context: f"label whatever is mounted {context}",
    "confine": lambda context, profile: (
        "confine the program to "
        + " and ".join(
            ([f"SELinux label {context}"] if context else [])
            + ([f"AppArmor profile {profile}"] if profile else [])
        )
    ),
    "terminal": lambda rows, columns: f"make a terminal of {rows} x {columns}",
    "init": lambda: "stay as pid 1 that reaps and forwards signals",
    "exec": lambda argv: f"exec {shlex.join(argv)}",
}


def describe(operation: Operation) -> str:
    """One line for people: what the operation does, to what."""
    name, *arguments = operation
    return _DESCRIBE[name](*arguments)
