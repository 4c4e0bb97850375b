"""The stages of a launch. Each prepares on the host, contributes to the launch program, and takes back.

``remove`` is safe without, and after, ``prepare``: a sweep calls it for things that were half made.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import glob
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator import capabilities, devices
from orchestrator.cgroups.devices import rules
from orchestrator.cgroups.group import Cgroup
from orchestrator.errors import LaunchError
from orchestrator.kernel.operations import Operation, perform
from orchestrator.launch.container import Container
from orchestrator.lsm import relabel
from orchestrator.network.manager import NetworkManager
from orchestrator.network.program import compile_network
from orchestrator.runtime.program import CgroupPart, NetworkPart, RootfsPart
from orchestrator.runtime.rootfs import MASKED_OF_CPUS, Bind, cgroup_mounts
from orchestrator.spec import Resources, ServiceSpec

#: Seconds that killed processes may take to be gone.
_DYING = 5.0


class CgroupStage:
    """The container's cgroup: limits, accounting, and the handle that kills it whole."""

    name = "cgroup"

    def __init__(self) -> None:
        #: What has been done for parents, by file or folder: no start needs to do it again.
        self._done: dict[str, Operation] = {}
        #: Path of a cgroup -> limits, of the containers that claim memory for themselves.
        self._claims: dict[str, Resources] = {}

    def contribute(self, container: Container) -> CgroupPart:
        """What spawner and child do to be born in it.

        The parents' part is left to them as well: it is idempotent, and children work side by side while the
        service has only one thread.
        """
        cgroup, resources = container.cgroup, container.spec.resources
        allowed = self.device_rules(container, container.spec)
        parents = self.parents(cgroup, container.spec)
        unified = cgroup.directories.get("unified", "").removesuffix(cgroup.path)
        early = [operation for operation in parents if unified and operation[1].startswith(unified)]
        late = [operation for operation in parents if operation not in early]
        return CgroupPart(
            prepare=early + cgroup.compile_prepare(resources, rules=allowed),
            enter=late + cgroup.compile_enter(resources, rules=allowed),
            clone_into=cgroup.clone_into,
        )

    def parents(self, cgroup: Cgroup, spec: ServiceSpec) -> list[Operation]:
        """What is still to be done for the levels above a container's cgroup."""
        operations = cgroup.compile_parents(spec.resources, spec.replicas)
        return [operation for operation in operations if self._done.get(operation[1]) != operation]

    def device_rules(self, container: Container, spec: ServiceSpec) -> list[str]:
        """The devices that it may use."""
        held = capabilities.granted(spec.cap_add, spec.cap_drop)
        return rules(container.nodes, spec.device_cgroup_rules, "MKNOD" in held)

    def entered(self, container: Container) -> None:
        """A container was born in its cgroup, so all its parents are as they should be."""
        parents = container.cgroup.compile_parents(container.spec.resources, container.spec.replicas)
        self._done |= {operation[1]: operation for operation in parents}
        self.protect(container.cgroup, container.spec.resources)

    def protect(self, cgroup: Cgroup, resources: Resources) -> None:
        """Let the levels above know what a container claims of memory, or that it claims nothing any more.

        :raises OSError: when a level refuses.
        """
        if resources.memory_low or resources.memory_min:
            self._claims[cgroup.path] = resources
        elif self._claims.pop(cgroup.path, None) is None:
            return
        perform(cgroup.compile_protection(self._claims))

    def forget(self, path: str) -> None:
        """The cgroup ``path`` and all beneath it have been removed."""
        self._done = {file: done for file, done in self._done.items() if f"/{path}/" not in f"{file}/"}

    async def remove(self, container: Container) -> None:
        """Kill whatever is left in it, and remove it.

        :raises KernelError: naming what cannot be removed.
        """
        await asyncio.to_thread(kill_and_remove, container.cgroup)
        self.protect(container.cgroup, Resources())


def kill_and_remove(cgroup: Cgroup) -> None:
    """Kill whatever is in a cgroup, wait for its end, and remove it.

    :raises KernelError: naming what cannot be removed.
    """
    if cgroup.populated():
        cgroup.kill()
        deadline = time.monotonic() + _DYING
        while cgroup.populated() and time.monotonic() < deadline:
            time.sleep(0.001)
    cgroup.remove()


class RootfsStage:
    """The writable layers, and the files and folders of the host that the container sees."""

    name = "rootfs"

    def __init__(self) -> None:
        self._masked_cpus = tuple(glob.glob(MASKED_OF_CPUS))

    def prepare(self, container: Container, hosts: str, resolv_conf: str) -> None:
        """Write its hosts file, the one thing that the service may change while the container runs."""
        container.hosts, container.resolv_conf = hash(hosts), resolv_conf
        with open(container.hosts_file, "w", encoding="utf-8") as file:
            file.write(hosts)
        if container.confinement.files:
            relabel.label(container.hosts_file, container.confinement.files)

    async def find_devices(self, container: Container) -> None:
        """Look at the host's devices that it is given, as they are now; in a thread, if there are any.

        :raises LaunchError: when one is not there.
        """
        if not container.spec.devices:
            container.nodes = ()
            return
        what = f'cannot start "{container.name}"'
        try:
            container.nodes = await asyncio.to_thread(
                lambda: tuple(node for each in container.spec.devices for node in devices.find(each))
            )
        except ValueError as error:
            raise LaunchError(what, f"devices: {error}") from None
        except OSError as error:
            cause = f"device {error.filename}: {errno.errorcode.get(error.errno or 0)}: {error.strerror}"
            raise LaunchError(what, cause, "load the driver that makes it, or leave it out") from None

    def rewrite_hosts(self, container: Container, hosts: str) -> None:
        """Change the names the container knows, while it runs: the file stays the same file."""
        container.hosts = hash(hosts)
        with open(container.hosts_file, "r+", encoding="utf-8") as file:
            file.write(hosts)
            file.truncate()

    def contribute(self, container: Container) -> RootfsPart:
        """What the child makes and mounts."""
        spec = container.spec
        targets = {mount.target.rstrip("/") for mount in spec.mounts}
        targets |= {grant.target for grant in (*spec.secrets, *spec.configs)}
        own = {"/etc/hostname": container.hostname + "\n", "/etc/resolv.conf": container.resolv_conf}
        binds = []
        if "/etc/hosts" not in targets:
            binds.append(Bind(container.hosts_file, "/etc/hosts", spec.read_only, idmapped=False))
        for mount in spec.mounts:
            if mount.type == "tmpfs":
                continue
            fill = mount.type == "volume" and not (mount.nocopy or mount.read_only)
            source = container.volumes[mount.source] if mount.type == "volume" else mount.source
            binds.append(
                Bind(
                    source, mount.target, mount.read_only, owner=mount.owner, propagation=mount.propagation,
                    subpath=mount.subpath, fill=fill,
                )
            )  # fmt: skip
        return RootfsPart(
            root=f"{container.instance.state_dir}/root",
            directory=container.directory,
            layers=container.layers,
            binds=tuple(binds),
            files={target: text for target, text in own.items() if target not in targets},
            nodes=container.nodes,
            cgroups=cgroup_mounts(container.cgroup.folders),
            masked_cpus=self._masked_cpus,
        )

    async def remove(self, container: Container) -> None:
        """Delete the writable layers and the hosts file."""
        await asyncio.to_thread(self._remove, container)

    def _remove(self, container: Container) -> None:
        remove_tree(container.directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(container.hosts_file)


def remove_tree(path: str) -> None:
    """Delete a folder and all in it; one that is not there is fine.

    :raises OSError: when something in it cannot be deleted.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise


class NetworkStage:
    """The network namespace and its veths. Both are kept over restarts, and go when the container goes."""

    name = "network"

    def __init__(self, manager: NetworkManager) -> None:
        self._manager = manager
        self._thread = ThreadPoolExecutor(1, "network")

    def contribute(self, container: Container) -> NetworkPart:
        """What the child does in the namespace; on a restart, or in a neighbour's, it only joins it.

        :raises LaunchError: when there is no such network.
        """
        home = container.network_home
        if home.spec.network_mode == "host":
            return NetworkPart(new=False)
        if home.netns >= 0:
            return NetworkPart(new=False, existing=True)
        if home is not container:
            raise LaunchError(
                f'cannot start "{container.name}"', f'the network of "{home.name}" that it shares is not there',
                f"start {home.name} first",
            )  # fmt: skip
        attachments = [(endpoint.network, endpoint.address) for endpoint in container.endpoints]
        configure = compile_network("none" if not attachments else "bridge", attachments)
        return NetworkPart(new=True, wait=bool(attachments), configure=configure)

    async def attach(self, container: Container) -> None:
        """Make the veths into the namespace ``container.netns``.

        :raises OrchError: when a network cannot be made after all, or not be joined.

        In a thread, one container after the other: while the kernel makes and destroys namespaces it holds
        the lock that this needs for milliseconds.
        """
        container.attached = True
        for endpoint in container.endpoints:
            await asyncio.shield(endpoint.ready)
            await asyncio.get_running_loop().run_in_executor(
                self._thread, self._manager.attach,
                endpoint.network, endpoint.veth, container.netns, endpoint.index, endpoint.address,
            )  # fmt: skip

    async def remove(self, containers: Sequence[Container], with_networks: bool) -> None:
        """Let the namespaces go; ``with_networks``: their networks go next, and take the veths with them."""
        for container in containers:
            if container.netns >= 0:
                os.close(container.netns)
                container.netns = -1
            if container.attached and not with_networks:
                for endpoint in container.endpoints:
                    await self._manager.detach(endpoint.veth)
            container.attached = False
