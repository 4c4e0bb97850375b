"""The leak check sees each kind of thing that a test could leave behind, names it, and sees it go."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import leaks, sandbox
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns")


@contextlib.contextmanager
def _expect(kind: str, named: str) -> Iterator[None]:
    """The body leaves exactly one thing of ``kind`` behind, and the check names it; the caller cleans up."""
    before = leaks.take()
    yield
    left = leaks.left_since(before, settle=0)
    assert [line for line in left if line.startswith(kind) and named in line], left
    assert len(left) == 1, left


def _assert_clean_since(before: leaks.Inventory) -> None:
    assert leaks.left_since(before) == []


def test_a_process_is_seen() -> None:
    with _expect("process", "sleep 77"):
        child = subprocess.Popen(["sleep", "77"])
    child.kill()
    child.wait()


def test_an_orphan_is_seen() -> None:
    with _expect("process", "sleep 78"):
        shell = subprocess.run(
            ["sh", "-c", "sleep 78 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
        )
    orphan = int(shell.stdout)
    with open(f"/proc/{orphan}/stat") as file:
        assert file.read().split()[3] == "1"  # adopted by the sandbox's init, which will also reap it
    os.kill(orphan, signal.SIGKILL)


def test_a_zombie_is_seen() -> None:
    before = leaks.take()
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    left = leaks.left_since(before, settle=0)
    assert len(left) == 1
    assert left[0].startswith(f"process zombie {child.pid} ")
    child.wait()
    _assert_clean_since(before)


def test_a_descriptor_is_seen() -> None:
    with _expect("descriptor", "/dev/zero"):
        descriptor = os.open("/dev/zero", os.O_RDONLY)
    os.close(descriptor)


def test_a_mount_is_seen(tmp_path: Path) -> None:
    with _expect("mount", f"{tmp_path} (tmpfs"):
        sandbox.mount("tmpfs", str(tmp_path), "tmpfs", 0)
    sandbox.umount(str(tmp_path))


def test_a_network_namespace_is_seen_and_its_asynchronous_end_awaited() -> None:
    before = leaks.take()
    child = subprocess.Popen(["unshare", "--net", "sleep", "79"])
    wait_until(
        "it has moved", lambda: os.readlink(f"/proc/{child.pid}/ns/net") not in before.network_namespace
    )
    left = leaks.left_since(before, settle=0)
    assert [line for line in left if line.startswith("network namespace net:[")], left
    child.kill()
    child.wait()
    _assert_clean_since(before)


@pytest.mark.requires("ip")
def test_an_interface_is_seen() -> None:
    with _expect("interface", "orb-leak"):
        subprocess.run(["ip", "link", "add", "orb-leak", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "del", "orb-leak"], check=True)


def test_a_cgroup_is_seen_in_each_hierarchy() -> None:
    hierarchies = sandbox.cgroup_hierarchies()
    assert hierarchies
    for hierarchy in hierarchies:
        path = f"{hierarchy.point}/orch-leak-{os.getpid()}"
        with _expect("cgroup", path):
            os.mkdir(path)
        os.rmdir(path)


@pytest.mark.requires("nft")
def test_an_nft_table_is_seen() -> None:
    with _expect("nft table", "inet orch_leak"):
        subprocess.run(["nft", "add", "table", "inet", "orch_leak"], check=True)
    subprocess.run(["nft", "delete", "table", "inet", "orch_leak"], check=True)


def test_a_file_is_seen_unless_it_may_stay(tmp_path: Path) -> None:
    (tmp_path / "volumes/data").mkdir(parents=True)
    (tmp_path / "volumes/data/kept").touch()
    (tmp_path / "volumes-not").touch()
    (tmp_path / "orch.sock").touch()
    assert leaks.files_left(str(tmp_path), allowed=("volumes",)) == [
        f"file {tmp_path}/orch.sock",
        f"file {tmp_path}/volumes-not",
    ]


LEAKY = """
import subprocess
from support import leaks
from support.plugin import inside_the_sandbox, leaves_nothing_behind

leaks.SETTLE_SECONDS = 0.1

def test_that_leaks():
    subprocess.run("sleep 80 >/dev/null 2>&1 &", shell=True, check=True)

def test_that_does_not():
    subprocess.run(["true"], check=True)
"""


def test_a_leaking_test_fails_and_its_orphan_dies_with_the_run(tmp_path: Path) -> None:
    """The whole way: pytest within this pytest, in a sandbox within this sandbox."""
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    support = str(Path(__file__).parents[1])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:anyio",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": support}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 passed, 1 error" in done.stdout  # the check is part of the leaking test's teardown
    assert "sleep 80" in done.stdout
