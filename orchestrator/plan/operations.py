"""Plans: what will be done, in which order, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.spec import Condition, NetworkSpec, ServiceSpec, VolumeSpec
from orchestrator.units import format_duration
from orchestrator.views import OperationView, PlanView


class Action(enum.StrEnum):
    """What an operation does."""

    CREATE_NETWORK = "create-network"
    REMOVE_NETWORK = "remove-network"
    CREATE_VOLUME = "create-volume"
    REMOVE_VOLUME = "remove-volume"
    CREATE = "create"  #: make a container and start it
    START = "start"  #: start a container that exists and does not run
    RECREATE = "recreate"  #: stop, remove, make and start it under the same name and addresses
    UPDATE = "update"  #: change it in place; its program is not disturbed
    RESTART = "restart"  #: stop it and start it again
    STOP = "stop"  #: stop it and keep it
    REMOVE = "remove"  #: stop it if it runs, and remove it


@dataclass(frozen=True, slots=True)
class After:
    """One thing that an operation waits for.

    :param operation: id of the operation that must have ended well; "" when the plan does not touch ``container``.
    :param container: name of the container that must then meet ``condition``; "" for plain ordering.
    :param condition: None for plain ordering.
    :param timeout: seconds that ``container`` has to meet ``condition``, counted from when its operation ended.
    :param required: when False, a failure of what is waited for is a warning, and the operation goes on.
    """

    operation: str = ""
    container: str = ""
    condition: Condition | None = None
    timeout: float | None = None
    required: bool = True

    def __str__(self) -> str:
        """For people: ``create db-1, shop-db-1 healthy within 30s``."""
        if self.condition is None:
            return self.operation
        limit = f" within {format_duration(self.timeout)}" if self.timeout is not None else ""
        wanted = f"{self.container} {self.condition}{limit}" + ("" if self.required else " if possible")
        return f"{self.operation}, {wanted}" if self.operation else wanted


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a plan.

    :param id: stable and readable: the action and the short name of its object, ``start api-2``.
    :param target: name of the container, network or volume.
    :param service: "" for networks and volumes; so is ``replica`` 0.
    :param container_id: the existing container that is acted upon; None when there is none yet.
    :param cause: why, for people: ``environment, image changed``.
    :param spec: what the object is to be made or updated from; None where the action needs none.
    """

    id: str
    action: Action
    target: str
    cause: str
    service: str = ""
    replica: int = 0
    container_id: str | None = None
    after: tuple[After, ...] = ()
    spec: ServiceSpec | NetworkSpec | VolumeSpec | None = None

    def __str__(self) -> str:
        waits = f" (after {'; '.join(map(str, self.after))})" if self.after else ""
        return f"{self.id}: {self.cause}{waits}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Operations in an order in which they can be executed one by one; what does not wait may run in parallel."""

    project: str
    operations: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.operations)

    def render(self) -> str:
        """The plan as text, one operation a line: its id, its cause, and what it waits for."""
        return "\n".join(map(str, self.operations))

    def to_view(self) -> PlanView:
        """The plan as the API tells it."""
        return PlanView(
            project=self.project,
            operations=[
                OperationView(
                    id=operation.id,
                    action=operation.action.value,
                    target=operation.target,
                    service=operation.service,
                    cause=operation.cause,
                    after=list(
                        dict.fromkeys(after.operation for after in operation.after if after.operation)
                    ),
                )
                for operation in self.operations
            ],
        )
