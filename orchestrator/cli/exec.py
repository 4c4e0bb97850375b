"""``orch exec`` and ``orch run``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from orchestrator.cli.context import Context
from orchestrator.cli.parser import Command, Parser
from orchestrator.cli.progress import reporter
from orchestrator.cli.project import check_services, likely_project, load_project
from orchestrator.cli.start import ensure_service
from orchestrator.cli.stdio import Session, has_terminal, terminal_size
from orchestrator.errors import LaunchError, UsageError
from orchestrator.service.client import Terminal


def _configure_exec(parser: Parser) -> None:
    parser.description = """\
Run a program in a running container: in all its namespaces and its cgroup. The container is named by its name,
its id, or its service (then it is the first replica, see --index). The exit code is the program's.

With a terminal on both ends the program gets one of its own; else its stdin, stdout and stderr are pipes, and
signals are passed on."""
    parser.epilog = """\
examples:
  orch exec web sh                          a shell
  orch exec -e LANG=C -u 1000:1000 api id
  echo 'select 1' | orch exec -T db psql    for scripts"""
    parser.add_words("[MANIFEST] SERVICE COMMAND...", remainder=True)
    _add_process_options(parser)
    parser.add_argument("--index", type=int, metavar="N", help="the N-th replica of the service")


def _exec(context: Context) -> int:
    args = context.args
    if len(context.names) < 2:
        raise UsageError("name a service and a command", remedy="write: orch exec SERVICE COMMAND...")
    container, *command = context.names
    if args.index is not None:
        container = f"{container}-{args.index}"
    terminal = _terminal(context)
    try:
        channel = context.client.exec(
            likely_project(context),
            container,
            _command(command),
            terminal,
            environment=_environment(args.env),
            user=args.user,
            working_dir=args.workdir,
        )
        return Session(channel, tty=terminal.tty, stdin=terminal.stdin).run()
    except LaunchError as error:
        return _not_launched(context, error)


def _configure_run(parser: Parser) -> None:
    parser.description = """\
Run a one-off container of a service: its spec, but this command, no published ports, and no restarts. What it
depends on is started first. It is removed afterwards; the exit code is the program's."""
    parser.epilog = """\
examples:
  orch run manifest.toml migrate            with the service's own command
  orch run -T api python -m tests > out.txt
  orch run --no-deps --entrypoint sh api    a shell instead of the program"""
    parser.add_words("[MANIFEST] SERVICE [COMMAND...]", remainder=True)
    parser.add_profile()
    _add_process_options(parser)
    option = parser.add_argument
    option("--name", metavar="NAME", help="the container's name")
    option("--entrypoint", metavar="COMMAND", help="instead of the service's (split as a shell would)")
    option("--no-deps", action="store_true", help="do not start what the service depends on")
    option("--publish", action="store_true", help="publish the service's ports")
    option("--rm", action="store_true", help="remove the container afterwards (this is the default)")
    option("--keep", action="store_true", help="keep the container afterwards")
    option("-q", "--quiet", action="store_true", help="do not show the progress of dependencies")


def _run(context: Context) -> int:
    args = context.args
    if not context.names:
        raise UsageError("name a service", remedy="write: orch run [MANIFEST] SERVICE [COMMAND...]")
    if args.keep and args.rm:
        raise UsageError("--keep and --rm contradict each other")
    service, *command = context.names
    project = load_project(context).project
    check_services(project, [service])
    entrypoint = None
    if args.entrypoint is not None:
        import shlex

        entrypoint = shlex.split(args.entrypoint)
    ensure_service(context.client)
    terminal = _terminal(context)
    reporting = reporter(context, idle="")
    try:
        channel = context.client.run(
            project,
            service,
            _command(command) or None,
            terminal,
            environment=_environment(args.env),
            user=args.user,
            working_dir=args.workdir,
            name=args.name,
            entrypoint=entrypoint,
            keep=args.keep,
            dependencies=not args.no_deps,
            publish=args.publish,
        )
        return Session(channel, tty=terminal.tty, stdin=terminal.stdin, reporter=reporting).run()
    except LaunchError as error:
        return _not_launched(context, error)
    finally:
        reporting.finish()


def _add_process_options(parser: Parser) -> None:
    option = parser.add_argument
    option(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable; NAME alone passes ours on",
    )
    option("-u", "--user", metavar="USER[:GROUP]", help="run as this user")
    option("-w", "--workdir", metavar="DIR", help="run in this folder")
    option("-t", "--tty", action="store_true", help="a terminal for the program even if we have none")
    option("-T", "--no-tty", action="store_true", help="no terminal for the program")
    option("-i", "--interactive", action="store_true", help="pass our input on (this is the default)")
    option("--no-stdin", action="store_true", help="no input for the program")


def _terminal(context: Context) -> Terminal:
    args = context.args
    columns, rows = terminal_size()
    return Terminal(
        tty=args.tty or (has_terminal() and not args.no_tty and not args.no_stdin),
        stdin=not args.no_stdin,
        rows=rows,
        columns=columns,
    )


def _command(words: Sequence[str]) -> list[str]:
    """The words after the service; a first ``--`` only ends orch's own options."""
    return list(words[1:] if words[:1] == ["--"] else words)


def _environment(settings: Sequence[str]) -> dict[str, str]:
    variables = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name:
            raise UsageError(f"--env {setting}", "it must be NAME=VALUE or NAME")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
    return variables


def _not_launched(context: Context, error: LaunchError) -> int:
    context.out.flush()
    context.err.complain(error)
    return error.status


COMMANDS = {"exec": Command(_configure_exec, _exec), "run": Command(_configure_run, _run)}
