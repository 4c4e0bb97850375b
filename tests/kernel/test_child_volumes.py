"""Volumes as the child takes them: parts of them, read-only, propagating, and filled from the image."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.kernel.syscalls import (
    MNT_DETACH,
    MS_PRIVATE,
    MS_SHARED,
    mount,
    umount,
)
from orchestrator.runtime import child_volume
from orchestrator.runtime.child import Refused
from orchestrator.runtime.handle import ProgramFailed
from orchestrator.runtime.rootfs import Bind
from orchestrator.spec import Mount
from support.box import Box, bare_image, read_all
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "overlay", "netns", "busybox")
SHELL = "/bin/busybox"


@pytest.fixture
def image(box: Box) -> Path:
    return bare_image(box.directory / "image")


@pytest.fixture
def volume(box: Box) -> Path:
    folder = box.directory / "volume"
    folder.mkdir()
    return folder


async def refused(box: Box, *binds: Bind, **spec: Any) -> ProgramFailed:
    process = await box.start("true", binds=binds, **spec)
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    await process.exited()
    process.close()
    return failure.value


# A part of a volume


async def test_a_part_of_a_volume_is_mounted_and_made_if_it_is_missing(box: Box, volume: Path) -> None:
    (volume / "a/b").mkdir(parents=True)
    (volume / "a/b/file").write_text("part")
    (volume / "link").symlink_to("a/./b")
    (volume / "a/file").write_text("a file")
    binds = (
        Bind(str(volume), "/one", subpath="a/b"), Bind(str(volume), "/two", subpath="link"),
        Bind(str(volume), "/three", subpath="new/er"), Bind(str(volume), "/etc/four", subpath="a/file"),
    )  # fmt: skip
    code, output = await box.run(
        "sh", "-c", "cat /one/file /two/file /etc/four; touch /three/x; ls -a /one/..", binds=binds
    )
    assert (code, output.startswith("partparta file")) == (0, True)
    assert "volume" not in output
    assert (volume / "new/er/x").exists()


@pytest.mark.parametrize("link", ["{victim}", "../victim", "a/../../victim", "/proc/self/root{victim}", "/"])
async def test_no_link_in_a_volume_leads_out_of_it(box: Box, volume: Path, link: str) -> None:
    victim = box.directory / "victim"
    victim.mkdir()
    (volume / "a").mkdir()
    (volume / "part").symlink_to(link.format(victim=victim))
    for subpath in ("part", "part/new"):
        failure = await refused(box, Bind(str(volume), "/data", subpath=subpath))
        assert failure.operation is not None
        assert failure.operation[0] == "open-tree"
        assert failure.errno in (errno.EXDEV, errno.ELOOP)
    assert list(victim.iterdir()) == []


async def test_a_part_that_is_exchanged_while_it_is_mounted_is_not_followed(box: Box, volume: Path) -> None:
    """CVE-2021-25741's way: another container swaps the folder and a link to the host, over and over."""
    victim = box.directory / "victim"
    victim.mkdir()
    (victim / "secret").write_text("secret")
    (volume / "part").mkdir()
    (volume / "link").symlink_to(victim)
    libc = ctypes.CDLL(None)
    stop = False

    def exchange() -> None:
        while not stop:
            assert (
                libc.renameat2(-100, bytes(volume / "part"), -100, bytes(volume / "link"), 2) == 0
            )  # EXCHANGE

    swapper = asyncio.create_task(asyncio.to_thread(exchange))
    outcomes = set()
    try:
        for _ in range(40):
            with contextlib.suppress(ProgramFailed):
                code, output = await box.run(
                    "ls", "-A", "/data", binds=(Bind(str(volume), "/data", subpath="part"),)
                )
                outcomes.add((code, output))
    finally:
        stop = True
        await swapper
    assert outcomes <= {(0, "")}


async def test_only_the_volume_itself_is_given_to_the_user(box: Box, image: Path, volume: Path) -> None:
    """Not what covers it, since the image had a link at its target; and a part that is a file stays as it is."""
    other = box.directory / "other"
    other.mkdir()
    (volume / "file").touch()
    (image / "data").symlink_to("/other")
    part, whole = (Mount(type="volume", source="v", target=target) for target in ("/file", "/data"))
    covered = (
        Bind(str(volume), "/data"),
        Bind(str(other), "/other"),
        Bind(str(volume), "/file", subpath="file"),
    )
    await box.run(SHELL, "true", image=f"dir:{image}", binds=covered, mounts=(part, whole), user="7:7")
    assert [path.stat().st_uid for path in (other, volume, volume / "file")] == [0, 0, 0]
    new = Bind(str(other), "/data")
    await box.run(SHELL, "true", image=f"dir:{image}", binds=(new,), mounts=(whole,), user="7:7")
    assert other.stat().st_uid == 7


# Read-only and propagation


@pytest.fixture
def shared(box: Box) -> Iterator[Path]:
    """A mount of its own that is shared, with a mount in it."""
    folder = box.directory / "shared"
    folder.mkdir()
    mount("tmpfs", str(folder), "tmpfs")
    mount("", str(folder), "", MS_SHARED)
    (folder / "early").mkdir()
    (folder / "late").mkdir()
    mount("tmpfs", str(folder / "early"), "tmpfs")
    yield folder
    umount(str(folder), MNT_DETACH)


async def test_read_only_means_the_mounts_in_it_as_well(box: Box, shared: Path) -> None:
    code, output = await box.run(
        "sh", "-c", "for f in /data/x /data/early/x; do touch $f 2>&1; done",
        binds=(Bind(str(shared), "/data", read_only=True),),
    )  # fmt: skip
    assert (code, output.count("Read-only file system")) == (1, 2)


@pytest.mark.parametrize(("propagation", "seen"), [("private", False), ("slave", True), ("shared", True)])
async def test_later_mounts_of_the_host_propagate_only_when_told(
    box: Box, shared: Path, propagation: str, seen: bool
) -> None:
    bind = Bind(str(shared), "/data", propagation=propagation)
    script = "cat /proc/self/mountinfo; echo ready; read line; ls /data/late"
    process = await box.start(
        "sh", "-c", script.replace("read line", "while ! test -e /data/go; do :; done"), binds=(bind,)
    )
    await process.started()
    fd = process.take("stdout")
    text = b""
    while b"ready\n" not in text:
        text += await asyncio.to_thread(os.read, fd, 65536)
    mount("tmpfs", str(shared / "late"), "tmpfs")
    (shared / "late/marker").touch()
    (shared / "go").touch()
    rest = await asyncio.to_thread(read_all, fd)
    await process.exited()
    process.close()
    rows = {line.split()[4]: line.split(" - ")[0].split()[6:] for line in text.decode().splitlines()[:-1]}
    # Out of a user namespace nothing propagates (mount_namespaces(7)), so orch gives such a container none.
    shares = ["master:"] if box.maps else ["shared:"]
    words = {"private": [], "slave": ["master:"], "shared": shares}[propagation]
    for point in ("/data", "/data/early"):
        assert [field.rstrip("0123456789") for field in rows[point]] == words
    assert all(not fields for point, fields in rows.items() if not point.startswith("/data"))
    assert rest == ("marker\n" if seen else "")


async def test_what_the_host_does_not_share_cannot_propagate(box: Box, shared: Path) -> None:
    mount("", str(shared), "", MS_PRIVATE)
    failure = await refused(box, Bind(str(shared), "/data", propagation="slave"))
    assert "which the host does not share" in failure.text


# A new volume


def fill_image(image: Path) -> None:
    """Something of each kind at /data of the image."""
    data = image / "data"
    (data / "folder/inner").mkdir(parents=True)
    (data / "file").write_text("original")
    (data / "folder/inner/deep").write_text("deep")
    os.chown(data / "file", 7, 8)
    (data / "file").chmod(0o640)
    os.utime(data / "file", (1_000_000, 2_000_000))
    (data / "outside").symlink_to("/etc/passwd")
    os.chown(data / "outside", 9, 9, follow_symlinks=False)
    os.mkfifo(data / "fifo")
    os.mknod(data / "device", 0o666 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(data / "socket"))
    os.chown(data, 5, 6)
    data.chmod(0o750)


def is_as_in_the_image(volume: Path) -> None:
    names = {path.relative_to(volume).as_posix() for path in volume.rglob("*")}
    assert names == {"file", "folder", "folder/inner", "folder/inner/deep", "outside"}
    info = (volume / "file").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, info.st_mtime) == (7, 8, 0o640, 2_000_000)
    assert (volume / "file").read_text() == "original"
    assert os.readlink(volume / "outside") == "/etc/passwd"
    assert (volume / "outside").lstat().st_uid == 9
    top = volume.stat()
    assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (5, 6, 0o750)


async def test_a_new_volume_gets_what_the_image_has_once(box: Box, image: Path, volume: Path) -> None:
    fill_image(image)
    bind = Bind(str(volume), "/data", fill=True)
    code, output = await box.run(SHELL, "cat", "/data/file", image=f"dir:{image}", binds=(bind,))
    assert (code, output) == (0, "original")
    is_as_in_the_image(volume)
    (volume / "file").write_text("changed")
    (volume / "outside").unlink()
    code, output = await box.run(
        SHELL, "sh", "-c", "cat /data/file; rm -r /data/*", image=f"dir:{image}", binds=(bind,)
    )
    assert (code, output) == (0, "changed")
    await box.run(SHELL, "true", image=f"dir:{image}", binds=(bind,))
    assert list(volume.iterdir()) == []  # it is not new any more


async def test_a_volume_that_holds_something_is_left_alone(box: Box, image: Path, volume: Path) -> None:
    fill_image(image)
    (volume / "mine").touch()
    await box.run(SHELL, "true", image=f"dir:{image}", binds=(Bind(str(volume), "/data", fill=True),))
    assert [path.name for path in volume.iterdir()] == ["mine"]
    assert volume.stat().st_uid == 0


async def test_a_copy_that_was_cut_short_is_taken_up_and_replaces_nothing(
    box: Box, image: Path, volume: Path
) -> None:
    fill_image(image)
    os.setxattr(volume, "trusted.orch.volume", b"filling")
    os.chown(volume, 5, 6)
    volume.chmod(0o750)
    (volume / "folder").mkdir()
    (volume / "outside").symlink_to("/etc/passwd")
    os.chown(volume / "outside", 9, 9, follow_symlinks=False)
    await box.run(SHELL, "true", image=f"dir:{image}", binds=(Bind(str(volume), "/data", fill=True),))
    is_as_in_the_image(volume)
    assert os.getxattr(volume, "trusted.orch.volume") == b"filled"


async def test_a_link_in_a_half_filled_volume_is_not_followed(box: Box, image: Path, volume: Path) -> None:
    fill_image(image)
    victim = box.directory / "victim"
    victim.mkdir()
    os.setxattr(volume, "trusted.orch.volume", b"filling")
    (volume / "folder").symlink_to(victim)
    process = await box.start(
        SHELL, "true", image=f"dir:{image}", binds=(Bind(str(volume), "/data", fill=True),)
    )
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    await process.exited()
    process.close()
    assert failure.value.operation == ["fill", "bind0", "/data"]
    assert list(victim.iterdir()) == []


async def test_many_that_start_at_once_fill_a_volume_once(box: Box, image: Path, volume: Path) -> None:
    fill_image(image)
    for number in range(300):
        (image / f"data/folder/{number:04}").write_text("x" * number)
    runs = [
        box.run(
            SHELL,
            "sh",
            "-c",
            "ls /data/folder | wc -l; cat /data/folder/0299 | wc -c",
            image=f"dir:{image}",
            binds=(Bind(str(volume), "/data", fill=True),),
        )
        for _ in range(6)
    ]
    assert set(await asyncio.gather(*runs)) == {(0, "301\n299\n")}


async def test_who_comes_while_another_fills_a_volume_waits_and_adds_nothing(
    box: Box, image: Path, volume: Path
) -> None:
    fill_image(image)
    os.setxattr(volume, "trusted.orch.volume", b"filling")
    lock = os.open(volume, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waiting = re.compile(rf"-> FLOCK .*:{volume.stat().st_ino} ")
    run = asyncio.create_task(
        box.run(SHELL, "ls", "/data", image=f"dir:{image}", binds=(Bind(str(volume), "/data", fill=True),))
    )
    locks = Path("/proc/locks")
    await asyncio.to_thread(wait_until, "it waits", lambda: bool(waiting.search(locks.read_text())))
    os.setxattr(volume, "trusted.orch.volume", b"filled")
    os.close(lock)
    assert await run == (0, "")


async def test_a_target_that_the_image_has_as_a_link_fills_from_where_it_leads(
    box: Box, image: Path, volume: Path
) -> None:
    fill_image(image)
    (image / "alias").symlink_to("/data")
    await box.run(SHELL, "true", image=f"dir:{image}", binds=(Bind(str(volume), "/alias", fill=True),))
    is_as_in_the_image(volume)


async def test_what_is_mounted_at_the_target_is_not_the_images(box: Box, image: Path, volume: Path) -> None:
    other = box.directory / "other"
    (other / "inner").mkdir(parents=True)
    (other / "inner/private").touch()
    await box.run(
        SHELL,
        "true",
        image=f"dir:{image}",
        binds=(Bind(str(other), "/a"), Bind(str(volume), "/a/inner", fill=True)),
    )
    assert list(volume.iterdir()) == []


def test_an_image_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a/b/c").mkdir(parents=True)
    target.mkdir()
    (source / "file").write_bytes(b"x" * 100)
    for limit in ("_MAX_DEPTH", "_MAX_ENTRIES", "_MAX_BYTES"):
        with monkeypatch.context() as patched:
            patched.setattr(child_volume, limit, 2)
            fds = [os.open(folder, os.O_RDONLY) for folder in (source, target)]
            with pytest.raises(Refused, match=r"of the image|the image has"):
                child_volume._Copy().folder(fds[0], fds[1], 0)
            for fd in fds:
                os.close(fd)


# tmpfs


async def test_tmpfs_has_its_limits_owner_and_no_programs_unless_told(box: Box) -> None:
    mounts = (
        Mount(type="tmpfs", target="/a", size=8192, nr_inodes=3, uid=7, gid=8, mode=0o710),
        Mount(type="tmpfs", target="/b", exec=True),
    )
    script = """
    room() { df -Pk $1 | tail -1 | tr -s " " | cut -d" " -f2; }
    stat -c "%u:%g %a" /a; touch /a/1 /a/2 /a/3 2>&1 | grep -c "No space"; room /a
    for d in a b; do cp /bin/true /$d/x 2>/dev/null || echo "#!/bin/sh" >/$d/1; done; chmod 755 /a/1
    /a/1 2>/dev/null; echo $?; /b/x; echo $?; room /dev/shm"""
    code, output = await box.run("sh", "-c", script, mounts=mounts, shm_size=1 << 20)
    assert (code, output.split("\n")[:-1]) == (0, ["7:8 710", "1", "8", "126", "0", "1024"])


async def test_a_read_only_root_leaves_nothing_to_write_to_but_what_is_meant(box: Box) -> None:
    script = """
    for d in / /usr /etc /dev /sys /proc /run /tmp /dev/shm /dev/mqueue /vol /data; do
      (touch $d/probe) 2>/dev/null && echo $d; done
    for f in /etc/hosts /etc/hostname /etc/resolv.conf; do (echo >>$f) 2>/dev/null && echo $f; done
    echo x >/dev/null && head -c1 /dev/zero | wc -c"""
    volume, hosts = box.directory / "volume", box.directory / "hosts"
    volume.mkdir()
    hosts.touch()
    code, output = await box.run(
        "sh", "-c", script, read_only=True, mounts=(Mount(type="tmpfs", target="/data"),),
        binds=(Bind(str(volume), "/vol"), Bind(str(hosts), "/etc/hosts", read_only=True)),
    )  # fmt: skip
    assert (code, output.split()) == (0, ["/dev/shm", "/dev/mqueue", "/vol", "/data", "1"])
