"""A root file system of one static busybox: the same for orch and for its peer."""

from __future__ import annotations

import os
import shutil
import subprocess

from support.requirements import program_path


def make_image(folder: str) -> str:
    """Fill ``folder`` with /bin/busybox and its applets' names; the folder."""
    busybox = program_path("busybox")
    if busybox is None:
        raise RuntimeError("the benchmarks need busybox (Debian package busybox-static)")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "probe"):
        os.makedirs(f"{folder}/{name}")
    shutil.copy(busybox, f"{folder}/bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            os.symlink("busybox", f"{folder}/bin/{applet}")
    return folder
