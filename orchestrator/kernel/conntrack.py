"""Connection tracking: forgetting flows whose way has changed (ctnetlink, <linux/netfilter/nfnetlink_conntrack.h>)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

from orchestrator.kernel.netlink import NLM_F_DUMP, Message, NetlinkSocket, attribute, attributes, nested

NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1 << 8 | 1, 1 << 8 | 2  # high byte: NFNL_SUBSYS_CTNETLINK
CTA_TUPLE_ORIG, CTA_FILTER = 1, 25
CTA_TUPLE_PROTO, CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 2, 1, 3
CTA_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL = 1 << 3  # CTA_FILTER_FLAG(CTA_PROTO_NUM), net/netfilter/nf_internals.h
_UDP = bytes((socket.IPPROTO_UDP,))
_NFGEN = struct.Struct("!BBH").pack(socket.AF_INET, 0, 0)  # struct nfgenmsg


def forget_udp(ports: Collection[int]) -> int:
    """Drop all tracked IPv4 UDP flows that were begun towards one of these ports; returns how many.

    One walk through the kernel's table, some 20 ms. It sends UDP flows only since Linux 5.8, and all flows
    before that.

    :raises OSError: when the kernel refuses.
    """
    dropped = 0
    protocol = nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, _UDP))
    flags = attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_PROTOCOL))
    query = _NFGEN + nested(CTA_TUPLE_ORIG, protocol) + nested(CTA_FILTER, flags)
    with NetlinkSocket(NETLINK_NETFILTER) as netfilter:
        for flow in netfilter.request(Message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, query)):
            origin = dict(attributes(flow[len(_NFGEN) :])).get(CTA_TUPLE_ORIG, b"")
            if _udp_destination(origin) not in ports:
                continue
            try:
                netfilter.request(Message(IPCTNL_MSG_CT_DELETE, 0, _NFGEN + nested(CTA_TUPLE_ORIG, origin)))
                dropped += 1
            except OSError as error:
                if error.errno != errno.ENOENT:  # it timed out meanwhile
                    raise
    return dropped


def _udp_destination(origin: bytes) -> int | None:
    """The destination port in a CTA_TUPLE_ORIG; None when it is not UDP."""
    protocol = dict(attributes(dict(attributes(origin)).get(CTA_TUPLE_PROTO, b"")))
    if protocol.get(CTA_PROTO_NUM) != _UDP:
        return None
    return int.from_bytes(protocol[CTA_PROTO_DST_PORT], "big")
