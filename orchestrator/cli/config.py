"""``orch config``."""

from __future__ import annotations

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.project import check_services, load_project


def _configure(parser: Parser) -> None:
    parser.description = """\
Check a manifest and print what it amounts to: variables replaced, files included, defaults filled in. Every
problem is reported at once, and the exit code is then 2. With services only these are printed."""
    parser.epilog = """\
examples:
  orch config -q manifest.toml              only check
  orch config --format json | jq .services.web
  orch config --schema > orch.schema.json   the JSON Schema, for editors"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_profile()
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of manifests")
    parser.add_argument("--services", action="store_true", help="print the names of the services")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but problems")
    parser.add_format("toml", "json")


def _execute(context: Context) -> int:
    args = context.args
    if args.schema:
        from orchestrator.manifest.schema import json_schema

        context.print_json(json_schema(), pretty=True)
        return exit_codes.OK
    project = load_project(context).project
    check_services(project, context.names)
    if args.quiet:
        return exit_codes.OK
    names = context.names or list(project.services)
    if args.services and context.json:
        context.print_json(names)
    elif args.services:
        for name in names:
            context.out.line(name)
    else:
        import msgspec

        from orchestrator.manifest.dump import to_json, to_toml

        project = msgspec.structs.replace(project, services={name: project.services[name] for name in names})
        context.out.line((to_json if context.json else to_toml)(project).rstrip("\n"))
    return exit_codes.OK


COMMANDS = {"config": Command(_configure, _execute)}
