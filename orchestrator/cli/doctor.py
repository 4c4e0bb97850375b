"""``orch doctor``."""

from __future__ import annotations

import dataclasses

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.tables import Cell, Column, render

_STYLES = {"ok": "green", "warning": "yellow", "missing": "red"}


def _configure(parser: Parser) -> None:
    parser.description = """\
Show what this host offers and lacks, and what to do about it. The exit code is 1 when something that orch
cannot do without is missing."""
    parser.epilog = "examples:\n  orch doctor\n  orch doctor --format json"
    parser.add_words("")
    parser.add_format("table", "json")


def _execute(context: Context) -> int:
    from orchestrator.doctor import examine

    findings = examine(context.instance)
    if context.json:
        context.print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        columns = [Column("WHAT"), Column("STATUS"), Column("DETAIL", flexible=True)]
        rows: list[list[Cell | str]] = [
            [finding.name, Cell(finding.status, _STYLES.get(finding.status, "")), finding.detail]
            for finding in findings
        ]
        for line in render(columns, rows, context.out, cut=False):
            context.out.line(line)
        for finding in findings:
            if finding.remedy and finding.status != "ok":
                context.out.line(f"{context.out.style(finding.name, 'bold')}: {finding.remedy}")
    return exit_codes.FAILED if any(finding.status == "missing" for finding in findings) else exit_codes.OK


COMMANDS = {"doctor": Command(_configure, _execute)}
