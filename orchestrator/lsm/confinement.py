"""What the security modules hold one container to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confinement:
    """Labels and profile of one container; ``""`` where it has none.

    :param process: SELinux context of its processes.
    :param files: SELinux context of its files.
    :param profile: AppArmor profile of its processes.
    :param note: why it has less than this host could give; ``""`` when it has all.
    """

    process: str = ""
    files: str = ""
    profile: str = ""
    note: str = ""


#: No security module's.
UNCONFINED = Confinement()
