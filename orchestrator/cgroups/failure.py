"""The errors of kernel files as errors that people can read."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from orchestrator.errors import KernelError


def cause(error: OSError) -> str:
    """``/path: EBUSY: Device or resource busy``."""
    word = f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror}"
    return f"{error.filename}: {word}" if error.filename else word


@contextlib.contextmanager
def reported(what: str, remedy: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a KernelError about ``what``."""
    try:
        yield
    except OSError as error:
        raise KernelError(what, cause(error), remedy, errno=error.errno or 0) from error
