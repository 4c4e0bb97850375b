"""Who reaches whom: isolation of networks, internal networks, egress, and the host's forwarding switch."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.network import forwarding
from support.containers import Stand, World, manager_of, run_program, world
from support.netns import Namespace, ask_tcp, ip, link, serve_tcp, setting

pytestmark = pytest.mark.requires("root", "netns", "nft", "ip")

SWITCH = "/proc/sys/net/ipv4/ip_forward"
BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
HOST_BEHIND, BEHIND = "198.51.100.1", "198.51.100.2"


@pytest.fixture(
    params=["0", "1"] if os.path.exists(BRIDGE_FILTER) else [None], ids=lambda value: f"brnf={value}"
)
def bridge_filter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bridged traffic passes the IP rules, or does not."""
    with setting(BRIDGE_FILTER, request.param):
        yield


@pytest.fixture(autouse=True)
def forwarding_off() -> Iterator[None]:
    with setting(SWITCH, "0"):
        yield


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
def namespaces() -> Iterator[list[Namespace]]:
    """Two machines outside."""
    made = [Namespace(), Namespace()]
    yield made
    for namespace in made:
        namespace.close()


@pytest.fixture
def outside(namespaces: list[Namespace]) -> Namespace:
    """A machine on the host's wire, that knows no way to any container."""
    link("wire", f"{HOST}/24", namespaces[0], "eth0", f"{OUTSIDE}/24")
    return namespaces[0]


@pytest.fixture
def behind(namespaces: list[Namespace]) -> Namespace:
    """A machine on another wire of the host, that would use the host as its router."""
    link("wire2", f"{HOST_BEHIND}/24", namespaces[1], "eth0", f"{BEHIND}/24")
    namespaces[1].ip("route", "add", "default", "via", HOST_BEHIND)
    return namespaces[1]


def is_forwarding() -> bool:
    return Path(SWITCH).read_text().strip() == "1"


async def reaches(client: Stand | Namespace, address: str, port: int = 80) -> bool:
    namespace = client.namespace if isinstance(client, Stand) else client
    try:
        await ask_tcp(namespace.socket(socket.SOCK_STREAM), address, port, timeout=1)
    except OSError:
        return False
    return True


@pytest.mark.usefixtures("bridge_filter")
async def test_networks_do_not_reach_each_other(place: World) -> None:
    one, two = await place.network("one"), await place.network("two")
    first, second, third = place.container(one), place.container(two), place.container(one, two)
    for stand in (first, second, third):
        await place.serve(stand, 80, "hello")
    assert not await reaches(first, second.address)
    assert not await reaches(second, first.address)
    assert await reaches(first, str(third.addresses[0]))
    assert await reaches(second, str(third.addresses[1]))
    assert await reaches(third, first.address)
    assert await reaches(third, second.address)


async def test_a_refusal_is_told_at_once(place: World) -> None:
    first = place.container(await place.network("one"))
    second = place.container(await place.network("two"))
    with pytest.raises(OSError) as caught:
        await ask_tcp(first.tcp(), second.address, 80, timeout=5)
    assert not isinstance(caught.value, TimeoutError)


@pytest.mark.usefixtures("bridge_filter")
async def test_a_container_goes_out_under_the_hosts_address(place: World, outside: Namespace) -> None:
    stand = place.container(await place.network())
    server = await serve_tcp(outside.socket(socket.SOCK_STREAM), OUTSIDE, 80, "outside")
    async with server:
        assert await ask_tcp(stand.tcp(), OUTSIDE, 80) == f"outside {HOST}"


async def test_outside_reaches_a_container_by_published_ports_only(place: World, outside: Namespace) -> None:
    network = await place.network()
    stand = place.container(network)
    await place.serve(stand, 80, "hello")
    outside.ip("route", "add", str(network.subnet), "via", HOST)
    assert not await reaches(outside, stand.address)
    await place.publish(stand, 80, 8080, "0.0.0.0")
    assert await reaches(outside, HOST, 8080)
    assert not await reaches(outside, stand.address)


@pytest.mark.usefixtures("bridge_filter")
async def test_an_internal_network_has_no_way_out(place: World, outside: Namespace) -> None:
    """Not even with a default route, which a container without privileges cannot set."""
    inner = await place.network("inner", internal=True)
    first, second = place.container(inner), place.container(inner)
    other = place.container(await place.network("other"))
    await place.serve(second, 80, "hello")
    await place.serve(other, 80, "hello")
    await place.publish(other, 80, 8080, "0.0.0.0")
    first.namespace.ip("route", "add", "default", "via", str(inner.gateway))
    async with await serve_tcp(outside.socket(socket.SOCK_STREAM), OUTSIDE, 80, "outside"):
        assert await reaches(first, second.address)
        assert not await reaches(first, OUTSIDE)
        assert not await reaches(first, other.address)
        assert not await reaches(first, HOST, 8080)
        assert not await reaches(other, second.address)


async def test_an_internal_network_sees_only_the_gateway_of_the_host(
    place: World, outside: Namespace
) -> None:
    inner = await place.network("inner", internal=True)
    stand = place.container(inner)
    stand.namespace.ip("route", "add", "default", "via", str(inner.gateway))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    async with await serve_tcp(listener, "0.0.0.0", 80, "host"):
        assert await reaches(stand, str(inner.gateway))
        assert not await reaches(stand, HOST)


async def test_the_host_reaches_every_container(place: World) -> None:
    """Health checks come from the host."""
    for internal in (True, False):
        stand = place.container(await place.network(f"n{internal:d}", internal=internal))
        await place.serve(stand, 80, "hello")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            assert (await ask_tcp(sock, stand.address, 80)).startswith("hello")


# The switch


async def test_forwarding_is_on_exactly_while_it_is_needed(place: World) -> None:
    await place.network("inner", internal=True)
    assert not is_forwarding()
    network = await place.network("outer")
    assert is_forwarding()
    status = await place.manager.forwarding_status()
    assert (status.enabled, status.by_orch) == (True, True)
    await place.manager.remove(network)
    await place.manager.destroy()
    assert is_forwarding(), "a network is left"


async def test_forwarding_is_restored_with_the_last_network(tmp_path: Path) -> None:
    async with world(tmp_path) as place:
        await place.network()
        assert is_forwarding()
    assert not is_forwarding()


async def test_forwarding_that_was_on_stays_on(tmp_path: Path) -> None:
    Path(SWITCH).write_text("1")
    async with world(tmp_path) as place:
        await place.network()
        status = await place.manager.forwarding_status()
        assert (status.enabled, status.by_orch) == (True, False)
    assert is_forwarding()


async def test_the_host_does_not_become_a_router(place: World, outside: Namespace, behind: Namespace) -> None:
    outside.ip("route", "add", "default", "via", HOST)
    async with await serve_tcp(outside.socket(socket.SOCK_STREAM), OUTSIDE, 80, "outside"):
        await place.network()
        assert is_forwarding()
        assert not await reaches(behind, OUTSIDE)
        await run_program(["nft", "flush", "chain", "ip", forwarding.TABLE, "forward"], b"")
        assert await reaches(behind, OUTSIDE), "it is the guard that stopped them"


async def test_who_comes_later_and_relies_on_forwarding_has_it(
    place: World, outside: Namespace, namespaces: list[Namespace]
) -> None:
    """Docker, say, finds forwarding on and makes its bridge."""
    outside.ip("route", "add", "default", "via", HOST)
    async with await serve_tcp(outside.socket(socket.SOCK_STREAM), OUTSIDE, 80, "outside"):
        await place.network()
        link("later", f"{HOST_BEHIND}/24", namespaces[1], "eth0", f"{BEHIND}/24")
        namespaces[1].ip("route", "add", "default", "via", HOST_BEHIND)
        assert await reaches(namespaces[1], OUTSIDE)


@pytest.mark.usefixtures("bridge_filter")
async def test_a_bridge_of_the_host_goes_on_bridging(place: World, namespaces: list[Namespace]) -> None:
    ip("link", "add", "virbr9", "type", "bridge", "forward_delay", "0")
    ip("link", "set", "virbr9", "up")
    try:
        link("vm1", "192.0.2.101/32", namespaces[0], "eth0", f"{HOST}/24")
        link("vm2", "192.0.2.102/32", namespaces[1], "eth0", f"{OUTSIDE}/24")
        for name in ("vm1", "vm2"):
            ip("link", "set", name, "master", "virbr9")
        await place.network()
        async with await serve_tcp(namespaces[1].socket(socket.SOCK_STREAM), OUTSIDE, 80, "vm"):
            assert await ask_tcp(namespaces[0].socket(socket.SOCK_STREAM), OUTSIDE, 80) == f"vm {HOST}"
    finally:
        ip("link", "del", "virbr9")


# Several instances


async def test_two_instances_share_the_host_and_the_switch(tmp_path: Path, outside: Namespace) -> None:
    async with world(tmp_path / "b") as second:
        async with world(tmp_path / "a") as first:
            one, two = await asyncio.gather(first.network(), second.network())
            assert not one.subnet.overlaps(two.subnet)
            left, right = first.container(one), second.container(two)
            await first.serve(left, 80, "left")
            await second.serve(right, 80, "right")
            await first.publish(left, 80, 8081, "0.0.0.0")
            await second.publish(right, 80, 8082, "0.0.0.0")
            assert not await reaches(left, right.address)
            assert not await reaches(right, left.address)
            assert (await ask_tcp(outside.socket(socket.SOCK_STREAM), HOST, 8081)).startswith("left")
            assert (await ask_tcp(outside.socket(socket.SOCK_STREAM), HOST, 8082)).startswith("right")
            assert (await ask_tcp(left.tcp(), HOST, 8082)).startswith("right")
        assert is_forwarding(), "the other instance needs it"
        assert (await ask_tcp(outside.socket(socket.SOCK_STREAM), HOST, 8082)).startswith("right")
    assert not is_forwarding()


async def test_a_successor_restores_what_its_killed_predecessor_changed(tmp_path: Path) -> None:
    async with world(tmp_path) as place:
        network = await place.network()
        place.container(network)
        async with manager_of(tmp_path) as successor:
            await successor.destroy()
            assert is_forwarding(), "a network is left"
            await successor.discard("test", "default")
            await successor.destroy()
            assert not is_forwarding()
            tables = (await run_program(["nft", "list", "tables"], b""))[1]
            assert tables == b""
