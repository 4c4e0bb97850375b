"""What this host has of security modules: the kernel's and the policy's own answers. Reading only, and quick."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.lsm import apparmor, relabel, selinux

if TYPE_CHECKING:
    from orchestrator.spec import ServiceSpec

SELINUXFS = "/sys/fs/selinux"
#: Where apparmor_parser(8) may be; the service's PATH is not everybody's.
PARSERS = ("/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/local/sbin/apparmor_parser")
_SELINUX_CONFIG = "/etc/selinux/config"
_APPARMOR_SWITCH = "/sys/module/apparmor/parameters/enabled"
_APPARMOR_PROFILES = "/sys/kernel/security/apparmor/profiles"
_SOME_PAIR = (0, 1)

#: What orch's domain must be allowed to do to a container's: class -> permissions. A program that may gain no
#: privileges changes its domain only with nnp_transition (Linux 4.14, LWN 735271).
NEEDED = {"process": ("transition",), "process2": ("nnp_transition",)}


def selinux_enabled() -> bool:
    """Whether a policy is loaded and may be asked (as is_selinux_enabled(3) sees it)."""
    return own_context() not in ("", "kernel") and os.access(f"{SELINUXFS}/context", os.W_OK)


def selinux_enforcing() -> bool:
    """Whether the policy is enforced; otherwise the kernel only reports what it would refuse."""
    return _text(f"{SELINUXFS}/enforce") == "1"


def own_context() -> str:
    """This process's SELinux context, or whatever another security module has in that place."""
    return attribute_of("self")


def attribute_of(pid: int | str) -> str:
    """What confines a process now: an SELinux context or an AppArmor profile; ``""`` when nothing does."""
    return (_text(f"/proc/{pid}/attr/current") or "").rstrip("\0")


def selinux_defaults() -> selinux.Defaults:
    """What the policy in use wants containers to have."""
    kind = "targeted"
    for line in (_text(_SELINUX_CONFIG) or "").splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == "SELINUXTYPE":
            kind = value.strip()
    return selinux.defaults(_text(f"/etc/selinux/{kind}/contexts/lxc_contexts") or "")


def knows(context: str) -> bool:
    """Whether the policy knows such a context (security_check_context(3))."""
    try:
        with open(f"{SELINUXFS}/context", "wb", buffering=0) as file:
            file.write(context.encode())
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def context_of_new(kind: str, source: str, target: str) -> str:
    """What the policy labels a new file (or other class) that ``source`` makes in a folder labelled ``target``
    (security_compute_create(3)).
    """
    number = _text(f"{SELINUXFS}/class/{kind}/index") or "0"
    return _ask("create", f"{source} {target} {number}").rstrip("\0")


def keeps_categories() -> bool:
    """Whether files on a volume that containers share are then only the one's that made them.

    Policies say so unless they have ``default_range ... target low`` for files.
    """
    base = selinux_defaults()
    if not base.files.level:
        return False
    own = selinux.Defaults(
        *(each._replace(level=selinux.with_categories(each.level, _SOME_PAIR)) for each in base)
    )
    made = context_of_new("file", str(own.process), str(selinux.shared(own.files)))
    return selinux.Context.parse(made).level == own.files.level


def forbidden(source: str, target: str, needed: Mapping[str, Iterable[str]]) -> list[str]:
    """What the policy does not allow ``source`` to do to ``target`` (security_compute_av(3)).

    A class or permission that the policy does not have is not restricted by it.
    """
    denied = []
    for name, permissions in needed.items():
        folder = f"{SELINUXFS}/class/{name}"
        number = _text(f"{folder}/index")
        if number is None:
            continue
        allowed = int(_ask("access", f"{source} {target} {number}").split()[0], 16)
        for permission in permissions:
            bit = _text(f"{folder}/perms/{permission}")
            if bit is not None and not allowed >> (int(bit) - 1) & 1:
                denied.append(permission)
    return denied


def apparmor_enabled() -> bool:
    """Whether AppArmor is in use."""
    return _text(_APPARMOR_SWITCH) == "Y"


def apparmor_profiles() -> dict[str, str] | None:
    """The profiles that are loaded, with their modes; None when that is not to be seen."""
    text = _text(_APPARMOR_PROFILES)
    return None if text is None else apparmor.loaded(text)


def apparmor_parser() -> str | None:
    """The program that loads profiles, if there is one."""
    return next((path for path in PARSERS if os.access(path, os.X_OK)), None)


def problems(spec: ServiceSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What a service asks of security modules and this host does not have: (keys of the spec, problem)."""
    with_selinux = selinux_enabled()
    wanted = spec.selinux
    if wanted.insists and not with_selinux:
        yield ("selinux",), "this host does not use SELinux (boot it with SELinux, or leave the label out)"
    elif wanted.insists:
        context = selinux.labels(wanted, selinux_defaults(), _SOME_PAIR).process
        if not knows(str(context)):
            yield ("selinux",), f"the SELinux policy knows no {context} (see seinfo -t, -r and -u)"
    if spec.apparmor not in (None, apparmor.UNCONFINED):
        yield from ((("apparmor",), text) for text in _profile_problems(spec.apparmor or ""))
    for index, mount in enumerate(spec.mounts if with_selinux else ()):
        if mount.relabel is None:
            continue
        if mount.type == "bind" and (reason := relabel.refusal(mount.source)):
            yield ("mounts", index), reason
        if mount.relabel == "private" and spec.replicas > 1:
            yield (
                ("mounts", index),
                f"only one of {spec.replicas} replicas could use it (relabel it as shared, or replicas = 1)",
            )


def _profile_problems(name: str) -> Iterator[str]:
    if not apparmor_enabled():
        yield "this host does not use AppArmor (boot it with apparmor=1, or leave the profile out)"
        return
    profiles = apparmor_profiles()
    if profiles is None or name in profiles:
        return
    if name != apparmor.DEFAULT_PROFILE:
        yield f'profile "{name}" is not loaded (apparmor_parser -r FILE loads it)'
    elif apparmor_parser() is None:
        yield f'profile "{name}" is not loaded, and there is no apparmor_parser to load it (install apparmor)'


def _ask(name: str, question: str) -> str:
    """A transaction with a file of selinuxfs: what is written is the question, what is read the answer."""
    fd = os.open(f"{SELINUXFS}/{name}", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, question.encode())
        return os.read(fd, 4096).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
