"""``orch ns``."""

from __future__ import annotations

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import optional_project
from orchestrator.cli.tables import Cell, Column, render
from orchestrator.errors import ServiceUnavailableError, UsageError
from orchestrator.views import IdMapView, NamespaceView

#: As kernel.process has them.
KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_ALL_IDS = (1 << 32) - 1


def _configure(parser: Parser) -> None:
    parser.description = f"""\
List containers with their namespaces, as lsns does: the inode number, the user namespace that owns it, how many
processes of the host are in it, who else shares it, and whose ids a user namespace has. A container that has ended
keeps its network namespace. Kinds are {", ".join(KINDS)}."""
    parser.epilog = """\
examples:
  orch ns
  orch ns -t net,user api               two kinds, of one service
  orch ns --format json | jq '.[] | select(.shared_with | index("host"))'"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_argument(
        "-t", "--kind", action="append", default=[], metavar="KIND,...", help="only namespaces of these kinds"
    )
    parser.add_format("table", "json")


def _execute(context: Context) -> int:
    kinds = [kind for words in context.args.kind for kind in words.split(",") if kind]
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f'there is no kind of namespace "{kind}"', f"allowed: {', '.join(KINDS)}")
    try:
        found = context.client.namespaces(optional_project(context), services=context.names, kinds=kinds)
    except ServiceUnavailableError:
        if context.names:
            raise
        found = []
    if context.json:
        context.print_json(found)
        return exit_codes.OK
    columns, rows = namespace_table(found)
    for line in render(columns, rows, context.out):
        context.out.line(line)
    return exit_codes.OK


def namespace_table(views: list[NamespaceView]) -> tuple[list[Column], list[list[Cell | str]]]:
    """The table of ``orch ns``; a container's name stands at its first row."""
    columns = [
        Column("NAME"), Column("TYPE"), Column("NS", right=True), Column("OWNER", right=True),
        Column("PROCS", right=True), Column("PID", right=True), Column("SHARED WITH", flexible=True),
        Column("IDS", flexible=True),
    ]  # fmt: skip
    rows: list[list[Cell | str]] = []
    before = ""
    for view in views:
        rows.append(
            [
                "" if view.name == before else view.name,
                view.kind if view.first else f"{view.kind} (inside)",
                str(view.inode),
                str(view.owner or "-"),
                str(view.processes),
                str(view.pid or "-"),
                Cell(", ".join(view.shared_with), "yellow" if view.shared_with == ["host"] else ""),
                ids_text(view.uid_map, view.gid_map),
            ]
        )
        before = view.name
    return columns, rows


def ids_text(uid: list[IdMapView] | None, gid: list[IdMapView] | None) -> str:
    """The maps of a user namespace: ids in it = ids of the host."""
    if uid is None or gid is None:
        return ""
    if uid == gid:
        return map_text(uid)
    return f"users {map_text(uid)}; groups {map_text(gid)}"


def map_text(extents: list[IdMapView]) -> str:
    """One map: ``0-65535 = 1879048192-1879113727``."""
    if [(each.inside, each.outside, each.count) for each in extents] == [(0, 0, _ALL_IDS)]:
        return "the host's"
    return ", ".join(f"{_range(e.inside, e.count)} = {_range(e.outside, e.count)}" for e in extents) or "none"


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


COMMANDS = {"ns": Command(_configure, _execute)}
