"""Plans of random projects, checked by carrying them out on a model."""

from __future__ import annotations

import graphlib
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.changes import IN_PLACE
from orchestrator.plan.conditions import Judgement, Outlook, judge
from orchestrator.plan.lifecycle import bring_down, restart_plan, start_plan, stop_plan
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.plan.operations import Action, After, Operation, Plan
from orchestrator.plan.ordering import networks_of, ports_clash, volumes_of
from orchestrator.plan.reconcile import Options, reconcile
from orchestrator.spec import (
    Attachment,
    Condition,
    Dependency,
    ExecCheck,
    Healthcheck,
    Mount,
    NetworkSpec,
    Port,
    ProjectSpec,
    Resources,
    ServiceSpec,
    VolumeSpec,
)
from orchestrator.states import ENDED, Health, State

NAMES = ("a", "b", "c", "d", "e")
BEGINNINGS = {Action.CREATE, Action.START, Action.RECREATE, Action.RESTART}


@st.composite
def projects(draw: st.DrawFn) -> ProjectSpec:
    order = draw(st.permutations(NAMES))[: draw(st.integers(0, len(NAMES)))]
    ports = draw(st.permutations(range(8000, 8010)))
    services: dict[str, ServiceSpec] = {}
    for index, name in enumerate(order):
        needs = draw(st.lists(st.sampled_from(order[:index]), unique=True)) if index else []
        services[name] = ServiceSpec(
            name=name,
            kind=draw(st.sampled_from(["service", "service", "job"])),
            image=draw(st.sampled_from(["host", "dir:/srv/x"])),
            replicas=draw(st.integers(0, 3)),
            networks=tuple(Attachment(network=n) for n in draw(st.sets(st.sampled_from(["front", "back"])))),
            mounts=(Mount(type="volume", source="data", target="/d"),) if draw(st.booleans()) else (),
            resources=Resources(pids=draw(st.sampled_from([None, 50]))),
            healthcheck=Healthcheck(test=ExecCheck(command=("true",))) if draw(st.booleans()) else None,
            depends_on=tuple(
                Dependency(
                    service=need,
                    restart=draw(st.booleans()),
                    condition=Condition.COMPLETED
                    if services[need].kind == "job"
                    else draw(st.sampled_from([Condition.STARTED, Condition.HEALTHY])),
                )
                for need in needs
            ),
        )
        if services[name].replicas == 1 and draw(st.booleans()):
            services[name] = msgspec.structs.replace(
                services[name], ports=(Port(target=80, published=ports[index]),)
            )
    subnets = draw(st.permutations([None, "10.1.0.0/24", "10.2.0.0/24"]))
    return ProjectSpec(
        name="shop",
        services=services,
        networks={
            name: NetworkSpec(name=name, subnet=subnets[index])
            for index, name in enumerate(("front", "back"))
        },
        volumes={"data": VolumeSpec(name="data")},
    )


class Host:
    """A model of the host that carries out a plan and refuses what a real one would refuse."""

    def __init__(self, observed: ObservedProject) -> None:
        self.name = observed.name
        self.containers = {container.name: container for container in observed.containers}
        self.networks = dict(observed.networks)
        self.volumes = set(observed.volumes)

    def observe(self) -> ObservedProject:
        return ObservedProject(
            self.name, tuple(self.containers.values()), dict(self.networks), frozenset(self.volumes)
        )

    def carry_out(self, plan: Plan) -> ObservedProject:
        for operation in plan.operations:
            if operation.action in BEGINNINGS:
                self.check_dependencies(operation)
            getattr(self, operation.action.replace("-", "_"))(operation)
        return self.observe()

    def check_dependencies(self, operation: Operation) -> None:
        for after in operation.after:
            if after.condition and self.judge(after).outlook is Outlook.WAIT and not after.operation:
                self.run(self.containers[after.container])  # it arrives by itself, meanwhile
            if after.condition:
                judgement = self.judge(after)
                assert judgement.outlook is Outlook.MET, f"{operation}: {after.container} {judgement.reason}"

    def judge(self, after: After) -> Judgement:
        on = self.containers[after.container]
        assert after.condition is not None
        return judge(after.condition, on.spec, on.state, on.health, on.exit_code)

    def run(self, container: ObservedContainer) -> None:
        if container.spec.kind == "job":
            done = replace(container, state=State.EXITED, exit_code=0, health=Health.NONE)
            self.containers[container.name] = done
        else:
            health = Health.HEALTHY if container.spec.healthcheck else Health.NONE
            self.containers[container.name] = replace(
                container, state=State.RUNNING, exit_code=None, health=health
            )

    def create(self, operation: Operation) -> None:
        assert operation.target not in self.containers
        spec = operation.spec
        assert isinstance(spec, ServiceSpec)
        assert networks_of(spec) <= self.networks.keys()
        assert volumes_of(spec) <= self.volumes
        assert not any(ports_clash(spec, other.spec) for other in self.containers.values())
        self.run(
            ObservedContainer(
                f"id-{operation.target}",
                operation.target,
                operation.service,
                operation.replica,
                spec,
                State.PENDING,
            )
        )

    def recreate(self, operation: Operation) -> None:
        self.remove(operation)
        self.create(operation)

    def start(self, operation: Operation) -> None:
        container = self.containers[operation.target]
        assert container.state in ENDED or container.state in (State.PENDING, State.STOPPING)
        self.run(container)

    def restart(self, operation: Operation) -> None:
        self.run(self.containers[operation.target])

    def update(self, operation: Operation) -> None:
        container = self.containers[operation.target]
        assert isinstance(operation.spec, ServiceSpec)
        for key in set(ServiceSpec.__struct_fields__) - IN_PLACE - {"replicas"}:
            assert getattr(operation.spec, key) == getattr(container.spec, key)
        self.containers[container.name] = replace(container, spec=operation.spec)

    def stop(self, operation: Operation) -> None:
        container = self.containers[operation.target]
        assert container.state not in ENDED
        self.containers[container.name] = replace(container, state=State.EXITED, exit_code=143)

    def remove(self, operation: Operation) -> None:
        assert self.containers.pop(operation.target).id == operation.container_id

    def create_network(self, operation: Operation) -> None:
        assert operation.target not in self.networks
        assert isinstance(operation.spec, NetworkSpec)
        taken = {network.subnet for network in self.networks.values()} - {None}
        assert operation.spec.subnet not in taken
        self.networks[operation.target] = operation.spec

    def remove_network(self, operation: Operation) -> None:
        del self.networks[operation.target]
        assert not any(operation.target in networks_of(c.spec) for c in self.containers.values())

    def create_volume(self, operation: Operation) -> None:
        assert operation.target not in self.volumes
        self.volumes.add(operation.target)

    def remove_volume(self, operation: Operation) -> None:
        self.volumes.remove(operation.target)
        assert not any(operation.target in volumes_of(c.spec) for c in self.containers.values())


def brought_up(desired: ProjectSpec) -> ObservedProject:
    return Host(ObservedProject(desired.name)).carry_out(reconcile(desired, None))


@st.composite
def observed_projects(draw: st.DrawFn) -> ObservedProject:
    """A project that was brought up, of which some containers have ended, stalled or are gone since."""
    observed = brought_up(draw(projects()))
    ends = [(state, code) for state in State for code in ((0, 1, None) if state in ENDED else (None,))]
    containers = []
    for container in observed.containers:
        fate = draw(st.sampled_from(["same", "same", "same", "gone", "changed"]))
        if fate == "changed":
            state, exit_code = draw(st.sampled_from(ends))
            containers.append(replace(container, state=state, exit_code=exit_code, health=Health.NONE))
        elif fate == "same":
            containers.append(container)
    return replace(observed, containers=tuple(containers))


def assert_well_formed(plan: Plan) -> None:
    """Ids are unique, every cause is given, and whatever is waited for is there and comes earlier."""
    seen: set[str] = set()
    for operation in plan.operations:
        assert operation.cause
        assert operation.id not in seen
        for after in operation.after:
            assert after.operation in seen or (not after.operation and after.container)
        seen.add(operation.id)
    view = plan.to_view()
    graphlib.TopologicalSorter({operation.id: operation.after for operation in view.operations}).prepare()


def settle(observed: ObservedProject) -> ObservedProject:
    """What waits by itself has arrived: nothing is starting, stopping or about to restart any more."""
    moving = (State.STARTING, State.RESTARTING, State.PAUSED)
    host = Host(observed)
    for container in observed.containers:
        if container.state in moving or (
            container.state is State.RUNNING and container.spec.kind == "service"
        ):
            host.run(container)
    return host.observe()


@given(projects())
def test_first_up_is_well_formed_and_enough(desired: ProjectSpec) -> None:
    plan = reconcile(desired, None)
    assert_well_formed(plan)
    observed = brought_up(desired)
    assert not reconcile(desired, observed)
    assert len(observed.containers) == sum(spec.replicas for spec in desired.services.values())


@settings(max_examples=300)
@given(observed_projects(), projects(), st.booleans())
def test_up_leads_from_anywhere_to_the_manifest(
    observed: ObservedProject, desired: ProjectSpec, force: bool
) -> None:
    observed = settle(observed)
    plan = reconcile(desired, observed, Options(force_recreate=force))
    assert_well_formed(plan)
    after = settle(Host(observed).carry_out(plan))
    assert not reconcile(desired, after), reconcile(desired, after).render()
    assert {(c.service, c.replica) for c in after.containers} == {
        (spec.name, replica) for spec in desired.services.values() for replica in range(1, spec.replicas + 1)
    }


@given(observed_projects(), projects(), st.data())
def test_named_services_are_enough_for_themselves(
    observed: ObservedProject, desired: ProjectSpec, data: st.DataObject
) -> None:
    named = data.draw(st.sets(st.sampled_from(sorted(desired.services)))) if desired.services else set()
    options = Options(services=tuple(named), remove_orphans=data.draw(st.booleans()))
    plan = reconcile(desired, observed, options)
    assert_well_formed(plan)


@given(observed_projects(), st.booleans())
def test_down_leaves_nothing(observed: ObservedProject, volumes: bool) -> None:
    plan = bring_down(observed, volumes=volumes)
    assert_well_formed(plan)
    after = Host(observed).carry_out(plan)
    assert not after.containers
    assert not after.networks
    assert after.volumes == (set() if volumes else observed.volumes)


@given(observed_projects(), st.data())
def test_other_commands_are_well_formed_and_reach_their_aim(
    observed: ObservedProject, data: st.DataObject
) -> None:
    services = sorted({container.service for container in observed.containers})
    named = data.draw(st.sets(st.sampled_from(services))) if services else set()
    for plan in (
        start_plan(observed, named),
        restart_plan(observed, named),
        bring_down(observed, True, named),
    ):
        assert_well_formed(plan)
    stop = stop_plan(observed, named)
    assert_well_formed(stop)
    after = Host(observed).carry_out(stop)
    assert all(c.state in ENDED for c in after.containers if not named or c.service in named)
    assert not stop_plan(after, named)


@given(projects())
def test_dependants_wait_for_all_replicas_of_their_dependencies(desired: ProjectSpec) -> None:
    plan = reconcile(desired, None)
    for operation in plan.operations:
        if operation.action is Action.CREATE:
            awaited = {(after.operation, after.condition) for after in operation.after if after.condition}
            assert awaited == {
                (f"create {need.service}-{replica}", need.condition)
                for need in desired.services[operation.service].depends_on
                for replica in range(1, desired.services[need.service].replicas + 1)
            }


@given(projects().filter(lambda project: project.services), st.data())
def test_one_changed_key_touches_only_its_service_and_dependants(
    desired: ProjectSpec, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(desired.services)))
    old = desired.services[name]
    changed = data.draw(
        st.sampled_from(
            [
                msgspec.structs.replace(old, environment={"NEW": "1"}),
                msgspec.structs.replace(old, labels={"new": "1"}),
                msgspec.structs.replace(old, user="7"),
                msgspec.structs.replace(old, replicas=4, ports=()),
            ]
        )
    )
    plan = reconcile(
        msgspec.structs.replace(desired, services={**desired.services, name: changed}), brought_up(desired)
    )
    dependants = {name}
    for _ in NAMES:
        dependants |= {
            spec.name
            for spec in desired.services.values()
            if dependants & {d.service for d in spec.depends_on}
        }
    assert {operation.service for operation in plan.operations} <= dependants
    for operation in plan.operations:
        if operation.service != name:
            assert operation.cause.startswith("dependency ")
