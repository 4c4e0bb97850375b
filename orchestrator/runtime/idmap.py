"""Maps of user and group ids, as the kernel has them: (inside, outside, count) each. Pure, standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

#: (first id inside, first id outside, how many), user_namespaces(7).
Extent = Sequence[int]
IdMap = Sequence[Extent]

#: Every id is itself. The last number there is, -1, is no id.
IDENTITY: IdMap = ((0, 0, (1 << 32) - 1),)


def outside(mapping: IdMap, number: int) -> int | None:
    """What ``number`` is on the other side; None when it is not mapped."""
    for first, other, count in mapping:
        if first <= number < first + count:
            return number - first + other
    return None


def render(mapping: IdMap) -> str:
    """The map as the kernel reads it from /proc/PID/uid_map."""
    return "".join(f"{first} {other} {count}\n" for first, other, count in mapping)


def for_owner(mapping: IdMap, user: int, owner: int) -> IdMap:
    """The map of a mount on which what the container's ``user`` makes belongs to ``owner`` on the disk.

    It leads from the disk's ids to the host's: ``user`` and ``owner`` change places, all others stay as they are.
    ``mapping`` is that of the container, which has ``user``.
    """
    swap = {user: owner, owner: user}
    result = []
    for first, other, count in mapping:
        end = first + count
        cuts = {first, end, *(cut for number in swap for cut in (number, number + 1) if first < cut < end)}
        for low, high in pairwise(sorted(cuts)):
            result.append((swap.get(low, low), other + low - first, high - low))
    return result
