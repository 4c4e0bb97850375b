"""Specs: what the user wants, resolved, typed and frozen.

A manifest becomes one :class:`ProjectSpec`; everything below the manifest reads specs only. Durations are
seconds, sizes are bytes, paths of the host are absolute, and every default has been filled in. Specs cross
the API as JSON (``msgspec.json``), so two specs are equal exactly if their JSON is.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

#: Modes of a namespace.
PRIVATE, HOST = "private", "host"
#: The network mode with networks of its own.
BRIDGE = "bridge"


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all specs."""


class Condition(enum.StrEnum):
    """What a dependant waits for."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


class Dependency(Spec, frozen=True):
    """``depends_on``: wait until ``service`` (all its replicas) meets ``condition``.

    :param timeout: seconds after which the wait fails, with the reason.
    :param restart: an explicit stop/restart or recreation of the dependency restarts this service too.
    :param required: when False, a failed dependency is a warning and the start goes on.
    """

    service: str
    condition: Condition = Condition.STARTED
    timeout: float = 300.0
    restart: bool = False
    required: bool = True


class ExecCheck(Spec, tag="exec", frozen=True):
    """Run ``command`` in the container; exit code 0 is healthy."""

    command: tuple[str, ...]


class TcpCheck(Spec, tag="tcp", frozen=True):
    """Connect to ``port`` of the container's address."""

    port: int


class HttpCheck(Spec, tag="http", frozen=True):
    """GET ``path``; a status in ``status`` (default any 2xx or 3xx) is healthy."""

    port: int
    path: str = "/"
    scheme: Literal["http", "https"] = "http"
    host: str | None = None
    headers: dict[str, str] = {}
    status: tuple[int, ...] = ()
    verify: bool = False


class Healthcheck(Spec, frozen=True):
    """When and how a container's health is probed; times in seconds, names are Compose's.

    :param action: what happens when the container becomes unhealthy.
    """

    test: ExecCheck | TcpCheck | HttpCheck
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0
    action: Literal["none", "restart", "stop"] = "none"


class PressureTrigger(Spec, frozen=True):
    """What is done when a container waits too much for a resource (the kernel's accounting/psi.rst).

    :param kind: ``some``: at least one of its processes waits; ``full``: all of them do.
    :param threshold: percent of the time within any ``window`` (seconds, 0.5 to 10).
    :param sustained: seconds that it must last.
    :param action: ``none`` is an event only; ``restart``, ``stop``, or ``signal:NAME`` to its first process.
    """

    resource: Literal["cpu", "memory", "io"]
    threshold: float
    kind: Literal["some", "full"] = "some"
    window: float = 2.0
    sustained: float = 10.0
    action: str = "none"


class RestartPolicy(Spec, frozen=True):
    """When a container that ended is started again.

    The n-th restart in a row waits ``backoff * factor**(n-1)`` seconds, at most ``backoff_max``, each spread
    by up to +-``jitter`` (a fraction); the count starts anew once the container ran for ``reset_after``.
    A ``backoff`` of None means: the first restart at once, then as if it were 0.1.
    """

    policy: Literal["no", "on-failure", "always", "unless-stopped"] = "no"
    max_attempts: int | None = None
    backoff: float | None = None
    factor: float = 2.0
    backoff_max: float = 60.0
    jitter: float = 0.1
    reset_after: float = 10.0


class Port(Spec, frozen=True):
    """One published port. ``published`` 0 lets orch choose a free one."""

    target: int
    published: int = 0
    host_ip: str = "127.0.0.1"
    protocol: Literal["tcp", "udp"] = "tcp"


class Mount(Spec, frozen=True):
    """One entry of ``volumes`` or ``tmpfs``.

    :param source: absolute host path (bind), the volume's key in the project (volume), unused for tmpfs.
    :param target: absolute path in the container.
    :param create: make a missing bind source as an empty folder (Compose's short syntax does).
    :param size: bytes, tmpfs only, as all that follow to ``exec``; None is the kernel's default.
    :param mode: permission bits.
    :param nr_inodes: the most files and folders.
    :param uid: the owner of the top folder, as the container counts; ``gid`` its group.
    :param exec: whether programs on it may be run.
    :param propagation: bind only: whether later mounts of the host appear in it, and those of the container outside.
    :param relabel: whether its SELinux label is made that of all containers (``shared``) or of this one.
    :param subpath: volume only: the part of it that is mounted.
    :param nocopy: volume only: a new one does not get what the image has at the target.
    :param owner: user and group of the host that own what the container's user makes there; not for tmpfs.
    """

    type: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    create: bool = False
    size: int | None = None
    mode: int | None = None
    nr_inodes: int | None = None
    uid: int | None = None
    gid: int | None = None
    exec: bool = False
    propagation: Literal["private", "slave", "shared"] = "private"
    relabel: Literal["shared", "private"] | None = None
    subpath: str = ""
    nocopy: bool = False
    owner: tuple[int, int] | None = None


class IdMapping(Spec, frozen=True):
    """``count`` ids of a user namespace from ``inside`` on are the host's from ``outside`` on (user_namespaces(7))."""

    inside: int
    outside: int
    count: int


class UserNamespace(Spec, frozen=True):
    """Whose ids a container's ids are.

    :param mode: ``auto``: a range of its own; ``maps``: what ``uid`` and ``gid`` say; ``host``: the host's;
        ``default``: as ``auto`` if all its file systems can be mounted so, else as ``host``.
    """

    mode: Literal["default", "auto", "maps", "host"] = "default"
    uid: tuple[IdMapping, ...] = ()
    gid: tuple[IdMapping, ...] = ()


class TimeOffsets(Spec, frozen=True):
    """A time namespace's clocks: seconds added to the host's (time_namespaces(7))."""

    monotonic: float = 0.0
    boottime: float = 0.0


class Device(Spec, frozen=True):
    """One entry of ``devices``: a device node of the host, or a folder of them.

    :param source: absolute path on the host.
    :param target: absolute path in the container.
    :param permissions: ``r``, ``w`` and ``m`` (mknod), in this order.
    """

    source: str
    target: str
    permissions: str = "rwm"


class Grant(Spec, frozen=True):
    """A secret or config that a service gets: a read-only file in memory.

    :param source: its key in the project.
    :param uid: the owner, as the container counts; ``gid`` and ``mode`` likewise.
    :param content: never shown; see :func:`redacted`.
    """

    source: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    content: bytes = b""

    def __repr__(self) -> str:
        return f"Grant(source={self.source!r}, target={self.target!r})"  # it might end up in a log


class IoLimit(Spec, frozen=True):
    """Limits of one block device, per second. ``device`` is a host path such as ``/dev/vda``."""

    device: str
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


#: Processes and threads of a container whose manifest says nothing, as Podman has it: a fork bomb stays in it.
DEFAULT_PIDS = 2048


class Resources(Spec, frozen=True):
    """Limits; None leaves the kernel's default. The words are those of cgroup v2.

    :param cpus: processors' worth of time, fractions allowed.
    :param cpu_burst: time left over that may be used later on top of ``cpus``, in processors' worth of a period.
    :param cpu_weight: 1 to 10000, default 100 (v1's cpu.shares are derived from it).
    :param cpuset: the kernel's list format, e.g. ``0-1,3``.
    :param cpuset_mems: memory nodes, the same format.
    :param memory: hard limit, bytes (``memory.max``).
    :param memory_high: throttling limit, bytes (on v1: the soft limit).
    :param memory_low: bytes that are taken back only when there is nothing else to take (v2).
    :param memory_min: bytes that are never taken back (v2).
    :param memory_swap: bytes of swap on top of ``memory``; 0 forbids swap.
    :param oom_group: an out-of-memory kill of one process ends the whole container.
    :param pids: processes and threads; None is unlimited.
    :param io_weight: 1 to 10000, default 100.
    :param hugepages: page size as the kernel writes it (``2MB``) -> bytes.
    """

    cpus: float | None = None
    cpu_burst: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    cpuset_mems: str | None = None
    memory: int | None = None
    memory_high: int | None = None
    memory_low: int | None = None
    memory_min: int | None = None
    memory_swap: int | None = None
    oom_group: bool = False
    pids: int | None = DEFAULT_PIDS
    io_weight: int | None = None
    io: tuple[IoLimit, ...] = ()
    hugepages: dict[str, int] = {}


class Ulimit(Spec, frozen=True):
    """Soft and hard limit; -1 is unlimited."""

    soft: int
    hard: int


#: Limits of a container whose manifest says nothing of them: (soft, hard), None is the service's own. No core files,
#: which hold what was in memory; and descriptors that select(2) can use, though a program may raise the soft limit.
DEFAULT_ULIMITS: dict[str, tuple[int, int | None]] = {"core": (0, 0), "nofile": (1024, None)}


class Selinux(Spec, frozen=True):
    """Parts of a container's SELinux label; None leaves the policy's default.

    :param level: instead of a pair of categories of the container's own.
    :param disable: no label at all: the container's processes are as confined as orch itself.
    """

    user: str | None = None
    role: str | None = None
    type: str | None = None
    level: str | None = None
    disable: bool = False

    @property
    def insists(self) -> bool:
        """Whether it names something that a host without SELinux cannot give."""
        return any((self.user, self.role, self.type, self.level))


class Attachment(Spec, frozen=True):
    """A service on a network, under these further names."""

    network: str
    aliases: tuple[str, ...] = ()


class Logging(Spec, frozen=True):
    """Rotation of a container's log: at most ``max_files`` files of ``max_size`` bytes."""

    max_size: int = 10 << 20
    max_files: int = 3


class Sharing(Spec, frozen=True):
    """Somebody else's namespace: the service ``name`` of the project, or any container by its name or id."""

    kind: Literal["service", "container"]
    name: str

    @classmethod
    def parse(cls, mode: str) -> Sharing | None:
        """What ``service:NAME`` or ``container:ID`` names; None for any other mode."""
        kind, _, name = mode.partition(":")
        return cls(kind=kind, name=name) if kind in ("service", "container") and name else None  # type: ignore[arg-type]


class SyscallArgument(Spec, frozen=True):
    """One argument of a system call, 0 to 5, compared with ``value``.

    :param op: EQ, NE, LT, LE, GE, GT, or MASKED_EQ: its bits in ``value`` are those of ``value_two``.
    """

    index: int
    op: str
    value: int
    value_two: int = 0


class SyscallCondition(Spec, frozen=True):
    """Where a rule holds (or does not): with these capabilities, on these machines, from this kernel on.

    The words are Docker's: capabilities without ``CAP_``, machines as Go calls them (``amd64``, ``arm64``).
    """

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: tuple[int, int] | None = None


class SyscallRule(Spec, frozen=True):
    """What happens to these system calls, when all of ``args`` agree.

    :param action: libseccomp's word, without ``SCMP_ACT_``.
    :param errno: what the call returns (ERRNO), or tells the tracer (TRACE).
    """

    names: tuple[str, ...]
    action: str
    errno: int = 0
    args: tuple[SyscallArgument, ...] = ()
    includes: SyscallCondition = SyscallCondition()
    excludes: SyscallCondition = SyscallCondition()


class SeccompProfile(Spec, frozen=True):
    """A profile in the form of the OCI runtime specification (config-linux, seccomp) or of Docker.

    :param action: what happens to a call that no rule names; ``errno`` as in a rule.
    :param architectures: libseccomp's words, without ``SCMP_ARCH_``; the machine's own is always one.
    :param arch_map: a machine's architecture -> others that it can run; Docker's way to say the same.
    :param flags: of seccomp(2), without ``SECCOMP_FILTER_FLAG_``.
    """

    action: str
    errno: int = 0
    architectures: tuple[str, ...] = ()
    arch_map: dict[str, tuple[str, ...]] = {}
    flags: tuple[str, ...] = ()
    rules: tuple[SyscallRule, ...] = ()


class Seccomp(Spec, frozen=True):
    """Which system calls a service may make.

    :param profile: ``default`` (orch's own), ``unconfined``, or the absolute path of a file.
    :param content: what that file says; so a change of the file is a change of the service.
    :param allow: calls that are allowed whatever the profile says; ``deny`` likewise.
    """

    profile: str = "default"
    content: SeccompProfile | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class ServiceSpec(Spec, frozen=True):
    """One service: everything that its containers are made from.

    :param image: ``host`` or ``dir:/absolute/path``.
    :param command: arguments; None means the image's own (``host`` and ``dir:`` images have none).
    :param network_mode: ``bridge`` uses ``networks``; ``host`` and ``none`` have no address of their own, and
        ``service:NAME`` or ``container:ID`` are on another container's.
    :param mnt: as ``pid``, ``ipc``, ``uts``, ``cgroup`` and ``time``: ``private``, ``host``, ``service:NAME`` or
        ``container:ID``.
    :param cap_add: capabilities by name, without ``CAP_``, or ``ALL``; they win over ``cap_drop``.
    :param group_add: further groups, names or numbers.
    :param environment: complete, with env_file merged in.
    :param device_cgroup_rules: what may be used besides ``devices``: ``c 1:3 rwm``, each for one type.
    :param oom_score_adj: -1000 (never killed for want of memory) to 1000 (first); None is 0, unless the service's
        own is above that.
    :param init: run a reaper as pid 1.
    :param shm_size: bytes that /dev/shm may hold.
    :param masked_paths: hidden, besides what always is; ``read_only_paths`` likewise cannot be written to.
    :param unmask: which of the default masked and read-only paths are left as they are: globs, or ``all``.
    :param apparmor: a profile's name, ``unconfined`` for none; None is orch's own where AppArmor is in use.
    """

    name: str
    kind: Literal["service", "job"] = "service"
    image: str = "host"
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: dict[str, str] = {}
    working_dir: str | None = None
    user: str | None = None
    hostname: str | None = None
    ports: tuple[Port, ...] = ()
    expose: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    read_only: bool = False
    masked_paths: tuple[str, ...] = ()
    read_only_paths: tuple[str, ...] = ()
    unmask: tuple[str, ...] = ()
    shm_size: int = 64 << 20
    secrets: tuple[Grant, ...] = ()
    configs: tuple[Grant, ...] = ()
    network_mode: str = "bridge"
    networks: tuple[Attachment, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    healthcheck: Healthcheck | None = None
    pressure: tuple[PressureTrigger, ...] = ()
    restart: RestartPolicy = RestartPolicy()
    stop_signal: str = "SIGTERM"
    stop_grace_period: float = 10.0
    resources: Resources = Resources()
    replicas: int = 1
    labels: dict[str, str] = {}
    ulimits: dict[str, Ulimit] = {}
    oom_score_adj: int | None = None
    sysctls: dict[str, str] = {}
    init: bool = False
    seccomp: Seccomp = Seccomp()
    selinux: Selinux = Selinux()
    apparmor: str | None = None
    logging: Logging = Logging()
    userns: UserNamespace = UserNamespace()
    mnt: str = PRIVATE
    pid: str = PRIVATE
    ipc: str = PRIVATE
    uts: str = PRIVATE
    cgroup: str = PRIVATE
    time: str = HOST
    time_offsets: TimeOffsets | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = True
    group_add: tuple[str, ...] = ()

    @property
    def namespaces(self) -> dict[str, str]:
        """Each kind of namespace that can be chosen by itself -> ``private``, ``host``, or whose it is."""
        modes = {kind: getattr(self, kind) for kind in ("mnt", "pid", "ipc", "uts", "cgroup", "time")}
        return {"net": self.network_mode if self.network_mode != BRIDGE else PRIVATE, **modes}

    @property
    def shared(self) -> dict[str, Sharing]:
        """The namespaces that it has from another container."""
        found = {kind: Sharing.parse(mode) for kind, mode in self.namespaces.items()}
        return {kind: sharing for kind, sharing in found.items() if sharing}

    @property
    def argv(self) -> tuple[str, ...]:
        """Entrypoint and command together: what is executed."""
        return (self.entrypoint or ()) + (self.command or ())


class NetworkSpec(Spec, frozen=True):
    """One network: a bridge. ``subnet`` None lets orch choose a free one; ``internal`` has no way out."""

    name: str
    subnet: str | None = None
    gateway: str | None = None
    internal: bool = False


class VolumeSpec(Spec, frozen=True):
    """One named volume: a folder that outlives its containers (``down --volumes`` removes it)."""

    name: str
    labels: dict[str, str] = {}


class FileSpec(Spec, frozen=True):
    """One secret or config, and where its content comes from: one of these.

    :param file: absolute path on the client's host.
    :param environment: variable of the client's environment.
    :param content: configs only: the content itself.
    """

    name: str
    file: str | None = None
    environment: str | None = None
    content: str | None = None


class ProjectSpec(Spec, frozen=True):
    """A whole manifest. ``source`` is its absolute path, for people to read."""

    name: str
    source: str = ""
    services: dict[str, ServiceSpec] = {}
    networks: dict[str, NetworkSpec] = {}
    volumes: dict[str, VolumeSpec] = {}
    secrets: dict[str, FileSpec] = {}
    configs: dict[str, FileSpec] = {}


def redacted(spec: ServiceSpec) -> ServiceSpec:
    """The spec as it may be shown: without the content of secrets and configs."""

    def without(grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
        return tuple(msgspec.structs.replace(grant, content=b"") for grant in grants)

    return msgspec.structs.replace(spec, secrets=without(spec.secrets), configs=without(spec.configs))


def digest(spec: Spec) -> str:
    """Hex digest of a spec's meaning: equal exactly for equal specs, whatever the order of their keys."""
    import hashlib  # late: most client commands need no hash, and it takes a while to load

    return hashlib.sha256(msgspec.json.encode(_plain(spec), order="deterministic")).hexdigest()


def _plain(value: object) -> object:
    """The value with every field written out, and whole numbers as such."""
    match value:
        case Spec():
            tag = value.__struct_config__.tag
            return {"type": tag, **{name: _plain(getattr(value, name)) for name in value.__struct_fields__}}
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case tuple():
            return [_plain(item) for item in value]
        case float() if value.is_integer():
            return int(value)
    return value
