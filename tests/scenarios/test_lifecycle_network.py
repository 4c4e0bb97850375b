"""Networks as containers see them: names, published ports, the way out and its absence, host and none mode."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from support.cli import Orch
from support.lifecycle import free_port
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "nft", "ip")

#: Answers each connection with the address that it comes from, and each datagram with itself.
SERVER = """
import socket, threading
def echo():
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(('0.0.0.0', 8000))
    while True:
        data, peer = udp.recvfrom(2000)
        udp.sendto(data, peer)
threading.Thread(target=echo, daemon=True).start()
tcp = socket.create_server(('0.0.0.0', 8000))
while True:
    client, peer = tcp.accept()
    client.sendall(peer[0].encode())
    client.close()
"""
#: Connects to its first argument and prints what it is told, or why not.
CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 8000), timeout=1.5) as server:
        print(server.recv(100).decode())
except OSError as error:
    print('no:', error)
"""
SERVE = f"entrypoint = ['python3', '-c', '''{SERVER}''']\nhealthcheck = {{ tcp = 8000, interval = '100ms' }}"
IDLE = 'command = ["sleep", "1000"]\ninit = true'


def ask(orch: Orch, service: str, whom: str) -> str:
    """What a server at ``whom`` says to ``service``."""
    return orch.run("exec", service, "python3", "-c", CLIENT, whom).stdout.strip()


@pytest.fixture
def outside(orch: Orch) -> Iterator[str]:
    """A host beyond this one, by a router that knows nothing of containers: the address of its server."""
    process = subprocess.Popen(["unshare", "--net", "python3", "-c", f"print(flush=True); input()\n{SERVER}"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    for words in (
        f"ip link add out0 type veth peer name eth0 netns {process.pid}",
        "ip address add 198.51.100.1/24 dev out0",
        "ip link set out0 up",
        "ip route add default via 198.51.100.2",
        f"nsenter -t {process.pid} -n ip address add 198.51.100.2/24 dev eth0",
        f"nsenter -t {process.pid} -n ip link set eth0 up",
    ):
        subprocess.run(words.split(), check=True)
    process.stdin.write("\n")
    process.stdin.flush()

    def answers() -> bool:
        try:
            socket.create_connection(("198.51.100.2", 8000), timeout=1).close()
        except OSError:
            return False
        return True

    wait_until("the outside answers", answers)
    yield "198.51.100.2"
    process.kill()
    process.communicate()
    subprocess.run(["ip", "link", "delete", "out0"], check=False, stderr=subprocess.DEVNULL)


def test_services_reach_each_other_by_name(orch: Orch) -> None:
    orch.up(
        orch.manifest(f"""
name = "names"
[services.server]
replicas = 2
networks = {{ default = {{ aliases = ["alias"] }} }}
{SERVE}
[services.client]
depends_on = {{ server = "healthy" }}
{IDLE}
""")
    )
    own = orch.container("client")["address"]
    for name in ("server", "alias", "names-server-2", "server-1"):
        assert ask(orch, "client", name) == own, name
    addresses = {one["address"] for one in orch.containers("server")}
    found = orch.run("exec", "client", "getent", "ahostsv4", "server").stdout
    assert {line.split()[0] for line in found.splitlines()} == addresses


def test_names_are_those_of_common_networks_only(orch: Orch) -> None:
    orch.up(
        orch.manifest(f"""
name = "nets"
[defaults]
init = true
command = ["sleep", "1000"]
[services.a]
networks = ["left"]
[services.b]
networks = ["left", "right"]
[services.c]
networks = ["right"]
entrypoint = ['python3', '-c', '''{SERVER}''']
healthcheck = {{ tcp = 8000, interval = '100ms' }}
[networks.left]
[networks.right]
""")
    )
    hosts = {service: orch.run("exec", service, "cat", "/etc/hosts").stdout for service in "abc"}
    known = {service: {other for other in "abc" if f"nets-{other}-1" in hosts[service]} for service in "abc"}
    assert known == {"a": {"a", "b"}, "b": {"a", "b", "c"}, "c": {"b", "c"}}
    both = orch.container("b")["addresses"]
    assert both.keys() == {"left", "right"}
    server = orch.container("c")["address"]
    assert ask(orch, "b", server) == both["right"]
    assert ask(orch, "a", server).startswith("no: ")


def test_a_service_that_comes_later_is_known_to_those_that_run(orch: Orch) -> None:
    text = f"""
name = "late"
[services.client]
{IDLE}
"""
    orch.up(orch.manifest(text, "late.toml"))
    client = orch.container("client")
    orch.up(orch.manifest(text + f"[services.server]\n{SERVE}\n", "late.toml"))
    assert orch.container("client") == client
    assert ask(orch, "client", "server") == client["address"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_leads_to_the_container_and_ends_with_it(orch: Orch, protocol: str) -> None:
    port = free_port(socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    orch.up(
        orch.manifest(f"""
name = "ports"
[services.server]
ports = ["{port}:8000/{protocol}"]
{SERVE}
""")
    )

    def answer() -> bytes:
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(2)
            client.connect(("127.0.0.1", port))
            client.send(b"ping")
            return client.recv(100)

    assert answer()
    orch.run("restart", "server")
    orch.wait_state("server", "healthy")
    assert answer()
    orch.run("down", "-p", "ports")
    with pytest.raises(OSError):
        answer()


def test_a_port_is_open_only_where_it_is_published(orch: Orch, outside: str) -> None:
    closed, opened = free_port(), free_port()
    orch.up(
        orch.manifest(f"""
name = "where"
[services.server]
ports = ["{closed}:8000", "0.0.0.0:{opened}:8000"]
{SERVE}
""")
    )
    with socket.create_connection(("198.51.100.1", opened), timeout=2) as client:
        assert client.recv(100)
    with pytest.raises(OSError):
        socket.create_connection(("198.51.100.1", closed), timeout=2)


def test_the_way_out_is_masqueraded(orch: Orch, outside: str) -> None:
    orch.up(orch.manifest(f'name = "out"\n[services.a]\n{IDLE}\n'))
    assert ask(orch, "a", outside) == "198.51.100.1"


def test_an_internal_network_has_no_way_out(orch: Orch, outside: str) -> None:
    orch.up(
        orch.manifest(f"""
name = "cell"
[services.a]
networks = ["inner"]
{IDLE}
[services.b]
networks = ["inner"]
{SERVE}
[networks.inner]
internal = true
""")
    )
    assert ask(orch, "a", outside).startswith("no: ")
    assert ask(orch, "a", "198.51.100.1").startswith("no: ")
    assert ask(orch, "a", "b") == orch.container("a")["address"]


def test_projects_do_not_reach_each_other(orch: Orch) -> None:
    orch.up(orch.manifest(f'name = "one"\n[services.a]\n{IDLE}\n'))
    orch.up(orch.manifest(f'name = "two"\n[services.b]\n{SERVE}\n'))
    (address,) = [one["address"] for one in orch.ps() if one["service"] == "b"]
    assert ask(orch, "one-a-1", address).startswith("no: ")


def test_host_mode_is_the_hosts_network(orch: Orch) -> None:
    orch.up(orch.manifest(f'name = "h"\n[services.a]\nnetwork_mode = "host"\n{IDLE}\n'))
    a = orch.container("a")
    assert os.readlink(f"/proc/{a['pid']}/ns/net") == os.readlink("/proc/self/ns/net")
    assert (a["address"], a["addresses"]) == (None, {})


def test_none_mode_has_only_lo(orch: Orch) -> None:
    orch.up(orch.manifest(f'name = "n"\n[services.a]\nnetwork_mode = "none"\n{IDLE}\n'))
    shown = orch.run("exec", "a", "ip", "-o", "-4", "address").stdout.splitlines()
    assert len(shown) == 1
    assert "127.0.0.1/8" in shown[0]
    assert orch.container("a")["address"] is None


def test_the_manifest_may_choose_addresses(orch: Orch) -> None:
    orch.up(
        orch.manifest(f"""
name = "chosen"
[services.a]
networks = ["n"]
{IDLE}
[networks.n]
subnet = "10.99.7.0/24"
gateway = "10.99.7.254"
""")
    )
    assert orch.container("a")["address"].startswith("10.99.7.")
    route = orch.run("exec", "a", "ip", "route").stdout
    assert "default via 10.99.7.254" in route


def test_a_subnet_that_the_host_uses_is_refused(orch: Orch, outside: str) -> None:
    done = orch.up(
        orch.manifest(f"""
name = "overlap"
[services.a]
networks = ["n"]
{IDLE}
[networks.n]
subnet = "198.51.100.0/25"
"""),
        check=False,
    )
    assert done.returncode == 1
    assert 'cannot use subnet 198.51.100.0/25 for network "n"' in done.stderr
    assert "interface out0 of this host" in done.stderr
    assert [one["state"] for one in orch.ps()] in ([], ["failed"])


def test_a_changed_subnet_moves_its_containers_and_no_others(orch: Orch) -> None:
    text = f"""
name = "move"
[services.a]
networks = ["n"]
{IDLE}
[services.b]
{IDLE}
[networks.n]
subnet = "10.99.8.0/24"
"""
    orch.project = "move"
    orch.up(orch.manifest(text, "move.toml"))
    before = orch.container("b")
    orch.up(orch.manifest(text.replace("10.99.8.0", "10.99.9.0"), "move.toml"))
    assert orch.container("a")["address"].startswith("10.99.9.")
    assert orch.container("b") == before
