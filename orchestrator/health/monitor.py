"""From probe results to a container's health; pure.

The rules are Docker's: ``retries`` failures in a row make it unhealthy, one success makes it healthy, failures
within ``start_period`` of the start do not count until there was a success, and ``interval`` runs from the
end of one probe to the start of the next. One thing is different, because others wait for the first success:
Docker waits a whole interval before its first probe; we probe at once, and then again after 50 ms at first
and after half of the container's age later on, at most ``interval`` and ``start_interval``. Failures before
Docker would have probed at all do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.health.probe import ProbeResult
from orchestrator.spec import Healthcheck
from orchestrator.states import Health

#: Seconds between the first two probes.
FIRST_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class HealthState:
    """What the results so far amount to.

    :param began: when the container's program started, on the clock of ``now``.
    :param failures: that count, in a row.
    :param last: the last probe's result; None before the first.
    """

    began: float
    health: Health = Health.STARTING
    failures: int = 0
    last: ProbeResult | None = None

    @classmethod
    def begin(cls, now: float) -> HealthState:
        """The state of a container that has just started; its first probe is due at once."""
        return cls(began=now)

    def describe(self, check: Healthcheck) -> str:
        """For people: ``3/3 checks failed: connection refused by 10.1.2.3:5432``."""
        if self.last is None:
            return "not checked yet"
        if self.last.ok:
            return "healthy"
        if self.failures == 0:
            return f"last check failed: {self.last.output}"
        of = f"/{_retries(check)}" if self.failures <= _retries(check) else ""
        return f"{self.failures}{of} checks failed: {self.last.output}"


def next_state(
    check: Healthcheck, state: HealthState, result: ProbeResult, now: float
) -> tuple[HealthState, Health, float]:
    """What follows from a probe that has just ended: the new state, the health, and seconds until the next probe."""
    if result.ok:
        return HealthState(state.began, Health.HEALTHY, 0, result), Health.HEALTHY, check.interval
    age, grace = now - state.began, _grace(check)
    if state.health is Health.STARTING and age - result.seconds < grace:
        pause = max(FIRST_PAUSE, min(age / 2, check.interval, check.start_interval))
        return (
            HealthState(state.began, state.health, 0, result),
            state.health,
            min(pause, max(0.0, grace - age)),
        )
    failures = state.failures + 1
    health = Health.UNHEALTHY if failures >= _retries(check) else state.health
    return HealthState(state.began, health, failures, result), health, check.interval


def deadline(check: Healthcheck) -> float:
    """Seconds after its start by which a container is healthy or unhealthy, whatever its probes do."""
    retries = _retries(check)
    return _grace(check) + check.timeout * (retries + 1) + check.interval * (retries - 1)


def _grace(check: Healthcheck) -> float:
    """Seconds after the start within which the start of a probe must lie for its failure not to count."""
    return max(check.start_period, check.interval)


def _retries(check: Healthcheck) -> int:
    return max(1, check.retries)
