"""A profile becomes rules for one machine, one kernel and one set of capabilities. Pure.

What the words mean is the OCI runtime specification's (config-linux, seccomp) and, for ``includes``, ``excludes`` and
``archMap``, Docker's; what they leave open is as runc and crun do it with libseccomp.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.runtime.seccomp.profile import FAMILIES, default_profile
from orchestrator.spec import Seccomp, SeccompProfile, SyscallArgument, SyscallCondition, SyscallRule

#: A machine as uname(2) calls it -> the name of its architecture, and those that its kernel can run besides.
_MACHINES = {"x86_64": ("X86_64", ("X86", "X32")), "aarch64": ("AARCH64", ("ARM",))}
#: The same machines as Docker's profiles name them.
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
#: From lenient to strict, in the kernel's order (seccomp(2)); a filter that lacks a stricter rule fails open.
_STRICTNESS = ("ALLOW", "LOG", "TRACE", "ERRNO", "TRAP", "KILL_THREAD", "KILL_PROCESS")


class UncompilableError(Exception):
    """Rules that cannot become a filter; the text says why."""


class Action(NamedTuple):
    """What happens to a call."""

    name: str
    errno: int = 0

    def stricter_than(self, other: Action) -> bool:
        """Whether less is possible with this than with ``other``."""
        return _STRICTNESS.index(self.name) > _STRICTNESS.index(other.name)


class Alternative(NamedTuple):
    """One rule of a call: what happens when all arguments agree."""

    action: Action
    args: tuple[SyscallArgument, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """All that decides about a filter.

    :param architectures: the machine's own first.
    :param calls: what happens to each call; one alternative without arguments, or several with.
    :param own: whether they are the default profile's, whose filter tests have looked at.
    :param families: of sockets, when they are limited for i386 as well (see ``compile``).
    :param flags: of seccomp(2).
    :param allowed: calls that the manifest allows by name.
    """

    default: Action
    architectures: tuple[str, ...]
    calls: dict[str, tuple[Alternative, ...]]
    own: bool = False
    families: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    allowed: frozenset[str] = field(default_factory=frozenset)

    @property
    def count(self) -> int:
        """The number of rules."""
        return sum(map(len, self.calls.values()))


class Host(NamedTuple):
    """What of the host a profile may depend on."""

    machine: str
    kernel: tuple[int, int]

    @classmethod
    def here(cls) -> Host:
        """This one."""
        system = os.uname()
        found = re.match(r"(\d+)\.(\d+)", system.release)
        assert found  # as every Linux since 3.0
        return cls(system.machine, (int(found[1]), int(found[2])))


def resolve(seccomp: Seccomp, capabilities: Collection[str], host: Host) -> Rules:
    """The rules that hold for a container with these capabilities on this host.

    :raises KeyError: for a machine that orch does not run on.
    :raises UncompilableError: for a file that nobody has read.
    """
    own = seccomp.profile == "default"
    profile = default_profile() if own else seccomp.content
    if profile is None:
        raise UncompilableError("what the file says is missing")
    default = _action(profile.action, profile.errno)
    named: dict[str, list[Alternative]] = {}
    for rule in profile.rules:
        if _holds(rule.includes, capabilities, host) and not _excluded(rule.excludes, capabilities, host):
            for name in rule.names:
                named.setdefault(name, []).extend(_alternatives(rule))
    for name in seccomp.allow:
        named[name] = [Alternative(Action("ALLOW"))]
    for name in seccomp.deny:
        named[name] = [Alternative(Action("ERRNO", errno.EPERM))]
    calls = {name: _effective(found, default) for name, found in named.items()}
    limited = own and any(alternative.args for alternative in calls["socket"])
    return Rules(
        default=default,
        architectures=_architectures(profile, host.machine),
        calls={name: found for name, found in calls.items() if found},
        own=own,
        families=tuple(map(int, FAMILIES)) if limited else (),
        flags=profile.flags,
        allowed=frozenset(seccomp.allow),
    )


def _action(name: str, number: int) -> Action:
    """``KILL`` is the old word for one thread; a number is only ERRNO's and TRACE's."""
    return Action("KILL_THREAD" if name == "KILL" else name, number if name in ("ERRNO", "TRACE") else 0)


def _holds(condition: SyscallCondition, capabilities: Collection[str], host: Host) -> bool:
    return (
        all(name in capabilities for name in condition.caps)
        and (not condition.arches or _GO_NAMES[host.machine] in condition.arches)
        and (condition.min_kernel is None or host.kernel >= condition.min_kernel)
    )


def _excluded(condition: SyscallCondition, capabilities: Collection[str], host: Host) -> bool:
    return (
        any(name in capabilities for name in condition.caps)
        or _GO_NAMES[host.machine] in condition.arches
        or (condition.min_kernel is not None and host.kernel >= condition.min_kernel)
    )


def _alternatives(rule: SyscallRule) -> Iterable[Alternative]:
    """All arguments must agree; but of several that are about the same one, any will do (as runc and crun have it)."""
    action = _action(rule.action, rule.errno)
    if len({argument.index for argument in rule.args}) < len(rule.args):
        return [Alternative(action, (argument,)) for argument in rule.args]
    return [Alternative(action, tuple(sorted(rule.args, key=lambda argument: argument.index)))]


def _effective(found: list[Alternative], default: Action) -> tuple[Alternative, ...]:
    """Of several rules the first without arguments is the only one, as in libseccomp; the default needs none."""
    whole = next(([alternative] for alternative in found if not alternative.args), found)
    return tuple(alternative for alternative in dict.fromkeys(whole) if alternative.action != default)


def _architectures(profile: SeccompProfile, machine: str) -> tuple[str, ...]:
    """The machine's own, and of those that its kernel can run besides, the ones that the profile names.

    Calls of any other are the end of the process.
    """
    own, others = _MACHINES[machine]
    wanted = profile.architectures or profile.arch_map.get(own, ())
    return (own, *(name for name in others if name in wanted))
