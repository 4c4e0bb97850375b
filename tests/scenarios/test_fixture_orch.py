"""The scenario fixture itself, by the shortest whole way: up, look, down."""

from __future__ import annotations

import pytest

from support.cli import Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

MANIFEST = """
name = "smoke"
[services.web]
command = ["sh", "-c", "echo hello from the container; exec sleep 1000"]
init = true
"""


def test_a_project_goes_up_is_seen_and_goes_down(orch: Orch) -> None:
    orch.up(orch.manifest(MANIFEST))
    (web,) = orch.wait_state("web", "running")
    assert web["name"] == "smoke-web-1"
    assert web["pid"] > 2  # a process of the sandbox: what the service sees is what the tests see
    orch.run("down", "-p", "smoke")
    assert orch.close() == []


def test_what_a_scenario_leaves_running_is_brought_down_by_the_fixture(orch: Orch) -> None:
    orch.up(orch.manifest(MANIFEST))
    assert orch.container("web")["state"] == "running"
