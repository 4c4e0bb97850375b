"""When a container meets what its dependants wait for."""

from __future__ import annotations

import pytest

from orchestrator.plan.conditions import Outlook, judge
from orchestrator.spec import Condition, ExecCheck, Healthcheck, ServiceSpec
from orchestrator.states import Health, State

C, S, H = Condition, State, Health
CHECK = Healthcheck(test=ExecCheck(command=("true",)))
SERVICE = ServiceSpec(name="db", healthcheck=CHECK)
JOB = ServiceSpec(name="job", kind="job")
RESTARTED = ServiceSpec(name="db", healthcheck=Healthcheck(test=CHECK.test, action="restart"))


@pytest.mark.parametrize(("condition", "spec", "state", "health", "exit_code", "outlook", "reason"), [
    (C.STARTED, SERVICE, S.PENDING, H.NONE, None, Outlook.WAIT, "is pending"),
    (C.STARTED, SERVICE, S.RUNNING, H.STARTING, None, Outlook.MET, "is running"),
    (C.STARTED, SERVICE, S.RESTARTING, H.NONE, 1, Outlook.WAIT, "is restarting"),
    (C.STARTED, SERVICE, S.EXITED, H.NONE, 0, Outlook.NEVER, "exited (0)"),
    (C.STARTED, JOB, S.EXITED, H.NONE, 0, Outlook.MET, "has completed"),
    (C.STARTED, JOB, S.EXITED, H.NONE, 2, Outlook.NEVER, "exited (2)"),
    (C.HEALTHY, SERVICE, S.STARTING, H.NONE, None, Outlook.WAIT, "is starting"),
    (C.HEALTHY, SERVICE, S.RUNNING, H.STARTING, None, Outlook.WAIT, "is not healthy yet"),
    (C.HEALTHY, SERVICE, S.RUNNING, H.HEALTHY, None, Outlook.MET, "is healthy"),
    (C.HEALTHY, SERVICE, S.RUNNING, H.NONE, None, Outlook.MET, "is healthy"),
    (C.HEALTHY, SERVICE, S.RUNNING, H.UNHEALTHY, None, Outlook.NEVER, "is unhealthy"),
    (C.HEALTHY, RESTARTED, S.RUNNING, H.UNHEALTHY, None, Outlook.WAIT, "is unhealthy"),
    (C.HEALTHY, SERVICE, S.FAILED, H.NONE, 127, Outlook.NEVER, "failed (127)"),
    (C.COMPLETED, JOB, S.RUNNING, H.NONE, None, Outlook.WAIT, "is running and has not completed"),
    (C.COMPLETED, JOB, S.EXITED, H.NONE, 0, Outlook.MET, "has completed"),
    (C.COMPLETED, SERVICE, S.EXITED, H.NONE, 0, Outlook.MET, "has completed"),
    (C.COMPLETED, JOB, S.EXITED, H.NONE, 1, Outlook.NEVER, "exited (1)"),
    (C.COMPLETED, JOB, S.FAILED, H.NONE, None, Outlook.NEVER, "failed"),
    (C.COMPLETED, JOB, S.RESTARTING, H.NONE, 1, Outlook.WAIT, "is restarting and has not completed"),
])  # fmt: skip
def test_judgement(
    condition: Condition,
    spec: ServiceSpec,
    state: State,
    health: Health,
    exit_code: int | None,
    outlook: Outlook,
    reason: str,
) -> None:
    judgement = judge(condition, spec, state, health, exit_code)
    assert (judgement.outlook, judgement.reason) == (outlook, reason)
