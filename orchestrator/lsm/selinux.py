"""SELinux contexts of containers. Pure.

As Docker and Podman have it: all containers have one type, ``container_t``, which may do to files of type
``container_file_t`` what programs do, and to others next to nothing. What keeps containers apart from each other is
a pair of categories (Multi-Category Security): the policy lets a process reach only what has no category that it
has not.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from orchestrator.spec import Selinux

#: The policy's categories are c0 to c1023 (mcs_num_cats of the reference policy and of Fedora's).
CATEGORIES = 1024
_PAIRS = CATEGORIES * (CATEGORIES - 1)  # each of them twice, once in each order
_CONTEXTS = {
    "process": "system_u:system_r:container_t:s0",
    "file": "system_u:object_r:container_file_t:s0",
}
_LINE = re.compile(r'^\s*(\w+)\s*=\s*"([^"\n]*)"\s*$', re.MULTILINE)

Pair = tuple[int, int]


class Context(NamedTuple):
    """``user:role:type:level``; a policy without levels has three parts."""

    user: str
    role: str
    type: str
    level: str = ""

    @classmethod
    def parse(cls, text: str) -> Context:
        """:raises ValueError: when it is no context."""
        parts = text.split(":", 3)
        if len(parts) < 3 or not all(parts):
            raise ValueError(f'"{text}" is not an SELinux context (user:role:type:level)')
        return cls(*parts)

    def __str__(self) -> str:
        return ":".join(filter(None, self))


class Defaults(NamedTuple):
    """What the policy wants containers to have, without categories."""

    process: Context
    files: Context


def defaults(lxc_contexts: str) -> Defaults:
    """The contexts that a policy's file ``lxc_contexts`` names (selinux_lxc_contexts_path(3)).

    :param lxc_contexts: the file's text; what it does not say, or not well, is as every policy's has it.
    """
    found = _CONTEXTS | {key: value for key, value in _LINE.findall(lxc_contexts) if key in _CONTEXTS}
    try:
        return Defaults(Context.parse(found["process"]), Context.parse(found["file"]))
    except ValueError:
        return Defaults(Context.parse(_CONTEXTS["process"]), Context.parse(_CONTEXTS["file"]))


def allocate(name: str, taken: Container[Pair]) -> Pair:
    """The categories of the container ``name``: the same each time, unless others have ``taken`` them.

    Names of another instance lead elsewhere, as far as half a million pairs reach.

    :raises ValueError: when all pairs are taken.
    """
    import hashlib  # late: most client commands need no hash, and it takes a while to load

    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    for step in range(_PAIRS):
        first, rest = divmod((start + step) % _PAIRS, CATEGORIES - 1)
        second = rest + (rest >= first)
        pair = (min(first, second), max(first, second))
        if pair not in taken:
            return pair
    raise ValueError("all pairs of SELinux categories are taken")


def labels(wanted: Selinux, base: Defaults, pair: Pair) -> Defaults:
    """The contexts of one container's processes and files.

    User, role and type are the processes' only; a level is for both, or the processes could not use the files.
    """
    level = wanted.level or with_categories(base.process.level, pair)
    process = Context(
        wanted.user or base.process.user,
        wanted.role or base.process.role,
        wanted.type or base.process.type,
        level if base.process.level else "",
    )
    return Defaults(process, base.files._replace(level=level if base.files.level else ""))


def with_categories(level: str, pair: Pair) -> str:
    """``s0`` and the pair: ``s0:c1,c2``."""
    return f"{level.partition(':')[0]}:c{pair[0]},c{pair[1]}"


def shared(files: Context) -> Context:
    """The context of files that every container may use: one without categories."""
    return files._replace(level=files.level.partition(":")[0])
