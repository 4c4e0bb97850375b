"""``orch plan``: what ``up`` would do, and why."""

from __future__ import annotations

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.progress import subject
from orchestrator.cli.project import check_services, load_project
from orchestrator.cli.terminal import Terminal
from orchestrator.errors import ServiceUnavailableError
from orchestrator.spec import ProjectSpec
from orchestrator.views import OperationView, PlanView

_SIGNS = {"create": ("+", "green"), "start": ("+", "green"), "remove": ("-", "red"), "stop": ("-", "red")}
_CHANGE = ("~", "yellow")


def _configure(parser: Parser) -> None:
    parser.description = """\
Show what up would do, why, and what each step waits for; nothing is changed.
The exit code is 0 when there is nothing to do, 100 when there is, 1 or 2 after an error."""
    parser.epilog = """\
examples:
  orch plan manifest.toml
  orch plan --format json | jq '.operations[].cause'"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_profile()
    parser.add_argument("--force-recreate", action="store_true", help="as up --force-recreate")
    parser.add_argument("--no-remove-orphans", action="store_true", help="as up --no-remove-orphans")
    parser.add_format("text", "json")


def _execute(context: Context) -> int:
    project = load_project(context, takes_ports=True).project
    check_services(project, context.names)
    plan = _plan(context, project)
    if context.json:
        context.print_json(plan, pretty=context.out.is_terminal)
    else:
        for line in render(plan, context.out):
            context.out.line(line)
    return exit_codes.CHANGES if plan.operations else exit_codes.OK


def _plan(context: Context, project: ProjectSpec) -> PlanView:
    args = context.args
    try:
        return context.client.plan(
            project,
            services=context.names,
            force_recreate=args.force_recreate,
            remove_orphans=not args.no_remove_orphans,
        )
    except ServiceUnavailableError:  # then nothing is there yet, and the service is not needed to say so
        from orchestrator.plan.reconcile import Options, reconcile

        options = Options(
            services=tuple(context.names),
            force_recreate=args.force_recreate,
            remove_orphans=not args.no_remove_orphans,
        )
        return reconcile(project, None, options).to_view()


def render(plan: PlanView, terminal: Terminal) -> list[str]:
    """The plan as lines: sign, object, action, cause, and what it waits for."""
    if not plan.operations:
        return [f"{plan.project} is up to date"]
    subjects = {operation.id: subject(operation) for operation in plan.operations}
    width = max(map(len, subjects.values()))
    verbs = {operation.id: operation.action.partition("-")[0] for operation in plan.operations}
    verb_width = max(map(len, verbs.values()))
    lines = []
    for operation in plan.operations:
        sign, style = _SIGNS.get(verbs[operation.id], _CHANGE)
        line = (
            f"  {terminal.style(sign, style)} {subjects[operation.id]:<{width}}"
            f"  {terminal.style(f'{verbs[operation.id]:<{verb_width}}', style)}  {operation.cause}"
        )
        if operation.after:
            names = ", ".join(subjects.get(other, other) for other in operation.after)
            line += terminal.style(f"  (after {names})", "dim")
        lines.append(line.rstrip())
    return [f"plan for {plan.project}: {_count(plan.operations)}", "", *lines]


def _count(operations: list[OperationView]) -> str:
    counts: dict[str, int] = {}
    for operation in operations:
        verb = operation.action.partition("-")[0]
        counts[verb] = counts.get(verb, 0) + 1
    return ", ".join(f"{count} to {verb}" for verb, count in counts.items())


COMMANDS = {"plan": Command(_configure, _execute)}
