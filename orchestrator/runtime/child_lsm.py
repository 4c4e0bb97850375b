"""What a child does to be held by the host's security modules."""

from __future__ import annotations

import errno
from collections.abc import Callable

from orchestrator.kernel.procattr import set_attribute
from orchestrator.kernel.syscalls import join_session_keyring
from orchestrator.runtime.child import Child


def _keyring(child: Child, context: str) -> None:
    """A session keyring of the container's own; otherwise it would have that of whoever started orch.

    Done as the host's root, whose quota is not 200 keys. A kernel without keys, or a filter on orch itself that
    refuses this (and refuses it to the container as well), leaves nothing to do.
    """
    if context:
        set_attribute("keycreate", context)
    try:
        join_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    if context:
        set_attribute("keycreate", "\0")


def _confine(child: Child, context: str, profile: str) -> None:
    """Let the next exec change to SELinux context ``context`` and AppArmor profile ``profile``."""
    if context:
        set_attribute("exec", context)
    if profile:
        change_profile("exec", f"exec {profile}")
        child.profile = profile


def change_profile(attribute: str, command: str) -> None:
    """AppArmor's attribute; before Linux 5.8 it had no folder of its own."""
    try:
        set_attribute(f"apparmor/{attribute}", command)
    except FileNotFoundError as error:
        if error.filename and error.filename.startswith("/proc/"):
            raise  # written to: the profile is not there
        set_attribute(attribute, command)


def _label_mounts(child: Child, context: str) -> None:
    """Let everything that is mounted from now on have this SELinux context."""
    child.files_context = context


OPERATIONS: dict[str, Callable[..., None]] = {
    "keyring": _keyring,
    "confine": _confine,
    "label-mounts": _label_mounts,
}
