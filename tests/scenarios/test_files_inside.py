"""What of the kernel's and the project's files a container sees, and what it cannot do about them."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.box import bare_image
from support.cli import Completed, Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay", "busybox")


def run(orch: Orch, script: str, keys: str = "", *, more: str = "", check: bool = True) -> Completed:
    """Bring a project up whose only service runs ``script`` once; its output, without prefixes."""
    manifest = orch.manifest(f"""
name = "in"
[services.a]
kind = "job"
command = ["/bin/sh", "-c", '''{script.replace("$", "$$")}''']
{keys}
{more}
""")
    done = orch.run("up", "-q", manifest, check=check)
    done.stdout = "".join(line.removeprefix("a-1  | ") + "\n" for line in done.stdout.splitlines())
    return done


# cgroups


def test_a_container_reads_its_own_limits_where_programs_look_for_them(orch: Orch) -> None:
    script = """
    cd /sys/fs/cgroup
    cat memory/memory.limit_in_bytes memory.max 2>/dev/null
    find . -type d -name "orch*" -o -name host -type d
    files=$(find . -name cgroup.procs -o -name notify_on_release)
    for file in $files; do (echo 0 >$file) 2>/dev/null && echo wrote; done
    (mkdir x; mkdir memory/x) 2>/dev/null && echo made
    grep " /sys/fs/cgroup" /proc/self/mountinfo >/tmp/mounts
    while read a b c root point options rest; do echo $root $options; done </tmp/mounts"""
    lines = run(orch, script, 'resources = { memory = "64M" }').stdout.splitlines()
    assert lines[0] == str(64 << 20)
    assert len(lines) > 1
    assert set(lines[1:]) == {"/ ro,nosuid,nodev,noexec,relatime"}


@pytest.mark.requires("cgroup-v1")
def test_v1_hierarchies_have_their_names_and_no_others_are_there(orch: Orch) -> None:
    names = run(
        orch, "ls /sys/fs/cgroup; mkdir -p /tmp/x; ls /sys/fs/cgroup/memory | grep -c tasks"
    ).stdout.split()
    assert "memory" in names
    assert "systemd" not in names  # the container is not in it: its root would be the host's
    assert names[-1] == "1"


# Secrets and configs


def test_a_secret_is_in_the_container_and_nowhere_else(orch: Orch) -> None:
    hidden = "hidden-6f1c9e"
    Path(orch.work, "pw").write_text(f"{hidden}-file")
    text = """
name = "in"
[services.a]
command = ["sh", "-c", "cat /run/secrets/pw /etc/app.conf | wc -c; sleep 100"]
secrets = ["pw"]
configs = [{ source = "app", target = "/etc/app.conf" }]
[secrets.pw]
file = "pw"
[configs.app]
environment = "APP"
"""
    os.environ["APP"] = f"{hidden}-app"
    try:
        manifest = orch.manifest(text, "m.toml")
        up = orch.up(manifest)
        shown = [str(up)]
        first = orch.container("a")["id"]
        read = orch.run("exec", "-p", "in", "a", "cat", "/run/secrets/pw", "/etc/app.conf").stdout
        assert read == f"{hidden}-file{hidden}-app"
        plan = orch.run("plan", manifest)
        assert "recreate" not in plan.stdout
        Path(orch.work, "pw").write_text(f"{hidden}-other")
        plan = orch.run("plan", manifest, check=False)
        assert "secrets changed" in plan.stdout
        shown += map(str, (plan, orch.up(manifest)))
        assert orch.container("a")["id"] != first
        assert orch.run("exec", "-p", "in", "a", "cat", "/run/secrets/pw").stdout == f"{hidden}-other"
        orch.run("restart", "-p", "in", "a")
        assert orch.run("exec", "-p", "in", "a", "cat", "/run/secrets/pw").stdout == f"{hidden}-other"
        for words in (("inspect", "-p", "in", "a"), ("inspect", "-p", "in", "--format", "text", "a"), ("events",),
                      ("ps", "-a", "--format", "json"), ("logs", "-p", "in"), ("config", manifest),
                      ("config", "--format", "json", manifest)):  # fmt: skip
            shown.append(str(orch.run(*words)))
        wanted = f"{hidden}|{base64.b64encode(hidden.encode()).decode()[:-4]}"
        found = subprocess.run(
            ["grep", "-rlaE", wanted, orch.instance.state_dir, orch.instance.run_dir, f"{orch.base}/service.log"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        del os.environ["APP"]
    assert found.stdout == ""
    assert [text for text in shown if re.search(wanted, text)] == []


def test_a_secret_that_is_missing_is_refused_with_its_line(orch: Orch) -> None:
    done = run(orch, "true", 'secrets = ["pw"]', more='[secrets.pw]\nfile = "./nosuch"', check=False)
    assert done.returncode == 2
    assert re.search(r'manifest1.toml:\d+: secrets.pw.file: ".*/work/nosuch" cannot be read', done.stderr)


# Volumes


def test_a_new_volume_gets_what_the_image_has_and_parts_of_it_are_mounted(orch: Orch) -> None:
    image = bare_image(Path(orch.work, "image"))
    (image / "bin/sh").symlink_to("busybox")
    (image / "data/part").mkdir(parents=True)
    (image / "data/part/file").write_text("of the image\n")
    os.chown(image / "data/part/file", 7, 7)
    manifest = orch.manifest(f"""
name = "in"
[defaults]
image = "dir:{image}"
[services.a]
kind = "job"
command = ["/bin/sh", "-c", "busybox stat -c %u /data/part/file; echo more >>/data/part/file"]
volumes = ["data:/data"]
[services.b]
kind = "job"
command = ["/bin/sh", "-c", "busybox cat /part/file; busybox ls -A /empty"]
volumes = [{{ source = "data", target = "/part", subpath = "part" }}, "none:/data:nocopy", "none:/empty:ro"]
depends_on = {{ a = "completed" }}
[volumes.data]
[volumes.none]
""")
    done = orch.run("up", "-q", manifest)
    assert done.stdout.splitlines() == ["a-1  | 7", "b-1  | of the image", "b-1  | more"]


def test_a_part_of_a_volume_that_leads_out_of_it_is_refused_with_the_reason(orch: Orch) -> None:
    more = "[volumes.data]"
    run(orch, "ln -s /etc /data/part", 'volumes = ["data:/data"]', more=more)
    keys = 'volumes = [{ source = "data", target = "/data", subpath = "part" }]'
    done = run(orch, "cat /data/passwd", keys, more=more, check=False)
    assert done.returncode == 1
    assert "EXDEV" in done.stderr
    assert "a symbolic link in the volume leads out of it, which is refused" in done.stderr


def test_a_source_that_the_host_does_not_share_cannot_propagate(orch: Orch) -> None:
    os.mkdir(f"{orch.work}/source")
    done = run(orch, "true", 'volumes = ["./source:/data:rslave"]', check=False)
    assert done.returncode == 1
    assert "which the host does not share" in done.stderr
    assert "mount --make-rshared" in done.stderr


# A hostile image


def test_an_image_of_links_touches_nothing_of_the_host(orch: Orch) -> None:
    """Everything that orch puts into a container has a link to a folder of the host in its place."""
    victim = Path(orch.work, "victim")
    (victim / "run/secrets").mkdir(parents=True)
    for name in ("hosts", "marker", "run/secrets/marker"):
        (victim / name).write_text("untouched\n")
    before = snapshot(victim)
    image = bare_image(Path(orch.work, "image"))
    (image / "etc").rmdir()
    (image / "bin/sh").symlink_to("busybox")
    dots = "../" * 12 + str(victim).lstrip("/")
    for name, link in {"etc": str(victim), "run": f"{dots}/run", "data": f"{victim}/data", "volume": f"{dots}/volume",
                       "work": f"/proc/self/root{victim}", "scratch": f"{dots}/marker/x"}.items():  # fmt: skip
        (image / name).symlink_to(link)
    keys = f"""
image = "dir:{image}"
volumes = ["./source:/data", "kept:/volume"]
tmpfs = "/scratch"
"""
    os.mkdir(f"{orch.work}/source")
    script = (
        "for x in data volume etc scratch; do echo x >/$x/new; done; busybox cat /etc/hosts | busybox wc -l"
    )
    done = run(orch, script, keys, more="[volumes.kept]", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert snapshot(victim) == before
    assert os.listdir(f"{orch.work}/source") == ["new"]
    done = run(orch, "true", f'image = "dir:{image}"\nworking_dir = "/work"', check=False)
    assert (done.returncode, "ELOOP" in done.stderr) == (1, True)
    assert snapshot(victim) == before


def snapshot(folder: Path) -> dict[str, object]:
    """All that can be told of a folder's entries."""
    done = subprocess.run(
        ["find", folder, "-printf", "%p %m %U %G %T@ %C@ %s\n"], capture_output=True, text=True, check=True
    )
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {"entries": sorted(done.stdout.splitlines()), **files}
