"""What is in force for a process, whatever it was meant to be: read from the kernel.

Reads /proc: call it off the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.kernel import process
from orchestrator.kernel.process import Extents, Privileges


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds one process.

    :param uid_map: of its user namespace, ids outside as this process counts them; ``gid_map`` likewise.
    """

    privileges: Privileges
    uid_map: Extents
    gid_map: Extents


def read(pid: int) -> InForce | None:
    """What holds a process; None when it has ended."""
    try:
        return InForce(
            process.privileges(pid),
            process.id_map(pid, "uid"),
            process.id_map(pid, "gid"),
        )
    except OSError:  # ENOENT, or ESRCH when it ended after the file had been opened
        return None
