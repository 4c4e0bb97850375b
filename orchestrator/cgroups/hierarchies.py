"""Where each controller lives, and with it where a cgroup's directories are: pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from orchestrator.cgroups import limits
from orchestrator.cgroups.facts import Facts
from orchestrator.spec import Resources

#: Files of every v1 cgroup whose names a project or service could have (all other files have a dot).
_TAKEN = frozenset({"tasks", "notify_on_release", "release_agent"})
#: v2 controllers whose counters are wanted of every container.
_V2_ALWAYS = frozenset({"cpu", "memory", "pids", "io"})
#: v1 controllers without limits of ours: what needs them if there is no v2 hierarchy.
_V1_WITHOUT_UNIFIED = ("cpuacct", "freezer")


@dataclass(frozen=True)
class Hierarchies:
    """The hierarchies that containers are put in, and what they offer.

    :param v1: controller -> mount point.
    :param unified: mount point of v2.
    """

    v1: dict[str, str]
    unified: str | None
    facts: Facts

    @functools.cached_property
    def versions(self) -> dict[str, int]:
        """Controller (in v2's words) -> 1 or 2. The kernel has each controller in one hierarchy only."""
        versions = {name: 2 for name in limits.V2 if name in self.facts.unified_controllers and self.unified}
        versions |= {name: 1 for name in limits.V1 if v1_name(name) in self.v1}
        return versions

    @functools.cached_property
    def v1_used(self) -> dict[str, str]:
        """The v1 controllers that containers join -> mount point. Each costs a start about 0.07 ms.

        With a v2 hierarchy beside them, processor time (``cpu.stat``), freezing and killing are done there.
        """
        names = [v1_name(name) for name, version in self.versions.items() if version == 1]
        names += ["devices"] if self.device_rules == 1 else []
        if self.unified is None:
            names += [name for name in _V1_WITHOUT_UNIFIED if name in self.v1]
        return {name: self.v1[name] for name in names}

    @functools.cached_property
    def device_rules(self) -> int | None:
        """How it is ruled which devices a container may use: 1, v1's devices controller; 2, an eBPF program in
        the v2 hierarchy; None, not at all.
        """
        if "devices" in self.v1:
            return 1
        return 2 if self.unified is not None and self.facts.device_programs else None

    @property
    def has_pressure(self) -> bool:
        """Whether it is known how much containers wait for processors, memory and disks."""
        return self.unified is not None and not self.facts.pressure_lack

    def v2_enabled(self, resources: Resources) -> list[str]:
        """The controllers to enable level by level in v2: those that count use, others when they limit.

        The first level is the hierarchy's root, which is not ours, so nothing is enabled there without need.
        """
        return [
            name
            for name, version in self.versions.items()
            if version == 2 and (name in _V2_ALWAYS or limits.wanted(name, resources))
        ]

    def settings(self, resources: Resources, device: limits.DeviceResolver) -> list[limits.Setting]:
        """What is to be written for the limits that this host can set."""
        context = limits.Context(self.facts, device)
        tables = {1: limits.V1, 2: limits.V2}
        return [
            setting
            for name, version in self.versions.items()
            for setting in tables[version][name](resources, context)
        ]


def v1_name(controller: str) -> str:
    """v1's word for a controller."""
    return "blkio" if controller == "io" else controller


def directory_name(part: str) -> str:
    """A name for a cgroup directory that no kernel file has: ``tasks`` becomes ``_tasks`` (systemd's way)."""
    return f"_{part}" if part in _TAKEN or "." in part or part.startswith("_") else part
