"""The restart policy: a pure function from how a container ended to what happens next, and why.

- ``no`` never restarts; ``on-failure`` restarts what did not end with 0; ``always`` and ``unless-stopped``
  restart whatever ended by itself. They differ only when the host service starts anew: a container that
  someone had stopped is then started under ``always`` and left stopped under ``unless-stopped``. A job that
  completed is never restarted.
- A stop that someone asked for is never followed by a restart.
- A health check, or a pressure trigger, whose action is ``restart`` restarts under every policy: that is what it was
  asked for.
- A container whose program cannot be executed at all (missing binary, missing image folder) is given up,
  because the next attempt would fail alike. Only ``always`` and ``unless-stopped`` go on trying: their promise
  is to be there as soon as someone has mended it. A launch that failed for want of a resource counts like an
  exit with an error.
- ``max_attempts`` bounds the restarts in a row under every policy.
"""

from __future__ import annotations

import enum
import signal as signals
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.spec import RestartPolicy
from orchestrator.units import format_duration, format_size

#: The first delay after the immediate restart, for a policy without ``backoff`` (Docker's: 100 ms).
_DEFAULT_BACKOFF = 0.1


class Verdict(enum.StrEnum):
    """What happens to a container that ended."""

    RESTART = "restart"
    EXIT = "exit"  #: it has ended, as it was meant to or as the policy has it
    GIVE_UP = "give-up"  #: it failed, and trying again is over


@dataclass(frozen=True, slots=True)
class History:
    """The restarts so far.

    :param attempts: in a row, without a stable time between them.
    :param total: since the container was created.
    :param first: when the first of the row was decided.
    :param last: when the last one was decided.
    """

    attempts: int = 0
    total: int = 0
    first: float | None = None
    last: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run, or an attempt at one, ended.

    :param exit_code: as a shell shows it (128 + signal); None when it is unknown.
    :param signal: that killed it.
    :param oom: the kernel killed it for want of memory.
    :param launch_failed: its program was never executed.
    :param retryable: a launch that failed may succeed later although nobody changes anything.
    :param ran_for: seconds.
    :param stop_requested: someone, or the action ``stop`` of a check, stopped it.
    :param unhealthy: it was stopped because its health check failed, or it waited too much for a resource.
    :param complaint: which of these, for people.
    """

    exit_code: int | None = None
    signal: int | None = None
    oom: bool = False
    launch_failed: bool = False
    retryable: bool = False
    ran_for: float = 0.0
    stop_requested: bool = False
    unhealthy: bool = False
    complaint: str = "unhealthy"

    @property
    def succeeded(self) -> bool:
        """Whether it ended with 0 by itself."""
        return self.exit_code == 0 and self.signal is None and not (self.oom or self.launch_failed)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why.

    :param delay: seconds until the restart; 0 for the other verdicts.
    :param reason: for people: ``exited (1), restart 4 in 3.2s``.
    :param history: the new one.
    """

    verdict: Verdict
    delay: float
    reason: str
    history: History

    def with_reason(self, reason: str) -> Decision:
        """The same decision, told in other words."""
        return replace(self, reason=reason)


def decide(
    policy: RestartPolicy,
    kind: Literal["service", "job"],
    history: History,
    outcome: Outcome,
    now: float,
    random: float,
    memory_limit: int | None = None,
) -> Decision:
    """What happens to a container that ended.

    :param now: seconds of any clock that never goes back, the same one as in ``history``.
    :param random: in [0, 1); spreads the delay.
    :param memory_limit: bytes, for the text of an OOM kill.
    """
    if outcome.ran_for >= policy.reset_after:
        history = replace(history, attempts=0, first=None)
    what = _describe(outcome, memory_limit)
    if not _wants_restart(policy, kind, outcome):
        failed_launch = outcome.launch_failed and not outcome.stop_requested
        return Decision(Verdict.GIVE_UP if failed_launch else Verdict.EXIT, 0.0, what, history)
    if policy.max_attempts is not None and history.attempts >= policy.max_attempts:
        since = now if history.first is None else history.first
        times = "once" if history.attempts == 1 else f"{history.attempts} times"
        reason = (
            f"{what}, restarted {times} in {_brief(now - since)}, giving up"
            f" (restart = {policy.policy}:{policy.max_attempts})"
        )
        return Decision(Verdict.GIVE_UP, 0.0, reason, history)
    attempt = history.attempts + 1
    delay = _delay(policy, attempt, random)
    first = now if history.first is None else history.first
    reason = f"{what}, restart {attempt} {f'in {_brief(delay)}' if delay else 'at once'}"
    return Decision(Verdict.RESTART, delay, reason, History(attempt, history.total + 1, first, now))


def describe_exit(
    exit_code: int | None, signal: int | None = None, oom: bool = False, memory_limit: int | None = None
) -> str:
    """For people: ``exited (1)``, ``exited (137: killed by SIGKILL)``, ``killed: out of memory, limit 64M``."""
    if oom:
        return "killed: out of memory" + (f", limit {format_size(memory_limit)}" if memory_limit else "")
    if signal is not None:
        cause = ": a system call that its seccomp profile forbids" if signal == signals.SIGSYS else ""
        return f"exited ({128 + signal}: killed by {_signal_name(signal)}{cause})"
    return "exited (code unknown)" if exit_code is None else f"exited ({exit_code})"


def _wants_restart(policy: RestartPolicy, kind: str, outcome: Outcome) -> bool:
    if outcome.stop_requested:
        return False
    if outcome.unhealthy:
        return True
    if policy.policy == "no" or (kind == "job" and outcome.succeeded):
        return False
    if policy.policy == "on-failure":
        return not outcome.succeeded and (outcome.retryable or not outcome.launch_failed)
    return True


def _delay(policy: RestartPolicy, attempt: int, random: float) -> float:
    base, power = policy.backoff, attempt - 1
    if base is None:
        if attempt == 1:
            return 0.0
        base, power = _DEFAULT_BACKOFF, attempt - 2
    try:
        delay = min(base * policy.factor**power, policy.backoff_max)
    except OverflowError:
        delay = policy.backoff_max
    return delay * (1 + policy.jitter * (2 * random - 1))


def _describe(outcome: Outcome, memory_limit: int | None) -> str:
    if outcome.launch_failed:
        what = f"launch failed ({outcome.exit_code})"
    else:
        what = describe_exit(outcome.exit_code, outcome.signal, outcome.oom, memory_limit)
    if outcome.unhealthy:
        return f"{outcome.complaint}, {what}"
    return f"stopped, {what}" if outcome.stop_requested else what


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _brief(seconds: float) -> str:
    """A duration as precise as people need it: ``250ms``, ``3.2s``, ``1m5s``."""
    if 1 <= seconds < 10:
        return f"{seconds:.1f}s".replace(".0s", "s")
    return format_duration(round(seconds, 3 if seconds < 1 else 0))
