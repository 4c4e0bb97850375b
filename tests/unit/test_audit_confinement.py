"""What an audit finds about filters, labels, and what is worse together."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.audit import confinement
from orchestrator.audit.subject import Subject
from orchestrator.runtime.seccomp import profile
from orchestrator.spec import Seccomp, SeccompProfile, Selinux, UserNamespace
from support.audits import found, in_force, isolation, planned, service

HOST_IDS = UserNamespace(mode="host")
NO_FILTER = Seccomp(profile="unconfined")


@pytest.mark.parametrize(
    ("keys", "severity"),
    [
        ({"cap_add": ("SYS_PTRACE",), "pid": "host", "userns": HOST_IDS}, "critical"),
        ({"cap_add": ("ALL",), "pid": "host", "userns": HOST_IDS}, "critical"),
        ({"cap_add": ("SYS_PTRACE",), "pid": "host", "userns": HOST_IDS, "user": "www"}, "critical"),
        ({"cap_add": ("SYS_PTRACE",), "pid": "host"}, None),
        ({"cap_add": ("SYS_PTRACE",), "userns": HOST_IDS}, None),
        ({"pid": "host", "userns": HOST_IDS}, None),
    ],
)
def test_taking_over_processes_of_the_host(keys: dict[str, Any], severity: str | None) -> None:
    seen = [
        (level, key)
        for level, key, what in found(confinement.combinations, planned(**keys))
        if "PTRACE" in what
    ]
    assert seen == ([(severity, "cap_add, pid, userns")] if severity else [])


@pytest.mark.parametrize(
    ("keys", "found_too"),
    [
        ({"cap_add": ("SYS_ADMIN",), "seccomp": NO_FILTER, "userns": HOST_IDS}, True),
        ({"cap_add": ("SYS_ADMIN",), "seccomp": NO_FILTER}, False),
        ({"cap_add": ("SYS_ADMIN",), "userns": HOST_IDS}, False),
        ({"seccomp": NO_FILTER, "userns": HOST_IDS}, False),
    ],
)
def test_being_root_of_the_host(keys: dict[str, Any], found_too: bool) -> None:
    seen = [each[:2] for each in found(confinement.combinations, planned(**keys))]
    assert seen == ([("critical", "cap_add, seccomp, userns")] if found_too else [])


@pytest.mark.parametrize(
    ("seccomp", "seen"),
    [
        (Seccomp(), []),
        (Seccomp(deny=("ptrace",)), []),
        (NO_FILTER, [("high", "seccomp")]),
        (Seccomp(profile="/p.json", content=SeccompProfile(action="ERRNO")), [("info", "seccomp")]),
        (Seccomp(profile="/p.json", content=SeccompProfile(action="ALLOW")), [("medium", "seccomp")]),
        (Seccomp(profile="/p.json", content=SeccompProfile(action="LOG")), [("medium", "seccomp")]),
        (
            Seccomp(allow=("io_uring_setup", "swapon")),
            [("medium", "seccomp.allow"), ("low", "seccomp.allow")],
        ),
    ],
)
def test_filters_of_system_calls(seccomp: Seccomp, seen: list[tuple[str, str]]) -> None:
    assert [each[:2] for each in found(confinement.system_calls, planned(seccomp=seccomp))] == seen


def test_the_calls_that_are_worse_to_allow_are_those_that_the_default_refuses() -> None:
    allowed = {name for group in profile.ALLOWED for name in group.names}
    assert allowed & confinement.REACHABLE == set()


def test_modules_that_the_manifest_switches_off() -> None:
    subject = planned(selinux=Selinux(disable=True), apparmor="unconfined")
    assert [each[:2] for each in found(confinement.labels, subject)] == [
        ("medium", "selinux"),
        ("medium", "apparmor"),
    ]
    assert found(confinement.labels, planned(selinux=Selinux(type="svirt_t"), apparmor="mine")) == []
    free = "its SELinux type spc_t forbids it nothing"
    assert found(confinement.labels, planned(selinux=Selinux(type="spc_t"))) == [("medium", "selinux", free)]


@pytest.mark.parametrize(
    ("label", "facts", "seen"),
    [
        ("orch-default (enforce)", {"label": "orch-default"}, None),
        ("orch-default (complain)", {"label": "orch-default"}, ("medium", "apparmor")),
        ("", {}, ("info", "apparmor, selinux")),
        ("unconfined", {}, ("info", "apparmor, selinux")),
        ("unconfined", {"label_note": "there is no apparmor_parser"}, ("low", "apparmor, selinux")),
        (None, {}, None),
    ],
)
def test_what_the_host_makes_of_it(
    label: str | None, facts: dict[str, Any], seen: tuple[str, str] | None
) -> None:
    subject = Subject(service(), force=in_force(isolation=isolation(label=label), **facts))
    assert [each[:2] for each in found(confinement.labels, subject)] == ([seen] if seen else [])
