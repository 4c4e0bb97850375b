"""The default profile: what programs in containers need, by purpose, and what they do not get.

An allow-list. A call that is known to be dangerous, or to be about the host and not the container, is refused with
EPERM; of those, a capability gives some back, since who has it may do the same by other ways. Every other call, also
one that is newer than this file, is answered as by a kernel that does not have it (ENOSYS), so that the C library
falls back to an older one.

It refuses at least what Docker's does (https://docs.docker.com/engine/security/seccomp/, a test compares), and
beyond it, since they are rarely needed and have often been the way out of a container: ptrace(2) and the like without
CAP_SYS_PTRACE, io_uring, vmsplice(2), and sockets of unusual families.
"""

from __future__ import annotations

import errno
import functools
import socket
from typing import NamedTuple

from orchestrator.spec import SeccompProfile, SyscallArgument, SyscallCondition, SyscallRule


class Group(NamedTuple):
    """Calls that serve one purpose.

    :ivar capabilities: any one of them gives the calls back; none does when there are none.
    """

    purpose: str
    names: tuple[str, ...]
    capabilities: tuple[str, ...] = ()


def _group(purpose: str, names: str, *capabilities: str) -> Group:
    return Group(purpose, tuple(names.split()), capabilities)


# Names with 16, 32, 64, time64, old or new in them are the forms that 32-bit machines have, i386 above all.
ALLOWED = (
    _group(
        "read and write what is open",
        """read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek
        sendfile sendfile64 splice tee copy_file_range readahead fadvise64 fadvise64_64 arm_fadvise64_64
        sync syncfs fsync fdatasync sync_file_range sync_file_range2 arm_sync_file_range cachestat
        ftruncate ftruncate64 fallocate flock fcntl fcntl64 ioctl dup dup2 dup3 close close_range pipe pipe2""",
    ),
    _group(
        "open, make, find and remove files",
        """open openat openat2 creat access faccessat faccessat2 getcwd chdir fchdir getdents getdents64 readdir
        link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat renameat2
        mkdir mkdirat rmdir mknod mknodat truncate truncate64 umask name_to_handle_at""",
    ),
    _group(
        "see and set what files are like",
        """stat stat64 lstat lstat64 fstat fstat64 newfstatat fstatat64 statx
        statfs statfs64 fstatfs fstatfs64 statmount listmount
        chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 lchown lchown32 fchownat
        utime utimes futimesat utimensat utimensat_time64 file_getattr file_setattr
        getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
        listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat""",
    ),
    _group(
        "watch files, and wait for events",
        """inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
        poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4""",
    ),
    _group(
        "asynchronous input and output of the old kind, which databases use",
        """io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
        ioprio_get ioprio_set""",
    ),
    _group(
        "processes and threads; clone(2) is below",
        """execve execveat exit exit_group fork vfork wait4 waitid waitpid
        getpid getppid gettid getpgid getpgrp setpgid getsid setsid
        pidfd_open pidfd_send_signal process_mrelease restart_syscall
        set_tid_address set_thread_area get_thread_area set_robust_list get_robust_list rseq membarrier""",
    ),
    _group(
        "signals",
        """kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn sigaltstack pause
        signal sigaction sigprocmask sigpending sigsuspend sigreturn""",
    ),
    _group(
        "locks",
        "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue",
    ),
    _group(
        "memory",
        """brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall
        remap_file_pages memfd_create memfd_secret mseal map_shadow_stack
        pkey_alloc pkey_free pkey_mprotect""",
    ),
    _group(
        "memory, semaphores and queues that processes of one IPC namespace share",
        """ipc shmget shmat shmdt shmctl semget semop semctl semtimedop semtimedop_time64
        msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_notify mq_getsetattr
        mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64""",
    ),
    _group(
        "the network; socket(2) is below, and so is i386's socketcall(2)",
        """socketpair bind connect listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt
        send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64""",
    ),
    _group(
        "read the clocks, sleep, and be woken; adjtimex(2) sets nothing without CAP_SYS_TIME",
        """time times gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 adjtimex
        nanosleep clock_nanosleep clock_nanosleep_time64 alarm getitimer setitimer
        timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
        timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64""",
    ),
    _group(
        "users, groups and capabilities; the kernel asks for the right ones",
        """getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getgroups getgroups32
        getresuid getresuid32 getresgid getresgid32 setuid setuid32 setgid setgid32 setgroups setgroups32
        setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32
        setfsuid setfsuid32 setfsgid setfsgid32 capget capset""",
    ),
    _group(
        "scheduling and limits, of oneself as far as the kernel permits",
        """sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler
        sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min
        sched_rr_get_interval sched_rr_get_interval_time64 getpriority setpriority nice getcpu
        getrlimit ugetrlimit setrlimit prlimit64 getrusage""",
    ),
    _group("what system this is, and random numbers", "uname sysinfo getrandom"),
    _group(
        "give up rights, and confine oneself further",
        "prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    _group(
        "what processors need: thread registers, segments (Wine), return from probes, ARM's own calls",
        "arch_prctl modify_ldt uretprobe breakpoint cacheflush set_tls",
    ),
)

#: Refused with EPERM, unless the container has one of the capabilities.
REFUSED = (
    _group(
        "mounts and namespaces: the container's boundary itself",
        """mount umount umount2 open_tree open_tree_attr move_mount mount_setattr fsopen fsconfig fsmount fspick
        setns unshare sethostname setdomainname""",
        "SYS_ADMIN",
    ),
    _group("another root by which to leave the container's", "pivot_root"),
    _group("chroot within it", "chroot", "SYS_CHROOT"),
    _group(
        "files by number, past all paths: the way out of a container once",
        "open_by_handle_at",
        "DAC_READ_SEARCH",
    ),
    _group(
        "see into other processes, and take their memory and descriptors",
        "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp",
        "SYS_PTRACE",
    ),
    _group("programs in the kernel", "bpf", "SYS_ADMIN", "BPF"),
    _group("measure the whole host", "perf_event_open", "SYS_ADMIN", "PERFMON"),
    _group("measure the whole host, the obsolete way", "lookup_dcookie", "SYS_ADMIN"),
    _group("the kernel's log, with its addresses", "syslog", "SYS_ADMIN", "SYSLOG"),
    _group("watch and hold up file accesses of a whole file system", "fanotify_init", "SYS_ADMIN"),
    _group("quotas, which are the host's", "quotactl quotactl_fd", "SYS_ADMIN"),
    _group(
        "attributes that security modules give",
        "lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
        "SYS_ADMIN",
    ),
    _group(
        "the clock, which is everybody's",
        "settimeofday stime clock_settime clock_settime64 clock_adjtime clock_adjtime64",
        "SYS_TIME",
    ),
    _group("the kernel's code", "init_module finit_module delete_module", "SYS_MODULE"),
    _group("the machine's power", "reboot", "SYS_BOOT"),
    _group("another kernel", "kexec_load kexec_file_load"),
    _group("the host's swap", "swapon swapoff"),
    _group(
        "ports of the hardware", "ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write", "SYS_RAWIO"
    ),
    _group("record processes' ends in a file", "acct", "SYS_PACCT"),
    _group("terminals of others", "vhangup", "SYS_TTY_CONFIG"),
    _group(
        "on which memory of the machine pages lie",
        "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
        "SYS_NICE",
    ),
    _group("move pages of any process", "move_pages migrate_pages"),
    _group("keys, which are the user's and not the container's", "add_key request_key keyctl"),
    _group("hold the kernel up in the middle of a page fault", "userfaultfd"),
    _group(
        "a second way to make system calls, past every filter of them (and rich in bugs)",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    _group("give pages to a pipe that the giver still writes to", "vmsplice"),
    _group(
        "obsolete, untested, and with no use in containers",
        """_sysctl sysfs ustat uselib nfsservctl create_module query_module get_kernel_syms vm86 vm86old""",
    ),
)

#: Answered with ENOSYS even to those who may use it, or else its flags, in memory, could not be looked at.
_CLONE3 = "clone3"

# linux/sched.h, all of CLONE_NEW... that clone(2) takes
_NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)

#: Families of sockets that may be made (linux/socket.h has 46). AF_ALG has given root on the host to everybody
#: (CVE-2026-31431), AF_VSOCK reaches the hypervisor; the others are parts of the kernel that are rarely tested and are
#: loaded when somebody asks.
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)
_NETLINK_AUDIT = 9  # linux/netlink.h

#: What personality(2) may set or ask: Linux, with 32 bits, with the version 2.6; 0xffffffff asks. The others switch off
#: address space randomization, or emulate systems that nobody has tested for decades.
_PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)


def _argument(index: int, op: str, value: int, value_two: int = 0) -> SyscallArgument:
    return SyscallArgument(index=index, op=op, value=value, value_two=value_two)


def _with(*capabilities: str) -> SyscallCondition:
    return SyscallCondition(caps=capabilities)


def _refusal(names: tuple[str, ...], number: int = errno.EPERM, **rest: object) -> SyscallRule:
    return SyscallRule(names=names, action="ERRNO", errno=number, **rest)  # type: ignore[arg-type]


def _clone() -> list[SyscallRule]:
    every = sum(_NAMESPACE_FLAGS)
    privileged = _with("SYS_ADMIN")
    return [
        SyscallRule(names=("clone", _CLONE3), action="ALLOW", includes=privileged),
        SyscallRule(
            names=("clone",), action="ALLOW", args=(_argument(0, "MASKED_EQ", every, 0),), excludes=privileged
        ),
        *(
            _refusal(("clone",), args=(_argument(0, "MASKED_EQ", flag, flag),), excludes=privileged)
            for flag in _NAMESPACE_FLAGS
        ),
        _refusal((_CLONE3,), errno.ENOSYS, excludes=privileged),
    ]


def _socket() -> list[SyscallRule]:
    """By family; together the rules cover every number, and no two of them overlap."""
    plain = [family for family in FAMILIES if family != socket.AF_NETLINK]
    lowest = range(max(FAMILIES) + 1)
    netlink = _argument(0, "EQ", socket.AF_NETLINK)
    audit = _with("AUDIT_WRITE")
    return [
        *(SyscallRule(names=("socket",), action="ALLOW", args=(_argument(0, "EQ", n),)) for n in plain),
        # Without the right to write audit records a program (su, sshd) shall find that there is no auditing, and go
        # on; a socket that refuses them makes it fail.
        SyscallRule(names=("socket",), action="ALLOW", args=(netlink,), includes=audit),
        SyscallRule(
            names=("socket",), action="ALLOW", args=(netlink, _argument(2, "NE", _NETLINK_AUDIT)), excludes=audit
        ),
        _refusal(
            ("socket",), errno.EINVAL, args=(netlink, _argument(2, "EQ", _NETLINK_AUDIT)), excludes=audit
        ),
        *(_refusal(("socket",), args=(_argument(0, "EQ", n),)) for n in lowest if n not in FAMILIES),
        _refusal(("socket",), args=(_argument(0, "GT", max(FAMILIES)),)),
    ]  # fmt: skip


def _personality() -> list[SyscallRule]:
    # The kernel looks at 32 bits of it, and so must the rule.
    return [
        SyscallRule(
            names=("personality",), action="ALLOW", args=(_argument(0, "MASKED_EQ", 0xFFFFFFFF, value),)
        )
        for value in _PERSONALITIES
    ]


@functools.cache
def default_profile() -> SeccompProfile:
    """The default as a profile in the form that files have."""
    rules = [SyscallRule(names=group.names, action="ALLOW") for group in ALLOWED]
    for group in REFUSED:
        rules += [
            SyscallRule(names=group.names, action="ALLOW", includes=_with(capability))
            for capability in group.capabilities
        ]
        rules.append(_refusal(group.names, excludes=_with(*group.capabilities)))
    return SeccompProfile(
        action="ERRNO",
        errno=errno.ENOSYS,
        arch_map={"X86_64": ("X86", "X32"), "AARCH64": ("ARM",)},
        rules=(*rules, *_clone(), *_socket(), *_personality()),
    )
