"""``orch audit``: of what runs, of a manifest, and of a container that somebody has changed."""

from __future__ import annotations

import os
from typing import Any

import pytest

from support.cli import Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "userns", "overlay")

SEVERITIES = ["critical", "high", "medium", "low", "info"]
MANIFEST = """
name = "box"
[defaults]
stop_grace_period = "0s"
command = ["sleep", "1000"]
resources = { memory = "64M", pids = 20 }
[services.web]
volumes = ["data:/data"]
ports = ["127.0.0.1:0:80"]
[services.user]
user = "nobody"
init = true
[services.strict]
cap_drop = ["ALL"]
read_only = true
network_mode = "none"
[volumes.data]
"""
OPEN = """
name = "open"
[services.open]
command = ["sleep", "1000"]
stop_grace_period = "0s"
userns = "host"
pid = "host"
network_mode = "host"
cap_add = ["SYS_PTRACE", "SYS_ADMIN"]
no_new_privileges = false
seccomp = "unconfined"
environment = { API_TOKEN = "geheim" }
volumes = ["/etc:/mnt/etc:ro", "./shared:/mnt/shared"]
devices = ["/dev/full:/dev/mine"]
[services.side]
command = ["sleep", "1000"]
stop_grace_period = "0s"
user = "nobody"
pid = "service:open"
depends_on = ["open"]
cap_add = ["NET_RAW"]
"""


def audit(orch: Orch, *words: str) -> dict[str, list[dict[str, Any]]]:
    """Container -> its findings."""
    return {view["name"]: view["findings"] for view in orch.run("audit", "--format", "json", *words).json()}


def marks(findings: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(finding["key"], finding["severity"]) for finding in findings}


def test_the_default_is_what_the_kernel_has(orch: Orch) -> None:
    orch.project = "box"
    orch.up(orch.manifest(MANIFEST, "orch.toml"))
    found = audit(orch)
    assert sorted(found) == ["box-strict-1", "box-user-1", "box-web-1"]
    assert {finding["severity"] for findings in found.values() for finding in findings} <= {"info"}
    assert orch.run("audit", "--fail-on", "low").returncode == 0
    # somebody changes a limit behind its back
    cgroups = orch.inspect("web")["cgroup"]
    folder = cgroups.get("pids") or cgroups["unified"]
    with open(os.path.join(folder, "pids.max"), "w") as file:
        file.write("5000")
    failed = orch.run("audit", "--fail-on", "critical", check=False)
    assert failed.returncode == 1
    assert "CRITICAL  resources.pids: the kernel says otherwise: the limit is 5000" in failed.stdout
    assert marks(audit(orch, "web")["box-web-1"]) >= {("resources.pids", "critical")}
    assert ("resources.pids", "critical") not in marks(audit(orch, "user")["box-user-1"])


def test_what_deviates_is_found_in_the_manifest_and_in_force(orch: Orch) -> None:
    os.makedirs(f"{orch.work}/shared")
    manifest = orch.manifest(OPEN, "open.toml")
    expected = {
        ("cap_add, pid, userns", "critical"), ("userns", "high"), ("pid", "high"), ("network_mode", "high"),
        ("cap_add, seccomp, userns", "critical"), ("seccomp", "high"), ("cap_add", "critical"),
        ("cap_add", "medium"), ("no_new_privileges", "low"), ("environment", "medium"), ("volumes", "high"),
        ("volumes", "low"), ("devices", "medium"),
    }  # fmt: skip
    assert marks(audit(orch, manifest)["open"]) >= expected
    assert not orch.is_serving()  # a manifest is judged without a service
    assert orch.run("audit", manifest, "--fail-on", "high", check=False).returncode == 1
    orch.up(manifest)
    orch.up(manifest, "-p", "other")
    found = audit(orch, manifest)
    assert sorted(found) == ["open-open-1", "open-side-1"]
    assert marks(found["open-open-1"]) >= expected
    assert not [each for each in found["open-open-1"] if "the kernel says otherwise" in each["what"]]
    assert "shared is shared with other-open-1 of another project" in str(found["open-open-1"])
    by_way_of_open = {("pid", "info"), ("pid", "high"), ("userns", "medium"), ("cap_add", "medium")}
    assert marks(found["open-side-1"]) >= by_way_of_open
    assert "critical" not in {severity for _, severity in marks(found["open-side-1"])}
    severities = [SEVERITIES.index(each["severity"]) for each in found["open-open-1"]]
    assert severities == sorted(severities)
    shown = orch.run("audit", manifest).stdout
    assert "geheim" not in shown
    assert "API_TOKEN looks like a secret" in shown
