"""What is written where, compared as text; no kernel needed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cgroups import limits
from orchestrator.cgroups.facts import Facts
from orchestrator.cgroups.host import CgroupHost, detect, parse_list
from orchestrator.kernel.operations import Operation
from orchestrator.spec import IoLimit, PressureTrigger, Resources

V1_NAMES = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "freezer")
V1_MOUNTS = "".join(f"3 1 0:3 / /c/{name} rw - cgroup cgroup rw,{name}\n" for name in V1_NAMES)
UNIFIED = "4 1 0:4 / /c/unified rw - cgroup2 cgroup2 rw\n"
V2_MOUNT = "4 1 0:4 / /c rw - cgroup2 cgroup2 rw\n"
V1_FACTS = Facts(cpus="0-3", mems="0", io_weight_file="blkio.bfq.weight", hugepage_sizes=frozenset({"2MB"}))
V2_FACTS = Facts(
    unified_controllers=frozenset(limits.V2),
    cpus="0-3",
    io_weight_file="io.weight",
    io_weight_works=True,
    hugepage_sizes=frozenset({"2MB"}),
)
V1 = detect(V1_MOUNTS, V1_FACTS)
HYBRID = detect(V1_MOUNTS + UNIFIED, V1_FACTS)
V2 = detect(V2_MOUNT, V2_FACTS)
BARE = detect(UNIFIED, Facts())
CPU_ONLY = detect(UNIFIED + V1_MOUNTS.split("\n")[0], V1_FACTS)
M = 1 << 20
EVERYTHING = Resources(
    cpus=1.5,
    cpu_burst=0.5,
    cpu_weight=200,
    cpuset="0-1",
    cpuset_mems="0",
    memory=64 * M,
    memory_high=48 * M,
    memory_swap=16 * M,
    oom_group=True,
    pids=50,
    io_weight=200,
    io=(IoLimit(device="/dev/vda", read_bps=1000, write_iops=7),),
    hugepages={"2MB": 4 * M},
)


PROTECTED = Resources(memory_low=32 * M, memory_min=8 * M)


def device(path: str) -> str:
    return {"/dev/vda": "254:0"}[path]


def text(operations: list[Operation]) -> list[str]:
    """One line each, as short as a test can use it."""
    return [
        f"mkdir {op[1]}" if op[0] == "mkdir" else f"{op[1]} = {op[2]!r}".replace("'", "") for op in operations
    ]


def test_each_folder_of_a_cgroup_is_named_after_all_controllers_of_its_hierarchy() -> None:
    assert V2.group("a/b").folders == {"/c/a/b": ["unified"]}
    together = "3 1 0:3 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    memory = "5 1 0:5 / /c/m rw - cgroup cgroup rw,memory\n"
    assert detect(together + memory + UNIFIED, V1_FACTS).group("a").folders == {
        "/c/cpu,cpuacct/a": ["cpu", "cpuacct"], "/c/m/a": ["memory"], "/c/unified/a": ["unified"],
    }  # fmt: skip
    folders = HYBRID.group("a").folders
    assert "/c/cpuacct/a" not in folders  # a hierarchy that containers are not put in
    assert folders["/c/memory/a"] == ["memory"]


def test_v2_makes_and_limits_the_cgroup_before_the_process_exists() -> None:
    group = V2.group("orch-1/shop/api/1")
    assert text(group.compile_prepare(EVERYTHING, device)) == [
        "mkdir /c/orch-1/shop/api/1",
        "/c/orch-1/shop/api/1/cpu.max = 150000 100000",
        "/c/orch-1/shop/api/1/cpu.max.burst = 50000",
        "/c/orch-1/shop/api/1/cpu.weight = 200",
        "/c/orch-1/shop/api/1/cpuset.cpus = 0-1",
        "/c/orch-1/shop/api/1/cpuset.mems = 0",
        f"/c/orch-1/shop/api/1/memory.max = {64 * M}",
        f"/c/orch-1/shop/api/1/memory.high = {48 * M}",
        f"/c/orch-1/shop/api/1/memory.swap.max = {16 * M}",
        "/c/orch-1/shop/api/1/memory.oom.group = 1",
        "/c/orch-1/shop/api/1/pids.max = 50",
        "/c/orch-1/shop/api/1/io.weight = default 200",
        "/c/orch-1/shop/api/1/io.max = 254:0 rbps=1000",
        "/c/orch-1/shop/api/1/io.max = 254:0 wiops=7",
        f"/c/orch-1/shop/api/1/hugetlb.2MB.max = {4 * M}",
    ]


def test_v2_leaves_nothing_to_the_process_itself() -> None:
    group = V2.group("orch-1/shop/api/1")
    assert group.compile_enter(EVERYTHING, device) == []
    assert group.compile_join() == []
    assert group.clone_into == "/c/orch-1/shop/api/1"


def test_hybrid_prepares_only_the_v2_directory() -> None:
    group = HYBRID.group("orch-1/shop/api/1")
    assert text(group.compile_prepare(EVERYTHING, device)) == ["mkdir /c/unified/orch-1/shop/api/1"]
    assert group.clone_into == "/c/unified/orch-1/shop/api/1"


def test_hybrid_enters_the_v1_hierarchies_without_cpuacct_and_freezer() -> None:
    p = "orch-1/shop/api/1"
    assert text(HYBRID.group(p).compile_enter(EVERYTHING, device)) == [
        *(f"mkdir /c/{name}/{p}" for name in ("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb")),
        f"/c/cpu/{p}/cpu.cfs_quota_us = 150000",
        f"/c/cpu/{p}/cpu.cfs_burst_us = 50000",
        f"/c/cpu/{p}/cpu.shares = 2048",
        f"/c/cpuset/{p}/cpuset.cpus = 0-1",
        f"/c/cpuset/{p}/cpuset.mems = 0",
        f"/c/memory/{p}/memory.limit_in_bytes = {64 * M}",
        f"/c/memory/{p}/memory.memsw.limit_in_bytes = {80 * M}",
        f"/c/memory/{p}/memory.soft_limit_in_bytes = {48 * M}",
        f"/c/pids/{p}/pids.max = 50",
        f"/c/blkio/{p}/blkio.bfq.weight = 109",
        f"/c/blkio/{p}/blkio.throttle.read_bps_device = 254:0 1000",
        f"/c/blkio/{p}/blkio.throttle.write_iops_device = 254:0 7",
        f"/c/hugetlb/{p}/hugetlb.2MB.limit_in_bytes = {4 * M}",
        *(f"/c/{name}/{p}/tasks = 0" for name in ("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb")),
    ]


def test_pure_v1_joins_cpuacct_and_freezer_too_and_needs_nothing_before() -> None:
    group = V1.group("orch-1/a/b/1")
    assert group.compile_prepare(EVERYTHING, device) == []
    assert group.clone_into is None
    joined = {line.split("/")[2] for line in text(group.compile_join())}
    assert joined == set(V1_NAMES)


def test_comounted_controllers_are_made_and_joined_once() -> None:
    mounts = UNIFIED + "".join(
        f"3 1 0:3 / /c/{name} rw - cgroup cgroup rw,{name}\n" for name in ("cpu,cpuacct", "memory", "freezer")
    )
    operations = text(
        detect(mounts.replace(UNIFIED, ""), V1_FACTS).group("o/1").compile_enter(Resources(cpus=1))
    )
    assert operations == [
        "mkdir /c/cpu,cpuacct/o/1",
        "mkdir /c/memory/o/1",
        "mkdir /c/freezer/o/1",
        "/c/cpu,cpuacct/o/1/cpu.cfs_quota_us = 100000",
        "/c/cpu,cpuacct/o/1/tasks = 0",
        "/c/memory/o/1/tasks = 0",
        "/c/freezer/o/1/tasks = 0",
    ]


def test_a_controller_of_v2_on_a_hybrid_host_is_limited_there() -> None:
    """Some hosts have memory on v2 and the rest on v1 (cgroup_no_v1=memory)."""
    mounts = UNIFIED + "3 1 0:3 / /c/pids rw - cgroup cgroup rw,pids\n"
    group = detect(mounts, Facts(unified_controllers=frozenset({"memory"}))).group("o/1")
    limits_wanted = Resources(memory=M, pids=5)
    assert text(group.compile_prepare(limits_wanted)) == [
        "mkdir /c/unified/o/1",
        f"/c/unified/o/1/memory.max = {M}",
    ]
    assert text(group.compile_enter(limits_wanted)) == [
        "mkdir /c/pids/o/1",
        "/c/pids/o/1/pids.max = 5",
        "/c/pids/o/1/tasks = 0",
    ]
    assert text(group.compile_parents()) == [
        "mkdir /c/pids/o",
        "/c/unified/cgroup.subtree_control = +memory",
        "mkdir /c/unified/o",
        "/c/unified/o/cgroup.subtree_control = +memory",
    ]


def test_v2_parents_hand_the_controllers_down_level_by_level() -> None:
    enable = "cgroup.subtree_control = +cpu +memory +pids +io"
    assert text(V2.group("orch-1/shop/api/1").compile_parents(Resources(cpu_weight=50), replicas=3)) == [
        f"/c/{enable}",
        "mkdir /c/orch-1",
        f"/c/orch-1/{enable}",
        "mkdir /c/orch-1/shop",
        f"/c/orch-1/shop/{enable}",
        "mkdir /c/orch-1/shop/api",
        f"/c/orch-1/shop/api/{enable}",
        "/c/orch-1/shop/api/cpu.weight = 150",
        "/c/orch-1/shop/api/io.weight = default 300",
    ]


def test_v1_parents_fill_the_first_cpuset_and_have_the_others_copy_it() -> None:
    lines = [line for line in text(HYBRID.group("orch-1/shop/api/1").compile_parents()) if "cpuset" in line]
    assert lines == [
        "mkdir /c/cpuset/orch-1",
        "/c/cpuset/orch-1/cpuset.mems = 0",
        "/c/cpuset/orch-1/cpuset.cpus = 0-3",
        "/c/cpuset/orch-1/cgroup.clone_children = 1",
        "mkdir /c/cpuset/orch-1/shop",
        "mkdir /c/cpuset/orch-1/shop/api",
    ]


def test_an_update_writes_only_what_changed_and_resets_what_is_gone() -> None:
    old = Resources(memory=M, pids=5, cpus=1, cpuset="0", io=(IoLimit(device="/dev/vda", read_bps=5),))
    new = Resources(memory=M, pids=6)
    assert text(V2.group("o/1").compile_update(old, new, device)) == [
        "/c/o/1/cpu.max = max 100000",
        "/c/o/1/cpuset.cpus = 0-3",
        "/c/o/1/pids.max = 6",
        "/c/o/1/io.max = 254:0 rbps=max",
    ]
    assert text(HYBRID.group("o/1").compile_update(old, new, device)) == [
        "/c/cpu/o/1/cpu.cfs_quota_us = -1",
        "/c/cpuset/o/1/cpuset.cpus = 0-3",
        "/c/pids/o/1/pids.max = 6",
        "/c/blkio/o/1/blkio.throttle.read_bps_device = 254:0 0",
    ]


def test_v2_enables_a_controller_without_counters_only_when_it_is_needed() -> None:
    group = V2.group("o/1")
    parents = group.compile_parents(Resources(hugepages={"2MB": M}))
    assert text(parents)[0] == "/c/cgroup.subtree_control = +cpu +memory +pids +io +hugetlb"
    assert text(group.compile_update(Resources(), Resources(cpuset="1"), device)) == [
        "/c/cgroup.subtree_control = +cpuset",
        "/c/o/cgroup.subtree_control = +cpuset",
        "/c/o/1/cpuset.cpus = 1",
    ]


def test_a_service_that_says_nothing_is_held_to_2048_processes() -> None:
    assert text(V2.group("o/1").compile_prepare(Resources())) == ["mkdir /c/o/1", "/c/o/1/pids.max = 2048"]
    assert text(V2.group("o/1").compile_prepare(Resources(pids=None))) == ["mkdir /c/o/1"]
    assert "/c/pids/o/1/pids.max = 2048" in text(V1.group("o/1").compile_enter(Resources()))
    assert text(V1.group("o/1").compile_update(Resources(), Resources(pids=None))) == [
        "/c/pids/o/1/pids.max = max"
    ]
    assert CPU_ONLY.unsupported(Resources()) == []  # a host that cannot is not refused for what nobody asked


def test_the_levels_above_hold_no_more_processes_than_they_have() -> None:
    for host in (V2, V1, HYBRID):
        written = text(host.group("orch-1/shop/api/1").compile_parents(Resources()))
        assert [line for line in written if "pids.max" in line] == []


def test_protection_of_memory_is_written_and_taken_away() -> None:
    group = V2.group("o/1")
    assert text(group.compile_prepare(PROTECTED))[1:3] == [
        f"/c/o/1/memory.low = {32 * M}",
        f"/c/o/1/memory.min = {8 * M}",
    ]
    assert text(group.compile_update(PROTECTED, Resources(memory_low=M))) == [
        f"/c/o/1/memory.low = {M}",
        "/c/o/1/memory.min = 0",
    ]


def test_each_level_above_claims_what_its_containers_claim_together() -> None:
    claims = {
        "o/shop/api/1": PROTECTED,
        "o/shop/api/2": PROTECTED,
        "o/shop/db/1": Resources(memory_min=M),
        "o/other/api/1": PROTECTED,
        "o/shop/api": Resources(),
    }
    assert text(V2.group("o/shop/api/1").compile_protection(claims)) == [
        f"/c/o/memory.low = {96 * M}",
        f"/c/o/memory.min = {25 * M}",
        f"/c/o/shop/memory.low = {64 * M}",
        f"/c/o/shop/memory.min = {17 * M}",
        f"/c/o/shop/api/memory.low = {64 * M}",
        f"/c/o/shop/api/memory.min = {16 * M}",
    ]
    assert V1.group("o/shop/api/1").compile_protection(claims) == []


def test_an_update_to_the_same_limits_writes_nothing() -> None:
    assert HYBRID.group("o/1").compile_update(EVERYTHING, EVERYTHING, device) == []


memory_limits = st.builds(
    Resources,
    memory=st.none() | st.integers(M, 9 * M),
    memory_swap=st.none() | st.integers(0, 9 * M),
    memory_high=st.none() | st.just(M),
)


@given(memory_limits, memory_limits)
def test_v1_never_has_more_memory_than_memory_and_swap_during_an_update(
    old: Resources, new: Resources
) -> None:
    """The kernel refuses a write that would (EINVAL)."""
    group = V1.group("o/1")
    files = {"memory.limit_in_bytes": -1, "memory.memsw.limit_in_bytes": -1}
    for operations in (group.compile_enter(old), group.compile_update(old, new)):
        for name, path, value in (op for op in operations if op[0] == "write"):
            files[path.rsplit("/", 1)[1]] = int(value)
            memory, both = files["memory.limit_in_bytes"], files["memory.memsw.limit_in_bytes"]
            assert both == -1 or 0 <= memory <= both, (name, path, value)
    assert files["memory.limit_in_bytes"] == (-1 if new.memory is None else new.memory)


@st.composite
def shares(draw: st.DrawFn) -> Resources:
    cpus = draw(st.none() | st.floats(0.01, 64))
    part = draw(st.none() | st.floats(0, 1))
    return Resources(cpus=cpus, cpu_burst=None if cpus is None or part is None else cpus * part)


@given(shares(), shares(), st.sampled_from([V1, V2]))
def test_a_burst_is_never_above_the_quota_during_an_update(
    old: Resources, new: Resources, host: CgroupHost
) -> None:
    """The kernel refuses a write that would make it so (EINVAL)."""
    group = host.group("o/1")
    burst, quota = 0, math.inf
    before = group.compile_enter(old) + group.compile_prepare(old)
    for operations in (before, group.compile_update(old, new)):
        for _, path, value in (op for op in operations if op[0] == "write"):
            match path.rsplit("/", 1)[1]:
                case "cpu.max.burst" | "cpu.cfs_burst_us":
                    burst = int(value)
                case "cpu.max" | "cpu.cfs_quota_us":
                    quota = math.inf if value.split()[0] in ("max", "-1") else int(value.split()[0])
            assert burst <= quota, (path, value)
    if new.cpus is None or new.cpu_burst is None:
        assert burst == 0
    else:
        assert burst / limits.quota_and_period(new.cpus)[1] == pytest.approx(new.cpu_burst, abs=0.0101)


@given(st.floats(0.001, 1024))
def test_a_quota_is_the_share_that_was_asked_and_the_kernel_takes_it(cpus: float) -> None:
    quota, period = limits.quota_and_period(cpus)
    assert quota >= 1000
    assert 1000 <= period <= 1_000_000
    assert quota / period == pytest.approx(cpus, rel=0.01)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_weights_keep_their_order_and_their_range_in_every_file(low: int, high: int) -> None:
    low, high = sorted((low, high))
    for convert, least, most in (
        (limits.cpu_shares, 2, 262_144),
        (limits.bfq_weight, 1, 1000),
        (limits.cfq_weight, 10, 1000),
    ):
        assert least <= convert(low) <= convert(high) <= most


def test_the_default_weight_is_the_default_of_every_file() -> None:
    assert (limits.cpu_shares(100), limits.bfq_weight(100), limits.cfq_weight(100)) == (1024, 100, 500)


@pytest.mark.parametrize("name", ["tasks", "notify_on_release", "release_agent", "cpu.max", "_tasks"])
def test_a_name_that_a_kernel_file_has_gets_a_directory_of_another_name(name: str) -> None:
    assert HYBRID.group(f"orch-1/{name}/web/1").directories["cpu"] == f"/c/cpu/orch-1/_{name}/web/1"


@pytest.mark.parametrize(
    "path", ["", "/", "/orch-1", "orch-1/", "orch-1//web", "..", "orch-1/../x", "a/.", "a\0b"]
)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not the path of a cgroup"):
        V2.group(path)


@pytest.mark.parametrize("host", [V1, HYBRID, V2], ids=lambda host: host.kind)
def test_a_host_with_everything_supports_everything(host: CgroupHost) -> None:
    assert host.unsupported(EVERYTHING, device) == []
    assert V2.unsupported(PROTECTED) == []


@pytest.mark.parametrize(
    ("host", "resources", "says"),
    [
        (BARE, Resources(memory=M), "memory: the cgroup controller memory is not in /c/unified/cgroup.controllers"),
        (CPU_ONLY, Resources(hugepages={"2MB": 1}), "mount -t cgroup -o hugetlb"),
        (CPU_ONLY, Resources(io_weight=1), "mount -t cgroup -o blkio"),
        (V1, Resources(hugepages={"3MB": 1}), "hugepages.3MB: this host has no such page size (it has 2MB)"),
        (V1, Resources(memory_swap=1), "set memory as well"),
        (V1, Resources(cpuset="2-5"), "no processor 4, 5 (it has 0-3)"),
        (V2, Resources(cpuset="all"), "not a list of processors"),
        (V2, Resources(cpuset_mems="0-1"), "cpuset_mems: this host has no memory node 1 (it has 0)"),
        (V1, Resources(memory_min=1), "memory_min: cgroup v1 protects no memory"),
        (HYBRID, Resources(memory_low=1), "memory_low: cgroup v1 protects no memory"),
        (detect(V1_MOUNTS, Facts(cpu_burst=False)), Resources(cpus=1, cpu_burst=1), "use Linux 5.14"),
        (CPU_ONLY, Resources(pids=50), "mount -t cgroup -o pids"),
        (CPU_ONLY, Resources(oom_group=True), "mount -t cgroup -o memory"),
        (V2, Resources(cpus=0.0001), "0.001"),
        (detect(V2_MOUNT, Facts(unified_controllers=frozenset({"io"}))), Resources(io_weight=5), "modprobe bfq"),
        (detect(V1_MOUNTS, Facts(swap_accounting=False)), Resources(memory=M, memory_swap=0), "swapaccount=1"),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_set_is_told_with_its_remedy(
    host: CgroupHost, resources: Resources, says: str
) -> None:
    (problem,) = host.unsupported(resources)
    assert says in problem


def test_a_limit_of_something_that_is_no_disk_is_told() -> None:
    (problem,) = V2.unsupported(Resources(io=(IoLimit(device="/dev/null", read_bps=1),)))
    assert problem.startswith("io: /dev/null: Block device required")


@pytest.mark.parametrize(
    ("host", "window", "says"),
    [
        (V2, 0.5, ""),
        (HYBRID, 3.0, ""),
        (V1, 2.0, "only cgroup v2 accounts pressure (mkdir -p"),
        (detect(V2_MOUNT, Facts(pressure_lack="none (boot with psi=1)")), 2.0, "none (boot with psi=1)"),
        (detect(V2_MOUNT, Facts(pressure_windows="none")), 2.0, "use Linux 6.4 or later"),
        (detect(V2_MOUNT, Facts(pressure_windows="even")), 4.0, ""),
        (detect(V2_MOUNT, Facts(pressure_windows="even")), 3.0, "a window of 3s takes CAP_SYS_RESOURCE"),
        (detect(V2_MOUNT, Facts(pressure_windows="even")), 2.5, "a window of 2s500ms takes"),
    ],
)
def test_pressure_that_cannot_be_watched_is_told_with_the_remedy(
    host: CgroupHost, window: float, says: str
) -> None:
    found = host.unwatchable(PressureTrigger(resource="io", threshold=1.0, window=window))
    assert found.startswith(says) if says in ("", found) else says in found
    assert bool(found) == bool(says)


def test_limits_that_do_less_on_this_host_are_told() -> None:
    limit = IoLimit(device="/dev/vda", write_bps=1)
    resources = Resources(io_weight=5, memory_high=M, oom_group=True, io=(limit,))
    assert [note.partition(":")[0] for note in HYBRID.ineffective(resources)] == [
        "io_weight",
        "memory_high",
        "oom_group",
        "io",
    ]
    assert V2.ineffective(resources) == []


def test_limits_that_cannot_be_set_are_left_out_of_the_operations() -> None:
    host = detect(V1_MOUNTS, Facts(swap_accounting=False))
    written = text(host.group("o/1").compile_enter(Resources(memory=M, memory_swap=0, io_weight=5)))
    assert not [line for line in written if "memsw" in line or "weight" in line]


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_list_of_processors_is_read_as_the_kernel_writes_it(numbers: set[int]) -> None:
    assert parse_list(",".join(map(str, sorted(numbers)))) == numbers
    assert parse_list(f"{min(numbers)}-{max(numbers)}") == set(range(min(numbers), max(numbers) + 1))
