"""The ready projects are manifests without a problem, on any host."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.manifest.load import load
from orchestrator.spec import Condition

WORKLOADS = Path(__file__).parents[2] / "workloads"
MANIFESTS = sorted(WORKLOADS.glob("*/manifest.toml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_it_loads_without_a_problem_or_a_warning(path: Path) -> None:
    loaded = load(str(path), environ={}, profiles=("*",))
    assert loaded.project.name == path.parent.name
    assert loaded.warnings == ()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_every_container_is_limited_and_every_service_checked(path: Path) -> None:
    for service in load(str(path), environ={}, profiles=("*",)).project.services.values():
        assert service.resources.memory, service.name
        assert service.resources.pids, service.name
        assert (service.healthcheck is not None) == (service.kind == "service"), service.name


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_the_folder_is_listed(path: Path) -> None:
    assert f"({path.parent.name}/)" in (WORKLOADS / "README.md").read_text()


def test_quickstart_publishes_the_port_that_the_environment_names() -> None:
    project = load(str(WORKLOADS / "quickstart" / "manifest.toml"), environ={"PORT": "9000"}).project
    front = project.services["front"]
    assert [(port.host_ip, port.published) for port in front.ports] == [("127.0.0.1", 9000)]
    assert front.environment["PUBLIC_URL"] == "http://127.0.0.1:9000/"


def test_quickstart_starts_the_api_after_the_migration() -> None:
    project = load(str(WORKLOADS / "quickstart" / "manifest.toml"), environ={}).project
    conditions = {item.service: item.condition for item in project.services["api"].depends_on}
    assert conditions["migrate"] is Condition.COMPLETED
    assert project.services["migrate"].kind == "job"
