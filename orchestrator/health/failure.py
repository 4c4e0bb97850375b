"""How a check says why it failed."""

from __future__ import annotations

import os


class CheckFailed(Exception):
    """The check failed; the text is the reason, for people."""


def connection_failure(error: OSError, peer: str) -> CheckFailed:
    """``connection refused by 10.1.2.3:5432`` and the like, from the kernel's word."""
    if isinstance(error, ConnectionRefusedError):
        return CheckFailed(f"connection refused by {peer}")
    if isinstance(error, ConnectionResetError):
        return CheckFailed(f"connection reset by {peer}")
    text = os.strerror(error.errno) if error.errno else str(error) or "the connection was lost"
    return CheckFailed(f"cannot connect to {peer}: {text}")
