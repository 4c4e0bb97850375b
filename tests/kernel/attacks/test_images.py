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
    naive = [["before", ["pivot-root"], ["tmpfs", f"{image.root}/{name}", 0, ""]]]
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
    naive = [["before", ["pivot-root"], ["tmpfs", image.root + target_path, 0, ""]]]
    image.run("true", options=options, tamper=naive)
    assert [path.name for path in image.victim.iterdir()] == ["made"]


@pytest.mark.parametrize("name", ["etc/hosts", "etc/resolv.conf", "etc/hostname"])
def test_a_link_in_the_place_of_a_file_that_is_given(image: Image, name: str) -> None:
    """The files that every container gets are mounted over the image's, which may be links (CVE-2015-3629)."""
    image.replace(name, f"{image.victim}/made")
    assert image.run("cat", f"/{name}") != ""
    assert list(image.victim.iterdir()) == []
    naive = [["before", ["pivot-root"], ["tmpfs", f"{image.root}/{name}", 0, ""]]]
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
