"""The keys of a manifest: one table for the parser, the JSON Schema and the documentation.

The words are the Compose Specification's (https://github.com/compose-spec/compose-spec) wherever the concept
is the same. To add a key, add a line here; what is not a matter of one key alone is checked in ``service``
and ``check``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.manifest import confinement, mounts, values
from orchestrator.manifest.kinds import (
    Choice,
    Forms,
    Key,
    Kind,
    ListOf,
    MapOf,
    Pairs,
    Schema,
    Table,
    Then,
    Value,
)
from orchestrator.manifest.place import Place
from orchestrator.spec import (
    DEFAULT_PIDS,
    Attachment,
    Condition,
    Dependency,
    IoLimit,
    PressureTrigger,
    Ulimit,
)

_NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,62}"
#: A program's stack, page tables and C library hardly fit into less; it is a floor against forgotten units.
MIN_MEMORY = 512 << 10
_MIN_LOG = 4 << 10
#: As many containers as one bridge has ports (BR_MAX_PORTS, net/bridge/br_private.h, less the kernel's port 0).
_MAX_REPLICAS = 1023


def _text(expected: str, convert: Callable[[str], Any] = str, **schema: Any) -> Value:
    return Value((str,), expected, convert, schema)


def _integer(minimum: int, maximum: int = values.MAX_INTEGER) -> Value:
    limits = {"minimum": minimum} | ({} if maximum == values.MAX_INTEGER else {"maximum": maximum})
    return Value(
        (int, str), "a whole number", partial(values.integer, minimum=minimum, maximum=maximum), limits
    )


def _real(minimum: float, maximum: float | None = None) -> Value:
    bounds = {"minimum": minimum} | ({} if maximum is None else {"maximum": maximum})
    return Value((int, float, str), "a number", partial(values.real, **bounds), bounds)


def _size(minimum: int = 0) -> Value:
    return Value(
        (str, int), 'a size such as "64M"', partial(values.size, minimum=minimum), {"minimum": minimum}
    )


def _layered(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``[defaults]`` beneath a service: key by key."""
    return {**below, **above}


def _layered_check(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As :func:`_layered`, but a service with a probe of its own drops the default one."""
    if any(probe in above for probe in ("test", "tcp", "http", "port")):
        replaced = ("test", "tcp", "http", "port", "disable")
        below = {key: value for key, value in below.items() if key not in replaced}
    return {**below, **above}


BOOLEAN = Value((bool, str), "true or false", values.boolean)
DURATION = Value((str, int, float), 'a duration such as "10s"', values.duration, {"minimum": 0})
POSITIVE = Value(
    (str, int, float),
    'a duration such as "10s"',
    partial(values.duration, positive=True),
    {"exclusiveMinimum": 0},
)
STRINGS = ListOf(_text("a string"), "a list of strings")
COMMAND = Forms(_text("a string", values.words), STRINGS)
NAME = _text("a name", values.name)
TARGET = _text("a path in the container", mounts.mount_target)
PORT_NUMBER = Value((int, str), "a port", values.port_number, {"minimum": 1, "maximum": 65535})
MODE = _text('octal digits in quotes, such as "1777"', values.mode)

PORT_TABLE = Then(
    Table(
        "a table",
        [
            Key("target", PORT_NUMBER, "The container's port.", required=True),
            Key(
                "published", _integer(0, 65535), "The host's port; 0 lets orch choose a free one.", default=0
            ),
            Key(
                "host_ip",
                _text("an IPv4 address", values.address),
                "The host's address.",
                default="127.0.0.1",
            ),
            Key("protocol", Choice("tcp", "udp"), "The protocol.", default="tcp"),
        ],
    ),
    values.port_table,
)
PORT = Forms(Value((str, int), 'a port such as "8080:80"', values.port), PORT_TABLE)

ID = _integer(0, values.MAX_ID)
_PROPAGATION = Choice(
    "private", "slave", "shared", synonyms={"rprivate": "private", "rslave": "slave", "rshared": "shared"}
)
_PROPAGATION_KEY = Key(
    "propagation",
    _PROPAGATION,
    "bind: whether later mounts of the host appear in it (slave), and the other way.",
)
_SUBPATH_KEY = Key("subpath", _text("a path", mounts.subpath), "volume: the part of it that is mounted.")
_NOCOPY_KEY = Key("nocopy", BOOLEAN, "volume: a new one does not get what the image has at the target.")
_BIND = Table(
    "a table",
    [
        Key("create_host_path", BOOLEAN, "Create a missing source as an empty folder."),
        _PROPAGATION_KEY,
        Key("selinux", Choice("z", "Z"), "z: relabel it for all containers; Z: for this one alone."),
    ],
)
_VOLUME = Table("a table", [_SUBPATH_KEY, _NOCOPY_KEY])
_TMPFS = Table(
    "a table",
    [
        Key("size", _size(1), "The most that it may hold."),
        Key("mode", MODE, "Permission bits of its top folder."),
    ],
)
MOUNT_TABLE = Then(
    Table(
        "a table",
        [
            Key(
                "type",
                Choice("bind", "volume", "tmpfs"),
                "What is mounted: a path of the host, a named volume, or a new file system in memory.",
            ),
            Key(
                "source", _text("a path or the name of a volume"), "The host's path, or the name of a volume."
            ),
            Key("target", TARGET, "Absolute path in the container.", required=True),
            Key("read_only", BOOLEAN, "Whether the container may not write to it.", default=False),
            Key("create", BOOLEAN, "bind: create a missing source as an empty folder.", default=False),
            Key("size", _size(1), "tmpfs: the most that it may hold."),
            Key("mode", MODE, 'tmpfs: permission bits of its top folder, such as "1777".'),
            Key("nr_inodes", _integer(1), "tmpfs: the most files and folders that it may hold."),
            Key("uid", ID, "tmpfs: the owner of its top folder, as the container counts.", default=0),
            Key("gid", ID, "tmpfs: the group of its top folder.", default=0),
            Key("exec", BOOLEAN, "tmpfs: whether programs on it may be run.", default=False),
            _PROPAGATION_KEY,
            Key(
                "relabel",
                Choice("shared", "private"),
                "bind, volume: make its SELinux label that of containers.",
            ),
            _SUBPATH_KEY,
            _NOCOPY_KEY,
            Key("consistency", Choice("consistent", "cached", "delegated"), "Compose's; it has no effect."),
            Key(
                "owner",
                Value((int, str), "a user of the host", values.owner),
                "bind, volume: who owns on the host what the container's user makes there.",
            ),
            Key(
                "bind",
                Then(_BIND, mounts.bind_options),
                "Compose's place for the options of a bind.",
            ),
            Key("volume", _VOLUME, "Compose's place for the options of a volume."),
            Key("tmpfs", _TMPFS, "Compose's place for the options of a tmpfs."),
        ],
    ),
    mounts.volume_table,
)
MOUNT = Forms(_text('a string such as "data:/var/lib/data:ro"', mounts.volume), MOUNT_TABLE)

DEVICE_TABLE = Then(
    Table(
        "a table",
        [
            Key(
                "source",
                _text("a path of the host", mounts.device_source),
                "The host's device, or a folder of them.",
                required=True,
            ),
            Key(
                "target",
                _text("a path in the container", mounts.device_target),
                "Absolute path in the container (default: the same).",
            ),
            Key(
                "permissions",
                _text("letters of r, w and m", mounts.device_permissions),
                "What may be done with it: read, write, make nodes.",
                default="rwm",
            ),
        ],
    ),
    mounts.device_table,
)
DEVICE = Forms(_text('a device such as "/dev/fuse"', mounts.device_entry), DEVICE_TABLE)
_GRANT = Forms(
    Then(_text("a name"), mounts.granted),
    Table(
        "a table",
        [
            Key("source", _text("a name"), "The key of the secret or config.", required=True),
            Key(
                "target", _text("a path"), "Where the file is; a relative path begins at the default folder."
            ),
            Key("uid", ID, "The file's owner, as the container counts.", default=0),
            Key("gid", ID, "The file's group.", default=0),
            Key("mode", MODE, "The file's permission bits; nobody can write to it.", default="0444"),
        ],
    ),
)
GRANTS = ListOf(_GRANT, "a list of names or tables", placed=True)

_CONDITION = Choice(
    *Condition,
    synonyms={
        "service_started": "started",
        "service_healthy": "healthy",
        "service_completed_successfully": "completed",
    },
)
_DEPENDENCY_TABLE = Table(
    "a table",
    [
        Key("condition", _CONDITION, "What to wait for.", default="started"),
        Key("timeout", POSITIVE, "How long to wait at most.", default="5m"),
        Key(
            "restart", BOOLEAN, "Restart this service when that one is restarted or recreated.", default=False
        ),
        Key("required", BOOLEAN, "Whether a failure of that service fails this one.", default=True),
    ],
)
DEPENDENCY = Forms(Then(_CONDITION, lambda word: {"condition": word}), _DEPENDENCY_TABLE)

HTTP = Forms(
    _text("a URL", values.http_url),
    Table(
        "a table",
        [
            Key("port", PORT_NUMBER, "The container's port."),
            Key(
                "path",
                _text('a path that begins with "/"', values.http_path),
                "What to ask for.",
                default="/",
            ),
            Key("scheme", Choice("http", "https"), "The protocol.", default="http"),
            Key("host", _text("a host name", values.hostname), "The Host header (default: the address)."),
            Key("headers", Pairs("a table of headers", values.header_name), "Further headers."),
            Key(
                "status",
                ListOf(Value((int, str), "a status", values.status), "a list of statuses", or_one=True),
                "The statuses that are healthy (default: any 2xx or 3xx).",
            ),
            Key("verify", BOOLEAN, "https: whether the certificate must be valid.", default=False),
        ],
    ),
)
TEST = Forms(_text("a string", values.exec_test), Then(STRINGS, values.exec_test_list))
HEALTHCHECK = Table(
    "a table",
    [
        Key(
            "test", TEST, 'A command to run in the container: a string for a shell, or ["CMD", program, ...].'
        ),
        Key("tcp", PORT_NUMBER, "Connect to this port of the container."),
        Key("http", HTTP, 'GET this URL of the container, such as "http://:8080/health".'),
        Key("port", PORT_NUMBER, "The port for an http check that names a path only."),
        Key("interval", POSITIVE, "Time between two checks.", default="30s"),
        Key("timeout", POSITIVE, "A check that takes longer has failed.", default="30s"),
        Key("retries", _integer(1), "Failures in a row that make a container unhealthy.", default=3),
        Key("start_period", DURATION, "Failures do not count for so long after the start.", default="0s"),
        Key("start_interval", POSITIVE, "Time between two checks during the start period.", default="5s"),
        Key(
            "action",
            Choice("none", "restart", "stop"),
            "What to do with an unhealthy container.",
            default="none",
        ),
        Key("disable", BOOLEAN, "No health check, though [defaults] has one.", default=False),
    ],
)

PRESSURE = Then(
    Table(
        "a table",
        [
            Key("resource", Choice("cpu", "memory", "io"), "What is waited for.", required=True),
            Key(
                "kind",
                Choice("some", "full"),
                "Whether some of the processes wait for it, or all.",
                default="some",
            ),
            Key(
                "threshold",
                Value(
                    (str, int, float),
                    'a percentage such as "20%"',
                    values.percent,
                    {"minimum": 0.1, "maximum": 100},
                ),
                "The part of a window's time from which it is too much.",
                required=True,
            ),
            Key(
                "window",
                Value(
                    (str, int, float),
                    'a duration such as "2s"',
                    values.pressure_window,
                    {"minimum": 0.5, "maximum": 10},
                ),
                "The time that is looked at.",
                default="2s",
            ),
            Key("sustained", DURATION, "How long it must last.", default="10s"),
            Key(
                "action",
                _text('"none", "restart", "stop" or "signal:NAME"', values.pressure_action),
                "What to do then.",
                default="none",
            ),
        ],
    ),
    lambda found: PressureTrigger(**found),
)

RESTART_POLICY = Choice("no", "on-failure", "always", "unless-stopped")
RESTART = Forms(
    _text('a policy such as "on-failure:5"', values.restart),
    Table(
        "a table",
        [
            Key("policy", RESTART_POLICY, "When a container that ended is started again."),
            Key("max_attempts", _integer(1), "Give up after so many attempts in a row."),
            Key("backoff", DURATION, "The wait before the first attempt (default: none, then 100ms)."),
            Key("factor", _real(1, 1000), "Each wait is so many times the one before.", default=2),
            Key("backoff_max", DURATION, "No wait is longer.", default="1m"),
            Key("jitter", _real(0, 1), "Waits are spread at random by this fraction.", default=0.1),
            Key("reset_after", DURATION, "After running for so long the count starts anew.", default="10s"),
        ],
    ),
)

_IO = Then(
    Table(
        "a table",
        [
            Key("device", _text("a device", values.device), "Path of a block device.", required=True),
            Key("read_bps", _size(1), "Bytes read per second."),
            Key("write_bps", _size(1), "Bytes written per second."),
            Key("read_iops", _integer(1), "Reads per second."),
            Key("write_iops", _integer(1), "Writes per second."),
        ],
    ),
    lambda found: IoLimit(**found),
)
_NO_REAL_TIME = "cgroup v2 has no real-time groups; ulimits.rtprio and rttime bound real-time scheduling"
RESOURCES = Table(
    "a table",
    [
        Key("cpus", _real(0.01, 8192), "Processors' worth of time; fractions are allowed."),
        Key(
            "cpu_burst",
            _real(0, 8192),
            "Unused time of one period (0.1 s) that may be used later, on top of cpus; at most as much as cpus.",
        ),
        Key(
            "cpu_weight",
            _integer(1, 10000),
            "Share of the processors when they are busy (the kernel's default: 100).",
        ),
        Key(
            "cpuset",
            Value((str, int), 'a list of CPUs such as "0-1,3"', values.cpuset),
            "The CPUs to run on.",
        ),
        Key(
            "cpuset_mems",
            Value((str, int), 'a list of memory nodes such as "0-1"', values.memory_nodes),
            "The memory nodes to have memory of.",
        ),
        Key("memory", _size(MIN_MEMORY), "The most memory; beyond it the kernel kills."),
        Key("memory_high", _size(MIN_MEMORY), "Beyond it the kernel slows down and takes memory back."),
        Key("memory_low", _size(), "Memory that is taken back only when no other is to be had (cgroup v2)."),
        Key("memory_min", _size(), "Memory that is never taken back (cgroup v2)."),
        Key(
            "memory_swap",
            Value((str, int), 'a size such as "64M", or "unlimited"', values.swap, {"minimum": -1}),
            "Swap on top of memory; 0 forbids it.",
        ),
        Key(
            "oom_group",
            BOOLEAN,
            "Whether a kill of one process for want of memory ends the whole container.",
            default=False,
        ),
        Key(
            "pids",
            Value((int, str), 'a number or "unlimited"', values.pids, {"minimum": -1, "maximum": 4 << 20}),
            'The most processes and threads; "unlimited" lifts the limit.',
            default=DEFAULT_PIDS,
        ),
        Key(
            "io_weight",
            _integer(1, 10000),
            "Share of the disks when they are busy (the kernel's default: 100).",
        ),
        Key("io", ListOf(_IO, "a list of tables", placed=True), "Limits of single devices."),
        Key(
            "hugepages",
            MapOf(_size(), "a table of sizes", values.page_size, "[1-9][0-9]*[KMG]B"),
            'The most memory in huge pages, by their size: { "2MB" = "64M" }.',
        ),
    ],
    elsewhere={
        "mem_limit": 'did you mean "memory"?',
        "mem_reservation": 'did you mean "memory_low" (cgroup v2) or "memory_high"?',
        "memswap_limit": 'did you mean "memory_swap", which counts swap only?',
        "mem_swappiness": "cgroup v2 has none; memory_swap = 0 forbids swap",
        "cpu_shares": 'did you mean "cpu_weight", from 1 to 10000, default 100?',
        "cpu_quota": 'did you mean "cpus", quota through period?',
        "cpu_period": 'did you mean "cpus", quota through period?',
        "cpuset_cpus": 'did you mean "cpuset"?',
        "pids_limit": 'did you mean "pids"?',
        **dict.fromkeys(("cpu_rt_runtime", "cpu_rt_period"), _NO_REAL_TIME),
        "limits": "write the limits into resources itself: cpus, memory, pids",
        "reservations": 'did you mean "memory_low" (cgroup v2) or "cpu_weight"?',
    },
)

_LIMIT = Value((int, str), 'a number or "unlimited"', values.ulimit)
ULIMIT = Forms(
    Then(_LIMIT, lambda number: Ulimit(soft=number, hard=number)),
    Then(
        Table(
            "a table",
            [
                Key("soft", _LIMIT, "Soft limit.", required=True),
                Key("hard", _LIMIT, "Hard limit.", required=True),
            ],
        ),
        values.ulimit_table,
    ),
)

_ENV_FILE = Forms(
    Then(_text("a path"), lambda path: {"path": path}),
    Table(
        "a table",
        [
            Key("path", _text("a path"), "Path of the file, relative to the manifest.", required=True),
            Key("required", BOOLEAN, "Whether the file must exist.", default=True),
        ],
    ),
)

_ATTACHMENT = Table(
    "a table",
    [
        Key(
            "aliases",
            ListOf(_text("a name", values.hostname), "a list of names"),
            "Further names of this service.",
        )
    ],
)
SELINUX = Forms(
    Then(Choice("disable"), lambda word: {"disable": True}),
    Then(
        Table(
            "a table",
            [
                Key("type", _text("a type", confinement.selinux_word), "The processes' type."),
                Key(
                    "level",
                    _text("a level", confinement.selinux_level),
                    'Level of processes and files: "s0:c1,c2".',
                ),
                Key("user", _text("a user", confinement.selinux_word), "The processes' SELinux user."),
                Key("role", _text("a role", confinement.selinux_word), "The processes' role."),
                Key("disable", BOOLEAN, "No label: processes are as confined as orch itself.", default=False),
            ],
        ),
        confinement.selinux_table,
    ),
)

_REFERENCE = _text("a name")
_EMPTY: dict[str, Any] = {}


_SYSTEM_CALLS = ListOf(_text("a system call", confinement.system_call), "a list of system calls")
SECCOMP = Forms(
    Then(_text("a profile"), lambda profile: {"profile": profile}),
    Then(
        Table(
            "a table",
            [
                Key(
                    "profile",
                    _text("a profile"),
                    'What it is laid over: "default" or the path of a file.',
                    default="default",
                ),
                Key("allow", _SYSTEM_CALLS, "System calls that are allowed, whatever the profile says."),
                Key("deny", _SYSTEM_CALLS, "System calls that fail with EPERM, whatever the profile says."),
            ],
        ),
        confinement.seccomp_table,
    ),
)


class _ByName(Kind):
    """Names alone in a list, or a table from names to details: ``networks`` and ``depends_on`` of a service."""

    types = (list, dict)

    def __init__(self, details: Kind, expected: str, build: Callable[[str, dict[str, Any]], Any]) -> None:
        self.expected = expected
        self._details = details
        self._build = build

    def parse(self, value: Any, place: Place) -> tuple[Any, ...]:
        found: dict[str, Any] = {}
        if isinstance(value, dict):
            for name, entry in value.items():
                at = place.child(name)
                details = at.read(self._details, entry)
                found[name] = (at, self._build(name, details if isinstance(details, dict) else _EMPTY))
            return tuple(found.values())
        for index, entry in enumerate(value):
            at = place.child(index)
            name = at.read(_REFERENCE, entry)
            if not isinstance(name, str):
                continue
            if name in found:
                at.problem(f'"{name}" is named twice')
            found[name] = (at, self._build(name, _EMPTY))
        return tuple(found.values())

    def schema(self) -> Schema:
        table = {"type": "object", "additionalProperties": self._details.schema()}
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, table]}


NETWORKS = _ByName(
    _ATTACHMENT,
    "a list of names or a table",
    lambda name, details: Attachment(network=name, aliases=details.get("aliases", ())),
)
DEPENDS_ON = _ByName(
    DEPENDENCY,
    "a list of names or a table",
    lambda name, details: Dependency(
        service=name, **{**details, "condition": Condition(details.get("condition", "started"))}
    ),
)

_ID_MAPPINGS = ListOf(
    _text('a range of ids such as "0:100000:65536"', confinement.id_mapping), "a list of ranges", placed=True
)
USERNS = Forms(
    Choice("auto", "host"),
    Table(
        "a table",
        [
            Key("uid", _ID_MAPPINGS, 'Users: ranges "CONTAINER:HOST:COUNT".', required=True),
            Key("gid", _ID_MAPPINGS, "Groups (default: as the users)."),
        ],
    ),
)
_OFFSET = Value((str, int, float), 'a duration such as "1h" or "-1h"', confinement.clock_offset)
TIME = Forms(
    _text("a mode", confinement.namespace),
    Table(
        "a table",
        [
            Key("monotonic", _OFFSET, "How far CLOCK_MONOTONIC is ahead of the host's.", default="0s"),
            Key("boottime", _OFFSET, "How far CLOCK_BOOTTIME is ahead of the host's.", default="0s"),
        ],
    ),
)


_MODE = _text("a mode", confinement.namespace)


_CAPABILITIES = ListOf(_text("a capability", confinement.capability), "a list of capabilities")

_SERVICE_KEYS = [
    Key(
        "image",
        _text("an image", values.image),
        'The root file system: "host" or "dir:PATH".',
        default="host",
    ),
    Key("kind", Choice("service", "job"), "A job ends by itself; a service runs on.", default="service"),
    Key("entrypoint", COMMAND, "The program, and its first arguments."),
    Key("command", COMMAND, "The arguments; the program too, if there is no entrypoint."),
    Key(
        "environment",
        Pairs("a table or a list of strings", values.environment_name, bare=True),
        "Environment variables; they win over env_file.",
        merge=_layered,
    ),
    Key(
        "env_file",
        ListOf(_ENV_FILE, "a path or a list of paths", placed=True, or_one=True),
        "Files of NAME=value lines, relative to the manifest.",
    ),
    Key("working_dir", _text("a path", mounts.container_path), "The folder to start in."),
    Key("user", Value((str, int), "a user", values.user), '"name", "uid" or "uid:gid".'),
    Key("hostname", _text("a host name", values.hostname), "The container's host name.", in_defaults=False),
    Key(
        "ports",
        ListOf(PORT, "a list of ports", placed=True, spread=True),
        'Ports published on the host, such as "8080:80" (on 127.0.0.1) or "0.0.0.0:53:53/udp".',
        in_defaults=False,
    ),
    Key(
        "expose",
        ListOf(Value((str, int), "a port", values.expose), "a list of ports", spread=True),
        "Ports that only other containers use.",
        in_defaults=False,
    ),
    Key(
        "volumes",
        ListOf(MOUNT, "a list of mounts", placed=True),
        'Mounts, such as "data:/var/lib/data", "./folder:/path:ro" or a table.',
    ),
    Key(
        "tmpfs",
        ListOf(_text("a string", mounts.tmpfs), "a path or a list of paths", placed=True, or_one=True),
        'File systems in memory, such as "/run:size=64M,mode=1777,uid=1000".',
    ),
    Key(
        "devices",
        ListOf(DEVICE, "a list of devices", placed=True),
        'Devices of the host, such as "/dev/fuse", "/dev/sda:/dev/xvda:r" or a table.',
    ),
    Key(
        "device_cgroup_rules",
        ListOf(_text("a rule", mounts.device_rule), "a list of rules", spread=True),
        'Further devices that may be used once they are there, such as "c 226:* rw".',
    ),
    Key("shm_size", _size(1), "The most that /dev/shm may hold.", default="64M"),
    Key("read_only", BOOLEAN, "Whether the root file system may not be written to.", default=False),
    Key(
        "masked_paths",
        ListOf(_text("a path", mounts.hidden_path), "a list of paths"),
        "Paths that the container does not see, besides those of the kernel that none sees.",
    ),
    Key(
        "read_only_paths",
        ListOf(_text("a path", mounts.hidden_path), "a list of paths"),
        "Paths that the container cannot write to, besides those of the kernel that none can.",
    ),
    Key(
        "unmask",
        ListOf(_text('"all" or a path', mounts.unmask), '"all" or a list of paths', or_one=True),
        "Default masked and read-only paths to leave as they are; * stands for any part of a name.",
    ),
    Key("secrets", GRANTS, "Secrets that it gets as files in memory, in /run/secrets by default."),
    Key("configs", GRANTS, "Configs that it gets as files in memory, in / by default."),
    Key(
        "network_mode",
        _text("a mode", partial(confinement.namespace, words=("bridge", "host", "none"))),
        "Networks of its own, the host's network, no network, or that of another container.",
        default="bridge",
    ),
    Key("networks", NETWORKS, "The networks to join (default: one that is called default)."),
    Key(
        "depends_on",
        DEPENDS_ON,
        'Services that come first, such as ["db"] or { db = "healthy" }.',
        in_defaults=False,
    ),
    Key("healthcheck", HEALTHCHECK, "How to tell whether a container works.", merge=_layered_check),
    Key(
        "pressure",
        ListOf(PRESSURE, "a table or a list of tables", placed=True, or_one=True),
        "What to do when a container waits too much for a resource.",
    ),
    Key("restart", RESTART, "When a container that ended is started again.", default="no", merge=_layered),
    Key("stop_signal", Value((str, int), "a signal", values.stop_signal), "Asks to stop.", default="SIGTERM"),
    Key("stop_grace_period", DURATION, "The time between asking to stop and killing.", default="10s"),
    Key(
        "resources",
        RESOURCES,
        "Limits and shares of processors, memory, processes and disks.",
        merge=_layered,
    ),
    Key("replicas", _integer(0, _MAX_REPLICAS), "The number of containers.", default=1),
    Key(
        "labels",
        Pairs("a table or a list of strings", values.label_name),
        "Notes for people and tools.",
        merge=_layered,
    ),
    Key(
        "ulimits",
        MapOf(ULIMIT, "a table of limits", values.ulimit_name, "|".join(values.ULIMITS)),
        "Limits of getrlimit(2), such as { nofile = 1024 }.",
        merge=_layered,
    ),
    Key(
        "oom_score_adj",
        _integer(-1000, 1000),
        "How soon the kernel kills it when the host's memory runs out: -1000 is never, 1000 first.",
    ),
    Key(
        "sysctls",
        Pairs("a table or a list of strings", values.sysctl_name),
        "Kernel parameters of the container's own, such as net.core.somaxconn.",
        merge=_layered,
    ),
    Key("userns", USERNS, "Whose ids the container's ids are (default: a range of its own, if that can be)."),
    Key("mnt", _MODE, "Files of its own, the host's, or those of another container.", default="private"),
    Key("pid", _MODE, "Whose processes it sees.", default="private"),
    Key("ipc", _MODE, "Whose shared memory, semaphores and message queues it has.", default="private"),
    Key("uts", _MODE, "Whose host name it has.", default="private"),
    Key("cgroup", _MODE, "Whose root of cgroups it sees.", default="private"),
    Key(
        "time",
        TIME,
        "Whose monotonic and boot-time clocks it has, or how far its own are ahead.",
        default="host",
    ),
    Key("cap_add", _CAPABILITIES, "Capabilities to add to the default ones; ALL is every one."),
    Key("cap_drop", _CAPABILITIES, "Capabilities to take away; ALL leaves only what cap_add names."),
    Key(
        "no_new_privileges",
        BOOLEAN,
        "Whether programs gain nothing by being executed (setuid, file capabilities).",
        default=True,
    ),
    Key(
        "group_add",
        ListOf(Value((str, int), "a group", values.group), "a list of groups"),
        "Further groups of the user, by the names or numbers of the container.",
    ),
    Key(
        "seccomp",
        SECCOMP,
        'Which system calls it may make: "default", "unconfined", or the path of a profile.',
        default="default",
    ),
    Key("init", BOOLEAN, "Whether a tiny init runs as process 1 and reaps zombies.", default=False),
    Key("selinux", SELINUX, 'The label of SELinux, or "disable" (default: one for each container alone).'),
    Key(
        "apparmor",
        _text("a profile", confinement.apparmor),
        'A profile of AppArmor that is loaded, or "unconfined" (default: orch\'s own).',
    ),
    Key(
        "logging",
        Table(
            "a table",
            [
                Key("max_size", _size(_MIN_LOG), "A log file that reaches it is rotated.", default="10M"),
                Key("max_files", _integer(1, 1000), "The number of files to keep.", default=3),
            ],
            elsewhere={
                "driver": "logs are always rotated files; allowed: max_size, max_files",
                "options": "write max_size and max_files into logging itself",
            },
        ),
        "Rotation of the logs.",
        merge=_layered,
    ),
    Key(
        "profiles",
        ListOf(_text("a name", values.profile), "a list of names"),
        "The service is left out unless one of these profiles is active.",
        in_defaults=False,
    ),
]

#: Words of Compose that are written differently here.
_SERVICE_ELSEWHERE = {
    **{word: f'did you mean "resources.{word}"?' for word in RESOURCES.keys},
    "mem_limit": 'did you mean "resources.memory"?',
    "mem_reservation": 'did you mean "resources.memory_low" (cgroup v2) or "resources.memory_high"?',
    "memswap_limit": 'did you mean "resources.memory_swap", which counts swap only?',
    "mem_swappiness": "cgroup v2 has none; resources.memory_swap = 0 forbids swap",
    "oom_kill_disable": "cgroup v2 has none; oom_score_adj makes a kill less likely",
    "cpu_shares": 'did you mean "resources.cpu_weight", from 1 to 10000, default 100?',
    "cpu_quota": 'did you mean "resources.cpus", quota through period?',
    "cpu_period": 'did you mean "resources.cpus", quota through period?',
    **dict.fromkeys(("cpu_rt_runtime", "cpu_rt_period"), _NO_REAL_TIME),
    "pids_limit": 'did you mean "resources.pids"?',
    "blkio_config": 'did you mean "resources.io" and "resources.io_weight"?',
    "deploy": 'did you mean "resources" and "replicas"?',
    "scale": 'did you mean "replicas"?',
    "container_name": "containers are called PROJECT-SERVICE-N",
    "build": 'images are "host" or "dir:PATH" in this version',
    "env": 'did you mean "environment"?',
    "userns_mode": 'did you mean "userns"?',
    "privileged": "say what is needed: cap_add, devices, seccomp, userns",
    "security_opt": "did you mean no_new_privileges, seccomp, selinux or apparmor?",
}

SERVICE = Table("a table", _SERVICE_KEYS, _SERVICE_ELSEWHERE)
DEFAULTS = Table(
    "a table",
    [key for key in _SERVICE_KEYS if key.in_defaults],
    _SERVICE_ELSEWHERE
    | {key.name: "it must be given for each service" for key in _SERVICE_KEYS if not key.in_defaults},
)
NETWORK = Table(
    "a table",
    [
        Key("subnet", _text("an IPv4 network", values.subnet), "Its addresses (default: orch chooses)."),
        Key(
            "gateway",
            _text("an IPv4 address", values.address),
            "The host's address in it (default: the first).",
        ),
        Key("internal", BOOLEAN, "Whether there is no way out of it.", default=False),
    ],
    elsewhere={
        "ipam": 'did you mean "subnet" and "gateway"?',
        "driver": "networks are always bridges",
        "external": "a project makes all of its networks",
    },
)
VOLUME = Table(
    "a table",
    [Key("labels", Pairs("a table or a list of strings", values.label_name), "Notes for people and tools.")],
    elsewhere={
        "driver": "volumes are always folders that orch keeps",
        "external": "a project makes all of its volumes",
    },
)

_FILE = Key("file", _text("a path"), "The file that holds it, relative to the manifest.")
_VARIABLE = Key(
    "environment",
    _text("a name", values.environment_name),
    "The variable of orch's environment that holds it.",
)
_ORIGIN_ELSEWHERE = {
    "external": "nobody but the manifest keeps them: name a file or a variable",
    "name": "a service names them by their key",
    "driver": "they are always files or variables",
    "template_driver": "variables in content are always replaced",
}
SECRET = Then(
    Table(
        "a table",
        [_FILE, _VARIABLE],
        {**_ORIGIN_ELSEWHERE, "content": "a manifest is no place for a secret: use file or environment"},
    ),
    mounts.origin,
)
CONFIG = Then(
    Table(
        "a table",
        [_FILE, _VARIABLE, Key("content", _text("a string"), "The content itself; variables are replaced.")],
        _ORIGIN_ELSEWHERE,
    ),
    mounts.origin,
)

MANIFEST = Table(
    "a table",
    [
        Key("name", NAME, "The project's name (default: that of the manifest's folder)."),
        Key(
            "include",
            ListOf(_text("a path"), "a path or a list of paths", placed=True, or_one=True),
            "Further manifests, relative to this one; what they define is added.",
        ),
        Key("defaults", DEFAULTS, "What every service of this file has that says nothing else."),
        Key("services", MapOf(SERVICE, "a table of services", values.name, _NAME_PATTERN), "The services."),
        Key("networks", MapOf(NETWORK, "a table of networks", values.name, _NAME_PATTERN), "The networks."),
        Key("volumes", MapOf(VOLUME, "a table of volumes", values.name, _NAME_PATTERN), "The named volumes."),
        Key("secrets", MapOf(SECRET, "a table of secrets", values.name, _NAME_PATTERN), "The secrets."),
        Key("configs", MapOf(CONFIG, "a table of configs", values.name, _NAME_PATTERN), "The configs."),
    ],
    elsewhere={
        "version": "manifests need none; remove it",
        "service": 'did you mean "services"?',
    },
)


def json_schema() -> Schema:
    """The JSON Schema (2020-12) of a manifest, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "orch manifest",
        "description": "Services, networks and volumes of one project. Strings may hold ${VARIABLES}.",
        **MANIFEST.schema(),
    }
