"""Seccomp profiles as people use them: the default, none, a distribution's, one of one's own, a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.cli import Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "libseccomp")

EVERYTHING = {"defaultAction": "SCMP_ACT_ALLOW"}


def forbidding(*names: str, action: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    """A profile that allows everything but these."""
    return {**EVERYTHING, "syscalls": [{"names": list(names), "action": action}]}


def mode(pid: int) -> str:
    """``2`` for a filter, ``0`` for none (proc(5))."""
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return fields["Seccomp"]


@pytest.fixture
def box(orch: Orch) -> Orch:
    orch.project = "box"
    return orch


def service(name: str, seccomp: str = "", command: str = '["sleep", "1000"]', rest: str = "") -> str:
    return f"[services.{name}]\ncommand = {command}\ninit = true\n{seccomp}\n{rest}\n"


@pytest.mark.requires("containers-common")
def test_each_service_has_the_filter_that_it_names(box: Orch) -> None:
    check = (
        'healthcheck = { test = ["CMD", "grep", "-q", "Seccomp:.*2", "/proc/self/status"], interval = "1s" }'
    )
    manifest = box.manifest(
        'name = "box"\n'
        + service("plain", rest=check)
        + service("debian", 'seccomp = "/usr/share/containers/seccomp.json"', rest=check)
        + service("free", 'seccomp = "unconfined"')
        + service("changed", 'seccomp = { allow = ["unshare"], deny = ["chmod", "fchmodat"] }'),
        "orch.toml",
    )
    box.up(manifest)
    for name in ("plain", "debian", "changed"):
        assert mode(box.container(name)["pid"]) == "2"
    assert mode(box.container("free")["pid"]) == "0"
    box.wait_state("plain", "healthy")  # its check runs under the filter too
    box.wait_state("debian", "healthy")

    def said(name: str, *command: str) -> str:
        done = box.run("exec", name, *command, check=False)
        return done.stdout + done.stderr

    assert "Seccomp:\t2" in said("plain", "grep", "Seccomp:", "/proc/self/status")
    assert "Seccomp:\t0" in said("free", "grep", "Seccomp:", "/proc/self/status")
    assert "Seccomp:\t2" in box.run("run", "plain", "grep", "Seccomp:", "/proc/self/status").stdout
    assert "Operation not permitted" in said("plain", "unshare", "--user", "true")
    assert said("free", "unshare", "--user", "true") == ""
    assert said("changed", "unshare", "--user", "true") == ""
    assert "Operation not permitted" in said("changed", "chmod", "777", "/tmp")
    assert said("plain", "chmod", "777", "/tmp") == ""

    shown = box.inspect("plain")
    assert shown["seccomp"]["profile"] == "default"
    assert shown["seccomp"]["digest"] != box.inspect("debian")["seccomp"]["digest"]
    assert shown["seccomp"]["rules"] > 100
    assert any(
        line.startswith("let a seccomp filter decide on system calls: default (") for line in shown["program"]
    )
    assert box.inspect("free")["seccomp"]["profile"] == "unconfined"
    assert "seccomp" in [stage["name"].removeprefix("child ") for stage in shown["stages"]]


def test_a_profile_is_part_of_the_service(box: Orch) -> None:
    box.manifest(json.dumps(EVERYTHING), "p.json")
    manifest = box.manifest('name = "box"\n' + service("web", 'seccomp = "p.json"'), "orch.toml")
    box.up(manifest)
    before = box.container("web")["id"]
    assert box.run("plan", manifest).stdout == "box is up to date\n"
    box.manifest(json.dumps(forbidding("chmod", "fchmodat")), "p.json")
    plan = box.run("plan", manifest, check=False)
    assert plan.returncode == 100
    assert "seccomp changed" in plan.stdout
    box.up(manifest)
    assert box.container("web")["id"] != before
    assert box.run("exec", "web", "chmod", "777", "/tmp", check=False).returncode == 1


def test_a_profile_with_mistakes_starts_nothing(box: Orch) -> None:
    lines = '{\n"defaultAction": "SCMP_ACT_ALLOW",\n"syscalls": [{"names": ["chmod"],\n"action": "SCMP_ACT_KIL"}]}'
    box.manifest(lines, "p.json")
    manifest = box.manifest(
        'name = "box"\n' + service("web", 'seccomp = "p.json"') + service("other"), "orch.toml"
    )
    done = box.up(manifest, check=False)
    assert done.returncode == 2
    assert (
        'p.json:4: syscalls[0].action: expected a word such as SCMP_ACT_ALLOW, got "SCMP_ACT_KIL"'
        in done.stderr
    )
    assert not box.is_serving()


def test_what_libseccomp_cannot_express_is_said_before_anything_starts(box: Orch) -> None:
    equal = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}
    rules = [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [equal]},
        {"names": ["socket"], "action": "SCMP_ACT_KILL", "args": [equal, {**equal, "index": 1}]},
    ]
    box.manifest(json.dumps({**EVERYTHING, "syscalls": rules}), "p.json")
    manifest = box.manifest('name = "box"\n' + service("web", 'seccomp = "p.json"'), "orch.toml")
    done = box.up(manifest, check=False)
    assert done.returncode == 1
    assert 'cannot start "box-web-1": cannot compile seccomp profile' in done.stderr
    assert "two rules of socket contradict each other" in done.stderr


def test_a_killing_profile_shows_in_the_reason(box: Orch) -> None:
    box.manifest(json.dumps(forbidding("chmod", "fchmodat", action="SCMP_ACT_KILL_PROCESS")), "p.json")
    manifest = box.manifest(
        'name = "box"\n[services.web]\ncommand = ["chmod", "777", "/tmp"]\nseccomp = "p.json"\n', "orch.toml"
    )
    box.up(manifest, check=False)
    (container,) = box.wait_state("web", "exited")
    assert container["exit_code"] == 159
    assert "killed by SIGSYS: a system call that its seccomp profile forbids" in container["reason"]


def test_a_profile_under_which_the_init_cannot_start_says_so(box: Orch) -> None:
    box.manifest(json.dumps(forbidding("clone", "fork", "vfork", "sendmsg", "write")), "p.json")
    manifest = box.manifest('name = "box"\n' + service("web", 'seccomp = "p.json"'), "orch.toml")
    done = box.up(manifest, check=False)
    assert done.returncode == 1
    assert "EPERM: Operation not permitted (a seccomp profile must allow the init's own calls" in done.stderr
