"""What is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator import capabilities
from orchestrator.devices import Node
from orchestrator.spec import HOST, ServiceSpec
from orchestrator.views import FindingView, IsolationView, Severity

#: First id inside, first id outside, how many.
Extents = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class HostPaths:
    """What is behind the host's paths that a spec names.

    :param real: path -> the same without symbolic links, where it differs.
    :param sockets: paths that are Unix sockets.
    :param nodes: path of ``devices`` -> the device nodes that it stands for.
    """

    real: Mapping[str, str] = field(default_factory=dict)
    sockets: frozenset[str] = frozenset()
    nodes: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InForce:
    """A container's facts: what orch decided where its spec leaves it open, and what the kernel says.

    :param uid_map: of its user namespace, as orch made it; empty when it is in the host's. ``gid_map`` likewise.
    :param partners: kind of namespace -> the containers that share it because a manifest says so.
    :param fellows: path of the host -> containers of other projects that mount it too.
    :param label: SELinux context or AppArmor profile that it was given; "" for none.
    :param label_note: why it has less than the host could give.
    :param limits: ``memory`` (bytes) and ``pids`` as the kernel has them; None when it has none. Empty when unknown.
    """

    isolation: IsolationView
    uid_map: Extents = ()
    gid_map: Extents = ()
    partners: Mapping[str, frozenset[str]] = field(default_factory=dict)
    fellows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label: str = ""
    label_note: str = ""
    limits: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """A service of a manifest, or a container of it.

    :param force: None when nothing has been made yet; then what a spec leaves to orch counts as granted.
    :param inherited: kinds of namespaces (``user`` too) that are the host's because those it shares are.
    """

    spec: ServiceSpec
    host: HostPaths = HostPaths()
    force: InForce | None = None
    inherited: frozenset[str] = frozenset()

    @property
    def own_ids(self) -> bool:
        """Whether its ids are not the host's, because it has a user namespace."""
        if self.force:
            return bool(self.force.uid_map)
        return self.spec.userns.mode != HOST and self.has("mnt") and "user" not in self.inherited

    @property
    def is_root(self) -> bool:
        """Whether its program is root, as it counts itself. A name is what it is usually called."""
        return (self.spec.user or "root").partition(":")[0] in ("root", "0")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What its programs may come to hold."""
        return capabilities.granted(self.spec.cap_add, self.spec.cap_drop)

    def has(self, kind: str) -> bool:
        """Whether its namespace of this kind is not the host's."""
        return self.spec.namespaces[kind] != HOST and kind not in self.inherited

    def real(self, path: str) -> str:
        """A path of the host without symbolic links, as far as that is known."""
        return self.host.real.get(path, path)


def inherited(spec: ServiceSpec, services: Mapping[str, ServiceSpec]) -> frozenset[str]:
    """Which namespaces a service has from the host by way of the services whose it shares. Pure."""
    found = set()
    for kind in spec.shared:
        end, seen = spec, {spec.name}
        while (sharing := end.shared.get(kind)) and sharing.kind == "service" and sharing.name not in seen:
            seen.add(sharing.name)
            end = services.get(sharing.name, end)
        if end.namespaces[kind] == HOST:
            found.add(kind)
        if end is not spec and (end.userns.mode == HOST or end.mnt == HOST):
            found.add("user")
    return frozenset(found)


#: A rule: the findings that a subject has.
Rule = Callable[[Subject], Iterator[FindingView]]


def finding(severity: Severity, key: str, what: str, why: str, remedy: str) -> FindingView:
    """A finding, with its words in their order."""
    return FindingView(severity=severity, key=key, what=what, why=why, remedy=remedy)
