"""When waiting for a resource is too much for too long: against a model of the kernel, with a clock of our own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import PressureTrigger
from orchestrator.supervise.pressure import LATE, Spell, describe, is_sustained, notice, patience

#: Seconds of a step of the model, and of a look of the kernel at triggers that need no capability (PSI_FREQ).
STEP = 0.1
LOOK = 2.004


@dataclass
class Seen:
    """What came of a course of pressure.

    :ivar notices: when the kernel told.
    :ivar sustained: when it was first found to be sustained; None if never.
    """

    notices: list[float]
    sustained: float | None


def kernel(trigger: PressureTrigger, shares: list[float]) -> Iterator[tuple[float, float]]:
    """The kernel's notices, (time, seconds waited), as kernel/sched/psi.c comes to give them.

    :param shares: the part of each step's time that was waited.
    """
    totals = [0.0]
    for share in shares:
        totals.append(totals[-1] + share * STEP)

    def waited(at: float) -> float:
        index = min(int(at / STEP), len(totals) - 1)
        return totals[index]

    begin, latest, pending, at = 0.0, -trigger.window, False, LOOK
    while at < len(shares) * STEP:
        pending = pending or waited(at) - waited(max(0.0, at - trigger.window)) >= (
            trigger.threshold / 100 * trigger.window
        )
        if pending and at >= latest + trigger.window:
            yield at, waited(at)
            latest, pending = at, False
        at += LOOK if begin == 0 else 2.0
        begin += 1


def follow(trigger: PressureTrigger, shares: list[float]) -> Seen:
    """What is made of them."""
    spell: Spell | None = None
    seen = Seen([], None)
    for at, waited in kernel(trigger, shares):
        seen.notices.append(at)
        spell = notice(trigger, spell, at, waited)
        if seen.sustained is None and is_sustained(trigger, spell):
            seen.sustained = at
    return seen


triggers = st.builds(
    PressureTrigger,
    resource=st.sampled_from(["cpu", "memory", "io"]),
    kind=st.sampled_from(["some", "full"]),
    threshold=st.floats(5, 90),
    window=st.sampled_from([2.0, 4.0, 6.0, 10.0]),
    sustained=st.floats(0, 30),
)


def steps(seconds: float) -> int:
    return int(seconds / STEP)


@given(triggers, st.floats(1.05, 3))
def test_lasting_pressure_is_found_soon_after_it_has_lasted_long_enough(
    trigger: PressureTrigger, excess: float
) -> None:
    share = min(1.0, trigger.threshold / 100 * excess)
    seen = follow(trigger, [share] * steps(trigger.sustained + 60))
    assert seen.sustained is not None
    assert trigger.sustained <= seen.sustained - seen.notices[0]
    # Its first notice needs a window, and each may be late by a look.
    assert seen.sustained <= trigger.window + trigger.sustained + patience(trigger) + 2 * LOOK


@given(triggers, st.lists(st.floats(0, 1), max_size=40), st.floats(0, 0.9))
def test_less_pressure_than_the_threshold_is_never_sustained(
    trigger: PressureTrigger, noise: list[float], part: float
) -> None:
    share = trigger.threshold / 100 * part
    assert follow(trigger, [share] * 600).notices == []


@given(triggers, st.floats(0, 4), st.floats(12, 40), st.integers(1, 6))
def test_bursts_with_rests_between_them_are_not_one_spell(
    trigger: PressureTrigger, burst: float, rest: float, count: int
) -> None:
    """However often they come: in each rest no notice comes for longer than patience has it."""
    rest += trigger.window + LOOK
    shares = ([1.0] * steps(burst) + [0.0] * steps(rest)) * count
    seen = follow(trigger, shares)
    if trigger.sustained > burst + trigger.window + 2 * LOOK:
        assert seen.sustained is None


@given(triggers, st.lists(st.floats(0, 1), max_size=80))
def test_what_is_sustained_was_waited_as_much_as_the_threshold_says(
    trigger: PressureTrigger, coarse: list[float]
) -> None:
    """For any course: nothing is found too early, nor for less than was asked."""
    shares = [share for share in coarse for _ in range(10)]
    spell: Spell | None = None
    for at, waited in kernel(trigger, shares):
        before = spell
        spell = notice(trigger, spell, at, waited)
        assert spell.latest == at
        assert (spell.since == at) == (before is None or at - before.latest > patience(trigger))
        if is_sustained(trigger, spell):
            assert spell.lasted >= trigger.sustained
            assert spell.waited - spell.before >= trigger.threshold / 100 * (spell.lasted - 2.0)


TRIGGER = PressureTrigger(resource="memory", threshold=20.0, window=2.0, sustained=10.0)


def test_notices_that_come_although_little_is_waited_are_not_enough() -> None:
    """0.4 s of every four: each is 20 % of a window, and all of them 10 % of the time."""
    spell = None
    for number in range(30):
        spell = notice(TRIGGER, spell, 4.0 * number, 0.4 * number)
        assert not is_sustained(TRIGGER, spell)


def test_a_spell_begins_anew_after_a_rest() -> None:
    first = notice(TRIGGER, None, 100.0, 5.0)
    assert notice(TRIGGER, first, 102.0 + LATE, 6.0).since == 100.0
    assert notice(TRIGGER, first, 102.1 + LATE, 6.0).since == 102.1 + LATE


def test_the_first_notice_is_enough_when_it_need_not_last() -> None:
    trigger = PressureTrigger(resource="io", threshold=5.5, window=0.5, sustained=0.0, kind="full")
    spell = notice(trigger, None, 3.0, 1.0)
    assert is_sustained(trigger, spell)
    assert describe(trigger, spell) == "io pressure: full at least 5.5% over 500ms"


@pytest.mark.parametrize(
    ("waited", "text"),
    [
        (3.4, "memory pressure: some 34% for 10s (threshold 20% over 2s)"),
        (30.0, "memory pressure: some 100% for 10s (threshold 20% over 2s)"),
    ],
)
def test_people_are_told_how_much_it_was(waited: float, text: str) -> None:
    assert describe(TRIGGER, Spell(5.0, 15.0, 1.0, 1.0 + waited)) == text
