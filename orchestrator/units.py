"""Durations and sizes as people write them, both ways.

Durations follow the Compose Specification (``1h5m30s20ms``; units us, ms, s, m, h, and d as an addition);
sizes follow Docker's ``-m`` option: a number with an optional unit, where ``K``, ``KB`` and ``KiB`` all mean
1024 (the cgroup files count in 1024s).
"""

from __future__ import annotations

import re

_DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Sixteen digits are more than any duration or size has, and keep the arithmetic finite.
_DURATION_PART = re.compile(r"(\d{1,16}(?:\.\d{1,16})?)(us|ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,16})?)\s*(?:b|([kmgt])(?:i?b)?)?", re.IGNORECASE | re.ASCII)
_SIZE_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``"1m30s"``.

    :raises ValueError: with a text that says what is allowed.
    """
    rest = text.strip()
    parts = _DURATION_PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f'{text!r} is not a duration (write it like "500ms", "10s", "1m30s" or "2h")')
    units = [unit for _, unit in parts]
    if len(set(units)) != len(units):
        raise ValueError(f"{text!r} names a unit twice")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """The shortest way to write a duration that :func:`parse_duration` reads back (to the microsecond)."""
    micros = round(seconds * 1e6)
    if micros == 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000),
                       ("ms", 1000), ("us", 1)):  # fmt: skip
        count, micros = divmod(micros, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``"256M"``.

    :raises ValueError: with a text that says what is allowed.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'{text!r} is not a size (write it like "512K", "256M" or "1.5G")')
    number, unit = match.groups()
    return round(float(number) * _SIZE_FACTORS[(unit or "").lower()])


def format_size(count: int) -> str:
    """A size for people, with one decimal at most: ``64M``, ``1.5G``."""
    value, units = float(count), ["", "K", "M", "G", "T"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f}".removesuffix(".0") + units[0]
