"""What scenarios of a project's life ask about it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from typing import Any

from support.cli import Orch


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nothing has; the sandbox has nobody else who would take it."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def events(orch: Orch, project: str, *services: str) -> list[dict[str, Any]]:
    """Everything that happened in a project."""
    done = orch.run("events", "-p", project, "--format", "json", *services)
    return [json.loads(line) for line in done.stdout.splitlines()]


def when(orch: Orch, project: str, service: str, action: str, *, last: bool = False) -> float:
    """The time of the first (or last) such event."""
    times = [event["time"] for event in events(orch, project, service) if event["action"] == action]
    assert times, f'"{service}" was never {action}'
    return float(times[-1 if last else 0])


def actions(orch: Orch, project: str, *wanted: str) -> list[tuple[str, str]]:
    """(action, container's name without the project) of the events whose action is wanted, in order."""
    return [
        (event["action"], event["name"].removeprefix(f"{project}-"))
        for event in events(orch, project)
        if event["action"] in wanted
    ]


def pids(orch: Orch) -> dict[str, int]:
    """The first process of every container that has one."""
    return {one["name"]: one["pid"] for one in orch.ps() if one["pid"] is not None}


def operations(lines: Iterable[str], kind: str) -> list[Any]:
    """Of a progress stream in JSON: the plan's operations (kind "plan"), or the ids of those that are so far."""
    found = [json.loads(line) for line in lines]
    if kind == "plan":
        return list(next(entry["plan"]["operations"] for entry in found if entry["kind"] == "plan"))
    return [entry["operation"] for entry in found if entry["kind"] == kind]
