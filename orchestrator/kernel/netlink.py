"""Route netlink, by hand: the few messages that making a container's network needs.

The service sends :func:`new_veth` on the host; the container's first process performs
:func:`configure` in its own network namespace. Each is one ``sendmsg``, since every round trip and every
turn of the kernel's rtnl lock is paid once per container. Sources: rtnetlink(7), netlink(7), and
``Documentation/userspace-api/netlink/`` of the kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

# Numbers of <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/veth.h>.
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_NEWROUTE = 20, 24
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_STATS64, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 23, 26, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, IFLA_BRPORT_MODE = 4, 5, 4
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_OIF, RTA_GATEWAY = 4, 5
RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 4, 0, 1
IFF_UP = 1
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

LOOPBACK_INDEX = 1  # in every network namespace
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_RECEIVE = 1 << 18


class Message(NamedTuple):
    """One request; the socket adds the header."""

    type: int
    flags: int
    body: bytes


class LinkBytes(NamedTuple):
    """Counters of an interface, bytes since it was made, as that interface sees them."""

    received: int
    sent: int


def attribute(kind: int, value: bytes) -> bytes:
    """One ``struct nlattr`` with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _name(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data``, in order; a truncated tail is ignored, as libnl does."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            return
        yield kind & NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)


def mac_bytes(mac: str) -> bytes:
    """``02:42:0a:c9:00:02`` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def new_veth(
    name: str,
    *,
    bridge: int,
    group: int,
    mtu: int,
    netns_fd: int,
    peer: str,
    peer_index: int,
    peer_mac: str,
    hairpin: bool = False,
) -> list[Message]:
    """A veth pair: one end on a bridge of this namespace, its peer inside another; both up.

    The kernel cannot open the second end of a pair while it makes it (ENOTCONN), so the container's end is
    the first one. The host's end then joins the bridge and comes up. It gets no IPv6 link-local address
    (address generation mode none): the bridge takes every frame of its ports, so such an address could never
    be used. The last message is there for its effect on the carrier; see :func:`get_link`.

    :param bridge: interface index of the bridge.
    :param group: interface group of the host's end, so that :func:`delete_group` finds it.
    :param netns_fd: descriptor of the network namespace that gets the peer.
    :param peer_index: interface index of the peer in there; must be free.
    :param hairpin: let the bridge send a frame back through the port it came from. That is how a container
        reaches itself by a published port where ``bridge-nf-call-iptables`` is on: the bridge then delivers
        redirected frames by itself, and does not route them.
    """
    host_end = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(
        (_name(IFLA_IFNAME, name), _number(IFLA_MTU, mtu), _number(IFLA_GROUP, group))
    )
    create = _LINK.pack(socket.AF_UNSPEC, 0, peer_index, IFF_UP, IFF_UP) + b"".join(
        (
            _name(IFLA_IFNAME, peer),
            attribute(IFLA_ADDRESS, mac_bytes(peer_mac)),
            _number(IFLA_MTU, mtu),
            _number(IFLA_NET_NS_FD, netns_fd),
            nested(
                IFLA_LINKINFO,
                _name(IFLA_INFO_KIND, "veth"),
                nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, host_end)),
            ),
        )
    )
    by_name = _name(IFLA_IFNAME, name)
    join = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + by_name + _number(IFLA_MASTER, bridge)
    if os.path.exists("/proc/sys/net/ipv6"):
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes((IN6_ADDR_GEN_MODE_NONE,)))
        join += nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    up = _LINK.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP) + by_name
    if hairpin:
        slave = nested(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, b"\1"))
        up += nested(IFLA_LINKINFO, _name(IFLA_INFO_SLAVE_KIND, "bridge"), slave)
    return [
        Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, create),
        Message(RTM_NEWLINK, 0, join),
        Message(RTM_NEWLINK, 0, up),
        get_link(name),
    ]


def get_link(name: str) -> Message:
    """Ask for an interface; to answer, the kernel (6.8 and later) first carries out its change of carrier.

    Otherwise a kernel worker does that a moment later; until then the interface drops what it sends, and a
    bridge ignores the port. One lost ARP request costs a container's first connection a second.
    """
    return Message(RTM_GETLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _name(IFLA_IFNAME, name))


def delete_link(name: str) -> Message:
    """Delete one interface by name; a veth's peer goes with it."""
    return Message(RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _name(IFLA_IFNAME, name))


def delete_group(group: int) -> Message:
    """Delete all interfaces of a group at once (``ip link del group N``): one grace period for all of them.

    :raises ValueError: for group 0, where every interface is that nobody has put elsewhere.
    """
    if group <= 0:
        raise ValueError(f"interface group {group} is not one that somebody chose")
    return Message(RTM_DELLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _number(IFLA_GROUP, group))


def link_up(index: int) -> Message:
    """Bring an interface up."""
    return Message(RTM_NEWLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP))


def replace_address(index: int, address: str, prefix: int) -> Message:
    """Give an interface an IPv4 address; one that it has already is fine."""
    packed = socket.inet_aton(address)
    (number,) = struct.unpack("!I", packed)
    broadcast = struct.pack("!I", number | ((1 << (32 - prefix)) - 1))
    body = _ADDRESS.pack(socket.AF_INET, prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += (
        attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed) + attribute(IFA_BROADCAST, broadcast)
    )
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def replace_default_route(index: int, gateway: str) -> Message:
    """Send what has no better route to ``gateway`` through an interface; replaces an earlier default route."""
    body = _ROUTE.pack(
        socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0
    )
    body += attribute(RTA_GATEWAY, socket.inet_aton(gateway)) + _number(RTA_OIF, index)
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


class NetlinkSocket:
    """A netlink socket of the network namespace in which it is made; not safe for several threads.

    :param protocol: ``NETLINK_ROUTE``, ``NETLINK_NETFILTER``, ...
    :raises OSError: when the socket cannot be made.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the socket; closing twice is fine."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def request(self, *messages: Message) -> list[bytes]:
        """Send messages at once, and read until each is acknowledged (or its dump is complete).

        The kernel handles them in order and does not stop at one that fails.

        :returns: the bodies of all answers, in order.
        :raises OSError: of the first message that failed: its errno, and the kernel's own explanation where
            it gave one.
        """
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, sequence, 0)
                + body
                for sequence, (kind, flags, body) in enumerate(messages, first)
            )
        )
        answers: list[bytes] = []
        failures: dict[int, OSError] = {}
        waiting = set(range(first, first + len(messages)))
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if sequence not in waiting:
                    continue  # the rest of an earlier answer
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    answers.append(body)
                    continue
                waiting.remove(sequence)
                error = _error(flags if kind == NLMSG_ERROR else 0, body)
                if error is not None:
                    failures[sequence] = error
        if failures:
            raise failures[min(failures)]
        return answers

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of one datagram: type, flags, sequence number, body."""
        data = self._socket.recv(_RECEIVE)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                return
            yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
            offset += length + (-length % 4)


class RouteSocket(NetlinkSocket):
    """A route netlink socket."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    def link_bytes(self, name: str) -> LinkBytes:
        """Counters of one interface.

        :raises OSError: ENODEV when there is no such interface.
        """
        for answer in self.request(get_link(name)):
            for number, value in attributes(answer[_LINK.size :]):
                if number == IFLA_STATS64:  # struct rtnl_link_stats64: packets, packets, bytes, bytes, ...
                    return LinkBytes(*struct.unpack_from("=QQ", value, 16))
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), name)


def _error(flags: int, body: bytes) -> OSError | None:
    """The OSError in a ``struct nlmsgerr``; None when it is a plain acknowledgement."""
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    text = os.strerror(-code)
    if flags & NLM_F_ACK_TLVS:
        skip = 4 + _HEADER.size  # the errno, and the header of the failed request
        if not flags & NLM_F_CAPPED:
            (length,) = struct.unpack_from("=I", body, 4)
            skip = 4 + length + (-length % 4)
        for kind, value in attributes(body[skip:]):
            if kind == NLMSGERR_ATTR_MSG:
                text = f"{text}: {value.rstrip(bytes(1)).decode(errors='replace')}"
    return OSError(-code, text)


def configure(network: Mapping[str, Any]) -> None:
    """Configure the network namespace that the caller is in; doing it again changes nothing.

    ``lo`` comes up; every interface of ``network["interfaces"]`` (``name``, ``address``, ``prefix``) gets its
    address and comes up; and ``network["default"]``, when not None, is the default route (``name`` of the
    interface, ``gateway``).

    :raises OSError: of the first step that failed.
    """
    messages = [link_up(LOOPBACK_INDEX)]
    interfaces: Sequence[Mapping[str, Any]] = network["interfaces"]
    for interface in interfaces:
        name = interface["name"]
        index = socket.if_nametoindex(name)
        messages.append(replace_address(index, interface["address"], interface["prefix"]))
        messages += [link_up(index), get_link(name)]
    default: Mapping[str, Any] | None = network["default"]
    if default is not None:
        index = socket.if_nametoindex(default["name"])
        messages.append(replace_default_route(index, default["gateway"]))
    with RouteSocket() as route:
        route.request(*messages)


def describe_configure(network: Mapping[str, Any]) -> str:
    """One line for people: what :func:`configure` does with this argument."""
    steps = ["lo up"]
    steps += [f"{one['name']} {one['address']}/{one['prefix']} up" for one in network["interfaces"]]
    if network["default"] is not None:
        steps.append(f"default via {network['default']['gateway']}")
    return "configure network: " + ", ".join(steps)
