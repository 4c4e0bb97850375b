"""The packages that only the guest has: a kernel, systemd, AppArmor; fetched with apt, unpacked, kept.

They are never installed on this host. What apt would install here for them is what this host lacks: that,
unpacked into a folder which the guest sees above the host's own files, is what the guest needs.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from vm import cache

#: The kernel that Debian makes for virtual machines.
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("systemd", "systemd-sysv", "kmod", "apparmor")
#: What kernels depend on for booting a real machine.
LEFT_OUT = ("initramfs-tools", "klibc-utils", "libklibc", "linux-base")
#: Change it when the way a layer is made changes.
RECIPE = "1"
#: Links into /usr since Debian 12, in whose place no folder must come.
MERGED = ("bin", "sbin", "lib", "lib64")


class LayerError(Exception):
    """The packages could not be had; the text says what failed, and what it said."""


def layer() -> Path:
    """The folder of unpacked packages; made if it is not there yet.

    :raises LayerError: apt cannot name, fetch or unpack them.
    """
    try:
        wanted = _wanted()
    except LayerError:  # never asked, or long ago
        run("apt-get", "-qq", "update")
        wanted = _wanted()
    return cache.kept(f"layer-{cache.key([RECIPE], wanted)}", lambda folder: _make(folder, wanted))


def kernel_package(depends: str) -> str:
    """The package that the kernel's meta package stands for, in the words of ``apt-cache depends``."""
    for line in depends.splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise LayerError(f"apt knows no package {KERNEL}; is this Debian on x86-64?")


def to_fetch(simulation: str) -> list[str]:
    """``name=version`` of what ``apt-get --simulate install`` said it would install, but :data:`LEFT_OUT`.

    Its lines are ``Inst NAME [OLD] (VERSION ARCHIVE [ARCHITECTURE])`` (apt-get(8), --simulate).
    """
    found = []
    for line in simulation.splitlines():
        word, _, rest = line.partition(" ")
        if word == "Inst":
            name = rest.split()[0]
            version = rest.partition("(")[2].split()[0]
            if not name.startswith(LEFT_OUT):
                found.append(f"{name}={version}")
    return sorted(found)


def _wanted() -> list[str]:
    kernel = kernel_package(run("apt-cache", "depends", KERNEL))
    # Reinstall: also what this host happens to have is in the layer, in the archive's version.
    install = ("install", "--reinstall", "--no-install-recommends", kernel, *PACKAGES)
    return to_fetch(run("apt-get", "-qq", "--simulate", *install))


def _make(folder: Path, wanted: list[str]) -> None:
    for name in MERGED:
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    with tempfile.TemporaryDirectory(dir=folder) as debs:
        Path(debs).chmod(0o777)  # apt fetches as a user of its own
        try:
            run("apt-get", "-qq", "download", *wanted, cwd=debs)
        except LayerError:  # the archive has newer ones
            run("apt-get", "-qq", "update")
            raise LayerError("apt's lists were out of date and are new now: try again") from None
        for deb in sorted(Path(debs).glob("*.deb")):
            run(
                "bash",
                "-o",
                "pipefail",
                "-c",
                f"dpkg-deb --fsys-tarfile {deb} | tar -x --keep-directory-symlink -C {folder}",
            )
    run("depmod", "-b", str(folder), kernel_version(folder))
    folder.chmod(0o755)


def kernel_version(layer: Path) -> str:
    """As in /lib/modules."""
    (version,) = (path.name for path in (layer / "usr/lib/modules").iterdir())
    return version


def modules(layer: Path, *names: str) -> list[Path]:
    """The files of kernel modules and of those that they need, in the order to load them."""
    files: dict[Path, None] = {}
    for name in names:
        shown = run(
            "modprobe",
            "--dirname",
            str(layer),
            "--set-version",
            kernel_version(layer),
            "--show-depends",
            name,
        )
        # "insmod FILE options", or "builtin NAME"
        files |= {
            Path(words[1]): None for line in shown.splitlines() if (words := line.split())[0] == "insmod"
        }
    return list(files)


def run(*command: str, cwd: str | None = None) -> str:
    """What a program writes.

    :raises LayerError: it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    except FileNotFoundError:
        raise LayerError(f"needs {command[0]}") from None
    if done.returncode != 0:
        raise LayerError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
