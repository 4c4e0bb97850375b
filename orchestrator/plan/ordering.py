"""From decisions to a plan: which operation waits for which.

The phases, and within each what does not wait runs in parallel:

1. ``remove`` and ``stop``, dependants before their dependencies;
2. ``remove-network`` and ``remove-volume``, once nothing uses them;
3. ``create-network`` and ``create-volume``;
4. ``update``, ``create``, ``recreate``, ``start`` and ``restart``, dependencies before their dependants.

An operation only ever waits for an earlier phase, or for an earlier level of its own: a plan has no cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from orchestrator.ids import container_name
from orchestrator.plan.conditions import Outlook, judge
from orchestrator.plan.graph import dependency_graph, levels
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.plan.operations import Action, After, Operation, Plan
from orchestrator.spec import Condition, NetworkSpec, Port, ServiceSpec, VolumeSpec

_ENDINGS = frozenset({Action.REMOVE, Action.STOP})
_MAKINGS = frozenset({Action.CREATE, Action.RECREATE})
_INTERRUPTIONS = frozenset({Action.RECREATE, Action.RESTART})
_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One decision about one container.

    :param spec: what the container is to have, or has, afterwards.
    :param container: the one that exists; None when it is to be created.
    """

    action: Action
    service: str
    replica: int
    cause: str
    spec: ServiceSpec
    container: ObservedContainer | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the container, across its lives."""
        return self.service, self.replica

    @property
    def short_name(self) -> str:
        """For people: ``api-2``."""
        return f"{self.service}-{self.replica}"


@dataclass(frozen=True, slots=True)
class Objects:
    """Decisions about networks or volumes: name -> (cause, spec)."""

    remove: Mapping[str, str] = field(default_factory=dict)
    create: Mapping[str, tuple[str, NetworkSpec] | tuple[str, VolumeSpec]] = field(default_factory=dict)


NOTHING = Objects()


def networks_of(spec: ServiceSpec) -> frozenset[str]:
    """The networks that a container of this spec is attached to."""
    return frozenset(a.network for a in spec.networks) if spec.network_mode == "bridge" else frozenset()


def volumes_of(spec: ServiceSpec) -> frozenset[str]:
    """The volumes that a container of this spec mounts."""
    return frozenset(mount.source for mount in spec.mounts if mount.type == "volume")


def ports_clash(one: ServiceSpec, other: ServiceSpec) -> bool:
    """Whether containers of the two specs cannot have their published ports at the same time."""
    return any(_same_port(a, b) for a in one.ports if a.published for b in other.ports)


def _same_port(a: Port, b: Port) -> bool:
    return (a.published, a.protocol) == (b.published, b.protocol) and (
        a.host_ip == b.host_ip or not _ANY_ADDRESS.isdisjoint((a.host_ip, b.host_ip))
    )


def arrange(
    observed: ObservedProject,
    steps: Sequence[Step],
    networks: Objects = NOTHING,
    volumes: Objects = NOTHING,
) -> Plan:
    """The plan that carries out all decisions; see the module's text for its order."""
    endings = [step for step in steps if step.action in _ENDINGS]
    beginnings = [step for step in steps if step.action not in _ENDINGS]
    operations = [
        *_endings(observed, endings),
        *_removals(Action.REMOVE_NETWORK, networks, {s: networks_of(s.spec) for s in endings}),
        *_removals(Action.REMOVE_VOLUME, volumes, {s: volumes_of(s.spec) for s in endings}),
        *_creations(Action.CREATE_NETWORK, networks),
        *_creations(Action.CREATE_VOLUME, volumes),
        *_beginnings(observed, beginnings, endings, networks, volumes),
    ]
    return Plan(observed.name, tuple(operations))


def _endings(observed: ObservedProject, steps: Sequence[Step]) -> Iterable[Operation]:
    level = _levels(observed, ())
    dependants: dict[str, list[Step]] = {}
    for step in steps:
        for dependency in step.spec.depends_on:
            if level.get(dependency.service, 0) < level[step.service]:
                dependants.setdefault(dependency.service, []).append(step)
    for step in sorted(steps, key=lambda step: (-level[step.service], step.service, -step.replica)):
        yield _operation(observed, step, [After(_id(d)) for d in _sorted(dependants.get(step.service, ()))])


def _removals(action: Action, objects: Objects, users: Mapping[Step, frozenset[str]]) -> Iterable[Operation]:
    for name, cause in sorted(objects.remove.items()):
        after = tuple(After(_id(step)) for step in _sorted(users) if name in users[step])
        yield Operation(f"{action} {name}", action, name, cause, after=after)


def _creations(action: Action, objects: Objects) -> Iterable[Operation]:
    # A new network may take the subnet of one that goes.
    after = tuple(After(f"{Action.REMOVE_NETWORK} {name}") for name in sorted(objects.remove))
    for name, (cause, spec) in sorted(objects.create.items()):
        yield Operation(f"{action} {name}", action, name, cause, after=after, spec=spec)


def _beginnings(
    observed: ObservedProject,
    steps: Sequence[Step],
    endings: Sequence[Step],
    networks: Objects,
    volumes: Objects,
) -> Iterable[Operation]:
    level = _levels(observed, steps)
    gone = {step.key for step in endings}
    present: dict[str, dict[int, ObservedContainer | None]] = {}
    for container in observed.containers:
        if (container.service, container.replica) not in gone:
            present.setdefault(container.service, {})[container.replica] = container
    for step in steps:
        present.setdefault(step.service, {}).setdefault(step.replica, None)
    last: dict[tuple[str, int], str] = {
        step.key: _id(step) for step in steps
    }  # a later step replaces an earlier

    def dependencies(step: Step) -> Iterable[After]:
        for dependency in step.spec.depends_on:
            if level.get(dependency.service, 0) >= level[step.service]:
                continue
            for replica, container in sorted(present.get(dependency.service, {}).items()):
                operation = last.get((dependency.service, replica), "")
                if not operation and container is not None and _is_met(dependency.condition, container):
                    continue
                name = container_name(observed.name, dependency.service, replica)
                yield After(operation, name, dependency.condition, dependency.timeout, dependency.required)

    def makings(step: Step) -> Iterable[str]:
        yield from (
            f"{Action.CREATE_NETWORK} {n}" for n in sorted(networks_of(step.spec)) if n in networks.create
        )
        yield from (
            f"{Action.CREATE_VOLUME} {n}" for n in sorted(volumes_of(step.spec)) if n in volumes.create
        )
        yield from (_id(e) for e in endings if e.key == step.key or ports_clash(e.spec, step.spec))

    ordered = sorted(steps, key=lambda step: (level[step.service], step.service, step.replica))
    earlier = {b: _id(a) for a, b in pairwise(ordered) if a.key == b.key}
    for step in ordered:
        before = [earlier[step]] if step in earlier else []
        if step.action in _MAKINGS:
            before += makings(step)
        if step.action in _INTERRUPTIONS:  # whoever used it and goes, goes first
            before += (_id(e) for e in endings if any(d.service == step.service for d in e.spec.depends_on))
        waits = [After(operation) for operation in dict.fromkeys(before)]
        if step.action is not Action.UPDATE:
            waits += dependencies(step)
        yield _operation(observed, step, waits)


def _is_met(condition: Condition, container: ObservedContainer) -> bool:
    judgement = judge(condition, container.spec, container.state, container.health, container.exit_code)
    return judgement.outlook is Outlook.MET


def _levels(observed: ObservedProject, steps: Sequence[Step]) -> dict[str, int]:
    specs = {container.service: container.spec for container in observed.containers}
    specs.update((step.service, step.spec) for step in steps)
    return levels(dependency_graph(specs))


def _sorted(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: step.key)


def _id(step: Step) -> str:
    return f"{step.action} {step.short_name}"


def _operation(observed: ObservedProject, step: Step, after: Iterable[After]) -> Operation:
    return Operation(
        id=_id(step),
        action=step.action,
        target=container_name(observed.name, step.service, step.replica),
        cause=step.cause,
        service=step.service,
        replica=step.replica,
        container_id=step.container.id if step.container else None,
        after=tuple(after),
        spec=step.spec if step.action in _MAKINGS or step.action is Action.UPDATE else None,
    )
