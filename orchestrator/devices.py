"""Device nodes of the host: what one entry of ``devices`` stands for. Reads names and numbers, opens nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.spec import Device

_DEV = "/dev"


@dataclass(frozen=True, slots=True)
class Node:
    """One device as a container gets it.

    :param target: where its node is in the container.
    :param mode: permission bits; they and ``uid`` and ``gid`` are those of the host's node.
    :param permissions: what may be done with it, of ``rwm``.
    """

    target: str
    kind: Literal["b", "c"]
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    permissions: str

    @property
    def number(self) -> str:
        """``c 10:229``."""
        return f"{self.kind} {self.major}:{self.minor}"

    @property
    def rule(self) -> str:
        """The rule that lets a container use it.

        It always allows to make the node, since the container's own first process makes it, under its rules.
        Who may make another one gains nothing: reading and writing are ruled whatever the node is called.
        """
        return f"{self.number} {''.join(letter for letter in 'rw' if letter in self.permissions)}m"


def find(device: Device) -> tuple[Node, ...]:
    """The node that ``device`` names or, if it names a folder, all nodes in it and its folders (no links).

    :raises OSError: there is no such file.
    :raises ValueError: it is no device, or a folder that holds none or may not be given; with the remedy.
    """
    info = os.stat(device.source)
    if not stat.S_ISDIR(info.st_mode):
        node = _node(device, device.target, info)
        if node is None:
            raise ValueError(f'"{device.source}" is not a device (mount a file or folder with volumes)')
        return (node,)
    if not os.path.realpath(device.source).startswith(_DEV + "/"):
        raise ValueError(
            f'"{device.source}" would give every device of the host (name those that are needed)'
            if os.path.realpath(device.source) == _DEV
            else f'"{device.source}" is a folder outside of /dev (mount it with volumes, or name a device)'
        )
    nodes = tuple(_within(device))
    if not nodes:
        raise ValueError(f'"{device.source}" is a folder without devices (name a device)')
    return nodes


def _within(device: Device) -> Iterator[Node]:
    for folder, folders, names in os.walk(device.source):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            target = device.target + path.removeprefix(device.source)
            node = _node(device, target, os.lstat(path))
            if node is not None:
                yield node


def _node(device: Device, target: str, info: os.stat_result) -> Node | None:
    kind: Literal["b", "c"] | None = (
        "b" if stat.S_ISBLK(info.st_mode) else "c" if stat.S_ISCHR(info.st_mode) else None
    )
    if kind is None:
        return None
    return Node(
        target=target,
        kind=kind,
        major=os.major(info.st_rdev),
        minor=os.minor(info.st_rdev),
        mode=stat.S_IMODE(info.st_mode) & 0o777,
        uid=info.st_uid,
        gid=info.st_gid,
        permissions=device.permissions,
    )
