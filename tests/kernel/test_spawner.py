"""The spawner and the child against the real kernel: one process, one feature each."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from orchestrator.errors import SpawnerError
from orchestrator.manifest.values import ULIMITS
from orchestrator.runtime import rootfs
from orchestrator.runtime.handle import ProgramFailed, SpawnerHandle
from orchestrator.runtime.program import (
    CgroupPart,
    compile_exec,
    compile_limits,
    compile_oom,
    environment,
)
from orchestrator.spec import Mount, ServiceSpec, Ulimit
from support.box import LAST_CAPABILITY, Box, read_all

pytestmark = pytest.mark.requires("root", "overlay", "netns")


async def test_a_container_has_namespaces_of_its_own(box: Box) -> None:
    kinds = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
    code, output = await box.run(
        "sh", "-c", "for n in $0; do readlink /proc/self/ns/$n; done", " ".join(kinds)
    )
    code, output = await box.run("sh", "-c", f"cd /proc/self/ns && readlink {' '.join(kinds)}")
    assert code == 0
    inside = output.split()
    assert len(inside) == len(kinds)
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}


async def test_it_is_pid_1_and_sees_no_process_of_the_host(box: Box) -> None:
    _, output = await box.run("sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'")
    pid, processes = output.split()
    assert pid == "1"
    assert int(processes) <= 4


async def test_the_host_image_shows_programs_and_no_secrets(box: Box) -> None:
    code, output = await box.run(
        "sh", "-c", "ls /root /home /etc/shadow /etc/ssh /var/lib/dpkg /run/* 2>&1; which sh"
    )
    assert "/etc/shadow': No such file" in output
    assert "/var/lib/dpkg': No such file" in output
    assert output.endswith("/bin/sh\n")
    assert code == 0


async def test_what_a_container_writes_stays_in_its_layer(box: Box) -> None:
    before = set(os.listdir("/usr"))
    code, _ = await box.run("sh", "-c", "echo x >/usr/mine && echo y >/etc/passwd && rm -rf /usr/share/doc")
    assert code == 0
    assert set(os.listdir("/usr")) == before
    upper = box.directory / "1"
    assert (upper / "layers/upper1/mine").read_text() == "x\n"
    _, output = await box.run("cat", "/etc/passwd")
    assert "root:" in output


async def test_the_host_is_out_of_reach_by_dotdot_and_descriptors(box: Box) -> None:
    marker = box.directory / "marker"
    marker.write_text("secret")
    code, output = await box.run(
        "sh",
        "-c",
        f"cat /../../../..{marker} /proc/1/root{marker} /proc/1/cwd/..{marker}; ls -l /proc/self/fd",
    )
    assert "secret" not in output
    targets = [line.split(" -> ")[1] for line in output.splitlines() if " -> " in line]
    assert all(t.startswith(("pipe:", "/dev/null", "/proc/")) for t in targets), targets
    assert code == 0


async def test_dir_image_and_hostile_symlinks_in_it(box: Box) -> None:
    """A volume's target that the image made a symlink to a host path stays within the container."""
    image, victim, source = box.directory / "image", box.directory / "victim", box.directory / "source"
    for folder in (image, victim, source):
        folder.mkdir()
    (source / "file").write_text("volume")
    for name in ("bin", "lib", "lib64", "usr", "proc", "sys", "dev", "etc"):
        (image / name).mkdir()
    (image / "data").symlink_to(victim)
    busybox = Path("/bin/busybox").read_bytes()
    (image / "bin/busybox").write_bytes(busybox)
    (image / "bin/busybox").chmod(0o755)
    code, output = await box.run(
        "/bin/busybox", "cat", "/data/file", image=f"dir:{image}",
        binds=(rootfs.Bind(str(source), "/data"),),
    )  # fmt: skip
    assert (code, output) == (0, "volume")
    assert list(victim.iterdir()) == []
    assert not (image / str(victim).lstrip("/")).exists()


async def test_an_image_whose_proc_is_a_symlink_is_refused(box: Box) -> None:
    image = box.directory / "image"
    (image / "etc").mkdir(parents=True)
    (image / "proc").symlink_to("/etc")
    process = await box.start("/x", image=f"dir:{image}")
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    assert failure.value.operation is not None
    process.close()
    assert failure.value.operation[0] == "files"  # the first to mount something on /proc
    assert failure.value.errno == errno.ELOOP


async def test_capabilities_are_the_default_and_cannot_grow(box: Box) -> None:
    _, output = await box.run("grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status")
    values = dict(line.split(":\t") for line in output.splitlines())
    assert {values[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"00000000800405fb"}
    assert {values[name] for name in ("CapInh", "CapAmb")} == {"0000000000000000"}
    assert values["NoNewPrivs"] == "1"


async def test_a_user_by_name_has_its_groups_and_no_capabilities(box: Box) -> None:
    _, output = await box.run(
        "sh", "-c", "id -un; id -u; grep CapEff /proc/self/status; echo $HOME", user="nobody"
    )
    assert output.splitlines()[:2] == ["nobody", "65534"]
    assert "CapEff:\t0000000000000000" in output


@pytest.mark.parametrize(
    ("user", "expected"), [("1234:5678", "1234 5678"), ("1234", "1234 0"), ("daemon", "1 1")]
)
async def test_users_by_number(box: Box, user: str, expected: str) -> None:
    _, output = await box.run("sh", "-c", "echo $(id -u) $(id -g)", user=user)
    assert output.strip() == expected


async def test_a_user_who_can_write_to_its_own_output(box: Box) -> None:
    code, output = await box.run("sh", "-c", "echo hi >/dev/stdout", user="nobody")
    assert (code, output) == (0, "hi\n")


async def test_an_unknown_user_is_refused(box: Box) -> None:
    process = await box.start("true", user="nemo")
    with pytest.raises(ProgramFailed, match="nemo") as failure:
        await process.started()
    assert failure.value.status == 126
    process.close()


@pytest.mark.parametrize(
    ("command", "status"), [("nosuch", 127), ("/nosuch/x", 127), ("/etc/passwd", 126), ("/etc", 126)]
)
async def test_what_cannot_be_executed(box: Box, command: str, status: int) -> None:
    process = await box.start(command)
    with pytest.raises(ProgramFailed) as failure:
        await process.started()
    assert failure.value.status == status
    assert (await process.exited()).code == status
    process.close()


async def test_kernel_files_are_masked_or_read_only(box: Box) -> None:
    script = """
    for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_seqnum; do
      (echo x >$f) 2>/dev/null && echo "wrote $f"; done
    ls /sys/firmware | wc -l; wc -c </proc/keys; wc -c </proc/interrupts"""
    _, output = await box.run("sh", "-c", script)
    assert "wrote" not in output
    assert set(output.split()) <= {"0"}


async def test_files_of_its_own_are_made_and_nothing_shows_where(box: Box) -> None:
    code, output = await box.run(
        "sh",
        "-c",
        "cat /etc/hostname /etc/resolv.conf; grep -c ' /proc ' /proc/mounts; echo x >>/etc/hostname",
    )
    assert output.split("\n") == ["box", "# none", "1", ""]
    assert code == 0


async def test_read_only_root_and_writable_tmpfs(box: Box) -> None:
    mounts = (Mount(type="tmpfs", target="/tmp", size=65536),)
    code, output = await box.run(
        "sh", "-c", "touch /x 2>&1; touch /usr/x 2>&1; touch /tmp/x && echo fine; df -k /tmp | tail -1",
        read_only=True, mounts=mounts,
    )  # fmt: skip
    assert output.count("Read-only file system") == 2
    assert "fine" in output
    assert " 64 " in output
    assert code == 0


async def test_ulimits_and_sysctls_apply(box: Box) -> None:
    code, output = await box.run(
        "sh", "-c", "ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni",
        ulimits={"nofile": Ulimit(soft=99, hard=100)}, sysctls={"kernel.shmmni": "123"},
    )  # fmt: skip
    assert output.split() == ["99", "0", "123"]
    assert code == 0


async def test_init_reaps_forwards_signals_and_passes_the_exit_code_on(box: Box) -> None:
    script = "trap 'exit 7' TERM; (sh -c 'sleep 0.01 &'); echo ready; while :; do sleep 0.05; done"
    process = await box.start("sh", "-c", script, init=True)
    await process.started()
    fd = process.take("stdout")
    assert await asyncio.to_thread(os.read, fd, 100) == b"ready\n"
    os.close(fd)
    process.send_signal(signal.SIGTERM)
    assert (await process.exited()).code == 7
    process.close()


async def test_init_does_not_show_the_hosts_paths(box: Box) -> None:
    _, output = await box.run("sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; cat /proc/1/comm", init=True)
    assert "python" not in output
    assert output.split() == ["init", "init"]


async def test_signals_reach_the_program_with_default_dispositions(tmp_path: Path) -> None:
    """Whatever whoever started the service ignored: SIGUSR2 by hand, and 32, which libc keeps for itself."""
    old = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    spawner = await SpawnerHandle.start()
    signal.signal(signal.SIGUSR2, old)
    box = Box(spawner, tmp_path)
    _, output = await box.run("cat", "/proc/self/status")
    masks = [
        line.split("\t")[1] for line in output.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
    ]
    await spawner.close()
    assert masks == ["0000000000000000"] * 3


#: Name of a limit -> its line in /proc/PID/limits, and what is asked (soft, hard); all of it less than anybody has.
LIMITS = {
    "as": ("Max address space", 1 << 33, 1 << 34),
    "core": ("Max core file size", 0, 4096),
    "cpu": ("Max cpu time", 100, 200),
    "data": ("Max data size", 1 << 31, 1 << 32),
    "fsize": ("Max file size", 1 << 20, 1 << 21),
    "locks": ("Max file locks", 10, 20),
    "memlock": ("Max locked memory", 4096, 8192),
    "msgqueue": ("Max msgqueue size", 1000, 2000),
    "nice": ("Max nice priority", 0, 0),
    "nofile": ("Max open files", 50, 60),
    "nproc": ("Max processes", 500, 600),
    "rss": ("Max resident set", 1 << 20, 1 << 21),
    "rtprio": ("Max realtime priority", 0, 0),
    "rttime": ("Max realtime timeout", 1000, 2000),
    "sigpending": ("Max pending signals", 10, 20),
    "stack": ("Max stack size", 1 << 20, 1 << 21),
}


def parse_limits(text: str) -> dict[str, tuple[str, str]]:
    """Soft and hard limits by the names of /proc/PID/limits, whose first column has 26 characters."""
    rows = (line[:26].strip() for line in text.splitlines()[1:])
    words = (line[26:].split()[:2] for line in text.splitlines()[1:])
    return {row: (soft, hard) for row, (soft, hard) in zip(rows, words, strict=True)}


async def test_every_limit_can_be_set(box: Box) -> None:
    assert set(LIMITS) == set(ULIMITS)
    wanted = {name: Ulimit(soft=soft, hard=hard) for name, (_, soft, hard) in LIMITS.items()}
    code, output = await box.run("cat", "/proc/self/limits", ulimits=wanted)
    assert code == 0
    assert parse_limits(output) == {row: (str(soft), str(hard)) for row, soft, hard in LIMITS.values()}


async def test_without_a_word_there_are_no_core_files_and_few_descriptors(box: Box) -> None:
    _, output = await box.run("cat", "/proc/self/limits")
    found, own = parse_limits(output), parse_limits(Path("/proc/self/limits").read_text())
    hard = own["Max open files"][1]
    assert found.pop("Max core file size") == ("0", "0")
    assert found.pop("Max open files") == (str(min(1024, int(hard))), hard)
    assert found == {row: own[row] for row in found}


@pytest.mark.parametrize("adjustment", [0, 600, 1000])
async def test_the_kernels_choice_of_a_victim_is_told(box: Box, adjustment: int) -> None:
    _, output = await box.run("cat", "/proc/self/oom_score_adj", oom_score_adj=adjustment)
    assert output == f"{adjustment}\n"


async def test_exec_has_the_containers_limits(box: Box) -> None:
    spec = ServiceSpec(name="x", oom_score_adj=700, ulimits={"nofile": Ulimit(soft=30, hard=40)})
    process = await box.start("sleep", "60")
    await process.started()
    program = compile_exec(
        spec, ["cat", "/proc/self/oom_score_adj", "/proc/self/limits"], environment(spec, "box"), CgroupPart(),
        LAST_CAPABILITY, box.maps, limits=compile_oom(spec, None) + compile_limits(spec),
    )  # fmt: skip
    extra = box.spawner.launch(program, [process.pidfd])
    await extra.started()
    first, _, rest = (await asyncio.to_thread(read_all, extra.take("stdout"))).partition("\n")
    assert (first, parse_limits(rest)["Max open files"]) == ("700", ("30", "40"))
    await extra.exited()
    extra.close()
    process.send_signal(signal.SIGKILL)
    await process.exited()
    process.close()


async def test_exec_joins_every_namespace(box: Box) -> None:
    process = await box.start("sleep", "60")
    await process.started()
    kinds = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
    argv = [
        "sh",
        "-c",
        f"cd /proc/1/ns && readlink {' '.join(kinds)}; cd /proc/self/ns && readlink {' '.join(kinds)}",
    ]
    spec = ServiceSpec(name="x")
    extra = box.spawner.launch(
        compile_exec(spec, argv, environment(spec, "box"), CgroupPart(), LAST_CAPABILITY, box.maps),
        [process.pidfd],
    )
    await extra.started()
    output = (await asyncio.to_thread(read_all, extra.take("stdout"))).split()
    assert (await extra.exited()).code == 0
    assert output[: len(kinds)] == output[len(kinds) :]
    extra.close()
    process.send_signal(signal.SIGKILL)
    assert (await process.exited()).signal == signal.SIGKILL
    process.close()


async def test_a_terminal_has_job_control_and_its_size(box: Box) -> None:
    process = await box.start("sleep", "60")
    await process.started()
    spec = ServiceSpec(name="x")
    argv = ["sh", "-c", "stty size; tty; exit 5"]
    program = compile_exec(
        spec, argv, environment(spec, "box", True), CgroupPart(), LAST_CAPABILITY, box.maps, terminal=(33, 77)
    )
    extra = box.spawner.launch(program, [process.pidfd])
    await extra.started()
    master = extra.take("terminal")
    output = b""
    while True:
        try:
            output += await asyncio.to_thread(os.read, master, 1000)
        except OSError:  # EIO: the other end is closed
            break
    os.close(master)
    assert output.split() == [b"33", b"77", b"/dev/pts/0"]
    assert (await extra.exited()).code == 5
    extra.close()
    process.send_signal(signal.SIGKILL)
    await process.exited()
    process.close()


async def test_everything_dies_with_the_spawner(box: Box) -> None:
    process = await box.start("sleep", "60")
    await process.started()
    os.kill(box.spawner.pid, signal.SIGKILL)
    with pytest.raises(SpawnerError):
        await process.exited()
    await asyncio.to_thread(wait_for_end, process.pidfd)
    process.close()
    with pytest.raises(SpawnerError):
        box.spawner.launch(process.program)


def wait_for_end(pidfd: int) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000), "the container outlived its spawner"


async def test_a_failed_prepare_is_reported_and_leaves_nothing(box: Box) -> None:
    await box.run("true")
    before = len(os.listdir(f"/proc/{box.spawner.pid}/fd"))
    for _ in range(20):
        program = compile_exec(ServiceSpec(name="x"), ["true"], {}, CgroupPart(), LAST_CAPABILITY)
        broken = type(program)(
            **{**program.to_wire(), "prepare": [["mkdir", "/nosuch/x", 0o755]], "slots": [], "join": None}
        )
        process = box.spawner.launch(broken)
        with pytest.raises(ProgramFailed) as failure:
            await process.cloned()
        assert failure.value.operation == ["mkdir", "/nosuch/x", 0o755]
        assert (await process.exited()).code == 125
        process.close()
    assert len(os.listdir(f"/proc/{box.spawner.pid}/fd")) == before


async def test_host_commands_run_in_the_hosts_namespaces(box: Box) -> None:
    code, output, errors = await box.spawner.run_host(["cat"], b"x" * 300_000)
    assert (code, len(output), errors) == (0, 300_000, b"")
    code, _, errors = await box.spawner.run_host(["sh", "-c", "echo no >&2; exit 3"])
    assert (code, errors) == (3, b"no\n")
    with pytest.raises(SpawnerError, match="nosuch"):
        await box.spawner.run_host(["nosuch"])


async def test_large_environments_cross_the_socket(box: Box) -> None:
    big = {f"V{n}": "x" * 1000 for n in range(300)}
    code, output = await box.run("sh", "-c", "env | wc -c", environment=big)
    assert code == 0
    assert int(output) > 300_000


def test_the_spawner_imports_little() -> None:
    import subprocess

    code = "import sys, orchestrator.runtime.spawner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert not packages & {"asyncio", "logging", "msgspec", "pyroute2", "structlog", "typing_extensions"}
