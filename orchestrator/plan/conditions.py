"""When a container meets what its dependants wait for, and when it never will."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.spec import Condition, ServiceSpec
from orchestrator.states import ENDED, Health, State


class Outlook(enum.Enum):
    """Whether waiting for a condition makes sense."""

    MET = enum.auto()
    WAIT = enum.auto()
    NEVER = enum.auto()


@dataclass(frozen=True, slots=True)
class Judgement:
    """An outlook with its reason, which continues a sentence that begins with the container's name."""

    outlook: Outlook
    reason: str


def judge(
    condition: Condition, spec: ServiceSpec, state: State, health: Health, exit_code: int | None
) -> Judgement:
    """Whether a container meets ``condition``.

    ``started`` is met by a program that runs, and by a job that completed. ``healthy`` is met by a container
    that runs if it has no health check. An unhealthy container is hopeless unless its check restarts it,
    as is one that ended: nothing will start it again by itself.
    """
    if state in ENDED:
        succeeded = state is State.EXITED and exit_code == 0
        if succeeded and (
            condition is Condition.COMPLETED or (condition is Condition.STARTED and is_job(spec))
        ):
            return Judgement(Outlook.MET, "has completed")
        return Judgement(Outlook.NEVER, describe_end(state, exit_code))
    if condition is Condition.COMPLETED:
        return Judgement(Outlook.WAIT, f"is {state} and has not completed")
    if state not in (State.RUNNING, State.PAUSED):
        return Judgement(Outlook.WAIT, f"is {state}")
    if condition is Condition.STARTED or health in (Health.NONE, Health.HEALTHY):
        return Judgement(Outlook.MET, "is running" if condition is Condition.STARTED else "is healthy")
    if health is Health.UNHEALTHY and not (spec.healthcheck and spec.healthcheck.action == "restart"):
        return Judgement(Outlook.NEVER, "is unhealthy")
    return Judgement(Outlook.WAIT, "is unhealthy" if health is Health.UNHEALTHY else "is not healthy yet")


def is_job(spec: ServiceSpec) -> bool:
    """Whether the service is there to run to its end."""
    return spec.kind == "job"


def describe_end(state: State, exit_code: int | None) -> str:
    """For people: ``exited (1)``, ``failed``."""
    return str(state) if exit_code is None else f"{state} ({exit_code})"
