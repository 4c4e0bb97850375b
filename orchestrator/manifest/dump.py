"""The way back: a project as a manifest in which everything is resolved. Loading it gives the same project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from orchestrator.spec import (
    HOST,
    ExecCheck,
    Grant,
    Healthcheck,
    HttpCheck,
    Mount,
    NetworkSpec,
    ProjectSpec,
    ServiceSpec,
    Spec,
    TcpCheck,
    UserNamespace,
)
from orchestrator.units import format_duration, format_size, parse_duration, parse_size

_DURATIONS = frozenset(
    ("timeout", "interval", "start_period", "start_interval", "backoff", "backoff_max", "reset_after",
     "stop_grace_period", "window", "sustained")
)  # fmt: skip
_SIZES = frozenset(
    ("memory", "memory_high", "memory_low", "memory_min", "memory_swap", "size", "shm_size", "max_size",
     "read_bps", "write_bps")
)  # fmt: skip

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r'[\x00-\x1f"\\\x7f]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_toml(project: ProjectSpec) -> str:
    """The project as TOML; dollar signs are doubled, so that loading it replaces no variables."""
    lines: list[str] = []
    _write_table(_dollars_doubled(to_manifest(project)), "", lines)
    return "\n".join(lines).strip("\n") + "\n"


def to_json(project: ProjectSpec) -> str:
    """The project as JSON, in the manifest's words."""
    return msgspec.json.format(msgspec.json.encode(to_manifest(project)), indent=2).decode() + "\n"


def to_manifest(project: ProjectSpec) -> dict[str, Any]:
    """The tables of a manifest that says the same as the project (without its ``source``)."""
    tables = {
        "name": project.name,
        "services": {name: _service(spec) for name, spec in project.services.items()},
        "networks": {name: _network(spec) for name, spec in project.networks.items()},
        "volumes": {name: _fields(spec, "name") for name, spec in project.volumes.items()},
    }
    for section, files in (("secrets", project.secrets), ("configs", project.configs)):
        if files:
            tables[section] = {name: _fields(spec, "name") for name, spec in files.items()}
    return tables


def _fields(spec: Spec, *without: str) -> dict[str, Any]:
    """The fields of a spec that differ from their defaults, as values of TOML."""
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    return {key: _written(key, value) for key, value in fields.items() if key not in without}


def _written(key: str, value: Any) -> Any:
    """A number as people write it, where that loses nothing."""
    if key in _DURATIONS:
        text = format_duration(value)
        return text if parse_duration(text) == value else value
    return _size(value) if key in _SIZES else value


def _size(count: int) -> str | int:
    text = format_size(count)
    return text if parse_size(text) == count else count


def _network(spec: NetworkSpec) -> dict[str, Any]:
    return _fields(spec, "name")


def _service(spec: ServiceSpec) -> dict[str, Any]:
    table: dict[str, Any] = {"image": spec.image}
    table |= _fields(
        spec,
        "name",
        "mounts",
        "networks",
        "depends_on",
        "healthcheck",
        "pressure",
        "restart",
        "resources",
        "logging",
        "ports",
        "userns",
        "time",
        "time_offsets",
        "secrets",
        "configs",
        "seccomp",
    )
    if spec.userns.mode != "default":
        table["userns"] = _userns(spec.userns)
    if spec.time != HOST:
        table["time"] = _fields(spec.time_offsets) if spec.time_offsets else spec.time
    if spec.ports:
        table["ports"] = [_fields(port) for port in spec.ports]
    if spec.mounts:
        table["volumes"] = [_mount(mount) for mount in spec.mounts]
    for section, grants in (("secrets", spec.secrets), ("configs", spec.configs)):
        if grants:
            table[section] = [_with_mode(grant, "content") for grant in grants]
    if spec.networks:
        table["networks"] = {joined.network: _fields(joined, "network") for joined in spec.networks}
    if spec.depends_on:
        table["depends_on"] = {
            dependency.service: {"condition": dependency.condition.value, **_fields(dependency, "service")}
            for dependency in spec.depends_on
        }
    if spec.healthcheck:
        table["healthcheck"] = _healthcheck(spec.healthcheck)
    if spec.pressure:
        table["pressure"] = [
            _fields(trigger, "threshold") | {"threshold": f"{trigger.threshold!r}%"}
            for trigger in spec.pressure
        ]
    restart = _fields(spec.restart)
    if restart:
        table["restart"] = {"policy": spec.restart.policy, **restart}
    resources = _fields(spec.resources, "io", "hugepages")
    if spec.resources.pids is None:
        resources["pids"] = "unlimited"
    if spec.resources.io:
        resources["io"] = [_fields(limit) for limit in spec.resources.io]
    if spec.resources.hugepages:
        resources["hugepages"] = {page: _size(count) for page, count in spec.resources.hugepages.items()}
    if resources:
        table["resources"] = resources
    seccomp = _fields(spec.seccomp, "content")
    if seccomp:
        table["seccomp"] = seccomp
    logging = _fields(spec.logging)
    if logging:
        table["logging"] = logging
    return table


def _userns(userns: UserNamespace) -> str | dict[str, list[str]]:
    if userns.mode != "maps":
        return userns.mode
    sides = {"uid": userns.uid, "gid": userns.gid}
    return {key: [f"{m.inside}:{m.outside}:{m.count}" for m in side] for key, side in sides.items()}


def _mount(mount: Mount) -> dict[str, Any]:
    owner = {"owner": ":".join(map(str, mount.owner))} if mount.owner else {}
    return _with_mode(mount, "owner") | owner


def _with_mode(spec: Mount | Grant, *without: str) -> dict[str, Any]:
    table = _fields(spec, "mode", *without)
    if spec.mode is not None:
        table["mode"] = f"{spec.mode:04o}"
    return table


def _healthcheck(check: Healthcheck) -> dict[str, Any]:
    match check.test:
        case ExecCheck(command=command):
            probe: dict[str, Any] = {"test": ["CMD", *command]}
        case TcpCheck(port=port):
            probe = {"tcp": port}
        case HttpCheck() as http:
            probe = {"http": _fields(http, "type")}
    return probe | _fields(check, "test")


def _dollars_doubled(value: Any) -> Any:
    match value:
        case str():
            return value.replace("$", "$$")
        case dict():
            return {key: _dollars_doubled(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_dollars_doubled(entry) for entry in value]
    return value


def _write_table(table: Mapping[str, Any], path: str, lines: list[str]) -> None:
    """Append a table: its plain values first, then the tables within it under headers of their own."""
    for key, value in table.items():
        if not isinstance(value, dict):
            lines.append(f"{_key(key)} = {_inline(value)}")
    for key, value in table.items():
        if isinstance(value, dict):
            inner = f"{path}.{_key(key)}" if path else _key(key)
            if not value or any(not isinstance(entry, dict) for entry in value.values()):
                lines.extend(["", f"[{inner}]"])
            _write_table(value, inner, lines)


def _inline(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case dict():
            return "{ " + ", ".join(f"{_key(key)} = {_inline(entry)}" for key, entry in value.items()) + " }"
        case _:
            return "[" + ", ".join(map(_inline, value)) + "]"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return '"' + _ESCAPED.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text) + '"'
