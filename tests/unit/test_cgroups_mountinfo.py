"""Reading which cgroup hierarchies are mounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cgroups import mountinfo
from orchestrator.cgroups.facts import Facts
from orchestrator.cgroups.host import detect
from orchestrator.errors import KernelError

ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
FREEZER = "37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
BOTH_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
SYSTEMD = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_v1_controllers_are_found_where_they_are_mounted() -> None:
    found = mountinfo.parse(ROOT + FREEZER + MEMORY + SYSTEMD)
    assert found.v1 == {"freezer": "/sys/fs/cgroup/freezer", "memory": "/sys/fs/cgroup/memory"}
    assert found.unified is None


def test_comounted_controllers_share_a_mount_point() -> None:
    found = mountinfo.parse(ROOT + BOTH_CPU)
    assert found.v1 == {"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct"}


def test_a_mount_of_the_whole_hierarchy_is_preferred_to_one_of_a_part() -> None:
    part = "50 1 0:32 /docker/1 /srv/part rw - cgroup cgroup rw,memory\n"
    assert mountinfo.parse(part + MEMORY).v1["memory"] == "/sys/fs/cgroup/memory"
    assert mountinfo.parse(MEMORY + part).v1["memory"] == "/sys/fs/cgroup/memory"


def test_a_mount_that_another_one_hides_is_not_used() -> None:
    hiding = "60 35 0:50 / /sys/fs/cgroup/memory rw - tmpfs tmpfs rw\n"
    assert mountinfo.parse(MEMORY + hiding).v1 == {}


def test_escaped_characters_of_a_mount_point_are_read() -> None:
    found = mountinfo.parse("31 23 0:28 / /sys/fs/my\\040group\\134 rw - cgroup2 cgroup2 rw\n")
    assert found.unified == "/sys/fs/my group\\"


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert isinstance(mountinfo.parse(text), mountinfo.CgroupMounts)


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        (ROOT + V2, "v2"),
        (ROOT + FREEZER + MEMORY, "v1"),
        (FREEZER + MEMORY + UNIFIED, "hybrid"),
        (SYSTEMD + V2, "v2"),
    ],
)
def test_the_kind_of_host_follows_from_its_mounts(mounts: str, kind: str) -> None:
    assert detect(mounts, Facts()).kind == kind


@pytest.mark.parametrize(
    ("mounts", "cause", "remedy"),
    [
        (ROOT, "no cgroup file system is mounted", "mount -t cgroup2"),
        (ROOT + V2.replace(" rw,nosuid", " ro,nosuid"), "read-only: /sys/fs/cgroup", "remount,rw"),
        (ROOT + MEMORY, "freezer", "mount -t cgroup -o freezer"),
    ],
)
def test_a_host_without_usable_cgroups_is_refused_with_the_remedy(
    mounts: str, cause: str, remedy: str
) -> None:
    with pytest.raises(KernelError) as caught:
        detect(mounts, Facts())
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_an_old_kernels_v2_hierarchy_is_left_alone() -> None:
    """Before Linux 5.14 it has no cgroup.kill, so a hybrid host is ruled as a v1 host is."""
    old = Facts(complete_core=False)
    assert detect(FREEZER + MEMORY + UNIFIED, old).kind == "v1"
    with pytest.raises(KernelError, match=r"use Linux 5\.14 or later"):
        detect(ROOT + V2, old)


def test_controllers_are_named_in_the_words_of_v2_on_every_host() -> None:
    blkio = MEMORY.replace("memory", "blkio")
    assert detect(FREEZER + MEMORY + blkio, Facts()).controllers == {"memory", "io"}
    assert detect(V2, Facts(unified_controllers=frozenset({"io", "pids", "rdma"}))).controllers == {
        "io",
        "pids",
    }
