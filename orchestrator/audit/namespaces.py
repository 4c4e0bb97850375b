"""Rules about namespaces, the container's user, and the ids that it has."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.audit.subject import Extents, Subject, finding
from orchestrator.spec import Sharing
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity

#: User and group ids that distributions give to accounts of the host (login.defs(5), systemd's UIDS-GIDS).
ACCOUNTS = 1 << 16


def user_namespace(subject: Subject) -> Iterator[FindingView]:
    """``userns = "host"``, or what came to it."""
    if subject.own_ids or not subject.has("mnt"):  # the latter is a matter of its own
        return
    why = (
        "root in it is root to the kernel: whatever hole there is in any other wall is a hole to root of the host"
        if subject.is_root
        else "its user is a user of the host, and a hole in any other wall is a hole to what that one may do"
    )
    what, remedy = "it is in the host's user namespace", 'leave userns out, or set userns = "auto"'
    if subject.force and (reason := subject.force.isolation.userns_reason):
        what, remedy = (
            f"{what}: {reason}",
            "change that, or move what it mounts to a file system that can be idmapped",
        )
    if subject.is_root:
        what, remedy = (
            f"{what}, and its program is root",
            f"{remedy}; or set user, to run it as another than root",
        )
    yield finding(HIGH if subject.is_root else MEDIUM, "userns", what, why, remedy)


def mapped_accounts(subject: Subject) -> Iterator[FindingView]:
    """A user namespace whose ids are those of accounts of the host."""
    for kind, extents in zip(("uid", "gid"), _maps(subject), strict=True):
        for inside, outside, count in extents:
            if outside >= ACCOUNTS:
                continue
            last = min(count, ACCOUNTS - outside) - 1
            people = {"uid": "users", "gid": "groups"}[kind]
            what = f"its {people} {_range(inside, last)} are {_range(outside, last)} of the host"
            if outside == 0:
                why = f"id {inside} in it is root of the host: what it makes and may touch is root's"
                severity = CRITICAL
            else:
                why = "the host's accounts have such ids: to the kernel it is them, on files and for signals"
                severity = HIGH
            remedy = f'map to ids from {ACCOUNTS} on that nobody has, or set userns = "auto"'
            yield finding(severity, f"userns.{kind}", what, why, remedy)


def _maps(subject: Subject) -> tuple[Extents, Extents]:
    if subject.force:
        return subject.force.uid_map, subject.force.gid_map
    wanted = subject.spec.userns
    uid, gid = (tuple((m.inside, m.outside, m.count) for m in side) for side in (wanted.uid, wanted.gid))
    return uid, gid


def _range(first: int, last: int) -> str:
    return f"{first}-{first + last}" if last else str(first)


def host_mounts(subject: Subject) -> Iterator[FindingView]:
    """``mnt = "host"``."""
    if not subject.has("mnt"):
        yield finding(
            CRITICAL if subject.is_root else HIGH,
            "mnt",
            "it has the host's files instead of an image's",
            "it sees all of the host's file systems, can change what its user may change, and connect to every "
            "daemon's socket; a user namespace of its own is not possible then",
            "leave mnt out, and mount the folders that it needs with volumes",
        )


def host_processes(subject: Subject) -> Iterator[FindingView]:
    """``pid = "host"``."""
    if not subject.has("pid"):
        yield finding(
            MEDIUM if subject.own_ids else HIGH,
            "pid",
            "it sees the processes of the host",
            "it reads their command lines" + ("" if subject.own_ids else ", environments and files (/proc/PID/root), "
            "and can signal those of its user"),
            "leave pid out",
        )  # fmt: skip


def host_network(subject: Subject) -> Iterator[FindingView]:
    """``network_mode = "host"``."""
    if not subject.has("net"):
        yield finding(
            HIGH,
            "network_mode",
            "it is on the host's network",
            "it reaches what listens on 127.0.0.1 and on abstract Unix sockets, whose owners expect nobody but the "
            "host's own programs, and may listen on any address of the host",
            "leave network_mode out, and publish the ports that it serves",
        )


def host_objects(subject: Subject) -> Iterator[FindingView]:
    """``ipc``, ``uts`` or ``cgroup`` of the host."""
    if not subject.has("ipc"):
        yield finding(
            MEDIUM, "ipc", "it has the host's System V IPC and POSIX message queues",
            "shared memory of the host's programs is open to it as far as their modes allow", "leave ipc out",
        )  # fmt: skip
    if not subject.has("uts"):
        changes = "SYS_ADMIN" in subject.capabilities and not subject.own_ids
        yield finding(
            MEDIUM if changes else LOW, "uts", "it has the host's name",
            "it can change the name of the host" if changes else "it sees the name of the host, and its changes",
            "leave uts out",
        )  # fmt: skip
    if not subject.has("cgroup"):
        yield finding(
            LOW, "cgroup", "it sees the cgroups of the host",
            "/proc/PID/cgroup tells how the host's services are arranged, and where it is among them",
            "leave cgroup out",
        )  # fmt: skip


def shared_namespaces(subject: Subject) -> Iterator[FindingView]:
    """``service:NAME`` and ``container:NAME``."""
    for kind, sharing in subject.spec.shared.items():
        yield _shared(kind, sharing)


def _shared(kind: str, sharing: Sharing) -> FindingView:
    key = "network_mode" if kind == "net" else kind
    stranger = sharing.kind == "container"
    return finding(
        LOW if stranger else INFO,
        key,
        f"it shares the {kind} namespace of {sharing.kind} {sharing.name}",
        "the two are one as far as that goes, and have the same user namespace: who is in one reaches the other",
        "give it one of its own" + (", or share with a service of the same project" if stranger else ""),
    )
