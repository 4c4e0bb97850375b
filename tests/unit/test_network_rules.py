from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.network import rules
from orchestrator.network.forwarding import render_guard
from orchestrator.network.model import PublishedPort

FRONT = IPv4Interface("10.5.0.1/24")


def port(
    published: int = 8080, host: str = "127.0.0.1", address: str = "10.5.0.2", target: int = 80
) -> PublishedPort:
    return PublishedPort("tcp", IPv4Address(host), published, IPv4Address(address), target)


def with_bridges() -> rules.Elements:
    elements = rules.empty()
    rules.add_bridge(elements, "orb-front", FRONT, internal=False)
    rules.add_bridge(elements, "orb-back", IPv4Interface("10.6.0.1/24"), internal=True)
    return elements


elements_of = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["", "x", "y"])) for name in rules.SETS}
)


def test_a_bridge_is_in_every_set_that_it_belongs_to() -> None:
    assert with_bridges() == {
        "bridges": {'"orb-front"': "", '"orb-back"': ""},
        "internal": {'"orb-back"': ""},
        "bridged": {'"orb-front" . "orb-front"': "", '"orb-back" . "orb-back"': ""},
        "gateways": {'"orb-front" . 02:42:0a:05:00:01': "", '"orb-back" . 02:42:0a:06:00:01': ""},
        "neighbours": {'"orb-front" . 10.5.0.0/24': "", '"orb-back" . 10.6.0.0/24': ""},
        "published": {},
        "published_any": {},
    }
    assert rules.bridges(with_bridges()) == ["orb-front", "orb-back"]


def test_adding_a_bridge_again_replaces_it_and_removing_leaves_nothing() -> None:
    elements = with_bridges()
    rules.add_bridge(elements, "orb-front", IPv4Interface("10.9.0.1/16"), internal=True)
    assert list(elements["neighbours"]) == ['"orb-back" . 10.6.0.0/24', '"orb-front" . 10.9.0.0/16']
    assert '"orb-front"' in elements["internal"]
    for bridge in ("orb-front", "orb-back", "orb-back"):
        rules.remove_bridge(elements, bridge)
    assert elements == rules.empty()


def test_any_address_has_a_map_of_its_own() -> None:
    elements = rules.empty()
    rules.add_port(elements, port())
    rules.add_port(elements, port(host="0.0.0.0"))
    assert elements["published"] == {"127.0.0.1 . tcp . 8080": "10.5.0.2 . 80"}
    assert elements["published_any"] == {"tcp . 8080": "10.5.0.2 . 80"}


def test_a_port_that_leads_elsewhere_by_now_is_not_removed() -> None:
    elements = rules.empty()
    rules.add_port(elements, port(address="10.5.0.2"))
    rules.add_port(elements, port(address="10.5.0.3"))
    rules.remove_port(elements, port(address="10.5.0.2"))
    assert elements["published"] == {"127.0.0.1 . tcp . 8080": "10.5.0.3 . 80"}
    rules.remove_port(elements, port(address="10.5.0.3"))
    assert elements == rules.empty()


def test_publishing_costs_elements_and_no_rule() -> None:
    old, new = with_bridges(), with_bridges()
    for number in range(8000, 8003):
        rules.add_port(new, port(number))
    assert rules.difference("orch_x", old, new) == (
        "add element ip orch_x published { 127.0.0.1 . tcp . 8000 : 10.5.0.2 . 80, "
        "127.0.0.1 . tcp . 8001 : 10.5.0.2 . 80, 127.0.0.1 . tcp . 8002 : 10.5.0.2 . 80 }\n"
    )


def test_a_redirected_port_is_deleted_before_it_is_added() -> None:
    old, new = rules.empty(), rules.empty()
    rules.add_port(old, port(address="10.5.0.2"))
    rules.add_port(new, port(address="10.5.0.3"))
    assert rules.difference("t", old, new) == (
        "delete element ip t published { 127.0.0.1 . tcp . 8080 }\n"
        "add element ip t published { 127.0.0.1 . tcp . 8080 : 10.5.0.3 . 80 }\n"
    )


@given(elements_of, elements_of)
def test_a_difference_turns_one_into_the_other(old: rules.Elements, new: rules.Elements) -> None:
    state = {name: dict(elements) for name, elements in old.items()}
    for line in rules.difference("t", old, new).splitlines():
        verb, _, _, _, name, rest = line.split(" ", 5)
        for element in rest.strip("{} ").split(", "):
            key, _, value = element.partition(" : ")
            if verb == "delete":
                del state[name][key]
            else:
                assert key not in state[name], "nft refuses to add a key with another value"
                state[name][key] = value
    assert state == new


@given(elements_of)
def test_equal_elements_have_no_difference(elements: rules.Elements) -> None:
    assert rules.difference("t", elements, elements) == ""


def test_a_whole_table_replaces_what_there_was_in_one_transaction() -> None:
    script = rules.render("orch_x", with_bridges())
    assert script.startswith("table ip orch_x {}\ndelete table ip orch_x\ntable ip orch_x {\n")
    assert f"set {rules.LAYOUT} {{ type mark; }}" in script
    assert script.endswith(rules.difference("orch_x", rules.empty(), with_bridges()))


def listing(**sets: object) -> str:
    entries: list[object] = [{"metainfo": {}}, {"table": {"name": "orch_x"}}, {"set": {"name": rules.LAYOUT}}]
    for name, kind in rules.SETS.items():
        entries.append({"map" if " : " in kind else "set": {"name": name, "elem": sets.get(name, [])}})
    return json.dumps({"nftables": entries})


def test_what_nft_lists_is_understood() -> None:
    """The answer of nft 1.0.6 to ``nft -j list table``."""
    found = rules.parse(
        listing(
            bridges=["orb-a"],
            bridged=[{"concat": ["orb-a", "orb-a"]}],
            gateways=[{"concat": ["orb-a", "02:42:0a:05:00:01"]}],
            neighbours=[{"concat": ["orb-a", {"prefix": {"addr": "10.5.0.0", "len": 24}}]}],
            published=[[{"concat": ["127.0.0.1", "tcp", 8080]}, {"concat": ["10.5.0.2", 80]}]],
            published_any=[[{"concat": ["udp", 53]}, {"concat": ["10.5.0.2", 53]}]],
        )
    )
    expected = rules.empty()
    rules.add_bridge(expected, "orb-a", FRONT, internal=False)
    rules.add_port(expected, port())
    rules.add_port(expected, PublishedPort("udp", IPv4Address("0.0.0.0"), 53, IPv4Address("10.5.0.2"), 53))
    assert found == expected


def test_a_table_of_other_rules_is_not_ours_to_amend() -> None:
    assert rules.parse(listing().replace(rules.LAYOUT, "layout_0123")) is None
    assert rules.parse('{"nftables": []}') is None


def test_the_guard_knows_the_interfaces_that_were_there_but_ours() -> None:
    script = render_guard(["lo", "eth0", "br0", "orb-0123456789"])
    assert 'set unrouted { type ifname; elements = { "eth0", "br0" }; }' in script
    assert 'set bridged { type ifname . ifname; elements = { "eth0" . "eth0", "br0" . "br0" }; }' in script


def test_the_guard_of_a_host_without_interfaces_is_well_formed() -> None:
    assert "set unrouted { type ifname; }" in render_guard(["lo"])
