"""Specs: their JSON, and their digest."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.spec import (
    Dependency,
    ExecCheck,
    Healthcheck,
    HttpCheck,
    Mount,
    NetworkSpec,
    Port,
    ProjectSpec,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TcpCheck,
    Ulimit,
    VolumeSpec,
    digest,
)

API = ServiceSpec(
    name="api",
    command=("serve", "--all"),
    environment={"B": "2", "A": "1"},
    ports=(Port(target=80, published=8080),),
    mounts=(Mount(type="volume", source="data", target="/data"),),
    depends_on=(Dependency(service="db", timeout=3.0),),
    healthcheck=Healthcheck(test=HttpCheck(port=80, status=(200, 204))),
    restart=RestartPolicy(policy="on-failure", max_attempts=5),
    resources=Resources(memory=1 << 26, hugepages={"2MB": 1 << 22}),
    ulimits={"nofile": Ulimit(soft=1024, hard=-1)},
)
PROJECT = ProjectSpec(
    name="shop",
    services={"api": API, "db": ServiceSpec(name="db", healthcheck=Healthcheck(test=TcpCheck(port=5432)))},
    networks={"default": NetworkSpec(name="default")},
    volumes={"data": VolumeSpec(name="data")},
)


def test_project_crosses_the_api_unchanged() -> None:
    back = msgspec.json.decode(msgspec.json.encode(PROJECT), type=ProjectSpec)
    assert back == PROJECT
    assert digest(back) == digest(PROJECT)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `intervall`"):
        msgspec.json.decode(
            b'{"name": "a", "healthcheck": {"test": {"type": "tcp", "port": 1}, "intervall": 1}}',
            type=ServiceSpec,
        )


def test_kind_of_check_survives() -> None:
    check = Healthcheck(test=ExecCheck(command=("true",)))
    assert msgspec.json.decode(msgspec.json.encode(check), type=Healthcheck).test == check.test


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    turned = msgspec.structs.replace(API, environment={"A": "1", "B": "2"})
    assert digest(turned) == digest(API)


def test_digest_depends_on_the_order_of_arguments() -> None:
    assert digest(msgspec.structs.replace(API, command=("--all", "serve"))) != digest(API)


@pytest.mark.parametrize("change", [
    {"environment": {"A": "1", "B": "3"}}, {"image": "dir:/x"}, {"replicas": 2}, {"healthcheck": None},
    {"resources": Resources(memory=1 << 27, hugepages={"2MB": 1 << 22})}, {"command": None},
])  # fmt: skip
def test_digest_changes_with_the_spec(change: dict[str, object]) -> None:
    assert digest(msgspec.structs.replace(API, **change)) != digest(API)


def test_digest_is_the_same_for_a_default_that_was_written_out() -> None:
    check = TcpCheck(port=1)
    explicit = Healthcheck(test=check, interval=float("30"))
    assert explicit == Healthcheck(test=check)
    assert digest(explicit) == digest(Healthcheck(test=check))


def test_argv_is_entrypoint_and_command() -> None:
    assert API.argv == ("serve", "--all")
    assert msgspec.structs.replace(API, entrypoint=("sh",)).argv == ("sh", "serve", "--all")
    assert ServiceSpec(name="a").argv == ()
