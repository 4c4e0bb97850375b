"""Which rules of a profile hold: by capabilities, machine and kernel."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.seccomp.resolve import Action, Alternative, Host, Rules, UncompilableError, resolve
from orchestrator.spec import Seccomp, SeccompProfile, SyscallArgument, SyscallCondition, SyscallRule

X86, ARM = Host("x86_64", (5, 12)), Host("aarch64", (6, 1))


def rules_of(
    *rules: SyscallRule, held: tuple[str, ...] = (), host: Host = X86, action: str = "ERRNO", **rest: object
) -> Rules:
    profile = SeccompProfile(action=action, errno=38, rules=rules, **rest)  # type: ignore[arg-type]
    return resolve(Seccomp(profile="/p.json", content=profile), held, host)


def allow(
    name: str, includes: SyscallCondition | None = None, excludes: SyscallCondition | None = None
) -> SyscallRule:
    return SyscallRule(
        names=(name,),
        action="ALLOW",
        includes=includes or SyscallCondition(),
        excludes=excludes or SyscallCondition(),
    )


@pytest.mark.parametrize(
    ("condition", "held", "host", "holds"),
    [
        (SyscallCondition(), (), X86, True),
        (SyscallCondition(caps=("SYS_TIME",)), (), X86, False),
        (SyscallCondition(caps=("SYS_TIME",)), ("SYS_TIME",), X86, True),
        (SyscallCondition(caps=("SYS_TIME", "SYS_NICE")), ("SYS_TIME",), X86, False),
        (SyscallCondition(arches=("amd64", "x32")), (), X86, True),
        (SyscallCondition(arches=("amd64", "x32")), (), ARM, False),
        (SyscallCondition(arches=("arm64",)), (), ARM, True),
        (SyscallCondition(min_kernel=(5, 12)), (), X86, True),
        (SyscallCondition(min_kernel=(5, 13)), (), X86, False),
        (SyscallCondition(min_kernel=(5, 13)), (), ARM, True),
    ],
)
def test_a_rule_holds_where_everything_that_it_includes_is_there(
    condition: SyscallCondition, held: tuple[str, ...], host: Host, holds: bool
) -> None:
    assert ("read" in rules_of(allow("read", includes=condition), held=held, host=host).calls) is holds


@pytest.mark.parametrize(
    ("condition", "held", "host", "holds"),
    [
        (SyscallCondition(), (), X86, True),
        (SyscallCondition(caps=("SYS_TIME", "SYS_NICE")), ("SYS_TIME",), X86, False),
        (SyscallCondition(caps=("SYS_TIME",)), ("SYS_NICE",), X86, True),
        (SyscallCondition(arches=("amd64",)), (), X86, False),
        (SyscallCondition(arches=("amd64",)), (), ARM, True),
        (SyscallCondition(min_kernel=(5, 12)), (), X86, False),
        (SyscallCondition(min_kernel=(6, 0)), (), X86, True),
    ],
)
def test_a_rule_does_not_hold_where_anything_that_it_excludes_is_there(
    condition: SyscallCondition, held: tuple[str, ...], host: Host, holds: bool
) -> None:
    assert ("read" in rules_of(allow("read", excludes=condition), held=held, host=host).calls) is holds


@pytest.mark.parametrize(
    ("host", "given", "expected"),
    [
        (X86, {}, ("X86_64",)),
        (X86, {"architectures": ("X86",)}, ("X86_64", "X86")),
        (X86, {"architectures": ("X86_64", "X86", "X32", "AARCH64")}, ("X86_64", "X86", "X32")),
        (X86, {"arch_map": {"X86_64": ("X32",), "AARCH64": ("ARM",)}}, ("X86_64", "X32")),
        (ARM, {"arch_map": {"X86_64": ("X32",), "AARCH64": ("ARM",)}}, ("AARCH64", "ARM")),
        (ARM, {"architectures": ("X86_64", "X86")}, ("AARCH64",)),
    ],
)
def test_the_architectures_are_those_of_the_profile_that_this_machine_can_run(
    host: Host, given: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert rules_of(host=host, **given).architectures == expected  # type: ignore[arg-type]


def test_the_default_needs_no_rule() -> None:
    found = rules_of(SyscallRule(names=("read",), action="ERRNO", errno=38), allow("write"))
    assert list(found.calls) == ["write"]
    assert found.default == Action("ERRNO", 38)
    assert found.count == 1


def test_a_rule_without_arguments_makes_those_with_arguments_needless() -> None:
    args = (SyscallArgument(index=0, op="EQ", value=1),)
    narrow = SyscallRule(names=("read",), action="LOG", args=args)
    assert rules_of(narrow, allow("read")).calls["read"] == (Alternative(Action("ALLOW")),)


def test_what_the_manifest_allows_and_denies_is_above_the_profile() -> None:
    profile = SeccompProfile(action="ALLOW", rules=(SyscallRule(names=("read",), action="KILL"),))
    found = resolve(Seccomp(profile="/p", content=profile, allow=("read",), deny=("write",)), (), X86)
    assert found.calls == {"write": (Alternative(Action("ERRNO", errno.EPERM)),)}


@given(st.sets(st.sampled_from(["SYS_ADMIN", "SYS_TIME", "SYS_PTRACE", "AUDIT_WRITE", "BPF"])))
def test_more_capabilities_never_mean_fewer_calls(held: set[str]) -> None:
    def allowed(names: set[str]) -> set[str]:
        found = resolve(Seccomp(), names, X86).calls
        return {
            name for name, alternatives in found.items() if alternatives[0] == Alternative(Action("ALLOW"))
        }

    assert (
        allowed(set())
        <= allowed(held)
        <= allowed({"SYS_ADMIN", "SYS_TIME", "SYS_PTRACE", "AUDIT_WRITE", "BPF"})
    )


def test_a_file_that_nobody_has_read_is_not_the_default() -> None:
    with pytest.raises(UncompilableError, match="what the file says is missing"):
        resolve(Seccomp(profile="/p.json"), (), X86)


def test_this_host_is_one() -> None:
    host = Host.here()
    assert host.kernel > (5, 0)
    assert resolve(Seccomp(), (), host).architectures
