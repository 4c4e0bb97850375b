"""Whether a container has waited too much for a resource, for too long; pure.

The kernel gives a notice when, within a trigger's window, the time that was waited reached the threshold, and at
most one for each window (Documentation/accounting/psi.rst). Notices that keep coming make a *spell*. It begins with
its first notice, and is over when none came for a while (:func:`patience`). It is *sustained* when it has lasted as
long as the trigger says, from the first to the latest notice, and the part of that time which was waited is no less
than the threshold. The latter since the kernel's notices may come late: without CAP_SYS_RESOURCE it looks every two
seconds, and tells of what it found one look later when a window was not quite over, so that with a window of 2 s
they are 2 s to 4 s apart (measured).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.spec import PressureTrigger
from orchestrator.units import format_duration

#: Seconds that a notice may be late: one look of the kernel (PSI_FREQ in kernel/sched/psi.c), and some for us.
LATE = 2.5
#: Seconds by which the time waited, as the kernel tells it, may be out of date: it adds up that often.
STALE = 2.0


@dataclass(frozen=True, slots=True)
class Spell:
    """Notices that kept coming.

    :param since: when the first came, on any clock that never goes back.
    :param latest: when the latest came.
    :param before: seconds waited in the container's whole life, up to the first.
    :param waited: the same, up to the latest.
    """

    since: float
    latest: float
    before: float
    waited: float

    @property
    def lasted(self) -> float:
        """Seconds from the first to the latest notice."""
        return self.latest - self.since


def patience(trigger: PressureTrigger) -> float:
    """Seconds without a notice after which a spell is over."""
    return trigger.window + LATE


def notice(trigger: PressureTrigger, spell: Spell | None, now: float, waited: float) -> Spell:
    """The spell that a notice belongs to: the one under way, or a new one.

    :param waited: seconds waited in the container's whole life.
    """
    if spell is None or now - spell.latest > patience(trigger):
        return Spell(now, now, waited, waited)
    return replace(spell, latest=now, waited=waited)


def is_sustained(trigger: PressureTrigger, spell: Spell) -> bool:
    """Whether something is to be done about it."""
    least = trigger.threshold / 100 * (spell.lasted - STALE)
    return spell.lasted >= trigger.sustained and spell.waited - spell.before >= least


def describe(trigger: PressureTrigger, spell: Spell) -> str:
    """For people: ``memory pressure: some 34% for 10s (threshold 20% over 2s)``."""
    limit = f"{trigger.threshold:g}% over {format_duration(trigger.window)}"
    what = f"{trigger.resource} pressure: {trigger.kind}"
    if spell.lasted <= STALE:  # too short to tell how much it was
        return f"{what} at least {limit}"
    share = min(100.0, 100 * (spell.waited - spell.before) / spell.lasted)
    return f"{what} {share:.0f}% for {format_duration(round(spell.lasted))} (threshold {limit})"
