"""The packages that only the guest has: a kernel, systemd, AppArmor; fetched with apt, unpacked, kept.

They are never installed on this host. What apt would install here for them is what this host lacks: that,
unpacked into a folder which the guest sees above the host's own files, is what the guest needs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vm import cache, selinux
from vm.commands import CommandError, run
from vm.guest import SELinux

#: The kernel that Debian makes for virtual machines.
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("systemd", "systemd-sysv", "kmod")
#: What kernels depend on for booting a real machine.
LEFT_OUT = ("initramfs-tools", "klibc-utils", "libklibc", "linux-base")
#: Change it when the way a layer is made changes.
RECIPE = "1"
#: Links into /usr since Debian 12, in whose place no folder must come.
MERGED = ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True)
class Kind:
    """A kind of host.

    :param packages: what the guest has besides :data:`PACKAGES`.
    :param finish: what is done in the folder when they are unpacked.
    :param recipe: what the folder is made from besides packages: with it, it changes.
    :param kernel: words for the kernel's command line.
    :param selinux: what the guest of such a folder needs to know of SELinux, if it has it.
    :param before: lines of shell that make the guest ready for the tests.
    """

    packages: tuple[str, ...]
    finish: Callable[[Path], None] | None = None
    recipe: str = ""
    kernel: str = ""
    selinux: Callable[[Path], SELinux] | None = None
    before: tuple[str, ...] = ()


KINDS = {
    "unified": Kind(packages=("apparmor",), kernel="apparmor=1 security=apparmor"),
    "selinux": Kind(
        packages=selinux.PACKAGES,
        finish=selinux.add_policy,
        recipe=selinux.RULES,
        kernel="selinux=1 security=selinux enforcing=1",
        selinux=selinux.of_guest,
        before=(
            "restorecon -RF /etc /var/lib/orch 2>&1 | cat",
            "restorecon -F / /home /root 2>&1 | cat",
        ),
    ),
}


def layer(kind: Kind) -> Path:
    """The folder of unpacked packages; made if it is not there yet.

    :raises CommandError: apt cannot name, fetch or unpack them.
    """
    try:
        wanted = _wanted(kind)
    except CommandError:  # never asked
        run("apt-get", "-qq", "update")
        wanted = _wanted(kind)
    return cache.kept(
        f"layer-{cache.key([RECIPE, kind.recipe], wanted)}", lambda folder: _make(folder, wanted, kind)
    )


def kernel_package(depends: str) -> str:
    """The package that the kernel's meta package stands for, in the words of ``apt-cache depends``."""
    for line in depends.splitlines():
        relation, _, name = line.strip().partition(": ")
        if relation == "Depends" and name.startswith("linux-image-"):
            return name
    raise CommandError(f"apt knows no package {KERNEL}; is this Debian on x86-64?")


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


def _wanted(kind: Kind) -> list[str]:
    kernel = kernel_package(run("apt-cache", "depends", KERNEL))
    # Reinstall: also what this host happens to have is in the layer, in the archive's version.
    install = ("install", "--reinstall", "--no-install-recommends", kernel, *PACKAGES, *kind.packages)
    return to_fetch(run("apt-get", "-qq", "--simulate", *install))


def _make(folder: Path, wanted: list[str], kind: Kind) -> None:
    for name in MERGED:
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    with tempfile.TemporaryDirectory(dir=folder) as debs:
        Path(debs).chmod(0o777)  # apt fetches as a user of its own
        _download(wanted, debs)
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
    if kind.finish is not None:
        kind.finish(folder)


def _download(wanted: list[str], folder: str) -> None:
    try:
        run("apt-get", "-qq", "download", *wanted, cwd=folder)
    except CommandError as error:  # apt's lists may be older than the archive
        run("apt-get", "-qq", "update")
        raise CommandError(f"{error}\napt's lists were brought up to date: try again") from None


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
