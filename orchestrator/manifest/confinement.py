"""Values of what confines a container: namespaces, ids, capabilities, system calls, labels; as ``values``."""

from __future__ import annotations

import re
from typing import Any

from orchestrator import capabilities
from orchestrator.manifest.place import hint
from orchestrator.manifest.values import duration, name
from orchestrator.spec import IdMapping

_SELINUX_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: One level, or a range of two: a sensitivity, and categories with ranges of them written c0.c9.
_CATEGORY = r"c(?:0|[1-9]\d{0,3})"
_CATEGORIES = rf"{_CATEGORY}(?:\.{_CATEGORY})?(?:,{_CATEGORY}(?:\.{_CATEGORY})?)*"
_LEVEL = rf"s\d{{1,2}}(?::{_CATEGORIES})?"
_SELINUX_LEVEL = re.compile(rf"{_LEVEL}(?:-{_LEVEL})?")
_MAX_CATEGORY = 1023


def capability(value: str) -> str:
    """A capability's name, with or without ``CAP_``, or ``ALL``."""
    name = value.upper().removeprefix("CAP_")
    if name != "ALL" and name not in capabilities.NUMBERS:
        raise ValueError(f'"{value}" is not a capability{hint(name, capabilities.NUMBERS)}')
    return name


_SHARED = re.compile(r"(?:service|container):(.+)")


def namespace(value: str, words: tuple[str, ...] = ("private", "host")) -> str:
    """Whose namespace a container has: one of ``words``, ``service:NAME`` or ``container:NAME``."""
    if value in words:
        return value
    match = _SHARED.fullmatch(value)
    if not match:
        raise ValueError(f'"{value}" is not allowed{hint(value, (*words, "service:NAME", "container:NAME"))}')
    return value if value.startswith("container:") else "service:" + name(match[1])


_ID_MAPPING = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})")
_IDS = (1 << 32) - 1  # the last number, -1, is no id


def id_mapping(value: str) -> IdMapping:
    """``INSIDE:OUTSIDE:COUNT``, in the order of podman-run(1)'s --uidmap and of /proc/PID/uid_map."""
    match = _ID_MAPPING.fullmatch(value)
    if not match:
        raise ValueError(
            f'"{value}" is not a range of ids (write "CONTAINER:HOST:COUNT", like "0:100000:65536")'
        )
    inside, outside, count = map(int, match.groups())
    if count == 0 or inside + count > _IDS or outside + count > _IDS:
        raise ValueError(f'"{value}" is not a range of ids (there are {_IDS}, and it must hold at least one)')
    return IdMapping(inside=inside, outside=outside, count=count)


def clock_offset(value: str | int | float) -> float:
    """A duration by which a clock is ahead, or behind with a minus sign."""
    if isinstance(value, str) and value.startswith("-"):
        return -duration(value[1:])
    return duration(value) if isinstance(value, str) or value >= 0 else -duration(-value)


def system_call(value: str) -> str:
    """The name of a system call."""
    from orchestrator.manifest.seccomp import unknown_call  # only manifests that name one pay for it

    if text := unknown_call(value):
        raise ValueError(text)
    return value


def seccomp_table(values: dict[str, Any]) -> dict[str, Any]:
    """A seccomp profile with changes; there is nothing to change about none."""
    if values.get("profile") == "unconfined" and (values.get("allow") or values.get("deny")):
        raise ValueError('"unconfined" allows everything (to change single calls, lay them over "default")')
    if both := [name for name in values.get("allow", ()) if name in values.get("deny", ())]:
        raise ValueError(f'"{both[0]}" cannot be both allowed and denied')
    return values


def selinux_word(value: str) -> str:
    """A user, role or type of SELinux."""
    if not _SELINUX_WORD.fullmatch(value):
        raise ValueError(f'"{value}" is not a name of SELinux (letters, digits, "_", "." and "-")')
    return value


def selinux_level(value: str) -> str:
    """A level of SELinux, or a range of two."""
    if not _SELINUX_LEVEL.fullmatch(value):
        raise ValueError(f'"{value}" is not a level of SELinux (write it like "s0:c1,c2")')
    if highest := [number for number in re.findall(r"c(\d+)", value) if int(number) > _MAX_CATEGORY]:
        raise ValueError(f'"{value}" has a category c{highest[0]} (from c0 to c{_MAX_CATEGORY})')
    return value


def selinux_table(found: dict[str, Any]) -> dict[str, Any]:
    """A label's parts; a label that is disabled has none."""
    if found.get("disable") and (parts := [key for key in found if key != "disable"]):
        raise ValueError(f"disables the label, and yet gives it a {parts[0]} (one or the other)")
    return found


def apparmor(value: str) -> str:
    """The name of an AppArmor profile, as the kernel lists it."""
    if not value.strip() or value != value.strip() or not value.isprintable():
        raise ValueError(f"{value!r} is not the name of a profile")
    return value
