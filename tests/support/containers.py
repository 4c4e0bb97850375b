"""A network manager and stand-ins for containers: namespaces that are attached and configured like one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

from orchestrator.ids import Instance, new_container_id
from orchestrator.kernel import operations
from orchestrator.network import ipam
from orchestrator.network.manager import NetworkManager
from orchestrator.network.model import Network, PublishedPort
from orchestrator.network.program import compile_network
from orchestrator.spec import NetworkSpec
from support.netns import Namespace, serve_tcp, serve_udp


async def run_program(argv: Sequence[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Run a program as the service's runner does."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate(stdin)
    return process.returncode or 0, output, errors


@asynccontextmanager
async def manager_of(folder: Path) -> AsyncIterator[NetworkManager]:
    """A started manager of the instance in ``folder``; another for the same folder is its successor."""
    manager = NetworkManager(Instance(str(folder), str(folder / "run")), run_program)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.close()


class Stand:
    """A namespace with an address on each of its networks."""

    def __init__(self, namespace: Namespace, addresses: list[IPv4Address], veths: list[str]) -> None:
        self.namespace = namespace
        self.addresses = addresses
        self.veths = veths

    @property
    def address(self) -> str:
        """On the first network."""
        return str(self.addresses[0])

    def tcp(self) -> socket.socket:
        """A TCP socket inside."""
        return self.namespace.socket(socket.SOCK_STREAM)

    def udp(self) -> socket.socket:
        """A UDP socket inside."""
        return self.namespace.socket(socket.SOCK_DGRAM)


class World:
    """Networks and containers of one instance, all of which :func:`world` takes away in the end."""

    def __init__(self, manager: NetworkManager, stack: AsyncExitStack, folder: Path) -> None:
        self.manager = manager
        self._stack = stack
        self._instance = Instance(str(folder), str(folder / "run"))
        self._allocated: dict[str, dict[str, IPv4Address]] = {}

    async def network(
        self, name: str = "default", *, internal: bool = False, subnet: str | None = None
    ) -> Network:
        """A network of project ``test``."""
        spec = NetworkSpec(name=name, internal=internal, subnet=subnet)
        network = await self.manager.create("test", spec)
        self._stack.push_async_callback(self.manager.remove, network)
        return network

    def namespace(self) -> Namespace:
        """An empty namespace."""
        namespace = Namespace()
        self._stack.callback(namespace.close)
        return namespace

    def container(self, *networks: Network) -> Stand:
        """A container on these networks."""
        namespace = self.namespace()
        name = new_container_id()
        addresses, veths = [], []
        for index, network in enumerate(networks):
            allocated = self._allocated.setdefault(network.bridge, {})
            allocated |= ipam.allocate(
                network.name, network.subnet, network.gateway, allocated, [*allocated, name]
            )
            veths.append(self._instance.veth(name, index))
            self.manager.attach(network, veths[-1], namespace.fd, index, allocated[name])
            addresses.append(allocated[name])
        program = compile_network("bridge", list(zip(networks, addresses, strict=True)))
        namespace.call(lambda: operations.perform(program))
        return Stand(namespace, addresses, veths)

    async def serve(self, stand: Stand, port: int, text: str, *, udp: bool = False) -> None:
        """Let a container answer on a port of all its addresses."""
        if udp:
            transport = await serve_udp(stand.udp(), "0.0.0.0", port, text)
            self._stack.callback(transport.close)
        else:
            server = await serve_tcp(stand.tcp(), "0.0.0.0", port, text)
            self._stack.callback(server.close)

    async def publish(
        self, stand: Stand, target: int, published: int, host_ip: str = "127.0.0.1", *, udp: bool = False
    ) -> PublishedPort:
        """Publish a container's port."""
        port = PublishedPort(
            "udp" if udp else "tcp", IPv4Address(host_ip), published, stand.addresses[0], target
        )
        await self.manager.publish([port])
        self._stack.push_async_callback(self.manager.unpublish, [port])
        return port


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """An instance whose networks can be used, and which is gone afterwards."""
    async with manager_of(folder) as manager:
        try:
            async with AsyncExitStack() as stack:
                yield World(manager, stack, folder)
        finally:
            await manager.destroy()
