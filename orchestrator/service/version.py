"""Which orch this is."""

from __future__ import annotations

import importlib.metadata

#: Grows when the API changes in a way that a client must know of.
API_VERSION = 1


def version() -> str:
    """The package's version; ``"0"`` in a tree that was never installed."""
    try:
        return importlib.metadata.version("orch")
    except importlib.metadata.PackageNotFoundError:
        return "0"
