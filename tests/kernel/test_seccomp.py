"""Seccomp filters in force: real processes, real system calls.

Calls that must be refused have arguments that the kernel would refuse as well (-1 is no descriptor, address, flag or
size for any of them), so a filter that is not there does no harm; what the kernel says then is another errno.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.launch.explain import explain
from orchestrator.runtime.handle import ProgramFailed
from orchestrator.spec import Seccomp
from support.elf import i386_call, x86_64_call
from support.filtered import NOTHING_WORKS, Runner, profile, runner

pytestmark = pytest.mark.requires("root", "libseccomp")
UNCONFINED = Seccomp(profile="unconfined")
X32 = 0x40000000

#: Calls of x86-64 that the default profile refuses.
REFUSED = {
    "ptrace": 101, "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "pivot_root": 155, "_sysctl": 156,
    "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
    "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272,
    "vmsplice": 278, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304,
    "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip

#: Makes calls by number, with arguments of -1, and prints their errnos.
TRY = """
import ctypes, json, sys
syscall = ctypes.CDLL(None, use_errno=True).syscall
found = {}
for name, number in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    result = syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    found[name] = ctypes.get_errno() if result < 0 else 0
print(json.dumps(found))
"""


@pytest_asyncio.fixture
async def run() -> AsyncIterator[Runner]:
    async with runner() as made:
        yield made


async def errnos(run: Runner, calls: dict[str, int], seccomp: Seccomp | None = None) -> dict[str, int]:
    code, output = await run.run(sys.executable, "-c", TRY, json.dumps(calls), seccomp=seccomp)
    assert code == 0, output
    found: dict[str, int] = json.loads(output)
    return found


def program(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o755)
    return str(path)


@pytest.mark.requires("x86-64")
async def test_every_call_that_is_to_be_refused_is(run: Runner) -> None:
    assert await errnos(run, REFUSED) == dict.fromkeys(REFUSED, errno.EPERM)


@pytest.mark.requires("x86-64")
async def test_without_the_filter_the_kernel_looks_at_them(run: Runner) -> None:
    found = await errnos(run, REFUSED, UNCONFINED)
    expected = {
        "mount": errno.EFAULT, "unshare": errno.EINVAL, "setns": errno.EBADF, "ptrace": errno.ESRCH,
        "vmsplice": errno.EINVAL, "keyctl": errno.EOPNOTSUPP, "sethostname": errno.EINVAL, "kcmp": errno.ESRCH,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


async def test_new_namespaces_and_odd_sockets_are_refused_by_their_arguments(run: Runner) -> None:
    script = """
import ctypes, errno, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def result(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "fine"
def clone(flags):
    ctypes.set_errno(0)
    child = libc.syscall(ctypes.c_long({"x86_64": 56, "aarch64": 220}[os.uname().machine]),
                         ctypes.c_long(flags | signal.SIGCHLD), *[ctypes.c_long(0)] * 4)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(child, 0)
def clone3():
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(435), None, ctypes.c_long(0))
    raise OSError(ctypes.get_errno(), "clone3")
for flag in (0, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
    print(result(lambda: clone(flag)), end=" ")
print(result(clone3))
for family in (1, 2, 10, 16, 38, 40, 3, 29, 44):
    print(result(lambda: socket.socket(family, socket.SOCK_DGRAM).close()), end=" ")
print()
print(result(lambda: socket.socket(16, socket.SOCK_RAW, 9).close()))
"""
    code, output = await run.run(sys.executable, "-c", script)
    assert code == 0, output
    assert output.splitlines() == [
        "fine " + "EPERM " * 7 + "ENOSYS",
        "fine " * 4 + "EPERM EPERM EPERM EPERM EPERM ",
        "EINVAL",
    ]


async def test_what_programs_do_all_day_works(run: Runner) -> None:
    script = """
import asyncio, concurrent.futures, mmap, multiprocessing, os, signal, socket, sqlite3, subprocess, tempfile
import threading, time, select, resource
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(len, ["x"] * 100)) == 100
assert not any(subprocess.run(["true"]).returncode for _ in range(20))
children = [os.fork() or os._exit(0) for _ in range(50)]
assert not any(os.waitpid(child, 0)[1] for child in children)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
async def talk():
    async def answer(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    server = await asyncio.start_unix_server(answer, os.path.join(folder, "s"))
    reader, writer = await asyncio.open_unix_connection(os.path.join(folder, "s"))
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    server.close()
    process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert await process.communicate(b"x") == (b"x", None)
with tempfile.TemporaryDirectory() as folder:
    asyncio.run(talk())
    with sqlite3.connect(os.path.join(folder, "db")) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table t (a)")
    os.mkfifo(os.path.join(folder, "fifo"))
    os.symlink("db", os.path.join(folder, "link"))
    os.utime(os.path.join(folder, "link"))
with mmap.mmap(-1, 4096) as shared:
    shared[:1] = b"x"
signal.setitimer(signal.ITIMER_REAL, 0.001)
signal.signal(signal.SIGALRM, lambda *_: None)
select.epoll().poll(0.01)
os.memfd_create("x")
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.sched_setaffinity(0, os.sched_getaffinity(0))
os.chroot("/")
os.setgroups([1]); os.setresgid(1, 1, 1); os.setresuid(1, 1, 1)
print("done")
"""
    assert await run.run(sys.executable, "-W", "ignore", "-c", script) == (0, "done\n")


async def test_the_filter_holds_for_all_that_is_started_later(run: Runner) -> None:
    _, output = await run.run("sh", "-c", "sh -c 'grep Seccomp: /proc/self/status; exec unshare -U true'")
    assert output.startswith("Seccomp:\t2\n")
    assert "Operation not permitted" in output


async def test_the_program_inherits_no_descriptor_of_the_filter(run: Runner) -> None:
    script = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    code, output = await run.run(sys.executable, "-c", script)
    assert (code, output) == (0, "[0, 1, 2, 3]\n")  # and the one that lists


# Other architectures


@pytest.mark.requires("i386")
@pytest.mark.parametrize(
    ("call", "filtered", "unfiltered"),
    [
        ((20,), 0, 0),  # getpid
        ((21, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), errno.EPERM, errno.EFAULT),  # mount
        ((26, 0xFFFFFFFF, 1), errno.EPERM, errno.ESRCH),  # ptrace
        ((310, 0xFFFFFFFF), errno.EPERM, errno.EINVAL),  # unshare
        ((425, 0xFFFFFFFF, 0xFFFFFFFF), errno.EPERM, errno.EFAULT),  # io_uring_setup
        ((359, 1, 1, 0), 0, 0),  # socket: AF_UNIX, SOCK_STREAM
        ((359, 3, 1, 0), errno.EPERM, errno.EAFNOSUPPORT),  # AF_AX25
        ((102, 1, 0), errno.ENOSYS, errno.EFAULT),  # socketcall: SYS_SOCKET
        ((102, 2, 0), errno.EFAULT, errno.EFAULT),  # SYS_BIND
    ],
)
async def test_programs_of_i386_are_filtered(
    run: Runner, tmp_path: Path, call: tuple[int, ...], filtered: int, unfiltered: int
) -> None:
    path = program(tmp_path, "i386", i386_call(*call))
    assert await run.run(path) == (filtered, "")
    assert await run.run(path, seccomp=UNCONFINED) == (unfiltered, "")


@pytest.mark.requires("i386")
async def test_socketcall_can_be_given_back(run: Runner, tmp_path: Path) -> None:
    path = program(tmp_path, "socketcall", i386_call(102, 1, 0))
    assert await run.run(path, seccomp=Seccomp(allow=("socketcall",))) == (errno.EFAULT, "")


@pytest.mark.requires("x86-64")
async def test_calls_by_the_numbers_of_x32_are_filtered(run: Runner, tmp_path: Path) -> None:
    everything = (0xFFFFFFFF,) * 3
    mount, read = (program(tmp_path, str(n), x86_64_call(n | X32, *everything)) for n in (165, 0))
    assert await run.run(mount) == (errno.EPERM, "")
    # Whether the kernel has x32 (CONFIG_X86_X32_ABI) or not, it is the one that answers here.
    assert (await run.run(read))[0] in (errno.ENOSYS, errno.EBADF)
    assert (await run.run(mount, seccomp=UNCONFINED))[0] in (errno.ENOSYS, errno.EFAULT)


@pytest.mark.requires("i386")
async def test_an_architecture_that_a_profile_does_not_name_is_the_end_of_the_program(
    run: Runner, tmp_path: Path
) -> None:
    path = program(tmp_path, "i386", i386_call(20))
    assert await run.run(path, seccomp=profile("ALLOW", architectures=["X86"])) == (0, "")
    assert await run.run(path, seccomp=profile("ALLOW")) == (128 + signal.SIGSYS, "")


# What a filter does to the start itself


async def failure(run: Runner, seccomp: Seccomp, init: bool = False) -> ProgramFailed:
    process = await run.start("true", seccomp=seccomp, init=init)
    try:
        with pytest.raises(ProgramFailed) as caught:
            await process.started()
        await process.exited()
    finally:
        process.close()
    return caught.value


async def test_a_program_that_does_not_exist_is_reported_as_ever(run: Runner) -> None:
    process = await run.start("/no/such/program")
    with pytest.raises(ProgramFailed) as caught:
        await process.started()
    assert (caught.value.status, caught.value.errno) == (127, errno.ENOENT)
    assert (await process.exited()).code == 127
    process.close()


async def test_a_filter_that_forbids_execve_is_reported_with_the_likely_cause(run: Runner) -> None:
    found = await failure(run, profile("ALLOW", ("execve", "ERRNO")))
    assert found.operation == ["exec", ["true"]]
    text = str(explain('cannot start "x"', "host", found))
    assert "EPERM: Operation not permitted (its seccomp profile may forbid execve" in text


async def test_a_filter_that_forbids_everything_cannot_keep_the_failure_from_being_reported(
    run: Runner,
) -> None:
    found = await failure(run, Seccomp(profile="test", content=NOTHING_WORKS))
    assert found.operation == ["exec", ["true"]]
    assert found.errno == errno.EPERM


async def test_nor_can_it_with_an_init(run: Runner) -> None:
    found = await failure(run, Seccomp(profile="test", content=NOTHING_WORKS), init=True)
    assert found.operation == ["init"]
    assert found.errno == errno.EPERM


@pytest.mark.parametrize("action", ["KILL_PROCESS", "KILL_THREAD", "TRAP"])
async def test_a_filter_that_kills_is_seen_by_its_signal(run: Runner, action: str) -> None:
    process = await run.start("true", seccomp=profile("ALLOW", ("execve", action)))
    exit = await process.exited()
    assert exit.signal == signal.SIGSYS
    process.close()


async def test_a_filter_that_kills_at_everything_ends_the_start(run: Runner) -> None:
    process = await run.start("true", seccomp=profile("KILL_PROCESS"))
    assert (await process.exited()).signal == signal.SIGSYS
    process.close()


async def test_an_init_reaps_and_passes_signals_on_under_the_default(run: Runner) -> None:
    script = "trap 'exit 7' TERM; (sh -c 'exit 0' &); echo ready; while :; do sleep 0.01; done"
    process = await run.start("sh", "-c", script, init=True)
    await process.started()
    assert await asyncio.to_thread(os.read, process.descriptors["stdout"], 100) == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert (await process.exited()).code == 7
    process.close()


async def test_a_program_can_be_killed_for_a_call(run: Runner, tmp_path: Path) -> None:
    before = tmp_path.stat().st_mode
    killing = profile("ALLOW", ("chmod", "KILL_PROCESS"), ("fchmodat", "KILL_PROCESS"))
    assert await run.run("chmod", "777", str(tmp_path), seccomp=killing) == (128 + signal.SIGSYS, "")
    assert tmp_path.stat().st_mode == before
