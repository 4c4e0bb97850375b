"""What a container can reach of the host through sockets."""

from __future__ import annotations

import fcntl
import socket
import struct

import pytest

from support import inside
from support.attack import HOST_USERS, UNCONFINED, Target, capabilities, joined

pytestmark = pytest.mark.requires("root", "netns", "overlay")

HOST_NETWORK = 'network_mode = "host"'


def connect_abstract(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        return inside.attempt(sock.connect, "\0" + name)


def test_abstract_sockets_of_the_host_are_not_reached(target: Target) -> None:
    """CVE-2020-15257: an abstract Unix socket (unix(7)) belongs to a network namespace, and to no file."""
    name = "orch-attack"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0" + name)
        sock.listen(8)
        assert target.both(connect_abstract, name) == "ECONNREFUSED"
        assert target.start(connect_abstract, name, options=HOST_NETWORK) == inside.DONE


def connect(port: int) -> str:
    with socket.socket() as sock:
        return inside.attempt(sock.connect, ("127.0.0.1", port))


def test_loopback_of_the_host_is_not_reached(target: Target) -> None:
    """network_namespaces(7): 127.0.0.1 is the container's own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert target.both(connect, port) == "ECONNREFUSED"
        assert target.start(connect, port, options=HOST_NETWORK) == inside.DONE


def connect_to_service(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        return inside.attempt(sock.connect, path)


def test_the_service_is_not_reached(target: Target) -> None:
    """Who reaches the socket of the service is root of the host."""
    path = target.orch.instance.socket
    assert target.both(connect_to_service, path) == "ENOENT"
    # Where it is at hand, it is still the host's root's.
    options = f"volumes = ['{target.orch.instance.run_dir}:{target.orch.instance.run_dir}']"
    assert target.start(connect_to_service, path, options=options, user="65534:65534") == "EACCES"
    assert target.start(connect_to_service, path, options=joined(options, HOST_USERS)) == inside.DONE


def open_raw_sockets() -> dict[str, str]:
    packet, vsock, xdp = 17, 40, 44  # linux/socket.h

    def open_socket(*words: int) -> str:
        try:
            socket.socket(*words).close()
        except OSError as error:
            return inside.name(error)
        return inside.DONE

    return {
        "packet": open_socket(packet, socket.SOCK_RAW, 0x0300),  # ETH_P_ALL
        "raw": open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "xdp": open_socket(xdp, socket.SOCK_RAW, 0),
        "vsock": open_socket(vsock, socket.SOCK_STREAM, 0),
    }


def test_no_raw_sockets(target: Target) -> None:
    """CVE-2020-14386 (packet(7)), and spoofing of neighbours: CAP_NET_RAW, which is not one of the default's.

    vsock(7) leads to the hypervisor, past every network namespace: the filter.
    """
    words = target.both(open_raw_sockets)
    assert [words["packet"], words["raw"]] == ["EPERM", "EPERM"]
    assert words["xdp"] in ("EPERM", "EAFNOSUPPORT")
    assert words["vsock"] in ("EPERM", "EAFNOSUPPORT")
    words = target.start(open_raw_sockets, options=joined(capabilities("NET_RAW"), UNCONFINED))
    assert [words["packet"], words["raw"]] == [inside.DONE, inside.DONE]
    assert words["vsock"] in (inside.DONE, "EAFNOSUPPORT")


def change_network() -> str:
    """Take the interface down that leads out (SIOCSIFFLAGS, netdevice(7))."""
    with socket.socket() as sock:
        return inside.attempt(fcntl.ioctl, sock, 0x8914, struct.pack("16sh14x", b"lo", 0))


def test_the_network_is_not_changed(target: Target) -> None:
    """netdevice(7): CAP_NET_ADMIN."""
    assert target.both(change_network) == "EPERM"
    assert target.start(change_network, options=capabilities("NET_ADMIN")) == inside.DONE
