"""What a child does to become the container's user, with no more privileges than that."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable

from orchestrator.kernel.syscalls import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_SET_NO_NEW_PRIVS,
    capset,
    drop_from_bounding_set,
    prctl,
)
from orchestrator.runtime.child import Child, Refused
from orchestrator.runtime.child_files import open_beneath

_MAX_ACCOUNTS_FILE = 1 << 20
#: Names of setrlimit(2)'s resources, in the order of their numbers (asm-generic/resource.h).
_LIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip


def _limit(child: Child, name: str, soft: int, hard: int | None) -> None:
    number = _LIMITS.index(name)
    if hard is None:  # what it has; -1 is unlimited
        hard = resource.getrlimit(number)[1]
        soft = soft if hard == -1 else min(soft, hard)
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # how setrlimit reports EPERM and EINVAL
        raise Refused(
            f"{error} (asked for {soft}:{hard}; raising a hard limit needs CAP_SYS_RESOURCE)"
        ) from None


def _accounts(path: str) -> list[list[str]]:
    try:
        fd = open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        data = os.read(fd, _MAX_ACCOUNTS_FILE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    return [line.split(":") for line in data.decode("utf-8", "replace").splitlines()]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) < 2**32 - 1 else None


def _user(child: Child, user: str, terminal: bool) -> None:
    """``user[:group]``, names or numbers, as the container's own /etc/passwd and /etc/group know them."""
    name, _, group = user.partition(":")
    passwd = [row for row in _accounts("/etc/passwd") if len(row) >= 6]
    rows = [row for row in passwd if name in (row[0], row[2])]
    uid = _number(rows[0][2] if rows else name)
    if uid is None:
        raise Refused(f'user "{name}" is not in the container\'s /etc/passwd', 126)
    gid = _number(rows[0][3]) if rows else 0
    groups: list[int] = []
    known = [row for row in _accounts("/etc/group") if len(row) >= 3]
    if group:
        matches = [row[2] for row in known if group in (row[0], row[2])]
        gid = _number(matches[0] if matches else group)
        if gid is None:
            raise Refused(f'group "{group}" is not in the container\'s /etc/group', 126)
    elif rows:
        member = [_number(row[2]) for row in known if len(row) >= 4 and rows[0][0] in row[3].split(",")]
        groups = [number for number in member if number is not None]
    child.environment.setdefault("HOME", rows[0][5] if rows and rows[0][5] else "/")
    child.user = (uid, gid or 0)
    # The program may reopen its own output (/dev/stdout), so the pipes are its own.
    for fd in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(fd).st_mode) or terminal:
            os.fchown(fd, uid, -1)
    os.setgroups([gid or 0, *groups])
    os.setresgid(child.user[1], child.user[1], child.user[1])


def _adopt(child: Child, target: str) -> None:
    """A volume that is new (empty, root's) belongs to the user of the first container that mounts it."""
    fd = open_beneath(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        info = os.fstat(fd)
        if child.user != (0, 0) and (info.st_uid, info.st_gid) == (0, 0) and not os.listdir(fd):
            os.fchown(fd, *child.user)
    finally:
        os.close(fd)


def _privileges(child: Child, capabilities: int, last: int) -> None:
    """Become the user, with at most ``capabilities`` (a bit mask) now and ever after."""
    drop_from_bounding_set(number for number in range(last + 1) if not capabilities >> number & 1)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    uid = child.user[0]
    os.setresuid(uid, uid, uid)
    held = 0 if uid else capabilities
    capset(held, held, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


OPERATIONS: dict[str, Callable[..., None]] = {
    "limit": _limit,
    "user": _user,
    "adopt": _adopt,
    "privileges": _privileges,
}
