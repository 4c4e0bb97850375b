"""What an image, or a volume that another container has, can do while a container is made of it.

Everything in an image is a stranger's: links that lead anywhere, and files that are not what they should be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import OrchError
from support import inside
from support.attack import Changes, Target, joined
from support.requirements import program_path

pytestmark = pytest.mark.requires("root", "netns", "overlay", "busybox")


class Image:
    """A small image with busybox in it; ``victim`` is a folder of the host, and ``volume`` one that is shared."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self.folder = folder / "image"
        self.victim = folder / "victim"
        self.volume = folder / "volume"
        self.victim.mkdir(parents=True)
        self.volume.mkdir()
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            (self.folder / name).mkdir(parents=True)
        busybox = program_path("busybox")
        assert busybox
        shutil.copy(busybox, self.folder / "bin/busybox")

    def replace(self, name: str, link: str) -> None:
        """Make ``name`` a symbolic link."""
        path = self.folder / name
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(link)

    def run(self, *command: str, options: str = "", tamper: Changes = ()) -> str:
        """What an applet of busybox prints in a container of the image.

        :raises OrchError: when it cannot be started.
        """
        options = joined(f'image = "dir:{self.folder}"', options)
        ended = self._target.run(["/bin/busybox", *command], options=options, tamper=tamper)
        return ended.output + ended.errors

    @property
    def root(self) -> str:
        """Where its root is mounted before it becomes the root."""
        return f"{self._target.orch.instance.state_dir}/root"


@pytest.fixture
def image(target: Target) -> Iterator[Image]:
    folder = Path(target.orch.work, "hostile")
    yield Image(target, folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_in_the_place_of_a_kernels_file_system(image: Image, name: str) -> None:
    """CVE-2019-19921, CVE-2023-28642: /proc is a link, so that what is masked and read-only is elsewhere.

    The link leads to a folder of the host that does not exist yet. The twin mounts as runtimes did: before the
    container's root is the root, by a path that begins on the host.
    """
    image.replace(name, f"{image.victim}/made")
    with pytest.raises(OrchError, match="ELOOP"):
        image.run("true")
    assert list(image.victim.iterdir()) == []
    naive = [["before", ["pivot-root"], ["mount", "tmpfs", f"{image.root}/{name}", 0, ""]]]
    with pytest.raises(OrchError, match="ELOOP"):  # not even then
        image.run("true", tamper=naive)
    naive = [["before", ["pivot-root"], ["tmpfs", f"{image.root}/{name}", 0, "", 0, 0]]]
    with pytest.raises(OrchError, match="ELOOP"):  # of what is mounted properly, later
        image.run("true", tamper=naive)
    assert [path.name for path in image.victim.iterdir()] == ["made"]


@pytest.mark.parametrize("target_path", ["/data", "/data/deeper", "/etc/file"])
def test_a_link_in_the_place_of_a_volume(image: Image, target_path: str) -> None:
    """CVE-2021-30465 and CVE-2019-16884: a volume's place is a link of the image's."""
    (image.folder / "etc/file").unlink(missing_ok=True)
    link = target_path.removesuffix("/deeper").lstrip("/")
    image.replace(link, f"{image.victim}/made")
    options = f"volumes = ['{image.volume}:{target_path}:ro']"
    image.run("true", options=options)
    assert list(image.victim.iterdir()) == []
    naive = [["before", ["pivot-root"], ["tmpfs", image.root + target_path, 0, "", 0, 0]]]
    image.run("true", options=options, tamper=naive)
    assert [path.name for path in image.victim.iterdir()] == ["made"]


@pytest.mark.parametrize("name", ["etc/hosts", "etc/resolv.conf", "etc/hostname"])
def test_a_link_in_the_place_of_a_file_that_is_given(image: Image, name: str) -> None:
    """The files that every container gets are mounted over the image's, which may be links (CVE-2015-3629)."""
    image.replace(name, f"{image.victim}/made")
    assert image.run("cat", f"/{name}") != ""
    assert list(image.victim.iterdir()) == []
    naive = [["before", ["pivot-root"], ["tmpfs", f"{image.root}/{name}", 0, "", 0, 0]]]
    image.run("true", tamper=naive)
    assert [path.name for path in image.victim.iterdir()] == ["made"]


def test_a_link_in_the_place_of_the_working_folder(image: Image) -> None:
    """A working folder that is missing is made, beneath the container's root."""
    image.replace("work", f"{image.victim}/made")
    options = 'working_dir = "/work"'
    assert image.run("pwd", options=options).strip() == f"{image.victim}/made"
    assert list(image.victim.iterdir()) == []
    image.run("true", options=options, tamper=[["before", ["pivot-root"], ["work", f"{image.root}/work"]]])
    assert [path.name for path in image.victim.iterdir()] == ["made"]


ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home/web:/bin/sh\n"


def test_accounts_that_are_no_file(image: Image) -> None:
    """CVE-2019-14271's kind: what the runtime reads in the container it reads as root.

    A FIFO would hold it up for ever, a device never end, and a link lead to the host's accounts.
    """
    passwd = image.folder / "etc/passwd"
    user = 'user = "web"'
    passwd.write_text(ACCOUNTS)
    assert image.run("id", "-u", options=user).strip() == "33"
    passwd.unlink()
    host = image.victim / "passwd"
    host.write_text(ACCOUNTS)
    plants: tuple[Callable[[], None], ...] = (
        lambda: os.mkfifo(passwd),
        lambda: passwd.symlink_to("/dev/zero"),
        lambda: passwd.symlink_to("/proc/self/fd/0"),
        lambda: passwd.symlink_to(f"/proc/1/root{host}"),
        lambda: passwd.symlink_to("/.." * 8 + str(host)),
        lambda: passwd.symlink_to("passwd"),
        lambda: passwd.mkdir(),
    )
    for plant in plants:
        plant()
        with pytest.raises(OrchError, match='user "web" is not in'):
            image.run("id", options=user)
        passwd.rmdir() if passwd.is_dir() and not passwd.is_symlink() else passwd.unlink()


def test_accounts_beyond_all_measure(image: Image) -> None:
    """A file of gigabytes (it is sparse), numbers without end, and rows of nothing but colons."""
    passwd, group = image.folder / "etc/passwd", image.folder / "etc/group"
    passwd.write_text(ACCOUNTS)
    os.truncate(passwd, 1 << 40)
    assert image.run("id", "-u", options='user = "web"').strip() == "33"
    passwd.write_text(f"web:x:{'9' * 100_000}:0::/:\n" + ":" * 100_000 + "\n" + ACCOUNTS)
    with pytest.raises(OrchError, match='user "web" is not in'):
        image.run("id", options='user = "web"')
    passwd.write_text(ACCOUNTS)
    group.write_text(f"many:x:{'9' * 100_000}:web\nfine:x:44:web\n")
    assert image.run("id", "-G", options='user = "web"').split() == ["33", "44"]


SHARED = """
name = "shared"
[volumes.data]
[services.writer]
command = ["sleep", "infinity"]
volumes = ["data:/data"]
[services.reader]
kind = "job"
command = ["ls", "/part"]
volumes = [{ type = "volume", source = "data", target = "/part", subpath = "part" }]
"""


def plant_links(victim: str, swap: bool) -> None:
    """Put a link to a folder of the host into the place of a part of a volume; then swap it with a folder, for good."""
    os.mkdir("/data/good")
    with open("/data/good/harmless", "w"):
        pass
    os.symlink(victim, "/data/part")
    if swap and os.fork() == 0:
        for number in (0, 1, 2):
            os.close(number)
        while True:  # RENAME_EXCHANGE, linux/fs.h
            inside.libc.renameat2(inside.AT_FDCWD, b"/data/good", inside.AT_FDCWD, b"/data/part", 2)


@pytest.fixture
def shared(target: Target) -> Iterator[tuple[Path, str]]:
    """A folder of the host with a secret in it, and a manifest of two services that share a volume."""
    orch, victim = target.orch, Path(target.orch.work, "victim")
    victim.mkdir()
    (victim / "secret").touch()
    manifest = orch.manifest(SHARED)
    orch.up(manifest, "writer")
    yield victim, manifest
    orch.run("down", "-p", "shared", "--volumes", "-t", "0")
    shutil.rmtree(victim)


def read_part(target: Target, manifest: str, tamper: Changes = ()) -> str:
    with target.tampered(tamper):
        done = target.orch.run("run", "-T", manifest, "reader", check=False)
    return done.stdout + done.stderr


def test_a_link_in_the_place_of_a_part_of_a_volume(target: Target, shared: tuple[Path, str]) -> None:
    """CVE-2017-1002101 and CVE-2021-25741: another container makes the part of a volume a link to the host.

    The part is opened beneath the volume (openat2(2), RESOLVE_BENEATH). The twin opens it by its path.
    """
    victim, manifest = shared
    target.exec(plant_links, str(victim), False, project="shared", container="writer")
    shown = read_part(target, manifest)
    assert "EXDEV" in shown or "ELOOP" in shown
    assert "secret" not in shown
    volume = f"{target.orch.instance.state_dir}/volumes/shared/data"
    naive = ["open-tree", "bind1", f"{volume}/part", True, False, "private", "", "container"]
    tamper = [["before", ["open-tree", "bind1"], naive], ["drop", ["open-tree", "bind1", volume]]]
    assert "secret" in read_part(target, manifest, tamper)


def test_a_link_that_comes_and_goes(target: Target, shared: tuple[Path, str]) -> None:
    """The same as a race: the link is there, and is not, thousands of times while a container is started."""
    victim, manifest = shared
    target.exec(plant_links, str(victim), True, project="shared", container="writer")
    for _ in range(6):
        shown = read_part(target, manifest)
        assert "harmless" in shown or "EXDEV" in shown or "ELOOP" in shown, shown
        assert "secret" not in shown
