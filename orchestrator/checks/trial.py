"""Trials: does the kernel let us? Run as ``python -m orchestrator.checks.trial WHAT [ARGUMENT]``.

Each trial has a process of its own, which first leaves the host's namespaces: what it makes vanishes with it.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable

from orchestrator.kernel import netlink, syscalls
from orchestrator.runtime.child_namespaces import Holder
from orchestrator.runtime.idmap import render
from orchestrator.runtime.userns import RANGE

_SECONDS = 20.0
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg, rtnetlink(7)


def attempt(what: str, argument: str = "", text: str = "") -> str:
    """Run a trial.

    :returns: "" when it worked, else why not, in the kernel's words.
    """
    command = [sys.executable, "-P", "-m", "orchestrator.checks.trial", what, argument]
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return ""
    return done.stderr.strip().rpartition("\n")[2] or f"the trial ended with status {done.returncode}"


def _environment() -> dict[str, str]:
    """Ours, so arranged that the trial's interpreter finds this very package."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.environ.get("PYTHONPATH")
    sbin = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    return {**os.environ, "PYTHONPATH": f"{root}:{path}" if path else root, "PATH": sbin}


def _namespaces(_: str) -> None:
    """Leave all namespaces that a container has of its own."""
    flags = ("NEWNS", "NEWNET", "NEWUTS", "NEWIPC", "NEWCGROUP", "NEWPID")
    for flag in flags:
        try:
            syscalls.unshare(getattr(syscalls, f"CLONE_{flag}"))
        except OSError as error:
            raise OSError(error.errno, f"CLONE_{flag}: {error.strerror}") from None


def _overlay(folder: str) -> None:
    """Mount an overlay whose writable layer is in ``folder``, write to it, and remove the traces."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with tempfile.TemporaryDirectory(prefix=".orch-trial-", dir=folder) as base:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{base}/{name}")
        data = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
        syscalls.mount("overlay", f"{base}/merged", "overlay", 0, data)
        try:
            with open(f"{base}/merged/file", "w", encoding="ascii") as file:
                file.write("written")
        finally:
            syscalls.umount(f"{base}/merged")


def _idmap(folder: str) -> None:
    """As :func:`_overlay`, but of a folder that is mounted with the ids of a user namespace."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    mapping = render(((0, RANGE, RANGE),))
    holder = Holder(syscalls.CLONE_NEWUSER)
    holder.map_ids(mapping, mapping)
    namespace = holder.open("user")
    holder.end()
    with tempfile.TemporaryDirectory(prefix=".orch-trial-", dir=folder) as base:
        tree = syscalls.open_tree(base, syscalls.OPEN_TREE_CLONE)
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_IDMAP, user_namespace=namespace)
        place = os.open(base, os.O_PATH)
        syscalls.move_mount(tree, place)
        try:
            syscalls.prctl(syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NO_SETUID_FIXUP)
            syscalls.set_file_ids(RANGE, RANGE)
            for name in ("lower", "upper", "work", "merged"):
                os.mkdir(f"{base}/{name}")
            data = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
            syscalls.mount("overlay", f"{base}/merged", "overlay", 0, data)
            os.mkdir(f"{base}/merged/folder")
        finally:
            syscalls.set_file_ids(0, 0)
            syscalls.umount(base, syscalls.MNT_DETACH)


def _link(kind: str) -> None:
    """Make an interface of this kind."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    body = (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + netlink.attribute(netlink.IFLA_IFNAME, b"orch-trial\0")
        + netlink.nested(
            netlink.IFLA_LINKINFO, netlink.attribute(netlink.IFLA_INFO_KIND, kind.encode() + b"\0")
        )
    )
    with netlink.RouteSocket() as route:
        route.request(netlink.Message(netlink.RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body))


def _nft(_: str) -> None:
    """Let nft run the script on standard input."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    done = subprocess.run(["nft", "-f", "-"], stdin=sys.stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(0, done.stderr.strip().partition("\n")[0] or f"nft ended with status {done.returncode}")


_TRIALS: dict[str, Callable[[str], None]] = {
    "namespaces": _namespaces,
    "overlay": _overlay,
    "idmap": _idmap,
    "link": _link,
    "nft": _nft,
}


def main() -> int:
    """Run the trial that the arguments name; its failure goes to standard error."""
    try:
        _TRIALS[sys.argv[1]](sys.argv[2])
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
