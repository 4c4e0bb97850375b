"""From probe results to health."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.health.monitor import FIRST_PAUSE, HealthState, deadline, next_state
from orchestrator.health.probe import ProbeResult
from orchestrator.spec import ExecCheck, Healthcheck
from orchestrator.states import Health

TEST = ExecCheck(command=("true",))
GOOD = ProbeResult(True, "fine", 0.0)
BAD = ProbeResult(False, "connection refused", 0.0)


def check(**times: float) -> Healthcheck:
    return Healthcheck(test=TEST, **times)  # type: ignore[arg-type]


def probes_of_a_dead_service(check: Healthcheck, until: float) -> list[tuple[float, Health]]:
    """When a service whose probes fail at once is probed, and its health after each."""
    state, now = HealthState.begin(0.0), 0.0
    seen: list[tuple[float, Health]] = []
    while now <= until and len(seen) < 1000:
        state, health, delay = next_state(check, state, BAD, now)
        seen.append((round(now, 3), health))
        now += delay
    return seen


def test_first_probes_come_in_quick_succession() -> None:
    times = [time for time, _ in probes_of_a_dead_service(check(interval=30.0), until=2.0)]
    assert times[:6] == [0.0, 0.05, 0.1, 0.15, 0.225, 0.338]
    assert all(later - earlier <= max(FIRST_PAUSE, earlier / 2) + 0.002 for earlier, later in pairwise(times))


def test_service_becomes_unhealthy_when_docker_would_say_so() -> None:
    seen = probes_of_a_dead_service(check(interval=10.0, retries=3), until=30.0)
    assert [time for time, _ in seen if time >= 10.0] == [10.0, 20.0, 30.0]
    assert [time for time, health in seen if health is Health.UNHEALTHY] == [30.0]


def test_failures_in_the_start_period_do_not_count() -> None:
    seen = probes_of_a_dead_service(
        check(interval=5.0, start_period=60.0, start_interval=2.0, retries=2), until=70.0
    )
    in_period = [time for time, _ in seen if 10.0 < time < 60.0]
    assert all(round(later - earlier, 2) == 2.0 for earlier, later in pairwise(in_period))
    assert [entry for entry in seen if entry[0] >= 60.0] == [
        (60.0, Health.STARTING), (65.0, Health.UNHEALTHY), (70.0, Health.UNHEALTHY),
    ]  # fmt: skip


def test_first_success_makes_healthy_and_ends_the_start_period() -> None:
    rules = check(interval=5.0, start_period=60.0, retries=1)
    state, health, delay = next_state(rules, HealthState.begin(0.0), GOOD, 1.0)
    assert (health, delay) == (Health.HEALTHY, 5.0)
    assert next_state(rules, state, BAD, 6.0)[1:] == (Health.UNHEALTHY, 5.0)


def test_success_forgives_earlier_failures() -> None:
    rules = check(interval=5.0, retries=2)
    state = HealthState(began=0.0, health=Health.HEALTHY)
    for result, expected in ((BAD, Health.HEALTHY), (GOOD, Health.HEALTHY), (BAD, Health.HEALTHY),
                             (BAD, Health.UNHEALTHY), (BAD, Health.UNHEALTHY), (GOOD, Health.HEALTHY)):  # fmt: skip
        state, health, delay = next_state(rules, state, result, 100.0)
        assert (health, delay) == (expected, 5.0)


def test_state_is_described_for_people() -> None:
    rules = check(interval=5.0, retries=2)
    state = HealthState.begin(0.0)
    texts = [state.describe(rules)]
    for result, now in ((BAD, 1.0), (BAD, 5.0), (BAD, 10.0), (BAD, 15.0), (GOOD, 20.0)):
        state, _, _ = next_state(rules, state, result, now)
        texts.append(state.describe(rules))
    assert texts == [
        "not checked yet",
        "last check failed: connection refused",
        "1/2 checks failed: connection refused",
        "2/2 checks failed: connection refused",
        "3 checks failed: connection refused",
        "healthy",
    ]


CHECKS = st.builds(
    check,
    interval=st.floats(0.05, 60),
    timeout=st.floats(0.01, 60),
    retries=st.integers(0, 5),
    start_period=st.just(0.0) | st.floats(0, 100),
    start_interval=st.floats(0.05, 30),
)


@given(CHECKS, st.floats(0, 1))
def test_verdict_comes_before_the_deadline(rules: Healthcheck, slowness: float) -> None:
    """Whatever the probes' duration, a service that never answers is unhealthy at the deadline at the latest."""
    duration = rules.timeout * slowness
    state, now = HealthState.begin(0.0), 0.0
    for _ in range(10_000):
        now += duration
        state, health, delay = next_state(rules, state, ProbeResult(False, "", duration), now)
        assert 0.0 <= delay <= max(FIRST_PAUSE, rules.interval)
        if health is Health.UNHEALTHY:
            break
        now += delay
    assert health is Health.UNHEALTHY
    assert now <= deadline(rules) * (1 + 1e-9)


@given(CHECKS, st.lists(st.booleans(), max_size=40))
def test_health_follows_from_the_latest_results(rules: Healthcheck, results: list[bool]) -> None:
    state, now, health = HealthState.begin(0.0), 0.0, Health.STARTING
    for index, ok in enumerate(results):
        state, health, delay = next_state(rules, state, GOOD if ok else BAD, now)
        now += delay
        if ok:
            assert health is Health.HEALTHY
        elif health is Health.UNHEALTHY:
            assert index + 1 >= rules.retries
        if any(results[: index + 1]):
            assert health is not Health.STARTING
        if True in results[max(0, index - max(1, rules.retries) + 1) : index + 1]:
            assert health is not Health.UNHEALTHY or not ok
