"""Which devices a container may use, and how each kind of host is told."""

from __future__ import annotations

import pytest

from orchestrator.cgroups import devices
from orchestrator.cgroups.facts import Facts
from orchestrator.cgroups.host import detect
from orchestrator.devices import Node
from orchestrator.kernel.operations import Operation
from orchestrator.runtime import rootfs
from orchestrator.spec import Resources
from support.ebpf import rules_allow

V1 = "".join(f"3 1 0:3 / /c/{name} rw - cgroup cgroup rw,{name}\n" for name in ("cpu", "freezer", "devices"))
NO_DEVICES = V1.replace("devices", "net_cls")
UNIFIED = "4 1 0:4 / /u rw - cgroup2 cgroup2 rw\n"
FACTS = Facts(unified_controllers=frozenset({"memory"}))
RULES = ["c 1:3 rw"]
FUSE = Node(target="/dev/fuse", kind="c", major=10, minor=229, mode=0o600, uid=0, gid=0, permissions="r")


def ruling(mounts: str, facts: Facts = FACTS) -> tuple[list[Operation], list[Operation], list[Operation]]:
    """The operations about devices when a cgroup is prepared, entered and updated."""
    group = detect(mounts, facts).group("o/a/1")
    none = Resources()
    compiled = (
        group.compile_prepare(none, rules=RULES),
        group.compile_enter(none, rules=RULES),
        group.compile_update(none, none, rules=RULES),
    )
    prepare, enter, update = ([op for op in ops if op[0].startswith("device-")] for ops in compiled)
    return prepare, enter, update


@pytest.mark.parametrize("mounts", [V1, V1 + UNIFIED], ids=["v1", "hybrid"])
def test_v1s_controller_rules_where_it_is(mounts: str) -> None:
    operation = ["device-list", "/c/devices/o/a/1", RULES]
    assert ruling(mounts) == ([], [operation], [operation])


@pytest.mark.parametrize("mounts", [UNIFIED, NO_DEVICES + UNIFIED], ids=["v2", "hybrid without devices"])
def test_a_program_rules_where_v1s_controller_is_not(mounts: str) -> None:
    operation = ["device-program", "/u/o/a/1", RULES]
    assert ruling(mounts) == ([operation], [], [operation])


def test_nothing_rules_where_neither_is() -> None:
    assert ruling(NO_DEVICES) == ([], [], [])
    assert ruling(UNIFIED, Facts(device_programs=False)) == ([], [], [])


def test_rules_are_set_before_the_cgroup_is_joined() -> None:
    group = detect(V1, FACTS).group("o/a/1")
    names = [op[1] for op in group.compile_enter(Resources(), rules=RULES)]
    assert names.index("/c/devices/o/a/1") < names.index("/c/devices/o/a/1/tasks")
    assert "/c/devices/o/a/1/tasks" in [op[1] for op in group.compile_join()]


def test_without_rules_devices_are_left_alone() -> None:
    group = detect(V1, FACTS).group("o/a/1")
    operations = group.compile_enter(Resources()) + group.compile_update(Resources(), Resources())
    assert [op for op in operations if op[0].startswith("device-")] == []


def test_every_container_can_make_and_use_what_is_in_its_dev() -> None:
    rules = devices.rules((), (), mknod=False)
    for name, major, minor in rootfs.DEVICES:
        assert rules_allow(rules, "c", major, minor, "rw"), name
        assert rules_allow(rules, "c", major, minor, "m"), name
    assert rules_allow(rules, "c", 5, 2, "rw")
    assert rules_allow(rules, "c", 136, 77, "rw")


@pytest.mark.parametrize(
    ("kind", "major", "minor"),
    [
        ("c", 1, 1),
        ("c", 1, 4),
        ("c", 1, 11),
        ("c", 4, 0),
        ("c", 5, 1),
        ("c", 10, 229),
        ("b", 8, 0),
        ("b", 1, 3),
    ],
)
def test_nothing_else_is_allowed(kind: str, major: int, minor: int) -> None:
    for access in "rwm":
        assert not rules_allow(devices.rules((), (), mknod=False), kind, major, minor, access)


def test_who_holds_mknod_may_make_any_node_and_open_none() -> None:
    rules = devices.rules((), (), mknod=True)
    assert rules_allow(rules, "b", 8, 0, "m")
    assert not rules_allow(rules, "b", 8, 0, "r")
    assert not rules_allow(rules, "c", 1, 1, "w")


def test_given_devices_and_the_manifests_rules_come_on_top() -> None:
    rules = devices.rules([FUSE], ["c 10:229 w", "b 7:* r"], mknod=False)
    assert rules == [*devices.DEFAULT, "c 10:229 rwm", "b 7:* r"]


def test_a_given_device_is_allowed_what_its_permissions_say_and_to_be_made() -> None:
    assert FUSE.rule == "c 10:229 rm"
