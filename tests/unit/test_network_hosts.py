from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.network.hosts import LOCALHOST, Member, render_hosts, render_resolv_conf


def member(service: str, replica: int, **addresses: str) -> Member:
    return Member(
        f"shop-{service}-{replica}",
        service,
        replica,
        f"{service}-host",
        {network: IPv4Address(address) for network, address in addresses.items()},
        {"front": ("www",)} if service == "web" else {},
    )


WEB = member("web", 1, front="10.1.0.2", back="10.2.0.2")
API1 = member("api", 1, back="10.2.0.3")
API2 = member("api", 2, back="10.2.0.4")
EDGE = member("edge", 1, front="10.1.0.5")
ALL = [EDGE, API2, WEB, API1]


def test_a_container_knows_itself_and_everybody_on_its_networks() -> None:
    assert render_hosts(WEB, ALL, base="# base") == (
        "# base\n"
        "10.1.0.2\tweb-host shop-web-1\n"
        "10.2.0.3\tshop-api-1 api-1 api\n"
        "10.2.0.4\tshop-api-2 api-2 api\n"
        "10.1.0.5\tshop-edge-1 edge-1 edge\n"
        "10.1.0.2\tshop-web-1 web-1 web www\n"
        "10.2.0.2\tshop-web-1 web-1 web\n"
    )


def test_networks_that_are_not_shared_are_not_named() -> None:
    text = render_hosts(EDGE, ALL)
    assert "10.2." not in text
    assert "api" not in text
    assert "10.1.0.2\tshop-web-1 web-1 web www\n" in text


def test_host_mode_knows_every_network_on_top_of_the_hosts_own_file() -> None:
    text = render_hosts(member("job", 1), ALL, base="127.0.0.1 box\n", every_network=True)
    assert text.startswith("127.0.0.1 box\n")
    assert "job-host" not in text
    assert all(f"{address}\t" in text for one in ALL for address in one.addresses.values())


def test_without_a_network_there_is_the_own_name_only() -> None:
    assert render_hosts(member("job", 1), ALL) == LOCALHOST + "127.0.1.1\tjob-host\n"


@given(st.permutations(ALL))
def test_the_order_of_members_does_not_matter(members: list[Member]) -> None:
    assert render_hosts(WEB, members) == render_hosts(WEB, ALL)


HOST = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions edns0\n"


def test_loopback_name_servers_are_the_hosts_alone() -> None:
    assert render_resolv_conf(HOST) == "search example.org\nnameserver 192.0.2.53\noptions edns0\n"


def test_ipv6_name_servers_are_out_of_reach() -> None:
    assert render_resolv_conf("nameserver fd00::53\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\n") == (
        "nameserver 192.0.2.53\n"
    )


def test_systemd_resolveds_own_servers_stand_in() -> None:
    assert render_resolv_conf("nameserver 127.0.0.53\n", "nameserver 192.0.2.1\nsearch lan\n") == (
        "nameserver 192.0.2.1\nsearch lan\n"
    )


def test_where_none_is_left_no_public_one_is_chosen() -> None:
    assert render_resolv_conf("nameserver ::1\nsearch lan\n", "nameserver 127.0.0.1\n") == (
        "# no name server: none of the host's name servers can be reached from here\nsearch lan\n"
    )


def test_internal_networks_have_no_name_server() -> None:
    assert render_resolv_conf(HOST, egress=False) == (
        "# no name server: internal networks only\nsearch example.org\noptions edns0\n"
    )


@given(st.text(), st.none() | st.text(), st.booleans())
def test_whatever_the_host_has_only_reachable_servers_come_out(
    host: str, upstream: str | None, egress: bool
) -> None:
    for line in render_resolv_conf(host, upstream, egress=egress).splitlines():
        if line.split()[:1] == ["nameserver"]:
            address = ip_address(line.split()[1])
            assert address.version == 4
            assert not address.is_loopback
