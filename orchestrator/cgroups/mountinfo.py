"""Which cgroup hierarchies are mounted where: a pure reading of /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

#: v1 controllers that orch has a use for; a hierarchy of others (``net_cls``, ``name=systemd``) is left alone.
V1_CONTROLLERS = frozenset(
    {"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "freezer", "devices"}
)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class CgroupMounts:
    """:param v1: controller -> mount point; co-mounted controllers (``cpu,cpuacct``) have the same one.

    :param unified: mount point of the v2 hierarchy.
    :param read_only: mount points that were passed over because they cannot be written.
    """

    v1: dict[str, str] = field(default_factory=dict)
    unified: str | None = None
    read_only: tuple[str, ...] = ()


def parse(mountinfo: str) -> CgroupMounts:
    """The mounts to use. Of several mounts of one hierarchy, one that shows its root is best, else the first."""
    visible: dict[str, tuple[str, str, str, frozenset[str]]] = {}
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        columns, kind = left.split(" "), right.split(" ")
        if not separator or len(columns) < 6 or len(kind) < 3:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), columns[4])
        # A later mount on the same point hides the earlier one.
        visible[point] = (kind[0], columns[3], columns[5], frozenset(kind[2].split(",")))
    best: dict[str, tuple[bool, str]] = {}
    read_only = []
    for point, (kind_name, root, options, super_options) in visible.items():
        if kind_name == "cgroup2":
            names = {"unified"}
        elif kind_name == "cgroup":
            names = set(super_options & V1_CONTROLLERS)
        else:
            continue
        if "ro" in options.split(",") or "ro" in super_options:
            read_only += [point] if names else []
            continue
        for name in names:
            if name not in best or (root == "/" and not best[name][0]):
                best[name] = (root == "/", point)
    points = {name: point for name, (_, point) in best.items()}
    unified = points.pop("unified", None)
    return CgroupMounts(dict(sorted(points.items())), unified, tuple(read_only))
