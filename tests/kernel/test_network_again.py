"""Everything may be done again: after a kill at any point, and by the next service."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from orchestrator.errors import ConflictError, UsageError
from orchestrator.ids import Instance
from orchestrator.network import forwarding
from orchestrator.network.links import Links
from orchestrator.network.manager import interface_group
from orchestrator.spec import NetworkSpec
from support.containers import World, manager_of, run_program, world
from support.netns import ask_tcp, ip

pytestmark = pytest.mark.requires("root", "netns", "nft", "ip")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def instance_of(folder: Path) -> Instance:
    return Instance(str(folder), str(folder / "run"))


async def ask_host(port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        return await ask_tcp(sock, "127.0.0.1", port)


async def test_creating_again_gives_the_same_network(place: World, tmp_path: Path) -> None:
    network = await place.network()
    assert await place.network() == network
    async with manager_of(tmp_path) as successor:
        assert await successor.create("test", NetworkSpec(name="default")) == network


async def test_creating_at_the_same_time_gives_different_subnets(place: World) -> None:
    made = await asyncio.gather(*(place.network(f"n{number}") for number in range(8)))
    assert len({network.subnet for network in made}) == 8


async def test_a_network_tends_to_get_its_subnet_again(place: World) -> None:
    network = await place.network()
    await place.manager.remove(network)
    assert (await place.network()).subnet == network.subnet


async def test_a_successor_takes_over_published_ports(place: World, tmp_path: Path) -> None:
    network = await place.network()
    stand = place.container(network)
    await place.serve(stand, 80, "hello")
    kept, gone = await place.publish(stand, 80, 8080), await place.publish(stand, 80, 8081)
    async with manager_of(tmp_path) as successor:
        await successor.create("test", NetworkSpec(name="default"))
        await successor.unpublish([gone])
        assert (await ask_host(8080)).startswith("hello")
        with pytest.raises(ConnectionRefusedError):
            await ask_host(8081)
        await successor.publish([kept])
        assert (await ask_host(8080)).startswith("hello")


@pytest.mark.parametrize("address", [None, "10.77.0.1/24"])
async def test_a_half_made_bridge_is_finished(place: World, tmp_path: Path, address: str | None) -> None:
    bridge = instance_of(tmp_path).bridge("test", "default")
    ip("link", "add", bridge, "group", str(interface_group(bridge)), "type", "bridge")
    if address:
        ip("address", "add", address, "dev", bridge)
    network = await place.network()
    if address:
        assert f"{network.gateway}/24" == address
    first, second = place.container(network), place.container(network)
    await place.serve(first, 80, "hello")
    await place.publish(first, 80, 8080)
    assert (await ask_tcp(second.tcp(), first.address, 80)).startswith("hello")
    assert (await ask_host(8080)).startswith("hello")


async def test_half_made_things_can_be_discarded(tmp_path: Path) -> None:
    """Names are all that the ledger has of a network that was being made."""
    instance = instance_of(tmp_path)
    bridge = instance.bridge("test", "default")
    ip("link", "add", bridge, "group", str(interface_group(bridge)), "type", "bridge")
    async with manager_of(tmp_path) as manager:
        for _ in range(2):
            await manager.discard("test", "default")
            await manager.discard("test", "never-existed")
            await manager.destroy()
    assert bridge not in os.listdir("/sys/class/net")


async def test_a_table_of_another_version_is_replaced(place: World, tmp_path: Path) -> None:
    table = instance_of(tmp_path).nft_table
    await run_program(["nft", "-f", "-"], f"table ip {table} {{ set bridges {{ type mark; }}; }}".encode())
    async with manager_of(tmp_path) as manager:
        network = await manager.create("test", NetworkSpec(name="default"))
        listing = (await run_program(["nft", "list", "table", "ip", table], b""))[1]
        assert network.bridge in listing.decode()
        await manager.remove(network)
        await manager.destroy()


async def test_a_changed_subnet_is_applied_when_nobody_is_on_it(place: World) -> None:
    await place.network(subnet="10.77.0.0/24")
    network = await place.network(subnet="10.78.0.0/24")
    assert str(network.gateway) == "10.78.0.1"
    place.container(network)
    with pytest.raises(
        ConflictError, match=r'cannot change network "default" to 10\.79\.0\.1/24: .* 1 container'
    ):
        await place.network(subnet="10.79.0.0/24")


async def test_overlapping_subnets_name_both(place: World) -> None:
    await place.network("one", subnet="10.77.0.0/16")
    with pytest.raises(ConflictError) as caught:
        await place.network("two", subnet="10.77.3.0/24")
    assert str(caught.value).startswith(
        'cannot use subnet 10.77.3.0/24 for network "two": it overlaps 10.77.0.0/16, which belongs to '
        'network "one" of project "test"'
    )


async def test_a_subnet_of_the_hosts_own_is_refused(place: World) -> None:
    ip("link", "add", "office", "type", "veth", "peer", "name", "office-peer")
    try:
        ip("address", "add", "10.77.0.5/24", "dev", "office")
        ip("link", "set", "office", "up")
        ip("route", "add", "10.99.0.0/16", "via", "10.77.0.1")
        for subnet in ("10.77.0.0/25", "10.99.9.0/24"):
            with pytest.raises(ConflictError, match="belongs to interface office of this host"):
                await place.network(subnet=subnet)
        ip("route", "add", "10.192.0.0/11", "via", "10.77.0.1")
        assert str((await place.network()).subnet).startswith("172.2")
    finally:
        ip("link", "del", "office")


@pytest.mark.parametrize("subnet", ["10.77.0.1/24", "10.77.0.0/31", "banana", "fd00::/64"])
async def test_a_subnet_that_makes_no_sense_changes_nothing(place: World, subnet: str) -> None:
    before = os.listdir("/sys/class/net")
    with pytest.raises(UsageError, match=f"cannot use subnet {subnet}"):
        await place.network(subnet=subnet)
    assert os.listdir("/sys/class/net") == before


async def test_the_mtu_is_that_of_the_way_out(place: World) -> None:
    ip("link", "add", "uplink", "mtu", "1400", "type", "veth", "peer", "name", "uplink-peer")
    try:
        ip("address", "add", "192.0.2.1/24", "dev", "uplink")
        ip("link", "set", "uplink", "up")
        ip("route", "add", "default", "via", "192.0.2.2")
        network = await place.network()
        stand = place.container(network)
        assert network.mtu == 1400
        for name in (network.bridge, stand.veths[0]):
            assert Path(f"/sys/class/net/{name}/mtu").read_text() == "1400\n"
    finally:
        ip("link", "del", "uplink")


async def test_the_lock_is_one_at_a_time_and_nobody_can_hold_it_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarding, "_LOCK_SECONDS", 0.2)
    order = []

    async def hold(name: str) -> None:
        async with forwarding.host_lock():
            order.append(f"{name} in")
            await asyncio.sleep(0.02)
            order.append(f"{name} out")

    await asyncio.gather(hold("a"), hold("b"))
    assert order == ["a in", "a out", "b in", "b out"]
    async with forwarding.host_lock(), asyncio.timeout(5), forwarding.host_lock():
        pass


async def test_links_see_a_bridge_as_it_is(place: World) -> None:
    network = await place.network()
    place.container(network)
    links = Links()
    await links.open()
    try:
        found = await links.bridge(network.bridge)
        assert found is not None
        assert found.address == IPv4Interface((network.gateway, network.subnet.prefixlen))
        assert (found.ports, found.mtu) == (1, network.mtu)
        assert await links.bridge("orb-missing") is None
    finally:
        await links.close()
