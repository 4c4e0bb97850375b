from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UsageError
from orchestrator.network import ipam

subnets = st.builds(
    lambda number, prefix: IPv4Network((number >> (32 - prefix) << (32 - prefix), prefix)),
    st.integers(0, 2**32 - 1),
    st.integers(8, 30),
)
small_subnets = st.builds(
    lambda number, prefix: IPv4Network((number >> (32 - prefix) << (32 - prefix), prefix)),
    st.integers(2**24, 2**32 - 1),
    st.integers(24, 30),
)
names = st.text("abcdef-0123456789", min_size=1, max_size=8)


@given(st.lists(subnets, max_size=20), st.integers(0, 10**12))
def test_the_chosen_subnet_is_private_and_free(taken: list[IPv4Network], preference: int) -> None:
    try:
        chosen = ipam.choose_subnet("web", taken, preference)
    except ipam.AddressPoolError:
        assert all(any(one.overlaps(other) for other in taken) for one in ipam.pool_subnets())
        return
    assert chosen.is_private
    assert not any(chosen.overlaps(other) for other in taken)
    assert ipam.choose_subnet("web", reversed(taken), preference) == chosen


@given(st.integers(0, 10**12))
def test_a_preference_changes_the_order_only(preference: int) -> None:
    plain = list(ipam.pool_subnets())
    assert sorted(ipam.pool_subnets(preference)) == sorted(plain)
    assert len(set(plain)) == len(plain) == 800


def test_an_exhausted_pool_names_network_size_and_remedy() -> None:
    with pytest.raises(ipam.AddressPoolError) as caught:
        ipam.choose_subnet("web", [IPv4Network("0.0.0.0/0")])
    text = str(caught.value)
    assert 'network "web"' in text
    assert "/22" in text
    assert "give the network a free subnet" in text


@given(small_subnets, st.lists(names, max_size=30), st.lists(names, max_size=30), st.integers(1, 3))
def test_addresses_are_distinct_usable_and_kept(
    subnet: IPv4Network, before: list[str], wanted: list[str], gateway_offset: int
) -> None:
    gateway = subnet.network_address + min(gateway_offset, subnet.num_addresses - 2)
    try:
        existing = ipam.allocate("web", subnet, gateway, {}, before)
        allocated = ipam.allocate("web", subnet, gateway, existing, wanted)
    except ipam.AddressPoolError:
        assert len({*before, *wanted}) > ipam.capacity(subnet)
        return
    assert list(allocated) == list(dict.fromkeys(wanted))
    everybody = existing | allocated
    assert len(set(everybody.values())) == len(everybody)
    for name, address in allocated.items():
        assert address in subnet
        assert address not in (gateway, subnet.network_address, subnet.broadcast_address)
        assert existing.get(name, address) == address
    assert ipam.allocate("web", subnet, gateway, everybody, wanted) == allocated


def test_new_names_get_the_lowest_free_addresses_in_order() -> None:
    subnet, gateway = ipam.check_subnet("web", "10.5.0.0/24")
    existing = {"b": IPv4Address("10.5.0.3"), "elsewhere": IPv4Address("10.6.0.9")}
    assert ipam.allocate("web", subnet, gateway, existing, ["c", "a", "b", "elsewhere"]) == {
        "c": IPv4Address("10.5.0.2"),
        "a": IPv4Address("10.5.0.4"),
        "b": IPv4Address("10.5.0.3"),
        "elsewhere": IPv4Address("10.5.0.5"),
    }


@pytest.mark.parametrize(
    ("text", "takes", "why"),
    [
        ("10.5.0.0/29", 5, "its subnet 10.5.0.0/29 has no more addresses"),
        ("10.0.0.0/16", 1023, "no more ports"),
    ],
)
def test_a_full_network_names_itself_its_size_and_a_remedy(text: str, takes: int, why: str) -> None:
    subnet, gateway = ipam.check_subnet("web", text)
    ipam.allocate("web", subnet, gateway, {}, [str(number) for number in range(takes)])
    with pytest.raises(ipam.AddressPoolError) as caught:
        ipam.allocate("web", subnet, gateway, {}, [str(number) for number in range(takes + 1)])
    assert f'cannot give {takes + 1} containers an address on network "web": it takes {takes}: ' in str(
        caught.value
    )
    assert why in str(caught.value)
    assert "use a larger subnet" in str(caught.value)


def test_an_address_that_is_kept_counts_even_when_it_is_not_wanted() -> None:
    subnet, gateway = ipam.check_subnet("web", "10.5.0.0/30")
    with pytest.raises(ipam.AddressPoolError):
        ipam.allocate("web", subnet, gateway, {"old": IPv4Address("10.5.0.2")}, ["new"])


def test_a_chosen_subnet_fills_a_bridge() -> None:
    assert ipam.capacity(next(ipam.pool_subnets())) == 1021


@pytest.mark.parametrize(
    ("subnet", "gateway", "why"),
    [
        ("10.5.0.1/24", None, "has host bits set"),
        ("10.5.0.0/31", None, "no room"),
        ("10.5.0.0/24", "10.6.0.1", "gateway 10.6.0.1 is not one of its addresses"),
        ("10.5.0.0/24", "10.5.0.0", "gateway 10.5.0.0 is not one of its addresses"),
        ("10.5.0.0/24", "10.5.0.255", "gateway 10.5.0.255 is not one of its addresses"),
        ("10.5.0.0/24", "first", "'first'"),
    ],
)
def test_senseless_subnets_are_refused(subnet: str, gateway: str | None, why: str) -> None:
    with pytest.raises(UsageError, match=f'cannot use subnet {subnet} for network "web": .*{why}'):
        ipam.check_subnet("web", subnet, gateway)


@given(st.integers(0, 2**32 - 1))
def test_a_mac_is_local_unicast_and_tells_its_address(number: int) -> None:
    address = IPv4Address(number)
    octets = bytes.fromhex(ipam.mac_of(address).replace(":", ""))
    assert octets[0] & 3 == 2, "locally administered, not multicast"
    assert octets[2:] == address.packed
