"""The same behaviour on every kind of host: real limits, real processes.

This host's own kind is detected; where v1 hierarchies and a v2 mount are side by side, each kind is had by
leaving out the mounts of the other. ``v2-core`` is a v2 hierarchy without controllers: its core files.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.cgroups.facts import Facts
from orchestrator.cgroups.group import Cgroup
from orchestrator.cgroups.host import CgroupHost, detect
from orchestrator.errors import KernelError
from orchestrator.kernel import cgroupfs, operations, syscalls
from orchestrator.spec import IoLimit, PressureTrigger, Resources
from support.waiting import wait_until

M = 1 << 20
NONE = Resources(pids=None)
ROOT = str(Path(__file__).parents[2])
KINDS = {
    "v1": ("cgroup-v1",),
    "hybrid": ("cgroup-v1", "cgroup-unified-core"),
    "v2": ("cgroup-v2",),
    "v2-core": ("cgroup-unified-core",),
}
pytestmark = pytest.mark.requires("root")

# What a container's process does, in short: join, then run the program given as text.
BOOT = """
import json, os, sys
root, unified, enter, program = sys.argv[1:]
sys.path.insert(0, root)
from orchestrator.kernel import operations
if unified:
    operations.perform([operations.write(unified + "/cgroup.procs", "0")])
operations.perform(json.loads(enter))
exec(program)
"""
SPIN = "print('ready', flush=True)\nwhile True: pass"
WAIT = "print('ready', flush=True)\nimport signal; signal.pause()"
TICK = "import os, time\nwhile True:\n  os.write(1, b'.')\n  time.sleep(0.001)"


def kinds(*names: str) -> pytest.MarkDecorator:
    """Run the test once for each kind of host."""
    params = [pytest.param(name, marks=pytest.mark.requires(*KINDS[name])) for name in names]
    return pytest.mark.parametrize("kind", params)


every_kind = kinds("v1", "hybrid", "v2", "v2-core")
limiting_kinds = kinds("v1", "hybrid", "v2")


def host_of(kind: str) -> CgroupHost:
    """This host, as if it were of that kind."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    unwanted = {"v1": " - cgroup2 ", "v2": " - cgroup ", "v2-core": " - cgroup "}.get(kind)
    text = "\n".join(line for line in lines if unwanted is None or unwanted not in line)
    return detect(text, Facts() if kind == "v2-core" else None)


@dataclass
class World:
    """A host, one cgroup on it, and the processes that were put in."""

    host: CgroupHost
    group: Cgroup
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prepare(self, resources: Resources = NONE) -> None:
        """Make the cgroup, without a process in it."""
        operations.perform(self.group.compile_parents(resources))
        operations.perform(self.group.compile_prepare(resources))

    def run(self, program: str, resources: Resources = NONE, ready: bool = True) -> subprocess.Popen[bytes]:
        """Start a program in the cgroup; wait until it says so."""
        self.prepare(resources)
        return self.start(program, self.group.compile_enter(resources), ready)

    def start(
        self, program: str, enter: list[operations.Operation], ready: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start a program that performs ``enter`` first."""
        arguments = [ROOT, self.group.clone_into or "", json.dumps(enter), program]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.running.append(process)
        if ready:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        return process

    def files(self, controller: str) -> str:
        """The directory where a controller's files are."""
        return self.group.directories.get(controller) or self.group.directories["unified"]

    def above(self, levels: int) -> Cgroup:
        """The cgroup that many levels up."""
        return self.host.group(self.group.path.rsplit("/", levels)[0])


@pytest.fixture
def world(kind: str) -> Iterator[World]:
    """A cgroup three levels deep, on that kind of host; all of it is removed in the end."""
    host = host_of(kind)
    world = World(host, host.group(f"orch-test-{secrets.token_hex(4)}/shop/api/1"))
    try:
        yield world
    finally:
        world.group.kill()
        for process in world.running:
            process.kill()
            process.wait(5)
            if process.stdout is not None:
                process.stdout.close()
        wait_until("the cgroup is empty", lambda: not world.group.populated())
        world.group.remove()
        for levels in (1, 2, 3):
            assert world.above(levels).remove_if_empty()


def exists(group: Cgroup) -> list[str]:
    """Those of its directories that are there."""
    return [path for path in group.directories.values() if os.path.isdir(path)]


# -- being in it ---------------------------------------------------------------------------------------


@every_kind
def test_a_process_that_entered_is_in_all_its_hierarchies(world: World) -> None:
    process = world.run(WAIT)
    assert world.group.pids() == [process.pid]
    assert world.group.populated()
    for directory in world.group.directories.values():
        assert cgroupfs.processes(directory) == [process.pid], directory


@every_kind
def test_a_second_process_joins_without_making_anything(world: World) -> None:
    first = world.run(WAIT)
    second = world.start(WAIT, world.group.compile_join())
    assert world.group.pids() == sorted([first.pid, second.pid])


@contextlib.contextmanager
def born_in(group: Cgroup) -> Iterator[int]:
    """A process that was cloned into the group's v2 directory, and waits."""
    assert group.clone_into is not None
    directory = os.open(group.clone_into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        pid, pidfd = syscalls.clone3(0, directory)
        if pid == 0:
            try:
                signal.pause()
            finally:
                os._exit(0)
        try:
            yield pid
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
    finally:
        os.close(directory)


@kinds("hybrid", "v2", "v2-core")
def test_a_process_is_born_in_the_v2_directory(world: World) -> None:
    world.prepare()
    with born_in(world.group) as pid:
        assert world.group.pids() == [pid]


def process_state(pid: int) -> str:
    """The letter that ps shows."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@kinds("hybrid", "v2", "v2-core")
def test_a_process_that_is_born_after_a_kill_lives(world: World) -> None:
    world.prepare()
    with born_in(world.group) as pid:
        world.group.kill()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    world.group.renew()
    world.prepare()
    with born_in(world.group) as pid:
        wait_until("it waits, or is dead", lambda: process_state(pid) in "SZ")
        assert world.group.pids() == [pid]


@limiting_kinds
def test_what_must_exist_before_can_be_made_twice(world: World) -> None:
    world.prepare(Resources(memory=64 * M))
    process = world.run(WAIT, Resources(memory=64 * M))
    world.prepare(Resources(memory=64 * M))
    assert world.group.pids() == [process.pid]


@limiting_kinds
def test_a_project_named_like_a_kernel_file_works(world: World) -> None:
    group = world.host.group(world.group.path.replace("/shop/api/", "/tasks/notify_on_release/"))
    operations.perform(
        [*group.compile_parents(), *group.compile_prepare(NONE), *group.compile_enter(NONE)[:-9]]
    )
    group.remove()
    assert world.host.group(group.path.rsplit("/", 1)[0]).remove_if_empty()
    assert world.host.group(group.path.rsplit("/", 2)[0]).remove_if_empty()


# -- limits --------------------------------------------------------------------------------------------


@limiting_kinds
def test_a_process_over_the_memory_limit_is_killed_and_counted(world: World) -> None:
    resources = Resources(memory=32 * M, memory_swap=0)
    process = world.run("import os\nb = bytearray(os.urandom(1)) * (256 << 20)", resources, ready=False)
    assert process.wait(20) == -signal.SIGKILL
    assert world.group.oom_kills() == 1
    stats = world.group.stats()
    assert stats.oom_kills == 1
    assert stats.memory_limit == 32 * M
    assert stats.memory_peak is not None
    assert 24 * M <= stats.memory_peak <= 32 * M


@limiting_kinds
def test_an_out_of_memory_kill_is_the_killed_ones_cgroups_alone(world: World) -> None:
    neighbour = world.host.group(world.group.path[:-1] + "2")
    operations.perform([*world.group.compile_parents(), *neighbour.compile_prepare(NONE)])
    for directory in set(neighbour.directories.values()) - {neighbour.clone_into}:
        operations.perform([operations.mkdir(directory)])
    world.run("b = bytearray(b'x') * (256 << 20)", Resources(memory=16 * M, memory_swap=0), False).wait(20)
    assert (world.group.oom_kills(), neighbour.oom_kills()) == (1, 0)
    neighbour.remove()


@limiting_kinds
async def test_an_out_of_memory_kill_wakes_the_event_loop(world: World) -> None:
    process = world.run(WAIT, Resources(memory=32 * M, memory_swap=0))
    watch = world.group.oom_watch()
    assert watch is not None
    loop = asyncio.get_running_loop()
    killed: asyncio.Future[int] = loop.create_future()

    def look() -> None:
        watch.drain()
        if world.group.oom_kills() and not killed.done():
            killed.set_result(world.group.oom_kills())

    loop.add_reader(watch.fileno(), look)
    try:
        hungry = world.start("b = bytearray(b'x') * (256 << 20)", world.group.compile_join(), ready=False)
        await asyncio.to_thread(hungry.wait, 20)
        look()  # v1 wakes us before the kill, so the count is read once more at the process's end
        assert await asyncio.wait_for(killed, 5) >= 1
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()
        process.kill()


@limiting_kinds
def test_the_watch_is_readable_only_after_a_kill_and_not_after_draining(world: World) -> None:
    world.prepare(Resources(memory=32 * M, memory_swap=0))
    keeper = world.start(WAIT, world.group.compile_enter(Resources(memory=32 * M, memory_swap=0)))
    watch = world.group.oom_watch()
    assert watch is not None
    try:
        assert select.select([watch], [], [], 0)[0] == []
        hungry = world.start("b = bytearray(b'x') * (256 << 20)", world.group.compile_join(), ready=False)
        assert select.select([watch], [], [], 20)[0] == [watch]
        hungry.wait(20)
        keeper.kill()
        wait_until("both have ended", lambda: not world.group.populated())
        watch.drain()
        assert select.select([watch], [], [], 0)[0] == []
    finally:
        watch.close()


@limiting_kinds
def test_a_watch_of_a_cgroup_that_goes_away_does_not_stay_readable(world: World) -> None:
    world.run(WAIT).kill()
    wait_until("it has ended", lambda: not world.group.populated())
    watch = world.group.oom_watch()
    assert watch is not None
    try:
        world.group.remove()
        if select.select([watch], [], [], 1)[0]:  # v1 says so once, a little later
            watch.drain()
        assert select.select([watch], [], [], 0.1)[0] == []
    finally:
        watch.close()


@limiting_kinds
def test_a_fork_over_the_pids_limit_is_refused(world: World) -> None:
    program = """
import os, signal
print("ready", flush=True)
count = 0
try:
    while True:
        if os.fork() == 0:
            signal.pause()
        count += 1
except BlockingIOError:
    print(count, flush=True)
signal.pause()
"""
    process = world.run(program, Resources(pids=20))
    assert process.stdout is not None
    assert process.stdout.readline() == b"19\n"
    stats = world.group.stats()
    assert (stats.pids, stats.pids_limit) == (20, 20)
    assert len(world.group.pids()) == 20


@limiting_kinds
def test_a_process_over_its_processor_share_is_throttled(world: World) -> None:
    world.run(SPIN, Resources(cpus=0.2))
    wait_until("it was throttled for 0.2 s", lambda: world.group.stats().cpu_throttled_seconds > 0.2)
    stats = world.group.stats()
    assert 0 < stats.cpu_seconds < stats.cpu_throttled_seconds


@limiting_kinds
def test_a_tiny_processor_share_is_accepted(world: World) -> None:
    world.prepare(Resources(cpus=0.001))
    process = world.run(WAIT, Resources(cpus=0.5))
    operations.perform(world.group.compile_update(Resources(cpus=0.5), Resources(cpus=0.001)))
    operations.perform(world.group.compile_update(Resources(cpus=0.001), Resources(cpus=2)))
    assert process.poll() is None


@limiting_kinds
def test_a_burst_is_set_and_changed_with_the_quota_and_taken_away(world: World) -> None:
    steps = [
        Resources(cpus=0.5, cpu_burst=0.5),
        Resources(cpus=0.1, cpu_burst=0.05),
        Resources(cpus=1, cpu_burst=1),
        Resources(cpus=0.01, cpu_burst=0.01),
        Resources(cpus=2),
        Resources(cpus=2, cpu_burst=1),
        NONE,
    ]
    world.run(WAIT, steps[0])
    burst = Path(world.files("cpu"), "cpu.max.burst" if world.host.kind == "v2" else "cpu.cfs_burst_us")
    seen = [int(burst.read_text())]
    for old, new in itertools.pairwise(steps):
        operations.perform(world.group.compile_update(old, new))
        seen.append(int(burst.read_text()))
    assert seen == [50_000, 5_000, 100_000, 1_000, 0, 100_000, 0]


@limiting_kinds
def test_unused_time_of_a_period_is_used_later(world: World) -> None:
    program = """
import time
print("ready", flush=True)
while True:
    time.sleep(0.5)
    end = time.process_time() + 0.03
    while time.process_time() < end: pass
"""
    world.run(program, Resources(cpus=0.2))
    file = Path(world.files("cpu"), "cpu.stat")

    def count(name: str) -> int:
        return cgroupfs.flat_keyed(file.read_text())[name]

    wait_until("it has been held up", lambda: count("nr_throttled") > 0)
    assert count("nr_bursts") == 0
    operations.perform(world.group.compile_update(Resources(cpus=0.2), Resources(cpus=0.2, cpu_burst=0.2)))
    wait_until("it has used what it saved", lambda: count("nr_bursts") > 0)


@limiting_kinds
def test_a_process_has_memory_of_its_nodes_only(world: World) -> None:
    process = world.run(WAIT, Resources(cpuset_mems="0"))
    assert "Mems_allowed_list:\t0\n" in Path(f"/proc/{process.pid}/status").read_text()
    operations.perform(world.group.compile_update(Resources(cpuset_mems="0"), NONE))
    file = Path(
        world.files("cpuset"),
        "cpuset.mems" if "cpuset" in world.group.directories else "cpuset.mems.effective",
    )
    assert file.read_text().strip() == world.host.hierarchies.facts.mems


def caches(file: Path, size: int) -> str:
    """A program that fills the page cache with a file, which costs nothing to take back, and waits."""
    return f"""
import os
fd = os.open({str(file)!r}, os.O_WRONLY | os.O_CREAT)
for _ in range({size // M}):
    os.write(fd, bytes({M}))
    os.fdatasync(fd)
{WAIT}"""


@pytest.mark.vm
@kinds("v2")
@pytest.mark.parametrize("claim", [None, 48 * M])
def test_memory_that_a_group_claims_is_not_taken_from_it(
    world: World, tmp_path: Path, claim: int | None
) -> None:
    """A neighbour wants more than the level above them may have."""
    claims = Resources(memory_min=claim)
    neighbour = World(world.host, world.host.group(world.group.path[:-1] + "2"), world.running)
    world.run(caches(tmp_path / "kept", 40 * M), claims)
    operations.perform(world.group.compile_protection({world.group.path: claims}))
    cgroupfs.write(f"{world.above(1).directories['unified']}/memory.max", str(96 * M))
    try:
        neighbour.run(caches(tmp_path / "wanted", 300 * M))
        stat = Path(world.files("memory"), "memory.stat").read_text()
        kept = cgroupfs.flat_keyed(stat)["file"]
        assert kept > 38 * M if claim else kept < 30 * M
    finally:
        neighbour.group.kill()
        wait_until("the neighbour has ended", lambda: not neighbour.group.populated())
        neighbour.group.remove()


@kinds("v2")
def test_a_claim_is_known_to_all_levels_until_it_is_given_up(world: World) -> None:
    claims = Resources(memory_min=48 * M, memory_low=64 * M)
    world.run(WAIT, claims)
    files = [
        Path(world.above(count).directories["unified"], name)
        for count in (1, 2, 3)
        for name in ("memory.min", "memory.low")
    ]
    operations.perform(world.group.compile_protection({world.group.path: claims}))
    assert [int(file.read_text()) for file in files] == [48 * M, 64 * M] * 3
    operations.perform(world.group.compile_update(claims, NONE))
    operations.perform(world.group.compile_protection({}))
    assert [int(file.read_text()) for file in files] == [0] * 6


@pytest.mark.vm
@kinds("v2")
@pytest.mark.parametrize("whole", [False, True])
def test_the_kernel_kills_one_process_or_the_whole_group(world: World, whole: bool) -> None:
    resources = Resources(memory=32 * M, memory_swap=0, oom_group=whole)
    keeper = world.run(WAIT, resources)
    hungry = world.start("b = bytearray(b'x') * (256 << 20)", world.group.compile_join(), ready=False)
    assert hungry.wait(20) == -signal.SIGKILL
    if whole:
        assert keeper.wait(5) == -signal.SIGKILL
    else:
        assert keeper.poll() is None
        operations.perform(
            world.group.compile_update(resources, Resources(pids=None, oom_group=True, memory=32 * M))
        )
        again = world.start("b = bytearray(b'x') * (256 << 20)", world.group.compile_join(), ready=False)
        assert again.wait(20) == -signal.SIGKILL
        assert keeper.wait(5) == -signal.SIGKILL


@limiting_kinds
def test_a_process_runs_on_its_processors_only(world: World) -> None:
    process = world.run(WAIT, Resources(cpuset="0"))
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "Cpus_allowed_list:\t0\n" in status


@limiting_kinds
def test_weights_are_set_where_they_compare(world: World) -> None:
    """On the container for its replicas, on the service for the other services."""
    resources = Resources(cpu_weight=200)
    world.run(WAIT, resources)
    operations.perform(world.group.compile_parents(resources, replicas=3))
    file = {"v1": "cpu.shares", "hybrid": "cpu.shares", "v2": "cpu.weight"}[world.host.kind]
    default = 1024 if file == "cpu.shares" else 100
    directory = world.files("cpu")
    assert int(Path(directory, file).read_text()) == 2 * default
    assert int(Path(os.path.dirname(directory), file).read_text()) == 6 * default


@limiting_kinds
def test_a_limit_of_a_disk_is_set_and_changed_and_taken_away(world: World) -> None:
    disks = cgroupfs.disks()
    if not disks or "io" not in world.host.controllers:
        pytest.skip("this host has no disk to limit")
    number = disks[0]
    limit = Resources(io=(IoLimit(device="disk", read_bps=1 << 20, write_iops=500),))
    world.prepare()
    operations.perform(world.group.compile_prepare(limit, lambda _: number))
    process = world.start(WAIT, world.group.compile_enter(limit, lambda _: number))
    version_1 = "blkio" in world.group.directories
    file = Path(world.files("blkio"), "blkio.throttle.read_bps_device" if version_1 else "io.max")
    assert str(1 << 20) in file.read_text()
    less = Resources(io=(IoLimit(device="disk", read_bps=4096),))
    operations.perform(world.group.compile_update(limit, less, lambda _: number))
    assert "4096" in file.read_text()
    operations.perform(world.group.compile_update(less, NONE, lambda _: number))
    assert file.read_text() == ""
    assert process.poll() is None


@limiting_kinds
def test_a_disk_limit_slows_a_reader_and_its_bytes_are_counted(world: World, tmp_path: Path) -> None:
    status = os.stat(tmp_path)
    number = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    if number not in cgroupfs.disks():
        pytest.skip("the folder for temporary files is not on a whole disk of this host")
    (tmp_path / "data").write_bytes(os.urandom(4 * M))
    program = f"""
import mmap, os, time
fd = os.open({str(tmp_path / "data")!r}, os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, {2 * M})
begin = time.monotonic()
os.readv(fd, [page])
print("ready", flush=True)
print(time.monotonic() - begin, flush=True)
"""
    limit = Resources(io=(IoLimit(device="disk", read_bps=4 * M),))
    world.prepare()
    operations.perform(world.group.compile_prepare(limit, lambda _: number))
    os.sync()
    process = world.start(program, world.group.compile_enter(limit, lambda _: number))
    assert process.stdout is not None
    assert float(process.stdout.readline()) > 0.3
    assert world.group.stats().io_read_bytes >= 2 * M


@kinds("v1", "hybrid")
def test_v1_counts_io_of_unlimited_groups_when_told_to(world: World, tmp_path: Path) -> None:
    status = os.stat(tmp_path)
    if f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}" not in cgroupfs.disks():
        pytest.skip("the folder for temporary files is not on a whole disk of this host")
    world.above(3).enable_io_accounting()
    program = f"""
import mmap, os
fd = os.open({str(tmp_path / "data")!r}, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
os.writev(fd, [mmap.mmap(-1, {M})])
print("ready", flush=True)
"""
    world.run(program).wait(5)
    assert world.group.stats().io_write_bytes >= M


@pytest.fixture
def unchanged_root(kind: str) -> Iterator[None]:
    """Takes back what a test enables in the root of the v2 hierarchy, which is the host's."""
    file = f"{host_of(kind).hierarchies.unified}/cgroup.subtree_control"
    before = set(cgroupfs.read(file).split())
    yield
    for name in sorted(set(cgroupfs.read(file).split()) - before):
        cgroupfs.write(file, f"-{name}")


@kinds("hybrid", "v2")
@pytest.mark.usefixtures("unchanged_root")
def test_huge_pages_are_limited(world: World) -> None:
    sizes = sorted(world.host.hierarchies.facts.hugepage_sizes)
    if not sizes or "hugetlb" not in world.host.controllers:
        pytest.skip("this host has no huge pages to limit")
    limited = Resources(hugepages={sizes[0]: 1 << 30})
    world.run(WAIT, limited)
    directory = world.files("hugetlb")
    name = "max" if "unified" in directory or world.host.kind == "v2" else "limit_in_bytes"
    file = Path(directory, f"hugetlb.{sizes[0]}.{name}")
    assert int(file.read_text()) == 1 << 30
    operations.perform(world.group.compile_update(limited, NONE))
    assert file.read_text() == "max\n" or int(file.read_text()) > 1 << 30


@limiting_kinds
def test_memory_limits_of_a_running_process_go_up_and_down_and_away(world: World) -> None:
    steps = [
        Resources(memory=64 * M, memory_swap=0),
        Resources(memory=128 * M, memory_swap=16 * M, memory_high=100 * M),
        Resources(memory=32 * M, memory_swap=512 * M),
        Resources(memory=48 * M, memory_swap=0),
        Resources(memory=48 * M),
        NONE,
        Resources(memory=64 * M, memory_swap=0),
    ]
    world.run(WAIT, steps[0])
    for old, new in itertools.pairwise(steps):
        operations.perform(world.group.compile_update(old, new))
        assert world.group.stats().memory_limit == new.memory
    assert world.group.populated()


@limiting_kinds
def test_limits_of_a_running_process_are_all_taken_away(world: World) -> None:
    limited = Resources(cpus=0.5, cpu_weight=50, cpuset="0", memory=64 * M, pids=9)
    process = world.run(WAIT, limited)
    operations.perform(world.group.compile_update(limited, NONE))
    stats = world.group.stats()
    assert (stats.memory_limit, stats.pids_limit) == (None, None)
    allowed = Path(f"/proc/{process.pid}/status").read_text()
    online = Path("/sys/devices/system/cpu/online").read_text()
    assert f"Cpus_allowed_list:\t{online}" in allowed


@limiting_kinds
def test_memory_is_counted_without_the_reclaimable_cache(world: World, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(64 * M))
    program = f"""
import os
fd = os.open({str(tmp_path / "big")!r}, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
for _ in range(64):
    os.write(fd, bytes(1 << 20))
mine = bytearray(b"x") * (16 << 20)
print("ready", flush=True)
import signal; signal.pause()
"""
    world.run(program)
    stats = world.group.stats()
    assert 16 * M < stats.memory < 48 * M
    assert stats.memory_peak is not None
    assert stats.memory_peak > 64 * M


# -- pressure ------------------------------------------------------------------------------------------

#: In multiples of 2 s the kernel watches for those who lack CAP_SYS_RESOURCE too.
WAITING = PressureTrigger(resource="cpu", threshold=20.0, window=2.0)


@pytest.mark.vm
@kinds("hybrid", "v2")
@pytest.mark.requires("psi")
def test_processes_that_wait_for_a_processor_are_noticed(world: World) -> None:
    limited = Resources(cpus=0.2, pids=None)
    world.run(WAIT, limited)
    watch = world.group.pressure_watch(WAITING)
    try:
        assert select.select([watch], [], [], 0)[0] == []
        assert world.group.waited("cpu", "some") == world.group.stats().pressure["cpu"].some_seconds < 0.5
        for _ in range(2):
            world.start(SPIN, world.group.compile_join())
        for _ in range(2):
            assert select.select([watch], [], [], 20)[0] == [watch]
            watch.drain()
            assert select.select([watch], [], [], 0)[0] == []
        assert world.group.waited("cpu", "some") > 0.4
    finally:
        watch.close()


@kinds("hybrid", "v2")
@pytest.mark.requires("psi")
def test_a_pressure_watch_of_a_cgroup_that_goes_away_does_not_stay_readable(world: World) -> None:
    world.run(WAIT).kill()
    wait_until("it has ended", lambda: not world.group.populated())
    watch = world.group.pressure_watch(WAITING)
    try:
        world.group.remove()
        assert select.select([watch], [], [], 5)[0] == [watch]
        watch.drain()
        assert select.select([watch], [], [], 0.1)[0] == []
        with pytest.raises(KernelError, match="cannot read the cpu pressure"):
            world.group.waited("cpu", "some")
    finally:
        watch.close()


@kinds("hybrid", "v2")
@pytest.mark.requires("psi")
@pytest.mark.parametrize("window", [0.5, 2.0, 3.0, 4.0, 10.0])
def test_what_the_host_says_of_a_window_is_what_the_kernel_does(world: World, window: float) -> None:
    trigger = PressureTrigger(resource="memory", kind="full", threshold=10.0, window=window)
    world.prepare()
    if world.host.unwatchable(trigger):
        with pytest.raises(KernelError, match=r"EINVAL|EPERM"):
            world.group.pressure_watch(trigger)
    else:
        world.group.pressure_watch(trigger).close()


# -- freezing and killing ------------------------------------------------------------------------------


@every_kind
async def test_frozen_processes_make_no_progress_until_thawed(world: World) -> None:
    process = world.run(TICK, ready=False)
    assert process.stdout is not None
    out = process.stdout.fileno()
    assert select.select([out], [], [], 5)[0]
    world.group.freeze()
    await world.group.wait_frozen()
    assert world.group.frozen
    os.set_blocking(out, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(out, 65536):
            pass
    assert select.select([out], [], [], 0.1)[0] == []
    world.group.thaw()
    assert select.select([out], [], [], 5)[0]
    assert not world.group.frozen


@every_kind
async def test_frozen_processes_are_killed_too(world: World) -> None:
    process = world.run(WAIT)
    world.group.freeze()
    await world.group.wait_frozen()
    world.group.kill()
    assert await asyncio.to_thread(process.wait, 5) == -signal.SIGKILL
    assert await world.group.wait_empty()


@every_kind
async def test_waiting_for_a_freeze_that_nobody_asked_for_ends_with_a_reason(world: World) -> None:
    process = world.run(WAIT)
    with pytest.raises(KernelError, match=f"within 0.05 s \\(of {process.pid};"):
        await world.group.wait_frozen(0.05)


@every_kind
async def test_waiting_until_empty_ends_when_the_last_process_does(world: World) -> None:
    process = world.run(WAIT)
    assert not await world.group.wait_empty(0.02)
    waiting = asyncio.create_task(world.group.wait_empty(5))
    await asyncio.sleep(0)
    process.kill()
    await asyncio.to_thread(process.wait, 5)
    assert await waiting


@every_kind
def test_a_group_that_forks_without_end_is_killed_whole(world: World) -> None:
    """50 processes, each replacing itself by its child again and again: no list of pids is ever complete."""
    program = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for number in range(50):
    if os.fork() == 0:
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except BlockingIOError:
                pass
print("ready", flush=True)
signal.pause()
"""
    process = world.run(program)
    assert len(world.group.pids()) > 25
    world.group.kill()
    assert process.wait(10) == -signal.SIGKILL
    wait_until("every process has ended", lambda: not world.group.populated())
    assert world.group.pids() == []


@every_kind
def test_killing_a_group_that_is_not_there_does_nothing(world: World) -> None:
    world.group.kill()
    assert not world.group.populated()
    assert world.group.pids() == []


# -- its end -------------------------------------------------------------------------------------------


@every_kind
def test_remove_leaves_nothing_and_may_be_repeated(world: World) -> None:
    process = world.run(WAIT)
    inner = [f"{directory}/inner/most" for directory in exists(world.group)]
    for directory in inner:
        os.makedirs(directory)
    process.kill()
    process.wait(5)
    wait_until("it has ended", lambda: not world.group.populated())
    world.group.remove()
    assert exists(world.group) == []
    world.group.remove()


@every_kind
def test_remove_of_a_living_group_names_what_is_left_and_who_lives_there(world: World) -> None:
    process = world.run(WAIT)
    with pytest.raises(KernelError) as caught:
        world.group.remove()
    assert f"cannot remove cgroup {world.group.path}" in str(caught.value)
    assert "EBUSY" in caught.value.cause
    assert f"(processes {process.pid})" in caught.value.cause
    assert all(directory in caught.value.cause for directory in world.group.directories.values())


@limiting_kinds
def test_remove_goes_on_after_a_failure(world: World) -> None:
    world.run(WAIT)
    directories = sorted(set(world.group.directories.values()))
    spared = world.files("memory")
    if len(directories) == 1:
        pytest.skip("v2 has one hierarchy only")
    for directory in directories:
        if directory != spared:  # everywhere else, the process goes back to the level above
            for pid in cgroupfs.processes(directory):
                cgroupfs.write(f"{os.path.dirname(directory)}/cgroup.procs", str(pid))
    with pytest.raises(KernelError, match="memory"):
        world.group.remove()
    assert [path for path in directories if os.path.isdir(path)] == [spared]
    world.running[0].kill()
    world.running[0].wait(5)


@every_kind
def test_a_level_with_something_in_it_is_not_removed(world: World) -> None:
    world.run(WAIT)
    assert not world.above(1).remove_if_empty()
    assert not world.above(3).remove_if_empty()
    assert exists(world.above(1))


@every_kind
def test_counters_of_a_group_that_is_not_there_are_an_error_that_names_it(world: World) -> None:
    with pytest.raises(KernelError, match=f"counters of cgroup {world.group.path}.*ENOENT"):
        world.group.stats()


# -- what it costs -------------------------------------------------------------------------------------


@kinds("v1", "hybrid")
def test_joining_through_tasks_waits_for_no_grace_period(world: World) -> None:
    """The design rests on this: a start must not pay the 4 to 20 ms of a write to cgroup.procs."""
    program = """
import json, os, time
from orchestrator.kernel import operations
begin = time.perf_counter()
operations.perform(json.loads(os.environ["ENTER"]))
print("ready", flush=True)
print(time.perf_counter() - begin, flush=True)
"""
    world.prepare()
    if world.host.kind == "v1":
        operations.perform(world.group.compile_prepare(NONE))
    os.environ["ENTER"] = json.dumps(world.group.compile_enter(Resources(memory=64 * M, pids=50, cpus=1)))
    try:
        times = []
        for _ in range(5):
            process = world.start(program, [])
            assert process.stdout is not None
            times.append(float(process.stdout.readline()))
            process.wait(5)
    finally:
        del os.environ["ENTER"]
    assert min(times) < 0.003
