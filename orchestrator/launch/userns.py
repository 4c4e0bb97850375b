"""Which ids a container gets: a range of its own wherever its file systems can be mounted with them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from orchestrator.errors import LaunchError
from orchestrator.kernel.syscalls import CLONE_NEWNS
from orchestrator.launch.container import Container
from orchestrator.runtime.handle import ProgramFailed, SpawnerHandle
from orchestrator.runtime.idmap import render
from orchestrator.runtime.program import Program
from orchestrator.runtime.userns import IdMaps, RangeAllocator
from orchestrator.spec import PRIVATE, IdMapping

#: Overlays take idmapped layers from Linux 5.19 on (its commit bc70682a497c).
_OVERLAY_SINCE = (5, 19)


class UserNamespaces:
    """Decides about user namespaces, and gives out ranges of ids."""

    def __init__(self, spawner: SpawnerHandle, preference: int) -> None:
        self._spawner = spawner
        self._ranges = RangeAllocator(preference)
        #: Folders and files that have been seen to take an idmapped mount.
        self._seen: set[str] = set()

    async def choose(self, container: Container) -> None:
        """Set the container's maps, and why it has none if the manifest does not say so.

        :raises LaunchError: when the manifest asks for a user namespace that cannot be.
        """
        wanted = container.spec.userns
        if wanted.mode == "host" or container.spec.shared or container.spec.mnt != PRIVATE:
            return
        problem = await self._problem(container)
        if problem and wanted.mode == "default":
            container.userns_reason = problem
        elif problem:
            raise LaunchError(
                f'cannot give "{container.name}" a user namespace', problem, 'set userns = "host", or move it'
            )
        elif wanted.mode == "maps":
            container.maps = IdMaps(_extents(wanted.uid), _extents(wanted.gid))
        else:
            container.maps = self._ranges.allocate()

    def free(self, container: Container) -> None:
        """Give its range back."""
        if container.maps and not container.neighbours:
            self._ranges.free(container.maps)

    async def _problem(self, container: Container) -> str:
        """Why its files cannot be mounted with other ids; "" when they can."""
        release = os.uname().release
        if tuple(int(part) for part in release.split("-")[0].split(".")[:2]) < _OVERLAY_SINCE:
            return f"Linux {release} cannot make an overlay of idmapped layers (5.19 can)"
        if any(mount.propagation == "shared" for mount in container.spec.mounts):
            return 'no mount propagates out of a user namespace, and a volume has propagation "shared"'
        layers = [folder for lower in container.image.lowers for folder in lower.folders]
        layers.append(os.path.dirname(container.directory))
        mounts = [
            container.volumes[mount.source] if mount.type == "volume" else mount.source
            for mount in container.spec.mounts
            if mount.type != "tmpfs"
        ]
        wanted = [(path, False) for path in layers] + [(path, True) for path in mounts]
        return await self._try([each for each in dict.fromkeys(wanted) if each[0] not in self._seen])

    async def _try(self, paths: Iterable[tuple[str, bool]]) -> str:
        """Let a child try it, in a mount namespace of its own; (path, with all that is mounted beneath it)."""
        operations: list[list[object]] = [
            ["open-tree", f"try{number}", path, recursive, False, "private", "", "container"]
            for number, (path, recursive) in enumerate(paths)
        ]
        if not operations:
            return ""
        maps = [render(each) for each in IdMaps.of_range(1 << 16)]
        process = self._spawner.launch(
            Program(
                flags=CLONE_NEWNS,
                cgroup=None,
                prepare=[],
                operations=[
                    ["namespaces", [], maps, "", False],
                    ["private-mounts"],
                    *operations,
                    ["tidy"],
                    ["exit"],
                ],
                give=[],
            )
        )
        try:
            await process.started()
        except ProgramFailed as failure:
            return _explain(failure)
        finally:
            await process.exited()
            process.close()
        self._seen |= {str(path) for _, _, path, *_ in operations}
        return ""


def _explain(failure: ProgramFailed) -> str:
    operation = failure.operation or [""]
    reason = errno.errorcode.get(failure.errno, "") or failure.text
    if operation[0] == "open-tree":
        if failure.errno == errno.EINVAL:
            return f"{operation[2]}: its file system, or one mounted beneath it, cannot be mounted with other ids"
        return f"{operation[2]}: {reason}: {failure.text}"
    if failure.errno in (errno.ENOSPC, errno.EPERM):
        return f"this host allows no user namespace: {reason} (see /proc/sys/user/max_user_namespaces)"
    return f"cannot make a user namespace: {reason}: {failure.text}"


def _extents(mappings: Iterable[IdMapping]) -> tuple[tuple[int, int, int], ...]:
    return tuple((each.inside, each.outside, each.count) for each in mappings)
