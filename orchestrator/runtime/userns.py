"""User namespaces: which ids of the host a container's ids are, and who has which range. Pure, but for the claim.

Root of a container is nobody on the host: its user namespace maps the ids 0 to 65535 to a range of host ids that no
other container, and no account, has (user_namespaces(7)). On the disk files keep the ids they have in the container,
for the container's layers and volumes are *idmapped* mounts (mount_setattr(2), "ID-mapped mounts").
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from orchestrator.errors import LaunchError
from orchestrator.runtime.idmap import IdMap

#: Ids of one container: as many as programs and distributions expect (subuid(5), nobody is 65534).
RANGE = 1 << 16
#: Ids that systemd's conventions (its UIDS-GIDS document) give to nobody: between those of nspawn's containers
#: and the foreign ids. Room for 4094 containers.
DEFAULT_POOL = (0x7000_0000, 4094 * RANGE)
#: The account in /etc/subuid and /etc/subgid whose ranges are used instead, where it has any.
ACCOUNT = "orch"
_TABLES = ("/etc/subuid", "/etc/subgid")
#: Which ranges are in use on this host, by whatever instance.
_LOCKS = "/run/orch.ids"

#: First id, number of ids.
Pool = tuple[int, int]


class IdMaps(NamedTuple):
    """A user namespace's maps: container ids -> host ids."""

    uid: IdMap
    gid: IdMap

    @classmethod
    def of_range(cls, first: int) -> IdMaps:
        """The maps of a container that has the range at ``first``."""
        mapping = ((0, first, RANGE),)
        return cls(mapping, mapping)


def pools(subuid: str, subgid: str) -> list[Pool]:
    """The host ids that containers may get, as /etc/subuid and /etc/subgid (their texts) leave them.

    The ranges that both files give to :data:`ACCOUNT`; without one the default pool, less what they give to others.
    """
    tables = [list(_entries(text)) for text in (subuid, subgid)]
    ours = [[extent for name, extent in table if name == ACCOUNT] for table in tables]
    if ours[0] or ours[1]:
        return [common for one in ours[0] for other in ours[1] if (common := _common(one, other))]
    taken = [extent for table in tables for _, extent in table]
    free = [DEFAULT_POOL]
    for extent in taken:
        free = [piece for each in free for piece in _without(each, extent)]
    return free


def ranges(pool: Iterable[Pool]) -> list[int]:
    """The first id of every whole range in the pool."""
    return [first for start, count in pool for first in range(start, start + count - RANGE + 1, RANGE)]


def _entries(text: str) -> Iterator[tuple[str, Pool]]:
    for line in text.splitlines():
        name, *numbers = line.strip().split(":")
        if len(numbers) == 2 and all(number.isascii() and number.isdigit() for number in numbers):
            yield name, (int(numbers[0]), int(numbers[1]))


def _common(one: Pool, other: Pool) -> Pool | None:
    first, end = max(one[0], other[0]), min(one[0] + one[1], other[0] + other[1])
    return (first, end - first) if end > first else None


def _without(extent: Pool, taken: Pool) -> Iterator[Pool]:
    """What is left of ``extent``, in whole ranges counted from its start."""
    if not _common(extent, taken):
        yield extent
        return
    start, end = extent[0], extent[0] + extent[1]
    before = (taken[0] - start) // RANGE
    if before > 0:
        yield start, before * RANGE
    after = start + -(-(taken[0] + taken[1] - start) // RANGE) * RANGE
    if after < end:
        yield after, end - after


def host_ranges() -> list[int]:
    """The first id of every range that this host leaves to containers. Reads two small files."""
    return ranges(pools(*(_text(path) for path in _TABLES)))


class RangeAllocator:
    """Gives each container a range that no other has, of this instance or of another on the same host.

    A range in use is a locked byte of one file of root's (open file description locks, fcntl_locking(2)): claimed in
    one step, free when its holder dies. Who gives the last one back removes the file.
    """

    def __init__(self, preference: int) -> None:
        """Read what the host gives to whom.

        :param preference: where in the pool to begin, so that instances do not look at the same ranges first.
        """
        self._firsts = host_ranges()
        self._preference = preference
        self._claims: set[int] = set()
        self._locks = -1

    def allocate(self) -> IdMaps:
        """Claim a range.

        :raises LaunchError: when all are in use, or none can be claimed.
        """
        what = "cannot give the container ids of its own"
        try:
            for offset in range(len(self._firsts)):
                first = self._firsts[(self._preference + offset) % len(self._firsts)]
                if first not in self._claims and self._claim(first):
                    return IdMaps.of_range(first)
        except OSError as error:
            raise LaunchError(what, f"{_LOCKS}: {error.strerror}", 'set userns = "host"') from None
        raise LaunchError(
            what, f"all {len(self._firsts)} ranges are in use",
            f'give "{ACCOUNT}" more in /etc/subuid and /etc/subgid, or set userns = "host"',
        )  # fmt: skip

    def free(self, maps: IdMaps) -> None:
        """Give a range back; maps that are not from here are ignored."""
        first = maps.uid[0][1]
        if first not in self._claims:
            return
        self._claims.remove(first)
        _lock(self._locks, fcntl.F_UNLCK, first // RANGE, 1)
        if self._claims:
            return
        with contextlib.suppress(BlockingIOError):  # others have claims
            _lock(self._locks, fcntl.F_WRLCK, 0, 0)
            if _is_current(self._locks):
                os.unlink(_LOCKS)
        os.close(self._locks)

    def _claim(self, first: int) -> bool:
        while True:
            if not self._claims:
                self._locks = os.open(_LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _lock(self._locks, fcntl.F_WRLCK, first // RANGE, 1)
                if self._claims or _is_current(self._locks):
                    self._claims.add(first)
                    return True
            except BlockingIOError:
                if not self._claims:
                    os.close(self._locks)
                return False
            os.close(self._locks)  # whoever had the last claim has just removed it: make another


def _lock(fd: int, kind: int, first: int, count: int) -> None:
    """Lock bytes, or unlock them; a ``count`` of 0 is all from ``first`` on.

    :raises BlockingIOError: when another has locked one of them.
    """
    fcntl.fcntl(
        fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, first, count, 0)
    )  # struct flock


def _is_current(fd: int) -> bool:
    """Whether ``fd`` is open on the file that others find."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(_LOCKS))
    except FileNotFoundError:
        return False


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
