"""What a container can do to files of the host."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest

from orchestrator.errors import OrchError
from support import inside
from support.attack import HOST_USERS, Changes, Target, capabilities, joined

pytestmark = pytest.mark.requires("root", "netns", "overlay")


def write_by_every_way(path: str) -> list[str]:
    ways = ["", "/.." * 16, "/proc/1/root", "/proc/self/root", "/proc/self/cwd" + "/.." * 16, "/dev/fd/0/.."]
    return [inside.attempt(inside.write, way + path, "harmed") for way in ways]


def test_files_of_the_host_are_not_written(target: Target) -> None:
    """pivot_root(2): no path of the host is left, however it is spelt."""
    marker = target.marker("unharmed")
    words = target.start(write_by_every_way, marker) + target.exec(write_by_every_way, marker)
    assert set(words) <= {"ENOENT", "EACCES", "ENOTDIR"}
    assert Path(marker).read_text() == "unharmed"
    words = target.start(write_by_every_way, marker, options='mnt = "host"')
    assert words[0] == inside.DONE
    assert Path(marker).read_text().startswith("harmed")


def break_out_of_chroot(path: str, jail: str) -> bool:
    """chroot(2): "it is possible to escape": a folder held open outside of a new root leads out of it."""
    if jail:
        os.makedirs(jail)
        os.chroot(jail)
        os.chdir("/")
    held = os.open(".", os.O_RDONLY)
    os.mkdir("deeper")
    os.chroot("deeper")
    os.fchdir(held)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    return os.path.exists(path)


def test_a_chroot_within_a_chroot_leads_nowhere(target: Target) -> None:
    """The container's root is that of its mount namespace (pivot_root(2)), beyond which there is nothing.

    The twin breaks out of a chroot of its own making, within the container.
    """
    assert target.both(break_out_of_chroot, target.marker(""), "") is False
    assert target.start(break_out_of_chroot, "/etc/hostname", "/tmp/jail") is True


def enter_descriptors() -> list[str]:
    """What the folders contain that are open already."""
    found = []
    for number in range(3, 64):
        try:
            os.fchdir(number)
        except OSError:
            continue
        found += os.listdir()
    return found


def other_descriptors() -> list[str]:
    """What is open but standard input, output and errors; the folder being listed is the exception."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            pass
    return [each for each in found if int(each.split()[0]) > 2]


def test_no_descriptor_of_the_host_is_open(target: Target) -> None:
    """fchdir(2) on what a runtime forgot to close (CVE-2016-9962, CVE-2024-21626): here a folder in the spawner."""
    Path(target.orch.base, "open/secret").touch()
    assert target.both(other_descriptors) == []
    assert target.both(enter_descriptors) == []
    assert target.start(enter_descriptors, tamper=[["drop", ["tidy"]]]) == ["secret"]
    assert target.exec(enter_descriptors, tamper=[["drop", ["tidy"]]]) == ["secret"]


def working_folder() -> list[str]:
    return os.listdir()


def enter_own_descriptors() -> dict[int, list[str]]:
    """What the working folder would contain that is named by a descriptor."""
    found = {}
    for number in range(3, 64):
        try:
            os.chdir(f"/proc/self/fd/{number}")
        except OSError:
            continue
        found[number] = os.listdir()
    return found


def test_no_working_folder_is_a_descriptor_of_the_host(target: Target) -> None:
    """CVE-2024-21626: ``working_dir = "/proc/self/fd/N"``, of which the spawner has a folder of the host open.

    The guards: magic links are not followed to a working folder (openat2(2), RESOLVE_NO_MAGICLINKS), and whatever
    is open is closed on exec.
    """
    Path(target.orch.base, "open/secret").touch()
    leaky: Changes = [["drop", ["tidy"]]]
    found = target.start(enter_own_descriptors, tamper=leaky)
    assert list(found.values()) == [["secret"]]
    (leaked,) = found
    for number in {*range(3, 8), int(leaked)}:
        for begin in (target.start, target.exec):
            with pytest.raises(OrchError, match=r"ELOOP|ENOENT|ENOTDIR|EEXIST"):
                begin(working_folder, working_dir=f"/proc/self/fd/{number}")
    for begin in (target.start, target.exec):
        with pytest.raises(OrchError, match="ELOOP"):
            begin(working_folder, working_dir=f"/proc/self/fd/{leaked}", tamper=leaky)


def open_by_handle(handle: str, kind: int) -> str:
    """The Shocker: any file of a file system by its handle, with any file of it at hand (/etc/hosts)."""
    data = bytes.fromhex(handle)
    place = os.open("/etc/hosts", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(struct.pack("Ii", len(data), kind) + data)
    try:
        fd = inside.call("open_by_handle_at", place, buffer, os.O_RDONLY)
    except OSError as error:
        return inside.name(error)
    return os.read(fd, 100).decode()


def test_files_of_the_host_are_not_opened_by_handle(target: Target) -> None:
    """open_by_handle_at(2): CAP_DAC_READ_SEARCH, in the host's user namespace (shocker.c, 2014)."""
    handle = handle_of(target.marker("by handle"))
    search = capabilities("DAC_READ_SEARCH")
    assert target.both(open_by_handle, *handle) == "EPERM"
    assert target.start(open_by_handle, *handle, options=search) in ("EPERM", "ESTALE")
    assert target.start(open_by_handle, *handle, options=HOST_USERS) == "EPERM"
    assert target.start(open_by_handle, *handle, options=joined(search, HOST_USERS)) == "by handle"


def handle_of(path: str) -> tuple[str, int]:
    """A file's handle and its type (name_to_handle_at(2))."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    inside.call("name_to_handle_at", inside.AT_FDCWD, path.encode(), buffer, ctypes.byref(mount), 0)
    size, kind = struct.unpack_from("Ii", buffer)
    return bytes(buffer.raw[8 : 8 + size]).hex(), kind
