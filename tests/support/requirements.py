"""What a test may require of the host: ``@pytest.mark.requires("root", "nft")``.

A missing requirement skips the test on a laptop and fails it where ``CI=true``, so that CI cannot silently
test nothing. The exception are requirements of which a host can have only one (its kind of cgroup
hierarchy, its security module): those skip everywhere.
"""

from __future__ import annotations

import ctypes.util
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.lsm import host
from support.elf import i386_call


@dataclass(frozen=True)
class Requirement:
    """:param lacks: why the host does not meet it, ``""`` when it does.

    :param kind_of_host: a host of another kind is as good, so CI skips too.
    """

    lacks: Callable[[], str]
    kind_of_host: bool = False


def _root() -> str:
    return "" if os.geteuid() == 0 else "needs root"


def program_path(name: str) -> str | None:
    """The program's path; looks into the sbin folders too, which a user's PATH may lack."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _program(name: str, package: str | None = None) -> Requirement:
    def lacks() -> str:
        return "" if program_path(name) else f"needs {name} (Debian package {package or name})"

    return Requirement(lacks)


def _postgres() -> str:
    found = program_path("postgres") or any(
        os.access(f"/usr/lib/postgresql/{version}/bin/postgres", os.X_OK)
        for version in (os.listdir("/usr/lib/postgresql") if os.path.isdir("/usr/lib/postgresql") else ())
    )
    return "" if found else "needs postgres (Debian package postgresql)"


def _namespace(flag: str) -> Requirement:
    def lacks() -> str:
        done = subprocess.run(["unshare", flag, "true"], capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else f"needs `unshare {flag}`: {done.stderr.strip()}"

    return Requirement(lacks)


def _overlay() -> str:
    with open("/proc/filesystems") as file:
        if any(line.split()[-1] == "overlay" for line in file):
            return ""
    modprobe = program_path("modprobe")
    if modprobe and subprocess.run([modprobe, "overlay"], capture_output=True, check=False).returncode == 0:
        return ""
    return "needs the overlay file system"


def _libseccomp() -> str:
    return "" if ctypes.util.find_library("seccomp") else "needs libseccomp (Debian package libseccomp2)"


def _containers_common() -> str:
    path = "/usr/share/containers/seccomp.json"
    return "" if os.path.exists(path) else f"needs {path} (Debian package golang-github-containers-common)"


def _x86_64() -> str:
    return "" if os.uname().machine == "x86_64" else "needs x86-64"


def _i386() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/getpid"
        with open(path, "wb") as file:
            file.write(i386_call(20))
        os.chmod(path, 0o755)
        try:
            done = subprocess.run([path], check=False)
        except OSError as error:
            return f"needs a kernel that runs programs of i386: {error.strerror}"
    return "" if done.returncode == 0 else "needs a kernel that runs programs of i386"


def _mounts() -> list[tuple[str, str, str]]:
    """(mount point, file system type, super options) of every mount."""
    mounts = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            mounts.append((left.split()[4], kind, options.strip()))
    return mounts


def _cgroup_v1() -> str:
    controllers = {o for _, kind, options in _mounts() if kind == "cgroup" for o in options.split(",")}
    missing = {"memory", "pids", "cpu", "freezer"} - controllers
    return f"needs cgroup v1 hierarchies, lacks {', '.join(sorted(missing))}" if missing else ""


def _cgroup_v1_devices() -> str:
    controllers = {o for _, kind, options in _mounts() if kind == "cgroup" for o in options.split(",")}
    return "" if "devices" in controllers else "needs v1's devices controller"


def _unified_mounts() -> list[str]:
    return [point for point, kind, _ in _mounts() if kind == "cgroup2"]


def _cgroup_v2() -> str:
    for point in _unified_mounts():
        with open(f"{point}/cgroup.controllers") as file:
            if {"memory", "pids", "cpu"} <= set(file.read().split()):
                return ""
    return "needs a unified cgroup v2 hierarchy with memory, pids and cpu"


def _cgroup_unified_core() -> str:
    return "" if any(os.access(p, os.W_OK) for p in _unified_mounts()) else "needs a cgroup v2 mount"


def _psi() -> str:
    lacks = not os.path.exists("/proc/pressure/cpu") or not any(
        os.path.exists(f"{point}/cpu.pressure") for point in _unified_mounts()
    )
    return "needs pressure accounting of a cgroup v2 hierarchy (boot with psi=1)" if lacks else ""


def _selinux() -> str:
    if not host.selinux_enabled() or not host.selinux_enforcing():
        return "needs SELinux, enforcing"
    process = str(host.selinux_defaults().process)
    if not host.knows(process):
        return "needs an SELinux policy that knows containers"
    denied = host.forbidden(host.own_context(), process, host.NEEDED)
    return f"needs a domain that may start containers ({', '.join(denied)})" if denied else ""


def _apparmor() -> str:
    if not host.apparmor_enabled() or host.apparmor_profiles() is None:
        return "needs AppArmor"
    return "" if host.apparmor_parser() else "needs apparmor_parser (Debian package apparmor)"


REQUIREMENTS: dict[str, Requirement] = {
    "root": Requirement(_root),
    "netns": _namespace("--net"),
    "pidns": _namespace("--pid"),
    "userns": _namespace("--user"),
    "overlay": Requirement(_overlay),
    "cgroup-v1": Requirement(_cgroup_v1, kind_of_host=True),
    "cgroup-v1-devices": Requirement(_cgroup_v1_devices, kind_of_host=True),
    "cgroup-v2": Requirement(_cgroup_v2, kind_of_host=True),
    "cgroup-unified-core": Requirement(_cgroup_unified_core),
    "selinux": Requirement(_selinux, kind_of_host=True),
    "apparmor": Requirement(_apparmor, kind_of_host=True),
    "libseccomp": Requirement(_libseccomp),
    "containers-common": Requirement(_containers_common),
    "x86-64": Requirement(_x86_64, kind_of_host=True),
    "i386": Requirement(_i386, kind_of_host=True),
    "psi": Requirement(_psi),
    "nft": _program("nft", "nftables"),
    "ip": _program("ip", "iproute2"),
    "busybox": _program("busybox", "busybox-static"),
    "crun": _program("crun"),
    "curl": _program("curl"),
    "iperf3": _program("iperf3"),
    "nginx": _program("nginx", "nginx-light"),
    "openssl": _program("openssl"),
    "postgres": Requirement(_postgres),
    "redis": _program("redis-server"),
    "tmux": _program("tmux"),
}


@functools.cache
def lacks(name: str) -> str:
    """Why this host does not meet the requirement, ``""`` when it does.

    :raises KeyError: for a name that is not in :data:`REQUIREMENTS`.
    """
    return REQUIREMENTS[name].lacks()


def in_ci() -> bool:
    """Whether a missing requirement is a failure."""
    return os.environ.get("CI", "").lower() in ("true", "1")


def verdict(names: tuple[str, ...], ci: bool) -> tuple[str, str]:
    """What to do with a test that requires ``names``: (``run`` | ``skip`` | ``fail``, why).

    An unknown name fails: a misspelt requirement must not skip a test for ever.
    """
    unknown = [name for name in names if name not in REQUIREMENTS]
    if unknown:
        return "fail", f"unknown requirement {', '.join(unknown)} (known: {', '.join(sorted(REQUIREMENTS))})"
    missing = {name: why for name in names if (why := lacks(name))}
    if not missing:
        return "run", ""
    must = ci and any(not REQUIREMENTS[name].kind_of_host for name in missing)
    return ("fail" if must else "skip"), "; ".join(missing.values())
