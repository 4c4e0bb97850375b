"""SELinux for the guest: Debian's policy and its container module, built into a layer, with labels on its files.

Debian's binary policy has no container module; the package with the policy's source has. It is compiled
against the headers of selinux-policy-dev. The host's own files have no labels: to the guest all of them have
:data:`HOST_LABEL`, until it gives those that matter their own when it has booted.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from vm.commands import run
from vm.guest import SELinux

PACKAGES = (
    "libsemanage-common",
    "policycoreutils",
    "selinux-policy-default",
    "selinux-policy-dev",
    "selinux-policy-src",
    "selinux-utils",
)
#: Of programs that anybody may read and run.
HOST_LABEL = "system_u:object_r:bin_t:s0"
#: Of a folder for everybody's temporary files.
DISK_LABEL = "system_u:object_r:tmp_t:s0"
#: What an administrator's shell runs as.
CONTEXT = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
#: Debian's policy of that name; its categories are what keeps containers apart.
POLICY = "default"
CONFIG = f"SELINUX=enforcing\nSELINUXTYPE={POLICY}\n"
#: Labels are in the attributes of files on virtiofs too; what labels files is itself one of the host's, or
#: uses their libraries. The guest's root is an overlay that the kernel's own domain has mounted, so whoever maps
#: one of its files uses a descriptor of that domain's.
RULES = """\
(fsuse xattr virtiofs (system_u object_r fs_t ((s0) (s0))))
(allow setfiles_t bin_t (file (getattr open read map execute)))
(allow container_domain kernel_t (fd (use)))
"""


def add_policy(layer: Path) -> None:
    """Build the policy into ``layer``, where :data:`PACKAGES` are unpacked, and label all that is in it."""
    modules = layer / "usr/share/selinux"
    (layer / "etc/selinux/config").write_text(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder, "guest.cil")
        ours.write_text(RULES)
        names = (modules / POLICY / ".modules").read_text().split()
        files = [modules / POLICY / f"{name}.pp.bz2" for name in names]
        files += [_container(layer, Path(folder)), ours]
        install = [word for file in files for word in ("--install", str(file))]
        run("semodule", "--path", str(layer), "--store", POLICY, "--noreload", *install)
    shutil.rmtree(modules)
    shutil.rmtree(layer / "usr/src")
    contexts = layer / f"etc/selinux/{POLICY}/contexts/files/file_contexts"
    run("setfiles", "-r", str(layer), str(contexts), str(layer))


def of_guest(layer: Path) -> SELinux:
    """What the guest of such a layer needs to know."""
    (policy,) = (layer / f"etc/selinux/{POLICY}/policy").iterdir()  # its name ends with its version
    return SELinux(policy, host=HOST_LABEL, disk=DISK_LABEL, context=CONTEXT)


def _container(layer: Path, folder: Path) -> Path:
    """The container module, compiled."""
    run("tar", "-xf", str(layer / "usr/src/selinux-policy-src.tar.zst"), "-C", str(folder))
    for end in ("te", "fc"):
        shutil.copy(folder / f"selinux-policy-src/policy/modules/services/container.{end}", folder)
    devel = layer / "usr/share/selinux/devel"
    words = (f"HEADERDIR={devel}/include", f"NAME={POLICY}", "MLSENABLED=1", "container.pp")
    run("make", "--silent", "-f", str(devel / "Makefile"), *words, cwd=str(folder))
    return folder / "container.pp"
