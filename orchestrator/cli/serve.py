"""``orch serve`` and ``orch version``."""

from __future__ import annotations

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.times import span
from orchestrator.errors import ServiceUnavailableError


def _configure_serve(parser: Parser) -> None:
    parser.description = """\
Run the host service in the foreground, until SIGTERM or Ctrl-C. up and run start one by themselves when none
runs; this is for service managers, and for watching it work."""
    parser.epilog = "examples:\n  orch serve\n  orch serve --log-level debug --run-dir /run/orch-test"
    parser.add_words("")
    parser.add_argument("--exit-when-idle", action="store_true", help="end when no project is left")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default info)"
    )


def _serve(context: Context) -> int:
    from orchestrator.service.main import main

    arguments = ["--state-dir", context.instance.state_dir, "--run-dir", context.instance.run_dir]
    if context.args.exit_when_idle:
        arguments.append("--exit-when-idle")
    return main([*arguments, "--log-level", context.args.log_level])


def _configure_version(parser: Parser) -> None:
    parser.description = "Show the version of this client, and of the service if one runs."
    parser.epilog = "examples:\n  orch version --format json"
    parser.add_words("")
    parser.add_format("text", "json")


def _version(context: Context) -> int:
    try:
        service = context.client.version()
    except ServiceUnavailableError:
        service = None
    if context.json:
        context.print_json({"client": client_version(), "service": service})
        return exit_codes.OK
    context.out.line(f"client:  {client_version()}")
    if service is None:
        context.out.line(f"service: none runs (run dir {context.instance.run_dir})")
    else:
        import time

        context.out.line(
            f"service: {service.version} (API {service.api}, pid {service.pid}, "
            f"up {span(time.time() - service.started_at)}, instance {service.instance})"
        )
        context.out.line(f"state:   {service.state_dir}\nrun:     {service.run_dir}")
    return exit_codes.OK


def client_version() -> str:
    """The version of the installed package."""
    from importlib.metadata import version

    return version("orch")


COMMANDS = {"serve": Command(_configure_serve, _serve), "version": Command(_configure_version, _version)}
