"""The cgroups that a container sees: its own, read-only, in the shape of a v2 or of a v1 host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runtime import rootfs
from orchestrator.runtime.handle import ProgramFailed
from support.box import Box, bare_image, read_all
from support.sandbox import cgroup_hierarchies

pytestmark = pytest.mark.requires("root", "overlay", "netns", "busybox")
ATTEMPTS = """
cd /sys/fs/cgroup
files="$(find . -name cgroup.procs) $(find . -name release_agent)"
for f in $files; do (echo 0 >$f) 2>/dev/null && echo "wrote $f"; done
for d in $(find . -type d); do mkdir $d/x 2>/dev/null && echo "made $d/x"; done
mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
grep ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d' ' -f5,6
"""


@pytest.fixture
def folder() -> Iterator[str]:
    """A new cgroup of any hierarchy, as a container's own would be."""
    hierarchy = cgroup_hierarchies()[-1]
    path = f"{hierarchy.point}/probe-{os.getpid()}"
    os.mkdir(path)
    yield path
    os.mkdir(f"{path}/still-writable")  # the host's own mount has not become read-only with the container's
    os.rmdir(f"{path}/still-writable")
    os.rmdir(path)


async def attempt(box: Box, cgroups: tuple[rootfs.CgroupMount, ...]) -> list[str]:
    """What a container lists in /sys/fs/cgroup, and what it could do there."""
    image = bare_image(box.directory / "image")
    layer = rootfs.Layer("/", (str(image),), f"{box.directory}/c/upper", f"{box.directory}/c/work")
    process = await box.launch(
        (layer,), f"{box.directory}/c", "/bin/busybox", "sh", "-c", "ls /sys/fs/cgroup; echo --" + ATTEMPTS,
        cgroups=cgroups,
    )  # fmt: skip
    await process.started()
    output = read_all(process.take("stdout"))
    await process.exited()
    process.close()
    return output.splitlines()


async def test_one_hierarchy_is_the_folder_itself(box: Box, folder: str) -> None:
    lines = await attempt(box, (rootfs.CgroupMount(folder, ""),))
    there = lines[: lines.index("--")]
    assert "cgroup.procs" in there
    assert not any(name.startswith("probe-") for name in there)
    assert lines[lines.index("--") + 1 :] == ["/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime"]


async def test_several_have_folders_and_links(box: Box, folder: str) -> None:
    cgroups = (rootfs.CgroupMount(folder, "one,two", ("one", "two")), rootfs.CgroupMount(folder, "three"))
    lines = await attempt(box, cgroups)
    assert lines[: lines.index("--")] == ["one", "one,two", "three", "two"]
    options = "ro,nosuid,nodev,noexec,relatime"
    assert sorted(lines[lines.index("--") + 1 :]) == [
        f"/sys/fs/cgroup {options}", f"/sys/fs/cgroup/one,two {options}", f"/sys/fs/cgroup/three {options}",
    ]  # fmt: skip


async def test_a_cgroup_that_is_not_there_is_named(box: Box, tmp_path: Path) -> None:
    layer = rootfs.Layer(
        "/", (str(bare_image(tmp_path / "image")),), f"{tmp_path}/c/upper", f"{tmp_path}/c/work"
    )
    process = await box.launch(
        (layer,), f"{tmp_path}/c", cgroups=(rootfs.CgroupMount("/sys/fs/cgroup/nosuch", ""),)
    )
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    await process.exited()
    process.close()
    assert failure.value.path == "/sys/fs/cgroup/nosuch"
