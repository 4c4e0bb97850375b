"""What a container can do to its mounts."""

from __future__ import annotations

import ctypes
import os

import pytest

from support import inside
from support.attack import HOST_USERS, UNCONFINED, Target, capabilities, joined

pytestmark = pytest.mark.requires("root", "netns", "overlay")

KINDS = ("mount", "bind", "proc", "umount", "fsopen", "open_tree", "pivot_root")


def mount_by_every_way() -> dict[str, str]:
    """Old and new system calls, each in a mount namespace where it harms nobody."""
    os.makedirs("/tmp/place", exist_ok=True)
    clone = 1  # OPEN_TREE_CLONE, linux/mount.h
    return {
        "mount": inside.attempt(inside.mount, "none", "/tmp/place", "tmpfs"),
        "bind": inside.attempt(inside.mount, "/etc", "/tmp/place", "", inside.MS_BIND),
        "proc": inside.attempt(inside.mount, "proc", "/tmp/place", "proc"),
        "umount": inside.attempt(inside.umount, "/dev/shm", inside.MNT_DETACH),
        "fsopen": inside.attempt_call("fsopen", b"tmpfs", 0),
        "open_tree": inside.attempt_call("open_tree", inside.AT_FDCWD, b"/etc", clone),
        "pivot_root": inside.attempt_call("pivot_root", b"/tmp", b"/tmp"),
    }


def test_nothing_is_mounted(target: Target) -> None:
    """mount(2), fsopen(2), open_tree(2), pivot_root(2): CAP_SYS_ADMIN, and the seccomp profile that goes by it."""
    refused = dict.fromkeys(KINDS, "EPERM")
    assert target.both(mount_by_every_way) == refused
    assert target.start(mount_by_every_way, options=HOST_USERS) == refused
    assert target.start(mount_by_every_way, options=UNCONFINED) == refused
    assert target.start(mount_by_every_way, options=joined(HOST_USERS, UNCONFINED)) == refused
    words = target.start(mount_by_every_way, options=joined(HOST_USERS, capabilities("SYS_ADMIN")))
    assert words.pop("pivot_root") == "EBUSY"  # let in, and then told that /tmp is no mount
    assert set(words.values()) == {inside.DONE}


def move_mount() -> str:
    """fsopen(2) and what follows it, up to a mount in its place."""
    create, empty_path = 6, 4  # FSCONFIG_CMD_CREATE, MOVE_MOUNT_F_EMPTY_PATH
    os.makedirs("/tmp/place", exist_ok=True)
    try:
        context = inside.call("fsopen", b"tmpfs", 0)
        inside.call("fsconfig", context, create, None, None, 0)
        tree = inside.call("fsmount", context, 0, 0)
        inside.call("move_mount", tree, b"", inside.AT_FDCWD, b"/tmp/place", empty_path)
    except OSError as error:
        return inside.name(error)
    return "done"


def test_nothing_is_mounted_by_the_new_way(target: Target) -> None:
    """CVE-2022-0185's way in: fsopen(2) to move_mount(2)."""
    assert target.both(move_mount) == "EPERM"
    assert target.start(move_mount, options=UNCONFINED) == "EPERM"
    assert target.start(move_mount, options=capabilities("SYS_ADMIN")) == inside.DONE


def uncover() -> dict[str, str]:
    """Take masks off, and make what is read-only writable."""
    writable = inside.MS_REMOUNT | inside.MS_BIND
    return {
        "write to /proc/sys": inside.attempt(inside.mount, "", "/proc/sys", "", writable),
        "write to /sys": inside.attempt(inside.mount, "", "/sys", "", writable),
        "umount a mask": inside.attempt(inside.umount, "/proc/interrupts", inside.MNT_DETACH),
        "umount what is read-only": inside.attempt(inside.umount, "/proc/sys", inside.MNT_DETACH),
    }


def test_masks_are_locked(target: Target) -> None:
    """mount_namespaces(7), "Restrictions": whoever has CAP_SYS_ADMIN in the container cannot take a mask off.

    The mounts were made by the host's root, and copied into a mount namespace of the container's user namespace.
    """
    admin = capabilities("SYS_ADMIN")
    assert set(target.both(uncover).values()) == {"EPERM"}
    assert set(target.start(uncover, options=admin).values()) <= {"EPERM", "EINVAL"}
    assert set(target.start(uncover, options=joined(admin, HOST_USERS)).values()) == {inside.DONE}


def mount_anew() -> dict[str, str]:
    """A /proc and a /sys without masks, elsewhere."""
    os.makedirs("/tmp/place", exist_ok=True)
    return {kind: inside.attempt(inside.mount, kind, "/tmp/place", kind) for kind in ("proc", "sysfs")}


def test_no_other_proc_shows_what_is_masked(target: Target) -> None:
    """user_namespaces(7), "Interaction of user namespaces and mounts": no fresh /proc where the old one is masked."""
    admin = capabilities("SYS_ADMIN")
    assert target.both(mount_anew) == {"proc": "EPERM", "sysfs": "EPERM"}
    assert target.start(mount_anew, options=admin) == {"proc": "EPERM", "sysfs": "EPERM"}
    assert set(target.start(mount_anew, options=joined(admin, HOST_USERS)).values()) == {inside.DONE}


def set_mount_attributes() -> str:
    """mount_setattr(2): the whole root writable, with setuid programs and devices."""
    empty = 0x1000  # AT_EMPTY_PATH
    fd = os.open("/", os.O_PATH)
    nothing_set = (ctypes.c_uint64 * 4)(0, 1 | 2 | 4, 0, 0)
    return inside.attempt_call("mount_setattr", fd, b"", empty, nothing_set, 32)


def test_what_mounts_forbid_stays_forbidden(target: Target) -> None:
    """mount_setattr(2), MOUNT_ATTR_NODEV and NOSUID cleared."""
    admin = capabilities("SYS_ADMIN")
    assert target.both(set_mount_attributes) == "EPERM"
    assert target.start(set_mount_attributes, options=admin) == "EPERM"
    assert target.start(set_mount_attributes, options=joined(admin, HOST_USERS)) == inside.DONE
