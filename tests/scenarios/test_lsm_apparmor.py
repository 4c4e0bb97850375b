"""AppArmor profiles as a program meets them; on a host that has AppArmor in use."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from orchestrator.lsm import apparmor, host
from support.cli import Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "apparmor")

PROFILE = """
profile orch-test flags=(attach_disconnected, mediate_deleted) {
  file, network, unix, capability, signal, ptrace,
  deny /denied w,
}
"""


def parser(option: str, text: str) -> None:
    program = host.apparmor_parser()
    assert program
    subprocess.run([program, option, "--skip-cache"], input=text, text=True, check=True, capture_output=True)


@pytest.fixture
def fresh() -> Iterator[None]:
    """A host on which orch's own profile is not loaded; afterwards it is as it was."""
    text = apparmor.default_text().decode()
    there = apparmor.DEFAULT_PROFILE in (host.apparmor_profiles() or ())
    if there:
        parser("--remove", text)
    yield
    if apparmor.DEFAULT_PROFILE in (host.apparmor_profiles() or ()):
        parser("--remove", text)
    if there:
        parser("--add", text)


@pytest.fixture
def own_profile() -> Iterator[None]:
    """A profile of the operator's."""
    parser("--replace", PROFILE)
    yield
    parser("--remove", PROFILE)


@pytest.mark.vm
@pytest.mark.usefixtures("fresh")
def test_the_default_profile_is_loaded_and_holds_every_process(orch: Orch) -> None:
    manifest = orch.manifest("""
name = "d"
[defaults]
command = ["sleep", "1000"]
stop_grace_period = "0s"
[services.a]
[services.b]
init = true
[services.free]
apparmor = "unconfined"
""")
    orch.up(manifest, timeout=120)
    assert host.apparmor_profiles() is not None
    assert (host.apparmor_profiles() or {})["orch-default"] == "enforce"

    def current(service: str, pid: str) -> str:
        return orch.run(
            "exec", service, "--", "sh", "-c", f"cat /proc/{pid}/attr/current", timeout=60
        ).stdout.rstrip("\n")

    confined = "orch-default (enforce)"
    assert [current("a", "1"), current("a", "self")] == [confined] * 2
    assert [current("b", "1"), current("b", "$(pidof sleep)")] == [confined] * 2  # init, and the program
    assert current("free", "self") == "unconfined"
    found = orch.inspect("d-a-1")["lsm"]
    assert (found["apparmor"], found["in_force"]) == ("orch-default", confined)


@pytest.mark.vm
@pytest.mark.usefixtures("fresh")
def test_the_default_profile_denies_what_nothing_else_does(orch: Orch) -> None:
    manifest = orch.manifest("""
name = "k"
[defaults]
kind = "job"
command = ["head", "-c1", "/proc/kallsyms"]
[services.held]
[services.free]
apparmor = "unconfined"
""")
    orch.run("up", "-d", manifest, check=False, timeout=120)
    assert orch.container("held")["exit_code"] == 1
    assert orch.container("free")["exit_code"] == 0
    assert "Permission denied" in orch.run("logs", "-p", "k", "held").stdout


@pytest.mark.usefixtures("own_profile")
def test_a_profile_of_the_operators_is_in_force(orch: Orch) -> None:
    manifest = orch.manifest("""
name = "o"
[services.a]
kind = "job"
command = ["sh", "-c", "cat /proc/self/attr/current; echo x > /allowed && echo x > /denied"]
apparmor = "orch-test"
""")
    orch.run("up", "-d", manifest, check=False, timeout=120)
    said = orch.run("logs", "-p", "o", "a").stdout
    assert "orch-test (enforce)" in said
    assert "/denied: Permission denied" in said
    assert "/allowed" not in said


def test_a_profile_that_is_not_loaded_is_refused_with_its_line(orch: Orch) -> None:
    manifest = orch.manifest("""name = "n"
[services.a]
command = ["true"]
apparmor = "no-such-profile"
""")
    done = orch.run("up", "-d", manifest, check=False)
    assert done.returncode == 2
    assert f'{manifest}:4: services.a.apparmor: profile "no-such-profile" is not loaded' in done.stderr
    assert not os.path.exists(orch.instance.socket)


def test_the_doctor_says_what_containers_get(orch: Orch) -> None:
    found = {
        finding["name"]: finding for finding in orch.run("doctor", "--format", "json", check=False).json()
    }
    assert found["AppArmor"]["status"] == "ok"
    assert "containers get the profile orch-default" in found["AppArmor"]["detail"]
