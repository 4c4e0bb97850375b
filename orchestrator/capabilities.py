"""Capabilities: their numbers (linux/capability.h) and what a container holds when nothing is said."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

NUMBERS = {
    name: number
    for number, name in enumerate(
        (
            "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
            "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK",
            "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN",
            "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE",
            "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
            "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
        )
    )
}  # fmt: skip

#: Podman's default, which is Docker's without AUDIT_WRITE, MKNOD and NET_RAW (containers-common, containers.conf(5)).
DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
)  # fmt: skip


def granted(add: Collection[str], drop: Collection[str]) -> tuple[str, ...]:
    """What a container may hold: the default without ``drop``, and then ``add``; ``ALL`` is every one."""
    kept = () if "ALL" in drop else tuple(name for name in DEFAULT if name not in drop)
    if "ALL" in add:
        return tuple(name for name in NUMBERS if name not in drop or name in add)
    return tuple(name for name in NUMBERS if name in kept or name in add)


def ambient(add: Collection[str], drop: Collection[str]) -> tuple[str, ...]:
    """What a container's user holds who is not root: what was added by name, or all that ``ALL`` is."""
    return granted(add, drop) if "ALL" in add else tuple(name for name in NUMBERS if name in add)


class Host(NamedTuple):
    """What this host's kernel and this service have: the kernel's last capability, and a mask of the service's own."""

    last: int
    own: int

    @classmethod
    def read(cls) -> Host:
        """Read it from /proc."""
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            last = int(file.read())
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            own = next(line for line in file if line.startswith("CapPrm:")).split()[1]
        return cls(last, int(own, 16))


def mask(names: Collection[str] = DEFAULT) -> int:
    """The set as a bit mask."""
    return sum(1 << NUMBERS[name] for name in names)


def names(bits: int) -> list[str]:
    """The names of the capabilities in a bit mask, in numeric order."""
    return [name for name, number in NUMBERS.items() if bits >> number & 1]
