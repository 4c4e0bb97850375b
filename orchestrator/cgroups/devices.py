"""The devices that a container may use: pure.

Nothing is allowed that is not listed. The default is the OCI runtime specification's (config-linux.md, "Default
Devices"): what every container has in its /dev. /dev/console is not among them, for no container has one.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.devices import Node
from orchestrator.kernel.devices import merge

#: With ``m``, since the container's first process makes these nodes itself, under its rules.
DEFAULT = (
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:2 rw",  # ptmx, which devpts makes
    "c 136:* rw",  # its pseudoterminals
)
#: For containers with CAP_MKNOD: to make any node. Docker and runc allow it to all, which matters only to them.
_MAKE_ANY = ("c *:* m", "b *:* m")


def rules(nodes: Iterable[Node], further: Iterable[str], mknod: bool) -> list[str]:
    """The rules of a container (see :mod:`orchestrator.kernel.devices`), each device once.

    :param nodes: the devices that it is given.
    :param further: rules of the manifest (``device_cgroup_rules``).
    :param mknod: whether it holds CAP_MKNOD.
    """
    lines = [*DEFAULT, *(node.rule for node in nodes), *further, *(_MAKE_ANY if mknod else ())]
    return [f"{devices} {access}" for devices, access in merge(lines).items()]
