"""Rules about what the kernel says of a running container, where that is less than its manifest promises.

A finding of theirs is a hole in orch itself, or somebody has changed the container behind its back; or its first
process has made itself a user namespace within the container's, in which it holds whatever it likes.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator import capabilities
from orchestrator.audit.confinement import UNCONFINED
from orchestrator.audit.subject import Extents, Subject, finding
from orchestrator.spec import DEFAULT_PIDS, HOST
from orchestrator.views import FindingView, IdMapView, Severity

_REMEDY = "restart the container; if it says so again, report a bug of orch, with this line"


def _otherwise(key: str, promise: str, said: str) -> FindingView:
    return finding(
        Severity.CRITICAL,
        key,
        f"the kernel says otherwise: {said}",
        f"{promise}, and that is not in force",
        _REMEDY,
    )


def capability_sets(subject: Subject) -> Iterator[FindingView]:
    """No set holds more than what was granted; one of another user than root only what was added."""
    if subject.force is None or (sets := subject.force.isolation.capabilities) is None:
        return
    granted = set(subject.capabilities)
    for name in ("bounding", "permitted", "effective", "inheritable", "ambient"):
        if more := [each for each in sets[name] if each not in granted]:
            said = f"its {name} capabilities have {', '.join(more)}"
            yield _otherwise("cap_add", "the manifest grants it no such capability", said)
    if not subject.is_root:
        ambient = set(capabilities.ambient(subject.spec.cap_add, subject.spec.cap_drop))
        if more := [each for each in sets["effective"] if each in granted - ambient]:
            said = f"its effective capabilities have {', '.join(more)}"
            yield _otherwise("user", "a user other than root holds only what cap_add names", said)


def no_new_privileges(subject: Subject) -> Iterator[FindingView]:
    """``no_new_privs`` is set where it should be; it cannot be taken back."""
    if (
        subject.force
        and subject.spec.no_new_privileges
        and subject.force.isolation.no_new_privileges is False
    ):
        yield _otherwise("no_new_privileges", "its programs must not gain privileges", "NoNewPrivs is 0")


def id_maps(subject: Subject) -> Iterator[FindingView]:
    """Its ids are those that orch gave it."""
    if subject.force is None:
        return
    isolation = subject.force.isolation
    for kind, wanted, found in (
        ("users", subject.force.uid_map, isolation.uid_map),
        ("groups", subject.force.gid_map, isolation.gid_map),
    ):
        if wanted and found is not None and sorted(wanted) != sorted(_extents(found)):
            said = f"its {kind} are mapped {_text(_extents(found))}"
            yield _otherwise("userns", f"its {kind} are to be mapped {_text(wanted)}", said)


def _extents(view: list[IdMapView]) -> Extents:
    return tuple((each.inside, each.outside, each.count) for each in view)


def _text(extents: Extents) -> str:
    return ", ".join(f"{inside}:{outside}:{count}" for inside, outside, count in extents) or "not at all"


def separate_namespaces(subject: Subject) -> Iterator[FindingView]:
    """Nobody is in its namespaces but whom a manifest lets in."""
    if subject.force is None or subject.force.isolation.capabilities is None:
        return
    isolation = subject.force.isolation
    for kind, mode in isolation.namespaces.items():
        key = {"net": "network_mode", "user": "userns"}.get(kind, kind)
        if not (subject.own_ids if kind == "user" else subject.has(kind)):
            continue
        if mode == HOST:
            yield _otherwise(
                key, f"its {kind} namespace is not to be the host's", f"it is in the host's {kind} namespace"
            )
        partners = subject.force.partners.get(kind, frozenset())
        if strangers := [name for name in isolation.shared_with.get(kind, ()) if name not in partners]:
            yield _otherwise(
                key,
                f"no manifest says that they share a {kind} namespace",
                f"{', '.join(strangers)} is in its {kind} namespace",
            )


def system_calls(subject: Subject) -> Iterator[FindingView]:
    """There is a filter where there should be one; it cannot be taken back."""
    if subject.force is None or (mode := subject.force.isolation.seccomp) is None:
        return
    if subject.spec.seccomp.profile != UNCONFINED and mode == "none":
        yield _otherwise("seccomp", "its system calls are to be filtered", "Seccomp is 0, there is no filter")


def label(subject: Subject) -> Iterator[FindingView]:
    """The label or profile is the one that orch gave it; the kernel adds a profile's mode."""
    if subject.force is None or not subject.force.label or (found := subject.force.isolation.label) is None:
        return
    wanted = subject.force.label
    if found != wanted and not (found.startswith(f"{wanted} (") and found.endswith(")")):
        said = f"it is confined by {found or 'none'}"
        yield _otherwise("apparmor, selinux", f"it was given {wanted}", said)


def limits(subject: Subject) -> Iterator[FindingView]:
    """Its limits of memory and processes are in force."""
    if subject.force is None:
        return
    wanted = {"memory": subject.spec.resources.memory, "pids": subject.spec.resources.pids}
    for name, found in subject.force.limits.items():
        promise = wanted[name]
        if name == "pids" and promise == DEFAULT_PIDS and found is None:
            continue  # nobody asked for it, and it is left out where the host cannot; see exposure.limits
        if promise is not None and (found is None or found > promise):
            said = "it has no such limit" if found is None else f"the limit is {found}"
            yield _otherwise(f"resources.{name}", f"its limit of {name} is to be {promise}", said)
