"""Decides what the host's security modules hold each container to, and prepares the host for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from orchestrator.errors import LaunchError, SpawnerError
from orchestrator.ids import Instance
from orchestrator.launch.container import Container
from orchestrator.lsm import apparmor, host, relabel, selinux
from orchestrator.lsm.confinement import Confinement
from orchestrator.spec import HOST

#: Kinds of namespaces in which a process meets others' processes, memory and files.
_SHARED = ("pid", "ipc", "mnt")

RunHost = Callable[[Sequence[str], bytes], Awaitable[tuple[int, bytes, bytes]]]


class Confiner:
    """Labels and profiles of an instance's containers. No two of them have the same pair of categories."""

    def __init__(self, instance: Instance, run_host: RunHost) -> None:
        self._instance = instance
        self._run_host = run_host
        self._pairs: dict[str, selinux.Pair] = {}  # by container id
        self._loading: asyncio.Task[str] | None = None

    async def confine(self, container: Container) -> None:
        """Give a container its confinement; :meth:`release` must follow.

        :raises LaunchError: when it cannot be had, and the spec insists or orch's own domain is what is in the way.
        """
        labels, notes = self._labels(container)
        profile, note = await self._profile(container)
        container.confinement = Confinement(
            str(labels.process) if labels else "",
            str(labels.files) if labels else "",
            profile,
            "; ".join(filter(None, (notes, note))),
        )
        if labels:
            await self._label_files(container, labels.files)

    def follow(self, container: Container) -> None:
        """Take the level of the containers whose processes, memory or files it shares.

        They could not use what they share otherwise. A level of the manifest stays.
        """
        confinement = container.confinement
        levels = {
            selinux.Context.parse(neighbour.confinement.process).level
            for kind, neighbour in container.neighbours.items()
            if kind in _SHARED and neighbour.confinement.process
        }
        if not confinement.process or container.spec.selinux.level or not levels:
            return
        level = min(levels)
        process, files = (
            str(selinux.Context.parse(text)._replace(level=level))
            for text in (confinement.process, confinement.files)
        )
        container.confinement = replace(confinement, process=process, files=files)

    def release(self, container: Container) -> None:
        """The container is gone, or never came to be."""
        self._pairs.pop(container.id, None)

    def _labels(self, container: Container) -> tuple[selinux.Defaults | None, str]:
        """SELinux contexts, or why there are none."""
        wanted = container.spec.selinux
        if wanted.disable or not host.selinux_enabled():
            return None, ""
        if not wanted.insists and (
            shared := [kind for kind in _SHARED if getattr(container.spec, kind) == HOST]
        ):
            # As Docker and Podman have it: what the manifest asks for, a label would forbid.
            return None, f"no SELinux label, since it has the host's {' and '.join(shared)} namespace"
        base = host.selinux_defaults()
        if not wanted.insists and not host.knows(str(base.process)):
            return None, f"the SELinux policy has no {base.process.type}: install the one for containers"
        pair = selinux.allocate(f"{self._instance.id}/{container.name}", frozenset(self._pairs.values()))
        labels = selinux.labels(wanted, base, pair)
        own = host.own_context()
        if host.selinux_enforcing() and (denied := host.forbidden(own, str(labels.process), host.NEEDED)):
            raise LaunchError(
                f'cannot create "{container.name}"',
                f"SELinux does not let orch, as {own}, start programs as {labels.process} ({', '.join(denied)})",
                'run the orch service in a domain that may (see "SELinux" in the README), or set selinux = "disable"',
            )
        self._pairs[container.id] = pair
        return labels, ""

    async def _profile(self, container: Container) -> tuple[str, str]:
        """The AppArmor profile, or why there is none."""
        wanted = container.spec.apparmor
        if not host.apparmor_enabled():
            return "", ""
        if wanted not in (None, apparmor.DEFAULT_PROFILE):
            return wanted or "", ""
        if self._loading is None or (self._loading.done() and self._loading.result()):
            self._loading = asyncio.create_task(self._load())
        failure = await asyncio.shield(self._loading)
        if not failure:
            return apparmor.DEFAULT_PROFILE, ""
        if wanted:
            raise LaunchError(f'cannot create "{container.name}"', failure, "install apparmor")
        return "", failure

    async def _load(self) -> str:
        """See to it that the default profile is loaded; why it is not, or ``""``.

        One that is there already is the operator's, and stays.
        """
        if apparmor.DEFAULT_PROFILE in (host.apparmor_profiles() or ()):
            return ""
        what = f"AppArmor profile {apparmor.DEFAULT_PROFILE} cannot be loaded"
        if (parser := host.apparmor_parser()) is None:
            return f"{what}: there is no apparmor_parser"
        try:
            code, _, errors = await self._run_host(
                [parser, "--add", "--skip-cache"], await asyncio.to_thread(apparmor.default_text)
            )
        except SpawnerError as error:
            return f"{what}: {error.cause}"
        if code and apparmor.DEFAULT_PROFILE not in (
            host.apparmor_profiles() or ()
        ):  # another instance's did
            return f"{what}: {errors.decode('utf-8', 'replace').strip() or f'exit code {code}'}"
        return ""

    async def _label_files(self, container: Container, own: selinux.Context) -> None:
        """Label what the container mounts of the host's, where it is named volumes or asked for.

        :raises LaunchError: naming the file whose label cannot be changed.
        """
        common = str(selinux.shared(own))
        wanted = {}
        for path in container.volumes.values():
            # A volume that has the type already was labelled when it was new, and may be large.
            if f":{own.type}:" not in f"{relabel.current(path)}:":
                wanted[path] = common
        for mount in container.spec.mounts:
            if mount.relabel is None or mount.type == "tmpfs":
                continue
            path = container.volumes[mount.source] if mount.type == "volume" else mount.source
            if mount.type == "bind" and (reason := relabel.refusal(path)):
                raise LaunchError(f'cannot create "{container.name}"', reason)
            wanted[os.path.realpath(path)] = str(own) if mount.relabel == "private" else common
        try:
            await asyncio.to_thread(_label_all, wanted)
        except OSError as error:
            raise LaunchError(
                f'cannot create "{container.name}"', f"{error.filename}: no new SELinux label: {error.strerror}",
                "its file system must store labels; leave relabel (:z, :Z) out if it has a mount with context=",
            ) from None  # fmt: skip


def _label_all(wanted: dict[str, str]) -> None:
    for path, context in wanted.items():
        relabel.label(path, context)
