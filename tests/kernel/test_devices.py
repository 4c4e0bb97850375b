"""Device rules against the kernel: processes that open and make nodes in a cgroup, the same on every kind of host.

The devices are of numbers that no driver has, so that nothing is ever opened: EPERM is the rules' refusal, ENXIO the
answer of a kernel that would have gone on. Each test has a twin within: the same process without rules.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import devices
from orchestrator.cgroups.facts import Facts
from orchestrator.cgroups.group import Cgroup
from orchestrator.cgroups.host import detect
from orchestrator.kernel.operations import Operation
from orchestrator.spec import Device, Resources
from support.ebpf import program_allows, rules_allow
from support.waiting import wait_until

ROOT = str(Path(__file__).parents[2])
MAJOR, MINOR = 4093, 7  # beyond what the kernel gives to drivers (CHRDEV_MAJOR_DYN_EXT_END, linux/fs.h)
NONE = Resources()
REFUSED, ALLOWED = "EPERM", "ENXIO"
KINDS = {
    "v1": ("cgroup-v1", "cgroup-v1-devices"),
    "hybrid": ("cgroup-v1", "cgroup-v1-devices", "cgroup-unified-core"),
    "v2": ("cgroup-v2",),
    "v2-core": ("cgroup-unified-core",),
}
pytestmark = pytest.mark.requires("root")


def kinds(*names: str, second_host: bool = False) -> pytest.MarkDecorator:
    """Run the test once for each kind of host; ``second_host``: also on that, which is v2 throughout."""
    params = []
    for name in names:
        also = [pytest.mark.vm] if second_host and name == "v2" else []
        params.append(pytest.param(name, marks=[pytest.mark.requires(*KINDS[name]), *also]))
    return pytest.mark.parametrize("kind", params)


every_kind = kinds(*KINDS)
every_kind_and_the_second_host = kinds(*KINDS, second_host=True)

# Performs operations, opens and makes nodes as it is told, one JSON line for each, and answers with the errno.
PROBE = """
import errno, json, os, sys
sys.path.insert(0, sys.argv[1])
from orchestrator.kernel import operations
def make(path, mode, device):
    os.mknod(path, mode, device)
    os.unlink(path)
actions = {
    "perform": operations.perform,
    "open": lambda path, flags: os.close(os.open(path, flags)),
    "mknod": make,
    "descriptors": lambda: len([fd for fd in os.listdir("/proc/self/fd")]),
}
for line in sys.stdin:
    action, *arguments = json.loads(line)
    try:
        answer = actions[action](*arguments)
    except OSError as error:
        answer = errno.errorcode[error.errno] + (f" {error.filename}" if action == "perform" else "")
    print(json.dumps(answer), flush=True)
"""


class Probe:
    """A process that does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROBE, ROOT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, *words: object) -> object:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def perform(self, operations: list[Operation]) -> None:
        assert self.ask("perform", operations) is None

    def open(self, path: str, access: str) -> object:
        """``access`` is r, w or rw."""
        return self.ask("open", path, {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}[access])

    def mknod(self, folder: Path, kind: str = "c", major: int = MAJOR, minor: int = MINOR) -> object:
        mode = 0o020600 if kind == "c" else 0o060600
        return self.ask("mknod", str(folder / "made"), mode, os.makedev(major, minor))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class World:
    """A cgroup, and processes in and outside of it."""

    def __init__(self, kind: str) -> None:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        unwanted = {"v1": " - cgroup2 ", "v2": " - cgroup ", "v2-core": " - cgroup "}.get(kind)
        text = "\n".join(line for line in lines if unwanted is None or unwanted not in line)
        self.host = detect(text, Facts() if kind == "v2-core" else None)
        self.version = 1 if kind in ("v1", "hybrid") else 2
        self.group: Cgroup = self.host.group(f"orch-test-{secrets.token_hex(4)}/a/1")
        self.probes: list[Probe] = []
        self.outside = self.probe()
        self.outside.perform(self.group.compile_parents())

    def probe(self) -> Probe:
        self.probes.append(Probe())
        return self.probes[-1]

    def start(self, rules: list[str] | None) -> Probe:
        """A process in the cgroup, which is made or made so; all that a launch does for it."""
        self.outside.perform(self.group.compile_prepare(NONE, rules=rules))
        inside = self.probe()
        if unified := self.group.clone_into:
            inside.perform([["write", f"{unified}/cgroup.procs", "0"]])
        inside.perform(self.group.compile_enter(NONE, rules=rules))
        return inside

    def update(self, rules: list[str]) -> None:
        """What the service does while the container runs."""
        self.outside.perform(self.group.compile_update(NONE, NONE, rules=rules))

    def stop(self, probe: Probe) -> None:
        probe.close()
        wait_until("the cgroup is empty", lambda: not self.group.populated())

    @property
    def directory(self) -> str:
        """Where the rules are."""
        return self.group.directories["devices" if self.version == 1 else "unified"]


@pytest.fixture
def world(kind: str) -> Iterator[World]:
    world = World(kind)
    assert world.host.hierarchies.device_rules == world.version
    try:
        yield world
    finally:
        for probe in world.probes:
            probe.close()
        wait_until("the cgroup is empty", lambda: not world.group.populated())
        world.group.remove()
        for levels in (1, 2):
            assert world.host.group(world.group.path.rsplit("/", levels)[0]).remove_if_empty()


@pytest.fixture
def node(tmp_path: Path) -> str:
    return make_node(tmp_path / "node")


def make_node(path: Path, kind: str = "c", major: int = MAJOR, minor: int = MINOR) -> str:
    os.mknod(path, 0o020600 if kind == "c" else 0o060600, os.makedev(major, minor))
    return str(path)


def opened(probe: Probe, path: str) -> dict[str, object]:
    return {access: probe.open(path, access) for access in ("r", "w", "rw")}


@every_kind_and_the_second_host
def test_without_rules_all_is_allowed(world: World, node: str, tmp_path: Path) -> None:
    """The twin of all that follows: it is the rules that refuse."""
    inside = world.start(None)
    assert set(opened(inside, node).values()) == {ALLOWED}
    assert inside.mknod(tmp_path) is None


@every_kind_and_the_second_host
def test_what_no_rule_allows_is_refused(world: World, node: str, tmp_path: Path) -> None:
    inside = world.start(["c 1:3 rwm"])
    assert set(opened(inside, node).values()) == {REFUSED}
    assert inside.mknod(tmp_path) == REFUSED
    assert set(opened(inside, "/dev/null").values()) == {None}
    assert inside.mknod(tmp_path, "c", 1, 3) is None
    assert set(opened(world.outside, node).values()) == {ALLOWED}


@every_kind
@pytest.mark.parametrize("access", ["r", "w", "m", "rw", "rm"])
def test_no_more_than_a_rule_says_is_allowed(world: World, node: str, tmp_path: Path, access: str) -> None:
    inside = world.start([f"c {MAJOR}:{MINOR} {access}"])
    expected = {each: ALLOWED if set(each) <= set(access) else REFUSED for each in ("r", "w", "rw")}
    assert opened(inside, node) == expected
    assert inside.mknod(tmp_path) == (None if "m" in access else REFUSED)
    assert inside.mknod(tmp_path, "b") == REFUSED
    assert inside.mknod(tmp_path, "c", MAJOR, MINOR + 1) == REFUSED


@every_kind
def test_further_processes_that_join_are_bound_as_well(world: World, node: str) -> None:
    inside = world.start(["c 1:3 rwm", "c 1:9 r"])
    second = world.probe()
    assert second.open(node, "r") == ALLOWED
    if unified := world.group.clone_into:
        second.perform([["write", f"{unified}/cgroup.procs", "0"]])
    second.perform(world.group.compile_join())
    assert second.open(node, "r") == REFUSED
    assert inside.open(node, "r") == REFUSED


@every_kind_and_the_second_host
def test_rules_change_under_a_running_process(world: World, node: str) -> None:
    rule = f"c {MAJOR}:{MINOR}"
    inside = world.start(["c 1:3 rwm", f"{rule} r"])
    assert opened(inside, node) == {"r": ALLOWED, "w": REFUSED, "rw": REFUSED}
    world.update(["c 1:3 rwm", f"{rule} rw"])
    assert set(opened(inside, node).values()) == {ALLOWED}
    world.update(["c 1:3 r"])
    assert set(opened(inside, node).values()) == {REFUSED}
    assert opened(inside, "/dev/null") == {"r": None, "w": REFUSED, "rw": REFUSED}


@every_kind_and_the_second_host
def test_a_next_start_in_the_same_cgroup_has_its_own_rules(world: World, node: str, tmp_path: Path) -> None:
    allowing = ["c 1:3 rwm", f"c {MAJOR}:{MINOR} rwm"]
    for rules in (["c 1:3 rwm"], ["c 1:3 rwm"], allowing, allowing, ["c 1:3 rwm"]):
        inside = world.start(rules)
        assert inside.open(node, "rw") == (ALLOWED if rules is allowing else REFUSED)
        assert inside.mknod(tmp_path) == (None if rules is allowing else REFUSED)
        world.stop(inside)


@every_kind
def test_cgroups_that_were_left_within_do_not_hold_up_the_next_start(world: World, node: str) -> None:
    world.stop(world.start([f"c {MAJOR}:{MINOR} r"]))
    left = f"{world.directory}/left"
    world.outside.perform([["mkdir", left, 0o755]])
    inside = world.start(["c 1:3 rwm", f"c {MAJOR}:{MINOR} w"])
    assert opened(inside, node) == {"r": REFUSED, "w": ALLOWED, "rw": REFUSED}


@every_kind
def test_the_kernel_judges_as_the_interpreter_does(world: World, tmp_path: Path) -> None:
    """Sets of rules at random: the kernel's controller or program, our reading of v1's, and the interpreter agree."""
    choose = random.Random(3)
    numbers = [(kind, MAJOR, minor) for kind in "bc" for minor in (1, 2)]
    paths = {number: make_node(tmp_path / "".join(map(str, number)), *number) for number in numbers}
    inside = world.start([])
    for _ in range(15):
        rules = [
            f"{choose.choice('bc')} {choose.choice(('*', MAJOR, 5))}:{choose.choice(('*', 1, 2))} "
            + "".join(sorted(choose.sample("mrw", choose.randint(1, 3))))
            for _ in range(choose.randint(0, 5))
        ]
        world.update(rules)
        for number, access in itertools.product(numbers, ("r", "w", "rw", "m")):
            if access == "m":
                allowed = inside.mknod(tmp_path, *number) is None
            else:
                allowed = inside.open(paths[number], access) != REFUSED
            assert allowed == rules_allow(rules, *number, access), (rules, number, access)
            assert allowed == program_allows(rules, *number, access), (rules, number, access)


@every_kind
def test_more_rules_than_anybody_has(world: World, node: str) -> None:
    """A folder of 1000 devices: the jumps of the program still reach, and the kernel takes it."""
    rules = [f"c {MAJOR}:{minor} r" for minor in range(100, 1100)]
    inside = world.start([*rules, f"c {MAJOR}:{MINOR} rw"])
    assert inside.open(node, "rw") == ALLOWED
    world.update(rules)
    assert inside.open(node, "r") == REFUSED


# -- v1 ------------------------------------------------------------------------------------------------


@kinds("v1")
def test_a_rule_that_the_cgroup_above_forbids_is_refused_and_named(world: World) -> None:
    above = os.path.dirname(world.directory)
    world.outside.perform([["device-list", above, ["c 1:3 rwm", "c 1:5 r"]]])
    world.outside.perform(world.group.compile_enter(NONE, rules=["c 1:3 rw"])[:-1])
    operation = ["device-list", world.directory, ["c 1:3 r", "c 1:7 r"]]
    refused = world.outside.ask("perform", [operation])
    assert refused == f"EPERM {world.directory}/devices.allow: c 1:7 r"


# -- v2 ------------------------------------------------------------------------------------------------

v2_kinds = kinds("v2", "v2-core")

# Attaches a program of somebody else's that allows nothing but a device, then says how many there are.
FOREIGN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from orchestrator.kernel import bpf, devices
cgroup = os.open(sys.argv[2], os.O_RDONLY)
if len(sys.argv) > 3:
    program = bpf.load(bpf.CGROUP_DEVICE, "somebody_elses", devices.compile_program(sys.argv[3:]))
    bpf.put_in_force(bpf.CGROUP_DEVICE, "somebody_elses", cgroup, program)
print(len(bpf._attached(bpf.CGROUP_DEVICE, cgroup)))
"""


def attached(directory: str, *rules: str) -> int:
    command = [sys.executable, "-I", "-S", "-c", FOREIGN, ROOT, directory, *rules]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@v2_kinds
def test_one_program_of_ours_is_attached_however_often_rules_are_set(world: World) -> None:
    world.start(["c 1:3 rwm"])
    for rules in (["c 1:3 rwm"], ["c 1:5 r"], ["c 1:3 rwm"]):
        world.update(rules)
        assert attached(world.directory) == 1


@v2_kinds
def test_somebody_elses_program_is_left_alone_and_both_must_agree(world: World, node: str) -> None:
    inside = world.start(["c 1:3 rwm", "c 1:5 r"])
    assert attached(world.directory, "c 1:3 rwm", f"c {MAJOR}:{MINOR} rw") == 2
    world.update(["c 1:3 rwm", "c 1:7 r"])
    assert attached(world.directory) == 2
    assert inside.open("/dev/null", "rw") is None
    assert inside.open("/dev/full", "r") == REFUSED
    assert inside.open(node, "r") == REFUSED


@v2_kinds
def test_programs_are_loaded_once_and_not_kept_for_ever(world: World) -> None:
    before = world.outside.ask("descriptors")
    for _ in range(3):
        world.outside.perform(world.group.compile_prepare(NONE, rules=["c 1:3 r"]))
    assert world.outside.ask("descriptors") == before + 1  # type: ignore[operator]
    for minor in range(70):
        world.outside.perform(world.group.compile_prepare(NONE, rules=[f"c 1:{minor} w"]))
    assert world.outside.ask("descriptors") == before + 64  # type: ignore[operator]


# -- nodes of the host -----------------------------------------------------------------------------------


def test_a_folder_stands_for_the_devices_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DEV", str(tmp_path))
    (tmp_path / "dri/by-path").mkdir(parents=True)
    make_node(tmp_path / "dri/card0")
    make_node(tmp_path / "dri/by-path/disk", "b", 8, 1)
    (tmp_path / "dri/by-path/link").symlink_to("/dev/null")
    (tmp_path / "dri/file").touch()
    os.chmod(tmp_path / "dri/card0", 0o4640)
    os.chown(tmp_path / "dri/card0", 7, 44)
    found = devices.find(Device(source=f"{tmp_path}/dri", target="/dev/gpu", permissions="rw"))
    assert [(node.target, node.number, node.rule) for node in found] == [
        ("/dev/gpu/card0", f"c {MAJOR}:{MINOR}", f"c {MAJOR}:{MINOR} rwm"),
        ("/dev/gpu/by-path/disk", "b 8:1", "b 8:1 rwm"),
    ]
    assert (found[0].mode, found[0].uid, found[0].gid) == (0o640, 7, 44)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is a folder without devices"):
        devices.find(Device(source=f"{tmp_path}/empty", target="/x"))


def test_a_link_to_a_device_is_followed(tmp_path: Path) -> None:
    make_node(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (found,) = devices.find(Device(source=f"{tmp_path}/link", target="/dev/x", permissions="r"))
    assert (found.target, found.rule) == ("/dev/x", f"c {MAJOR}:{MINOR} rm")


def test_what_a_probe_says_is_what_the_kernel_says(node: str) -> None:
    with pytest.raises(OSError) as error:
        os.open(node, os.O_RDONLY)
    assert errno.errorcode[error.value.errno or 0] == ALLOWED
