"""What a program finds in its container: root file system, environment, user, limits, and what it cannot find."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from support.cli import Completed, Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")


def run(orch: Orch, script: str, keys: str = "", *, more: str = "", check: bool = True) -> Completed:
    """Bring a project up whose only service runs ``script`` once; its output, without prefixes."""
    manifest = orch.manifest(f"""
name = "in"
[services.a]
kind = "job"
command = ["sh", "-c", '''{script}''']
{keys}
{more}
""")
    done = orch.run("up", "-q", manifest, check=check)
    done.stdout = "".join(line.removeprefix("a-1  | ") + "\n" for line in done.stdout.splitlines())
    return done


def tree(folder: str) -> dict[str, tuple[int, int, str]]:
    """Every entry beneath ``folder``: mode, time of change, and content."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        info = path.lstat()
        content = (
            os.readlink(path) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        )
        found[str(path)] = (info.st_mode, info.st_ctime_ns, content)
    return found


@pytest.fixture
def image(orch: Orch) -> str:
    """A folder with a small root file system."""
    folder = f"{orch.work}/image"
    os.makedirs(f"{folder}/bin")
    os.makedirs(f"{folder}/etc")
    shutil.copy("/bin/busybox", f"{folder}/bin/busybox")
    for name in ("sh", "ls", "cat", "rm", "id", "mkdir", "touch", "env"):
        os.symlink("busybox", f"{folder}/bin/{name}")
    Path(f"{folder}/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:71:72::/:/bin/sh\n")
    Path(f"{folder}/etc/group").write_text("root:x:0:\nweb:x:72:\nlogs:x:73:web\n")
    Path(f"{folder}/etc/kept").write_text("as it was\n")
    return folder


# Image "host"


def test_image_host_shows_nothing_private(orch: Orch) -> None:
    folders = "/root /home /run /run/lock /srv /mnt /opt /boot /tmp /var/lib /var/log /var/cache"
    done = run(orch, f"for folder in {folders}; do ls -A $$folder 2>/dev/null; done; true")
    assert done.stdout == "lock\n"  # an empty folder


def test_image_host_hides_secrets_of_etc(orch: Orch) -> None:
    files = "/etc/shadow /etc/gshadow /etc/sudoers /etc/ssh /etc/machine-id /etc/environment"
    assert run(orch, f"for file in {files}; do test -s $$file && echo $$file; done; true").stdout == ""


def test_image_host_knows_no_people(orch: Orch) -> None:
    numbers = run(orch, "cut -d: -f3 /etc/passwd").stdout.split()
    assert "0" in numbers
    assert [number for number in numbers if 1000 <= int(number) < 60000] == []


def test_image_host_is_written_to_without_the_host_noticing(orch: Orch) -> None:
    done = run(
        orch,
        "cd /usr/bin; echo evil > orch-was-here && rm cut && cat orch-was-here; test -e cut || echo gone",
    )
    assert done.stdout == "evil\ngone\n"
    assert not os.path.exists("/usr/bin/orch-was-here")
    assert os.path.exists("/usr/bin/cut")


def test_the_kernels_own_folders_are_there_and_guarded(orch: Orch) -> None:
    done = run(
        orch,
        """
        test -c /dev/null && test -c /dev/zero && test -c /dev/full && test -c /dev/random && test -c /dev/urandom &&
          test -c /dev/tty && test -c /dev/ptmx && test -d /dev/shm && test -d /dev/mqueue && test -d /dev/pts ||
          echo lacks a device
        ls /dev/sd* /dev/vd* /dev/mem /dev/kmsg /dev/loop0 2>/dev/null
        echo 1 2>/dev/null > /proc/sys/kernel/panic && echo wrote proc/sys
        mkdir /sys/fs/cgroup/mine 2>/dev/null && echo wrote sys
        mount -t tmpfs none /mnt 2>/dev/null && echo mounted
        cat /proc/kcore 2>/dev/null | head -c 1
        true
        """,
    )
    assert done.stdout == ""


# Image "dir:"


def test_a_folder_is_the_root_and_is_never_changed(orch: Orch, image: str) -> None:
    before = tree(image)
    done = run(
        orch,
        "cat /etc/kept; echo new > /etc/kept; rm /bin/id; mkdir -p /made/here; touch /bin/busybox; cat /etc/kept; ls /",
        f'image = "dir:{image}"',
    )
    words = done.stdout.split("\n")
    assert words[:2] == ["as it was", "new"]
    assert {"bin", "dev", "etc", "made", "proc", "sys"} <= set(words)
    assert "usr" not in words
    assert tree(image) == before


def test_each_container_has_its_own_writable_layer(orch: Orch, image: str) -> None:
    done = run(
        orch, "touch /mine",
        f'image = "dir:{image}"\n[services.b]\nkind = "job"\nimage = "dir:{image}"\n'
        'depends_on = { a = "completed" }\ncommand = ["sh", "-c", "test -e /mine && echo shared; true"]',
    )  # fmt: skip
    assert done.stdout == ""


def test_a_folder_needs_nothing_of_orch_for_init(orch: Orch, image: str) -> None:
    orch.project = "in"
    manifest = orch.manifest(f"""
    name = "in"
    [services.a]
    image = "dir:{image}"
    command = ["sh", "-c", "cat /etc/kept; exec /bin/busybox sleep 1000"]
    init = true
    """)
    orch.up(manifest)
    wait_until("it has spoken", lambda: "as it was" in orch.logs())
    orch.run("restart", "-p", "in")
    wait_until("it has spoken again", lambda: orch.logs().count("as it was") == 2)


# Mounts


def test_a_read_only_root_refuses_writes_but_not_to_tmpfs(orch: Orch) -> None:
    done = run(
        orch, "touch /file 2>&1; touch /usr/bin/file 2>&1; touch /tmp/file && echo tmp; touch /data/file && echo data",
        'read_only = true\ntmpfs = ["/tmp"]\nvolumes = ["data:/data"]', more="[volumes.data]",
    )  # fmt: skip
    first, second, *rest = done.stdout.splitlines()
    assert "Read-only file system" in first
    assert "Read-only file system" in second
    assert rest == ["tmp", "data"]


def test_folders_of_the_host_are_mounted(orch: Orch) -> None:
    os.makedirs(f"{orch.work}/shared")
    Path(f"{orch.work}/shared/in").write_text("from the host\n")
    done = run(
        orch, "cat /rw/in; echo from inside > /rw/out; touch /ro/x 2>&1; ls /made",
        'volumes = ["./shared:/rw", "./shared:/ro:ro", "./made:/made"]',
    )  # fmt: skip
    assert done.stdout.startswith("from the host\n")
    assert "Read-only file system" in done.stdout
    assert Path(f"{orch.work}/shared/out").read_text() == "from inside\n"
    assert os.path.isdir(f"{orch.work}/made")


def test_a_tmpfs_has_its_size_and_mode(orch: Orch) -> None:
    done = run(
        orch, "head -c 2M /dev/zero > /t/file; stat -c %s /t/file; stat -c %a /t",
        'tmpfs = ["/t:size=1M,mode=0700"]',
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == [str(1 << 20), "700"]


def test_a_volume_is_shared_between_services(orch: Orch) -> None:
    done = run(
        orch, "echo hello > /data/file; stat -c %u /data",
        'volumes = ["data:/data"]\n[services.b]\nkind = "job"\ndepends_on = { a = "completed" }\n'
        'command = ["cat", "/data/file"]\nvolumes = ["data:/data:ro"]', more="[volumes.data]",
    )  # fmt: skip
    assert done.stdout == "0\nb-1  | hello\n"


# Environment, user, limits


def test_the_environment_is_the_manifests_and_no_more(orch: Orch) -> None:
    Path(f"{orch.work}/vars.env").write_text("FROM_FILE=1\nBOTH=file\n# a comment\nQUOTED='two words'\n")
    done = run(orch, "env", 'env_file = "vars.env"\nenvironment = { BOTH = "manifest", OWN = "yes" }')
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    expected = {"FROM_FILE": "1", "BOTH": "manifest", "QUOTED": "two words", "OWN": "yes"}
    assert {**found, **expected} == found
    assert found.keys() - expected.keys() <= {
        "PATH",
        "HOME",
        "HOSTNAME",
        "PWD",
        "SHLVL",
        "_",
        "TERM",
        "OLDPWD",
    }


def test_a_user_by_name_has_its_groups_and_no_capabilities(orch: Orch, image: str) -> None:
    done = run(
        orch, "id; /bin/busybox grep -E ^Cap(Eff|Prm): /proc/self/status".replace("^Cap(Eff|Prm):", '"^Cap(Eff|Prm):"'),
        f'image = "dir:{image}"\nuser = "web"',
    )  # fmt: skip
    first, *masks = done.stdout.splitlines()
    assert "uid=71(web) gid=72(web)" in first
    assert "73(logs)" in first
    assert [int(line.split()[1], 16) for line in masks] == [0, 0]


def test_user_working_dir_and_hostname(orch: Orch) -> None:
    done = run(
        orch, "id -u; id -g; pwd; hostname; cat /etc/hostname",
        'user = "1234:5678"\nworking_dir = "/usr/share"\nhostname = "box"',
    )  # fmt: skip
    assert done.stdout.splitlines() == ["1234", "5678", "/usr/share", "box", "box"]


def test_limits_of_the_program(orch: Orch) -> None:
    done = run(
        orch,
        "ulimit -n; ulimit -Hn; ulimit -c",
        "ulimits = { nofile = { soft = 100, hard = 200 }, core = 0 }",
    )
    assert done.stdout.splitlines() == ["100", "200", "0"]


def test_kernel_parameters_are_the_containers_own(orch: Orch) -> None:
    path = "/proc/sys/net/core/somaxconn"
    before = Path(path).read_text()
    done = run(
        orch, f"cat {path} /proc/sys/kernel/msgmax",
        'sysctls = { "net.core.somaxconn" = 321, "kernel.msgmax" = 12345 }',
    )  # fmt: skip
    assert done.stdout.split() == ["321", "12345"]
    assert Path(path).read_text() == before


def test_init_reaps_orphans_and_passes_the_exit_code_on(orch: Orch) -> None:
    script = r"""
import glob, os, time
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)  # an orphan soon
    os._exit(0)
os.wait()
for _ in range(100):
    states = [open(path).read().rpartition(") ")[2][0] for path in glob.glob("/proc/[0-9]*/stat")]
    if "Z" not in states:
        break
    time.sleep(0.02)
print(os.getpid(), "Z" in states)
raise SystemExit(6)
"""
    manifest = orch.manifest(f"""
name = "in"
[services.a]
kind = "job"
init = true
command = ["python3", "-c", '''{script}''']
""")
    done = orch.run("up", "--exit-code-from", "a", manifest, check=False)
    assert done.returncode == 6
    assert re.fullmatch(r"a-1  \| [23] False\n", done.stdout)


def test_processes_of_others_are_not_to_be_seen(orch: Orch) -> None:
    done = run(
        orch, "ls /proc | grep -c '^[0-9]'; cat /proc/1/cgroup | grep -c orch; hostname".replace("'", '"')
    )
    count, cgroups, _ = done.stdout.splitlines()
    assert int(count) <= 4
    assert cgroups == "0"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('entrypoint = ["/no/such"]', "/no/such"),
        ('entrypoint = ["/etc/passwd"]', "/etc/passwd"),
        ('user = "nobody-at-all"', "nobody-at-all"),
    ],
)
def test_why_a_container_could_not_be_started(orch: Orch, keys: str, why: str) -> None:
    up = orch.up(orch.manifest(f'name = "in"\n[services.a]\ncommand = ["true"]\n{keys}\n'), check=False)
    assert up.returncode == 1
    assert 'cannot start "in-a-1"' in up.stderr
    assert why in up.stderr
