"""Rules about what walls there are besides each other, and what is worse together than each alone."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator import capabilities
from orchestrator.audit.subject import InForce, Subject, finding
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity

UNCONFINED = "unconfined"
#: Types of processes that policies let do anything (container_selinux(8)).
_UNCONFINED_TYPES = ("spc_t", "unconfined_t", "unconfined_service_t")
#: The mode of an AppArmor profile that forbids nothing (apparmor(7)).
_COMPLAINS = "(complain)"
#: Calls that the default profile refuses though they need no capability: much of the kernel is behind them, and many
#: holes were.
REACHABLE = frozenset(
    {
        "add_key", "bpf", "clone3", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl",
        "perf_event_open", "process_vm_readv", "process_vm_writev", "ptrace", "request_key", "setns", "socket",
        "socketcall", "unshare", "userfaultfd", "vmsplice",
    }
)  # fmt: skip
#: Actions by which a call takes place (seccomp(2)).
_PERMITTING = ("ALLOW", "LOG")


def combinations(subject: Subject) -> Iterator[FindingView]:
    """Ways to root of the host that take more than one deviation."""
    if subject.own_ids:
        return
    held = _held(subject)
    if "SYS_ADMIN" in held and subject.spec.seccomp.profile == UNCONFINED:
        yield finding(
            CRITICAL, "cap_add, seccomp, userns",
            "SYS_ADMIN, no filter of system calls and the host's ids come together",
            "it can mount the host's file systems and enter its namespaces, and so is root of the host",
            "take one of the three away; to have ids of its own costs the least",
        )  # fmt: skip
    if "SYS_PTRACE" in held and not subject.has("pid"):
        yield finding(
            CRITICAL, "cap_add, pid, userns",
            "SYS_PTRACE, the host's processes and the host's ids come together",
            "it can take over any process of the host, and so is root of the host",
            "take one of the three away; to have ids of its own costs the least",
        )  # fmt: skip


def labels(subject: Subject) -> Iterator[FindingView]:
    """``selinux`` and ``apparmor`` switched off, or nothing there to switch on."""
    why = "the module's policy is the wall that still stands when a program has broken through the others"
    if subject.spec.selinux.disable:
        yield finding(
            MEDIUM, "selinux", "it has no SELinux label of its own where the host uses SELinux", why,
            "leave selinux out; if it cannot use a path of the host, relabel that (:z or :Z)",
        )  # fmt: skip
    elif subject.spec.selinux.type in _UNCONFINED_TYPES:
        yield finding(
            MEDIUM, "selinux", f"its SELinux type {subject.spec.selinux.type} forbids it nothing", why,
            "leave the type out, or name one that allows what it lacks",
        )  # fmt: skip
    if subject.spec.apparmor == UNCONFINED:
        yield finding(
            MEDIUM, "apparmor", "no AppArmor profile holds it where the host uses AppArmor", why,
            "leave apparmor out, or name a profile that allows what it lacks",
        )  # fmt: skip
    if subject.force:
        yield from _in_force(subject.force, why)


def _in_force(force: InForce, why: str) -> Iterator[FindingView]:
    label, key = force.isolation.label, "apparmor, selinux"
    if force.label_note:
        what = f"it is held by less than this host could give: {force.label_note}"
        yield finding(LOW, key, what, why, "see to that, and make the container anew")
    elif label and label.endswith(_COMPLAINS):
        yield finding(
            MEDIUM, "apparmor", f"its AppArmor profile only complains: {label}",
            "what the profile forbids is logged, and takes place", "have it enforced: aa-enforce(8)",
        )  # fmt: skip
    elif label in ("", UNCONFINED) and not force.label:
        yield finding(INFO, key, "no security module holds it", why, "use a host with SELinux or AppArmor")


def system_calls(subject: Subject) -> Iterator[FindingView]:
    """``seccomp``: another filter than the default, or none."""
    seccomp = subject.spec.seccomp
    if seccomp.profile == UNCONFINED:
        yield finding(
            HIGH, "seccomp", "no filter keeps it from any system call",
            "all of the kernel is open to it, also the calls that programs hardly need and in which holes are found",
            "leave seccomp out, and name the calls that it lacks in seccomp.allow",
        )  # fmt: skip
    elif seccomp.content and seccomp.content.action in _PERMITTING:
        yield finding(
            MEDIUM, "seccomp", f"its profile {seccomp.profile} allows every call that it does not name",
            "what the next kernel brings is allowed too", "write a profile that names what is allowed",
        )  # fmt: skip
    elif seccomp.content:
        yield finding(
            INFO, "seccomp", f"it has a profile of its own: {seccomp.profile}",
            "an audit does not judge what that allows", "leave seccomp out if the default is enough",
        )  # fmt: skip
    for name in seccomp.allow:
        yield finding(
            MEDIUM if name in REACHABLE else LOW, "seccomp.allow",
            f"system call {name} is allowed whatever the profile says",
            "the profile refuses what few programs need and attacks use", "leave it out, if the program runs without",
        )  # fmt: skip


def _held(subject: Subject) -> tuple[str, ...]:
    """What its program holds from the start."""
    spec = subject.spec
    return subject.capabilities if subject.is_root else capabilities.ambient(spec.cap_add, spec.cap_drop)
