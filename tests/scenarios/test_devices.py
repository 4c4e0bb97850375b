"""Devices of the host in containers, through the command line.

The device is of a number that no driver has: ENXIO ("No such device or address") is the answer of a kernel that would
have opened it, EPERM ("Operation not permitted") the refusal of the container's device rules.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.cli import Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")
MAJOR, MINOR = 4093, 7
ALLOWED, REFUSED = "No such device or address", "Operation not permitted"
READ, WRITE = 'head -c 1 "$0"', ': > "$0"'


@pytest.fixture
def node(orch: Orch) -> str:
    """A device of the host, which belongs to a group of its own."""
    path = f"{orch.work}/node"
    make(path)
    os.chmod(path, 0o640)
    os.chown(path, 0, 44)
    return path


def make(path: str, minor: int = MINOR) -> None:
    os.mknod(path, 0o020640, os.makedev(MAJOR, minor))


def manifest(orch: Orch, keys: str) -> str:
    """A project with one service that sleeps."""
    return orch.manifest(f"""
name = "dev"
[services.a]
command = ["sleep", "1000"]
stop_signal = "SIGKILL"
{keys}
""")


def tried(orch: Orch, script: str, path: str) -> str:
    """What a shell in the container says about a device."""
    return orch.run("exec", "-p", "dev", "a", "sh", "-c", script, path, check=False).stderr


@pytest.mark.vm
def test_a_device_is_there_and_may_be_used_as_its_permissions_say(orch: Orch, node: str) -> None:
    orch.run("up", "-d", manifest(orch, f'devices = ["{node}:/dev/mine:r", "{node}:/srv/of/mine:r"]'))
    for path in ("/dev/mine", "/srv/of/mine"):
        shown = orch.run("exec", "-p", "dev", "a", "stat", "-c", "%A %u:%g %t:%T", path).stdout
        assert shown == f"crw-r----- 0:44 {MAJOR:x}:{MINOR:x}\n"
        assert ALLOWED in tried(orch, READ, path)
        assert REFUSED in tried(orch, WRITE, path)
    program = orch.run("inspect", "-p", "dev", "a").stdout
    assert f"c {MAJOR}:{MINOR} rm and no others" in program


def test_no_other_device_is_there_or_may_be_used(orch: Orch, node: str) -> None:
    """A container that can see a device node by some other way still cannot open it."""
    keys = f'devices = ["{node}:/dev/mine"]'
    orch.run("up", "-d", manifest(orch, keys))
    assert ALLOWED in tried(orch, WRITE, "/dev/mine")
    orch.run("up", "-d", manifest(orch, ""))
    assert "No such file" in tried(orch, READ, "/dev/mine")
    smuggled = f"/proc/{orch.container('a')['pid']}/root/dev/smuggled"
    make(smuggled)
    os.chmod(smuggled, 0o666)  # so that it is not its owner who is missing
    assert REFUSED in tried(orch, READ, "/dev/smuggled")
    assert REFUSED in tried(orch, WRITE, "/dev/smuggled")
    with pytest.raises(OSError, match=ALLOWED):  # the same node from outside of the container
        os.open(smuggled, os.O_RDONLY)


def test_a_folder_of_devices(orch: Orch) -> None:
    folder = f"/dev/shm/orch-test-{os.getpid()}"
    os.makedirs(f"{folder}/deep")
    try:
        make(f"{folder}/one")
        make(f"{folder}/deep/two", MINOR + 1)
        orch.run("up", "-d", manifest(orch, f'devices = ["{folder}:/dev/all:rw"]'))
        assert ALLOWED in tried(orch, READ, "/dev/all/one")
        assert ALLOWED in tried(orch, WRITE, "/dev/all/deep/two")
    finally:
        shutil.rmtree(folder)


def test_rules_change_under_a_running_program_and_devices_need_a_new_one(orch: Orch, node: str) -> None:
    devices = f'devices = ["{node}:/dev/mine:r"]'
    orch.run("up", "-d", manifest(orch, devices))
    before = orch.container("a")
    assert REFUSED in tried(orch, WRITE, "/dev/mine")
    rules = f'device_cgroup_rules = ["c {MAJOR}:{MINOR} w"]'
    planned = orch.run("plan", manifest(orch, f"{devices}\n{rules}"), check=False).stdout
    assert "dev-a-1  update  device_cgroup_rules changed" in planned
    orch.run("up", "-d", manifest(orch, f"{devices}\n{rules}"))
    after = orch.container("a")
    assert (after["id"], after["pid"]) == (before["id"], before["pid"])
    assert ALLOWED in tried(orch, WRITE, "/dev/mine")
    orch.run("restart", "-p", "dev", "a")
    assert ALLOWED in tried(orch, WRITE, "/dev/mine")
    orch.run("up", "-d", manifest(orch, devices))
    assert REFUSED in tried(orch, WRITE, "/dev/mine")
    orch.run("up", "-d", manifest(orch, devices.replace(":r", "")))
    assert orch.container("a")["id"] != before["id"]


def test_an_image_with_hostile_links_gets_the_device_within(orch: Orch, node: str) -> None:
    victim, image = Path(orch.work, "victim"), Path(orch.work, "image")
    for folder in ("bin", "etc", "data"):
        (image / folder).mkdir(parents=True)
    victim.mkdir()
    (victim / "file").write_text("kept")
    shutil.copy("/bin/busybox", image / "bin/busybox")
    for name in ("sleep", "sh", "head"):
        (image / "bin" / name).symlink_to("busybox")
    (image / "data/folder").symlink_to(victim)
    (image / "data/file").symlink_to(victim / "file")
    targets = ("/data/folder/mine", "/data/file")
    devices = ", ".join(f'"{node}:{target}:r"' for target in targets)
    orch.run("up", "-d", manifest(orch, f'image = "dir:{image}"\ndevices = [{devices}]'))
    for target in targets:
        assert ALLOWED in tried(orch, READ, target)
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"file": "kept"}


def test_a_device_that_is_not_there_is_refused_before_anything_starts(orch: Orch) -> None:
    path = manifest(orch, f'devices = [\n  "/dev/null:/dev/x",\n  "{orch.work}/none",\n]')
    done = orch.run("up", "-d", path, check=False)
    assert done.returncode == 2
    assert f'{path}:8: services.a.devices[1]: "{orch.work}/none": No such file or directory' in done.stderr


def test_a_device_that_has_gone_meanwhile_fails_the_start_by_name(orch: Orch, node: str) -> None:
    orch.run("up", "-d", manifest(orch, f'devices = ["{node}:/dev/mine"]'))
    os.unlink(node)
    done = orch.run("restart", "-p", "dev", "a", check=False)
    assert done.returncode != 0
    assert f'cannot start "dev-a-1": device {node}: ENOENT: No such file or directory' in done.stderr
    Path(node).touch()
    done = orch.run("start", "-p", "dev", "a", check=False)
    assert f'devices: "{node}" is not a device (mount a file or folder with volumes)' in done.stderr
    orch.run("down", "-p", "dev")
