"""The way back: what a project is dumped as loads again to the same project, and fits the schema."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ids import NAME
from orchestrator.manifest.dump import to_json, to_toml
from orchestrator.manifest.load import load
from orchestrator.manifest.schema import MIN_MEMORY, json_schema
from orchestrator.manifest.values import ULIMITS
from orchestrator.spec import (
    Attachment,
    Condition,
    Dependency,
    Device,
    ExecCheck,
    Healthcheck,
    HttpCheck,
    IoLimit,
    Logging,
    Mount,
    NetworkSpec,
    Port,
    PressureTrigger,
    ProjectSpec,
    Resources,
    RestartPolicy,
    Seccomp,
    Selinux,
    ServiceSpec,
    TcpCheck,
    Ulimit,
    VolumeSpec,
)

_BIG = (1 << 63) - 1
_NAMES = st.from_regex(NAME, fullmatch=True).filter(lambda name: not re.fullmatch(r".*-\d+", name))
_TEXT = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
) | st.sampled_from(["$A", "${A:-b}", "$$", 'say "x"\n', "\x7f\\", "'''", "[x]"])
_HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
_WORDS = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_PATHS = st.lists(_WORDS | st.sampled_from(["a b", "$x", "é", ":"]), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
_SECONDS = st.floats(0, 1e9) | st.integers(0, 10**6).map(float) | st.sampled_from([0.1, 0.001, 90.0])
_POSITIVE = _SECONDS.filter(bool)
_PORTS = st.integers(1, 65535)
_ADDRESSES = st.sampled_from(["127.0.0.1", "0.0.0.0"])
_MODES: tuple[Literal["bridge", "host", "none"], ...] = ("bridge", "bridge", "host", "none")


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _tuples(strategy: st.SearchStrategy[Any], **limits: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=3, **limits).map(tuple)


_CHECKS = st.builds(
    Healthcheck,
    test=st.one_of(
        st.builds(ExecCheck, command=_tuples(_TEXT, min_size=1)),
        st.builds(TcpCheck, port=_PORTS),
        st.builds(
            HttpCheck,
            port=_PORTS,
            path=_PATHS.map(lambda path: path.replace(" ", "")),
            scheme=st.sampled_from(["http", "https"]),
            host=_maybe(_HOSTS),
            headers=st.dictionaries(_WORDS, _TEXT, max_size=2),
            status=_tuples(st.integers(200, 599)),
            verify=st.booleans(),
        ),
    ),
    interval=_POSITIVE,
    timeout=_POSITIVE,
    retries=st.integers(1, 100),
    start_period=_SECONDS,
    start_interval=_POSITIVE,
    action=st.sampled_from(["none", "restart", "stop"]),
)
_TRIGGERS = st.builds(
    PressureTrigger,
    resource=st.sampled_from(["cpu", "memory", "io"]),
    kind=st.sampled_from(["some", "full"]),
    threshold=st.floats(0.1, 100),
    window=st.floats(0.5, 10),
    sustained=_SECONDS,
    action=st.sampled_from(["none", "restart", "stop", "signal:SIGUSR1", "signal:SIGRTMIN+3"]),
)
_RESTARTS = st.builds(
    RestartPolicy,
    policy=st.just("on-failure"),
    max_attempts=_maybe(st.integers(1, 100)),
    backoff=_maybe(st.floats(0, 1)),
    factor=st.floats(1, 1000),
    backoff_max=st.floats(1, 1e6),
    jitter=st.floats(0, 1),
    reset_after=_SECONDS,
) | st.just(RestartPolicy())
_RESOURCES = st.builds(
    Resources,
    cpus=_maybe(st.floats(0.01, 8192)),
    cpu_weight=_maybe(st.integers(1, 10000)),
    cpuset=_maybe(st.sampled_from(["0", "0-1,3"])),
    cpuset_mems=_maybe(st.sampled_from(["0", "0-1,3"])),
    memory=st.integers(1 << 40, _BIG),
    memory_low=_maybe(st.integers(1 << 20, 1 << 40)),
    memory_min=_maybe(st.integers(0, 1 << 20)),
    oom_group=st.booleans(),
    memory_high=_maybe(st.integers(MIN_MEMORY, 1 << 40)),
    memory_swap=_maybe(st.integers(0, _BIG)),
    pids=_maybe(st.integers(1, 4 << 20)),
    io_weight=_maybe(st.integers(1, 10000)),
    io=_tuples(
        st.builds(
            IoLimit,
            device=_PATHS.map(lambda path: "/dev" + path),
            read_bps=st.integers(1, _BIG),
            write_iops=_maybe(st.integers(1, _BIG)),
        ),
        unique_by=lambda limit: limit.device,
    ),
    hugepages=st.dictionaries(st.just("2MB"), st.integers(0, 1000).map(lambda count: count << 21)),
).flatmap(lambda limits: st.sampled_from([limits, msgspec.structs.replace(limits, cpu_burst=limits.cpus)]))
_MOUNTS = st.one_of(
    st.builds(
        Mount,
        type=st.just("bind"),
        source=_PATHS,
        target=_PATHS,
        read_only=st.booleans(),
        create=st.booleans(),
        propagation=st.sampled_from(["private", "slave", "shared"]),
        relabel=st.sampled_from([None, "shared", "private"]),
    ),
    st.builds(
        Mount,
        type=st.just("volume"),
        source=st.just("data"),
        target=_PATHS,
        read_only=st.booleans(),
        subpath=st.sampled_from(["", "a", "a b/$c"]),
        nocopy=st.booleans(),
        relabel=st.sampled_from([None, "shared", "private"]),
    ),
    st.builds(
        Mount,
        type=st.just("tmpfs"),
        target=_PATHS,
        read_only=st.booleans(),
        size=_maybe(st.integers(1, _BIG)),
        mode=_maybe(st.integers(0, 0o7777)),
        nr_inodes=_maybe(st.integers(1, _BIG)),
        uid=_maybe(st.integers(0, (1 << 32) - 2)),
        gid=_maybe(st.integers(0, (1 << 32) - 2)),
        exec=st.booleans(),
    ),
).filter(lambda mount: not (mount.target + "/").startswith("/proc/"))
_SELINUX = st.just(Selinux(disable=True)) | st.builds(
    Selinux,
    user=_maybe(st.just("system_u")),
    role=_maybe(st.just("system_r")),
    type=_maybe(st.just("my_t")),
    level=_maybe(st.sampled_from(["s0", "s0:c1,c2", "s0-s15:c0.c1023"])),
)
_DEVICES = st.builds(
    Device,
    source=_PATHS.map(lambda path: "/dev" + path),
    target=_PATHS.map(lambda path: "/dev/d" + path),  # none that is a mount's as well
    permissions=st.sampled_from(["r", "w", "rw", "rwm"]),
)
_SECCOMP = st.just(Seccomp(profile="unconfined")) | st.builds(
    Seccomp,
    allow=_tuples(st.sampled_from(["bpf", "clone3", "ptrace"]), unique=True),
    deny=_tuples(st.sampled_from(["chmod", "socket"]), unique=True),
)
_LIMITS = st.integers(0, 1000).flatmap(
    lambda soft: st.builds(Ulimit, soft=st.just(soft), hard=st.just(-1) | st.just(soft + 1))
)


@st.composite
def _services(draw: st.DrawFn, name: str, earlier: tuple[str, ...]) -> ServiceSpec:
    mode = draw(st.sampled_from(_MODES))
    joined: tuple[Attachment, ...] = ()
    if mode == "bridge":
        attachments = st.builds(
            Attachment, network=st.sampled_from(["default", "back"]), aliases=_tuples(_HOSTS)
        )
        joined = draw(_tuples(attachments, min_size=1, unique_by=lambda attachment: attachment.network))
    dependencies = st.builds(
        Dependency,
        service=st.sampled_from(earlier or ("",)),
        condition=st.sampled_from([Condition.STARTED, Condition.COMPLETED]),
        timeout=_POSITIVE,
        restart=st.booleans(),
        required=st.booleans(),
    )
    probe = draw(_maybe(_CHECKS)) if mode != "none" else None
    ports = st.builds(Port, target=_PORTS, host_ip=_ADDRESSES, protocol=st.sampled_from(["tcp", "udp"]))
    return ServiceSpec(
        name=name,
        kind=draw(st.sampled_from(["service", "job"])),
        image=draw(st.just("host") | _PATHS.map(lambda path: "dir:" + path)),
        entrypoint=draw(_maybe(_tuples(_TEXT))),
        command=("true", *draw(_tuples(_TEXT))),
        environment=draw(
            st.dictionaries(_TEXT.filter(lambda key: key and "=" not in key), _TEXT, max_size=3)
        ),
        working_dir=draw(_maybe(_PATHS)),
        user=draw(_maybe(st.sampled_from(["root", "0", "1000:1000", "$"]))),
        hostname=draw(_maybe(_HOSTS)),
        ports=draw(_tuples(ports)) if mode == "bridge" else (),
        expose=draw(_tuples(st.sampled_from(["80", "53/udp"]))),
        mounts=draw(_tuples(_MOUNTS, unique_by=lambda mount: mount.target)),
        devices=draw(_tuples(_DEVICES, unique_by=lambda device: device.target)),
        device_cgroup_rules=draw(_tuples(st.sampled_from(["c 1:3 rwm", "b *:* m", "c 136:* r"]))),
        read_only=draw(st.booleans()),
        masked_paths=draw(_tuples(_PATHS)),
        read_only_paths=draw(_tuples(_PATHS)),
        unmask=draw(st.sampled_from([(), ("all",), ("/proc/kcore", "/sys/*")])),
        shm_size=draw(st.integers(1, _BIG)),
        network_mode=mode,
        networks=joined,
        depends_on=draw(_tuples(dependencies, unique_by=lambda entry: entry.service)) if earlier else (),
        healthcheck=probe,
        pressure=draw(_tuples(_TRIGGERS)),
        restart=draw(_RESTARTS),
        stop_signal=draw(st.sampled_from(["SIGTERM", "SIGINT", "SIGKILL"])),
        stop_grace_period=draw(_SECONDS),
        resources=draw(_RESOURCES | st.just(Resources())),
        replicas=draw(st.integers(0, 5)),
        labels=draw(st.dictionaries(_TEXT.filter(bool), _TEXT, max_size=3)),
        ulimits=draw(st.dictionaries(st.sampled_from(ULIMITS), _LIMITS, max_size=2)),
        oom_score_adj=draw(_maybe(st.integers(-1000, 1000))),
        sysctls=draw(st.dictionaries(st.just("kernel.sem"), _TEXT)),
        init=draw(st.booleans()),
        selinux=draw(_SELINUX),
        apparmor=draw(_maybe(st.sampled_from(["unconfined", "a profile", "$"]))),
        seccomp=draw(_SECCOMP),
        logging=draw(st.builds(Logging, max_size=st.integers(4096, _BIG), max_files=st.integers(1, 1000))),
    )


@st.composite
def _projects(draw: st.DrawFn) -> ProjectSpec:
    services: dict[str, ServiceSpec] = {}
    for name in draw(st.lists(_NAMES, unique=True, max_size=3)):
        spec = draw(_services(name, tuple(services)))
        if not spec.argv[0]:
            spec = msgspec.structs.replace(spec, entrypoint=None)
        services[name] = spec
    return ProjectSpec(
        name=draw(_NAMES),
        services=services,
        networks={
            "default": NetworkSpec(name="default", internal=draw(st.booleans())),
            "back": draw(
                st.sampled_from(
                    [
                        NetworkSpec(name="back"),
                        NetworkSpec(name="back", subnet="10.1.0.0/24", gateway="10.1.0.9", internal=True),
                    ]
                )
            ),
        },
        volumes={"data": VolumeSpec(name="data", labels=draw(st.dictionaries(_WORDS, _TEXT, max_size=2)))},
    )


def _reloaded(path: Path, project: ProjectSpec) -> ProjectSpec:
    path.write_text(to_toml(project))
    again = load(str(path), environ={"A": "wrong"}, check_host=False).project
    return msgspec.structs.replace(again, source=project.source)


@given(project=_projects())
def test_what_is_dumped_loads_to_the_same_project(
    tmp_path_factory: pytest.TempPathFactory, project: ProjectSpec
) -> None:
    assert _reloaded(tmp_path_factory.getbasetemp() / "dumped.toml", project) == project


@given(project=_projects())
def test_what_is_dumped_fits_the_schema(project: ProjectSpec) -> None:
    assert list(_misfits(tomllib.loads(to_toml(project)), json_schema())) == []


@given(project=_projects())
def test_json_says_what_toml_says_without_doubled_dollars(project: ProjectSpec) -> None:
    def undoubled(value: Any) -> Any:
        match value:
            case str():
                return value.replace("$$", "$")
            case dict():
                return {key: undoubled(entry) for key, entry in value.items()}
            case list():
                return [undoubled(entry) for entry in value]
        return value

    assert json.loads(to_json(project)) == undoubled(tomllib.loads(to_toml(project)))


def test_people_can_read_it() -> None:
    project = ProjectSpec(
        name="shop",
        services={
            "web": ServiceSpec(
                name="web",
                command=("sh", "-c", "echo $HOME"),
                environment={"A": "1"},
                ports=(Port(target=80, published=8080), Port(target=53, protocol="udp")),
                networks=(Attachment(network="default"),),
                depends_on=(Dependency(service="db", condition=Condition.HEALTHY),),
                stop_grace_period=90.0,
                resources=Resources(memory=64 << 20),
            )
        },
        networks={"default": NetworkSpec(name="default")},
    )
    assert to_toml(project) == (
        """\
name = "shop"

[services.web]
image = "host"
command = ["sh", "-c", "echo $$HOME"]
stop_grace_period = "1m30s"
ports = [{ target = 80, published = 8080 }, { target = 53, protocol = "udp" }]

[services.web.environment]
A = "1"

[services.web.networks.default]

[services.web.depends_on.db]
condition = "healthy"

[services.web.resources]
memory = "64M"

[networks.default]

[volumes]
"""
    )


def _misfits(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Where a value breaks a schema; knows the words that json_schema() uses, and refuses others."""
    known = {
        "$schema", "title", "description", "default", "type", "enum", "anyOf", "pattern", "minimum", "maximum",
        "exclusiveMinimum", "items", "properties", "patternProperties", "additionalProperties", "propertyNames",
        "required",
    }  # fmt: skip
    assert set(schema) <= known
    found: list[str] = []
    if "anyOf" in schema and all(_misfits(value, option) for option in schema["anyOf"]):
        found.append(f"{path}: fits no form")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: not in the list")
    types = schema.get("type", [])
    if types and not any(_is(value, name) for name in ([types] if isinstance(types, str) else types)):
        found.append(f"{path}: wrong type")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path}: pattern")
    if isinstance(value, int | float):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            found.append(f"{path}: out of range")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            found.append(f"{path}: out of range")
    if isinstance(value, list) and "items" in schema:
        for index, entry in enumerate(value):
            found += _misfits(entry, schema["items"], f"{path}[{index}]")
    if isinstance(value, dict):
        found += [f"{path}: lacks {key}" for key in schema.get("required", ()) if key not in value]
        for key, entry in value.items():
            if "propertyNames" in schema:
                found += _misfits(key, schema["propertyNames"], f"{path}.{key}")
            if key in schema.get("properties", {}):
                found += _misfits(entry, schema["properties"][key], f"{path}.{key}")
            elif any(re.search(pattern, key) for pattern in schema.get("patternProperties", {})):
                continue
            elif schema.get("additionalProperties") is False:
                found.append(f"{path}.{key}: unknown")
            elif isinstance(schema.get("additionalProperties"), dict):
                found += _misfits(entry, schema["additionalProperties"], f"{path}.{key}")
    return found


def _is(value: Any, name: str) -> bool:
    types = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    return isinstance(value, types[name]) and (name == "boolean" or not isinstance(value, bool))  # type: ignore[arg-type]
