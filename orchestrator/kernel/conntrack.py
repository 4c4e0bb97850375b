"""Connection tracking: forgetting flows whose way has changed (ctnetlink, <linux/netfilter/nfnetlink_conntrack.h>)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator

from orchestrator.kernel.netlink import NLM_F_DUMP, Message, NetlinkSocket, attribute, attributes, nested

NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1 << 8 | 1, 1 << 8 | 2  # high byte: NFNL_SUBSYS_CTNETLINK
CTA_TUPLE_ORIG, CTA_FILTER = 1, 25
CTA_TUPLE_PROTO, CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 2, 1, 3
CTA_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5  # CTA_FILTER_FLAG(CTA_PROTO_NUM), ..(CTA_PROTO_DST_PORT)
_NFGEN = struct.Struct("!BBH").pack(socket.AF_INET, 0, 0)  # struct nfgenmsg


def forget_udp(ports: Iterable[int]) -> int:
    """Drop all tracked IPv4 UDP flows that were begun towards one of these ports; returns how many.

    The kernel filters them since Linux 5.8; an older one sends all its flows, which are filtered here.

    :raises OSError: when the kernel refuses.
    """
    dropped = 0
    with NetlinkSocket(NETLINK_NETFILTER) as netfilter:
        for port in ports:
            wanted = _protocol_and_port(port)
            flags = attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_PROTOCOL_AND_PORT))
            query = _NFGEN + nested(CTA_TUPLE_ORIG, wanted) + nested(CTA_FILTER, flags)
            for flow in netfilter.request(Message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, query)):
                for tuple_ in _original_tuples(flow, port):
                    try:
                        netfilter.request(
                            Message(IPCTNL_MSG_CT_DELETE, 0, _NFGEN + nested(CTA_TUPLE_ORIG, tuple_))
                        )
                        dropped += 1
                    except OSError as error:
                        if error.errno != errno.ENOENT:  # it timed out meanwhile
                            raise
    return dropped


def _protocol_and_port(port: int) -> bytes:
    return nested(
        CTA_TUPLE_PROTO,
        attribute(CTA_PROTO_NUM, bytes((socket.IPPROTO_UDP,))),
        attribute(CTA_PROTO_DST_PORT, struct.pack("!H", port)),
    )


def _original_tuples(flow: bytes, port: int) -> Iterator[bytes]:
    """The original direction of a flow, if it is UDP to ``port``; as the kernel sent it, to be sent back."""
    for kind, value in attributes(flow[len(_NFGEN) :]):
        if kind == CTA_TUPLE_ORIG:
            protocol = dict(attributes(dict(attributes(value)).get(CTA_TUPLE_PROTO, b"")))
            number = protocol.get(CTA_PROTO_NUM, b"")
            if number == bytes((socket.IPPROTO_UDP,)) and protocol.get(CTA_PROTO_DST_PORT) == struct.pack(
                "!H", port
            ):
                yield value
