"""What is behind the host's paths that a spec names. Reads the host's file system: call it off the event loop."""

from __future__ import annotations

import os
import stat

from orchestrator import devices
from orchestrator.audit.subject import HostPaths
from orchestrator.devices import Node
from orchestrator.spec import Device, ServiceSpec


def look(spec: ServiceSpec) -> HostPaths:
    """The binds' sources, the image's folder and the devices. What is not there is taken as it is written."""
    paths = [mount.source for mount in spec.mounts if mount.type == "bind"]
    if spec.image.startswith("dir:"):
        paths.append(spec.image.removeprefix("dir:"))
    real = {path: os.path.realpath(path) for path in paths}
    return HostPaths(
        {path: other for path, other in real.items() if other != path},
        frozenset(filter(_is_socket, paths)),
        {device.source: _nodes(device) for device in spec.devices},
    )


def _nodes(device: Device) -> tuple[Node, ...]:
    try:
        return devices.find(device)
    except (OSError, ValueError):
        return ()


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
