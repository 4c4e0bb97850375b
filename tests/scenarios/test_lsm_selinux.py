"""SELinux labels as a program meets them; on a host that enforces a policy which knows containers."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from orchestrator.lsm import host
from orchestrator.lsm.relabel import current
from support.cli import Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "selinux")

PROCESS = re.compile(r"system_u:system_r:container_t:s0:c(\d+),c(\d+)")
FILES = "system_u:object_r:container_file_t:s0"
WAITING = 'command = ["sleep", "1000"]\nstop_grace_period = "0s"'


def label(orch: Orch, service: str, *command: str) -> str:
    """The label of the first of these processes of a container: its own, or that of what exec starts."""
    words = command or ("cat", "/proc/1/attr/current")
    return orch.run("exec", service, "--", *words, timeout=60).stdout.rstrip("\0\n")


@pytest.mark.vm
def test_each_container_has_a_label_of_its_own_and_keeps_it(orch: Orch) -> None:
    manifest = orch.manifest(f"""
name = "l"
[services.a]
{WAITING}
replicas = 2
[services.b]
{WAITING}
init = true
""")
    orch.up(manifest, timeout=120)
    labels = {name: label(orch, name) for name in ("l-a-1", "l-a-2")}
    of_sleep = "cat /proc/$(pidof sleep)/attr/current"  # its pid 1 is orch's own init
    labels["l-b-1"] = label(orch, "l-b-1", "sh", "-c", of_sleep)
    pairs = {match.groups() for text in labels.values() if (match := PROCESS.fullmatch(text))}
    assert len(pairs) == 3, labels
    assert label(orch, "l-a-1", "cat", "/proc/self/attr/current") == labels["l-a-1"]  # exec's
    found = orch.inspect("l-a-1")["lsm"]
    assert found["selinux_process"] == found["in_force"] == labels["l-a-1"]
    assert found["selinux_files"] == f"{FILES}:{labels['l-a-1'].rpartition(':')[2]}"
    orch.run("restart", "-p", "l", "a", timeout=120)
    assert label(orch, "l-a-1") == labels["l-a-1"]
    orch.run("down", "-p", "l", timeout=120)
    orch.up(manifest, timeout=120)
    assert label(orch, "l-a-1") == labels["l-a-1"]


@pytest.mark.vm
def test_everything_that_a_container_sees_as_a_file_has_its_label(orch: Orch) -> None:
    paths = "/ /dev /dev/null /dev/shm /dev/mqueue /dev/pts /etc/hosts /etc/hostname /mem /usr/bin/env"
    manifest = orch.manifest(f"""
name = "f"
[services.a]
{WAITING}
tmpfs = "/mem"
volumes = ["v:/v"]
[volumes.v]
""")
    orch.up(manifest, timeout=120)
    own = orch.inspect("f-a-1")["lsm"]["selinux_files"]
    script = (
        "import os, sys\n"
        "for path in sys.argv[1:]: print(os.getxattr(path, 'security.selinux').decode().strip(chr(0)))"
    )
    seen = label(orch, "a", "python3", "-c", script, *paths.split(), "/v").splitlines()
    assert seen == [own] * len(paths.split()) + [FILES]  # a named volume is for all containers


@pytest.mark.vm
def test_what_a_container_says_reaches_its_log_and_exec(orch: Orch) -> None:
    manifest = orch.manifest("""
name = "o"
[services.a]
kind = "job"
command = ["sh", "-c", "echo out; echo err >&2; echo again > /dev/stdout; echo x > /dev/shm/x; echo y > /new"]
[services.b]
command = ["sleep", "1000"]
stop_grace_period = "0s"
""")
    orch.up(manifest, timeout=120)
    assert sorted(orch.run("logs", "-p", "o", "a").stdout.split()[2::3]) == ["again", "err", "out"]
    assert orch.run("exec", "-i", "b", "--", "cat", input="said", timeout=60).stdout == "said"


@pytest.mark.vm
def test_a_path_of_the_host_is_out_of_reach_unless_the_label_is_disabled(orch: Orch) -> None:
    secret = Path(orch.work) / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret\n")
    kept = current(str(secret / "file"))
    manifest = orch.manifest(f"""
name = "h"
[defaults]
kind = "job"
command = ["sh", "-c", "cat /s/file"]
volumes = ["{secret}:/s:ro"]
[services.held]
[services.free]
selinux = "disable"
""")
    orch.run("up", "-d", manifest, check=False, timeout=120)
    assert orch.container("held")["exit_code"] == 1
    assert orch.container("free")["exit_code"] == 0
    assert "Permission denied" in orch.run("logs", "-p", "h", "held").stdout
    assert orch.run("logs", "-p", "h", "free").stdout.rstrip().endswith("secret")
    assert "lsm" not in orch.inspect("h-free-1") or "selinux_process" not in orch.inspect("h-free-1")["lsm"]
    assert current(str(secret / "file")) == kept


@pytest.mark.parametrize(("relabel", "codes"), [("private", [0, 1]), ("shared", [0, 0])])
def test_a_path_is_relabelled_for_one_container_or_for_all(
    orch: Orch, relabel: str, codes: list[int]
) -> None:
    data, outside = Path(orch.work) / "data", Path(orch.work) / "outside"
    data.mkdir()
    outside.write_text("")
    (data / "file").write_text("text\n")
    (data / "link").symlink_to(outside)
    manifest = orch.manifest(f"""
name = "r"
[defaults]
kind = "job"
command = ["cat", "/d/file"]
[services.owner]
volumes = [{{ source = "{data}", target = "/d", relabel = "{relabel}" }}]
[services.other]
volumes = ["{data}:/d"]
depends_on = {{ owner = "completed" }}
""")
    orch.run("up", "-d", manifest, check=False, timeout=120)
    assert [orch.container(name)["exit_code"] for name in ("owner", "other")] == codes
    own = orch.inspect("r-owner-1")["lsm"]["selinux_files"]
    assert current(str(data / "file")) == (own if relabel == "private" else FILES)
    assert not current(str(outside)).startswith(FILES)


def test_a_folder_of_the_system_is_not_relabelled(orch: Orch) -> None:
    before = current("/etc")
    manifest = orch.manifest("""name = "e"
[services.a]
command = ["true"]
volumes = [
    { source = "/etc", target = "/d", relabel = "shared" },
]
""")
    done = orch.run("up", "-d", manifest, check=False)
    assert done.returncode == 2
    assert f'{manifest}:5: services.a.volumes[0]: "/etc" is the system\'s own' in done.stderr
    assert current("/etc") == before


def test_the_manifests_level_and_type(orch: Orch) -> None:
    manifest = orch.manifest(f"""
name = "m"
[services.a]
{WAITING}
selinux = {{ level = "s0:c3,c5" }}
""")
    orch.up(manifest, timeout=120)
    assert label(orch, "a") == "system_u:system_r:container_t:s0:c3,c5"


def test_a_label_that_the_policy_does_not_know_is_refused_with_its_line(orch: Orch) -> None:
    manifest = orch.manifest("""name = "n"
[services.a]
command = ["true"]
selinux = { type = "no_such_t" }
""")
    done = orch.run("up", "-d", manifest, check=False)
    assert done.returncode == 2
    assert f"{manifest}:4: services.a.selinux: the SELinux policy knows no " in done.stderr
    assert not os.path.exists(orch.instance.socket)


def test_containers_of_one_level_share_what_they_make_on_a_volume(orch: Orch) -> None:
    manifest = orch.manifest("""
name = "v"
[defaults]
kind = "job"
volumes = ["v:/v"]
selinux = { level = "s0:c3,c5" }
[services.a]
command = ["sh", "-c", "echo from-a > /v/a"]
[services.b]
command = ["cat", "/v/a"]
depends_on = { a = "completed" }
[services.stranger]
command = ["cat", "/v/a"]
depends_on = { a = "completed" }
selinux = { level = "s0:c4,c6" }
[volumes.v]
""")
    orch.run("up", "-d", manifest, check=False, timeout=120)
    assert orch.run("logs", "-p", "v", "b").stdout.rstrip().endswith("from-a")
    assert orch.container("stranger")["exit_code"] == int(host.keeps_categories())


def test_the_doctor_says_what_containers_get(orch: Orch) -> None:
    found = {
        finding["name"]: finding for finding in orch.run("doctor", "--format", "json", check=False).json()
    }
    assert found["SELinux"]["status"] == ("warning" if host.keeps_categories() else "ok")
    assert "container_t with categories of its own" in found["SELinux"]["detail"]
