"""One project's live objects: its supervisors, networks and volumes, and the steps that change them.

A step does one thing and decides nothing; which steps are taken, and in which order, is the plan's.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import ParamSpec

import aiofiles
import anyio

from orchestrator.cgroups.group import Cgroup
from orchestrator.cgroups.host import CgroupHost
from orchestrator.errors import LaunchError, OrchError
from orchestrator.ids import Instance, container_name, new_container_id
from orchestrator.images.resolve import Image, resolve
from orchestrator.launch.container import Container, Endpoint
from orchestrator.launch.launcher import Launcher
from orchestrator.launch.stages import remove_tree
from orchestrator.ledger import Ledger
from orchestrator.logs.pump import LogPump
from orchestrator.network import hosts, ipam
from orchestrator.network.manager import NetworkManager
from orchestrator.network.model import Network, PublishedPort
from orchestrator.network.program import primary
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.runtime.handle import SpawnerHandle
from orchestrator.spec import NetworkSpec, Port, ProjectSpec, ServiceSpec
from orchestrator.supervise.supervisor import Listener, Supervisor

P = ParamSpec("P")


def _uninterrupted(step: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """A step that a command which is cut short carries through: half of it would be left to nobody."""

    @functools.wraps(step)
    async def run(*args: P.args, **options: P.kwargs) -> None:
        with anyio.CancelScope(shield=True):
            await step(*args, **options)

    return run


@dataclass(slots=True)
class Facilities:
    """What all projects of an instance share."""

    instance: Instance
    spawner: SpawnerHandle
    cgroups: CgroupHost
    networks: NetworkManager
    ledger: Ledger
    logs: LogPump
    launcher: Launcher

    @property
    def images_dir(self) -> str:
        """Where images are kept."""
        return f"{self.instance.state_dir}/images"


@dataclass(slots=True)
class _LiveNetwork:
    spec: NetworkSpec
    network: Network
    ready: asyncio.Future[None]
    addresses: dict[str, IPv4Address] = field(default_factory=dict)  # container name -> address


class Project:
    """A project that is up, or on its way up or down. All methods are called on the event loop."""

    def __init__(self, spec: ProjectSpec, facilities: Facilities, listener: Listener) -> None:
        self.name = spec.name
        #: What was asked for last.
        self.spec = spec
        self.created_at = time.time()
        self.supervisors: dict[str, Supervisor] = {}  # by container name
        self.networks: dict[str, _LiveNetwork] = {}
        self.volumes: set[str] = set()
        self._facilities = facilities
        self._listener = listener
        self._images: dict[str, asyncio.Task[Image]] = {}
        self._services: set[str] = set()  # that have, or had, a container: their cgroups outlive it
        self._reserved: dict[str, list[socket.socket]] = {}  # by container id
        self._host_files = _HostFiles()
        self._reading: asyncio.Task[_HostFiles] | None = None
        self._names: dict[frozenset[str] | None, str] = {}  # by networks; empty when it must be made anew

    # Observing

    @property
    def gone(self) -> bool:
        """Whether nothing of it is there but volumes."""
        return not self.supervisors and not self.networks

    def observe(self) -> ObservedProject:
        """What is there now, for the planner. One-off containers are not the planner's."""
        return ObservedProject(
            self.name,
            tuple(
                ObservedContainer(
                    id=supervisor.container.id,
                    name=supervisor.container.name,
                    service=supervisor.spec.name,
                    replica=supervisor.container.replica,
                    spec=supervisor.spec,
                    state=supervisor.state,
                    health=supervisor.health,
                    exit_code=supervisor.exit_code,
                )
                for supervisor in self.supervisors.values()
                if not supervisor.container.one_off
            ),
            {name: live.spec for name, live in self.networks.items()},
            frozenset(self.volumes),
        )

    @property
    def cgroup(self) -> Cgroup:
        """The group of all its containers' groups."""
        return self._facilities.cgroups.group(f"{self._facilities.instance.cgroup_parent}/{self.name}")

    # Networks and volumes

    @_uninterrupted
    async def create_network(self, spec: NetworkSpec, opened: Callable[[], None]) -> None:
        """Make a network. ``opened`` is called as soon as containers can be made for it.

        They are then started while its rules are made; only the last step, joining it, waits for them.
        """
        key = f"{self.name}/{spec.name}"
        ready = asyncio.get_running_loop().create_future()
        ready.add_done_callback(lambda future: future.exception())  # nobody needs to have waited for it

        def open_network(network: Network) -> None:
            self.networks[spec.name] = _LiveNetwork(spec, network, ready)
            opened()

        self._facilities.ledger.own(
            "network", key, bridge=self._facilities.instance.bridge(self.name, spec.name)
        )
        try:
            await self._facilities.networks.create(self.name, spec, open_network)
        except BaseException as error:
            ready.set_exception(error)
            self.networks.pop(spec.name, None)
            await self._facilities.networks.discard(self.name, spec.name)
            self._facilities.ledger.free("network", key)
            raise
        ready.set_result(None)

    @_uninterrupted
    async def remove_network(self, name: str) -> None:
        """Remove a network and whatever is left on it."""
        live = self.networks.pop(name)
        await self._facilities.networks.remove(live.network)
        self._facilities.ledger.free("network", f"{self.name}/{name}")

    def volume_path(self, name: str) -> str:
        """Where a volume's files are."""
        return f"{self._facilities.instance.state_dir}/volumes/{self.name}/{name}"

    def create_volume(self, name: str) -> None:
        """Make a volume; one that is there already is used as it is."""
        os.makedirs(self.volume_path(name), exist_ok=True)
        self.volumes.add(name)

    @_uninterrupted
    async def remove_volume(self, name: str) -> None:
        """Delete a volume and all that is in it."""
        path = self.volume_path(name)
        await asyncio.to_thread(remove_tree, path)
        self.volumes.discard(name)
        try:
            os.rmdir(os.path.dirname(path))
        except OSError:
            pass  # others are left

    def find_volumes(self) -> None:
        """Notice the volumes that an earlier life of the project left."""
        try:
            self.volumes |= set(os.listdir(os.path.dirname(self.volume_path("x"))))
        except FileNotFoundError:
            pass

    # Containers

    def assign_addresses(self, specs: Iterable[ServiceSpec]) -> None:
        """Give every container of these services its address on every network that exists; all keep theirs.

        :raises OrchError: when a network is full.
        """
        wanted: dict[str, list[str]] = {}
        for spec in specs:
            for attachment in spec.networks:
                names = (container_name(self.name, spec.name, number + 1) for number in range(spec.replicas))
                wanted.setdefault(attachment.network, []).extend(names)
        self._names.clear()
        for name, live in self.networks.items():
            kept = [container for container in live.addresses if container in self.supervisors]
            members = [*kept, *wanted.get(name, [])]
            live.addresses = ipam.allocate(
                name, live.network.subnet, live.network.gateway, live.addresses, members
            )

    async def create_container(self, spec: ServiceSpec, replica: int, one_off: str = "") -> Supervisor:
        """Make a container, pending; nothing of the kernel's is touched before it is started.

        :raises OrchError: when its image, volume or port is not to be had.
        """
        image = await self._resolve(spec.image)
        await self._read_host_files()
        container = Container(
            id=new_container_id(), instance=self._facilities.instance, project=self.name, replica=replica,
            spec=spec, image=image, cgroup=self.cgroup, one_off=one_off,
            volumes={m.source: self.volume_path(m.source) for m in spec.mounts if m.type == "volume"},
        )  # fmt: skip
        container.cgroup = self._facilities.cgroups.group(
            f"{self._facilities.instance.cgroup_parent}/{self.name}/{spec.name}/{one_off or replica}"
        )
        for mount in spec.mounts:
            if mount.type == "bind" and mount.create:
                os.makedirs(mount.source, exist_ok=True)
        self._place(container)
        container.ports = self._reserve(container, spec.ports)
        try:
            await self._facilities.launcher.choose_ids(container)
            await self._facilities.launcher.confine(container)
            self._facilities.launcher.prepare(
                container, self._hosts_of(container), self._resolv_conf(container)
            )
        except BaseException:
            self._release(container)
            raise
        supervisor = Supervisor(container, self._facilities.launcher, self._listener)
        self.supervisors[container.name] = supervisor
        self._services.add(spec.name)
        if container.confinement.note:
            self._listener(supervisor, "unconfined", container.confinement.note)
        return supervisor

    async def _resolve(self, reference: str) -> Image:
        """The image; looked up once for all containers that want it."""
        task = self._images.get(reference)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            work = asyncio.to_thread(resolve, reference, self._facilities.images_dir)
            self._images[reference] = task = asyncio.create_task(work)
        return await asyncio.shield(task)

    async def _read_host_files(self) -> None:
        """Know the host's own names; read once for all containers."""
        if self._reading is None:
            self._reading = asyncio.create_task(_HostFiles.read())
        self._host_files = await asyncio.shield(self._reading)

    def refresh(self) -> None:
        """Look at images and at the host's files anew from now on: they may have changed."""
        self._images.clear()
        self._reading = None

    async def publish(self, supervisor: Supervisor) -> None:
        """Let its published ports lead to it."""
        if supervisor.container.ports:
            await self._facilities.networks.publish(supervisor.container.ports)

    @_uninterrupted
    async def remove_containers(self, supervisors: list[Supervisor], with_networks: bool = False) -> None:
        """Take back everything of containers that have ended.

        :raises OrchError: after everything has been tried, naming all that failed.
        """
        containers = [supervisor.container for supervisor in supervisors]
        failures: list[Exception] = []
        ports = [port for container in containers for port in container.ports]
        if ports:
            try:
                await self._facilities.networks.unpublish(ports)
            except OrchError as error:
                failures.append(error)
        for container in containers:
            self._release(container)
        failures += await self._facilities.launcher.remove(containers, with_networks)
        for supervisor in supervisors:
            self.supervisors.pop(supervisor.container.name, None)
            self._listener(supervisor, "removed", "")
        if failures:
            names = ", ".join(container.name for container in containers)
            raise LaunchError(f"cannot remove all of {names}", "; ".join(map(str, failures)))

    async def tell_names(self) -> None:
        """Write the hosts files of containers anew whose neighbours' names have changed.

        :raises OSError: when one cannot be written.
        """
        texts = [(each.container, self._hosts_of(each.container)) for each in self.supervisors.values()]
        stale = [(container, text) for container, text in texts if hash(text) != container.hosts]
        if stale:
            await asyncio.to_thread(self._facilities.launcher.rewrite_hosts, stale)

    async def remove_cgroups(self) -> None:
        """Remove the project's own, empty, cgroups."""
        await asyncio.to_thread(self._remove_cgroups, sorted(self._services))
        self._facilities.launcher.forget_cgroups(self.cgroup.path)

    async def remove_logs(self) -> None:
        """Delete what its containers wrote, once all of it has been written."""
        await asyncio.to_thread(remove_tree, f"{self._facilities.instance.state_dir}/logs/{self.name}")

    def _remove_cgroups(self, services: list[str]) -> None:
        base = self.cgroup.path
        for path in (*(f"{base}/{service}" for service in services), base):
            self._facilities.cgroups.group(path).remove_if_empty()

    def _place(self, container: Container) -> None:
        endpoints = []
        for index, attachment in enumerate(container.spec.networks):
            live = self.networks[attachment.network]
            if container.name not in live.addresses:
                names = [*live.addresses, container.name]
                live.addresses = ipam.allocate(
                    attachment.network, live.network.subnet, live.network.gateway, live.addresses, names
                )
            veth = container.instance.veth(container.id, index)
            endpoints.append(Endpoint(live.network, live.addresses[container.name], index, veth, live.ready))
        container.endpoints = tuple(endpoints)

    def _reserve(self, container: Container, ports: tuple[Port, ...]) -> tuple[PublishedPort, ...]:
        published: list[PublishedPort] = []
        held = self._reserved.setdefault(container.id, [])
        try:
            for port in ports:
                sock = self._facilities.networks.reserve(port)
                held.append(sock)
                way_in = primary([endpoint.network for endpoint in container.endpoints])
                endpoint = container.endpoints[way_in or 0]
                published.append(PublishedPort.of(port, sock.getsockname()[1], endpoint.address))
        except BaseException:
            self._release(container)
            raise
        return tuple(published)

    def _release(self, container: Container) -> None:
        for sock in self._reserved.pop(container.id, []):
            sock.close()
        if container.one_off:
            for live in self.networks.values():
                live.addresses.pop(container.name, None)

    def _hosts_of(self, container: Container) -> str:
        home = self._network_home(container)
        host_mode = home.spec.network_mode == "host"
        base = self._host_files.hosts if host_mode else hosts.LOCALHOST
        own = hosts.Member(
            container.name, container.spec.name, container.replica, container.hostname,
            {endpoint.network.name: endpoint.address for endpoint in home.endpoints},
        )  # fmt: skip
        networks = None if host_mode else frozenset(own.addresses)
        if networks not in self._names:
            self._names[networks] = hosts.render_names(self._members(), networks)
        return hosts.render_own(own, base=base, host_mode=host_mode) + self._names[networks]

    def _network_home(self, container: Container) -> Container:
        """Whose network it is on, as far as that is a container of this project."""
        sharing = container.spec.shared.get("net")
        if sharing is None:
            return container
        number = container.replica if sharing.kind == "service" else 0
        names = (container_name(self.name, sharing.name, number), container_name(self.name, sharing.name, 1))
        for name in (*names, sharing.name):
            if (supervisor := self.supervisors.get(name)) and supervisor.container is not container:
                return self._network_home(supervisor.container)
        return container

    def _members(self) -> list[hosts.Member]:
        """Every container that the project has or will have, by its names."""
        members = []
        for spec in self.spec.services.values():
            aliases = {attachment.network: attachment.aliases for attachment in spec.networks}
            for number in range(1, spec.replicas + 1):
                name = container_name(self.name, spec.name, number)
                addresses = {
                    network: self.networks[network].addresses[name]
                    for network in aliases
                    if network in self.networks and name in self.networks[network].addresses
                }
                if addresses:
                    members.append(hosts.Member(name, spec.name, number, name, addresses, aliases))
        return members

    def _resolv_conf(self, container: Container) -> str:
        home = self._network_home(container)
        if home.spec.network_mode == "host":
            return self._host_files.resolv_conf
        return hosts.render_resolv_conf(
            self._host_files.resolv_conf, self._host_files.upstream,
            egress=any(not endpoint.network.internal for endpoint in home.endpoints),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _HostFiles:
    """The host's own answers to what a name means, as they are when a project comes up."""

    hosts: str = hosts.LOCALHOST
    resolv_conf: str = ""
    upstream: str | None = None

    @classmethod
    async def read(cls) -> _HostFiles:
        """Read them; what is missing counts as empty."""
        paths = ("/etc/hosts", "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
        texts = [await _read(path) for path in paths]
        return cls(texts[0] or hosts.LOCALHOST, texts[1] or "", texts[2])


async def _read(path: str) -> str | None:
    try:
        async with aiofiles.open(path, encoding="utf-8", errors="replace") as file:
            return await file.read()
    except OSError:
        return None
