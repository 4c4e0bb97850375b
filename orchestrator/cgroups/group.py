"""One cgroup in all hierarchies: compiles the operations that make and limit it, reads and rules what is in it.

``compile_*`` are pure; who performs their operations is said at each. The rest touches the kernel, at once;
files take microseconds, and what can take longer says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence

from orchestrator.cgroups import limits
from orchestrator.cgroups.failure import cause, reported
from orchestrator.cgroups.hierarchies import Hierarchies, directory_name
from orchestrator.cgroups.members import members
from orchestrator.cgroups.stats import CgroupStats, parse_pressure, read_oom_kills, read_stats
from orchestrator.errors import KernelError
from orchestrator.kernel import cgroupfs
from orchestrator.kernel.operations import Operation, device_list, device_program, mkdir, write
from orchestrator.spec import PressureTrigger, Resources

_NO_LIMITS = Resources(pids=None)
_GONE = (errno.ENOENT, errno.ENODEV)


class Cgroup:
    """The cgroup at ``path`` beneath the root of every hierarchy that is used; it need not exist.

    :param path: relative, its parts from instance to container.
    :raises ValueError: for a path that could lead elsewhere.
    """

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"{path!r} is not the path of a cgroup (write it like orch-1/shop/api/1)")
        self.path = path
        self._hierarchies = hierarchies
        self._parts = [directory_name(part) for part in parts]
        self._mounts = dict(hierarchies.v1_used)
        if hierarchies.unified is not None:
            self._mounts["unified"] = hierarchies.unified
        #: v1 controller or ``unified`` -> absolute directory; co-mounted controllers share one.
        self.directories = {name: self._below(mount, self._parts) for name, mount in self._mounts.items()}
        self._members = members(self.directories)
        #: It has been killed as a whole: :meth:`renew` it before anything is started in it again.
        self.spent = False

    def __repr__(self) -> str:
        return f"Cgroup({self.path!r})"

    @property
    def clone_into(self) -> str | None:
        """The directory to open for CLONE_INTO_CGROUP; None on pure v1."""
        return self.directories.get("unified")

    @property
    def folders(self) -> dict[str, list[str]]:
        """Its directory in each hierarchy -> what is counted or limited there, ``unified`` for v2.

        Unlike :attr:`directories` it names every controller of a v1 hierarchy, also one that orch does not use.
        """
        folders: dict[str, list[str]] = {}
        for name, directory in self.directories.items():
            mount = self._mounts[name]
            together = [other for other, where in self._hierarchies.v1.items() if where == mount]
            folders.setdefault(directory, sorted({name, *together}))
        return folders

    # -- compiling -------------------------------------------------------------------------------------

    def compile_parents(self, resources: Resources = _NO_LIMITS, replicas: int = 1) -> list[Operation]:
        """The levels above; the service performs them before the first start, in a thread. Idempotent.

        Weights compare siblings only. So the level just above the containers (the service's) gets the weight
        of all its containers together, or ``cpu_weight`` would mean nothing between services.

        The first time on a v2 host, enabling the controllers costs the kernel some 10 ms.
        """
        operations = []
        for mount in dict.fromkeys(self._hierarchies.v1_used.values()):
            for depth in range(1, len(self._parts)):
                operations.append(mkdir(self._below(mount, self._parts[:depth])))
                if depth == 1 and mount == self._mounts.get("cpuset"):
                    operations += self._first_cpuset()
        if (unified := self._hierarchies.unified) is not None:
            enabled = self._hierarchies.v2_enabled(resources)
            for depth in range(len(self._parts)):
                if depth:
                    operations.append(mkdir(self._below(unified, self._parts[:depth])))
                operations += self._enable(enabled, depth)
        if len(self._parts) > 2:
            operations += self._service_weights(resources, replicas)
        return operations

    def compile_prepare(
        self,
        resources: Resources,
        device: limits.DeviceResolver = cgroupfs.device_number,
        rules: Sequence[str] | None = None,
    ) -> list[Operation]:
        """What must be there before the process is cloned into it; the spawner performs it. [] on pure v1.

        :param rules: the devices that it may use (:func:`orchestrator.cgroups.devices.rules`); None: all that
            the cgroup above may.
        """
        if (unified := self.directories.get("unified")) is None:
            return []
        settings = self._hierarchies.settings(resources, device)
        writes = [self._write(each) for each in settings if each.directory == "unified"]
        return [mkdir(unified), *writes, *self._device_rules(rules, 2)]

    def compile_enter(
        self,
        resources: Resources,
        device: limits.DeviceResolver = cgroupfs.device_number,
        rules: Sequence[str] | None = None,
    ) -> list[Operation]:
        """What the cloned child does itself, first of all: make its v1 cgroups, limit them, join. [] on v2."""
        operations = []
        for directory in self._v1_directories():
            operations.append(mkdir(directory))
            if len(self._parts) == 1 and directory == self.directories.get("cpuset"):
                operations += self._first_cpuset()
        for setting in self._hierarchies.settings(resources, device):
            if setting.directory != "unified":
                operations.append(self._write(setting))
        return [*operations, *self._device_rules(rules, 1), *self.compile_join()]

    def compile_join(self) -> list[Operation]:
        """What a process does itself to be in this cgroup (exec), besides being cloned into :attr:`clone_into`.

        It writes "0", itself, to ``tasks``: a thread that moves only itself need not hold
        cgroup_threadgroup_rwsem for writing, whose first writer after a quiet moment waits out an RCU grace
        period of 4 to 20 ms (kernel/cgroup/cgroup.c, cgroup_procs_write_start). So it must have one thread.
        """
        return [write(f"{directory}/tasks", "0") for directory in self._v1_directories()]

    def compile_update(
        self,
        old: Resources,
        new: Resources,
        device: limits.DeviceResolver = cgroupfs.device_number,
        rules: Sequence[str] | None = None,
    ) -> list[Operation]:
        """From one set of limits to another while processes run; the service performs it, in a thread.

        ``rules`` replace those that are in force, unless they are None.

        To less memory than is in use: v1 reclaims and refuses with EBUSY what it cannot; v2 reclaims and then
        kills. Perform :meth:`compile_parents` again too if weights changed.
        """
        enabled, needed = (self._hierarchies.v2_enabled(each) for each in (old, new))
        missing = [name for name in needed if name not in enabled]
        before, after = (self._hierarchies.settings(each, device) for each in (old, new))
        enabling = [op for depth in range(len(self._parts)) for op in self._enable(missing, depth)]
        writes = [
            write(f"{self.directories[directory]}/{file}", text)
            for directory, file, text in limits.changes(before, after)
        ]
        return [*enabling, *writes, *self._device_rules(rules, 1), *self._device_rules(rules, 2)]

    def compile_protection(self, claims: Mapping[str, Resources]) -> list[Operation]:
        """What the levels above must know for ``memory_low`` and ``memory_min`` to hold; the service performs it.

        The kernel protects a cgroup's memory only as far as every level above it is protected (cgroup-v2.rst,
        "memory.min"). So each of these gets the sum of what containers beneath it claim, and no more: what is
        left over there, a host whose hierarchy has ``memory_recursiveprot`` would give to its other containers.

        :param claims: path -> limits, of all containers that claim something.
        """
        if self._hierarchies.versions.get("memory") != 2:
            return []
        operations = []
        for depth in range(1, len(self._parts)):
            level = "/".join(self.path.split("/")[:depth]) + "/"
            beneath = [resources for path, resources in claims.items() if path.startswith(level)]
            for file, field in (("memory.low", "memory_low"), ("memory.min", "memory_min")):
                total = sum(getattr(resources, field) or 0 for resources in beneath)
                directory = self._below(self._mounts["unified"], self._parts[:depth])
                operations.append(write(f"{directory}/{file}", str(total)))
        return operations

    # -- what is in it ---------------------------------------------------------------------------------

    def stats(self) -> CgroupStats:
        """Use of resources now.

        :raises KernelError: the cgroup is not there.
        """
        with reported(f"cannot read the counters of cgroup {self.path}"):
            return read_stats(self.directories, self._hierarchies.versions, self._hierarchies.has_pressure)

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory since the cgroup was made."""
        with reported(f"cannot read the out-of-memory kills of cgroup {self.path}"):
            return read_oom_kills(self.directories, self._hierarchies.versions.get("memory"))

    def oom_watch(self) -> cgroupfs.Notifier | None:
        """Something for ``loop.add_reader`` that becomes readable around an out-of-memory kill; None if the
        host has no memory controller.

        v2: an epoll on memory.events, which also changes when a limit is hit without a kill. v1: an eventfd on
        memory.oom_control, which comes when memory runs out, just *before* the kill, and once more when the
        cgroup is removed. So: ``drain()``, then compare :meth:`oom_kills` with its last value; to know why
        a process ended, read :meth:`oom_kills` after its end. ``close()`` it after remove_reader.
        """
        version = self._hierarchies.versions.get("memory")
        with reported(f"cannot watch for out-of-memory kills in cgroup {self.path}"):
            if version == 2:
                return cgroupfs.FileNotifier(f"{self.directories['unified']}/memory.events")
            if version == 1:
                return cgroupfs.EventNotifier(self.directories["memory"], "memory.oom_control")
        return None

    def pressure_watch(self, trigger: PressureTrigger) -> cgroupfs.Notifier:
        """Something for ``loop.add_reader`` that becomes readable when too much has been waited within a window.

        At most once for each window. ``close()`` it after remove_reader, in a thread: that takes some 10 ms.

        :raises KernelError: the kernel accounts no pressure, or refuses the window.
        """
        microseconds = (trigger.window * trigger.threshold * 1e4, trigger.window * 1e6)
        text = " ".join([trigger.kind, *(str(round(number)) for number in microseconds)])
        with reported(f"cannot watch the {trigger.resource} pressure of cgroup {self.path}"):
            return cgroupfs.PressureNotifier(self._pressure_file(trigger.resource), text)

    def waited(self, resource: str, kind: str) -> float:
        """Seconds that some (or all: ``full``) of its processes have waited for a resource since it was made.

        :raises KernelError: the cgroup is not there, or the kernel accounts no pressure.
        """
        with reported(f"cannot read the {resource} pressure of cgroup {self.path}"):
            pressure = parse_pressure(cgroupfs.read(self._pressure_file(resource)))
        return pressure.full_seconds if kind == "full" else pressure.some_seconds

    def _pressure_file(self, resource: str) -> str:
        return f"{self.directories.get('unified', '')}/{resource}.pressure"

    def pids(self) -> list[int]:
        """Its processes, as the host counts them, zombies left out; [] when the cgroup is not there."""
        return cgroupfs.processes(self.directories.get("unified") or self.directories["freezer"])

    def populated(self) -> bool:
        """Whether a process lives in it; False when it is not there."""
        try:
            return self._members.populated()
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise

    def freeze(self) -> None:
        """Begin to stop all processes (``pause``); :meth:`wait_frozen` waits until they have."""
        with reported(f"cannot freeze cgroup {self.path}"):
            self._members.freeze()

    def thaw(self) -> None:
        """Let frozen processes go on."""
        with reported(f"cannot thaw cgroup {self.path}"):
            self._members.thaw()

    @property
    def frozen(self) -> bool:
        """Whether all processes are stopped."""
        with reported(f"cannot tell whether cgroup {self.path} is frozen"):
            return self._members.frozen()

    async def wait_frozen(self, timeout: float = 5.0) -> None:
        """Wait until all processes are stopped.

        :raises KernelError: not within ``timeout`` seconds; it is still freezing then.
        """
        if not await self._wait(lambda: self.frozen, timeout):
            pids = ", ".join(map(str, self.pids()))
            reason = (
                f"not all processes stopped within {timeout:g} s (of {pids}; state D in ps is the reason)"
            )
            raise KernelError(f"cannot freeze cgroup {self.path}", reason)

    async def wait_empty(self, timeout: float = 5.0) -> bool:
        """Wait until no process lives in it; False if one still does after ``timeout`` seconds."""
        return await self._wait(lambda: not self.populated(), timeout)

    def kill(self) -> None:
        """SIGKILL to every process, none can fork its way out; frozen ones too. Does not wait for their end.

        On pure v1 it takes some milliseconds, seconds with a process that hangs in the kernel: call it in a
        thread there. A child that has not yet performed :meth:`compile_enter` is not in a v1 cgroup yet.

        :raises KernelError: on pure v1, when processes that hang in the kernel may have escaped.
        """
        self.spent = self.clone_into is not None
        try:
            with reported(f"cannot kill the processes of cgroup {self.path}"):
                self._members.kill()
        except KernelError as error:
            if error.errno not in _GONE:
                raise

    def renew(self) -> None:
        """Remove it from the v2 hierarchy after a :meth:`kill`, once it is empty; the next start makes it anew.

        Linux kills what is cloned into a cgroup whose ``cgroup.kill`` was ever written to: since 6.14 it counts
        the kills of a cgroup, and at the birth compares the count of the parent's cgroup (in
        cgroup_css_set_fork) with that of the child's (in cgroup_post_fork, kernel/cgroup/cgroup.c).

        :raises KernelError: EBUSY means that processes still live in it.
        """
        if self.spent and self.clone_into is not None:
            with reported(f"cannot make cgroup {self.path} anew"):
                for directory in cgroupfs.nested(self.clone_into):
                    cgroupfs.remove(directory)
        self.spent = False

    # -- its end ---------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove it, and cgroups within it, from all hierarchies, also when one fails; gone already is fine.

        :raises KernelError: naming what is left; EBUSY means that processes still live in it.
        """
        left, reasons, number = [], [], 0
        for directory in dict.fromkeys(self.directories.values()):
            for each in cgroupfs.nested(directory):
                try:
                    cgroupfs.remove(each)
                except OSError as error:
                    left.append(each)
                    reasons.append(cause(error))
                    number = number or error.errno or 0
        if left:
            pids = [pid for each in left for pid in cgroupfs.processes(each)]
            who = f" (processes {', '.join(map(str, sorted(set(pids))))})" if pids else ""
            raise KernelError(
                f"cannot remove cgroup {self.path}",
                "; ".join(reasons) + who,
                "kill what is in it, wait for its end, and remove it again",
                errno=number,
            )

    def remove_if_empty(self) -> bool:
        """Remove it where neither processes nor cgroups are in it; whether it is gone everywhere.

        For instance, project and service levels. Not while a container beneath is being started.
        """
        gone = True
        for directory in dict.fromkeys(self.directories.values()):
            try:
                cgroupfs.remove(directory)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise KernelError(
                        f"cannot remove cgroup {self.path}", cause(error), errno=error.errno or 0
                    ) from error
                gone = False
        return gone

    def enable_io_accounting(self) -> None:
        """Make v1 count bytes read and written; once per host service, for the instance's cgroup, in a thread.

        Since Linux 6.8 v1 counts nothing on a disk until any limit was set for that disk, anywhere
        (block/blk-throttle.h, blk_should_throtl). So one that limits nothing is set here. The first time, that
        holds up each disk for some 10 ms. What a disk refuses is left: only a counter is missing then.
        """
        if (directory := self.directories.get("blkio")) is None:
            return
        with reported(f"cannot make cgroup {self.path}"), contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        for number in cgroupfs.disks():
            with contextlib.suppress(OSError):
                cgroupfs.write(f"{directory}/blkio.throttle.read_bps_device", f"{number} 0")

    # -- inside ----------------------------------------------------------------------------------------

    @staticmethod
    def _below(mount: str, parts: list[str]) -> str:
        return "/".join([mount.rstrip("/"), *parts])

    def _v1_directories(self) -> list[str]:
        return list(dict.fromkeys(self.directories[name] for name in self._hierarchies.v1_used))

    def _write(self, setting: limits.Setting) -> Operation:
        return write(f"{self.directories[setting.directory]}/{setting.file}", setting.value)

    def _device_rules(self, rules: Sequence[str] | None, version: int) -> list[Operation]:
        if rules is None or self._hierarchies.device_rules != version:
            return []
        if version == 1:
            return [device_list(self.directories["devices"], rules)]
        return [device_program(self.directories["unified"], rules)]

    def _enable(self, controllers: list[str], depth: int) -> list[Operation]:
        """v2: a cgroup has the controllers that the level above it enables (cgroup-v2.rst, "Enabling")."""
        if not controllers or self._hierarchies.unified is None:
            return []
        level = self._below(self._hierarchies.unified, self._parts[:depth])
        return [write(f"{level}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))]

    def _first_cpuset(self) -> list[Operation]:
        """v1: a new cpuset is empty and takes no process. Ours copies the host's, all beneath copy theirs."""
        first = self._below(self._mounts["cpuset"], self._parts[:1])
        facts = self._hierarchies.facts
        return [
            write(f"{first}/cpuset.mems", facts.mems),
            write(f"{first}/cpuset.cpus", facts.cpus),
            write(f"{first}/cgroup.clone_children", "1"),
        ]

    def _service_weights(self, resources: Resources, replicas: int) -> list[Operation]:
        def total(weight: int | None) -> int:
            return min(limits.MAX_WEIGHT, (weight or limits.DEFAULT_WEIGHT) * max(1, replicas))

        weights = Resources(
            cpu_weight=total(resources.cpu_weight), io_weight=total(resources.io_weight), pids=None
        )
        return [
            write(f"{os.path.dirname(self.directories[setting.directory])}/{setting.file}", setting.value)
            for setting in self._hierarchies.settings(weights, cgroupfs.device_number)
        ]

    async def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with reported(f"cannot watch cgroup {self.path}"):
            try:
                notifier = self._members.notifier()
            except FileNotFoundError:
                return condition()
        try:
            async with asyncio.timeout(timeout):
                if notifier is None:
                    await _poll(condition)
                else:
                    await _wait_notified(condition, notifier)
        except TimeoutError:
            return condition()
        finally:
            if notifier is not None:
                notifier.close()
        return True


async def _wait_notified(condition: Callable[[], bool], notifier: cgroupfs.Notifier) -> None:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    loop.add_reader(notifier.fileno(), changed.set)
    try:
        while not condition():
            await changed.wait()
            changed.clear()
            notifier.drain()
    finally:
        loop.remove_reader(notifier.fileno())


async def _poll(condition: Callable[[], bool]) -> None:
    """For v1, which announces neither FROZEN nor empty: quick at first, for both take about a millisecond."""
    pause = 0.0005
    while not condition():
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.02)
