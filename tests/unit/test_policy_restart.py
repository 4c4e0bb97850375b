"""The restart policy: verdicts, delays, reasons."""

from __future__ import annotations

import signal
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec import RestartPolicy
from orchestrator.supervise.policy import Decision, History, Outcome, Verdict, decide, describe_exit

Kind = Literal["service", "job"]
Policy = Literal["no", "on-failure", "always", "unless-stopped"]
POLICIES: tuple[Policy, ...] = ("no", "on-failure", "always", "unless-stopped")
R, E, G = Verdict.RESTART, Verdict.EXIT, Verdict.GIVE_UP

OUTCOMES = st.builds(
    Outcome,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    oom=st.booleans(),
    launch_failed=st.booleans(),
    retryable=st.booleans(),
    ran_for=st.floats(0, 1e6),
    stop_requested=st.booleans(),
    unhealthy=st.booleans(),
)
POLICY_SPECS = st.builds(
    RestartPolicy,
    policy=st.sampled_from(POLICIES),
    max_attempts=st.none() | st.integers(0, 5),
    backoff=st.none() | st.floats(0, 100),
    factor=st.floats(1, 1e6),
    backoff_max=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    reset_after=st.floats(0.1, 100),
)
RANDOM = st.floats(0, 1, exclude_max=True)


def after(outcome: Outcome, policy: Policy, kind: Kind = "service") -> Decision:
    return decide(RestartPolicy(policy=policy), kind, History(), outcome, now=100.0, random=0.5)


def crash_loop(policy: RestartPolicy, runs: int, random: float = 0.5) -> list[Decision]:
    """What follows ``runs`` crashes, one right after the other."""
    history, now, decisions = History(), 1000.0, []
    for _ in range(runs):
        decision = decide(policy, "service", history, Outcome(exit_code=1), now, random)
        decisions.append(decision)
        history, now = decision.history, now + decision.delay + 0.5
    return decisions


@pytest.mark.parametrize(("outcome", "verdicts"), [
    #                                                     no  on-failure  always  unless-stopped
    (Outcome(exit_code=0),                                (E, E, R, R)),
    (Outcome(exit_code=1),                                (E, R, R, R)),
    (Outcome(exit_code=137, signal=9),                    (E, R, R, R)),
    (Outcome(exit_code=137, signal=9, oom=True),          (E, R, R, R)),
    (Outcome(exit_code=None),                             (E, R, R, R)),
    (Outcome(exit_code=143, stop_requested=True),         (E, E, E, E)),
    (Outcome(exit_code=0, unhealthy=True),                (R, R, R, R)),
    (Outcome(exit_code=0, unhealthy=True, stop_requested=True), (E, E, E, E)),
    (Outcome(exit_code=127, launch_failed=True),          (G, G, R, R)),
    (Outcome(exit_code=125, launch_failed=True, retryable=True), (G, R, R, R)),
    (Outcome(exit_code=127, launch_failed=True, stop_requested=True), (E, E, E, E)),
])  # fmt: skip
def test_verdicts(outcome: Outcome, verdicts: tuple[Verdict, ...]) -> None:
    assert tuple(after(outcome, policy).verdict for policy in POLICIES) == verdicts


@pytest.mark.parametrize("policy", POLICIES)
def test_completed_job_stays_completed(policy: Policy) -> None:
    assert after(Outcome(exit_code=0), policy, "job").verdict is E


def test_first_restart_is_immediate_and_the_next_ones_back_off() -> None:
    decisions = crash_loop(RestartPolicy(policy="always"), 12)
    assert [round(decision.delay, 3) for decision in decisions] == [
        0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60,
    ]  # fmt: skip


def test_given_backoff_applies_from_the_first_restart() -> None:
    policy = RestartPolicy(policy="always", backoff=2.0, factor=3.0, backoff_max=20.0)
    assert [decision.delay for decision in crash_loop(policy, 4)] == [2.0, 6.0, 18.0, 20.0]


@pytest.mark.parametrize(("random", "delay"), [(0.0, 0.9), (0.5, 1.0), (0.999999, 1.1)])
def test_jitter_spreads_the_delay(random: float, delay: float) -> None:
    (decision,) = crash_loop(RestartPolicy(policy="always", backoff=1.0), 1, random)
    assert decision.delay == pytest.approx(delay, abs=1e-5)


def test_attempts_run_out() -> None:
    decisions = crash_loop(RestartPolicy(policy="on-failure", max_attempts=3), 4)
    assert [decision.verdict for decision in decisions] == [R, R, R, G]
    assert decisions[-1].reason == "exited (1), restarted 3 times in 1.8s, giving up (restart = on-failure:3)"


def test_stable_time_starts_the_count_anew() -> None:
    policy = RestartPolicy(policy="on-failure", max_attempts=3)
    history = crash_loop(policy, 3)[-1].history
    decision = decide(policy, "service", history, Outcome(exit_code=1, ran_for=10.0), now=2000.0, random=0.5)
    assert (decision.verdict, decision.delay) == (R, 0.0)
    assert decision.history == History(attempts=1, total=4, first=2000.0, last=2000.0)


def test_zero_attempts_means_no_restart() -> None:
    assert crash_loop(RestartPolicy(policy="on-failure", max_attempts=0), 1)[0].verdict is G


@pytest.mark.parametrize(("outcome", "policy", "history", "reason"), [
    (Outcome(exit_code=1), "no", History(), "exited (1)"),
    (Outcome(exit_code=0), "on-failure", History(), "exited (0)"),
    (Outcome(exit_code=1), "always", History(), "exited (1), restart 1 at once"),
    (Outcome(exit_code=137, signal=9), "always", History(6, 6, 0, 0),
     "exited (137: killed by SIGKILL), restart 7 in 3.2s"),
    (Outcome(exit_code=1), "always", History(3, 3, 0, 0), "exited (1), restart 4 in 400ms"),
    (Outcome(exit_code=137, signal=9, oom=True), "no", History(), "killed: out of memory, limit 64M"),
    (Outcome(exit_code=143, signal=15, stop_requested=True), "always", History(),
     "stopped, exited (143: killed by SIGTERM)"),
    (Outcome(exit_code=0, unhealthy=True), "no", History(), "unhealthy, exited (0), restart 1 at once"),
    (Outcome(exit_code=127, launch_failed=True), "no", History(), "launch failed (127)"),
])  # fmt: skip
def test_reasons(outcome: Outcome, policy: Policy, history: History, reason: str) -> None:
    decision = decide(
        RestartPolicy(policy=policy), "service", history, outcome, 0.0, 0.5, memory_limit=64 << 20
    )
    assert decision.reason == reason
    assert decision.with_reason("other words").reason == "other words"


@pytest.mark.parametrize(("arguments", "text"), [
    ((0,), "exited (0)"),
    ((None,), "exited (code unknown)"),
    ((None, signal.SIGSEGV), "exited (139: killed by SIGSEGV)"),
    ((128 + 40, 40), "exited (168: killed by signal 40)"),
    ((137, 9, True), "killed: out of memory"),
    ((137, 9, True, 1536 << 20), "killed: out of memory, limit 1.5G"),
])  # fmt: skip
def test_exits_are_described_for_people(arguments: tuple[int, int, bool, int], text: str) -> None:
    assert describe_exit(*arguments) == text


@given(POLICY_SPECS, st.sampled_from(["service", "job"]), st.lists(st.tuples(OUTCOMES, RANDOM), max_size=30))
def test_any_history_leads_to_a_bounded_delay_and_a_reason(
    policy: RestartPolicy, kind: Kind, runs: list[tuple[Outcome, float]]
) -> None:
    history, now = History(), 0.0
    for outcome, random in runs:
        decision = decide(policy, kind, history, outcome, now, random)
        assert decision.reason
        assert 0.0 <= decision.delay <= policy.backoff_max * (1 + policy.jitter)
        if decision.verdict is R:
            assert not outcome.stop_requested
            assert decision.history.total == history.total + 1
            assert policy.max_attempts is None or decision.history.attempts <= policy.max_attempts
        else:
            assert decision.delay == 0.0
            assert decision.history.total == history.total
        history, now = decision.history, now + decision.delay + outcome.ran_for


@given(POLICY_SPECS, st.integers(0, 10**6), RANDOM)
def test_delay_never_falls_while_it_crashes(policy: RestartPolicy, attempts: int, random: float) -> None:
    always = RestartPolicy(
        policy="always", backoff=policy.backoff, factor=policy.factor, backoff_max=policy.backoff_max
    )
    delays = [
        decide(always, "service", History(n, n, 0.0, 0.0), Outcome(exit_code=1), 1.0, random).delay
        for n in (attempts, attempts + 1)
    ]
    assert delays[0] <= delays[1]
