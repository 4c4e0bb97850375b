"""Rules about the host's files that a container sees."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from orchestrator.audit.subject import Subject, finding
from orchestrator.spec import Mount
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity


class Place(NamedTuple):
    """A place of the host, and how bad it is when a container may read it, and write to it; None: not at all.

    :param below: the same of what lies below it, for which no place of its own is listed.
    """

    path: str
    read: Severity | None
    write: Severity | None
    below: tuple[Severity | None, Severity | None]
    why: str


_PROGRAMS = "what is changed there, the host's root runs"
_SECRETS = "there are keys and passwords of the host"
_STATE = "there is what all containers of another engine are made of, and their secrets"
PLACES = (
    Place("/", HIGH, CRITICAL, (None, None), "it is everything that the host has"),
    Place("/bin", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/boot", LOW, CRITICAL, (LOW, CRITICAL), "it is what the host boots"),
    Place("/dev", HIGH, HIGH, (MEDIUM, MEDIUM), "the host's devices are there; name those that it needs with devices"),
    Place("/dev/shm", MEDIUM, HIGH, (LOW, LOW), "it is the shared memory of the host's programs"),
    Place("/etc", HIGH, CRITICAL, (None, MEDIUM), f"it rules the host, and {_SECRETS}"),
    Place("/etc/cron.d", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/etc/gshadow", HIGH, CRITICAL, (HIGH, CRITICAL), _SECRETS),
    Place("/etc/kubernetes", HIGH, CRITICAL, (HIGH, CRITICAL), _SECRETS),
    Place("/etc/ld.so.preload", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/etc/pam.d", None, CRITICAL, (None, CRITICAL), "it says who may be root of the host"),
    Place("/etc/passwd", None, CRITICAL, (None, CRITICAL), "it says who may be root of the host"),
    Place("/etc/shadow", HIGH, CRITICAL, (HIGH, CRITICAL), _SECRETS),
    Place("/etc/ssh", HIGH, CRITICAL, (HIGH, CRITICAL), _SECRETS),
    Place("/etc/ssl/private", HIGH, HIGH, (HIGH, HIGH), _SECRETS),
    Place("/etc/sudoers", None, CRITICAL, (None, CRITICAL), "it says who may be root of the host"),
    Place("/etc/sudoers.d", None, CRITICAL, (None, CRITICAL), "it says who may be root of the host"),
    Place("/etc/systemd", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/home", MEDIUM, HIGH, (None, None), f"the people's files are there, and {_SECRETS}"),
    Place("/lib", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/lib64", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/opt", None, HIGH, (None, None), _PROGRAMS),
    Place(
        "/proc", HIGH, CRITICAL, (MEDIUM, CRITICAL),
        "the host's processes are there, and files by which the kernel is told to run programs (core_pattern)",
    ),
    Place("/root", HIGH, CRITICAL, (MEDIUM, HIGH), f"it is root's home, and {_SECRETS}"),
    Place("/run", HIGH, HIGH, (LOW, MEDIUM), "the sockets of the host's daemons are there"),
    Place("/sbin", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/sys", MEDIUM, CRITICAL, (LOW, HIGH), "the kernel, and what it runs on an event, is set up through it"),
    Place(
        "/sys/fs/cgroup", MEDIUM, CRITICAL, (LOW, HIGH),
        "limits of all of the host are there, and v1's release_agent, a program that the host's root runs",
    ),
    Place("/tmp", LOW, MEDIUM, (None, None), "programs of the host keep files and sockets there"),
    Place("/usr", None, CRITICAL, (None, CRITICAL), _PROGRAMS),
    Place("/var", MEDIUM, CRITICAL, (None, None), "the state of all of the host's daemons is there"),
    Place("/var/lib", MEDIUM, CRITICAL, (None, None), "the state of all of the host's daemons is there"),
    Place("/var/lib/containerd", HIGH, CRITICAL, (HIGH, CRITICAL), _STATE),
    Place("/var/lib/containers", HIGH, CRITICAL, (HIGH, CRITICAL), _STATE),
    Place("/var/lib/docker", HIGH, CRITICAL, (HIGH, CRITICAL), _STATE),
    Place("/var/lib/kubelet", HIGH, CRITICAL, (HIGH, CRITICAL), _STATE),
    Place("/var/lib/orch", HIGH, CRITICAL, (HIGH, CRITICAL), "there is what all of orch's containers are made of"),
    Place("/var/log", LOW, MEDIUM, (None, LOW), "the host's logs are there; who writes can forge and follow them"),
    Place("/var/spool/cron", LOW, CRITICAL, (LOW, CRITICAL), _PROGRAMS),
)  # fmt: skip
#: Other ways to name a place (hier(7)).
_ALSO = (("/var/run", "/run"), ("/var/tmp", "/tmp"))
_HOMES = "/home"
#: Folders in which people keep keys, wherever they are.
_KEYS = frozenset({".aws", ".azure", ".docker", ".gnupg", ".kube", ".ssh"})
#: Sockets by their names, and what whoever may connect can do.
_ENGINES = frozenset(
    {
        "buildkitd.sock", "containerd.sock", "crio.sock", "docker.sock", "kubelet.sock", "libvirt-sock", "lxd.socket",
        "orch.sock", "podman.sock", "unix.socket",
    }
)  # fmt: skip
_BUSES = ("system_bus_socket", "systemd/private")


def sensitive_binds(subject: Subject) -> Iterator[FindingView]:
    """Binds of places of the host that are more than somebody's data, and an image that is one."""
    if subject.spec.image.startswith("dir:"):
        folder = subject.spec.image.removeprefix("dir:")
        found = judge_path(subject.real(folder), writable=False)
        if found:
            yield finding(
                found[0],
                "image",
                f"its image is {folder} of the host",
                found[1],
                "make a folder with an image's files",
            )
    for mount in _binds(subject):
        if _is_socket(subject, mount):
            continue
        path = subject.real(mount.source)
        if found := judge_path(path, not mount.read_only):
            severity, why = found
            how = "may read" if mount.read_only else "may write to"
            other = f" ({path})" if path != mount.source else ""
            less = "mount only the part of it that it needs" + (
                "" if mount.read_only else ", read-only (:ro)"
            )
            yield finding(severity, "volumes", f"it {how} {mount.source}{other} of the host", why, less)


def judge_path(path: str, writable: bool) -> tuple[Severity, str] | None:
    """How bad it is that a container sees this path of the host, and why; None when it is nobody's but the user's."""
    path = posixpath.normpath(path)
    if _KEYS & set(path.split("/")):
        return HIGH, "people keep keys there"
    for other, usual in _ALSO:
        if path == other or path.startswith(f"{other}/"):
            path = usual + path.removeprefix(other)
    if (
        posixpath.dirname(path) == _HOMES
    ):  # all of one person's home is as bad as all homes; a part of it is not
        path = _HOMES
    place = max(
        (place for place in PLACES if _is_below(path, place.path)),
        key=lambda place: len(place.path),
        default=None,
    )
    if place is None:
        return None
    read, write = (place.read, place.write) if path == place.path else place.below
    severity = write if writable else read
    return (severity, place.why) if severity else None


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def sockets(subject: Subject) -> Iterator[FindingView]:
    """Binds of sockets: who may connect has what the daemon gives, and read-only does not hinder that."""
    for mount in _binds(subject):
        if not _is_socket(subject, mount):
            continue
        path = subject.real(mount.source)
        what = f"it may connect to {mount.source} of the host"
        if posixpath.basename(path) in _ENGINES:
            yield finding(
                CRITICAL, "volumes", what, "whoever may ask that daemon is root of the host, read-only mount or not",
                "leave it out; if a program must ask, put a proxy between that allows only what it needs",
            )  # fmt: skip
        elif path.endswith(_BUSES):
            yield finding(
                HIGH,
                "volumes",
                what,
                "the host's services are managed over it",
                "leave it out, or put a proxy between",
            )
        else:
            yield finding(
                MEDIUM, "volumes", what,
                "it can do what the daemon behind it does for others, read-only mount or not",
                "see that the daemon trusts nobody for being able to connect",
            )  # fmt: skip


def _is_socket(subject: Subject, mount: Mount) -> bool:
    path = subject.real(mount.source)
    name = posixpath.basename(path)
    return (
        mount.source in subject.host.sockets
        or name in _ENGINES
        or path.endswith((".sock", ".socket", *_BUSES))
    )


def files_of_root(subject: Subject) -> Iterator[FindingView]:
    """Folders of the host in which root of the container makes files of root."""
    if not subject.is_root:
        return
    for mount in _binds(subject):
        path = subject.real(mount.source)
        known = _is_socket(subject, mount) or judge_path(path, writable=True)
        if not mount.read_only and mount.owner is None and not known:
            yield finding(
                LOW,
                "volumes",
                f"what root of the container makes in {mount.source} is root's on the host",
                "a setuid program that it leaves there makes root of whoever runs it on the host",
                f'give {mount.target} an owner, such as "1000:1000", or mount it read-only (:ro); or set user',
            )


def propagation(subject: Subject) -> Iterator[FindingView]:
    """``propagation``: mounts that come and go through a bind (mount_namespaces(7))."""
    for mount in _binds(subject):
        if mount.propagation == "shared":
            mounts = "SYS_ADMIN" in subject.capabilities and not subject.own_ids
            yield finding(
                MEDIUM if mounts else LOW,
                "volumes",
                f"mounts that it makes in {mount.target} appear on the host, in {mount.source}",
                "the host's programs then find there what the container wants"
                + ("" if mounts else "; as it is, it can make none"),
                'set propagation to "slave", by which it sees the mounts of the host and not the reverse',
            )
        elif mount.propagation == "slave":
            yield finding(
                INFO,
                "volumes",
                f"what the host mounts in {mount.source} later appears in {mount.target}",
                "a disk that is mounted there some day is the container's as well",
                "leave propagation out, if it needs what is there at its start only",
            )


#: What unmasking a default path of the kernel gives to root with the host's ids; any other is worth knowing little.
_UNMASKED = {
    "/proc/sys": (
        CRITICAL,
        "root of the host is told there which program to run when one crashes (core_pattern)",
    ),
    "/proc/sysrq-trigger": (CRITICAL, "it restarts or stops the whole host"),
    "/proc/kcore": (MEDIUM, "the memory of the host is there, for whoever has SYS_RAWIO"),
}


def unmasked(subject: Subject) -> Iterator[FindingView]:
    """``unmask``: files of the kernel that are hidden or read-only by default."""
    powerful = subject.is_root and not subject.own_ids
    for pattern in subject.spec.unmask:
        matched = [path for path in _UNMASKED if pattern == "all" or fnmatchcase(path, pattern)]
        severity, why = next(
            (_UNMASKED[path] for path in matched if powerful),
            (LOW, "it tells of the host's hardware, and of what its kernel and neighbours do"),
        )
        yield finding(
            severity, "unmask", f"{pattern} is not masked", why, "leave it out, or name the one file it needs"
        )


def fellows(subject: Subject) -> Iterator[FindingView]:
    """Folders of the host that another project's containers mount too."""
    if subject.force is None:
        return
    for mount in _binds(subject):
        if names := subject.force.fellows.get(mount.source):
            yield finding(
                INFO if mount.read_only else LOW,
                "volumes",
                f"{mount.source} is shared with {', '.join(names)} of another project",
                "what one writes there the other reads, so that a hole in one project is a hole in the other",
                "give each a folder of its own, or mount it read-only (:ro) where it is only read",
            )


def _binds(subject: Subject) -> Iterator[Mount]:
    return (mount for mount in subject.spec.mounts if mount.type == "bind")
