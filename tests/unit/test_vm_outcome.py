"""Whether a virtual machine's run has succeeded, from what the guest said: never by silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.outcome import Said, began, problem, result

TOKEN = "c0ffee"
BEGAN = began(TOKEN) + "\n"
SUMMARY = "===== 3 passed, 1 skipped in 12.50s =====\n"
PANIC = "[ 1.9] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"


def ended(code: int) -> str:
    return f"{result(TOKEN)}{code}\n"


def test_tests_that_passed_are_a_success() -> None:
    assert problem(TOKEN, Said("", BEGAN + SUMMARY + ended(0)), tests=True) == ""


def test_a_command_that_ended_well_is_a_success_whatever_it_printed() -> None:
    assert problem(TOKEN, Said("", BEGAN + ended(0)), tests=False) == ""


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Said("", BEGAN + SUMMARY + ended(1)), "tests failed (exit code 1 in the guest)"),
        (Said("", BEGAN + ended(5)), "pytest found no such test (exit code 5 in the guest)"),
        (Said("", BEGAN + ended(137)), "the command failed (exit code 137 in the guest)"),
        (Said("", BEGAN + "===== 4 skipped in 2.00s =====\n" + ended(0)), "not one test passed"),
        (Said("", BEGAN + ended(0)), "not one test passed"),
        (Said("", ""), "the guest never came up: it ended before the tests began"),
        (Said("", "", stopped="no sign of systemd after 180 s"), "never came up: no sign of systemd after"),
        (Said("", "", code=1, errors="no such option"), "QEMU ended with code 1: no such option"),
        (Said("", "", code=-6), "QEMU ended with code -6: it said nothing"),
        (Said(PANIC, ""), "the guest's kernel died: Kernel panic - not syncing: Attempted to kill init!"),
        (Said(PANIC, BEGAN + SUMMARY), "the guest's kernel died"),
        (Said("systemd[1]: Freezing execution.", BEGAN, stopped="no output"), "the guest's kernel died"),
        (Said("", BEGAN + SUMMARY), "no result: the guest ended before they did"),
        (Said("", BEGAN, stopped="no output for 1500 s"), "no result: no output for 1500 s"),
    ],
)
def test_everything_else_is_a_failure_that_says_what_happened(said: Said, why: str) -> None:
    assert why in problem(TOKEN, said, tests=True)


@pytest.mark.parametrize(
    "line", [f"{result('other')}0", f"print({result(TOKEN)}0)", f"{result(TOKEN)}0 more"]
)
def test_what_a_test_prints_is_not_taken_for_the_result(line: str) -> None:
    assert "no result" in problem(TOKEN, Said("", f"{BEGAN}{SUMMARY}{line}\n"), tests=True)


def test_the_console_is_shown_up_to_the_death_and_not_what_the_processor_held_then() -> None:
    console = "\n".join([*(f"line {number}" for number in range(100)), PANIC, "RIP: 0033:0x461189"])
    shown = problem(TOKEN, Said(console, ""), tests=True)
    assert "line 99" in shown
    assert "line 10\n" not in shown
    assert "RIP" not in shown


@given(st.text(), st.text(), st.text(), st.integers(), st.booleans())
def test_without_the_guests_result_line_nothing_is_a_success(
    console: str, port: str, stopped: str, code: int, tests: bool
) -> None:
    assert problem(TOKEN, Said(console, BEGAN + SUMMARY + port, stopped, code), tests)
