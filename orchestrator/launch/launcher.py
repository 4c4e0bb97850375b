"""The launcher walks the stages: forwards to start a container, backwards to remove it.

:meth:`Launcher.start` is the middle of the way from ``orch up`` to ``execve``; first start and restart share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator import capabilities
from orchestrator.errors import ConflictError, LaunchError, OrchError, SpawnerError
from orchestrator.ids import Instance
from orchestrator.kernel.fileflags import spread_subfolders
from orchestrator.kernel.operations import perform
from orchestrator.launch.confine import Confiner
from orchestrator.launch.container import Container
from orchestrator.launch.explain import explain
from orchestrator.launch.stages import CgroupStage, NetworkStage, RootfsStage
from orchestrator.launch.userns import UserNamespaces
from orchestrator.ledger import Ledger
from orchestrator.logs.pump import LogPump
from orchestrator.network.manager import NetworkManager
from orchestrator.runtime.handle import Process, ProgramFailed, SpawnerHandle
from orchestrator.runtime.program import (
    CgroupPart,
    NamespacesPart,
    NetworkPart,
    SeccompPart,
    compile_exec,
    compile_limits,
    compile_oom,
    compile_start,
)
from orchestrator.runtime.program import environment as compile_environment
from orchestrator.runtime.seccomp.filters import Filter, SeccompFilters
from orchestrator.spec import ServiceSpec

#: Seconds that a dead container's log may take to be written.
_LOG_PATIENCE = 2.0


@dataclass(slots=True)
class Terminal:
    """A terminal to be made in the container."""

    rows: int = 24
    columns: int = 80


@dataclass(slots=True)
class Attached:
    """A start whose terminal (or pipes, if there is none) are the caller's instead of the log's."""

    terminal: Terminal | None
    stdin: bool


@dataclass(slots=True)
class ExecRequest:
    """One more process in a running container; None means what the container itself has."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    working_dir: str | None = None
    terminal: Terminal | None = None
    stdin: bool = False


class Launcher:
    """Makes and unmakes containers. It remembers nothing about them: that is the supervisor's."""

    def __init__(
        self,
        instance: Instance,
        spawner: SpawnerHandle,
        networks: NetworkManager,
        ledger: Ledger,
        logs: LogPump,
        seccomp: SeccompFilters,
    ) -> None:
        self._instance = instance
        self._spawner = spawner
        self._ledger = ledger
        self._logs = logs
        self._seccomp = seccomp
        self._cgroup = CgroupStage()
        self._rootfs = RootfsStage()
        self._network = NetworkStage(networks)
        self._user_namespaces = UserNamespaces(spawner, int(instance.id, 16))
        self._containers: dict[str, Container] = {}  # by id
        self._confiner = Confiner(instance, spawner.run_host)
        with contextlib.suppress(OSError):  # a matter of speed only
            spread_subfolders(f"{instance.state_dir}/containers")
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            self._last_capability = int(file.read())
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            #: Of containers that say nothing of it: that the service is spared must not spare them.
            self._oom_score_adj = 0 if int(file.read()) < 0 else None

    async def choose_ids(self, container: Container) -> None:
        """Decide about its user namespace; see :meth:`UserNamespaces.choose`."""
        await self._user_namespaces.choose(container)

    async def confine(self, container: Container) -> None:
        """Decide what security modules hold the container to, and label what it mounts.

        :raises LaunchError: when the host cannot do what its spec asks for.
        """
        try:
            await self._confiner.confine(container)
        except BaseException:
            self._confiner.release(container)
            raise

    def prepare(self, container: Container, hosts: str, resolv_conf: str) -> None:
        """Write the container into the ledger, and its hosts file; the kernel is not touched yet.

        :raises LaunchError: when that cannot be done; nothing is then left of it.
        """
        try:
            self._ledger.own(
                "container",
                container.id,
                project=container.project,
                service=container.spec.name,
                label=container.name,
                cgroup=container.cgroup.path,
                paths=[container.directory, container.hosts_file],
                veths=[endpoint.veth for endpoint in container.endpoints],
            )
            self._rootfs.prepare(container, hosts, resolv_conf)
            self._containers[container.id] = container
        except OSError as error:
            self._user_namespaces.free(container)
            self._confiner.release(container)
            with contextlib.suppress(OSError):
                os.unlink(container.hosts_file)
            with contextlib.suppress(OSError):
                self._ledger.free("container", container.id)
            raise LaunchError(
                f'cannot create "{container.name}"', f"{error.filename or 'ledger'}: {error.strerror}",
                "the run folder must be writable and have room",
            ) from None  # fmt: skip

    def rewrite_hosts(self, texts: Iterable[tuple[Container, str]]) -> None:
        """Tell containers new names. Writes files: call it in a thread.

        :raises OSError: when one cannot be written.
        """
        for container, text in texts:
            self._rootfs.rewrite_hosts(container, text)

    async def start(
        self, container: Container, attached: Attached | None = None
    ) -> tuple[Process, list[tuple[str, float]]]:
        """Start the container's program; returns when it has been exec'd, with the seconds each stage took.

        With ``attached`` the descriptors stay in the process, for the caller; otherwise its output goes to its
        log.

        :raises LaunchError: naming the operation that failed, the object and the errno.
        """
        begin = time.perf_counter()
        what = f'cannot start "{container.name}"'
        container.neighbours = self._neighbours(container)
        self._confiner.follow(container)
        await self._rootfs.find_devices(container)
        container.seccomp = filter = await self._filter(container, what)
        network = self._network.contribute(container)
        namespaces, slots = self._share(container, network)
        slots["seccomp"] = filter.fd if filter else -1
        terminal = attached.terminal if attached else None
        container.program = program = compile_start(
            container.spec,
            container.hostname,
            self._cgroup.contribute(container),
            self._rootfs.contribute(container),
            network,
            self._last_capability,
            namespaces,
            terminal=(terminal.rows, terminal.columns) if terminal else None,
            stdin=attached is not None and attached.stdin and terminal is None,
            seccomp=_seccomp_part(filter),
            oom_score_adj=self._oom_score_adj,
            confinement=container.confinement,
            run_dir=self._instance.run_dir,
        )
        compiled = time.perf_counter()
        process = self._spawner.launch(program, [slots[name] for name in program.slots])
        try:
            await process.cloned()
            cloned = time.perf_counter()
            if network.new:
                await process.connectable()
                container.netns = process.take("netns")
                await self._network.attach(container)
            connected = time.perf_counter()
            if attached is None:
                self._attach_log(container, process)
            if network.wait:
                process.proceed()
            await process.started()
            container.process = process
            self._cgroup.entered(container)
        except ProgramFailed as failure:
            await process.exited()
            await self._discard_network(container, network.new)
            process.close()
            raise explain(what, container.image.reference, failure) from None
        except SpawnerError:
            process.close()
            raise
        except (OSError, OrchError) as error:  # of the network's part: the child is still waiting for it
            process.send_signal(signal.SIGKILL)
            await process.exited()
            await self._discard_network(container, network.new)
            process.close()
            raise error if isinstance(error, LaunchError) else LaunchError(what, str(error)) from None
        stages = [("compile", compiled - begin), ("clone", cloned - compiled), ("attach", connected - cloned)]
        return process, [*stages, *(("child " + name, s) for name, s in process.stages),
                         ("total", time.perf_counter() - begin)]  # fmt: skip

    def _neighbours(self, container: Container) -> dict[str, Container]:
        """The containers whose namespaces it shares, as they are now.

        :raises LaunchError: when one does not exist.
        """
        found = {}
        for kind, sharing in container.spec.shared.items():
            if sharing.kind == "service":
                fellows = {
                    each.replica: each
                    for each in self._containers.values()
                    if (each.project, each.spec.name) == (container.project, sharing.name)
                    and not each.one_off
                }
                neighbour = fellows.get(container.replica) or fellows.get(min(fellows, default=0))
            else:
                neighbour = next(
                    (
                        each
                        for each in self._containers.values()
                        if sharing.name in (each.name, each.id) and each is not container
                    ),
                    None,
                )
            if neighbour is None:
                raise LaunchError(
                    f'cannot start "{container.name}"', f"there is no {sharing.kind} {sharing.name}, "
                    f"whose {kind} namespace it is to share", "start that first",
                )  # fmt: skip
            found[kind] = neighbour
        return found

    def _share(self, container: Container, network: NetworkPart) -> tuple[NamespacesPart, dict[str, int]]:
        """Whose namespaces it gets, and the descriptors of the program's slots by which it gets them.

        :raises LaunchError: when a neighbour does not run, or has other ids.
        """
        what = f'cannot start "{container.name}"'
        slots = {"netns": container.network_home.netns}
        processes: dict[str, str] = {}
        for kind, neighbour in container.neighbours.items():
            if kind == "net":
                continue
            if neighbour.process is None or neighbour.process.pidfd < 0:
                remedy = f"start {neighbour.name} first"
                raise LaunchError(
                    what, f'"{neighbour.name}", whose {kind} namespace it shares, is not running', remedy
                )
            processes[kind] = slot = f"process of {neighbour.name}"
            slots[slot] = neighbour.process.pidfd
        if container.neighbours:
            maps = {neighbour.maps for neighbour in container.neighbours.values()}
            if len(maps) > 1:
                names = " and ".join(sorted({neighbour.name for neighbour in container.neighbours.values()}))
                raise LaunchError(
                    what, f"{names}, whose namespaces it shares, have different user namespaces"
                )
            container.maps = maps.pop()
        owner = "netns" if network.existing else next(iter(processes.values()), "")
        return NamespacesPart(container.maps, owner if container.maps else "", processes), slots

    async def exec(self, container: Container, process: Process, request: ExecRequest) -> Process:
        """Run one more process in the container whose first process is ``process``.

        :raises LaunchError: as :meth:`start`.
        :raises ConflictError: when the container has ended meanwhile.
        """
        what = f'cannot exec {request.command[0]} in "{container.name}"'
        filter = await self._filter(container, what)
        if process.pidfd < 0:
            raise ConflictError(what, "the container is not running", "start it first")
        environment = compile_environment(container.spec, container.hostname, request.terminal is not None)
        program = compile_exec(
            container.spec,
            request.command,
            environment | dict(request.environment),
            CgroupPart(enter=container.cgroup.compile_join(), clone_into=container.cgroup.clone_into),
            self._last_capability,
            maps=container.maps,
            user=request.user,
            working_dir=request.working_dir,
            terminal=(request.terminal.rows, request.terminal.columns) if request.terminal else None,
            stdin=request.stdin,
            seccomp=_seccomp_part(filter),
            limits=compile_oom(container.spec, self._oom_score_adj) + compile_limits(container.spec),
            confinement=container.confinement,
            run_dir=self._instance.run_dir,
        )
        slots = {"container": process.pidfd, "seccomp": filter.fd if filter else -1}
        child = self._spawner.launch(program, [slots[name] for name in program.slots])
        try:
            await child.started()
        except asyncio.CancelledError:
            child.abandon()
            raise
        except ProgramFailed as failure:
            await child.exited()
            child.close()
            raise explain(what, container.image.reference, failure) from None
        return child

    async def _filter(self, container: Container, what: str) -> Filter | None:
        """The filter for the container's processes; compiled by the first who wants it.

        :raises LaunchError: when it cannot be compiled.
        """
        held = capabilities.granted(container.spec.cap_add, container.spec.cap_drop)
        try:
            return await self._seccomp.get(container.spec.seccomp, frozenset(held))
        except LaunchError as error:
            raise LaunchError(what, f"{error.what}: {error.cause}", error.remedy) from None

    def limit(self, container: Container, spec: ServiceSpec) -> None:
        """Change the limits and the device rules of a running container.

        :raises LaunchError: naming the file that refused; the container then keeps its old limits or some new.
        """
        rules = self._cgroup.device_rules(container, spec)
        try:
            perform(self._cgroup.parents(container.cgroup, spec))
            perform(container.cgroup.compile_update(container.spec.resources, spec.resources, rules=rules))
            self._cgroup.protect(container.cgroup, spec.resources)
        except OSError as error:
            raise LaunchError(
                f'cannot change the limits of "{container.name}"', f"{error.filename}: {error.strerror}"
            ) from None

    async def remove(self, containers: Sequence[Container], with_networks: bool = False) -> list[Exception]:
        """Take back everything of these containers, whatever fails on the way; returns what failed.

        ``with_networks`` says that their networks are removed right after, and with them all veths at once
        (deleting veths one by one costs a grace period of the kernel each).
        """
        failures: list[Exception] = []
        await self._network.remove(containers, with_networks)
        for container in containers:
            complete = True
            for stage in (self._cgroup, self._rootfs):
                try:
                    await stage.remove(container)
                except (OSError, OrchError) as error:
                    failures.append(error)
                    complete = False
            await self._close_log(container)
            self._containers.pop(container.id, None)
            self._user_namespaces.free(container)
            self._confiner.release(container)
            if complete:  # veths that are left go with their network, which the ledger has as well
                self._ledger.free("container", container.id)
        return failures

    def _attach_log(self, container: Container, process: Process) -> None:
        loop = asyncio.get_running_loop()
        container.log_closed = closed = asyncio.Event()
        self._logs.attach(
            container.id, process.take("stdout"), process.take("stderr"), container.log_directory,
            container.spec.logging, lambda: _tell(loop, closed),
        )  # fmt: skip

    async def _close_log(self, container: Container) -> None:
        """Wait until all that the container wrote is in its log: its pipes have ended with its processes."""
        if container.log_closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOG_PATIENCE):
                    await container.log_closed.wait()

    def forget_cgroups(self, path: str) -> None:
        """The cgroup ``path``, a parent of containers' cgroups, has been removed."""
        self._cgroup.forget(path)

    async def _discard_network(self, container: Container, new: bool) -> None:
        """A namespace whose set-up was cut short is not used again: the next start makes another."""
        if new:
            await self._network.remove([container], with_networks=False)


def _seccomp_part(filter: Filter | None) -> SeccompPart | None:
    return SeccompPart(str(filter), filter.flags) if filter else None


def _tell(loop: asyncio.AbstractEventLoop, closed: asyncio.Event) -> None:
    """From the pump's thread; the loop may have ended before the pump."""
    try:
        loop.call_soon_threadsafe(closed.set)
    except RuntimeError:
        pass
