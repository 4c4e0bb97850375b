"""Values of mounts, devices, secrets and paths in the container; as :mod:`orchestrator.manifest.values`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.manifest.values import MAX_ID, integer, mode, size
from orchestrator.spec import Device, Mount

_DEVICE_RULE = re.compile(r"([abc]) (\d+|\*):(\d+|\*) ([a-z]+)")
#: linux/kdev_t.h: 12 bits for the major number, 20 for the minor.
_MAX_MAJOR, _MAX_MINOR = 4095, 1048575


def container_path(value: str) -> str:
    """An absolute path in the container, without ``.`` and ``..``."""
    if not value.startswith("/"):
        raise ValueError(f'"{value}" is not an absolute path in the container (it must begin with "/")')
    parts: list[str] = []
    for part in value.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def mount_target(value: str) -> str:
    """Where a mount may go: anywhere but ``/`` itself and the kernel's ``/proc``."""
    path = container_path(value)
    if path == "/" or path == "/proc" or path.startswith("/proc/"):
        raise ValueError(f'nothing can be mounted on "{path}" (any other absolute path)')
    return path


def hidden_path(value: str) -> str:
    """A path to mask or to make read-only: anything but ``/`` itself."""
    path = container_path(value)
    if path == "/":
        raise ValueError(
            '"/" is the whole container (for a root that cannot be written to: read_only = true)'
        )
    return path


def unmask(value: str) -> str:
    """``all``, or a path of /proc or /sys, in which ``*`` and the like stand for a part of a name (glob(7))."""
    if value == "all":
        return value
    path = container_path(value)
    if not path.startswith(("/proc/", "/sys/")):
        raise ValueError(f'"{value}" is not masked by default (allowed: "all", or paths in /proc and /sys)')
    return path


def granted(value: str | dict[str, Any]) -> dict[str, Any]:
    """A secret or config that a service gets; a relative target is completed by who knows which of both it is."""
    return {"source": value} if isinstance(value, str) else value


def origin(values: dict[str, str]) -> dict[str, str]:
    """Where a secret or config comes from: one place."""
    if len(values) != 1:
        found = (
            f"has {' and '.join(values)} at once" if values else "does not say where its content comes from"
        )
        raise ValueError(f"{found} (allowed: one of file, environment, and for configs content)")
    return values


def is_path(source: str) -> bool:
    """Whether a mount's source is a path of the host, and not the name of a volume (Compose's rule)."""
    return source.startswith(("/", ".", "~"))


#: Options of a mount in short syntax -> what they mean; which kind of mount may have them is checked after.
_MOUNT_OPTIONS: dict[str, dict[str, Any]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "z": {"relabel": "shared"},
    "Z": {"relabel": "private"},
    "nocopy": {"nocopy": True},
    **{f"{r}{word}": {"propagation": word} for word in ("private", "slave", "shared") for r in ("", "r")},
    **{word: {} for word in ("consistent", "cached", "delegated")},  # they mean something on a Mac only
}
#: Which kinds of mount a key of the long syntax is for.
_MOUNT_KEYS = {
    "create": ("bind",), "propagation": ("bind",), "relabel": ("bind", "volume"), "subpath": ("volume",),
    "nocopy": ("volume",), "size": ("tmpfs",), "mode": ("tmpfs",), "nr_inodes": ("tmpfs",), "uid": ("tmpfs",),
    "gid": ("tmpfs",), "exec": ("tmpfs",), "owner": ("bind", "volume"),
}  # fmt: skip


def volume(value: str) -> Mount:
    """A mount in short syntax: ``source:target[:options]``; a bind's source is left as it was written."""
    source, colon, rest = value.partition(":")
    if not colon or not source:
        raise ValueError(
            f'"{value}" names no source (write "volume:/path" or "./folder:/path"; for a temporary folder use tmpfs)'
        )
    target, colon, options = rest.partition(":")
    values: dict[str, Any] = {"source": source, "target": mount_target(target)}
    for option in options.split(",") if colon else ():
        if option not in _MOUNT_OPTIONS:
            raise ValueError(f'"{option}" is not an option of a mount (allowed: {", ".join(_MOUNT_OPTIONS)})')
        values |= _MOUNT_OPTIONS[option]
    if is_path(source):
        values["create"] = True
    return volume_table(values)


def volume_table(values: dict[str, Any]) -> Mount:
    """A mount in long syntax; tables ``bind``, ``volume`` and ``tmpfs`` are Compose's way of writing some keys."""
    nested = values.pop("bind", {}) | values.pop("volume", {}) | values.pop("tmpfs", {})
    values = values | nested
    values.pop("consistency", None)
    source = values.get("source", "")
    kind = values.setdefault("type", "bind" if is_path(source) else "volume")
    if kind == "tmpfs" and source:
        raise ValueError("a tmpfs has no source (remove it, or change the type)")
    if kind != "tmpfs" and not source:
        raise ValueError(
            f'lacks "source" ({"a path of the host" if kind == "bind" else "the name of a volume"})'
        )
    if kind == "volume" and is_path(source):
        raise ValueError(f'"{source}" is not the name of a volume (for a path of the host use type = "bind")')
    for key, owners in _MOUNT_KEYS.items():
        if key in values and kind not in owners:
            raise ValueError(f'"{key}" has no meaning for a {kind} (only for a {" or ".join(owners)})')
    if "owner" in values and values.get("propagation", "private") != "private":
        raise ValueError('"owner" cannot be combined with propagation: later mounts have owners of their own')
    return Mount(**values)


def bind_options(values: dict[str, Any]) -> dict[str, Any]:
    """Compose's options of a bind, in our words."""
    words = {"create_host_path": "create", "selinux": "relabel"}
    labels = {"z": "shared", "Z": "private"}
    return {words.get(key, key): labels.get(value, value) for key, value in values.items()}


def subpath(value: str) -> str:
    """A path within a volume, without ``.`` and ``..``."""
    parts = value.split("/")
    if value.startswith("/") or ".." in parts or not any(part not in ("", ".") for part in parts):
        raise ValueError(f'"{value}" is not a path within a volume (write it like "data/files")')
    return "/".join(part for part in parts if part not in ("", "."))


def tmpfs(value: str) -> Mount:
    """A tmpfs in short syntax: ``target[:size=64M,mode=1777,uid=1000,exec]``."""
    readers: dict[str, Callable[[str], int]] = {
        "size": partial(size, minimum=1),
        "mode": mode,
        "nr_inodes": partial(integer, minimum=1),
        "uid": partial(integer, minimum=0, maximum=MAX_ID),
        "gid": partial(integer, minimum=0, maximum=MAX_ID),
    }
    target, _, options = value.partition(":")
    values: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, text = option.partition("=")
        if key in ("ro", "rw") and not equals:
            values["read_only"] = key == "ro"
        elif key in ("exec", "noexec") and not equals:
            values["exec"] = key == "exec"
        elif key in readers and equals:
            values[key] = readers[key](text)
        elif option not in ("nosuid", "nodev"):  # a tmpfs is never otherwise
            allowed = ", ".join(f"{name}=" for name in readers)
            raise ValueError(
                f'"{option}" is not an option of a tmpfs (allowed: {allowed}, ro, rw, exec, noexec, nosuid, nodev)'
            )
    return Mount(type="tmpfs", target=mount_target(target), **values)


#: What orch itself makes in /dev and needs to be as it is: paths are masked with /dev/null.
_OWN_DEVICES = frozenset(
    f"/dev/{name}" for name in ("fd", "mqueue", "null", "ptmx", "pts", "shm", "stderr", "stdin", "stdout")
)


def device_source(value: str) -> str:
    """The path of a device of the host, or of a folder of them."""
    if not value.startswith("/"):
        kind = (
            "the name of a CDI device, which orch does not know" if "=" in value else "not an absolute path"
        )
        raise ValueError(f'"{value}" is {kind} (write the path of a device, like "/dev/fuse")')
    return container_path(value)


def device_target(value: str) -> str:
    """Where a device may appear: as a mount, but not in place of what orch makes in /dev."""
    path = mount_target(value)
    if path in _OWN_DEVICES:
        raise ValueError(f'every container has a "{path}" of its own (choose another target)')
    return path


def device_permissions(value: str) -> str:
    """Letters of ``rwm``, each once, in this order."""
    if not value or len(set(value)) != len(value) or not set(value) <= set("rwm"):
        raise ValueError(
            f'"{value}" are not permissions of a device (allowed: "r", "w" and "m", each once, like "rw")'
        )
    return "".join(sorted(value, key="rwm".index))


def device_entry(value: str) -> Device:
    """A device in short syntax: ``source[:target][:permissions]``."""
    source, *rest = value.split(":")
    if len(rest) > 2:
        raise ValueError(
            f'"{value}" has too many parts (write source:target:permissions; for paths with ":" a table)'
        )
    values = {"source": device_source(source)}
    if rest and (len(rest) == 2 or rest[0].startswith("/")):
        values["target"] = device_target(rest.pop(0))
    if rest:
        values["permissions"] = device_permissions(rest[0])
    return device_table(values)


def device_table(values: dict[str, str]) -> Device:
    """A device in long syntax; its target is its source if there is none."""
    return Device(**{"target": device_target(values.get("target", values["source"])), **values})


def device_rule(value: str) -> tuple[str, ...]:
    """A rule of the devices cgroup, ``c 1:3 rwm``; one that is for all types becomes one for each."""
    match = _DEVICE_RULE.fullmatch(value)
    if match is None:
        raise ValueError(
            f'"{value}" is not a rule for devices (write type major:minor permissions, like "c 226:* rw"; '
            "type is c, b or a)"
        )
    kind, major, minor, letters = match.groups()
    permissions = device_permissions(letters)
    numbers = [
        number if number == "*" else str(integer(number, 0, most))
        for number, most in ((major, _MAX_MAJOR), (minor, _MAX_MINOR))
    ]
    return tuple(f"{each} {':'.join(numbers)} {permissions}" for each in ("bc" if kind == "a" else kind))
