"""What ``up`` has to do: the difference between what is wanted and what is there.

- A container whose spec is unchanged and that runs is left alone, so ``up`` is idempotent. A paused one counts
  as running: whoever paused it will unpause it.
- Keys that can be changed under a running program are updated in place, any other change recreates the
  container, and ``replicas`` adds or removes the highest numbers.
- A dependant of a container that is recreated or restarted is restarted too, in dependency order and
  transitively, and a completed job that depends on it runs again.
- A completed job is left alone. So is a service that has exited with 0 and that others wait for to complete:
  Compose files write their jobs like that. Anything else that has ended is started.
- A network whose addresses changed takes all of its containers with it: they are removed, and created anew
  when it is there again. So is a container whose published port or network another one is about to take.
- When services are named, only they and their dependencies are changed. Beyond them go only the orphans
  (services that are no longer wanted), the containers of a network that must be made anew, and those that ask
  for it by ``depends_on.X.restart``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import NotFoundError
from orchestrator.plan.changes import IN_PLACE, changed_keys, describe_changes, renewed_networks
from orchestrator.plan.conditions import describe_end, is_job
from orchestrator.plan.graph import closure, dependency_graph, levels
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.plan.operations import Action, Plan
from orchestrator.plan.ordering import Objects, Step, arrange, networks_of, ports_clash, volumes_of
from orchestrator.spec import Condition, ProjectSpec, ServiceSpec, VolumeSpec
from orchestrator.states import ENDED, State

#: How a dependant's cause names what happens to its dependency.
_DISTURBANCE = {Action.RECREATE: "recreated", Action.RESTART: "restarted", Action.START: "started again"}


@dataclass(frozen=True, slots=True)
class Options:
    """What ``up`` was asked for.

    :param services: these and their dependencies; empty means all.
    :param force_recreate: recreate the named services even if nothing changed.
    :param remove_orphans: remove containers of services that are no longer wanted.
    """

    services: tuple[str, ...] = ()
    force_recreate: bool = False
    remove_orphans: bool = True


def reconcile(desired: ProjectSpec, observed: ObservedProject | None, options: Options = Options()) -> Plan:
    """The plan of ``up``; empty when there is nothing to do.

    :raises NotFoundError: when ``options`` names a service that is not wanted.
    """
    observed = observed or ObservedProject(desired.name)
    if unknown := sorted(set(options.services) - desired.services.keys()):
        what = f'no service "{unknown[0]}" in project "{desired.name}"'
        raise NotFoundError(what, remedy=f"it has {', '.join(sorted(desired.services))}")
    selected, renewed = _scope(desired, observed, options)
    steps = _decide(desired, observed, options, selected, renewed)
    networks = _networks(desired, observed, renewed, steps)
    return arrange(
        observed, _make_room(observed, networks, steps), networks, _volumes(desired, observed, selected)
    )


def runs_to_completion(services: Mapping[str, ServiceSpec]) -> frozenset[str]:
    """The services that are meant to end: jobs, and whatever another service waits for to complete."""
    awaited = {
        dependency.service
        for spec in services.values()
        for dependency in spec.depends_on
        if dependency.condition is Condition.COMPLETED
    }
    return frozenset(awaited | {name for name, spec in services.items() if is_job(spec)})


def _scope(
    desired: ProjectSpec, observed: ObservedProject, options: Options
) -> tuple[set[str], dict[str, str]]:
    """The services to look at, and the networks to make anew (or again) under existing containers: name -> cause."""
    graph = dependency_graph(desired.services)
    selected = closure(graph, options.services or desired.services)
    while True:
        used = {name for service in selected for name in networks_of(desired.services[service])}
        wanted = {name: desired.networks[name] for name in sorted(used & desired.networks.keys())}
        renewed = renewed_networks(wanted, observed.networks)
        attached = {c.service for c in observed.containers if not networks_of(c.spec).isdisjoint(renewed)}
        found = closure(graph, attached) - selected
        if not found:
            return selected, renewed
        selected |= found


def _decide(
    desired: ProjectSpec,
    observed: ObservedProject,
    options: Options,
    selected: set[str],
    renewed: Mapping[str, str],
) -> list[Step]:
    forced = (set(options.services) or selected) if options.force_recreate else set()
    to_completion = runs_to_completion(desired.services)
    containers: dict[str, dict[int, ObservedContainer]] = {}
    for container in observed.containers:
        containers.setdefault(container.service, {})[container.replica] = container
    specs = {container.service: container.spec for container in observed.containers}
    specs |= {service: desired.services[service] for service in selected}

    steps: list[Step] = []
    disturbed: dict[str, str] = {}  # service -> what happens to it
    level = levels(dependency_graph(specs))
    for service in sorted(specs, key=lambda service: (level[service], service)):
        existing = containers.get(service, {})
        if service not in desired.services and options.remove_orphans:
            steps += (_step(Action.REMOVE, c, "no longer in the manifest") for c in existing.values())
            continue
        spec = specs[service]
        disturbance = _disturbance(spec, disturbed, only_if_asked=service not in selected)
        decided: list[Step] = []
        if service in selected:
            for replica in range(1, spec.replicas + 1):
                if replica not in existing:
                    decided.append(Step(Action.CREATE, service, replica, "does not exist", spec))
                    continue
                container = existing[replica]
                causes = _reasons_to_recreate(container, spec, renewed, service in forced)
                if causes:
                    decided.append(_step(Action.RECREATE, container, causes, spec))
                    continue
                if keys := changed_keys(container.spec, spec):
                    decided.append(_step(Action.UPDATE, container, describe_changes(keys), spec))
                decided += _run(container, spec, disturbance, may_end=service in to_completion)
            steps += (
                _step(Action.REMOVE, container, f"scaled to {spec.replicas}")
                for replica, container in existing.items()
                if not 1 <= replica <= spec.replicas
            )
        else:
            for container in existing.values():
                if causes := _reasons_to_recreate(container, container.spec, renewed, forced=False):
                    decided.append(_step(Action.RECREATE, container, causes))
                elif disturbance and container.state not in ENDED:
                    decided.append(_step(Action.RESTART, container, disturbance))
        actions = {step.action for step in decided if step.action is not Action.START or disturbance}
        for action, word in _DISTURBANCE.items():
            if action in actions:
                disturbed[service] = word
                break
        steps += decided
    return steps


def _reasons_to_recreate(
    container: ObservedContainer, spec: ServiceSpec, renewed: Mapping[str, str], forced: bool
) -> str:
    keys = changed_keys(container.spec, spec)
    causes = [describe_changes(keys)] if keys - IN_PLACE else []
    causes += [
        f"network {name} {renewed[name]}" for name in sorted(networks_of(container.spec) & renewed.keys())
    ]
    return "; ".join(causes) or ("forced" if forced else "")


def _run(container: ObservedContainer, spec: ServiceSpec, disturbance: str, may_end: bool) -> Iterable[Step]:
    """What makes a container run that is not recreated."""
    if may_end and container.completed:
        if disturbance:
            yield _step(Action.START, container, disturbance, spec)
    elif container.state in ENDED:
        cause = f"not running: {describe_end(container.state, container.exit_code)}"
        yield _step(Action.START, container, cause, spec)
    elif container.state in (State.PENDING, State.STOPPING):
        yield _step(Action.START, container, f"not running: {container.state}", spec)
    elif disturbance:
        yield _step(Action.RESTART, container, disturbance, spec)


def _disturbance(spec: ServiceSpec, disturbed: Mapping[str, str], only_if_asked: bool) -> str:
    return "; ".join(
        f"dependency {dependency.service} is {disturbed[dependency.service]}"
        for dependency in spec.depends_on
        if dependency.service in disturbed and (dependency.restart or not only_if_asked)
    )


def _networks(
    desired: ProjectSpec, observed: ObservedProject, renewed: Mapping[str, str], steps: Sequence[Step]
) -> Objects:
    leaving = {step.key for step in steps if step.action in (Action.REMOVE, Action.RECREATE)}
    needed = [*desired.services.values(), *(step.spec for step in steps if step.action is Action.RECREATE)]
    needed += [c.spec for c in observed.containers if (c.service, c.replica) not in leaving]
    unused = observed.networks.keys() - {name for spec in needed for name in networks_of(spec)}
    remove = dict.fromkeys(unused, "not used any more")
    remove |= {name: cause for name, cause in renewed.items() if name in observed.networks}
    return Objects(remove, {name: (cause, desired.networks[name]) for name, cause in renewed.items()})


def _volumes(desired: ProjectSpec, observed: ObservedProject, selected: set[str]) -> Objects:
    wanted = {name for service in selected for name in volumes_of(desired.services[service])}
    return Objects(
        create={
            name: ("does not exist", desired.volumes.get(name, VolumeSpec(name=name)))
            for name in wanted - observed.volumes
        }
    )


def _make_room(observed: ObservedProject, networks: Objects, steps: list[Step]) -> list[Step]:
    """Take recreations apart whose container must be gone before something else can be made."""
    result: list[Step] = []
    makings = [step for step in steps if step.action in (Action.CREATE, Action.RECREATE)]
    for step in steps:
        container = step.container
        if step.action is Action.RECREATE and container is not None:
            on_removed_network = not networks_of(container.spec).isdisjoint(networks.remove)
            old = container.spec
            if on_removed_network or any(m.key != step.key and ports_clash(old, m.spec) for m in makings):
                result.append(_step(Action.REMOVE, container, step.cause))
                result.append(Step(Action.CREATE, step.service, step.replica, step.cause, step.spec))
                continue
        result.append(step)
    return result


def _step(action: Action, container: ObservedContainer, cause: str, spec: ServiceSpec | None = None) -> Step:
    return Step(action, container.service, container.replica, cause, spec or container.spec, container)
