"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    :param status: ``missing``: orch can't work here; ``warning``: something doesn't work, or not for many
        containers.
    :param detail: what is there, or what is not and what doesn't work because of it.
    :param remedy: what to do about it; "" when all is well.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") == bool(self.remedy):
            raise ValueError(f"{self.name}: what is ok needs no remedy, and everything else needs one")


def ok(name: str, detail: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", detail)


def warning(name: str, detail: str, remedy: str) -> Finding:
    """Something doesn't work."""
    return Finding(name, "warning", detail, remedy)


def missing(name: str, detail: str, remedy: str) -> Finding:
    """Nothing works."""
    return Finding(name, "missing", detail, remedy)


def text_of(path: str) -> str | None:
    """A kernel file's text without surrounding space; None when it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def number_of(path: str) -> int | None:
    """The number in a kernel file; None when it can't be read or isn't one."""
    try:
        return int(text_of(path) or "")
    except ValueError:
        return None
