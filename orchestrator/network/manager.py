"""All networks of one instance: made, joined, published on, and removed without a trace."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from orchestrator.errors import ConflictError, KernelError
from orchestrator.ids import Instance, short_hash
from orchestrator.kernel import netlink
from orchestrator.network import forwarding, ipam, ports, rules
from orchestrator.network.links import Bridge, Links
from orchestrator.network.model import FIRST_PEER_INDEX, Network, PublishedPort, Runner, peer_name
from orchestrator.network.ruleset import Ruleset
from orchestrator.spec import NetworkSpec, Port


class NetworkManager:
    """Owns the bridges, the veths' host ends, and the nftables table of an instance.

    Every method may be called again after it was interrupted, by this process or its predecessor.

    :param run: runs ``nft``; see :data:`~orchestrator.network.model.Runner`.
    """

    def __init__(self, instance: Instance, run: Runner) -> None:
        self._instance = instance
        self._run = run
        self._links = Links()
        self._ruleset = Ruleset(instance.nft_table, run)
        self._networks: dict[str, Network] = {}  # by bridge
        self._making = asyncio.Lock()
        self._route: netlink.RouteSocket | None = None
        self._hairpin = False

    async def start(self) -> None:
        """Open the sockets, and see what an earlier service left in the nftables table.

        :raises OSError: when the sockets cannot be opened.
        """
        self._route = netlink.RouteSocket()
        self._hairpin = forwarding.bridge_filter()
        await self._links.open()
        await self._ruleset.observe()

    async def close(self) -> None:
        """Close the sockets; nothing in the kernel changes. Closing twice is fine."""
        if self._route is not None:
            self._route.close()
            self._route = None
        await self._links.close()

    async def create(
        self, project: str, spec: NetworkSpec, opened: Callable[[Network], None] = lambda _: None
    ) -> Network:
        """Make a network, or take over the one that exists.

        :param opened: called as soon as the network is known; containers may join it only when it is made.

        The rules come before the bridge is up, so that at no time a container has more reach than it should.

        :raises UsageError: when the manifest's subnet or gateway is malformed.
        :raises ConflictError: when the subnet overlaps another network, interface or route, or the network
            exists otherwise and has containers.
        :raises AddressPoolError: when there is no free subnet to choose.
        :raises KernelError: when the kernel or nft refuses.
        """
        async with self._making, forwarding.host_lock():
            name = self._instance.bridge(project, spec.name)
            existing = await self._links.bridge(name)
            address = await self._address(project, spec, name, existing)
            if existing is not None and existing.address not in (None, address):
                await self._make_room(spec.name, name, existing, address)
                existing = None
            group = interface_group(name)
            mtu = existing.mtu if existing is not None else await self._links.egress_mtu()
            index = await self._links.make_bridge(name, mtu, group)
            network = Network(
                project, spec.name, name, index, address.network, address.ip, spec.internal, group, mtu
            )
            opened(network)
            guard = "" if spec.internal else forwarding.guard_script()
            await self._ruleset.apply(
                lambda elements: rules.add_bridge(elements, name, address, internal=spec.internal),
                script=guard,
            )
            if guard:
                forwarding.turn_on()
            mac = ipam.mac_of(address.ip)
            await self._links.bring_up(name, index, address, mac, loopback=not spec.internal)
            self._networks[name] = network
            return network

    async def _address(
        self, project: str, spec: NetworkSpec, bridge: str, existing: Bridge | None
    ) -> IPv4Interface:
        """The gateway's address with its subnet: the manifest's, else the existing bridge's, else a free one."""
        if spec.subnet is None and existing is not None and existing.address is not None:
            gateway_text = spec.gateway or str(existing.address.ip)
            subnet, gateway = ipam.check_subnet(spec.name, str(existing.address.network), gateway_text)
            return IPv4Interface((gateway, subnet.prefixlen))
        occupied = await self._links.occupied(but=bridge)
        if spec.subnet is None:
            preference = int(short_hash(project, spec.name), 16)
            chosen = ipam.choose_subnet(spec.name, (network for _, network in occupied), preference)
            subnet, gateway = ipam.check_subnet(spec.name, str(chosen), spec.gateway)
        else:
            subnet, gateway = ipam.check_subnet(spec.name, spec.subnet, spec.gateway)
            self._refuse_overlap(spec.name, subnet, occupied)
        return IPv4Interface((gateway, subnet.prefixlen))

    def _refuse_overlap(
        self, network: str, subnet: IPv4Network, occupied: Iterable[tuple[str, IPv4Network]]
    ) -> None:
        for interface, other in occupied:
            if subnet.overlaps(other):
                owner = self._networks.get(interface)
                whose = (
                    f'network "{owner.name}" of project "{owner.project}"'
                    if owner
                    else f"interface {interface} of this host"
                )
                raise ConflictError(
                    f'cannot use subnet {subnet} for network "{network}"',
                    f"it overlaps {other}, which belongs to {whose}",
                    "choose another subnet, or leave it out and orch finds a free one",
                )

    async def _make_room(self, network: str, bridge: str, existing: Bridge, wanted: IPv4Interface) -> None:
        """Remove a bridge whose address has changed in the manifest."""
        if existing.ports:
            raise ConflictError(
                f'cannot change network "{network}" to {wanted}',
                f"it has {existing.address}, and {existing.ports} containers are on it",
                "stop them first: orch down",
            )
        await asyncio.to_thread(_delete, netlink.delete_link(bridge))

    async def remove(self, network: Network) -> None:
        """Remove a network and whatever is on it; one that is gone already is fine.

        :raises KernelError: when the kernel or nft refuses.
        """
        await self.discard(network.project, network.name)

    async def discard(self, project: str, name: str) -> None:
        """Remove a network of which only the names are known: one that an earlier service left, or half made.

        All its veths and its bridge go in one message, since each removal by itself would wait for a grace
        period of the kernel (10 to 20 ms); the rules go last.

        :raises KernelError: when the kernel or nft refuses.
        """
        bridge = self._instance.bridge(project, name)
        try:
            await asyncio.to_thread(_delete, netlink.delete_group(interface_group(bridge)))
        except OSError as error:
            raise _refused(f'cannot remove network "{name}"', error)
        self._networks.pop(bridge, None)
        if not await self.destroy():
            await self._ruleset.apply(lambda elements: rules.remove_bridge(elements, bridge))

    def attach(
        self, network: Network, veth_name: str, netns_fd: int, index: int, address: IPv4Address
    ) -> None:
        """Join a container to a network: one veth pair, both ends up (about 0.6 ms; once per container's life).

        A pair of that name that an interrupted attempt left is replaced.

        :param netns_fd: the container's network namespace, in which nothing is configured yet.
        :param index: which of the container's interfaces this is, from 0 (``eth0``).
        :raises ConflictError: when the bridge has no port left.
        :raises KernelError: when the kernel refuses.
        """
        if self._route is None:
            raise RuntimeError("the network manager has not been started")
        messages = netlink.new_veth(
            veth_name,
            bridge=network.ifindex,
            group=network.group,
            mtu=network.mtu,
            netns_fd=netns_fd,
            peer=peer_name(index),
            peer_index=FIRST_PEER_INDEX + index,
            peer_mac=ipam.mac_of(address),
            hairpin=self._hairpin,
        )
        try:
            try:
                self._route.request(*messages)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
                self._route.request(netlink.delete_link(veth_name))
                self._route.request(*messages)
        except OSError as error:
            what = f'cannot join {address} to network "{network.name}"'
            if error.errno != errno.EXFULL:
                raise _refused(what, error)
            raise ConflictError(
                what,
                f"its bridge has {ipam.BRIDGE_PORTS} containers, and the kernel allows no more",
                "use a second network, or fewer replicas",
            )

    async def detach(self, veth_name: str) -> None:
        """Remove one veth pair (20 ms or so, in a thread); one that is gone already is fine.

        :raises KernelError: when the kernel refuses.
        """
        try:
            await asyncio.to_thread(_delete, netlink.delete_link(veth_name))
        except OSError as error:
            raise _refused(f"cannot remove interface {veth_name}", error)

    def reserve(self, port: Port) -> socket.socket:
        """Hold a port of the host; see :func:`orchestrator.network.ports.reserve`."""
        return ports.reserve(port)

    async def publish(self, published: Sequence[PublishedPort]) -> None:
        """Lead ports of the host to containers; a port that led elsewhere is redirected.

        Calls made at the same time share one nft run.

        :raises KernelError: when nft refuses.
        """
        if published:
            await self._ruleset.apply(
                lambda elements: _each(rules.add_port, elements, published), _udp_ports(published)
            )

    async def unpublish(self, published: Sequence[PublishedPort]) -> None:
        """Stop leading ports to containers; those that lead elsewhere by now, or nowhere, are left alone.

        :raises KernelError: when nft refuses.
        """
        if published:
            await self._ruleset.apply(
                lambda elements: _each(rules.remove_port, elements, published), _udp_ports(published)
            )

    async def destroy(self) -> bool:
        """Remove the table when no network is left, and restore the host's IP forwarding if orch changed it.

        Whether no network is left.

        :raises KernelError: when the kernel or nft refuses.
        """
        async with self._making, forwarding.host_lock():
            interfaces = {name for _, name in socket.if_nameindex()}
            if any(bridge in interfaces for bridge in rules.bridges(self._ruleset.wanted)):
                return False
            restored = await forwarding.restore(self._run, self._ruleset.table)
            await self._ruleset.delete(*([forwarding.TABLE] if restored else []))
            return True

    async def forwarding_status(self) -> forwarding.ForwardingStatus:
        """How the host's IP forwarding stands, for ``doctor``.

        :raises KernelError: when nft refuses.
        """
        return await forwarding.status(self._run)

    async def stats(self, veth_names: Iterable[str]) -> dict[str, netlink.LinkBytes]:
        """Bytes that containers received and sent by each veth; names that do not exist are left out."""
        return await asyncio.to_thread(_stats, list(veth_names))


def interface_group(bridge: str) -> int:
    """The interface group of a network: 30 bits of hash, and the 31st set, far from the groups people choose."""
    return 1 << 30 | int(short_hash("group", bridge), 16) & ((1 << 30) - 1)


def _each(
    change: Callable[[rules.Elements, PublishedPort], None],
    elements: rules.Elements,
    published: Sequence[PublishedPort],
) -> None:
    for port in published:
        change(elements, port)


def _udp_ports(published: Sequence[PublishedPort]) -> set[int]:
    return {port.published for port in published if port.protocol == "udp"}


def _delete(message: netlink.Message) -> None:
    """Delete interfaces, on a socket of its own since it runs in a thread; what is gone already is fine."""
    with netlink.RouteSocket() as route:
        try:
            route.request(message)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _stats(veth_names: list[str]) -> dict[str, netlink.LinkBytes]:
    counted = {}
    with netlink.RouteSocket() as route:
        for name in veth_names:
            try:
                host_end = route.link_bytes(name)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
            else:  # what the host's end sends, the container receives
                counted[name] = netlink.LinkBytes(received=host_end.sent, sent=host_end.received)
    return counted


def _refused(what: str, error: OSError) -> KernelError:
    name = errno.errorcode.get(error.errno or 0, "error")
    return KernelError(what, f"{name}: {error.strerror}", errno=error.errno or 0)
