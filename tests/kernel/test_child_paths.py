"""Hostile images and volumes against the child: whatever they hold, nothing outside of the container is touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime import rootfs
from orchestrator.runtime.handle import ProgramFailed, SpawnerHandle
from orchestrator.spec import Grant, Mount
from support.box import Box, bare_image

pytestmark = pytest.mark.requires("root", "overlay", "netns", "busybox")
SHELL = "/bin/busybox"


@pytest.fixture
def image(box: Box) -> Path:
    """An image with busybox and nothing else, to be made hostile."""
    return bare_image(box.directory / "image")


@pytest.fixture
def victim(box: Box) -> Iterator[Path]:
    """A folder of the host that nothing may touch."""
    folder = box.directory / "victim"
    folder.mkdir()
    (folder / "marker").write_text("untouched")
    before = folder.stat()
    yield folder
    assert os.listdir(folder) == ["marker"]
    assert (folder / "marker").read_text() == "untouched"
    after = folder.stat()
    assert (after.st_mtime_ns, after.st_mode, after.st_uid) == (
        before.st_mtime_ns,
        before.st_mode,
        before.st_uid,
    )


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
async def test_an_image_whose_system_folder_is_a_link_is_refused(
    box: Box, image: Path, victim: Path, name: str
) -> None:
    (image / name).rmdir()
    (image / name).symlink_to(victim)
    failure = await refused(box, image)
    assert failure.errno == errno.ELOOP
    assert failure.operation is not None
    assert failure.operation[0] in ("files", "mount")


@pytest.mark.parametrize("link", ["{victim}", "../../../../..{victim}"])
async def test_targets_lead_nowhere_but_into_the_container(
    box: Box, image: Path, victim: Path, link: str
) -> None:
    """The files of its own, a volume, a tmpfs and the working folder, each through a link."""
    source = box.directory / "source"
    source.mkdir()
    (source / "file").write_text("volume")
    there = link.format(victim=victim)
    (image / "etc").rmdir()
    (image / "etc").symlink_to(there)
    (image / "data").symlink_to(f"{there}/data")
    (image / "work").symlink_to(f"{there}/work")
    code, output = await box.run(
        SHELL, "sh", "-c", f"cat /etc/hostname /data/file; echo; pwd; ls {victim}", image=f"dir:{image}",
        working_dir="/work", binds=(rootfs.Bind(str(source), "/data"),),
        mounts=(Mount(type="tmpfs", target="/work/tmp"),),
    )  # fmt: skip
    assert code == 0
    assert output.split() == ["box", "volume", f"{victim}/work", "data", "hostname", "resolv.conf", "work"]


async def test_magic_links_are_not_followed(box: Box, image: Path, victim: Path) -> None:
    """/proc/1/root and descriptors lead out of what is being resolved (CVE-2024-21626's way)."""
    (image / "data").symlink_to(f"/proc/1/root{victim}")
    (image / "work").symlink_to("/proc/self/fd/7")
    for spec in ({"mounts": (Mount(type="tmpfs", target="/data"),)}, {"working_dir": "/work"}):
        assert (await refused(box, image, **spec)).errno == errno.ELOOP


@pytest.mark.parametrize("link", ["/proc/sys/net/ipv4", "/proc", "/sys/kernel", "/", "../../.."])
async def test_a_volume_covers_neither_the_kernels_files_nor_the_root(
    box: Box, image: Path, victim: Path, link: str
) -> None:
    """Or what orch writes to /proc/sys would go where links in the volume lead (CVE-2025-52881's way)."""
    source = box.directory / "source"
    source.mkdir()
    (source / "ip_unprivileged_port_start").symlink_to("/marker")
    (image / "data").symlink_to(link)
    failure = await refused(box, image, binds=(rootfs.Bind(str(source), "/data"),))
    assert failure.operation == ["attach-tree", "bind0", "/data"]
    assert "symbolic link of the image leads" in failure.text
    tmpfs = await refused(box, image, mounts=(Mount(type="tmpfs", target="/data"),))
    assert "symbolic link of the image leads" in tmpfs.text


async def test_what_stands_in_the_place_of_its_files_does_no_harm(
    box: Box, image: Path, victim: Path
) -> None:
    """A FIFO, a device and a link to a kernel file, where names of users are looked up and files are mounted."""
    os.mkfifo(image / "etc/passwd")
    os.mknod(image / "etc/group", 0o666 | 0o020000, os.makedev(1, 8))  # random: never at its end
    os.mkfifo(image / "etc/hostname")
    (image / "etc/resolv.conf").symlink_to(f"{victim}/resolv.conf")
    code, output = await box.run(
        SHELL, "sh", "-c", "cat /etc/hostname /etc/resolv.conf; grep Uid /proc/self/status", image=f"dir:{image}",
        user="7:8",
    )  # fmt: skip
    assert (code, output) == (0, "box\n# none\nUid:\t7\t7\t7\t7\n")


async def test_users_are_not_looked_up_in_the_kernels_files(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could say anything, and reading some of them (/proc/kmsg) has effects on the host."""
    account = "joe:x:7:7::/:/bin/sh"
    monkeypatch.setenv("ACCOUNTS", f"\n{account}\n")
    spawner = await SpawnerHandle.start()
    box = Box(spawner, tmp_path / "box")
    box.directory.mkdir()
    (image / "accounts").write_text(account + "\n")
    (image / "etc/passwd").symlink_to("/accounts")
    assert (await box.run(SHELL, "id", "-u", image=f"dir:{image}", user="joe"))[1] == "7\n"
    (image / "etc/passwd").unlink()
    (image / "etc/passwd").symlink_to("/proc/self/environ")  # of a child: the spawner's
    failure = await refused(box, image, user="joe")
    await spawner.close()
    assert 'user "joe" is not in the container' in failure.text


async def test_secrets_are_read_only_files_in_memory_with_their_owner(
    box: Box, image: Path, victim: Path
) -> None:
    """Also where the image has links to a folder of the host in the place of /run, and a FIFO in theirs."""
    (image / "run").symlink_to(victim)
    os.mkfifo(image / "fifo")
    secrets = (
        Grant(source="a", target="/run/secrets/a", uid=7, gid=8, mode=0o440, content=b"\xff\x00x"),
        Grant(source="b", target="/fifo", content=b"y" * 300_000),
    )
    script = """
    busybox stat -c "%u:%g %a %s" /run/secrets/a /fifo; od -An -tx1 /run/secrets/a
    (echo >/run/secrets/a) 2>/dev/null || (rm /fifo || chmod 777 /fifo || chown 1 /fifo) 2>/dev/null || echo kept
    grep ^ramfs /proc/self/mounts
    """
    code, output = await box.run(
        SHELL, "sh", "-c", script.replace("busybox", SHELL), image=f"dir:{image}", secrets=secrets[:1],
        configs=secrets[1:],
    )  # fmt: skip
    assert code == 0
    lines = output.splitlines()
    assert lines[:4] == ["7:8 440 3", "0:0 444 300000", " ff 00 78", "kept"]
    options = "ramfs ro,nosuid,nodev,noexec,relatime 0 0"
    assert sorted(lines[4:]) == [f"ramfs {path} {options}" for path in ("/fifo", f"{victim}/secrets/a")]
    # The writable layer, which is on the disk, got no more than the empty files to mount on.
    upper = box.directory / "1/layers/upper0"
    found = {path.name: path.stat().st_size for path in upper.rglob("*") if path.is_file()}
    assert found == {"a": 0, "hostname": 0, "resolv.conf": 0}


async def test_a_secret_lies_on_the_tmpfs_around_it(box: Box) -> None:
    grant = Grant(source="a", target="/run/secrets/a", content=b"x")
    mounts = (Mount(type="tmpfs", target="/run"),)
    code, output = await box.run(
        "sh", "-c", "cat /run/secrets/a; grep -c /run/secrets/a /proc/self/mounts; id -u",
        secrets=(grant,), mounts=mounts, user="nobody", read_only=True,
    )  # fmt: skip
    assert (code, output) == (0, "x1\n65534\n")


async def test_masks_of_the_manifest_stay_beneath_the_root(box: Box, image: Path, victim: Path) -> None:
    (image / "hidden").symlink_to(victim)
    (image / "magic").symlink_to("/proc/self/root/etc")
    (image / "file").write_text("secret")
    (image / "link").symlink_to("../../../file")
    (image / "folder").mkdir()
    (image / "folder/file").write_text("secret")
    (image / "kept").mkdir()
    code, output = await box.run(
        SHELL, "sh", "-c", "cat /link /file; ls -A /folder; touch /kept/x; touch /fine; wc -c /proc/cpuinfo",
        image=f"dir:{image}", masked_paths=("/hidden", "/link", "/folder", "/nosuch/x", "/file/x", "/proc/cpuinfo"),
        read_only_paths=("/kept", "/nosuch"),
    )  # fmt: skip
    assert output.splitlines() == ["0 /proc/cpuinfo", "touch: /kept/x: Read-only file system"]
    assert code == 0
    failure = await refused(box, image, masked_paths=("/magic",))
    assert failure.errno == errno.ELOOP


async def test_a_file_is_masked_with_the_real_null_device_or_not_at_all(box: Box, image: Path) -> None:
    """A volume on /dev could hold a link named null (CVE-2025-31133's way)."""
    source = box.directory / "source"
    source.mkdir()
    (source / "null").symlink_to("/etc")
    failure = await refused(
        box, image, masked_paths=("/proc/cpuinfo",), binds=(rootfs.Bind(str(source), "/dev"),)
    )
    assert failure.operation == ["hide", "/proc/cpuinfo"]
    assert "/dev/null" in failure.text


async def test_default_masks_can_be_taken_off(box: Box) -> None:
    count = "wc -c </proc/interrupts; wc -c </proc/timer_list; (: >>/proc/irq/default_smp_affinity) 2>&1"
    masked = (await box.run("sh", "-c", count))[1].split("\n")
    assert masked[:2] == ["0", "0"]
    # In a user namespace of its own, root may not even if it were not read-only.
    assert ("Permission denied" if box.maps else "Read-only file system") in masked[2]
    some = (await box.run("sh", "-c", count, unmask=("/proc/inter*", "/proc/irq")))[1].split("\n")
    assert int(some[0]) > 0
    assert some[1] == "0"
    assert "Read-only" not in some[2]
    everything = (await box.run("sh", "-c", count, unmask=("all",)))[1].split("\n")
    assert int(everything[0]) > 0
    if box.maps:
        assert any("timer_list: Permission denied" in line for line in everything)  # for the host's root only
    else:
        assert int(everything[1]) > 0


async def test_nothing_of_the_host_is_left_in_reach(box: Box) -> None:
    marker = box.directory / "marker"
    marker.write_text("secret")
    script = f"""
    for path in /proc/1/root /proc/1/cwd /proc/self/root /proc/self/fd/*; do cat $path{marker} $path/..{marker}; done
    cd /; cat ../../../..{marker}
    echo FDS; ls /proc/self/fd; echo MOUNTS; cat /proc/self/mountinfo"""
    code, output = await box.run("sh", "-c", script)
    assert code == 0
    assert "secret" not in output
    _, _, rest = output.partition("FDS\n")
    descriptors, _, mounts = rest.partition("MOUNTS\n")
    assert descriptors.split() == ["0", "1", "2", "3"]  # 3 is the folder that ls reads
    rows = [line.split() for line in mounts.splitlines() if line[:1].isdigit()]
    known = {row[0] for row in rows}
    top = [row for row in rows if row[1] not in known]
    assert [row[4] for row in top] == ["/"]  # every other mount is on one of the container's
    assert all(
        not field.startswith(("shared:", "master:")) for row in rows for field in row[6 : row.index("-")]
    )


async def test_the_upper_folder_of_an_earlier_life_cannot_move_an_inner_layer(box: Box, victim: Path) -> None:
    """A container that could unmount /usr may have left a link in its place; the next start must not follow it."""
    base, inner = box.directory / "lower", box.directory / "inner"
    (base / "usr").mkdir(parents=True)
    inner.mkdir()
    layers = tuple(
        rootfs.Layer(target, (str(lower),), str(box.directory / f"up{n}"), str(box.directory / f"work{n}"))
        for n, (target, lower) in enumerate((("/", base), ("/usr", inner)))
    )
    for layer in layers:
        os.mkdir(layer.upper)
        os.mkdir(layer.work)
    os.symlink(victim, f"{layers[0].upper}/usr")
    directory = box.directory  # exists, so that the layers are taken as they are
    process = await box.launch(layers, str(directory))
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    await process.exited()
    process.close()
    assert failure.value.operation is not None
    assert failure.value.operation[:2] == ["overlay", f"{box.root}/usr"]
    assert failure.value.errno == errno.ELOOP


async def refused(box: Box, image: Path, **spec: Any) -> ProgramFailed:
    """The reason why a container of the image does not start."""
    process = await box.start(SHELL, "true", image=f"dir:{image}", **spec)
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    await process.exited()
    process.close()
    return failure.value
