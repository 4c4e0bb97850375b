from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.kernel import netlink, operations
from orchestrator.network.manager import interface_group
from orchestrator.network.model import Network, PublishedPort
from orchestrator.network.ports import _address
from orchestrator.network.program import compile_network, primary
from orchestrator.spec import Port


def network(name: str, number: int, *, internal: bool = False) -> tuple[Network, IPv4Address]:
    subnet = IPv4Network(f"10.{number}.0.0/22")
    gateway = subnet.network_address + 1
    made = Network("shop", name, f"orb-{name}", number, subnet, gateway, internal, 1 << 30 | number, 1500)
    return made, subnet.network_address + 7


def described(program: list[operations.Operation]) -> list[str]:
    return [operations.describe(operation) for operation in json.loads(json.dumps(program))]


def test_each_network_is_an_interface_and_the_first_with_a_way_out_is_the_default() -> None:
    program = compile_network("bridge", [network("back", 5, internal=True), network("a", 6), network("b", 7)])
    assert described(program) == [
        "configure network: lo up, eth0 10.5.0.7/22 up, eth1 10.6.0.7/22 up, eth2 10.7.0.7/22 up, "
        "default via 10.6.0.1"
    ]


def test_internal_networks_alone_have_no_default_route() -> None:
    program = compile_network("bridge", [network("back", 5, internal=True)])
    assert described(program) == ["configure network: lo up, eth0 10.5.0.7/22 up"]
    assert primary([network("back", 5, internal=True)[0]]) is None


@pytest.mark.parametrize(("mode", "expected"), [("none", ["configure network: lo up"]), ("host", [])])
def test_modes_without_networks(mode: Literal["none", "host"], expected: list[str]) -> None:
    assert described(compile_network(mode)) == expected


@given(st.lists(st.tuples(st.integers(0, netlink.NLA_TYPE_MASK), st.binary(max_size=40)), max_size=10))
def test_attributes_come_out_as_they_went_in(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert list(netlink.attributes(data)) == pairs


@given(st.binary())
def test_any_bytes_can_be_read_as_attributes(data: bytes) -> None:
    assert sum(len(value) + 4 for _, value in netlink.attributes(data)) <= len(data)


def test_the_group_that_everybody_is_in_is_never_deleted() -> None:
    with pytest.raises(ValueError, match="interface group 0"):
        netlink.delete_group(0)


@given(st.text())
def test_a_networks_group_is_one_that_nobody_chooses_by_hand(bridge: str) -> None:
    assert 1 << 30 <= interface_group(bridge) < 1 << 31


def test_a_port_can_be_published_on_an_ipv4_address_only() -> None:
    port = Port(target=80, host_ip="::1")
    with pytest.raises(UsageError, match='cannot publish port 80 on "::1"'):
        PublishedPort.of(port, 8080, IPv4Address("10.0.0.2"))


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000000000000000000000000000", "::"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ("000080FE00000000FF0042020103A8C0", "fe80::242:ff:c0a8:301"),
    ],
)
def test_addresses_of_proc_net_are_read(raw: str, address: str) -> None:
    """As a little-endian machine writes them."""
    assert _address(raw, "little") == address
