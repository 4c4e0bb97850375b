"""One container: its identity, and what it holds of the kernel's and the host's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from orchestrator.cgroups.group import Cgroup
from orchestrator.devices import Node
from orchestrator.ids import Instance, container_name
from orchestrator.images.resolve import Image
from orchestrator.lsm.confinement import UNCONFINED, Confinement
from orchestrator.network.model import Network, PublishedPort
from orchestrator.runtime.handle import Process
from orchestrator.runtime.program import Program
from orchestrator.runtime.rootfs import Layer
from orchestrator.runtime.seccomp.filters import Filter
from orchestrator.runtime.userns import IdMaps
from orchestrator.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The container's place on one network: interface ``eth<index>``, host's end ``veth``.

    :param ready: done when the network's rules are in force; until then nothing may join it.
    """

    network: Network
    address: IPv4Address
    index: int
    veth: str
    ready: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Container:
    """Everything that is made for one container and outlives a restart of its program."""

    id: str
    instance: Instance
    project: str
    replica: int
    spec: ServiceSpec
    image: Image
    cgroup: Cgroup
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    volumes: dict[str, str] = field(default_factory=dict)  # key in the project -> folder
    one_off: str = ""  # name of an ``orch run`` container
    #: Its user namespace's maps; None: it is in the host's, and why if the manifest says nothing.
    maps: IdMaps | None = None
    userns_reason: str = ""
    #: Kind of namespace -> the container that it shares its own with.
    neighbours: dict[str, Container] = field(default_factory=dict)
    #: Its running program; None, or one without a pidfd, when there is none.
    process: Process | None = None
    #: What security modules hold it to; the same for every restart and exec.
    confinement: Confinement = UNCONFINED
    #: Descriptor of its network namespace once it has one of its own; kept over restarts.
    netns: int = -1
    #: Whether its veths exist.
    attached: bool = False
    #: Hash of the hosts file that it has, and its resolv.conf.
    hosts: int = 0
    resolv_conf: str = ""
    #: Set when everything that its latest run wrote is in its log.
    log_closed: asyncio.Event | None = None
    #: The devices that its latest run was given.
    nodes: tuple[Node, ...] = ()
    #: The launch program of its latest start.
    program: Program | None = None
    #: The filter of system calls that its latest start loaded; None when it is unconfined.
    seccomp: Filter | None = None

    @property
    def name(self) -> str:
        """The name people see: ``shop-api-2``."""
        return self.one_off or container_name(self.project, self.spec.name, self.replica)

    @property
    def hostname(self) -> str:
        """What it calls itself; its id when the manifest says nothing, as Docker has it."""
        return self.spec.hostname or self.id

    @property
    def network_home(self) -> Container:
        """Whose network it is on: its own, or its neighbour's."""
        neighbour = self.neighbours.get("net")
        return neighbour.network_home if neighbour else self

    @property
    def directory(self) -> str:
        """Its folder of things that survive a reboot: writable layers."""
        return f"{self.instance.state_dir}/containers/{self.id}"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The image's lowers, each with this container's writable layer above it."""
        return tuple(
            Layer(
                lower.target,
                lower.folders,
                f"{self.directory}/upper{number}",
                f"{self.directory}/work{number}",
            )
            for number, lower in enumerate(self.image.lowers)
        )

    @property
    def hosts_file(self) -> str:
        """What it sees as /etc/hosts."""
        return f"{self.instance.run_dir}/hosts/{self.id}"

    @property
    def log_directory(self) -> str:
        """Where its log is written."""
        return f"{self.instance.state_dir}/logs/{self.project}/{self.name}"
