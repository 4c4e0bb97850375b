"""How a container could become another user than it was made to be, or gain groups and capabilities."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import inside
from support.attack import HOST_USERS, UNCONFINED, Target, capabilities, joined
from support.tampered_service import GROUP

pytestmark = pytest.mark.requires("root", "netns", "overlay")

NEW_PRIVILEGES = "no_new_privileges = false"
NOBODY = "65534:65534"
#: What keeps a container in the service's groups: nothing changes them.
PRIVILEGES = ["drop", ["privileges"]]


def groups() -> list[int]:
    return sorted(os.getgroups())


def test_groups_of_the_service_are_not_inherited(target: Target) -> None:
    """CVE-2022-2995 and the like: supplementary groups that a runtime forgot (setgroups(2))."""
    assert GROUP not in target.both(groups)
    assert target.start(groups, user=NOBODY) == [65534]
    assert target.exec(groups, user=NOBODY) == [65534]
    assert GROUP in target.start(groups, options=HOST_USERS, tamper=[PRIVILEGES])


def join_group(number: int, path: str) -> list[str]:
    """Become a member of a group, and read what only it may read."""
    words = [inside.attempt(os.setgroups, [number])]
    try:
        words.append(inside.read(path))
    except OSError as error:
        words.append(inside.name(error))
    return words


@pytest.fixture
def for_a_group(target: Target) -> Iterator[str]:
    """A line that mounts a folder of the host with a file ``file`` that only :data:`GROUP` may read."""
    folder = Path(target.orch.work, "group")
    folder.mkdir()
    (folder / "file").write_text("of the group")
    os.chown(folder / "file", 4711, GROUP)
    (folder / "file").chmod(0o040)
    yield f"volumes = ['{folder}:/data']"
    shutil.rmtree(folder)


def test_nobody_joins_a_group(target: Target, for_a_group: str) -> None:
    """setgroups(2): CAP_SETGID, and a group that the user namespace has."""
    refused = ["EPERM", "EACCES"]
    setgid = capabilities("SETGID")
    attack = (join_group, GROUP, "/data/file")
    assert target.start(*attack, options=for_a_group, user=NOBODY) == refused
    assert target.start(*attack, options=joined(for_a_group, HOST_USERS), user=NOBODY) == refused
    assert target.start(*attack, options=joined(for_a_group, setgid), user=NOBODY) == ["EINVAL", "EACCES"]
    everything = joined(for_a_group, setgid, HOST_USERS)
    assert target.start(*attack, options=everything, user=NOBODY) == [inside.DONE, "of the group"]


def become_host_root() -> list[int]:
    """Every user id that this process can take."""
    found = []
    for number in (0, 1, 65535, 65536, 1_000_000):
        word = inside.run_in_child(lambda number=number: inside.attempt(os.setresuid, number, number, number))  # type: ignore[misc]
        if word == inside.DONE:
            found.append(number)
    return found


def test_root_of_the_container_has_its_own_users_only(target: Target) -> None:
    """user_namespaces(7), uid_map: ids beyond the container's range cannot be taken."""
    assert target.both(become_host_root) == [0, 1, 65535]
    assert target.start(become_host_root, user=NOBODY) == []
    assert target.start(become_host_root, options=HOST_USERS) == [0, 1, 65535, 65536, 1_000_000]


def owner_of(path: str) -> list[int]:
    os.chmod(path, 0o666)
    info = os.stat(path)
    return [info.st_uid, info.st_mode & 0o777]


def test_files_of_the_hosts_root_are_not_the_containers(target: Target) -> None:
    """What the host's root alone owns is nobody's in the container: /etc/hosts, a file of the run folder."""
    with pytest.raises(AssertionError, match="Operation not permitted"):
        target.start(owner_of, "/etc/hosts")
    assert target.start(owner_of, "/etc/hosts", options=HOST_USERS) == [0, 0o666]


def run_setuid(path: str) -> str:
    return os.popen(f"{path} -u").read().strip()


@pytest.fixture
def planted(target: Target) -> Iterator[Path]:
    """A hostile image, or volume: in it is ``id``, which is setuid root, and ``grep``, which has CAP_CHOWN."""
    folder = Path(target.orch.work, "setuid")
    folder.mkdir()
    for name in ("usr", "bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (folder / name).symlink_to(os.readlink(f"/{name}"))
        else:
            (folder / name).mkdir()
    for name in ("id", "grep"):
        shutil.copy(f"/usr/bin/{name}", folder / name)
    (folder / "id").chmod(0o4755)
    chown, effective, revision = 1, 1, 0x02000000  # VFS_CAP_REVISION_2, linux/capability.h
    value = struct.pack("<5I", revision | effective, chown, 0, 0, 0)
    os.setxattr(folder / "grep", "security.capability", value)
    yield folder
    shutil.rmtree(folder)


def test_setuid_programs_give_nothing(target: Target, planted: Path) -> None:
    """prctl(2), PR_SET_NO_NEW_PRIVS; and mount(2), MS_NOSUID, on whatever is mounted."""
    volume = f"volumes = ['{planted}:/data']"
    suid = ["mount", "", "/data", inside.MS_REMOUNT | inside.MS_BIND, ""]
    setuid_on = [["before", ["stage", "rootfs"], suid]]
    both_off = joined(volume, NEW_PRIVILEGES)
    attack = (run_setuid, "/data/id")
    assert target.start(*attack, options=volume, user=NOBODY) == "65534"
    assert target.start(*attack, options=both_off, user=NOBODY) == "65534"
    assert target.start(*attack, options=volume, user=NOBODY, tamper=setuid_on) == "65534"
    assert target.start(*attack, options=both_off, user=NOBODY, tamper=setuid_on) == "0"


def test_setuid_programs_of_the_image_give_nothing(target: Target, planted: Path) -> None:
    """The same in a layer of the image, which may have such programs: only PR_SET_NO_NEW_PRIVS is in the way."""
    image = joined(f'image = "dir:{planted}"', 'volumes = ["/usr:/usr:ro"]')
    attack = (run_setuid, "/id")
    assert target.start(*attack, options=image, user=NOBODY) == "65534"
    assert target.start(*attack, options=joined(image, NEW_PRIVILEGES), user=NOBODY) == "0"


def effective_capabilities(path: str) -> str:
    return os.popen(f"{path} CapEff /proc/self/status").read().split()[1].lstrip("0")


def test_file_capabilities_give_nothing(target: Target, planted: Path) -> None:
    """capabilities(7), "File capabilities": CAP_CHOWN on a program, for a user without."""
    image = joined(f'image = "dir:{planted}"', 'volumes = ["/usr:/usr:ro"]')
    attack = (effective_capabilities, "/grep")
    assert target.start(*attack, options=image, user=NOBODY) == ""
    twin = joined(image, NEW_PRIVILEGES, HOST_USERS)
    assert target.start(*attack, options=twin, user=NOBODY) == "1"


def make_setuid(path: str) -> str:
    """Leave a setuid program of root behind on a volume, for a user of the host to find."""
    with open(path, "w") as file:
        file.write("#!/bin/true\n")
    return inside.attempt(os.chmod, path, 0o4755)


def test_setuid_programs_on_volumes_are_out_of_reach(target: Target) -> None:
    """CVE-2021-41091: users of the host may not even look into the folders of volumes, layers and images.

    On the disk such a file is root's, for a volume keeps the ids that the container has. The twin is a folder of the
    host, which everybody can look into.
    """
    orch = target.orch
    shared = Path(orch.work, "shared")
    shared.mkdir()
    volumes = f"volumes = ['kept:/kept', '{shared}:/shared']"
    text = f'name = "keeper"\n[volumes.kept]\n[services.web]\ncommand = ["sleep", "infinity"]\n{volumes}'
    orch.up(orch.manifest(text))
    for path in ("/kept/program", "/shared/program"):
        assert target.exec(make_setuid, path, project="keeper", container="web") == inside.DONE
    state = orch.instance.state_dir
    for file, reached in ((Path(f"{state}/volumes/keeper/kept/program"), False), (shared / "program", True)):
        info = file.stat()
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o4755)
        assert can_look_at(file) is reached
    for folder in ("volumes", "containers", "images", "logs", "root"):
        assert not can_look_at(Path(state, folder, "anything"))
    orch.run("down", "-p", "keeper", "--volumes", "-t", "0")
    shutil.rmtree(shared)


def can_look_at(path: Path) -> bool:
    """Whether a user without any rights can."""

    def look() -> str:
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        return inside.attempt(os.stat, path)

    word = inside.run_in_child(look)
    assert word in (inside.DONE, "EACCES")
    return word == inside.DONE


def join_new_user_namespace() -> list[str]:
    """A user namespace of one's own, by both system calls; and what it would be for: to mount."""
    arguments = (ctypes.c_uint64 * 8)(inside.CLONE_NEWUSER, 0, 0, 0, 17)  # SIGCHLD

    def clone() -> str:
        pid = inside.call("clone3", arguments, 64)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return inside.DONE

    def unshare_and_mount() -> str:
        inside.call("unshare", inside.CLONE_NEWUSER | inside.CLONE_NEWNS)
        return inside.attempt(inside.mount, "none", "/tmp", "tmpfs")

    def word(action: Callable[[], str]) -> str:
        try:
            return action()
        except OSError as error:
            return inside.name(error)

    return [inside.run_in_child(lambda: word(clone)), inside.run_in_child(lambda: word(unshare_and_mount))]


def test_no_user_namespace_gives_capabilities_back(target: Target) -> None:
    """unshare(2), clone3(2) with CLONE_NEWUSER: the way to CVE-2022-0185, CVE-2022-0492 and many others.

    The filter; clone3 is said not to be there, for a filter cannot look at its arguments, and libc then uses clone.
    """
    assert target.both(join_new_user_namespace) == ["ENOSYS", "EPERM"]
    assert target.start(join_new_user_namespace, user=NOBODY) == ["ENOSYS", "EPERM"]
    assert target.start(join_new_user_namespace, options=UNCONFINED) == [inside.DONE, inside.DONE]
