"""What a virtual machine is made from: packages, an archive of files, scripts, a command line."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import archive, cache, guest, layer, qemu
from vm.archive import File
from vm.commands import CommandError, run

TASK = guest.Task(["/bin/echo", "it's"], "/a folder", {"NAME": "two words"}, "c0ffee", ("true",))
MACHINE = qemu.Machine(
    accelerator="tcg",
    memory=512,
    kernel=Path("/k"),
    initramfs=Path("/i"),
    disk=Path("/d"),
    shares={"layer": Path("/s/layer"), "host": Path("/s/host")},
    console=Path("/c"),
    append="enforcing=1",
)


def unpacked(data: bytes) -> dict[str, tuple[int, bytes]]:
    """(mode, content) of an archive's entries."""
    found, at = {}, 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * each : at + 14 + 8 * each], 16) for each in range(13)]
        name_at = at + 110
        body_at = (name_at + numbers[11] + 3) & ~3
        name = data[name_at : name_at + numbers[11] - 1].decode()
        found[name] = (numbers[1], data[body_at : body_at + numbers[6]])
        at = (body_at + numbers[6] + 3) & ~3
    return found


# -- the archive ---------------------------------------------------------------------------------------

PARTS = st.text("abc.", min_size=1, max_size=4).filter(lambda part: part not in (".", ".."))


@given(st.dictionaries(st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "f/" + "/".join(parts) + "/x"),
                       st.binary(max_size=9)))  # fmt: skip
def test_an_archive_holds_its_files_and_their_folders_before_them(files: dict[str, bytes]) -> None:
    entries = unpacked(archive.pack({path: File(content, 0o755) for path, content in files.items()}))
    order = list(entries)
    assert order[-1] == "TRAILER!!!"
    for path, content in files.items():
        assert entries[path] == (0o100755, content)
        parent = path.rpartition("/")[0]
        assert entries[parent][0] == 0o040755
        assert order.index(parent) < order.index(path)


# -- the packages --------------------------------------------------------------------------------------


def test_the_kernel_is_the_one_that_the_meta_package_stands_for() -> None:
    shown = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Conflicts: <x>\n"
    assert layer.kernel_package(shown) == "linux-image-6.1.0-56-cloud-amd64"
    with pytest.raises(CommandError, match="is this Debian"):
        layer.kernel_package("linux-image-cloud-amd64\n")


def test_what_apt_would_install_is_fetched_without_what_boots_a_real_machine() -> None:
    simulation = (
        "NOTE: This is only a simulation!\n"
        "Inst systemd [252.38-1] (252.39-1~deb12u2 Debian:12.15/oldstable [amd64]) []\n"
        "Inst initramfs-tools (0.142 Debian:12.15/oldstable [all])\n"
        "Inst kmod (30+20221128-1 Debian:12.15/oldstable [amd64])\n"
        "Conf kmod (30+20221128-1 Debian:12.15/oldstable [amd64])\n"
    )
    assert layer.to_fetch(simulation) == ["kmod=30+20221128-1", "systemd=252.39-1~deb12u2"]


def test_a_key_changes_with_every_part() -> None:
    keys = [cache.key(["1"], ["a", "b"]), cache.key(["1"], ["ab"]), cache.key(["1", "a"], ["b"])]
    assert len(set(keys)) == 3
    assert cache.key(["1"], ["a", "b"]) == keys[0]


def test_what_is_kept_is_made_once_and_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("x")
        if len(made) == 1:
            raise CommandError("the network is gone")

    with pytest.raises(CommandError):
        cache.kept("thing", make)
    assert not made[0].exists()
    assert (cache.kept("thing", make) / "file").read_text() == "x"
    assert cache.kept("thing", make) == tmp_path / "orch-vm" / "thing"
    assert len(made) == 2


def test_a_program_that_fails_or_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match=r"`ls /not/there` failed: .*/not/there"):
        run("ls", "/not/there")
    with pytest.raises(CommandError, match="needs no-such-program"):
        run("no-such-program")


# -- what the guest does -------------------------------------------------------------------------------


def test_the_script_says_when_it_begins_and_how_it_ends(tmp_path: Path) -> None:
    text = guest.script(
        guest.Task(["sh", "-c", 'echo "$NAME"; exit 3'], str(tmp_path), TASK.environment, "t")
    )
    mounts = text.replace("mkdir -p", "true").replace("mount --bind", "true")
    done = subprocess.run(["sh"], input=mounts, capture_output=True, text=True, check=True)
    assert done.stdout == "orch-vm t begins\ntwo words\norch-vm t ends with 3\n"


def test_a_task_survives_the_shell() -> None:
    assert f"\ntrue\ncd '/a folder'\n{shlex.join(TASK.command)}\n" in guest.script(TASK)


def test_the_initramfs_knows_its_shares_and_modules(tmp_path: Path) -> None:
    modules = [tmp_path / "virtio.ko", tmp_path / "overlay.ko"]
    for module in modules:
        module.write_bytes(b"ELF")
    files = guest.files(TASK, b"busybox", ["layer", "host"], modules, None)
    settings = files["settings"].content.decode()
    assert "shares='layer host'\n" in settings
    assert "modules='virtio.ko overlay.ko'\n" in settings
    assert files["virtio.ko"].content == b"ELF"
    assert files["init"].mode == files["bin/busybox"].mode == 0o755
    assert "policy" not in files


def test_with_selinux_the_policy_is_there_before_anything_is_mounted(tmp_path: Path) -> None:
    policy = tmp_path / "policy.33"
    policy.write_bytes(b"rules")
    selinux = guest.SELinux(policy, host="u:r:host_t:s0", disk="u:r:disk_t:s0", context="u:r:us_t:s0")
    files = guest.files(TASK, b"", ["layer", "host"], [], selinux)
    assert files["policy"].content == b"rules"
    assert "host_options=ro,context=u:r:host_t:s0\n" in files["settings"].content.decode()
    service = files["files/etc/systemd/system/orch-vm.service"].content.decode()
    assert service.endswith("SELinuxContext=u:r:us_t:s0\n")
    init = files["init"].content.decode()
    assert init.index("selinux/load") < init.index("mount -t virtiofs")


# -- the machine ---------------------------------------------------------------------------------------


def test_an_emulated_guest_has_one_processor_and_a_clock_of_its_own() -> None:
    words = qemu.command(MACHINE)
    assert words[words.index("-smp") + 1] == "1"
    assert words[words.index("-icount") + 1].startswith("shift=")
    assert "-icount" not in qemu.command(replace(MACHINE, accelerator="kvm"))


def test_the_disk_and_the_network_of_the_guest_are_its_own() -> None:
    words = qemu.command(MACHINE)
    assert "file=/d,if=virtio,format=raw,snapshot=on" in words
    assert "-nodefaults" in words  # which would come with a network card
    assert not [word for word in words if word.startswith(("-net", "user"))]


def test_each_share_has_its_socket_and_tag() -> None:
    words = qemu.command(MACHINE)
    for tag in MACHINE.shares:
        assert f"socket,id={tag},path=/s/{tag}" in words
        assert f"vhost-user-fs-pci,chardev={tag},tag={tag}" in words


def test_the_kernel_is_told_what_the_kind_of_host_needs() -> None:
    words = qemu.command(MACHINE)
    assert words[words.index("-append") + 1].endswith(" enforcing=1")
