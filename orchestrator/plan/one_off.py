"""The plan of ``orch run``: what a one-off container needs, without the service's own containers."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from orchestrator.plan.operations import Plan


def keep_services(plan: Plan, services: Set[str]) -> Plan:
    """The plan's operations upon networks, volumes and containers of ``services``; the others are left out."""
    kept = [
        operation for operation in plan.operations if not operation.service or operation.service in services
    ]
    ids = {operation.id for operation in kept}
    return Plan(
        plan.project,
        tuple(
            replace(
                op, after=tuple(after for after in op.after if not after.operation or after.operation in ids)
            )
            for op in kept
        ),
    )
