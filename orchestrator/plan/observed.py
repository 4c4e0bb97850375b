"""What is there: a project's containers, networks and volumes at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.spec import NetworkSpec, ServiceSpec
from orchestrator.states import Health, State


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    """One container that exists.

    :param spec: what it was started with, as later updates in place have left it.
    :param exit_code: of its last run; None while it runs or if it never ran.
    """

    id: str
    name: str
    service: str
    replica: int
    spec: ServiceSpec
    state: State
    health: Health = Health.NONE
    exit_code: int | None = None

    @property
    def completed(self) -> bool:
        """Whether it ran to its end and succeeded."""
        return self.state is State.EXITED and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class ObservedProject:
    """Everything that exists of one project."""

    name: str
    containers: tuple[ObservedContainer, ...] = ()
    networks: Mapping[str, NetworkSpec] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
