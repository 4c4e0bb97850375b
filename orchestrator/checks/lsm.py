"""Security modules: which are in use, and what containers get from them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.checks.finding import Finding, ok, text_of, warning
from orchestrator.lsm import apparmor, host

#: Modules that can confine a container; the kernel's list holds others, such as capability and yama.
_MAJOR = ("apparmor", "selinux", "bpf", "landlock", "smack", "tomoyo")


def check() -> Iterator[Finding]:
    """What is in use, and for SELinux and AppArmor what it means for containers."""
    names = (text_of("/sys/kernel/security/lsm") or "").split(",")
    selinux, profiles = host.selinux_enabled(), host.apparmor_enabled()
    names += ["selinux"] * selinux + ["apparmor"] * profiles  # without securityfs there is no list
    if major := [name for name in _MAJOR if name in names]:
        yield ok("security modules", ", ".join(major))
    else:
        remedy = (
            "mount -t securityfs none /sys/kernel/security shows which there are; "
            "boot with lsm=...,apparmor for one"
        )
        detail = "none in use: namespaces, capabilities and system call filters confine containers"
        yield warning("security modules", detail, remedy)
    if selinux:
        yield _selinux()
    if profiles:
        yield _apparmor()


def _selinux() -> Finding:
    base = host.selinux_defaults()
    if not host.knows(str(base.process)):
        return warning(
            "SELinux", f"the policy has no {base.process.type}: containers get no label",
            "install the policy for containers (container-selinux; Debian's is in selinux-policy-src)",
        )  # fmt: skip
    own = host.own_context()
    if denied := host.forbidden(own, str(base.process), host.NEEDED):
        return warning(
            "SELinux", f"{own} may not start programs as {base.process.type} ({', '.join(denied)}), nor may an orch "
            "service that is started from here", 'see "SELinux" in the README',
        )  # fmt: skip
    if not host.selinux_enforcing():
        return warning("SELinux", "permissive: it refuses nothing, and only reports", "setenforce 1")
    if host.keeps_categories():
        return warning(
            "SELinux", f"each container gets {base.process.type} with categories of its own, and so do the files "
            "that it makes: containers cannot read each other's on a volume that they share",
            'give services that share a volume one level: selinux = { level = "s0:c1,c2" }',
        )  # fmt: skip
    return ok("SELinux", f"enforcing; each container gets {base.process.type} with categories of its own")


def _apparmor() -> Finding:
    name = apparmor.DEFAULT_PROFILE
    profiles = host.apparmor_profiles()
    if profiles is None and os.geteuid() != 0:
        return warning("AppArmor", "its profiles are for root to see", "run `orch doctor` with sudo")
    if profiles is None:
        return warning(
            "AppArmor", "its profiles are not to be seen", "mount -t securityfs none /sys/kernel/security"
        )
    if (mode := profiles.get(name)) is not None:
        return ok("AppArmor", f"containers get the profile {name}, which is loaded ({mode})")
    if host.apparmor_parser() is None:
        return warning(
            "AppArmor", f"the profile {name} is not loaded, and there is no apparmor_parser: containers get none",
            "install apparmor",
        )  # fmt: skip
    return ok("AppArmor", f"containers get the profile {name}; the first one loads it")
