"""``/etc/hosts`` and ``/etc/resolv.conf`` of a container, as text. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

#: What every /etc/hosts begins with, as Debian's.
LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A container and its names.

    :param container: its name, ``shop-api-2``.
    :param hostname: what it calls itself; only it sees that name.
    :param addresses: network -> its address there.
    :param aliases: network -> further names there.
    """

    container: str
    service: str
    replica: int
    hostname: str
    addresses: Mapping[str, IPv4Address]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names(self, network: str) -> tuple[str, ...]:
        """What others on ``network`` may call it."""
        own = (self.container, f"{self.service}-{self.replica}", self.service)
        return own + tuple(self.aliases.get(network, ()))


def render_hosts(
    own: Member, members: Iterable[Member], *, base: str = LOCALHOST, every_network: bool = False
) -> str:
    """``/etc/hosts`` for ``own``: its host name, and all members (itself too) on the networks it shares.

    A service's name stands on a line for each of its replicas, and a resolver that reads several lines
    (musl, and glibc with ``multi on`` as in :data:`HOST_CONF`) returns them all.

    :param base: the first lines; the host's own file for a container in host mode.
    :param every_network: name members of all networks, as a container in host mode reaches them all.
    """
    networks = None if every_network else own.addresses.keys()
    return render_own(own, base=base, host_mode=every_network) + render_names(members, networks)


def render_own(own: Member, *, base: str = LOCALHOST, host_mode: bool = False) -> str:
    """The beginning of :func:`render_hosts`, which is different for every container."""
    start = base if not base or base.endswith("\n") else base + "\n"
    if own.addresses:
        return start + _line(next(iter(own.addresses.values())), (own.hostname, own.container))
    return start if host_mode else start + _line(IPv4Address("127.0.1.1"), (own.hostname,))


def render_names(members: Iterable[Member], networks: Collection[str] | None) -> str:
    """The rest of it, which is the same for all containers on the same networks (None: on every network)."""
    return "".join(
        _line(address, member.names(network))
        for member in sorted(members, key=lambda one: (one.service, one.replica, one.container))
        for network, address in member.addresses.items()
        if networks is None or network in networks
    )


#: ``/etc/host.conf``: without it glibc's gethostbyname returns only the first of a service's addresses.
HOST_CONF = "multi on\n"


def render_resolv_conf(host: str, upstream: str | None = None, *, egress: bool = True) -> str:
    """``/etc/resolv.conf`` for a container on a bridge: the host's, less the name servers out of its reach.

    Loopback name servers are the host's alone, and a container has no way out by IPv6, so both kinds are
    left out, as Docker does. Where nothing is left, ``upstream`` (``/run/systemd/resolve/resolv.conf``, on
    hosts where systemd-resolved listens on 127.0.0.53) is tried. Where nothing is left of that either, there
    is no name server at all and names outside the project fail at once: unlike Docker we do not send a
    user's queries to a public resolver that they never chose.

    :param egress: False for a container that only has internal networks: no name server is within reach.
    """
    for text in (host, upstream):
        if text is not None and egress and any(_servers(text)):
            return "".join(f"{line}\n" for line in text.splitlines() if _keep(line))
    options = [line for line in host.splitlines() if _keep(line) and _keyword(line) != "nameserver"]
    reason = (
        "none of the host's name servers can be reached from here" if egress else "internal networks only"
    )
    return "".join(f"{line}\n" for line in [f"# no name server: {reason}", *options])


def _line(address: IPv4Address, names: Iterable[str]) -> str:
    return f"{address}\t{' '.join(dict.fromkeys(names))}\n"


def _keyword(line: str) -> str:
    return (line.split() or [""])[0]


def _servers(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if _keyword(line) == "nameserver" and _keep(line))


def _keep(line: str) -> bool:
    """Whether a line of resolv.conf(5) means something inside a container."""
    words = line.split()
    if not words or words[0] != "nameserver":
        return bool(words) and not words[0].startswith(("#", ";"))
    try:
        address = ip_address(words[1])
    except (ValueError, IndexError):
        return False
    return address.version == 4 and not address.is_loopback and not address.is_unspecified
