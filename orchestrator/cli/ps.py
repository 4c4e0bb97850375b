"""``orch ps`` and ``orch ls``."""

from __future__ import annotations

import time

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import optional_project
from orchestrator.cli.tables import Cell, Column, render
from orchestrator.cli.times import span
from orchestrator.errors import NotFoundError, ServiceUnavailableError
from orchestrator.states import ENDED, Health, State
from orchestrator.views import ContainerView, PortView

_STATE_STYLES = {
    State.RUNNING: "green", State.STARTING: "cyan", State.PAUSED: "blue", State.STOPPING: "yellow",
    State.RESTARTING: "yellow", State.FAILED: "red",
}  # fmt: skip
_HEALTH_STYLES = {Health.HEALTHY: "green", Health.UNHEALTHY: "red", Health.STARTING: "yellow"}


def _configure_ps(parser: Parser) -> None:
    parser.description = """\
List containers: those of the named project, else those of all projects. Containers that exited are left out
unless --all is given. On a terminal long columns are cut to its width."""
    parser.epilog = """\
examples:
  orch ps -a                              exited containers too
  orch ps manifest.toml api               those of one service
  orch ps --format json | jq '.[].pid'    one array of objects"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_argument("-a", "--all", action="store_true", help="exited containers too")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="cut nothing")
    parser.add_format("table", "json")


def _ps(context: Context) -> int:
    args = context.args
    try:
        containers = context.client.containers(
            optional_project(context), services=context.names, all=args.all
        )
    except ServiceUnavailableError:
        containers = []
    except NotFoundError:
        if context.names:
            raise
        containers = []  # the project is not up
    if context.json:
        context.print_json(containers)
    elif args.quiet:
        for container in containers:
            context.out.line(container.id)
    else:
        columns, rows = container_table(containers, time.time())
        for line in render(columns, rows, context.out, cut=not args.no_trunc):
            context.out.line(line)
    return exit_codes.OK


def container_table(
    containers: list[ContainerView], now: float
) -> tuple[list[Column], list[list[Cell | str]]]:
    """The table of ``orch ps``; the reasons have a column if there are any."""
    columns = [
        Column("NAME"), Column("SERVICE"), Column("STATE"), Column("HEALTH"), Column("PID"),
        Column("ADDRESS"), Column("PORTS", flexible=True), Column("RESTARTS"), Column("UPTIME"),
    ]  # fmt: skip
    rows: list[list[Cell | str]] = []
    for container in containers:
        health = "" if container.health is Health.NONE else container.health.value
        rows.append(
            [
                container.name,
                container.service,
                Cell(_state(container), _STATE_STYLES.get(container.state, "")),
                Cell(health, _HEALTH_STYLES.get(container.health, "")),
                str(container.pid or ""),
                container.address or "",
                ", ".join(map(port_text, container.ports)),
                str(container.restarts),
                span(now - container.started_at) if container.pid and container.started_at else "",
            ]
        )
    reasons = [_reason(container, now) for container in containers]
    if any(reasons):
        columns.append(Column("REASON", flexible=True))
        for row, reason in zip(rows, reasons, strict=True):
            row.append(reason)
    return columns, rows


def _state(container: ContainerView) -> str:
    if container.state in ENDED and container.exit_code is not None:
        return f"{container.state.value} ({container.exit_code})"
    return container.state.value


def _reason(container: ContainerView, now: float) -> str:
    if container.state is State.RESTARTING and container.next_attempt_at is not None:
        wait = f"next attempt in {span(container.next_attempt_at - now + 0.5)}"
        return f"{container.reason}; {wait}" if container.reason else wait
    return container.reason


def port_text(port: PortView) -> str:
    """A published port, as ``docker ps`` writes it."""
    return f"{host_port(port)}->{port.target}/{port.protocol}"


def host_port(port: PortView) -> str:
    """The host's side of a published port; an IPv6 address stands in brackets."""
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    return f"{address}:{port.published}"


def _configure_ls(parser: Parser) -> None:
    parser.description = "List the projects that the service knows."
    parser.epilog = "examples:\n  orch ls --format json"
    parser.add_words("")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_format("table", "json")


def _ls(context: Context) -> int:
    try:
        projects = context.client.projects()
    except ServiceUnavailableError:
        projects = []
    if context.json:
        context.print_json(projects)
    elif context.args.quiet:
        for project in projects:
            context.out.line(project.name)
    else:
        columns = [
            Column("NAME"), Column("STATE"), Column("SERVICES", flexible=True), Column("MANIFEST", flexible=True)
        ]  # fmt: skip
        rows = [
            [
                project.name,
                project.state,
                ", ".join(f"{name} ({count})" for name, count in project.services.items()),
                project.source,
            ]
            for project in projects
        ]
        for line in render(columns, rows, context.out):
            context.out.line(line)
    return exit_codes.OK


COMMANDS = {"ps": Command(_configure_ps, _ps), "ls": Command(_configure_ls, _ls)}
