"""``up``: plans compared as text."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.errors import NotFoundError
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.plan.reconcile import Options, reconcile
from orchestrator.spec import (
    Attachment,
    Condition,
    Dependency,
    Mount,
    NetworkSpec,
    Port,
    ProjectSpec,
    Resources,
    ServiceSpec,
    VolumeSpec,
)
from orchestrator.states import Health, State

DEFAULT = (Attachment(network="default"),)


def service(name: str, *needs: str | Dependency, **keys: object) -> ServiceSpec:
    depends_on = tuple(Dependency(service=need) if isinstance(need, str) else need for need in needs)
    return msgspec.structs.replace(
        ServiceSpec(name=name, command=(name,), networks=DEFAULT, depends_on=depends_on), **keys
    )


def project(*services: ServiceSpec, subnet: str | None = None) -> ProjectSpec:
    volumes = {mount.source for spec in services for mount in spec.mounts if mount.type == "volume"}
    return ProjectSpec(
        name="shop",
        services={spec.name: spec for spec in services},
        networks={"default": NetworkSpec(name="default", subnet=subnet)},
        volumes={name: VolumeSpec(name=name) for name in volumes},
    )


def container(
    spec: ServiceSpec, replica: int = 1, state: State = State.RUNNING, exit_code: int | None = None
) -> ObservedContainer:
    name = f"{spec.name}-{replica}"
    health = Health.HEALTHY if spec.healthcheck else Health.NONE
    return ObservedContainer(f"id-{name}", f"shop-{name}", spec.name, replica, spec, state, health, exit_code)


def running(desired: ProjectSpec, *but: ObservedContainer) -> ObservedProject:
    """What is there after ``desired`` was brought up, with some containers in another state."""
    containers = {}
    for spec in desired.services.values():
        for replica in range(1, spec.replicas + 1):
            one = container(spec, replica)
            if spec.kind == "job":
                one = container(spec, replica, State.EXITED, exit_code=0)
            containers[one.name] = one
    containers.update((one.name, one) for one in but)
    return ObservedProject(
        desired.name, tuple(containers.values()), desired.networks, frozenset(desired.volumes)
    )


def plan(desired: ProjectSpec, observed: ObservedProject | None, **options: object) -> list[str]:
    return reconcile(desired, observed, Options(**options)).render().splitlines()  # type: ignore[arg-type]


def test_first_up_makes_everything_in_dependency_order() -> None:
    store = service("store", mounts=(Mount(type="volume", source="data", target="/data"),))
    migrate = service("migrate", Dependency(service="store", condition=Condition.HEALTHY), kind="job")
    api = service(
        "api", Dependency(service="migrate", condition=Condition.COMPLETED, timeout=30.0), replicas=2
    )
    assert plan(project(api, migrate, store), None) == [
        "create-network default: does not exist",
        "create-volume data: does not exist",
        "create store-1: does not exist (after create-network default; create-volume data)",
        "create migrate-1: does not exist (after create-network default; "
        "create store-1, shop-store-1 healthy within 5m)",
        "create api-1: does not exist (after create-network default; "
        "create migrate-1, shop-migrate-1 completed within 30s)",
        "create api-2: does not exist (after create-network default; "
        "create migrate-1, shop-migrate-1 completed within 30s)",
    ]


def test_services_that_need_nothing_of_each_other_do_not_wait() -> None:
    operations = reconcile(project(service("a"), service("b")), None).operations
    assert {after.operation for operation in operations for after in operation.after} == {
        "create-network default"
    }


def test_second_up_has_nothing_to_do() -> None:
    desired = project(service("db"), service("api", "db", replicas=3), service("job", "db", kind="job"))
    assert not reconcile(desired, running(desired))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("environment", {"A": "1"}),
        ("image", "dir:/srv/x"),
        ("ports", (Port(target=80, published=8080),)),
        ("init", True),
    ],
)
def test_change_recreates(key: str, value: object) -> None:
    desired = project(service("api", **{key: value}), service("other"))
    observed = running(project(service("api"), service("other")))
    assert plan(desired, observed) == [f"recreate api-1: {key} changed"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resources", Resources(memory=1 << 26)),
        ("device_cgroup_rules", ("c 1:3 r",)),
        ("labels", {"a": "b"}),
        ("stop_grace_period", 3.0),
        ("depends_on", (Dependency(service="other"),)),
    ],
)
def test_change_that_the_program_need_not_notice_updates_in_place(key: str, value: object) -> None:
    desired = project(service("api", **{key: value}), service("web", "api"), service("other"))
    observed = running(project(service("api"), service("web", "api"), service("other")))
    assert plan(desired, observed) == [f"update api-1: {key} changed"]


def test_cause_names_all_changed_keys() -> None:
    desired = project(service("api", image="dir:/srv/x", environment={"A": "1"}, labels={"a": "b"}))
    assert plan(desired, running(project(service("api")))) == [
        "recreate api-1: environment, image, labels changed"
    ]


def test_dependants_of_recreated_container_restart_transitively() -> None:
    old = [service("web", "api"), service("other")]
    api = service("api", Dependency(service="db", condition=Condition.HEALTHY, required=False))
    observed = running(project(service("db"), api, *old))
    assert plan(project(service("db", user="1"), api, *old), observed) == [
        "recreate db-1: user changed",
        "restart api-1: dependency db is recreated (after recreate db-1, shop-db-1 healthy within 5m if possible)",
        "restart web-1: dependency api is restarted (after restart api-1, shop-api-1 started within 5m)",
    ]


def test_completed_job_runs_again_when_its_dependency_is_recreated() -> None:
    job = service("job", "db", kind="job")
    api = service("api", Dependency(service="job", condition=Condition.COMPLETED))
    observed = running(project(service("db"), job, api))
    assert plan(project(service("db", user="1"), job, api), observed) == [
        "recreate db-1: user changed",
        "start job-1: dependency db is recreated (after recreate db-1, shop-db-1 started within 5m)",
        "restart api-1: dependency job is started again (after start job-1, shop-job-1 completed within 5m)",
    ]


@pytest.mark.parametrize(("replicas", "expected"), [
    (4, ["create api-3: does not exist", "create api-4: does not exist"]),
    (1, ["remove api-2: scaled to 1"]),
    (0, ["remove api-2: scaled to 0", "remove api-1: scaled to 0"]),
])  # fmt: skip
def test_replicas_change_only_the_highest_numbers(replicas: int, expected: list[str]) -> None:
    observed = running(project(service("api", replicas=2), service("web", "api")))
    assert plan(project(service("api", replicas=replicas), service("web", "api")), observed) == expected


@pytest.mark.parametrize(("state", "exit_code", "cause"), [
    (State.EXITED, 1, "exited (1)"),
    (State.EXITED, 0, "exited (0)"),
    (State.FAILED, None, "failed"),
    (State.FAILED, 127, "failed (127)"),
    (State.PENDING, None, "pending"),
])  # fmt: skip
def test_service_that_does_not_run_is_started(state: State, exit_code: int | None, cause: str) -> None:
    desired = project(service("db"), service("api", "db"))
    observed = running(desired, container(service("db"), state=state, exit_code=exit_code))
    assert plan(desired, observed) == [f"start db-1: not running: {cause}"]


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.PAUSED, State.RESTARTING])
def test_service_that_runs_or_is_about_to_is_left_alone(state: State) -> None:
    desired = project(service("db"))
    assert not reconcile(desired, running(desired, container(service("db"), state=state)))


def test_failed_job_is_started_again_and_a_completed_one_is_not() -> None:
    desired = project(service("bad", kind="job"), service("good", kind="job"))
    observed = running(desired, container(desired.services["bad"], state=State.EXITED, exit_code=3))
    assert plan(desired, observed) == ["start bad-1: not running: exited (3)"]


def test_service_that_others_wait_for_to_complete_counts_as_a_job() -> None:
    init = service("init")
    desired = project(init, service("api", Dependency(service="init", condition=Condition.COMPLETED)))
    assert not reconcile(desired, running(desired, container(init, state=State.EXITED, exit_code=0)))


def test_update_of_a_stopped_container_comes_before_its_start() -> None:
    old = service("api")
    observed = running(project(old), container(old, state=State.EXITED, exit_code=1))
    assert plan(project(service("api", labels={"a": "b"})), observed) == [
        "update api-1: labels changed",
        "start api-1: not running: exited (1) (after update api-1)",
    ]


def test_untouched_dependency_that_does_not_meet_its_condition_yet_is_waited_for() -> None:
    db = service("db")
    desired = project(db, service("api", Dependency(service="db", condition=Condition.HEALTHY, timeout=9.0)))
    starting = ObservedContainer("x", "shop-db-1", "db", 1, db, State.RUNNING, Health.STARTING)
    observed = ObservedProject("shop", (starting,), desired.networks)
    assert plan(desired, observed) == ["create api-1: does not exist (after shop-db-1 healthy within 9s)"]


def test_orphans_go_first_and_dependants_before_dependencies() -> None:
    old = project(service("db"), service("api", "db"), service("web", "api"))
    assert plan(project(service("db", user="1")), running(old)) == [
        "remove web-1: no longer in the manifest",
        "remove api-1: no longer in the manifest (after remove web-1)",
        "recreate db-1: user changed (after remove api-1)",
    ]


def test_orphans_stay_when_asked() -> None:
    old = project(service("db"), service("api", "db"))
    assert not plan(project(service("db")), running(old), remove_orphans=False)


def test_changed_network_takes_its_containers_with_it() -> None:
    services = [service("db"), service("api", "db"), service("alone", network_mode="none")]
    observed = running(project(*services, subnet="10.1.0.0/24"))
    assert plan(project(*services, subnet="10.2.0.0/24"), observed) == [
        "remove api-1: network default subnet changed",
        "remove db-1: network default subnet changed (after remove api-1)",
        "remove-network default: subnet changed (after remove api-1; remove db-1)",
        "create-network default: subnet changed (after remove-network default)",
        "create db-1: network default subnet changed (after create-network default; remove db-1)",
        "create api-1: network default subnet changed (after create-network default; remove api-1; "
        "create db-1, shop-db-1 started within 5m)",
    ]


def test_subnet_left_to_orch_keeps_the_network() -> None:
    observed = running(project(service("db"), subnet="10.1.0.0/24"))
    assert not reconcile(project(service("db")), observed)


def test_network_gives_up_a_chosen_subnet_that_another_now_names() -> None:
    db = service("db")
    other = service("other", networks=(Attachment(network="other"),))
    desired = msgspec.structs.replace(
        project(db, other),
        networks={
            "default": NetworkSpec(name="default"),
            "other": NetworkSpec(name="other", subnet="10.1.0.0/16"),
        },
    )
    lines = plan(desired, running(project(db, subnet="10.1.2.0/24")))
    assert "remove-network default: gives its subnet to other (after remove db-1)" in lines
    assert "create-network other: does not exist (after remove-network default)" in lines


def test_changed_network_reaches_beyond_the_named_services() -> None:
    services = [service("db"), service("api")]
    observed = running(project(*services, subnet="10.1.0.0/24"))
    actions = plan(project(*services, subnet="10.2.0.0/24"), observed, services=("api",))
    assert "remove db-1: network default subnet changed" in actions
    assert any(line.startswith("create db-1") for line in actions)


def test_network_that_nobody_uses_any_more_is_removed() -> None:
    old = project(service("db"))
    desired = project(service("db", network_mode="host", networks=()))
    assert plan(desired, running(old)) == [
        "remove db-1: network_mode, networks changed",
        "remove-network default: not used any more (after remove db-1)",
        "create db-1: network_mode, networks changed (after remove db-1)",
    ]


def test_port_that_moves_to_another_service_is_given_up_first() -> None:
    http = (Port(target=80, published=8080),)
    anywhere = (Port(target=81, published=8080, host_ip="0.0.0.0"),)
    old = project(service("a", ports=http), service("b"))
    assert plan(project(service("a"), service("b", ports=anywhere)), running(old)) == [
        "remove a-1: ports changed",
        "create a-1: ports changed (after remove a-1)",
        "recreate b-1: ports changed (after remove a-1)",
    ]


def test_swapped_ports_make_no_deadlock() -> None:
    one, two = (Port(target=80, published=1),), (Port(target=80, published=2),)
    old = project(service("a", ports=one), service("b", ports=two))
    assert plan(project(service("a", ports=two), service("b", ports=one)), running(old)) == [
        "remove a-1: ports changed",
        "remove b-1: ports changed",
        "create a-1: ports changed (after remove a-1; remove b-1)",
        "create b-1: ports changed (after remove a-1; remove b-1)",
    ]


def test_named_services_bring_their_dependencies_and_nothing_else() -> None:
    desired = project(service("db"), service("api", "db"), service("web", "api"), service("other"))
    assert [line.split(":")[0] for line in plan(desired, None, services=("api",))] == [
        "create-network default",
        "create db-1",
        "create api-1",
    ]


def test_dependants_beyond_the_named_services_restart_only_if_they_asked() -> None:
    eager = service("eager", Dependency(service="db", restart=True))
    calm = service("calm", "db")
    observed = running(project(service("db"), eager, calm))
    desired = project(service("db", user="1"), eager, calm)
    assert plan(desired, observed, services=("db",)) == [
        "recreate db-1: user changed",
        "restart eager-1: dependency db is recreated (after recreate db-1, shop-db-1 started within 5m)",
    ]


def test_force_recreates_the_named_services_only() -> None:
    desired = project(service("db"), service("api", "db"))
    assert plan(desired, running(desired), services=("api",), force_recreate=True) == [
        "recreate api-1: forced"
    ]


def test_unknown_service_is_refused_by_name() -> None:
    with pytest.raises(NotFoundError, match=r'no service "wbe" in project "shop" \(it has db, web\)'):
        plan(project(service("db"), service("web")), None, services=("wbe",))


def test_cycle_does_not_stop_the_plan() -> None:
    names = [line.split(":")[0] for line in plan(project(service("a", "b"), service("b", "a")), None)]
    assert names == ["create-network default", "create a-1", "create b-1"]


def test_view_names_the_operations_that_are_waited_for() -> None:
    view = reconcile(project(service("db"), service("api", "db")), None).to_view()
    assert [(o.id, o.action, o.target, o.service, o.after) for o in view.operations] == [
        ("create-network default", "create-network", "default", "", []),
        ("create db-1", "create", "shop-db-1", "db", ["create-network default"]),
        ("create api-1", "create", "shop-api-1", "api", ["create-network default", "create db-1"]),
    ]
