"""The commands that change containers which exist: down, start, stop, restart, kill, pause, unpause, scale."""

from __future__ import annotations

from typing import Literal

from orchestrator.cli import exit_codes
from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.progress import check, show
from orchestrator.cli.project import require_project
from orchestrator.cli.times import parse_seconds
from orchestrator.errors import NotFoundError, ServiceUnavailableError, UsageError


def _configure_down(parser: Parser) -> None:
    parser.description = """\
Stop and remove a project's containers and networks, dependants first. Volumes stay unless --volumes is given.
When nothing is up there is nothing to do, and that is no error."""
    parser.epilog = """\
examples:
  orch down                  the project of the current folder, or the only one that is up
  orch down -p shop -v       the project "shop", with its volumes"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_argument("-v", "--volumes", action="store_true", help="remove the project's volumes too")
    parser.add_argument("--kill", action="store_true", help="kill at once, without a grace period")
    _add_timeout(parser)
    _add_output(parser)


def _down(context: Context) -> int:
    args = context.args
    try:
        stream = context.client.down(
            require_project(context),
            services=context.names,
            volumes=args.volumes,
            timeout=args.timeout,
            kill=args.kill,
        )
    except (ServiceUnavailableError, NotFoundError) as error:
        if context.names and isinstance(error, NotFoundError):
            raise
        if not args.quiet and not context.json:
            context.err.line(f"nothing to do: {error.what}")
        return exit_codes.OK
    check(show(context, stream))
    return exit_codes.OK


def _command(verb: Literal["start", "stop", "restart"], description: str) -> Command:
    def configure(parser: Parser) -> None:
        parser.description = description
        parser.epilog = f"""\
examples:
  orch {verb}                     all containers of the project
  orch {verb} api                 those of the service "api"
  orch {verb} manifest.toml api-2  one replica"""
        parser.add_words("[MANIFEST] [SERVICE...]")
        _add_timeout(parser)
        _add_output(parser)

    def execute(context: Context) -> int:
        stream = context.client.lifecycle(
            verb, require_project(context), services=context.names, timeout=context.args.timeout
        )
        check(show(context, stream))
        return exit_codes.OK

    return Command(configure, execute)


def _configure_kill(parser: Parser) -> None:
    parser.description = (
        "Send a signal to the first process of containers. The restart policy sees what follows."
    )
    parser.epilog = """\
examples:
  orch kill -s SIGHUP web    let "web" read its configuration again
  orch kill                  kill all containers of the project"""
    parser.add_words("[MANIFEST] [SERVICE...]")
    parser.add_argument(
        "-s",
        "--signal",
        default="SIGKILL",
        type=signal_name,
        metavar="SIGNAL",
        help="which (default SIGKILL)",
    )
    parser.add_format("text", "json")


def _kill(context: Context) -> int:
    project = require_project(context)
    return _names(
        context, context.client.kill(project, services=context.names, signal=context.args.signal), "signalled"
    )


def _freezing(verb: Literal["pause", "unpause"], description: str) -> Command:
    def configure(parser: Parser) -> None:
        parser.description = description
        parser.epilog = f"examples:\n  orch {verb} api"
        parser.add_words("[MANIFEST] [SERVICE...]")
        parser.add_format("text", "json")

    def execute(context: Context) -> int:
        project = require_project(context)
        return _names(context, context.client.freeze(verb, project, services=context.names), f"{verb}d")

    return Command(configure, execute)


def _names(context: Context, names: list[str], word: str) -> int:
    if context.json:
        context.print_json(names)
    for name in names if not context.json else ():
        context.out.line(f"{name} {word}")
    return exit_codes.OK


def _configure_scale(parser: Parser) -> None:
    parser.description = "Change the number of replicas of services, until the next up."
    parser.epilog = "examples:\n  orch scale api=3 worker=2"
    parser.add_words("[MANIFEST] SERVICE=REPLICAS...")
    _add_output(parser)


def _scale(context: Context) -> int:
    services = {}
    for word in context.names:
        service, equals, count = word.partition("=")
        if not equals or not service or not count.isascii() or not count.isdigit():
            raise UsageError(f"{word!r} is not SERVICE=REPLICAS", "write it like api=3")
        services[service] = int(count)
    if not services:
        raise UsageError("no service is named", remedy="write: orch scale api=3")
    check(show(context, context.client.scale(require_project(context), services)))
    return exit_codes.OK


def signal_name(text: str) -> str:
    """The name of a signal given as ``HUP``, ``sighup`` or ``1``; for argparse's ``type=``.

    :raises UsageError: when there is no such signal.
    """
    import signal

    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name in signal.Signals.__members__:
        return name
    if text in map(str, map(int, signal.Signals)):
        return signal.Signals(int(text)).name
    raise UsageError(f'there is no signal "{text}"', remedy="kill -l lists them")


def _add_timeout(parser: Parser) -> None:
    parser.add_argument(
        "-t",
        "--timeout",
        type=parse_seconds,
        metavar="TIME",
        help="grace period before a kill (else the manifest's)",
    )


def _add_output(parser: Parser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show progress")
    parser.add_format("text", "json")


COMMANDS = {
    "down": Command(_configure_down, _down),
    "start": _command("start", "Start containers that were stopped, dependencies first."),
    "stop": _command("stop", "Stop containers and keep them, dependants first. start starts them again."),
    "restart": _command("restart", "Stop containers and start them again."),
    "kill": Command(_configure_kill, _kill),
    "pause": _freezing("pause", "Freeze all processes of containers where they are."),
    "unpause": _freezing("unpause", "Let frozen containers run on."),
    "scale": Command(_configure_scale, _scale),
}
