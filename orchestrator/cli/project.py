"""Which project and which services a command is about.

The project is, in this order: the one that ``--project`` names; that of the manifest that was named, as the
first argument or with ``--file``; that of orch.toml or manifest.toml in the current folder; the only one that
the service knows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import NotFoundError, ServiceUnavailableError, UsageError

if TYPE_CHECKING:
    from orchestrator.cli.context import Context
    from orchestrator.manifest.load import Loaded, PortChoice
    from orchestrator.spec import Port, ProjectSpec

#: As manifest.load has them, whose import would cost every command 20 ms.
DEFAULT_NAMES = ("orch.toml", "manifest.toml")


def split_words(words: Sequence[str], file: str | None) -> tuple[str | None, list[str]]:
    """The manifest, if one is named, and the other words.

    The first word is a manifest when it ends in ``.toml``, or is a path (with a slash) of a file.
    """
    rest = list(words)
    if file is None and rest and _is_manifest(rest[0]):
        file = rest.pop(0)
    return file, rest


def load_project(context: Context, *, takes_ports: bool = False) -> Loaded:
    """Read the manifest, and print its warnings.

    :param takes_ports: see that the ports which the named services would take are free.
    :raises UsageError: when there is none.
    :raises ManifestError: with every problem in it.
    """
    context.loaded = loaded = _load(
        _manifest(context), context.args.profile, context.args.project, check_host=True,
        ports_to_take=(lambda project: _ports_to_take(context, project)) if takes_ports else None,
        service_pid=lambda: _service_pid(context),
    )  # fmt: skip
    for warning in loaded.warnings:
        context.warn(warning)
    return loaded


def _ports_to_take(context: Context, project: ProjectSpec) -> Iterator[tuple[str, int, Port]]:
    """The ports that ``up`` of the named services would publish, and that the project has not got already."""
    from orchestrator.plan.graph import closure, dependency_graph

    chosen = closure(dependency_graph(project.services), context.names or project.services)
    ports = [
        (service, index, port)
        for service in sorted(chosen)
        for index, port in enumerate(project.services[service].ports)
        if port.published
    ]
    held = _held_ports(context, project.name) if ports else set()
    return (entry for entry in ports if (entry[2].protocol, entry[2].published) not in held)


def _held_ports(context: Context, project: str) -> set[tuple[str, int]]:
    try:
        containers = context.client.containers(project, all=True)
    except (ServiceUnavailableError, NotFoundError):  # it is not up
        return set()
    return {(port.protocol, port.published) for container in containers for port in container.ports}


def _service_pid(context: Context) -> int | None:
    """The service; or this process, which would start it, and pass its own limits on. Only root can tell."""
    if os.geteuid() != 0:
        return None
    try:
        return context.client.version().pid
    except ServiceUnavailableError:
        return os.getpid()


def check_services(project: ProjectSpec, names: Iterable[str]) -> None:
    """See that the manifest has all these services.

    :raises UsageError: when it lacks one.
    """
    for name in names:
        if name not in project.services:
            raise UsageError(f'the manifest has no service "{name}"', f"it has {', '.join(project.services)}")


def require_project(context: Context) -> str:
    """The name of the project that the command is about.

    :raises UsageError: when nothing says which one.
    """
    name = _named(context) or _in_folder(context)
    if name:
        return name
    projects = [project.name for project in context.client.projects()]
    if len(projects) == 1:
        return projects[0]
    what = f"and several are up: {', '.join(projects)}" if projects else "and none is up"
    raise UsageError(f"no project is named, {what}", remedy="name a manifest, or use --project")


def optional_project(context: Context) -> str | None:
    """The name of the project for a command that can do without: then it is about all of them.

    With nothing named at all it is about all; services are those of the current folder's project.
    """
    return _named(context) or (_in_folder(context) if context.names else None)


def likely_project(context: Context) -> str | None:
    """The name of the project that a container is probably looked for in; None when nothing says which."""
    if name := _named(context) or _in_folder(context):
        return name
    projects = context.client.projects()
    return projects[0].name if len(projects) == 1 else None


def _named(context: Context) -> str | None:
    if context.args.project:
        return str(context.args.project)
    return _name_in(context.manifest) if context.manifest else None


def _in_folder(context: Context) -> str | None:
    path = _default_manifest()
    return _name_in(path) if path else None


def _name_in(path: str) -> str:
    """The project's name, read cheaply, since most commands need nothing else of a manifest.

    :raises ManifestError: when the file cannot be read, or its name takes more than that.
    """
    import tomllib

    from orchestrator.manifest.values import project_name

    try:
        with open(path, "rb") as file:
            name = tomllib.load(file).get("name", "")
    except (OSError, ValueError):
        return _load(path, ()).project.name
    if not isinstance(name, str) or "$" in name:
        return _load(path, ()).project.name
    return name or project_name(os.path.basename(os.path.dirname(os.path.abspath(path))))


def _load(
    path: str,
    profiles: Sequence[str],
    name: str | None = None,
    check_host: bool = False,
    ports_to_take: PortChoice | None = None,
    service_pid: Callable[[], int | None] = os.getpid,
) -> Loaded:
    from orchestrator.manifest.load import load

    return load(
        path,
        environ=os.environ,
        profiles=profiles,
        name=name,
        check_host=check_host,
        ports_to_take=ports_to_take,
        service_pid=service_pid,
    )


def _manifest(context: Context) -> str:
    path = context.manifest or _default_manifest()
    if path is None:
        raise UsageError(
            f"no manifest is named, and the current folder has neither {' nor '.join(DEFAULT_NAMES)}"
        )
    return path


def _default_manifest() -> str | None:
    return next((name for name in DEFAULT_NAMES if os.path.isfile(name)), None)


def _is_manifest(word: str) -> bool:
    return word.endswith(".toml") or ("/" in word and os.path.isfile(word))
