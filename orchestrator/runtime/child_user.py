"""What a child does to become the container's user, with no more privileges than that."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable

from orchestrator.kernel.syscalls import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    capset,
    drop_from_bounding_set,
    permitted_capabilities,
    prctl,
)
from orchestrator.runtime.accounts import find_account
from orchestrator.runtime.child import Child, Refused
from orchestrator.runtime.child_paths import open_beneath

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


def _user(child: Child, user: str, terminal: bool, further: list[str]) -> None:
    """Find out who to become; see :func:`find_account`."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        account = find_account(root, user, further)
    finally:
        os.close(root)
    child.environment.setdefault("HOME", account.home)
    child.user, child.groups = (account.uid, account.gid), account.groups
    for number in child.groups:
        child.host_gid(number)  # says so if there is none
    # The program may reopen its own output (/dev/stdout), so the pipes are its own.
    owner = child.host_uid(account.uid)
    for fd in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(fd).st_mode) or terminal:
            os.fchown(fd, owner, -1)


def _adopt(child: Child, target: str) -> None:
    """A volume that is new (empty, root's) belongs to the user of the first container that mounts it."""
    try:
        fd = open_beneath(target, os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError:
        return  # a part of a volume may be a file
    try:
        info = os.fstat(fd)
        if child.attached[target] != (info.st_dev, info.st_ino):
            return  # another mount covers it: a link of the image led both to one place
        if child.user != (0, 0) and (info.st_uid, info.st_gid) == (0, 0) and not os.listdir(fd):
            os.fchown(fd, *child.user)
    finally:
        os.close(fd)


def _privileges(
    child: Child, capabilities: int, ambient: int, last: int, no_new_privileges: bool, optional: int
) -> None:
    """Become the user, with at most ``capabilities`` (a bit mask) now and ever after.

    Those of them that are ``optional`` are left out where orch does not have them itself.

    Root holds them. Another user holds only ``ambient``, which its programs keep, whoever their files belong to
    (capabilities(7)); the inheritable set is empty otherwise, so that files with inheritable capabilities give none.
    """
    if optional:
        lacking = optional & ~permitted_capabilities()
        capabilities, ambient = capabilities & ~lacking, ambient & ~lacking
    drop_from_bounding_set(number for number in range(last + 1) if not capabilities >> number & 1)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    uid, gid = child.user
    os.setgroups(child.groups)
    os.setresgid(gid, gid, gid)
    if uid == 0:
        ambient = 0
    prctl(PR_SET_KEEPCAPS, int(ambient != 0))  # until exec
    os.setresuid(uid, uid, uid)
    held = ambient if uid else capabilities
    capset(held, held, ambient)
    for number in range(last + 1):
        if ambient >> number & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
    if no_new_privileges:
        prctl(PR_SET_NO_NEW_PRIVS, 1)


OPERATIONS: dict[str, Callable[..., None]] = {
    "limit": _limit,
    "user": _user,
    "adopt": _adopt,
    "privileges": _privileges,
}
