"""Published ports: who reaches them, who does not, and what holds them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from orchestrator.errors import ConflictError, UsageError
from orchestrator.ids import Instance
from orchestrator.network import ports
from orchestrator.network.model import PublishedPort
from orchestrator.spec import Port
from support.containers import World, run_program, world
from support.netns import Namespace, ask_tcp, ask_udp, link, setting

pytestmark = pytest.mark.requires("root", "netns", "nft", "ip")

BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
BRIDGE_FILTERS = ["0", "1"] if Path(BRIDGE_FILTER).exists() else [None]
HOST, NEIGHBOUR = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def bridge_filter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bridged traffic passes the IP rules, or does not."""
    with setting(BRIDGE_FILTER, request.param):
        yield


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
def neighbour(place: World) -> Namespace:
    """A machine on the host's wire."""
    namespace = place.namespace()
    link("wire", f"{HOST}/24", namespace, "eth0", f"{NEIGHBOUR}/24")
    return namespace


def host_tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def host_udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def udp_frame(source_mac: bytes, target_mac: bytes, source: str, target: str, port: int) -> bytes:
    """An Ethernet frame with a UDP datagram "attack", no checksum of the payload."""
    payload = b"attack"
    udp = (4000).to_bytes(2) + port.to_bytes(2) + (8 + len(payload)).to_bytes(2) + bytes(2) + payload
    header = bytearray(bytes((0x45, 0)) + (20 + len(udp)).to_bytes(2) + bytes((0, 1, 0, 0, 64, 17, 0, 0)))
    header += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2)
    return target_mac + source_mac + b"\x08\x00" + bytes(header) + udp


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", "").strip())


async def receives(sock: socket.socket, send: socket.socket, frame: bytes) -> bool:
    """Whether what is sent comes through; asked several times, so that "no" means no."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        send.send(frame)
        try:
            async with asyncio.timeout(0.1):
                await loop.sock_recv(sock, 100)
            return True
        except TimeoutError:
            continue
    return False


@pytest.mark.parametrize("host_ip", ["127.0.0.1", "0.0.0.0"])
async def test_the_host_reaches_a_port_on_its_loopback(place: World, host_ip: str) -> None:
    stand = place.container(network := await place.network())
    await place.serve(stand, 80, "tcp")
    await place.serve(stand, 53, "udp", udp=True)
    await place.publish(stand, 80, 8080, host_ip)
    await place.publish(stand, 53, 8053, host_ip, udp=True)
    assert await ask_tcp(host_tcp(), "127.0.0.1", 8080) == f"tcp {network.gateway}"
    assert await ask_udp(host_udp(), "127.0.0.1", 8053) == f"udp {network.gateway}"


async def test_any_address_is_open_to_the_neighbours(place: World, neighbour: Namespace) -> None:
    stand = place.container(await place.network())
    await place.serve(stand, 80, "tcp")
    await place.serve(stand, 53, "udp", udp=True)
    await place.publish(stand, 80, 8080, "0.0.0.0")
    await place.publish(stand, 53, 8053, "0.0.0.0", udp=True)
    assert await ask_tcp(neighbour.socket(socket.SOCK_STREAM), HOST, 8080) == f"tcp {NEIGHBOUR}"
    assert await ask_udp(neighbour.socket(socket.SOCK_DGRAM), HOST, 8053) == f"udp {NEIGHBOUR}"
    assert await ask_tcp(host_tcp(), HOST, 8080) == f"tcp {HOST}"


async def test_one_address_is_that_address_only(place: World, neighbour: Namespace) -> None:
    stand = place.container(await place.network())
    await place.serve(stand, 80, "tcp")
    await place.publish(stand, 80, 8080, HOST)
    assert await ask_tcp(neighbour.socket(socket.SOCK_STREAM), HOST, 8080) == f"tcp {NEIGHBOUR}"
    with pytest.raises(OSError):
        await ask_tcp(host_tcp(), "127.0.0.1", 8080)


async def test_loopback_is_closed_to_the_neighbours(place: World, neighbour: Namespace) -> None:
    """Neither by the host's address, nor by a frame for 127.0.0.1 that no router would send."""
    stand = place.container(await place.network())
    await place.publish(stand, 53, 8053, udp=True)
    await place.publish(stand, 80, 8080)
    await place.serve(stand, 80, "tcp")
    with pytest.raises(OSError):
        await ask_tcp(neighbour.socket(socket.SOCK_STREAM), HOST, 8080, timeout=1)
    wire = mac(Path("/sys/class/net/wire/address").read_text())
    with stand.udp() as inside, neighbour.socket(socket.SOCK_RAW, socket.AF_PACKET) as attacker:
        inside.bind(("0.0.0.0", 53))
        attacker.bind(("eth0", 0))
        frame = udp_frame(attacker.getsockname()[4], wire, NEIGHBOUR, "127.0.0.1", 8053)
        assert not await receives(inside, attacker, frame)
        frame = udp_frame(attacker.getsockname()[4], wire, NEIGHBOUR, HOST, 8053)
        await place.publish(stand, 53, 8053, HOST, udp=True)
        assert await receives(inside, attacker, frame), "the frames of this test are well-formed"


async def test_a_container_cannot_reach_the_hosts_loopback(place: World, tmp_path: Path) -> None:
    """CVE-2020-8558: route_localnet alone would let it."""
    network = await place.network()
    stand = place.container(network)
    bridge = mac(Path(f"/sys/class/net/{network.bridge}/address").read_text())
    with host_udp() as private, stand.namespace.socket(socket.SOCK_RAW, socket.AF_PACKET) as attacker:
        private.bind(("127.0.0.1", 7777))
        attacker.bind(("eth0", 0))
        own = attacker.getsockname()[4]
        frame = udp_frame(own, bridge, stand.address, "127.0.0.1", 7777)
        spoofed = udp_frame(own, bridge, "127.0.0.1", "127.0.0.1", 7777)
        assert not await receives(private, attacker, frame)
        assert not await receives(private, attacker, spoofed)
        table = Instance(str(tmp_path), str(tmp_path / "run")).nft_table
        await run_program(["nft", "flush", "chain", "ip", table, "guard"], b"")
        assert await receives(private, attacker, frame), "it is the guard that stopped them"


@pytest.mark.usefixtures("bridge_filter", "neighbour")
@pytest.mark.parametrize("bridge_filter", BRIDGE_FILTERS, indirect=True)
async def test_a_container_reaches_ports_of_the_host_even_its_own(place: World) -> None:
    network, other = await place.network("one"), await place.network("two")
    server, beside, elsewhere = place.container(network), place.container(network), place.container(other)
    await place.serve(server, 80, "tcp")
    await place.serve(server, 53, "udp", udp=True)
    await place.publish(server, 80, 8080, "0.0.0.0")
    await place.publish(server, 53, 8053, "0.0.0.0", udp=True)
    for client in (server, beside, elsewhere):
        assert (await ask_tcp(client.tcp(), HOST, 8080)).startswith("tcp")
        assert (await ask_udp(client.udp(), HOST, 8053)).startswith("udp")
        assert (await ask_tcp(client.tcp(), str(network.gateway), 8080)).startswith("tcp")


async def test_unpublished_is_closed_and_the_other_ports_are_not(place: World) -> None:
    stand = place.container(await place.network())
    await place.serve(stand, 80, "tcp")
    gone = await place.publish(stand, 80, 8080)
    await place.publish(stand, 80, 8081)
    for _ in range(2):
        await place.manager.unpublish([gone])
    with pytest.raises(ConnectionRefusedError):
        await ask_tcp(host_tcp(), "127.0.0.1", 8080)
    assert (await ask_tcp(host_tcp(), "127.0.0.1", 8081)).startswith("tcp")


async def test_publishing_anew_redirects_a_client_that_never_paused(place: World) -> None:
    """A UDP client keeps its port, and the kernel would keep its flow."""
    network = await place.network()
    first, second = place.container(network), place.container(network)
    await place.serve(first, 53, "first", udp=True)
    await place.serve(second, 53, "second", udp=True)
    old = await place.publish(first, 53, 8053, udp=True)
    loop = asyncio.get_running_loop()
    with host_udp() as client:
        client.connect(("127.0.0.1", 8053))

        async def answer() -> bytes:
            client.send(b"?")
            async with asyncio.timeout(5):
                return (await loop.sock_recv(client, 100)).split()[0]

        assert await answer() == b"first"
        await place.publish(second, 53, 8053, udp=True)
        assert await answer() == b"second"
        await place.manager.unpublish([old])  # leads elsewhere by now
        assert await answer() == b"second"


async def test_many_at_the_same_time_all_work(place: World) -> None:
    stand = place.container(network := await place.network())
    await place.serve(stand, 80, "tcp")
    wanted = [
        PublishedPort("tcp", IPv4Address("127.0.0.1"), number, stand.addresses[0], 80)
        for number in range(8000, 8100)
    ]
    await asyncio.gather(*(place.manager.publish([port]) for port in wanted))
    answers = await asyncio.gather(*(ask_tcp(host_tcp(), "127.0.0.1", port.published) for port in wanted))
    assert set(answers) == {f"tcp {network.gateway}"}
    await asyncio.gather(*(place.manager.unpublish([port]) for port in wanted))
    with pytest.raises(ConnectionRefusedError):
        await ask_tcp(host_tcp(), "127.0.0.1", 8099)


# Reserving


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("taken", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_names_the_program(protocol: str, taken: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as owner:
        owner.bind((taken, 0))
        if protocol == "tcp":
            owner.listen()
        number = owner.getsockname()[1]
        comm = Path("/proc/self/comm").read_text().strip()
        port = Port(target=80, published=number, protocol="tcp" if protocol == "tcp" else "udp")
        expected = rf"port {number} is taken by {comm} \(pid {os.getpid()}\)"
        with pytest.raises(ConflictError, match=expected):
            ports.reserve(port)


def test_a_reserved_port_is_kept_from_others_and_free_again_after() -> None:
    held = ports.reserve(Port(target=80))
    number = held.getsockname()[1]
    with pytest.raises(ConflictError, match=f"cannot publish 127.0.0.1:{number}/tcp"):
        ports.reserve(Port(target=80, published=number))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", number))
    held.close()
    ports.reserve(Port(target=80, published=number)).close()


def test_lingering_connections_do_not_hold_a_port() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # closes first, so its side lingers in TIME_WAIT
            assert client.recv(1) == b""
    with socket.socket() as plain, pytest.raises(OSError, match="Address already in use"):
        plain.bind(("127.0.0.1", number))
    ports.reserve(Port(target=80, published=number)).close()


def test_an_address_of_somebody_else_is_refused() -> None:
    with pytest.raises(UsageError, match=r"203\.0\.113\.9 is not an address of this host"):
        ports.reserve(Port(target=80, published=8080, host_ip="203.0.113.9"))


async def test_a_reserved_port_does_not_stop_its_own_publication(place: World) -> None:
    stand = place.container(network := await place.network())
    await place.serve(stand, 80, "tcp")
    with place.manager.reserve(Port(target=80)) as held:
        number = held.getsockname()[1]
        await place.publish(stand, 80, number)
        assert await ask_tcp(host_tcp(), "127.0.0.1", number) == f"tcp {network.gateway}"


async def test_publish_survives_somebodys_flush_of_all_rules(place: World) -> None:
    """``systemctl restart nftables`` flushes the whole ruleset, ours too."""
    stand = place.container(network := await place.network())
    await place.serve(stand, 80, "tcp")
    await place.publish(stand, 80, 8080)
    await run_program(["nft", "flush", "ruleset"], b"")
    with pytest.raises(OSError):
        await ask_tcp(host_tcp(), "127.0.0.1", 8080, timeout=1)
    await place.publish(stand, 80, 8081)
    for number in (8080, 8081):
        assert await ask_tcp(host_tcp(), "127.0.0.1", number) == f"tcp {network.gateway}"
