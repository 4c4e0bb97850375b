"""AppArmor profiles by name. Pure; the profile of containers is the file ``orch-default`` beside this one."""

from __future__ import annotations

import os

#: The profile of containers that ask for none.
DEFAULT_PROFILE = "orch-default"
#: The name that stands for no profile.
UNCONFINED = "unconfined"


def loaded(listing: str) -> dict[str, str]:
    """Profiles and their modes, from the kernel's list: a line is ``name (enforce)``."""
    profiles = {}
    for line in listing.splitlines():
        name, space, mode = line.rpartition(" ")
        if space:
            profiles[name] = mode.strip("()")
    return profiles


def default_text() -> bytes:
    """The profile of containers, for apparmor_parser(8)."""
    with open(os.path.join(os.path.dirname(__file__), DEFAULT_PROFILE), "rb") as file:
        return file.read()
