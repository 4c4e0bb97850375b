"""Results, and how they are told."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """One line of the table.

    :param value: median, in ``unit``.
    :param limit: the value must not be above it (below it, if ``at_least``); None is for information.
    :param peer: what the peer took in the same run, in the same unit.
    :param samples: all single values, for the JSON.
    """

    name: str
    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    peer: float | None = None
    samples: tuple[float, ...] = ()
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        """Whether the limit is kept; None without one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """The result as ``--json`` writes it."""
        return {**asdict(self), "ok": self.ok}


def ratio(of: Result, limit: float, what: str) -> Result:
    """The line that compares a result with its peer."""
    assert of.peer
    return Result(of.name, what, of.value / of.peer, "x", limit, peer=1.0)


def from_samples(
    name: str, what: str, samples: Sequence[float], unit: str, limit: float | None = None, **more: Any
) -> Result:
    """A result whose value is the median of ``samples``."""
    return Result(name, what, statistics.median(samples), unit, limit, samples=tuple(samples), **more)


def interleave(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Each measure's samples, taken in turns so that a busy moment of the machine hits all alike."""
    samples: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, into in zip(measures, samples, strict=True):
            into.append(measure())
    return samples


def table(results: Sequence[Result]) -> str:
    """The results as aligned text."""
    rows = [("what", "measured", "limit", "peer", "")]
    for result in results:
        sign = ">=" if result.at_least else "<="
        rows.append(
            (
                result.what,
                _number(result.value, result.unit),
                "" if result.limit is None else f"{sign} {_number(result.limit, result.unit)}",
                "" if result.peer is None else _number(result.peer, result.unit),
                {True: "ok", False: "TOO MUCH" if not result.at_least else "TOO LITTLE", None: ""}[result.ok],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for what, value, limit, peer, verdict in rows:
        cells = (what.ljust(widths[0]), value.rjust(widths[1]), limit.rjust(widths[2]), peer.rjust(widths[3]))
        lines.append("  ".join((*cells, verdict)).rstrip())
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}"
