"""Moments and spans of time, for people: how they are written and read."""

from __future__ import annotations

import math
import re

from orchestrator.errors import UsageError
from orchestrator.units import parse_duration

_NUMBER = re.compile(r"\d+(\.\d+)?")


def span(seconds: float) -> str:
    """About how long, in at most two units: ``4s``, ``3m 12s``, ``2h 5m``, ``6d 1h``."""
    total = max(0, int(seconds))
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if total >= size:
            return f"{total // size}{unit} {total % size // part}{part_unit}"
    return f"{total}s"


def stopwatch(seconds: float) -> str:
    """A short time to a tenth of a second, a long one like :func:`span`."""
    return f"{seconds:.1f}s" if seconds < 60 else span(seconds)


def elapsed(seconds: float) -> str:
    """How long something took: milliseconds matter if there is nothing longer."""
    return f"{seconds * 1000:.0f}ms" if seconds < 0.9995 else stopwatch(seconds)


def timestamp(moment: float) -> str:
    """A moment (seconds since the epoch) as RFC 3339, in UTC, to the microsecond.

    Never later than the moment itself, so that what is read back as "since" includes it.
    """
    from datetime import UTC, datetime

    text = datetime.fromtimestamp(math.floor(moment * 1e6) / 1e6, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def parse_moment(text: str, now: float) -> float:
    """Seconds since the epoch of ``10m`` (ago), an RFC 3339 time, or seconds since the epoch.

    A time without a zone is local time.

    :raises UsageError: when it is none of these.
    """
    from datetime import datetime

    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is not a time", 'write "10m" (ago), "2024-05-01T12:00:00Z", or seconds since the epoch'
        ) from None


def parse_seconds(text: str) -> float:
    """Seconds of a duration, or of a plain number; for argparse's ``type=``.

    :raises UsageError: for anything else.
    """
    try:
        return float(text) if _NUMBER.fullmatch(text) else parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
