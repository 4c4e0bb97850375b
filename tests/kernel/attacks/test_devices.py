"""What a container can do with device nodes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import inside
from support.attack import HOST_USERS, Target, capabilities, joined

pytestmark = pytest.mark.requires("root", "netns", "overlay")

#: The kernel's log, which is only opened: /dev/kmsg (Documentation/admin-guide/devices.txt).
MAJOR, MINOR = 1, 11
ALL_DEVICES = 'device_cgroup_rules = ["a *:* rwm"]'
MKNOD = capabilities("MKNOD")


def make_nodes(major: int, minor: int) -> list[str]:
    """Make a block and a character device, and open the latter for writing (nothing is written)."""
    disk = inside.attempt(os.mknod, "/dev/disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    made = inside.attempt(os.mknod, "/dev/log", stat.S_IFCHR | 0o600, os.makedev(major, minor))
    return [disk, made, inside.attempt(os.open, "/dev/log", os.O_WRONLY)]


def test_no_device_is_made_and_opened(target: Target) -> None:
    """mknod(2): CAP_MKNOD, and it must be the host's; then the rules for devices
    (Documentation/admin-guide/cgroup-v1/devices.rst; in cgroup-v2.rst, "Device controller").
    """
    refused = ["EPERM", "EPERM", "ENOENT"]
    done = inside.DONE
    assert target.both(make_nodes, MAJOR, MINOR) == refused
    assert target.start(make_nodes, MAJOR, MINOR, options=joined(HOST_USERS, ALL_DEVICES)) == refused
    assert target.start(make_nodes, MAJOR, MINOR, options=joined(MKNOD, ALL_DEVICES)) == refused
    by_rules = target.start(make_nodes, MAJOR, MINOR, options=joined(HOST_USERS, MKNOD))
    assert by_rules[-1] == "EPERM"
    everything = joined(HOST_USERS, MKNOD, ALL_DEVICES)
    assert target.start(make_nodes, MAJOR, MINOR, options=everything) == [done, done, done]


def open_node(path: str) -> str:
    return inside.attempt(os.open, path, os.O_WRONLY)


@pytest.fixture
def planted(target: Target) -> Iterator[Path]:
    """A folder of the host with the node of a device in it that everybody may write to."""
    folder = Path(target.orch.work, "planted")
    folder.mkdir()
    os.mknod(folder / "log", stat.S_IFCHR | 0o666, os.makedev(MAJOR, MINOR))
    (folder / "log").chmod(0o666)
    yield folder
    shutil.rmtree(folder)


def test_a_node_in_a_volume_is_no_device(target: Target, planted: Path) -> None:
    """mount(2), MS_NODEV on every volume; beneath it the rules for devices."""
    volume = f"volumes = ['{planted}:/data']"
    devices_on = [
        ["before", ["stage", "rootfs"], ["mount", "", "/data", inside.MS_REMOUNT | inside.MS_BIND, ""]]
    ]
    with_rules = joined(volume, ALL_DEVICES)
    assert target.start(open_node, "/data/log", options=volume) == "EACCES"
    assert target.start(open_node, "/data/log", options=with_rules) == "EACCES"
    assert target.start(open_node, "/data/log", options=volume, tamper=devices_on) == "EPERM"
    assert target.start(open_node, "/data/log", options=with_rules, tamper=devices_on) == inside.DONE


def test_a_node_in_an_image_is_no_device(target: Target, planted: Path) -> None:
    """The same of the root, whose layers may hold anything."""
    for name in ("usr", "bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (planted / name).symlink_to(os.readlink(f"/{name}"))
        else:
            (planted / name).mkdir()
    image = joined(f'image = "dir:{planted}"', 'volumes = ["/usr:/usr:ro"]')
    devices_on = [["before", ["stage", "rootfs"], ["mount", "", "/", inside.MS_REMOUNT | inside.MS_BIND, ""]]]
    with_rules = joined(image, ALL_DEVICES)
    assert target.start(open_node, "/log", options=image) == "EACCES"
    assert target.start(open_node, "/log", options=with_rules) == "EACCES"
    assert target.start(open_node, "/log", options=image, tamper=devices_on) == "EPERM"
    assert target.start(open_node, "/log", options=with_rules, tamper=devices_on) == inside.DONE
