"""Where a filter stands in a launch program, and what is said about it and about what it kills."""

from __future__ import annotations

import errno
import signal

import pytest

from orchestrator.checks import kernel
from orchestrator.cli.inspect import _seccomp
from orchestrator.launch.explain import explain
from orchestrator.runtime.handle import ProgramFailed
from orchestrator.runtime.program import CgroupPart, NetworkPart, RootfsPart, SeccompPart, compile_start
from orchestrator.runtime.seccomp.filters import Filter
from orchestrator.spec import ServiceSpec
from orchestrator.supervise.policy import describe_exit
from orchestrator.views import SeccompView

PART = SeccompPart("default (abc: 3 rules)", 2)


@pytest.mark.parametrize("init", [False, True])
def test_the_filter_is_the_last_thing_before_the_program_and_its_init(init: bool) -> None:
    spec = ServiceSpec(name="x", command=("true",), init=init)
    files, network = RootfsPart("/root", "/dir", ()), NetworkPart(new=False, existing=True)
    program = compile_start(spec, "box", CgroupPart(), files, network, 40, seccomp=PART)
    order = [operation[0] for operation in program.operations]
    assert order[order.index("seccomp") :] == ["seccomp", *(["init"] if init else []), "exec"]
    assert order.index("privileges") < order.index("seccomp")  # which needs no_new_privs
    assert program.slots == ["netns", "seccomp"]
    assert "let a seccomp filter decide on system calls: default (abc: 3 rules)" in program.describe()


def test_without_no_new_privs_it_is_loaded_while_that_is_allowed() -> None:
    spec = ServiceSpec(name="x", command=("true",), no_new_privileges=False)
    files, network = RootfsPart("/root", "/dir", ()), NetworkPart(new=True)
    program = compile_start(spec, "box", CgroupPart(), files, network, 40, seccomp=PART)
    order = [operation[0] for operation in program.operations]
    assert order.count("seccomp") == 1
    assert order.index("seccomp") < order.index("privileges")


def test_a_container_that_is_unconfined_has_no_such_operation() -> None:
    spec, files = ServiceSpec(name="x", command=("true",)), RootfsPart("/root", "/dir", ())
    program = compile_start(spec, "box", CgroupPart(), files, NetworkPart(new=True), 40)
    assert "seccomp" not in [operation[0] for operation in program.operations]
    assert program.slots == []


@pytest.mark.parametrize(
    ("operation", "number", "remedy"),
    [
        (["exec", ["true"]], errno.EPERM, "its seccomp profile may forbid execve"),
        (["exec", ["true"]], errno.ENOSYS, "its seccomp profile may forbid execve"),
        (["init"], errno.EPERM, "a seccomp profile must allow the init's own calls"),
        (["seccomp", "seccomp", 0, "default"], errno.EINVAL, "the kernel must have CONFIG_SECCOMP_FILTER"),
    ],
)
def test_a_failure_that_a_filter_may_be_the_cause_of_says_so(
    operation: list[object], number: int, remedy: str
) -> None:
    failure = ProgramFailed(operation, {"errno": number, "text": "no", "status": 126})
    assert remedy in explain('cannot start "x"', "host", failure).remedy


def test_a_death_by_the_filter_is_explained() -> None:
    reason = describe_exit(159, signal.SIGSYS)
    assert reason == "exited (159: killed by SIGSYS: a system call that its seccomp profile forbids)"


def test_inspect_shows_the_filter_in_a_line() -> None:
    view = SeccompView(
        profile="default", digest="0123456789abcdef", architectures=["X86_64", "X86"], rules=7, instructions=9
    )
    assert _seccomp(view) == "default: 7 rules for X86_64, X86, 9 instructions, digest 0123456789ab"
    assert _seccomp(SeccompView(profile="unconfined")) == "unconfined"
    assert _seccomp(None) == ""


def test_a_filter_is_described_for_the_launch_program() -> None:
    filter = Filter(3, 0, "/etc/p.json", "0123456789abcdef", ("X86_64",), 7, 9)
    assert str(filter) == "/etc/p.json (0123456789ab: 7 rules for X86_64, 9 instructions)"


@pytest.mark.parametrize(
    ("library", "status", "detail"),
    [
        (None, "missing", "not found"),
        ((2, 4, 9), "missing", "2.4.9 is too old"),
        ((2, 5, 0), "ok", "2.5.0"),
        ((3, 0, 1), "ok", "3.0.1"),
    ],
)
def test_the_doctor_looks_for_libseccomp(
    monkeypatch: pytest.MonkeyPatch, library: tuple[int, ...] | None, status: str, detail: str
) -> None:
    monkeypatch.setattr(kernel, "_libseccomp_version", lambda: library)
    finding = kernel._libseccomp()
    assert (finding.status, finding.detail.startswith(detail)) == (status, True)
    assert status == "ok" or "libseccomp2" in finding.remedy


@pytest.mark.requires("libseccomp")
def test_the_doctor_finds_the_one_of_this_host() -> None:
    found = kernel._libseccomp_version()
    assert found
    assert found >= (2, 5)
