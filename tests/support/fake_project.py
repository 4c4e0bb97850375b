"""A project without a kernel: real supervisors of fake containers, for whoever executes plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

from orchestrator.launch.launcher import Launcher
from orchestrator.plan.observed import ObservedContainer, ObservedProject
from orchestrator.spec import NetworkSpec, ProjectSpec, ServiceSpec
from orchestrator.supervise.supervisor import Supervisor
from support.fake_launcher import FakeCgroup, FakeLauncher, fake_container


@dataclass
class FakeProject:
    """Does what a plan says and writes it down in ``steps``.

    :param launchers: by service, for those whose starts are scripted.
    :param failing: steps (``create-network default``) that raise an error.
    """

    spec: ProjectSpec
    launchers: dict[str, FakeLauncher] = field(default_factory=dict)
    failing: dict[str, Exception] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    supervisors: dict[str, Supervisor] = field(default_factory=dict)
    networks: dict[str, NetworkSpec] = field(default_factory=dict)
    volumes: set[str] = field(default_factory=set)

    def _step(self, text: str) -> None:
        if error := self.failing.get(text):
            raise error
        self.steps.append(text)

    def observe(self) -> ObservedProject:
        return ObservedProject(
            self.spec.name,
            tuple(
                ObservedContainer(
                    id=s.container.id, name=s.container.name, service=s.spec.name,
                    replica=s.container.replica, spec=s.spec, state=s.state, health=s.health,
                    exit_code=s.exit_code,
                )
                for s in self.supervisors.values()
            ),
            self.networks,
            frozenset(self.volumes),
        )  # fmt: skip

    def assign_addresses(self, specs: Iterable[ServiceSpec]) -> None:
        self.assigned = [spec.name for spec in specs]

    async def tell_names(self) -> None:
        self.steps.append("tell-names")

    async def create_network(self, spec: NetworkSpec, opened: Callable[[], None]) -> None:
        self._step(f"create-network {spec.name}")
        self.networks[spec.name] = spec
        opened()

    async def remove_network(self, name: str) -> None:
        self._step(f"remove-network {name}")
        del self.networks[name]

    def create_volume(self, name: str) -> None:
        self._step(f"create-volume {name}")
        self.volumes.add(name)

    async def remove_volume(self, name: str) -> None:
        self._step(f"remove-volume {name}")
        self.volumes.discard(name)

    async def create_container(self, spec: ServiceSpec, replica: int) -> Supervisor:
        container = fake_container(spec, FakeCgroup(), replica)
        self._step(f"create {container.name}")
        launcher = self.launchers.setdefault(spec.name, FakeLauncher())
        supervisor = Supervisor(container, cast(Launcher, launcher), self._heard)
        self.supervisors[container.name] = supervisor
        return supervisor

    async def publish(self, supervisor: Supervisor) -> None:
        pass

    async def remove_containers(self, supervisors: list[Supervisor], with_networks: bool = False) -> None:
        for supervisor in supervisors:
            self._step(f"remove {supervisor.container.name}")
            del self.supervisors[supervisor.container.name]

    def _heard(self, supervisor: Supervisor, action: str, message: str) -> None:
        if action in ("started", "exited"):
            self.steps.append(f"{action} {supervisor.container.name}")
