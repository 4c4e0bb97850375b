"""The instance's nftables table as text: what is in it, and how to change it. Pure.

The rules are the same for one container and for a thousand: everything that varies is an element of a set
or a map (see nft(8)). Packets of other interfaces leave each chain at its first rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from ipaddress import IPv4Interface
from typing import Any

from orchestrator.network.ipam import mac_of
from orchestrator.network.model import ANY_ADDRESS, BRIDGE_PREFIX, PublishedPort

#: Set or map -> its elements, as nft writes them; a set's elements have the value "".
Elements = dict[str, dict[str, str]]

#: Set or map -> its type.
SETS = {
    "bridges": "ifname",  # all of ours
    "internal": "ifname",  # those of them without a way out
    "bridged": "ifname . ifname",  # each of ours with itself: in by it, out by it
    "gateways": "ifname . ether_addr",  # each of ours with its own MAC address
    "neighbours": "ifname . ipv4_addr; flags interval",  # each of ours with its subnet
    "published": "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    "published_any": "inet_proto . inet_service : ipv4_addr . inet_service",
}

_CHAINS = """\
	# With net.bridge.bridge-nf-call-iptables even frames between two ports of a bridge come by here: only
	# those for the bridge itself are worth tracking. Packets to or from 127.0.0.0/8 have no business on a
	# bridge; route_localnet, which loopback publishing needs, would let them in (CVE-2020-8558).
	chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifname != @bridges accept
		ip daddr 127.0.0.0/8 drop
		ip saddr 127.0.0.0/8 drop
		iifname . ether daddr @gateways accept
		notrack
	}
	# A port published on 127.0.0.1 is for the host itself, whose packets take the output hook; one that
	# comes by the wire for 127.0.0.1 must not be redirected before routing would have refused it.
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		iifname @internal return
		ip daddr 127.0.0.0/8 return
		fib daddr type local jump publish
	}
	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local jump publish
	}
	chain publish {
		dnat ip to ip daddr . meta l4proto . th dport map @published
		dnat ip to meta l4proto . th dport map @published_any
	}
	# From an internal network the host has no address but the gateway's.
	chain input {
		type filter hook input priority filter; policy accept;
		iifname @internal fib daddr . iif type unicast reject with icmp type admin-prohibited
	}
	# Networks do not reach each other, and nobody outside reaches a container except by a published port.
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname != @bridges oifname != @bridges accept
		ct state established,related accept
		iifname . oifname @bridged accept
		iifname @internal reject with icmp type admin-prohibited
		oifname @internal reject with icmp type admin-prohibited
		oifname @bridges ct status dnat accept
		oifname @bridges reject with icmp type admin-prohibited
	}
	# First: a container that goes through a published port may meet a neighbour of its own bridge (or
	# itself), who would answer it directly, past the translation. (By address, not iifname, which is empty here
	# with bridge-nf-call-iptables.) Second: the host by 127.0.0.1. Third: egress.
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname . ip saddr @neighbours ct status dnat masquerade
		oifname @bridges ip saddr 127.0.0.0/8 masquerade
		iifname @bridges oifname != @bridges masquerade
	}
"""

#: An empty set of this name tells a table of these very rules from one that another version of orch made.
LAYOUT = "layout_" + hashlib.sha256(f"{SETS}{_CHAINS}".encode()).hexdigest()[:12]


def empty() -> Elements:
    """A table without networks and ports."""
    return {name: {} for name in SETS}


def add_bridge(elements: Elements, bridge: str, address: IPv4Interface, *, internal: bool) -> None:
    """Enter a network's bridge.

    :param address: the gateway's, with its subnet.
    """
    remove_bridge(elements, bridge)
    name = f'"{bridge}"'
    elements["bridges"][name] = ""
    elements["bridged"][f"{name} . {name}"] = ""
    elements["gateways"][f"{name} . {mac_of(address.ip)}"] = ""
    elements["neighbours"][f"{name} . {address.network}"] = ""
    if internal:
        elements["internal"][name] = ""


def remove_bridge(elements: Elements, bridge: str) -> None:
    """Forget a network's bridge."""
    name = f'"{bridge}"'
    for kind in ("bridges", "internal", "bridged", "gateways", "neighbours"):
        for element in [one for one in elements[kind] if one.split(" . ")[0] == name]:
            del elements[kind][element]


def bridges(elements: Elements) -> list[str]:
    """The names of all bridges."""
    return [name.strip('"') for name in elements["bridges"]]


def _place(port: PublishedPort) -> tuple[str, str]:
    """The map and the key of a published port."""
    key = f"{port.protocol} . {port.published}"
    if port.host_ip == ANY_ADDRESS:
        return "published_any", key
    return "published", f"{port.host_ip} . {key}"


def _target(port: PublishedPort) -> str:
    return f"{port.address} . {port.target}"


def add_port(elements: Elements, port: PublishedPort) -> None:
    """Enter a published port; one that led elsewhere now leads here."""
    kind, key = _place(port)
    elements[kind][key] = _target(port)


def remove_port(elements: Elements, port: PublishedPort) -> None:
    """Forget a published port, unless it leads elsewhere by now."""
    kind, key = _place(port)
    if elements[kind].get(key) == _target(port):
        del elements[kind][key]


def render(table: str, elements: Elements) -> str:
    """A script that makes the whole table, in place of one that may exist, as one transaction."""
    lines = [f"table ip {table} {{}}", f"delete table ip {table}", f"table ip {table} {{"]
    lines.append(f"\tset {LAYOUT} {{ type mark; }}")
    for name, kind in SETS.items():
        lines.append(f"\t{'map' if _is_map(kind) else 'set'} {name} {{ type {kind}; }}")
    return "\n".join([*lines, _CHAINS + "}", ""]) + difference(table, empty(), elements)


def difference(table: str, old: Elements, new: Elements) -> str:
    """A script that changes a table with ``old`` elements into one with ``new`` ones; "" when equal."""
    lines = []
    for verb, first, second in (("delete", old, new), ("add", new, old)):
        for name in SETS:
            changed = {key: value for key, value in first[name].items() if second[name].get(key) != value}
            if changed:
                lines.append(f"{verb} element ip {table} {name} {{ {_join(changed, verb == 'add')} }}\n")
    return "".join(lines)


def _join(elements: Mapping[str, str], with_values: bool) -> str:
    return ", ".join(f"{key} : {value}" if value and with_values else key for key, value in elements.items())


def parse(listing: str | bytes) -> Elements | None:
    """The elements in ``nft -j list table``'s answer; None when the table is not of these rules."""
    found: dict[str, Any] = {}
    for entry in json.loads(listing).get("nftables", ()):
        for kind in ("set", "map"):
            if kind in entry:
                found[entry[kind]["name"]] = entry[kind]
    if LAYOUT not in found or any(name not in found for name in SETS):
        return None
    elements = empty()
    for name, kind in SETS.items():
        for element in found[name].get("elem", ()):
            key, value = element if _is_map(kind) else (element, None)
            elements[name][_text(key)] = "" if value is None else _text(value)
    return elements


def _is_map(kind: str) -> bool:
    return " : " in kind


def _text(value: Any) -> str:
    """A value of nft's JSON as nft's language has it (see libnftables-json(5))."""
    if isinstance(value, dict):
        if "concat" in value:
            return " . ".join(map(_text, value["concat"]))
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    text = str(value)
    return f'"{text}"' if text.startswith(BRIDGE_PREFIX) else text
