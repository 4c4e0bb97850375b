"""Containers on a bridge: joining, talking, counting, and going all at once."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.errors import ConflictError, KernelError
from orchestrator.kernel import netlink, operations
from orchestrator.network import ipam
from orchestrator.network.program import compile_network
from support.containers import World, world
from support.netns import ask_tcp, shell

pytestmark = pytest.mark.requires("root", "netns", "nft")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


async def test_two_containers_talk_and_see_each_others_addresses(place: World) -> None:
    network = await place.network()
    server, client = place.container(network), place.container(network)
    await place.serve(server, 80, "hello")
    assert await ask_tcp(client.tcp(), server.address, 80) == f"hello {client.address}"


async def test_the_first_connection_of_a_container_does_not_wait_for_its_link(place: World) -> None:
    network = await place.network()
    server = place.container(network)
    await place.serve(server, 80, "hello")
    slow = []
    for _ in range(30):
        client = place.container(network)
        begin = time.perf_counter()
        await ask_tcp(client.tcp(), server.address, 80)
        slow.append(time.perf_counter() - begin)
    assert max(slow) < 0.9, "an ARP request was lost: the kernel repeats it after a second"


async def test_a_container_has_its_names_and_numbers(place: World) -> None:
    network = await place.network()
    stand = place.container(network)
    found = stand.namespace.call(lambda: socket.if_nameindex())
    assert (100, "eth0") in found
    shown = stand.namespace.call(lambda: shell("ip -o link show eth0; ip route"))
    assert ipam.mac_of(stand.addresses[0]) in shown
    assert f"default via {network.gateway} dev eth0" in shown


async def test_configuring_again_changes_nothing(place: World) -> None:
    network = await place.network()
    stand = place.container(network)
    state = "ip -o address; ip route; ip -o link"
    before = stand.namespace.call(lambda: shell(state))
    program = compile_network("bridge", [(network, stand.addresses[0])])
    stand.namespace.call(lambda: operations.perform(program))
    assert stand.namespace.call(lambda: shell(state)) == before


async def test_without_a_network_there_is_lo_only(place: World) -> None:
    namespace = place.namespace()
    namespace.call(lambda: operations.perform(compile_network("none")))
    shown = namespace.call(lambda: shell("ip -o link; ip route"))
    assert "lo: <LOOPBACK,UP,LOWER_UP>" in shown
    assert "default via" not in shown


async def test_an_interrupted_attach_is_replaced(place: World) -> None:
    network = await place.network()
    stand = place.container(network)
    second = place.namespace()
    place.manager.attach(network, stand.veths[0], second.fd, 0, stand.addresses[0])
    assert [name for _, name in second.call(socket.if_nameindex)] == ["lo", "eth0"]
    assert [name for _, name in stand.namespace.call(socket.if_nameindex)] == ["lo"]


async def test_an_attach_that_fails_says_to_what_and_why(place: World) -> None:
    network = await place.network()
    stand = place.container(network)
    with pytest.raises(KernelError, match=r'cannot join 10\.\d+\.\d+\.9 to network "default": .*: .+'):
        place.manager.attach(network, "a-name-too-long-for-it", stand.namespace.fd, 1, network.gateway + 8)


async def test_a_full_bridge_says_so(place: World) -> None:
    network = await place.network()
    namespaces = [place.namespace() for _ in range(32)]

    def join(number: int) -> None:
        namespace = namespaces[number % len(namespaces)]
        place.manager.attach(network, f"full{number}", namespace.fd, number, network.subnet[2])

    for number in range(ipam.BRIDGE_PORTS):
        join(number)
        await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="its bridge has 1023 containers"):
        join(ipam.BRIDGE_PORTS)
    await place.manager.remove(network)
    assert not {name for name in interfaces() if name.startswith("full")}


async def test_removing_a_network_takes_its_veths_and_no_others(place: World) -> None:
    first, second = await place.network("first"), await place.network("second")
    for _ in range(10):
        place.container(first)
    stays = place.container(second)
    await place.manager.remove(first)
    assert {name for name in interfaces() if name.startswith(("ov", "orb-"))} == {second.bridge, *stays.veths}
    await place.manager.remove(first)


async def test_removing_fifty_containers_at_once_is_cheaper_than_one_by_one(place: World) -> None:
    async def measure(name: str, one_by_one: bool) -> float:
        network = await place.network(name)
        stands = [place.container(network) for _ in range(50)]
        begin = time.perf_counter()
        for veth in [stand.veths[0] for stand in stands] if one_by_one else []:
            await place.manager.detach(veth)
        await place.manager.remove(network)
        return time.perf_counter() - begin

    at_once, one_by_one = await measure("a", False), await measure("b", True)
    assert at_once < one_by_one * 0.7  # a tenth on a machine that waits, half on one that is only slow


async def test_detach_removes_one_and_may_be_repeated(place: World) -> None:
    network = await place.network()
    gone, stays = place.container(network), place.container(network)
    for _ in range(2):
        await place.manager.detach(gone.veths[0])
    assert gone.veths[0] not in interfaces()
    assert stays.veths[0] in interfaces()


async def test_stats_are_the_containers_own_view(place: World) -> None:
    network = await place.network()
    sender, receiver = place.container(network), place.container(network)
    with sender.udp() as sock:
        for _ in range(20):
            sock.sendto(bytes(1000), (receiver.address, 9))
    stats = await place.manager.stats([sender.veths[0], receiver.veths[0], "ov0-missing"])
    assert stats.keys() == {sender.veths[0], receiver.veths[0]}
    assert stats[sender.veths[0]].sent > 20_000 > stats[sender.veths[0]].received
    assert stats[receiver.veths[0]].received > 20_000


async def test_the_host_has_no_ipv6_address_on_bridge_or_veth(place: World) -> None:
    network = await place.network()
    stand = place.container(network)
    for name in (network.bridge, stand.veths[0]):
        assert shell(f"ip -6 -o address show dev {name}") == ""


def test_the_kernels_own_explanation_is_in_the_error() -> None:
    loopback = 1
    with netlink.RouteSocket() as route, pytest.raises(OSError, match=r"unreachable: .*gateway") as caught:
        route.request(netlink.replace_default_route(loopback, "203.0.113.1"))
    assert caught.value.errno == errno.ENETUNREACH
