"""Rules about capabilities, ``no_new_privileges`` and groups.

What a capability is good for is capabilities(7)'s; whether it reaches beyond a user namespace is whether the kernel
asks capable(), which means the first one, or ns_capable().
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from orchestrator import capabilities
from orchestrator.audit.subject import Subject, finding
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity


class Power(NamedTuple):
    """What a capability is good for.

    :param host: how bad that is with the host's ids.
    :param own: how bad it is in a user namespace of the container's own; None where it is worth nothing there.
    :param does: what a program can do with it.
    """

    host: Severity
    own: Severity | None
    does: str


POWERS = {
    "AUDIT_CONTROL": Power(HIGH, None, "switch the kernel's auditing off, and change its rules"),
    "AUDIT_READ": Power(MEDIUM, None, "read what the whole host's programs are audited for"),
    "AUDIT_WRITE": Power(LOW, None, "write records of its own into the kernel's audit log"),
    "BLOCK_SUSPEND": Power(LOW, None, "keep the host from suspending"),
    "BPF": Power(HIGH, None, "load programs into the kernel, and see what others there see"),
    "CHECKPOINT_RESTORE": Power(MEDIUM, LOW, "choose process ids, and look into the files that others have mapped"),
    "DAC_READ_SEARCH": Power(
        CRITICAL, LOW, "open any file of the host by its handle, past mounts and permissions (open_by_handle_at(2))"
    ),
    "IPC_LOCK": Power(LOW, None, "lock more memory than its ulimit allows"),
    "IPC_OWNER": Power(LOW, LOW, "use every object of System V IPC in its namespace, whoever owns it"),
    "LEASE": Power(LOW, None, "hold up others who open a file that it has a lease on"),
    "LINUX_IMMUTABLE": Power(MEDIUM, None, "make files on its volumes that nobody can change or delete"),
    "MAC_ADMIN": Power(HIGH, None, "change the policy of the security modules"),
    "MAC_OVERRIDE": Power(HIGH, None, "disregard the policy of a security module (Smack)"),
    "MKNOD": Power(MEDIUM, None, "make device nodes, which only the device rules then keep it from using"),
    "NET_ADMIN": Power(
        MEDIUM, MEDIUM, "change its interfaces, routes and firewall, and reach the parts of the kernel's network code "
        "in which the most holes are found"
    ),
    "NET_BROADCAST": Power(LOW, None, "nothing yet: the kernel does not use it"),
    "NET_RAW": Power(MEDIUM, MEDIUM, "forge packets, and so pass for its neighbours on its networks"),
    "PERFMON": Power(HIGH, None, "watch the kernel and every process of the host at work"),
    "SYS_ADMIN": Power(
        CRITICAL, HIGH, "mount file systems, enter namespaces and much else: it is the larger half of being root"
    ),
    "SYS_BOOT": Power(CRITICAL, None, "start another kernel in place of the host's (kexec_load(2))"),
    "SYS_MODULE": Power(CRITICAL, None, "load any code into the kernel"),
    "SYS_NICE": Power(MEDIUM, None, "take the processors from the host's programs with real-time priority"),
    "SYS_PACCT": Power(LOW, None, "switch process accounting of the host on and off"),
    "SYS_PTRACE": Power(MEDIUM, LOW, "read and change the memory of every process that it can see"),
    "SYS_RAWIO": Power(CRITICAL, None, "reach the host's hardware and memory through I/O ports and /dev/mem"),
    "SYS_RESOURCE": Power(MEDIUM, None, "go beyond ulimits, quotas and the blocks that disks reserve for root"),
    "SYS_TIME": Power(HIGH, None, "set the clock of the whole host"),
    "SYS_TTY_CONFIG": Power(LOW, None, "hang up and reconfigure the host's terminals"),
    "SYSLOG": Power(MEDIUM, None, "read and clear the kernel's log, which tells its addresses"),
    "WAKE_ALARM": Power(LOW, None, "set alarms that wake the host"),
}  # fmt: skip
#: Capabilities that are about a network namespace: worth as much as that is.
_OF_THE_NETWORK = ("NET_ADMIN", "NET_RAW")
_LESS = "leave it out; if one program of the container needs it, give it to that one alone, in a service of its own"


def added_capabilities(subject: Subject) -> Iterator[FindingView]:
    """``cap_add`` beyond the default."""
    for name in subject.spec.cap_add:
        if name == "ALL":
            yield _everything(subject)
        elif name not in capabilities.DEFAULT:
            yield _added(subject, name)


def _everything(subject: Subject) -> FindingView:
    severity = HIGH if subject.own_ids else CRITICAL
    why = (
        "in its own user namespace it can do whatever root can, and reach most of the kernel's code"
        if subject.own_ids
        else "it can do whatever root of the host can"
    )
    return finding(
        severity, "cap_add", "it may hold every capability", why, "add only those that it needs, by name"
    )


def _added(subject: Subject, name: str) -> FindingView:
    power = POWERS[name]
    what, can = f"{name} is added to the default capabilities", f"it lets a program {power.does}"
    if subject.own_ids:
        on_host_network = name in _OF_THE_NETWORK and not subject.has("net")
        if power.own is None or on_host_network:
            why = f"{can}; in its own user namespace the kernel refuses that, so it is of no use"
            return finding(LOW, "cap_add", what, why, "leave it out")
        return finding(power.own, "cap_add", what, can, _LESS)
    severity = HIGH if name in _OF_THE_NETWORK and not subject.has("net") else power.host
    return finding(
        severity, "cap_add", what, f"{can}; it has the host's ids, so nothing limits that to it", _LESS
    )


def new_privileges(subject: Subject) -> Iterator[FindingView]:
    """``no_new_privileges = false``."""
    if not subject.spec.no_new_privileges:
        yield finding(
            LOW if subject.is_root else MEDIUM,
            "no_new_privileges",
            "its programs may gain privileges by being executed",
            "a setuid program or file capability of the image, or one that an intruder leaves there, makes root of "
            "any user",
            "leave no_new_privileges out, and start the program as the user that it should be",
        )


def host_groups(subject: Subject) -> Iterator[FindingView]:
    """``group_add`` where groups are the host's."""
    if subject.spec.group_add and not subject.own_ids:
        yield finding(
            LOW,
            "group_add",
            f"it is in further groups of the host: {', '.join(subject.spec.group_add)}",
            "without a user namespace they open what those groups may open on the host, on its volumes and devices",
            'leave them out, or set userns = "auto"',
        )
