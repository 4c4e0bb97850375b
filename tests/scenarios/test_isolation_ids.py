"""User namespaces: root inside is nobody outside, and files have sane owners all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.cli import Orch
from support.sandbox import mount, umount
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "userns")


def owner(path: str) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_uid, info.st_gid


def outside(pid: int) -> int:
    """The host's number of the container's root."""
    return int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])


def test_root_inside_is_nobody_outside(orch: Orch) -> None:
    orch.up(orch.manifest('[services.a]\ncommand = ["sleep", "inf"]\n'))
    container = orch.container("a")
    status = Path(f"/proc/{container['pid']}/status").read_text()
    (uids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
    assert set(uids) == {str(outside(container["pid"]))}
    assert orch.run("exec", "a", "id", "-u").stdout == "0\n"


def test_files_have_the_containers_numbers_on_the_disk(orch: Orch) -> None:
    """Layers, named volumes and binds are idmapped: another container, another range, the same owners."""
    os.mkdir(f"{orch.work}/bound")
    manifest = orch.manifest("""
[defaults]
command = ["sh", "-c", "touch /data/$$(id -u) /bound/$$(id -u); touch /layer; exec sleep inf"]
volumes = ["data:/data", "./bound:/bound"]
[services.a]
[services.b]
user = "33:33"
depends_on = ["a"]
[volumes.data]
""")
    os.chmod(f"{orch.work}/bound", 0o777)
    orch.up(manifest)
    (volume,) = Path(orch.instance.state_dir).glob("volumes/*/data")
    volume.chmod(0o777)
    orch.run("restart")
    for folder in (str(volume), f"{orch.work}/bound"):
        wait_until("both have written", lambda folder=folder: {"0", "33"} <= set(os.listdir(folder)))  # type: ignore[misc]
        assert {name: owner(f"{folder}/{name}") for name in ("0", "33")} == {"0": (0, 0), "33": (33, 33)}
    (layer,) = Path(orch.instance.state_dir).glob("containers/*/upper0/layer")
    assert owner(str(layer)) == (0, 0)


def test_a_volume_may_be_a_part_of_the_image(orch: Orch) -> None:
    """Layers are covered with idmapped mounts of themselves, of which no other can be made."""
    manifest = orch.manifest("""
[services.a]
kind = "job"
command = ["sh", "-c", "ls /a /b"]
volumes = ["/usr/bin:/a:ro", { source = "/usr/lib", target = "/b", owner = "1000:1000", read_only = true }]
""")
    shown = orch.run("run", "-T", manifest, "a").stdout.split()
    assert {"sh", os.listdir("/usr/lib")[0]} <= set(shown)
    assert orch.run("run", "-T", manifest, "a", "cat", "/proc/self/uid_map").stdout.split()[2] == "65536"


def test_what_the_user_makes_belongs_to_the_owner(orch: Orch) -> None:
    for name in ("one", "two"):
        os.mkdir(f"{orch.work}/{name}")
        os.chown(f"{orch.work}/{name}", 1000, 1001)
    orch.up(
        orch.manifest("""
[services.a]
command = ["sh", "-c", "id -un >/data/made && stat -c '%U %G' /data && exec sleep inf"]
user = "www-data"
volumes = [{ source = "./one", target = "/data", owner = "1000:1001" }]
[services.b]
command = ["sh", "-c", "id -un >/data/made && stat -c '%U %G' /data && exec sleep inf"]
userns = "host"
volumes = [{ source = "./two", target = "/data", owner = "1000:1001" }]
""")
    )
    assert orch.logs("a") == "a-1  | www-data www-data\n"
    assert orch.logs("b") == "b-1  | root root\n"
    for name in ("one", "two"):
        assert owner(f"{orch.work}/{name}/made") == (1000, 1001)


def test_all_mounts_are_locked(orch: Orch) -> None:
    """Even with CAP_SYS_ADMIN no mask can be taken off, and nothing read-only be written to (mount_namespaces(7))."""
    orch.up(
        orch.manifest("""
[services.a]
command = ["sleep", "inf"]
cap_add = ["SYS_ADMIN"]
seccomp = "unconfined"
volumes = ["/usr/share/doc:/doc:ro"]
""")
    )
    for command in (
        "umount /proc/keys", "umount /proc/sys", "mount -o remount,rw,bind /proc/sys", "mount -o remount,rw,bind /doc",
        "umount /doc", "mount -o remount,dev,bind /",
    ):  # fmt: skip
        done = orch.run("exec", "a", "sh", "-c", f"LC_ALL=C {command}", check=False)
        assert done.returncode != 0, command
    assert orch.run("exec", "a", "sh", "-c", "mount -t tmpfs none /mnt && echo done").stdout == "done\n"


def test_maps_can_be_written_out(orch: Orch) -> None:
    orch.up(
        orch.manifest("""
[services.a]
command = ["sleep", "inf"]
userns = { uid = ["0:200000:1000", "65534:300000:1"], gid = ["0:400000:1000"] }
""")
    )
    pid = orch.container("a")["pid"]
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "200000", "1000", "65534", "300000", "1"]
    assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", "400000", "1000"]
    done = orch.run("exec", "--user", "5000", "a", "true", check=False)
    assert done.returncode == 126
    assert "the container's user namespace has no user 5000 (it has 0 to 999, 65534 to 65534)" in done.stderr


def test_a_file_system_that_takes_no_other_ids_leaves_the_hosts_and_says_so(orch: Orch) -> None:
    """As the default; asked for, it is an error before anything starts."""
    os.mkdir(f"{orch.work}/odd")
    # An overlay cannot be mounted with other ids.
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{orch.work}/{name}")
    base = orch.work
    mount(
        "none",
        f"{base}/odd",
        "overlay",
        0,
        f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work",
    )
    try:
        text = '[services.a]\ncommand = ["sleep", "inf"]\nvolumes = ["./odd:/odd"]\n'
        orch.up(orch.manifest(text, "m.toml"))
        assert outside(orch.container("a")["pid"]) == 0
        reason = orch.inspect("a")["isolation"]["userns_reason"]
        assert f"{base}/odd: its file system" in reason
        orch.run("down")
        done = orch.up(orch.manifest(text + 'userns = "auto"\n', "m.toml"), check=False)
        assert done.returncode == 1
        assert "user namespace" in done.stderr
        assert f"{base}/odd" in done.stderr
    finally:
        orch.run("down", check=False)
        umount(f"{base}/odd")


@pytest.mark.parametrize("mode", ["default", "host"])
def test_capability_sets(orch: Orch, mode: str) -> None:
    """All five sets, of root and of another user, at the start and in exec."""
    userns = "" if mode == "default" else 'userns = "host"'
    orch.up(
        orch.manifest(f"""
[defaults]
command = ["sleep", "inf"]
{userns}
[services.default]
[services.added]
cap_drop = ["ALL"]
cap_add = ["NET_RAW", "KILL"]
[services.user]
user = "www-data"
cap_drop = ["ALL"]
cap_add = ["NET_RAW"]
[services.plain]
user = "www-data"
[services.nothing]
cap_drop = ["ALL"]
[services.all]
cap_add = ["ALL"]
""")
    )
    raw, kill = 1 << 13, 1 << 5
    default = 0x800405FB
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    wanted = {  # inheritable, permitted, effective, bounding, ambient
        "default": (0, default, default, default, 0),
        "added": (0, raw | kill, raw | kill, raw | kill, 0),
        "user": (raw, raw, raw, raw, raw),
        "plain": (0, 0, 0, default, 0),
        "nothing": (0, 0, 0, 0, 0),
    }
    for service, sets in wanted.items():
        pid = orch.container(service)["pid"]
        ran = orch.run("exec", service, "cat", "/proc/self/status").stdout
        for text in (Path(f"/proc/{pid}/status").read_text(), ran):
            found = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")]
            assert tuple(found) == sets, service
            assert "NoNewPrivs:\t1" in text
    everything = Path(f"/proc/{orch.container('all')['pid']}/status").read_text()
    assert f"CapEff:\t{(1 << last + 1) - 1:016x}" in everything or mode == "host"


def test_further_groups(orch: Orch) -> None:
    orch.up(
        orch.manifest(
            '[services.a]\ncommand = ["sleep", "inf"]\nuser = "www-data"\ngroup_add = ["video", 4321]\n'
        )
    )
    assert orch.run("exec", "a", "id", "-G").stdout == "33 44 4321\n"


def test_privileges_can_be_gained_only_when_the_manifest_lets_them(orch: Orch) -> None:
    """A program with the setuid bit in a layer: nothing without a word, root with ``no_new_privileges = false``."""
    orch.up(
        orch.manifest("""
[defaults]
command = ["sh", "-c", "cp /usr/bin/id /usr/local/bin/suid && chmod 4755 /usr/local/bin/suid && exec sleep inf"]
[services.default]
[services.lax]
no_new_privileges = false
""")
    )
    found = {
        name: orch.run("exec", "--user", "www-data", name, "suid", "-un").stdout.strip()
        for name in ("default", "lax")
    }
    assert found == {"default": "www-data", "lax": "root"}
