"""What libseccomp makes of rules decides as the rules do."""

from __future__ import annotations

import operator
import sys

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from orchestrator.runtime.seccomp.filters import compile_rules
from orchestrator.runtime.seccomp.resolve import Host, UncompilableError, resolve
from orchestrator.spec import Seccomp, SeccompProfile, SyscallArgument, SyscallRule
from support.bpf import I386, X32, X86_64, decide

pytestmark = pytest.mark.requires("libseccomp")

HOST = Host("x86_64", (6, 1))
#: Calls with the same number of arguments everywhere -> their numbers on x86-64.
CALLS = {"read": 0, "write": 1, "close": 3, "chmod": 90, "getpid": 39, "prctl": 157}
_COMPARE = {
    "EQ": operator.eq,
    "NE": operator.ne,
    "LT": operator.lt,
    "LE": operator.le,
    "GE": operator.ge,
    "GT": operator.gt,
}
_EDGES = st.sampled_from([0, 1, 2, 5, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 64) - 1])
_VALUES = _EDGES | st.integers(0, (1 << 64) - 1)
_ACTIONS = ("ALLOW", "ERRNO", "KILL_PROCESS", "LOG", "TRAP")


def compiled(profile: SeccompProfile) -> bytes:
    return compile_rules(resolve(Seccomp(profile="test", content=profile), (), HOST))


def agrees(argument: SyscallArgument, values: list[int]) -> bool:
    value = values[argument.index]
    if argument.op == "MASKED_EQ":
        return value & argument.value == argument.value_two & argument.value
    return bool(_COMPARE[argument.op](value, argument.value))


def text(action: str, number: int = 0) -> str:
    return f"ERRNO {number}" if action == "ERRNO" else action


@st.composite
def _arguments(draw: st.DrawFn) -> tuple[SyscallArgument, ...]:
    indices = draw(st.lists(st.integers(0, 2), unique=True, min_size=1, max_size=2))
    return tuple(
        SyscallArgument(
            index=index,
            op=draw(st.sampled_from([*_COMPARE, "MASKED_EQ"])),
            value=draw(_VALUES),
            value_two=draw(_VALUES),
        )
        for index in indices
    )


@st.composite
def _profiles(draw: st.DrawFn) -> SeccompProfile:
    """Each call has one action; so what overlaps does not matter."""
    rules = []
    for name in draw(st.lists(st.sampled_from(list(CALLS)), unique=True)):
        action = draw(st.sampled_from(_ACTIONS))
        for args in draw(st.just([()]) | st.lists(_arguments(), min_size=1, max_size=3)):
            rules.append(SyscallRule(names=(name,), action=action, errno=7, args=args))
    default = draw(st.sampled_from(_ACTIONS))
    return SeccompProfile(
        action=default, errno=38, rules=tuple(draw(st.permutations(rules))), architectures=("X32",)
    )


@given(_profiles(), st.lists(_VALUES, min_size=3, max_size=3), st.data())
def test_a_filter_decides_as_its_profile_says(
    profile: SeccompProfile, values: list[int], data: st.DataObject
) -> None:
    mentioned = [value for rule in profile.rules for arg in rule.args for value in (arg.value, arg.value_two)]
    if mentioned:  # the edges are where mistakes are
        near = st.sampled_from(mentioned).flatmap(lambda n: st.sampled_from([n - 1, n, n + 1]))
        values[0] = data.draw(near) % (1 << 64)
    try:
        program = compiled(profile)
    except UncompilableError:  # it knows that libseccomp's would be a wrong one
        reject()
    for name, number in CALLS.items():
        expected = text(profile.action, profile.errno)
        for rule in profile.rules:
            if name in rule.names and all(agrees(argument, values) for argument in rule.args):
                expected = text(rule.action, rule.errno)
        assert (name, decide(program, X86_64, number, *values)) == (name, expected)
        if max(*values, *mentioned) < 1 << 32:  # libseccomp takes x32's arguments for 32 bits
            assert (name, decide(program, X86_64, number | X32, *values)) == (name, expected)
        assert decide(program, I386, number, *values) == "KILL_PROCESS"


def one(*rules: SyscallRule, action: str = "ERRNO") -> SeccompProfile:
    return SeccompProfile(action=action, errno=1, rules=rules)


def equals(index: int, value: int) -> SyscallArgument:
    return SyscallArgument(index=index, op="EQ", value=value)


def test_of_several_conditions_on_one_argument_any_will_do() -> None:
    rule = SyscallRule(names=("read",), action="ALLOW", args=(equals(0, 3), equals(0, 5)))
    program = compiled(one(rule))
    assert [decide(program, X86_64, 0, value) for value in (3, 4, 5)] == ["ALLOW", "ERRNO 1", "ALLOW"]


def test_what_libseccomp_gets_wrong_is_refused() -> None:
    """It compares the third argument with 5, which the second one was to be compared with."""
    less = SyscallArgument(index=1, op="LT", value=5)
    least = (
        SyscallArgument(index=1, op="LT", value=1),
        SyscallArgument(index=2, op="EQ", value=1, value_two=2),
    )
    rules = [SyscallRule(names=("prctl",), action="ALLOW", args=args) for args in ((less,), least)]
    with pytest.raises(UncompilableError, match="whose arguments overlap"):
        compiled(one(*rules))


def test_of_several_rules_without_conditions_the_first_counts() -> None:
    allow, refuse = (SyscallRule(names=("read",), action=action, errno=9) for action in ("ALLOW", "ERRNO"))
    assert decide(compiled(one(allow, refuse)), X86_64, 0) == "ALLOW"
    assert decide(compiled(one(refuse, allow)), X86_64, 0) == "ERRNO 9"


def test_an_action_can_be_told_with_its_number() -> None:
    rules = [
        SyscallRule(names=(name,), action=action, errno=33)
        for name, action in (("read", "TRACE"), ("write", "ERRNO"))
    ]
    program = compiled(one(*rules))
    assert [decide(program, X86_64, number) for number in (0, 1)] == ["TRACE 33", "ERRNO 33"]


def test_the_old_word_kill_ends_one_thread() -> None:
    assert decide(compiled(one(SyscallRule(names=("read",), action="KILL"))), X86_64, 0) == "KILL_THREAD"


def test_rules_that_contradict_each_other_are_refused() -> None:
    broad = SyscallRule(names=("read",), action="ALLOW", args=(equals(0, 1),))
    narrow = SyscallRule(names=("read",), action="KILL_PROCESS", args=(equals(0, 1), equals(1, 2)))
    for rules in ((broad, narrow), (narrow, broad)):
        with pytest.raises(UncompilableError, match="two rules of read contradict each other"):
            compiled(one(*rules))


def test_rules_about_sockets_hold_though_libseccomp_cannot_have_them_all_for_i386() -> None:
    other = SyscallArgument(index=0, op="GT", value=1)
    rules = [
        SyscallRule(names=("socket",), action="ALLOW", args=(equals(0, 1),)),
        SyscallRule(names=("socket",), action="KILL_PROCESS", args=(other,)),
    ]
    profile = SeccompProfile(action="ERRNO", errno=1, architectures=("X86", "X32"), rules=tuple(rules))
    program = compiled(profile)
    assert [decide(program, X86_64, 41, family) for family in (0, 1, 2)] == [
        "ERRNO 1",
        "ALLOW",
        "KILL_PROCESS",
    ]
    assert decide(program, X86_64, 41 | X32, 2) == "KILL_PROCESS"


def test_a_call_that_libseccomp_does_not_know_may_only_be_left_out_where_that_allows_nothing() -> None:
    name = "from_the_future"
    assert decide(compiled(one(SyscallRule(names=(name,), action="ALLOW"))), X86_64, 0) == "ERRNO 1"
    with pytest.raises(UncompilableError, match="does not know from_the_future, which the profile restricts"):
        compiled(one(SyscallRule(names=(name,), action="ERRNO", errno=1), action="ALLOW"))


def test_a_call_of_another_machine_is_left_out() -> None:
    rule = SyscallRule(names=("s390_pci_mmio_read",), action="ERRNO", errno=1)
    assert decide(compiled(one(rule, action="ALLOW")), X86_64, 0) == "ALLOW"


def test_more_rules_than_the_kernel_takes_are_refused() -> None:
    rules = [
        SyscallRule(names=("read",), action="ALLOW", args=(equals(0, value), equals(1, value)))
        for value in range(1, 1200)
    ]
    with pytest.raises(UncompilableError, match=r"make \d+ instructions, and the kernel takes 4096"):
        compiled(one(*rules))


def test_the_names_that_manifests_are_checked_against_are_all_that_libseccomp_knows() -> None:
    import pyseccomp

    from orchestrator.manifest.syscall_names import SYSTEM_CALLS

    known = set()
    for name, token in vars(pyseccomp.Arch).items():
        for number in range(2000) if name.isupper() and token else ():
            for base in (0, X32, 4000, 5000, 6000):
                try:
                    known.add(pyseccomp.resolve_syscall(token, base + number).decode())
                except ValueError:
                    pass
    assert len(known) > 400
    newer = known - SYSTEM_CALLS
    assert newer == set(), "make orchestrator/manifest/syscall_names.py anew"


def test_nothing_but_the_compiler_loads_libseccomp() -> None:
    import subprocess

    script = (
        "import sys, orchestrator.launch.launcher, orchestrator.cli.up, orchestrator.manifest.load;"
        "print('pyseccomp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
