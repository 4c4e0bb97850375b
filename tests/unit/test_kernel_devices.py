"""Device rules: merged, and compiled into a program that judges as v1's controller does."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernel import bpf, devices, operations
from support.ebpf import BrokenProgramError, program_allows, rules_allow, run

_ACCESS = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters)))
_MAJORS = st.integers(0, 3) | st.sampled_from([2048, 4095])
_MINORS = st.integers(0, 3) | st.just(1048575)
_ANY = st.just("*")
_RULES = st.lists(
    st.builds(
        "{} {}:{} {}".format, st.sampled_from("bc"), _ANY | _MAJORS.map(str), _ANY | _MINORS.map(str), _ACCESS
    ),
    max_size=12,
)


@given(_RULES, st.sampled_from("bc"), _MAJORS, _MINORS, _ACCESS)
def test_the_program_judges_as_v1_does(
    rules: list[str], kind: str, major: int, minor: int, access: str
) -> None:
    expected = rules_allow(rules, kind, major, minor, access)
    assert program_allows(rules, kind, major, minor, access) is expected


@given(_RULES, st.sampled_from("bc"), _MAJORS, _MINORS, _ACCESS)
def test_merging_changes_no_verdict_and_names_each_device_once(
    rules: list[str], kind: str, major: int, minor: int, access: str
) -> None:
    merged = [f"{numbers} {letters}" for numbers, letters in devices.merge(rules).items()]
    assert rules_allow(merged, kind, major, minor, access) == rules_allow(rules, kind, major, minor, access)
    assert devices.merge(merged) == devices.merge(rules)


@given(_RULES)
def test_every_instruction_can_be_reached(rules: list[str]) -> None:
    """Kernels refuse programs in which one cannot, and jumps that leave the program."""
    program = devices.compile_program(rules)
    reached, pending = set(), [0]
    while pending:
        here = pending.pop()
        if here in reached:
            continue
        assert 0 <= here < len(program)
        reached.add(here)
        code, offset = program[here].code, program[here].offset
        if code in (0x05, 0x16, 0x45, 0x56):
            assert offset >= 0
            pending.append(here + 1 + offset)
        if code not in (0x05, 0x95):
            pending.append(here + 1)
    assert reached == set(range(len(program)))


def test_reading_and_writing_at_once_needs_one_rule_for_both() -> None:
    apart = ["c 1:* r", "c 1:3 w"]
    assert program_allows(apart, "c", 1, 3, "r")
    assert program_allows(apart, "c", 1, 3, "w")
    assert not program_allows(apart, "c", 1, 3, "rw")
    assert program_allows(["c 1:3 r", "c 1:3 w"], "c", 1, 3, "rw")


def test_without_rules_nothing_is_allowed() -> None:
    assert not program_allows([], "c", 1, 3, "r")


def test_more_rules_than_jumps_can_reach_over_are_refused() -> None:
    with pytest.raises(OSError) as error:
        devices.compile_program(f"c 1:{minor} r" for minor in range(33_000))
    assert error.value.errno == errno.E2BIG


def test_instructions_are_packed_as_the_kernel_has_them() -> None:
    assert bpf.assemble([bpf.load_word(2, 1, 8)]).hex() == "6112080000000000"
    assert bpf.assemble([bpf.skip_unless_equal(4, 0x12345678, 3)]).hex() == "5604030078563412"
    assert bpf.assemble([bpf.skip_if_equal(6, 0xFFF00001, -1)]).hex() == "1606ffff0100f0ff"
    assert bpf.assemble(bpf.give(1)).hex() == "b7000000010000009500000000000000"


@pytest.mark.parametrize("code", [b"\xff" + bytes(7), bytes.fromhex("b700000001000000")])
def test_the_interpreter_refuses_what_the_kernel_would(code: bytes) -> None:
    with pytest.raises(BrokenProgramError):
        run(code, bytes(12))


def test_operations_say_what_is_allowed() -> None:
    rules = ["c 1:3 rwm", "b *:* m"]
    assert operations.describe(operations.device_list("/cg", rules)) == (
        "allow devices c 1:3 rwm, b *:* m and no others in /cg"
    )
    assert operations.describe(operations.device_program("/cg", [])) == (
        "allow devices none in /cg, by an eBPF program"
    )
