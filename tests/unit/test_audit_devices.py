"""What an audit finds about devices of the host."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from orchestrator.audit import devices
from orchestrator.audit.host import look
from orchestrator.audit.subject import HostPaths
from orchestrator.devices import Node
from orchestrator.spec import Device, Mount, UserNamespace
from support.audits import found, planned, service

HOST_IDS = UserNamespace(mode="host")


def node(kind: Literal["b", "c"], major: int, minor: int, permissions: str = "rwm") -> Node:
    return Node(f"/dev/x{minor}", kind, major, minor, 0o660, 0, 0, permissions)


@pytest.mark.parametrize(
    ("nodes", "severity", "numbers"),
    [
        ((node("b", 8, 0),), "critical", "b 8:0"),
        ((node("b", 8, 0, "r"),), "high", "b 8:0"),
        ((node("c", 1, 1, "r"),), "critical", "c 1:1"),
        ((node("c", 10, 229),), "low", "c 10:229"),
        ((node("c", 13, 64),), "high", "c 13:64"),
        ((node("c", 240, 7),), "medium", "c 240:7"),
        (tuple(node("c", 226, minor) for minor in range(5)), "low", "c 226:0, c 226:1, c 226:2, ..."),
        ((node("c", 226, 0), node("b", 8, 0, "r")), "high", "c 226:0, b 8:0"),
    ],
)
def test_a_device_is_as_bad_as_what_it_is(nodes: tuple[Node, ...], severity: str, numbers: str) -> None:
    subject = planned(HostPaths(nodes={"/dev/x": nodes}), devices=(Device(source="/dev/x", target="/dev/x"),))
    what = f"it has /dev/x of the host ({numbers})"
    assert found(devices.host_devices, subject) == [(severity, "devices", what)]


def test_a_device_that_is_not_there() -> None:
    subject = planned(devices=(Device(source="/dev/x", target="/dev/x"),))
    assert found(devices.host_devices, subject) == [("medium", "devices", "it has /dev/x of the host")]


def test_the_host_is_asked_what_a_device_is() -> None:
    wanted = (
        Device(source="/dev/null", target="/dev/n", permissions="r"),
        Device(source="/no", target="/no"),
    )
    nodes = look(service(devices=wanted)).nodes
    assert [each.number for each in nodes["/dev/null"]] == ["c 1:3"]
    assert nodes["/no"] == ()


@pytest.mark.parametrize(
    ("rule", "severity"),
    [("a *:* rwm", "critical"), ("b 8:* r", "high"), ("b 8:0 rw", "critical"), ("c *:* r", "critical"),
     ("c 1:* r", "critical"), ("c 116:* rw", "low"), ("c 188:* rw", "medium"), ("c 189:3 rw", "high")],
)  # fmt: skip
@pytest.mark.parametrize(
    "way",
    [
        {"cap_add": ("MKNOD",), "userns": HOST_IDS},
        {"mounts": (Mount(type="bind", source="/dev", target="/d"),)},
    ],
)
def test_a_rule_is_as_bad_as_what_it_covers(rule: str, severity: str, way: dict[str, Any]) -> None:
    seen = found(devices.device_rules, planned(device_cgroup_rules=(rule,), **way))
    assert seen == [(severity, "device_cgroup_rules", f'its programs may use devices by the rule "{rule}"')]


@pytest.mark.parametrize("keys", [{}, {"cap_add": ("MKNOD",)}, {"userns": HOST_IDS}])
def test_a_rule_without_a_node_is_of_little_use(keys: dict[str, Any]) -> None:
    ((severity, _, _),) = found(devices.device_rules, planned(device_cgroup_rules=("b 8:0 rwm",), **keys))
    assert severity == "low"
