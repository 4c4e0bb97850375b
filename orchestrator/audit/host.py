"""What is behind the host's paths that a spec names. Reads the host's file system: call it off the event loop."""

from __future__ import annotations

import os
import stat

from orchestrator.audit.subject import HostPaths
from orchestrator.spec import ServiceSpec


def look(spec: ServiceSpec) -> HostPaths:
    """The binds' sources, and the image's folder. What is not there is taken as it is written."""
    paths = [mount.source for mount in spec.mounts if mount.type == "bind"]
    if spec.image.startswith("dir:"):
        paths.append(spec.image.removeprefix("dir:"))
    real = {path: os.path.realpath(path) for path in paths}
    return HostPaths(
        {path: other for path, other in real.items() if other != path}, frozenset(filter(_is_socket, paths))
    )


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
