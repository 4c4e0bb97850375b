"""What failed operations become: a sentence with the object, the errno and the remedy."""

from __future__ import annotations

import errno
import os

import pytest

from orchestrator.kernel.operations import Operation
from orchestrator.launch.explain import explain
from orchestrator.runtime.handle import ProgramFailed


def explained(operation: Operation, number: int, path: str | None = None) -> str:
    error = {"errno": number, "text": os.strerror(number), "path": path, "status": 125}
    return str(explain('cannot start "web"', "host", ProgramFailed(operation, error)))


def test_a_rule_that_the_cgroup_above_forbids_is_named() -> None:
    operation = ["device-list", "/cg", ["c 1:3 rwm", "c 10:229 rw"]]
    text = explained(operation, errno.EPERM, "/cg/devices.allow: c 10:229 rw")
    assert text == (
        'cannot start "web": write /cg/devices.allow: c 10:229 rw: EPERM: Operation not permitted '
        "(the cgroup that orch runs in does not allow it either, as its devices.list shows)"
    )


@pytest.mark.parametrize(
    ("operation", "remedy"),
    [
        (["device-program", "/cg", ["c 1:3 r"]], "CAP_BPF"),
        (["nodes", [["node0", "c", 1, 3, 0, 0, 0]]], "CAP_MKNOD"),
    ],
)
def test_a_lacking_capability_is_named(operation: Operation, remedy: str) -> None:
    assert remedy in explained(operation, errno.EPERM)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "(the AppArmor profile is not loaded: apparmor_parser -r FILE)"),
        (errno.EINVAL, "(the policy does not know this label)"),
        (errno.EACCES, "see ausearch -m avc"),
        (errno.EXDEV, "(a volume is mounted on /proc, where the label must be written; mount it elsewhere)"),
    ],
)
def test_a_label_that_is_refused_says_by_whom(number: int, remedy: str) -> None:
    text = explained(["confine", "u:r:t:s0", "p"], number)
    assert "confine the program to SELinux label u:r:t:s0 and AppArmor profile p" in text
    assert remedy in text
