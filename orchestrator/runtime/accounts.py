"""Users and groups as a container's own /etc/passwd and /etc/group know them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.kernel.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from orchestrator.runtime.child import Refused
from orchestrator.runtime.child_paths import is_kernels

_MAX_FILE = 1 << 20
_MAX_DIGITS = 10  # of an id, which has 32 bits; Python refuses to convert thousands


class Account(NamedTuple):
    """Who somebody is; ``groups`` begins with ``gid``."""

    uid: int
    gid: int
    groups: list[int]
    home: str


def find_account(root: int, user: str, further: Sequence[str] = ()) -> Account:
    """``user[:group]``, names or numbers.

    :param root: a descriptor of the container's root; nothing outside of it is read.
    :param further: groups to be in besides.
    :raises Refused: when the user or a group does not exist.
    """
    name, _, group = user.partition(":")
    row = _find(_lines(root, "/etc/passwd"), name, 6)
    uid = _number(row[2] if row else name)
    if uid is None:
        raise Refused(f'user "{name}" is not in the container\'s /etc/passwd', 126)
    gid = _number(row[3]) if row else 0
    groups: list[int] = []
    known = _lines(root, "/etc/group")
    if group:
        gid = _group(known, group)
    elif row:
        rows = [line.split(":") for line in known if row[0] in line]
        member = [_number(each[2]) for each in rows if len(each) >= 4 and row[0] in each[3].split(",")]
        groups = [number for number in member if number is not None]
    groups += [_group(known, name) for name in further]
    gid = gid or 0
    return Account(uid, gid, list(dict.fromkeys([gid, *groups])), row[5] if row and row[5] else "/")


def _group(known: list[str], name: str) -> int:
    row = _find(known, name, 3)
    number = _number(row[2] if row else name)
    if number is None:
        raise Refused(f'group "{name}" is not in the container\'s /etc/group', 126)
    return number


def _find(lines: list[str], name: str, fields: int) -> list[str] | None:
    """The first line about ``name``, a name or a number, with at least so many fields."""
    for line in lines:
        if name in line:  # most are about others, and need not be split
            row = line.split(":")
            if len(row) >= fields and name in (row[0], row[2]):
                return row
    return None


def _lines(root: int, path: str) -> list[str]:
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []
    try:
        # Nor a link to /proc/kmsg or the like, where reading takes away what others want to read.
        info = os.fstat(fd)
        plain = stat.S_ISREG(info.st_mode) and not is_kernels(fd)
        data = os.read(fd, min(info.st_size, _MAX_FILE)) if plain else b""
    finally:
        os.close(fd)
    return data.decode("utf-8", "replace").splitlines()


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        return None
    return int(text) if int(text) < 2**32 - 1 else None
