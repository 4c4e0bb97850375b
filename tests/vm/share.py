"""Serves a folder to the guest: virtiofsd, in a mount namespace in which everything is read-only.

``python -m vm.share FOLDER SOCKET``. Whatever the guest's root does, it cannot change a file here.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys

from orchestrator.kernel import syscalls
from support.sandbox import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount

PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")


def program() -> str | None:
    """Where the server is: a package of its own now, part of QEMU's up to version 7."""
    return shutil.which("virtiofsd") or next((path for path in PLACES if os.access(path, os.X_OK)), None)


def main(folder: str, path: str) -> None:
    """Become the server of ``folder``, listening at ``path``."""
    found = program()
    if found is None:
        sys.exit("needs virtiofsd (Debian packages qemu-system-common or virtiofsd)")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)
    os.set_inheritable(listening.fileno(), True)
    syscalls.unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    root = syscalls.open_tree("/", 0)
    syscalls.mount_setattr(root, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    options = [f"source={folder}", "cache=always", "sandbox=chroot", "xattr", "modcaps=+sys_admin"]
    arguments = [f"--fd={listening.fileno()}", *(word for option in options for word in ("-o", option))]
    os.execv(found, [found, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
