"""Rules about the host's devices. Numbers are those of the kernel's list (Documentation/admin-guide/devices.txt)."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.audit.subject import Subject, finding
from orchestrator.devices import Node
from orchestrator.spec import Device
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity

#: Character devices: (major, minor; None for all) -> how bad, and why.
CHARACTER: dict[tuple[int, int | None], tuple[Severity, str]] = {
    (1, 1): (CRITICAL, "it is the memory of the whole host"),
    (1, 2): (CRITICAL, "it is the memory of the kernel"),
    (1, 4): (CRITICAL, "it is the host's hardware, through its I/O ports"),
    (1, 11): (MEDIUM, "the kernel's log tells its addresses, and can be written to"),
    (4, None): (MEDIUM, "the host's terminals show what is typed and shown on them"),
    (5, 1): (MEDIUM, "the host's console shows what is typed and shown on it"),
    (10, 200): (LOW, "it makes network interfaces, with NET_ADMIN only"),
    (10, 229): (LOW, "it reaches the kernel's code for file systems in programs"),
    (10, 232): (LOW, "it reaches the kernel's code for virtual machines"),
    (10, 236): (HIGH, "the device mapper changes the host's disks"),
    (10, 237): (HIGH, "it makes block devices of files, for the whole host"),
    (13, None): (HIGH, "keyboards and mice tell what is typed at the host, passwords included"),
    (21, None): (CRITICAL, "commands go to the host's disks past every file system and permission"),
    (116, None): (LOW, "microphones hear what is said at the host"),
    (189, None): (HIGH, "USB devices are disks, keyboards and tokens of the host as well"),
    (202, None): (CRITICAL, "the processors' registers lead into the kernel"),
    (226, None): (
        LOW,
        "it reaches the kernel's code for graphics, and the screen where it is not a render node",
    ),
}
_DISK = "it is read and written past every file system and permission: all files of the host that are on it"
_UNKNOWN = "what the driver does for whoever opens it, it does for the container"
_SHOWN = 3


def host_devices(subject: Subject) -> Iterator[FindingView]:
    """``devices``."""
    for device in subject.spec.devices:
        yield _host_device(subject, device)


def _host_device(subject: Subject, device: Device) -> FindingView:
    nodes = subject.host.nodes.get(device.source, ())
    severity, why = min(
        (judge(node.kind, node.major, node.minor, node.permissions) for node in nodes),
        default=(MEDIUM, f"it is not there, so nobody knows what it will be; {_UNKNOWN}"),
        key=lambda judged: list(Severity).index(judged[0]),
    )
    numbers = ", ".join(node.number for node in nodes[:_SHOWN]) + (", ..." if len(nodes) > _SHOWN else "")
    what = f"it has {device.source} of the host" + (f" ({numbers})" if numbers else "")
    return finding(severity, "devices", what, why, _less(nodes))


def _less(nodes: tuple[Node, ...]) -> str:
    if any(node.kind == "b" for node in nodes):
        return "mount what it needs of the disk's files with volumes"
    return "leave it out, or give no more than it needs (:r reads only)"


def judge(kind: str, major: int, minor: int, permissions: str) -> tuple[Severity, str]:
    """How bad it is to have a device, and why."""
    if kind == "b":
        return (CRITICAL if "w" in permissions else HIGH), _DISK
    return CHARACTER.get((major, minor)) or CHARACTER.get((major, None)) or (MEDIUM, _UNKNOWN)


def device_rules(subject: Subject) -> Iterator[FindingView]:
    """``device_cgroup_rules``: leave to use what no node in the container's /dev leads to."""
    for rule in subject.spec.device_cgroup_rules:
        severity, why = _judge_rule(rule)
        if not _makes_nodes(subject):
            severity, why = LOW, f"{why}; it has no node for it as yet, and cannot make one"
        yield finding(
            severity, "device_cgroup_rules", f'its programs may use devices by the rule "{rule}"', why,
            "name the devices that it needs in devices instead",
        )  # fmt: skip


def _judge_rule(rule: str) -> tuple[Severity, str]:
    kind, number, permissions = rule.split()
    major, minor = number.split(":")
    if kind == "a" or major == "*":
        return (
            CRITICAL,
            "it covers every device of the host" if kind == "a" else f"it covers every {kind} device",
        )
    if kind == "c" and minor == "*":
        found = [judged for (known, _), judged in CHARACTER.items() if known == int(major)]
        return min(found, default=(MEDIUM, _UNKNOWN), key=lambda judged: list(Severity).index(judged[0]))
    return judge(kind, int(major), -1 if minor == "*" else int(minor), permissions)


def _makes_nodes(subject: Subject) -> bool:
    """Whether a node for any device can come into it: made by itself, or with a folder of the host's nodes."""
    makes = "MKNOD" in subject.capabilities and not subject.own_ids
    return makes or any(
        mount.type == "bind" and subject.real(mount.source) in ("/", "/dev") for mount in subject.spec.mounts
    )
