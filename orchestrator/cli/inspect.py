"""``orch inspect`` and ``orch port``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import likely_project, require_project
from orchestrator.cli.ps import host_port, port_text
from orchestrator.cli.tables import Column, render
from orchestrator.cli.terminal import Terminal, plain
from orchestrator.cli.times import timestamp
from orchestrator.errors import NotFoundError, UsageError
from orchestrator.units import format_duration
from orchestrator.views import InspectView, SeccompView


def _configure_inspect(parser: Parser) -> None:
    parser.description = """\
Show everything about one container: its state, spec, cgroups, root file system, the stages of its start and how
long each took, its launch program, and its last health probes. It is named by its name, id, service, or
service-N for the N-th replica."""
    parser.epilog = """\
examples:
  orch inspect web | jq .container.address
  orch inspect --format text shop-api-2"""
    parser.add_words("[MANIFEST] CONTAINER")
    parser.add_format("json", "text")


def _inspect(context: Context) -> int:
    if len(context.names) != 1:
        raise UsageError("name one container", remedy="write: orch inspect CONTAINER")
    view = context.client.inspect(context.names[0], likely_project(context))
    if context.json:
        context.print_json(view, pretty=True)
    else:
        for line in describe(view, context.out):
            context.out.line(line)
    return exit_codes.OK


def describe(view: InspectView, terminal: Terminal) -> list[str]:
    """A container for people: facts, then a section for each list."""
    container = view.container
    exit_code = "" if container.exit_code is None else f", exit code {container.exit_code}"
    facts = {
        "name": container.name,
        "id": container.id,
        "service": f"{container.service} of {container.project} (replica {container.replica})",
        "state": f"{container.state.value}{exit_code}",
        "reason": container.reason,
        "health": container.health.value,
        "image": container.image,
        "command": " ".join(container.command),
        "pid": str(container.pid or ""),
        "addresses": ", ".join(f"{address} ({network})" for network, address in container.addresses.items()),
        "ports": ", ".join(map(port_text, container.ports)),
        "restarts": str(container.restarts),
        "created": timestamp(container.created_at),
        "started": timestamp(container.started_at) if container.started_at else "",
        "finished": timestamp(container.finished_at) if container.finished_at else "",
        "seccomp": _seccomp(view.seccomp),
        "log": view.log_path,
        "spec digest": view.spec_digest,
    }
    width = max(map(len, facts))
    lines = [f"{key + ':':<{width + 1}} {plain(value)}" for key, value in facts.items() if value]
    if view.stages:
        columns = [Column("  STAGE"), Column("TIME", right=True)]
        rows = [[f"  {stage.name}", f"{stage.seconds * 1000:.2f} ms"] for stage in view.stages]
        lines += _section("start", render(columns, rows, terminal), terminal)
    if view.probes:
        columns = [Column("  TIME"), Column("RESULT"), Column("TOOK"), Column("OUTPUT", flexible=True)]
        rows = [
            [
                f"  {timestamp(probe.time)}",
                "ok" if probe.ok else "failed",
                format_duration(round(probe.seconds, 3)),
                probe.output,
            ]
            for probe in view.probes
        ]
        lines += _section("probes", render(columns, rows, terminal), terminal)
    if view.pressure:
        columns = [
            Column("  TRIGGER"),
            Column("ACTION"),
            Column("SUSTAINED"),
            Column("NOTICED", flexible=True),
        ]
        rows = [
            [f"  {each.trigger}", each.action, "yes" if each.sustained else "no", each.text]
            for each in view.pressure
        ]
        lines += _section("pressure", render(columns, rows, terminal), terminal)
    for title, values in (
        ("cgroups", [f"{controller}: {path}" for controller, path in view.cgroup.items()]),
        ("root file system", list(_rootfs(view.rootfs))),
        ("security modules", [f"{key.replace('_', ' ')}: {value}" for key, value in view.lsm.items()]),
        ("environment", view.environment),
        ("spec", json.dumps(view.spec, indent=2).splitlines()),
        ("launch program", view.program),
    ):
        if values:
            lines += _section(title, [f"  {plain(value)}" for value in values], terminal)
    return lines


def _seccomp(view: SeccompView | None) -> str:
    if view is None or not view.digest:
        return view.profile if view else ""
    return (
        f"{view.profile}: {view.rules} rules for {', '.join(view.architectures)}, "
        f"{view.instructions} instructions, digest {view.digest[:12]}"
    )


def _rootfs(rootfs: dict[str, Any]) -> Iterator[str]:
    for key, value in rootfs.items():
        if key == "layers":
            for layer in value:
                yield f"{layer['target']}: {' over '.join([layer['upper'], *layer['lower']])}"
        elif isinstance(value, dict):
            yield from (f"{key.removesuffix('s')} {name}: {path}" for name, path in value.items())
        else:
            yield f"{key}: {value}"


def _section(title: str, lines: list[str], terminal: Terminal) -> list[str]:
    return ["", terminal.style(f"{title}:", "bold"), *lines]


def _configure_port(parser: Parser) -> None:
    parser.description = "Show at which addresses of the host a service's ports are published."
    parser.epilog = """\
examples:
  orch port web         all of them
  orch port web 80      127.0.0.1:8080
  orch port dns 53/udp"""
    parser.add_words("[MANIFEST] SERVICE [PORT[/PROTOCOL]]")
    parser.add_format("text", "json")


def _port(context: Context) -> int:
    if len(context.names) not in (1, 2):
        raise UsageError("name a service", remedy="write: orch port SERVICE [PORT[/PROTOCOL]]")
    service, *wanted = context.names
    number, _, protocol = wanted[0].partition("/") if wanted else ("", "", "")
    if wanted and (not number.isdigit() or protocol not in ("", "tcp", "udp")):
        raise UsageError(f"{wanted[0]!r} is not a port", "write it like 80 or 53/udp")
    containers = context.client.containers(require_project(context), services=[service], all=True)
    ports = {  # replicas may share an address of the host
        (port.host_ip, port.published, port.target, port.protocol): port
        for container in containers
        for port in container.ports
        if not wanted or (port.target == int(number) and port.protocol == (protocol or "tcp"))
    }
    if not ports:
        what = f"port {wanted[0]}" if wanted else "any port"
        raise NotFoundError(f'"{service}" does not publish {what}')
    if context.json:
        context.print_json(list(ports.values()))
        return exit_codes.OK
    for port in ports.values():
        prefix = "" if wanted else f"{port.target}/{port.protocol} -> "
        context.out.line(f"{prefix}{host_port(port)}")
    return exit_codes.OK


COMMANDS = {
    "inspect": Command(_configure_inspect, _inspect),
    "port": Command(_configure_port, _port),
}
