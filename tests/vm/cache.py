"""A folder outside the repository for what takes long to make, named after what it is made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def folder() -> Path:
    """``$XDG_CACHE_HOME/orch-vm``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "orch-vm")


def key(*parts: Iterable[str]) -> str:
    """Sixteen digits that change with any of the texts."""
    text = "\0\0".join("\0".join(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, which ``make`` fills when it is not there.

    It is made aside and renamed, so a half-made one is never used. Of two runs at a time one waits.
    """
    cache = folder()
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / name
    with _locked(cache / f"{name}.lock"):
        if not done.exists():
            aside = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
            try:
                make(aside)
                aside.rename(done)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return done


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
