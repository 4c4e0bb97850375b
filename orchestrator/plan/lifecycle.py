"""What the commands have to do that need no manifest: ``down``, ``stop``, ``start``, ``restart``, ``scale``.

They act upon the specs that the containers were started with. ``services`` may hold names of services and of
single containers; empty means all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain

from orchestrator.errors import NotFoundError
from orchestrator.plan.graph import closure, dependency_graph, levels
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.plan.operations import Action, Plan
from orchestrator.plan.ordering import Objects, Step, arrange, networks_of, volumes_of
from orchestrator.plan.reconcile import runs_to_completion
from orchestrator.spec import ProjectSpec, ServiceSpec
from orchestrator.states import ENDED, State

_REQUESTED = "requested"


def bring_down(observed: ObservedProject, volumes: bool = False, services: Collection[str] = ()) -> Plan:
    """Remove containers, dependants first, then the networks (and, if asked, volumes) that nothing uses any more.

    With ``services``, only the volumes that their containers mount are removed.

    :raises NotFoundError: when ``services`` names what does not exist.
    """
    removed = _select(observed, services)
    ids = {container.id for container in removed}
    kept = [container for container in observed.containers if container.id not in ids]
    used_networks = set(chain.from_iterable(networks_of(container.spec) for container in kept))
    used_volumes = set(chain.from_iterable(volumes_of(container.spec) for container in kept))
    going_volumes = observed.volumes - used_volumes if volumes else frozenset()
    if services:
        going_volumes &= set(chain.from_iterable(volumes_of(container.spec) for container in removed))
    return arrange(
        observed,
        [_step(Action.REMOVE, container) for container in removed],
        networks=Objects(remove=dict.fromkeys(observed.networks.keys() - used_networks, _REQUESTED)),
        volumes=Objects(remove=dict.fromkeys(going_volumes, _REQUESTED)),
    )


def stop_plan(observed: ObservedProject, services: Collection[str] = ()) -> Plan:
    """Stop what has not ended, dependants first; only what is selected.

    :raises NotFoundError: when ``services`` names what does not exist.
    """
    running = [container for container in _select(observed, services) if container.state not in ENDED]
    return arrange(observed, [_step(Action.STOP, container) for container in running])


def start_plan(observed: ObservedProject, services: Collection[str] = ()) -> Plan:
    """Start what is selected and does not run, with the dependencies that it needs, dependencies first.

    A job that has completed runs again only if it is named.

    :raises NotFoundError: when ``services`` names what does not exist.
    """
    selected = _select(observed, services)
    ids = {container.id for container in selected}
    roots = {container.service for container in selected}
    specs = _specs(observed)
    to_completion = runs_to_completion(specs)
    needed = closure(dependency_graph(specs), roots) - roots
    steps = []
    for container in observed.containers:
        done = container.completed and container.service in to_completion
        if not _startable(container):
            continue
        if container.id in ids and (services or not done):
            steps.append(_step(Action.START, container))
        elif container.service in needed and not done:
            steps.append(_step(Action.START, container, "needed by what was requested"))
    return arrange(observed, steps)


def restart_plan(observed: ObservedProject, services: Collection[str] = ()) -> Plan:
    """Restart what is selected, and the dependants that ask for it by ``depends_on.X.restart``.

    What has ended is started, except completed jobs that were not named.

    :raises NotFoundError: when ``services`` names what does not exist.
    """
    selected = {container.id for container in _select(observed, services)}
    specs = _specs(observed)
    to_completion = runs_to_completion(specs)
    level = levels(dependency_graph(specs))
    restarted: set[str] = set()
    steps = []
    for container in sorted(observed.containers, key=lambda c: (level[c.service], c.service, c.replica)):
        asking = [d.service for d in container.spec.depends_on if d.restart and d.service in restarted]
        if container.id in selected:
            if container.completed and container.service in to_completion and not services:
                continue
            action = Action.START if _startable(container) else Action.RESTART
            steps.append(_step(action, container))
        elif asking and container.state not in ENDED:
            steps.append(_step(Action.RESTART, container, f"dependency {asking[0]} is restarted"))
        else:
            continue
        restarted.add(container.service)
    return arrange(observed, steps)


def scale(observed: ObservedProject, counts: Mapping[str, int], known: ProjectSpec | None = None) -> Plan:
    """Give services another number of containers: the missing low numbers are created, the highest removed.

    :param known: the project as it was last brought up, for services that have no container at the moment.
    :raises NotFoundError: for a service of which neither ``observed`` nor ``known`` has a spec.
    """
    specs = dict(known.services) if known else {}
    specs |= _specs(observed)
    steps = []
    for service, count in sorted(counts.items()):
        if service not in specs:
            raise _unknown(observed, service)
        existing = {c.replica: c for c in observed.containers if c.service == service}
        cause = f"scaled to {count}"
        steps += [
            Step(Action.CREATE, service, replica, cause, specs[service])
            for replica in range(1, count + 1)
            if replica not in existing
        ]
        steps += [_step(Action.REMOVE, c, cause) for replica, c in existing.items() if replica > count]
    return arrange(observed, steps)


def _select(observed: ObservedProject, services: Collection[str]) -> list[ObservedContainer]:
    names = {name for c in observed.containers for name in (c.service, c.name)}
    for name in services:
        if name not in names:
            raise _unknown(observed, name)
    return [c for c in observed.containers if not services or c.service in services or c.name in services]


def _unknown(observed: ObservedProject, name: str) -> NotFoundError:
    known = ", ".join(sorted({container.service for container in observed.containers}))
    return NotFoundError(
        f'no service or container "{name}" in project "{observed.name}"',
        remedy=f"it has {known}" if known else "",
    )


def _specs(observed: ObservedProject) -> dict[str, ServiceSpec]:
    return {container.service: container.spec for container in observed.containers}


def _startable(container: ObservedContainer) -> bool:
    return container.state in ENDED or container.state in (State.PENDING, State.STOPPING)


def _step(action: Action, container: ObservedContainer, cause: str = _REQUESTED) -> Step:
    return Step(action, container.service, container.replica, cause, container.spec, container)
