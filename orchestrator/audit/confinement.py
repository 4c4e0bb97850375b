"""Rules about what walls there are besides each other, and what is worse together than each alone."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator import capabilities
from orchestrator.audit.subject import Subject, finding
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity


def combinations(subject: Subject) -> Iterator[FindingView]:
    """Ways to root of the host that take more than one deviation."""
    if subject.own_ids:
        return
    held = _held(subject)
    if "SYS_PTRACE" in held and not subject.has("pid"):
        yield finding(
            CRITICAL, "cap_add, pid, userns",
            "SYS_PTRACE, the host's processes and the host's ids come together",
            "it can take over any process of the host, and so is root of the host",
            "take one of the three away; to have ids of its own costs the least",
        )  # fmt: skip


def _held(subject: Subject) -> tuple[str, ...]:
    """What its program holds from the start."""
    spec = subject.spec
    return subject.capabilities if subject.is_root else capabilities.ambient(spec.cap_add, spec.cap_drop)
