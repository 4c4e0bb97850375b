"""The default profile against what Docker documents, and against itself; decided by the filter that it becomes."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
from pathlib import Path

import pytest

from orchestrator import capabilities
from orchestrator.manifest.syscall_names import SYSTEM_CALLS
from orchestrator.runtime.seccomp import profile
from orchestrator.runtime.seccomp.filters import compile_rules
from orchestrator.runtime.seccomp.resolve import Host, resolve
from orchestrator.spec import Seccomp
from support.bpf import AARCH64, ALLOW, ARM, I386, X32, X86_64, decide

pytestmark = pytest.mark.requires("libseccomp")

EPERM, ENOSYS, EINVAL = (f"ERRNO {number}" for number in (errno.EPERM, errno.ENOSYS, errno.EINVAL))
DEFAULT = frozenset(capabilities.DEFAULT)
#: "Significant syscalls blocked by the default profile" (https://docs.docker.com/engine/security/seccomp/), all that
#: x86-64 has; clone and personality are looked at below.
DOCKERS = """
acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module get_kernel_syms get_mempolicy
init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount move_pages nfsservctl
open_by_handle_at perf_event_open pivot_root process_vm_readv process_vm_writev ptrace query_module quotactl reboot
request_key set_mempolicy setns settimeofday swapon swapoff sysfs _sysctl umount2 unshare uselib userfaultfd ustat
""".split()  # noqa: SIM905
#: Of that table, what only i386 has.
DOCKERS_I386 = ["stime", "umount", "vm86", "vm86old"]
#: Neither allowed nor refused by name: calls of other machines, and such as Linux has reserved and never had, or has
#: lost long ago. They are answered with ENOSYS, as by the kernel itself.
NOWHERE = """
afs_syscall bdflush break cachectl ftime get_tls getpmsg gtty idle listns lock mpx multiplexer oldfstat oldlstat
oldolduname oldstat olduname prof profil putpmsg riscv_flush_icache riscv_hwprobe rtas s390_guarded_storage
s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr s390_sthyi security sgetmask socketcall spu_create spu_run
ssetmask stty subpage_prot swapcontext switch_endian sys_debug_setcontext syscall sysmips timerfd tuxcall ulimit
uprobe usr26 usr32 vserver
""".split()  # noqa: SIM905


@functools.cache
def compiled(
    held: frozenset[str] = DEFAULT, machine: str = "x86_64", seccomp: Seccomp | None = None
) -> bytes:
    return compile_rules(resolve(seccomp or Seccomp(), held, Host(machine, (6, 1))))


def number(name: str, architecture: str = "X86_64") -> int:
    import pyseccomp

    if (name, architecture) == ("socket", "X86"):
        return 359  # libseccomp has but a number of its own for it
    found = int(pyseccomp.resolve_syscall(getattr(pyseccomp.Arch, architecture), name))
    assert found >= 0, f"{architecture} has no {name}"
    return found


def verdict(name: str, *args: int, held: frozenset[str] = DEFAULT) -> str:
    return decide(compiled(held), X86_64, number(name), *args)


@pytest.mark.parametrize("name", DOCKERS)
def test_what_docker_documents_as_blocked_is(name: str) -> None:
    assert verdict(name) == EPERM


@pytest.mark.parametrize("name", DOCKERS_I386)
def test_so_it_is_for_programs_of_i386(name: str) -> None:
    assert decide(compiled(), I386, number(name, "X86")) == EPERM


@pytest.mark.requires("containers-common")
def test_what_debian_allows_without_conditions_is_allowed_but_for_what_is_meant_to_be_stricter() -> None:
    profiles = json.loads(Path("/usr/share/containers/seccomp.json").read_text())
    rules = [rule for rule in profiles["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    theirs = {
        name
        for rule in rules
        if not rule["args"] and not rule["includes"] and not rule["excludes"]
        for name in rule["names"]
    }
    ours = {name for group in profile.ALLOWED for name in group.names}
    refused = {name for group in profile.REFUSED for name in group.names}
    # Debian leaves mounts and namespaces to the kernel's own checks, and so keys and the like.
    assert theirs - ours - refused == {"clone", "clone3", "socketcall", "syscall", "timerfd"}


def test_every_system_call_is_decided_on_once() -> None:
    ours = [name for group in (*profile.ALLOWED, *profile.REFUSED) for name in group.names]
    assert len(ours) == len(set(ours))
    special = {"clone", "clone3", "socket", "personality"}
    assert not special & set(ours)
    assert not (special | set(NOWHERE)) & set(ours)
    assert set(ours) | special | set(NOWHERE) == SYSTEM_CALLS


@pytest.mark.parametrize(
    "name",
    [
        "read",
        "execve",
        "futex",
        "mmap",
        "openat2",
        "accept4",
        "epoll_wait",
        "setuid",
        "chroot",
        "prctl",
        "fchmodat2",
    ],
)
def test_what_programs_need_is_allowed(name: str) -> None:
    assert verdict(name) == ALLOW


@pytest.mark.parametrize(
    "name",
    ["io_uring_setup", "io_uring_enter", "io_uring_register", "vmsplice", "pidfd_getfd", "process_madvise"],
)
def test_it_is_stricter_than_docker_where_that_costs_little(name: str) -> None:
    assert verdict(name) == EPERM


@pytest.mark.parametrize(
    "name", ["open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"]
)
def test_the_new_way_to_mount_is_closed_as_the_old_one(name: str) -> None:
    assert verdict(name) == EPERM


@pytest.mark.parametrize("call", [452 + 100, 0x3FFFFFFF])
def test_a_call_that_nobody_knows_is_answered_as_by_an_older_kernel(call: int) -> None:
    assert decide(compiled(), X86_64, call) == ENOSYS


# Arguments

NAMESPACES = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMESPACES)
def test_clone_makes_no_namespace(kind: str) -> None:
    assert verdict("clone", NAMESPACES[kind] | 17) == EPERM
    assert verdict("clone", NAMESPACES[kind] | 17, held=frozenset({"SYS_ADMIN"})) == ALLOW


def test_clone_makes_processes_and_threads() -> None:
    assert verdict("clone", 17) == ALLOW  # SIGCHLD: fork
    assert verdict("clone", 0x003D0F00) == ALLOW  # what pthread_create(3) passes


def test_clone3_does_not_exist_without_the_right_to_make_namespaces() -> None:
    assert verdict("clone3") == ENOSYS
    assert verdict("clone3", held=frozenset({"SYS_ADMIN"})) == ALLOW


@pytest.mark.parametrize("family", range(64))
def test_sockets_are_of_the_usual_families(family: int) -> None:
    assert verdict("socket", family) == (ALLOW if family in (1, 2, 10, 16, 17) else EPERM)


@pytest.mark.parametrize("family", [38, 40, (1 << 32) | 38, (1 << 32) | 40, (1 << 63) | 38])
def test_no_bit_that_the_kernel_ignores_gets_a_family_past_the_filter(family: int) -> None:
    assert verdict("socket", family) == EPERM


def test_there_is_no_auditing_for_who_may_not_write_to_it() -> None:
    assert verdict("socket", 16, 3, 9) == EINVAL
    assert verdict("socket", 16, 3, 9, held=frozenset({"AUDIT_WRITE"})) == ALLOW
    assert verdict("socket", 16, 3, 0) == ALLOW


@pytest.mark.parametrize(
    ("persona", "expected"),
    [(0, ALLOW), (8, ALLOW), (0x20000, ALLOW), (0x20008, ALLOW), (0xFFFFFFFF, ALLOW), ((1 << 64) - 1, ALLOW),
     (0x0040000, ENOSYS), (6, ENOSYS), ((1 << 32) | 0x0040000, ENOSYS)],
)  # fmt: skip
def test_personality_takes_no_protection_away(persona: int, expected: str) -> None:
    assert verdict("personality", persona) == expected


@pytest.mark.parametrize("held", [DEFAULT, frozenset[str](), frozenset({"SYS_ADMIN", "AUDIT_WRITE"})])
def test_libseccomp_expresses_the_rules_for_arguments_as_they_are_meant(held: frozenset[str]) -> None:
    rules = resolve(Seccomp(), held, Host("x86_64", (6, 1)))
    compile_rules(dataclasses.replace(rules, own=False, families=()))  # a profile of a file is verified


# Capabilities


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ("SYS_ADMIN", "mount umount2 unshare setns bpf perf_event_open fsopen quotactl sethostname syslog"),
        ("SYS_TIME", "clock_settime settimeofday clock_adjtime"),
        ("SYS_MODULE", "init_module finit_module delete_module"),
        ("SYS_PTRACE", "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise"),
        ("SYS_RAWIO", "ioperm iopl"),
        ("SYS_CHROOT", "chroot"),
        ("SYS_NICE", "mbind set_mempolicy get_mempolicy set_mempolicy_home_node"),
        ("SYSLOG", "syslog"),
        ("SYS_BOOT", "reboot"),
        ("SYS_PACCT", "acct"),
        ("PERFMON", "perf_event_open"),
        ("BPF", "bpf"),
        ("SYS_TTY_CONFIG", "vhangup"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
    ],
)  # fmt: skip
def test_a_capability_gives_back_what_it_is_for_and_no_more(capability: str, names: str) -> None:
    without, held = compiled(frozenset()), compiled(frozenset({capability}))
    for name in names.split():
        assert decide(without, X86_64, number(name)) == EPERM
        assert decide(held, X86_64, number(name)) == ALLOW
    more = {
        name
        for group in profile.REFUSED
        for name in group.names
        if capability not in group.capabilities
        and name not in ("pciconfig_iobase", "pciconfig_read", "pciconfig_write")
    } & {name for name in SYSTEM_CALLS if _exists(name)}
    assert [name for name in sorted(more) if decide(held, X86_64, number(name)) == ALLOW] == []


def _exists(name: str) -> bool:
    import pyseccomp

    return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name) >= 0)


def test_all_capabilities_together_do_not_give_back_what_none_stands_for() -> None:
    everything = compiled(frozenset(capabilities.NUMBERS))
    for name in (
        "kexec_load",
        "keyctl",
        "userfaultfd",
        "io_uring_setup",
        "pivot_root",
        "swapon",
        "move_pages",
    ):
        assert decide(everything, X86_64, number(name)) == EPERM


# Architectures


@pytest.mark.parametrize(
    "name", ["mount", "reboot", "bpf", "unshare", "init_module", "ptrace", "io_uring_setup"]
)
def test_the_other_ways_into_the_kernel_are_filtered_too(name: str) -> None:
    assert decide(compiled(), I386, number(name, "X86")) == EPERM
    assert decide(compiled(), X86_64, number(name, "X32")) == EPERM
    assert number(name, "X32") & X32
    arm = compiled(machine="aarch64")
    assert decide(arm, AARCH64, number(name, "AARCH64")) == EPERM
    assert decide(arm, ARM, number(name, "ARM")) == EPERM


@pytest.mark.parametrize("name", ["read", "write", "execve", "mmap2", "stat64", "waitpid", "clock_gettime64"])
def test_programs_of_i386_can_run(name: str) -> None:
    assert decide(compiled(), I386, number(name, "X86")) == ALLOW


@pytest.mark.parametrize("name", ["read", "openat", "execve", "clone"])
def test_programs_of_arm_can_run(name: str) -> None:
    arm = compiled(machine="aarch64")
    assert decide(arm, AARCH64, number(name, "AARCH64")) == ALLOW
    assert decide(arm, ARM, number(name, "ARM")) == ALLOW
    assert decide(arm, AARCH64, number("clone", "AARCH64"), 0x10000000) == EPERM
    assert decide(arm, ARM, number("socket", "ARM"), 38) == EPERM


def test_a_call_of_an_architecture_that_is_not_the_machines_ends_the_process() -> None:
    assert decide(compiled(), AARCH64, 64) == "KILL_PROCESS"
    assert decide(compiled(machine="aarch64"), X86_64, 1) == "KILL_PROCESS"


def test_clone_and_unshare_of_i386_make_no_namespace() -> None:
    assert decide(compiled(), I386, number("clone", "X86"), 0x10000000) == EPERM
    assert decide(compiled(), I386, number("clone", "X86"), 17) == ALLOW


@pytest.mark.parametrize("family", range(64))
def test_sockets_of_i386_are_limited_as_well(family: int) -> None:
    expected = ALLOW if family in (1, 2, 10, 16, 17) else EPERM
    assert decide(compiled(), I386, number("socket", "X86"), family) == expected


def test_socketcall_makes_no_sockets_and_does_all_else() -> None:
    call = number("socketcall", "X86")
    assert decide(compiled(), I386, call, 1) == ENOSYS  # SYS_SOCKET
    for operation in (*range(2, 5), *range(8, 21)):  # linux/net.h, without the names of ends, which follow
        assert decide(compiled(), I386, call, operation) == ALLOW, operation
    given = compiled(seccomp=Seccomp(allow=("socketcall",)))
    assert decide(given, I386, call, 1) == ALLOW
    assert decide(given, I386, number("socket", "X86"), 38) == EPERM


# Changes


def test_single_calls_can_be_allowed_and_denied() -> None:
    changed = compiled(seccomp=Seccomp(allow=("io_uring_setup", "socket", "clone3"), deny=("chmod", "clone")))
    assert decide(changed, X86_64, number("io_uring_setup")) == ALLOW
    assert decide(changed, X86_64, number("clone3")) == ALLOW
    assert decide(changed, X86_64, number("socket"), 38) == ALLOW
    assert decide(changed, I386, number("socket", "X86"), 38) == ALLOW
    assert decide(changed, X86_64, number("chmod")) == EPERM
    assert decide(changed, X86_64, number("clone"), 17) == EPERM
    assert decide(changed, X86_64, number("mount")) == EPERM


def test_sockets_can_be_denied_wholly_on_all_architectures() -> None:
    changed = compiled(seccomp=Seccomp(deny=("socket",)))
    assert decide(changed, X86_64, number("socket"), 2) == EPERM
    assert decide(changed, I386, number("socket", "X86"), 2) == EPERM
    assert decide(changed, I386, number("socketcall", "X86"), 1) == EPERM
