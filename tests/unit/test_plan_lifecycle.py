"""``down``, ``stop``, ``start``, ``restart`` and ``scale``: plans compared as text."""

from __future__ import annotations

import pytest

from orchestrator.errors import NotFoundError
from orchestrator.plan.lifecycle import bring_down, restart_plan, scale, start_plan, stop_plan
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.plan.operations import Plan
from orchestrator.spec import Attachment, Condition, Dependency, Mount, NetworkSpec, ProjectSpec, ServiceSpec
from orchestrator.states import State

DB = ServiceSpec(
    name="db",
    networks=(Attachment(network="back"),),
    mounts=(Mount(type="volume", source="data", target="/data"),),
)
API = ServiceSpec(name="api", networks=DB.networks, depends_on=(Dependency(service="db", restart=True),))
WEB = ServiceSpec(
    name="web", networks=(Attachment(network="front"),), depends_on=(Dependency(service="api"),)
)
JOB = ServiceSpec(name="job", kind="job", network_mode="none", depends_on=(Dependency(service="db"),))


def shop(*specs: ServiceSpec, state: State = State.RUNNING, exit_code: int | None = None) -> ObservedProject:
    containers = [
        ObservedContainer(
            f"id-{spec.name}", f"shop-{spec.name}-1", spec.name, 1, spec, state, exit_code=exit_code
        )
        for spec in specs
    ]
    networks = {name: NetworkSpec(name=name) for name in ("back", "front")}
    return ObservedProject("shop", tuple(containers), networks, frozenset({"data", "other"}))


def lines(plan: Plan) -> list[str]:
    return plan.render().splitlines()


def test_down_removes_dependants_first_then_networks_and_keeps_volumes() -> None:
    assert lines(bring_down(shop(DB, API, WEB))) == [
        "remove web-1: requested",
        "remove api-1: requested (after remove web-1)",
        "remove db-1: requested (after remove api-1)",
        "remove-network back: requested (after remove api-1; remove db-1)",
        "remove-network front: requested (after remove web-1)",
    ]


def test_down_with_volumes_removes_them_after_their_users() -> None:
    assert lines(bring_down(shop(DB), volumes=True))[-2:] == [
        "remove-volume data: requested (after remove db-1)",
        "remove-volume other: requested",
    ]


def test_down_of_one_service_keeps_what_others_use() -> None:
    assert lines(bring_down(shop(DB, API, WEB), services=["web"], volumes=True)) == [
        "remove web-1: requested",
        "remove-network front: requested (after remove web-1)",
    ]


def test_stop_skips_what_has_ended_and_what_was_not_named() -> None:
    assert lines(stop_plan(shop(DB, API, WEB), ["db", "shop-api-1"])) == [
        "stop api-1: requested",
        "stop db-1: requested (after stop api-1)",
    ]
    assert not stop_plan(shop(DB, API, state=State.EXITED))


@pytest.mark.parametrize("state", [State.RESTARTING, State.PAUSED, State.PENDING, State.STARTING])
def test_stop_reaches_everything_that_would_run(state: State) -> None:
    assert lines(stop_plan(shop(DB, state=state))) == ["stop db-1: requested"]


def test_start_brings_dependencies_first() -> None:
    assert lines(start_plan(shop(DB, API, WEB, state=State.EXITED, exit_code=0), ["api"])) == [
        "start db-1: needed by what was requested",
        "start api-1: requested (after start db-1, shop-db-1 started within 5m)",
    ]


def test_start_leaves_what_runs_alone() -> None:
    assert not start_plan(shop(DB, API, state=State.RUNNING))


def test_completed_job_starts_again_only_when_named() -> None:
    done = shop(JOB, state=State.EXITED, exit_code=0)
    assert not start_plan(done)
    assert not restart_plan(done)
    assert lines(start_plan(done, ["job"])) == ["start job-1: requested"]
    assert lines(restart_plan(done, ["job"])) == ["start job-1: requested"]


def test_restart_takes_along_the_dependants_that_asked_for_it() -> None:
    assert lines(restart_plan(shop(DB, API, WEB), ["db"])) == [
        "restart db-1: requested",
        "restart api-1: dependency db is restarted (after restart db-1, shop-db-1 started within 5m)",
    ]


def test_restart_starts_what_has_ended() -> None:
    assert lines(restart_plan(shop(DB, state=State.FAILED))) == ["start db-1: requested"]


def test_scale_adds_missing_numbers_and_removes_the_highest() -> None:
    two = shop(API, API)
    third = ObservedContainer("id3", "shop-api-3", "api", 3, API, State.RUNNING)
    observed = ObservedProject("shop", (two.containers[0], third), two.networks)
    assert lines(scale(observed, {"api": 2})) == ["remove api-3: scaled to 2", "create api-2: scaled to 2"]
    assert lines(scale(observed, {"api": 1})) == ["remove api-3: scaled to 1"]
    assert not scale(ObservedProject("shop", two.containers[:1], two.networks), {"api": 1})


def test_scaled_up_container_waits_for_what_its_service_waits_for() -> None:
    api = ServiceSpec(
        name="api", depends_on=(Dependency(service="job", condition=Condition.COMPLETED, timeout=5.0),)
    )
    observed = shop(JOB, api)
    assert lines(scale(observed, {"api": 2})) == [
        "create api-2: scaled to 2 (after shop-job-1 completed within 5s)"
    ]


def test_scale_of_a_service_without_containers_takes_its_spec_from_the_known_project() -> None:
    known = ProjectSpec(name="shop", services={"api": API})
    (operation,) = scale(shop(DB), {"api": 1}, known).operations
    assert operation.spec == API
    with pytest.raises(NotFoundError, match='"api"'):
        scale(shop(DB), {"api": 1})


def test_unknown_name_is_refused() -> None:
    with pytest.raises(
        NotFoundError, match=r'no service or container "wbe" in project "shop" \(it has api, db\)'
    ):
        stop_plan(shop(DB, API), ["wbe"])
