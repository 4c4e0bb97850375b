"""Write-ahead record of everything of the kernel's, and every folder, that this instance owns.

One JSON object a line, appended *before* the kernel is touched: ``{"own": kind, "name": ..., ...}`` and later
``{"free": kind, "name": ...}``. A sweep reads what is owned and not freed, and removes exactly that. A half
written last line (the writer was killed) says nothing and is ignored. The file lives where a reboot empties
it, as the kernel's own state is then gone as well; so it is not synced to disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

#: Lines after which the file is rewritten with only what is still owned.
_COMPACT_AFTER = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """Something owned: ``kind`` (``container``, ``network``, ``project``), its ``name``, what a sweep must know."""

    kind: str
    name: str
    data: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """The ledger of a running instance. All methods are quick (one small write to a tmpfs)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._owned: dict[tuple[str, str], Entry] = {(e.kind, e.name): e for e in read(path)}
        self._lines = 0
        self._fd = -1
        self._rewrite()

    def own(self, kind: str, name: str, **data: Any) -> None:
        """Record that the thing is about to be made (or that its data changed)."""
        entry = Entry(kind, name, data)
        self._owned[kind, name] = entry
        self._append({"own": kind, "name": name, **data})

    def free(self, kind: str, name: str) -> None:
        """Record that the thing is gone."""
        if self._owned.pop((kind, name), None):
            self._append({"free": kind, "name": name})

    def owned(self, kind: str | None = None) -> list[Entry]:
        """What is owned now, oldest first."""
        return [entry for entry in self._owned.values() if kind in (None, entry.kind)]

    def close(self) -> None:
        """Close the file; remove it when nothing is owned."""
        os.close(self._fd)
        if not self._owned:
            os.unlink(self._path)

    def _append(self, record: dict[str, Any]) -> None:
        os.write(self._fd, msgspec.json.encode(record) + b"\n")
        self._lines += 1
        if self._lines > _COMPACT_AFTER and self._lines > 4 * len(self._owned):
            self._rewrite()

    def _rewrite(self) -> None:
        draft = self._path + ".new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for entry in self._owned.values():
            os.write(fd, msgspec.json.encode({"own": entry.kind, "name": entry.name, **entry.data}) + b"\n")
        os.rename(draft, self._path)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._lines = len(self._owned)


def read(path: str) -> Iterator[Entry]:
    """What the ledger at ``path`` says is owned, oldest first; nothing when there is no such file."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return
    owned: dict[tuple[str, str], Entry] = {}
    for line in lines:
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            continue
        name = record.pop("name", "")
        if kind := record.pop("own", None):
            owned[kind, name] = Entry(kind, name, record)
        else:
            owned.pop((record.get("free", ""), name), None)
    yield from owned.values()
