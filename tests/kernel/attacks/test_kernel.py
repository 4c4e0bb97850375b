"""What a container can do to the kernel itself: its files, modules, clocks, and system calls that it need not have."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from support import inside
from support.attack import HOST_USERS, UNCONFINED, Target, capabilities, joined
from support.tampered_service import KEY

pytestmark = pytest.mark.requires("root", "netns", "overlay")

#: Files of the kernel that change the host. They are opened, and never written to.
CONTROLS = (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/panic", "/proc/sys/vm/drop_caches",
    "/proc/sys/kernel/sysrq", "/proc/sys/kernel/modprobe", "/proc/sys/fs/binfmt_misc/register",
    "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state",
    "/proc/acpi/wakeup", "/dev/kmsg",
)  # fmt: skip
#: Files of the kernel that show the host's secrets.
SECRETS = (
    "/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/interrupts", "/proc/timer_list", "/dev/mem", "/dev/kmsg",
    "/sys/firmware/acpi/tables/DSDT", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/kpageflags",
)  # fmt: skip
#: Of those, the masked ones.
MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/interrupts",
    "/proc/timer_list",
    "/sys/firmware/acpi/tables/DSDT",
)
#: A change to a launch program, without which /proc/sys is read-only.
UNLOCKED = [["drop", ["read-only", "/proc/sys"]]]


def open_to_write(paths: list[str]) -> list[str]:
    return [inside.attempt(os.open, path, os.O_WRONLY) for path in paths]


def test_settings_of_the_host_are_not_written(target: Target) -> None:
    """core_pattern and uevent_helper run a program on the host, sysrq-trigger and panic stop it.

    proc_sys(5), sysfs(5); read-only mounts, beneath which they belong to the host's root.
    """
    refused = {"EROFS", "EACCES", "EPERM", "ENOENT"}
    assert set(target.both(open_to_write, CONTROLS)) <= refused
    assert set(target.start(open_to_write, CONTROLS, options=HOST_USERS)) <= refused
    one = ["/proc/sys/kernel/core_pattern"]
    assert target.start(open_to_write, one, tamper=UNLOCKED) == ["EACCES"]
    assert target.start(open_to_write, one, options=HOST_USERS) == ["EROFS"]
    assert target.start(open_to_write, one, options=HOST_USERS, tamper=UNLOCKED) == [inside.DONE]


def change(path: str, text: str) -> list[str]:
    """Write to a file; what happened, and what it says then."""
    return [inside.attempt(inside.write, path, text), inside.read(path).strip()]


def test_settings_are_read_only_even_where_they_are_its_own(target: Target) -> None:
    """The twins change what their own namespaces have, and nothing of the host: a time to live, a name, a queue."""
    ttl, name = "/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/kernel/hostname"
    admin = capabilities("NET_ADMIN")
    assert target.both(change, ttl, "33") == ["EACCES", "64"]
    assert target.start(change, ttl, "33", options=admin) == ["EROFS", "64"]
    assert target.start(change, ttl, "33", tamper=UNLOCKED) == ["EACCES", "64"]
    assert target.start(change, ttl, "33", options=admin, tamper=UNLOCKED) == [inside.DONE, "33"]
    assert target.start(change, name, "pwned", options=HOST_USERS)[0] == "EROFS"
    assert target.start(change, name, "pwned", options=HOST_USERS, tamper=UNLOCKED) == [inside.DONE, "pwned"]
    queue = "/sys/class/net/lo/tx_queue_len"
    writable = [["before", ["stage", "rootfs"], ["mount", "", "/sys", inside.MS_REMOUNT, ""]]]
    assert target.both(change, queue, "77")[0] in ("EROFS", "EACCES")
    both_off = joined(admin, HOST_USERS)
    assert target.start(change, queue, "77", options=both_off)[0] == "EROFS"
    assert target.start(change, queue, "77", options=admin, tamper=writable)[0] == "EACCES"
    assert target.start(change, queue, "77", options=both_off, tamper=writable) == [inside.DONE, "77"]


def read_secrets(paths: list[str]) -> list[str]:
    """What can be read of each, at most some bytes."""
    found = []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            found.append(os.read(fd, 100).decode(errors="replace"))
        except OSError as error:
            found.append(inside.name(error))
    return found


def test_secrets_of_the_host_are_not_read(target: Target) -> None:
    """/proc/kcore is the host's memory (proc_kcore(5)); /proc/kmsg its log; the others say where things are.

    Masked (the OCI runtime specification's maskedPaths), or the host's root's. The twin reads a harmless one.
    """
    refused = {"", "EACCES", "EPERM", "ENOENT", "EIO"}
    assert set(target.both(read_secrets, SECRETS)) <= refused
    unmasked = 'unmask = ["/proc/interrupts"]'
    assert "CPU" in target.start(read_secrets, ["/proc/interrupts"], options=unmasked)[0]
    assert target.start(read_secrets, MASKED, options=HOST_USERS) == target.start(read_secrets, MASKED)
    assert "slabinfo" in target.start(read_secrets, ["/proc/slabinfo"], options=HOST_USERS)[0]


def load_modules() -> dict[str, str]:
    """With arguments that never load or remove anything."""
    return {
        "init_module": inside.attempt_call("init_module", None, 0, b""),
        "finit_module": inside.attempt_call("finit_module", -1, b"", 0),
        "delete_module": inside.attempt_call("delete_module", b"orch-no-such-module", os.O_NONBLOCK),
    }


def test_no_module_is_loaded(target: Target) -> None:
    """init_module(2), delete_module(2): the filter; without it CAP_SYS_MODULE, in the host's user namespace.

    Once let in, the kernel says that the arguments are nonsense; or that it has no modules (ENOSYS).
    """
    assert set(target.both(load_modules).values()) <= {"EPERM", "ENOSYS"}
    module = joined(capabilities("SYS_MODULE"), UNCONFINED)
    for options in (UNCONFINED, joined(HOST_USERS, UNCONFINED), module):
        assert set(target.start(load_modules, options=options).values()) <= {"EPERM", "ENOSYS"}
    words = target.start(load_modules, options=joined(module, HOST_USERS))
    assert words["finit_module"] in ("EBADF", "ENOSYS")
    assert words["delete_module"] in ("ENOENT", "ENOSYS")


def change_clocks() -> dict[str, str]:
    """With values that the kernel never accepts, once it has looked at who is asking."""
    tick = 0x4000  # ADJ_TICK of linux/timex.h; a tick of 1 microsecond is refused
    timex = ctypes.create_string_buffer(struct.pack("I", tick), 256)
    struct.pack_into("q", timex, 8 * 11, 1)
    nonsense = (ctypes.c_long * 2)(1, 2_000_000_000)
    return {
        "adjtimex": inside.attempt_call("adjtimex", timex),
        "clock_adjtime": inside.attempt_call("clock_adjtime", 0, timex),
        "clock_settime": inside.attempt_call("clock_settime", 0, nonsense),
        "settimeofday": inside.attempt_call("settimeofday", nonsense, None),
    }


def test_clocks_are_not_changed(target: Target) -> None:
    """clock_settime(2), adjtimex(2): the filter; without it CAP_SYS_TIME, in the host's user namespace.

    To set a time that is no time is EINVAL for everybody, so there only the filter shows.
    """
    kinds = ("adjtimex", "clock_adjtime", "clock_settime", "settimeofday")
    assert target.both(change_clocks) == dict.fromkeys(kinds, "EPERM")
    time = joined(capabilities("SYS_TIME"), UNCONFINED)
    for options in (UNCONFINED, joined(HOST_USERS, UNCONFINED), time):
        words = target.start(change_clocks, options=options)
        assert [words["adjtimex"], words["clock_adjtime"]] == ["EPERM", "EPERM"]
    assert target.start(change_clocks, options=joined(time, HOST_USERS)) == dict.fromkeys(kinds, "EINVAL")


def call_what_only_root_may() -> dict[str, str]:
    """System calls for the host's root, with arguments that would not do anything."""
    return {
        "reboot": inside.attempt_call("reboot", 0, 0, 0, None),  # neither magic number is right
        "kexec_load": inside.attempt_call("kexec_load", 0, 0, None, 0xFFFF),  # no such flags
        "swapon": inside.attempt_call("swapon", b"/nosuch", 0),
        "acct": inside.attempt_call("acct", b"/nosuch"),
        "vhangup": inside.run_in_child(lambda: inside.attempt_call("vhangup")),
        "syslog": inside.attempt_call("syslog", 10, None, 0),  # SYSLOG_ACTION_SIZE_BUFFER
        "fanotify_init": inside.attempt_call("fanotify_init", 0, 0),
        "quotactl": inside.attempt_call("quotactl", 0x800002 << 8, b"/nosuch", 0, None),  # Q_QUOTAON
    }


def test_calls_of_the_hosts_root_are_refused(target: Target) -> None:
    """What Docker's documentation lists as blocked ("Significant syscalls blocked by the default profile"); each also
    asks for a capability of the host's user namespace, and the twin has them all.
    """
    unfiltered = set(target.both(call_what_only_root_may).values())
    assert unfiltered <= {"EPERM", "ENOSYS"}
    words = target.start(call_what_only_root_may, options=UNCONFINED)
    words.pop("quotactl")  # looks for the disk first
    words.pop("fanotify_init")  # everybody may watch what everybody may read (Linux 5.13)
    words.pop("syslog")  # the size of the log is no secret unless kernel.dmesg_restrict says so
    assert set(words.values()) <= {"EPERM", "ENOSYS"}
    everything = joined(capabilities("ALL"), UNCONFINED, HOST_USERS)
    words = target.start(call_what_only_root_may, options=everything)
    assert not {word for call, word in words.items() if word == "EPERM"}, words


def use_what_few_need() -> dict[str, str]:
    """Interfaces of the kernel that have given more rights than they should, time and again."""
    attribute = ctypes.create_string_buffer(struct.pack("IIQ", 1, 128, 0), 128)  # a software clock
    struct.pack_into("Q", attribute, 40, 0x60)  # not of the kernel or hypervisor
    user_only = 1  # UFFD_USER_MODE_ONLY
    ring = ctypes.create_string_buffer(120)
    table = ctypes.create_string_buffer(struct.pack("5I", 2, 4, 4, 1, 0), 72)  # BPF_MAP_TYPE_ARRAY
    return {
        "userfaultfd": inside.attempt_call("userfaultfd", user_only),
        "io_uring_setup": inside.attempt_call("io_uring_setup", 1, ring),
        "perf_event_open": inside.attempt_call("perf_event_open", attribute, 0, -1, -1, 0),
        "bpf": inside.attempt_call("bpf", 0, table, 72),
    }


def test_interfaces_that_few_need_are_refused(target: Target) -> None:
    """userfaultfd(2), io_uring_setup(2), perf_event_open(2), bpf(2): the filter.

    The host may refuse some of them by itself (io_uring_disabled, perf_event_paranoid, unprivileged_bpf_disabled).
    """
    assert set(target.both(use_what_few_need).values()) <= {"EPERM", "ENOSYS"}
    everything = joined(UNCONFINED, capabilities("ALL"), HOST_USERS)
    assert set(target.start(use_what_few_need, options=everything).values()) == {inside.DONE}


def read_key(name: str) -> list[str]:
    """Look for a key in the session's keyring, and read it."""
    session, search, read = -3, 10, 11  # KEY_SPEC_SESSION_KEYRING, KEYCTL_SEARCH, KEYCTL_READ
    try:
        key = inside.call("keyctl", search, session, b"user", name.encode(), 0)
        buffer = ctypes.create_string_buffer(64)
        inside.call("keyctl", read, key, buffer, 64, 0)
    except OSError as error:
        return [inside.name(error)]
    return [inside.DONE, buffer.value.decode()]


def test_keys_of_the_host_are_not_read(target: Target) -> None:
    """keyrings(7), CVE-2014-9529 and the like: the filter; without it a session keyring of the container's own.

    The key is in the session keyring of the service, which the test has made for it.
    """
    assert target.both(read_key, KEY) in (["EPERM"], ["ENOSYS"])
    assert target.start(read_key, KEY, options=UNCONFINED) == ["ENOKEY"]
    shared = [["drop", ["keyring"]]]
    assert target.start(read_key, KEY, tamper=shared) in (["EPERM"], ["ENOSYS"])
    all_off = joined(UNCONFINED, HOST_USERS)
    assert target.start(read_key, KEY, options=all_off, tamper=shared) == [inside.DONE, "secret"]
