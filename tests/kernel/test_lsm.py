"""Labels of folders and pipes, keyrings, and the file by which a process is confined."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.lsm import relabel
from orchestrator.runtime.handle import SpawnerHandle
from orchestrator.runtime.program import Program
from orchestrator.runtime.spawner import _labelled_pipe

pytestmark = pytest.mark.requires("root")

#: Any text where SELinux is off, and a context of every policy for containers where it is on.
LABEL = "system_u:object_r:container_file_t:s0"
LABEL_OF_OTHERS = "system_u:object_r:tmp_t:s0"
#: Prints the number of the session keyring, if it can be read (keyctl(2)).
SESSION_KEYRING = """
import ctypes, os
def keyctl(*words):
    return ctypes.CDLL(None).syscall(250 if os.uname().machine == "x86_64" else 219, *words)
KEYCTL_GET_KEYRING_ID, KEYCTL_READ, KEY_SPEC_SESSION_KEYRING = 0, 11, -3
number = keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
assert keyctl(KEYCTL_READ, number, None, 0) >= 0
print(number)
"""


def label_of(path: Path) -> str:
    if "security.selinux" not in os.listxattr(path, follow_symlinks=False):
        return ""
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


def test_a_folder_is_labelled_with_all_in_it_and_nothing_that_links_lead_to(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "a/b").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").touch()
    for path in (tree / "file", tree / "a/b/deep"):
        path.touch()
    (tree / "to-file").symlink_to(outside / "file")
    (tree / "to-folder").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    untouched = [label_of(path) for path in (outside, outside / "file")]
    assert relabel.label(str(tree), LABEL) == 8
    assert {label_of(path) for path in (tree, *tree.rglob("*"))} == {LABEL}
    assert [label_of(path) for path in (outside, outside / "file")] == untouched
    assert LABEL not in untouched
    assert relabel.label(str(tree), LABEL) == 0  # they have it
    os.setxattr(tree / "a/b/deep", "security.selinux", LABEL_OF_OTHERS.encode() + b"\0")
    assert relabel.label(str(tree), LABEL) == 1


def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    before = label_of(tmp_path / "target")
    (tmp_path / "link").symlink_to("target")
    assert relabel.label(str(tmp_path / "link"), LABEL) == 1
    assert (label_of(tmp_path / "link"), label_of(tmp_path / "target")) == (LABEL, before)


def test_folders_without_end_are_refused_and_not_descended_into_for_ever(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(relabel.MAX_DEPTH + 2):  # as a container may make them: no path of the host is that long
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="nested more than 128 deep") as caught:
        relabel.label(str(tmp_path), LABEL)
    assert str(caught.value.filename).startswith(f"{tmp_path}/d/d/d")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_pipe_with_a_label_is_a_pipe_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / f"pipe-{os.getpid()}").touch()  # what a spawner left that was killed in between
    reader, writer = _labelled_pipe(str(tmp_path), LABEL)
    try:
        assert list(tmp_path.iterdir()) == []
        assert os.getxattr(writer, "security.selinux") == LABEL.encode() + b"\0"
        assert os.get_blocking(reader)
        assert not os.get_inheritable(writer)
        os.write(writer, b"said")
        assert os.read(reader, 9) == b"said"
        again = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY)  # as programs open /dev/stdout
        os.close(again)
    finally:
        os.close(writer)
    assert os.read(reader, 9) == b""
    os.close(reader)


@pytest.mark.parametrize(
    "trick",
    [
        "mount('', '/proc', 'tmpfs')",
        "mount('/proc/1', '/proc', '', MS_BIND)",  # the kernel's, but not the root
        "open('/tmp/x', 'w').close(); mount('/tmp/x', '/proc/thread-self/attr/exec', '', MS_BIND)",
        "mount('/proc/1/attr', '/proc/thread-self/attr', '', MS_BIND)",
    ],
)
def test_a_label_is_written_to_the_kernel_or_not_at_all(trick: str) -> None:
    script = f"""
import errno
from orchestrator.kernel.procattr import set_attribute
from orchestrator.kernel.syscalls import *
unshare(CLONE_NEWNS)
mount("", "/", "", MS_REC | MS_PRIVATE)
mount("", "/tmp", "tmpfs")
try:
    {trick}
except PermissionError:  # SELinux forbids the trick itself
    print("EXDEV")
    raise SystemExit(0)
try:
    set_attribute("exec", "x")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "EXDEV\n"


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


async def test_a_container_has_a_session_keyring_of_its_own_and_may_use_it() -> None:
    async def session(*operations: list[object]) -> int:
        command = [sys.executable, "-I", "-c", SESSION_KEYRING]
        program = Program(0, None, [], [*operations, ["exec", command]], ["stdout", "stderr"])
        process = spawner.launch(program)
        await process.started()
        output, errors = [
            await asyncio.to_thread(_read_all, process.take(name)) for name in ("stdout", "stderr")
        ]
        await process.exited()
        process.close()
        assert not errors
        return int(output)

    keyring: list[object] = ["keyring", ""]
    ids = "0 1000000 65536\n"
    root_of_a_user_namespace: list[list[object]] = [
        ["namespaces", [], [ids, ids], "", False], ["enter-user-namespace", False],
    ]  # fmt: skip
    spawner = await SpawnerHandle.start()
    try:
        inherited = await session()
        assert inherited == await session()
        own = {await session(keyring) for _ in range(3)}
        own.add(await session(keyring, *root_of_a_user_namespace))
        assert len(own) == 4
        assert inherited not in own
    finally:
        await spawner.close()
