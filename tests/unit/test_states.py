"""The life of a container, as a table; the documentation of the states is this test."""

from __future__ import annotations

import pytest

from orchestrator.states import ALIVE, ENDED, TRANSITIONS, Event, State, TransitionError, transition

# Rows are states, columns events; "." cannot happen.
TABLE = """
            start     started   start-failed  exit    retry       give-up  stop      pause   unpause  reset
pending     starting  .         .             .       .           failed   exited    .       .        .
starting    .         running   failed        .       restarting  .        stopping  .       .        .
running     .         .         .             exited  restarting  failed   stopping  paused  .        .
paused      .         .         .             exited  restarting  failed   stopping  .       running  .
stopping    .         .         exited        exited  .           .        .         .       .        .
restarting  starting  .         .             .       .           failed   exited    .       .        .
exited      .         .         .             .       .           .        .         .       .        pending
failed      .         .         .             .       .           .        exited    .       .        pending
"""


def render_table() -> list[list[str]]:
    rows = [[event.value for event in Event]]
    for state in State:
        cells = [TRANSITIONS.get((state, event)) for event in Event]
        rows.append([state.value, *(cell.value if cell else "." for cell in cells)])
    return rows


def reachable(start: State) -> set[State]:
    found, stack = {start}, [start]
    while stack:
        state = stack.pop()
        for (before, _), after in TRANSITIONS.items():
            if before is state and after not in found:
                found.add(after)
                stack.append(after)
    return found


def test_table_is_as_documented() -> None:
    assert render_table() == [line.split() for line in TABLE.strip().splitlines()]


def test_every_state_is_reachable_from_the_first() -> None:
    assert reachable(State.PENDING) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_life_can_end(state: State) -> None:
    assert reachable(state) & ENDED


@pytest.mark.parametrize("state", sorted(ENDED))
def test_what_has_ended_stays_so_until_someone_asks(state: State) -> None:
    assert {event for before, event in TRANSITIONS if before is state} <= {Event.RESET, Event.STOP}


@pytest.mark.parametrize("state", sorted(set(State) - {State.STOPPING, State.EXITED}))
def test_everything_that_might_run_can_be_stopped(state: State) -> None:
    assert transition(state, Event.STOP) in {State.STOPPING, State.EXITED}


def test_processes_appear_by_a_start_and_vanish_by_an_end() -> None:
    entering = {event for (a, event), b in TRANSITIONS.items() if a not in ALIVE and b in ALIVE}
    leaving = {event for (a, event), b in TRANSITIONS.items() if a in ALIVE and b not in ALIVE}
    assert entering == {Event.START}
    assert leaving == {Event.EXIT, Event.RETRY, Event.GIVE_UP, Event.START_FAILED}
    assert not ALIVE & ENDED


def test_what_cannot_happen_is_refused_by_name() -> None:
    with pytest.raises(TransitionError, match="'pause' cannot happen to a container that is 'exited'"):
        transition(State.EXITED, Event.PAUSE)
