"""``orch audit``."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import check_services, has_manifest, load_project, optional_project
from orchestrator.cli.terminal import Terminal, plain
from orchestrator.errors import ServiceUnavailableError
from orchestrator.views import AuditView, FindingView, Severity

_STYLES = {
    Severity.CRITICAL: "red", Severity.HIGH: "red", Severity.MEDIUM: "yellow", Severity.LOW: "cyan",
    Severity.INFO: "dim",
}  # fmt: skip
_WIDTH = 110
_RESERVATION = "judged by the manifest; what this host makes of it shows when it runs"


def _configure(parser: Parser) -> None:
    parser.description = """\
Show what of each container deviates from the secure default, how risky that is, why, and the remedy. Of a running
container it is what is in force, as the kernel has it; where that is less than the manifest promises, the finding is
critical. A project that is not up is judged by its manifest. The exit code is 0 whatever is found, unless --fail-on
is given."""
    parser.epilog = """\
examples:
  orch audit                                     all containers
  orch audit manifest.toml web                   one service
  orch audit --planned --fail-on high            in CI: the manifest, whether its project is up or not
  orch audit --format json | jq '.[].findings[] | select(.severity == "critical")'"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_profile()
    parser.add_argument(
        "--planned", action="store_true", help="judge the manifest, even if its project is up"
    )
    parser.add_argument(
        "--fail-on",
        choices=[severity.value for severity in Severity],
        help="exit with 1 when there is a finding as bad as that, or worse",
    )
    parser.add_format("table", "json")


def _execute(context: Context) -> int:
    views = _planned(context) if _is_about_a_plan(context) else _live(context)
    if context.json:
        context.print_json(views, pretty=context.out.is_terminal)
    else:
        for line in report(views, context.out):
            context.out.line(line)
    findings = [finding for view in views for finding in view.findings]
    if context.args.fail_on and _at_least(findings, Severity(context.args.fail_on)):
        return exit_codes.FAILED
    return exit_codes.OK


def _is_about_a_plan(context: Context) -> bool:
    """Whether to judge a manifest: it is asked for, or there is one and nothing of it is up."""
    if context.args.planned:
        return True
    if not has_manifest(context):
        return False
    wanted = optional_project(context)
    try:
        up = {project.name for project in context.client.projects()}
    except ServiceUnavailableError:
        return True
    return wanted not in up if wanted else not up


def _live(context: Context) -> list[AuditView]:
    try:
        return context.client.audit(optional_project(context), services=context.names)
    except ServiceUnavailableError:
        if context.names or context.args.project:
            raise
        return []


def _planned(context: Context) -> list[AuditView]:
    from orchestrator.audit.host import look
    from orchestrator.audit.rules import judge
    from orchestrator.audit.subject import Subject, inherited

    project = load_project(context).project
    check_services(project, context.names)
    return [
        AuditView(
            project=project.name,
            service=name,
            name=name,
            id="",
            running=False,
            findings=judge(Subject(spec, look(spec), inherited=inherited(spec, project.services))),
        )
        for name, spec in project.services.items()
        if not context.names or name in context.names
    ]


def _at_least(findings: Sequence[FindingView], severity: Severity) -> bool:
    order = list(Severity)
    return any(order.index(finding.severity) <= order.index(severity) for finding in findings)


def report(views: list[AuditView], terminal: Terminal) -> list[str]:
    """The findings for people: containers with the same ones together, then how many there are."""
    planned = any(not view.id for view in views)
    lines = [terminal.style(_RESERVATION, "dim"), ""] if planned else []
    for names, findings in _together(views):
        lines += [terminal.style(plain(", ".join(names)), "bold")]
        for finding in findings:
            lines += _describe(finding, terminal)
        lines.append("")
    return [*lines, _summary(views)]


def _together(views: list[AuditView]) -> list[tuple[list[str], list[FindingView]]]:
    groups: list[tuple[list[str], list[FindingView]]] = []
    for view in views:
        same = next((names for names, findings in groups if findings == view.findings), None)
        if same is None:
            groups.append(([view.name], view.findings))
        else:
            same.append(view.name)
    return groups


def _describe(finding: FindingView, terminal: Terminal) -> list[str]:
    severity = finding.severity.value
    head = f"  {terminal.style(severity.upper(), _STYLES[finding.severity])}"
    return [
        f"{head}{' ' * (10 - len(severity))}{terminal.style(plain(finding.key), 'bold')}: {plain(finding.what)}",
        *_paragraph("why", finding.why, terminal),
        *_paragraph("remedy", finding.remedy, terminal),
    ]


def _paragraph(title: str, text: str, terminal: Terminal) -> list[str]:
    width = min(terminal.width or _WIDTH, _WIDTH)
    wrapped = textwrap.wrap(plain(text), max(width - 20, 20), break_long_words=False, break_on_hyphens=False)
    return [f"{' ' * 12}{title if number == 0 else '':<8}{line}" for number, line in enumerate(wrapped)]


def _summary(views: list[AuditView]) -> str:
    planned = any(not view.id for view in views)
    what = ("service" if planned else "container") + ("" if len(views) == 1 else "s")
    counts = Counter(finding.severity for view in views for finding in view.findings)
    found = ", ".join(f"{counts[severity]} {severity.value}" for severity in Severity if counts[severity])
    return f"{len(views)} {what}: {found or 'nothing deviates from the default'}"


COMMANDS = {"audit": Command(_configure, _execute)}
