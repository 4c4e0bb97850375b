"""``orch doctor``: what this host offers and lacks, with the remedy. The checks are in ``orchestrator.checks``."""

from __future__ import annotations

from orchestrator.checks import cgroups, kernel, limits, lsm, network, privileges, storage
from orchestrator.checks.finding import Finding
from orchestrator.ids import Instance


def examine(instance: Instance) -> list[Finding]:
    """Look at everything that an instance needs of its host; changes nothing. Takes about half a second as root.

    Works without root, as far as things can be seen without trying them.
    """
    return [
        *privileges.check(),
        *kernel.check(),
        *lsm.check(),
        *cgroups.check(),
        *network.check(),
        *storage.check(instance),
        *limits.check(),
    ]
