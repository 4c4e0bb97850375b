"""The way from a manifest's path to a project: read, include, parse, lay over defaults, build, check."""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import ManifestError, OrchError
from orchestrator.manifest import check, dotenv, host, schema, values
from orchestrator.manifest.document import Document, UnreadableError
from orchestrator.manifest.draft import DEFAULT_NETWORK, Draft
from orchestrator.manifest.place import Place, Report
from orchestrator.manifest.service import build
from orchestrator.spec import FileSpec, NetworkSpec, Port, ProjectSpec, ServiceSpec, VolumeSpec
from orchestrator.units import format_size

#: Names of a manifest, in the order in which they are looked for.
FILE_NAMES = ("orch.toml", "manifest.toml")
#: Chooses the ports of a project that must be free: (service, index in its ``ports``, port).
PortChoice = Callable[[ProjectSpec], Iterable[tuple[str, int, Port]]]
_MAX_INCLUDE_DEPTH = 32
#: Bytes of one secret or config (Docker's limit), of all that a service gets, and of all that those of a project get:
#: a start sends the service's, and ``up`` the project's, and either holds up everything else meanwhile.
_MAX_CONTENT = 500 << 10
_MAX_SERVICE_CONTENT = 1 << 20
_MAX_PROJECT_CONTENT = 8 << 20
_FILE_SECTIONS = ("secrets", "configs")
#: A line of the service's refusal: service, key, what is wrong.
_PROBLEM = re.compile(r"services\.([a-z0-9_-]+)\.([A-Za-z0-9_.-]+): (.*)")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A project, what is odd about its manifest, and all files that were read for it."""

    project: ProjectSpec
    warnings: tuple[str, ...]
    files: tuple[str, ...]
    _found: _Definitions = field(compare=False, repr=False)

    def placed(self, error: OrchError) -> OrchError:
        """The service's refusal of the project, as problems of the manifest's lines, if all of it is about keys."""
        matches = [_PROBLEM.fullmatch(line) for line in str(error).splitlines()]
        if not all(match and match[1] in self._found.drafts for match in matches):
            return error
        problems = [
            host.HostProblem(
                match[1], tuple(int(key) if key.isdecimal() else key for key in match[2].split(".")), match[3]
            )
            for match in matches
            if match
        ]
        return ManifestError(self._found.problems(problems))


def find_manifest(directory: str) -> str | None:
    """The path of the manifest in a folder, or None."""
    paths = (os.path.join(directory, name) for name in FILE_NAMES)
    return next((path for path in paths if os.path.isfile(path)), None)


def load(
    path: str,
    *,
    environ: Mapping[str, str],
    profiles: Sequence[str] = (),
    name: str | None = None,
    check_host: bool = True,
    ports_to_take: PortChoice | None = None,
    service_pid: Callable[[], int | None] = os.getpid,
) -> Loaded:
    """The project that a manifest describes.

    :param path: the manifest; messages name it as it is given here.
    :param environ: variables; those of a file ``.env`` beside the manifest are beneath.
    :param profiles: the active ones (``*`` is all of them); if there are none, ORCH_PROFILES or
        COMPOSE_PROFILES of the environment names them, separated by commas.
    :param name: the project's name, instead of the one in the manifest.
    :param check_host: whether CPUs, folders and devices that this host lacks are problems.
    :param service_pid: tells the process whose limits those of containers cannot exceed, if that is known.
    :param ports_to_take: of the ports that it chooses, those that something on this host has are problems.
    :raises ManifestError: with all problems, in the order of their lines.
    """
    report = Report(environ)
    try:
        main = report.read_document(path)
    except UnreadableError as error:
        report.problem(path, error.line, str(error))
        raise ManifestError(report.problems) from None
    _lay_dotenv_beneath(report, path)

    found = _Definitions(report)
    found.add(main)
    active = found.active(_chosen_profiles(profiles, report))
    specs = {service: build(draft, active, found.content) for service, draft in found.drafts.items()}
    running = {service: spec for service, spec in specs.items() if service in active}
    _check(found, active, running)
    _check_contents(report, path, found, running)

    networks = {network: spec for network, (_, spec) in found.networks.items()}
    if any(joined.network == DEFAULT_NETWORK for spec in running.values() for joined in spec.networks):
        networks.setdefault(DEFAULT_NETWORK, NetworkSpec(name=DEFAULT_NETWORK))
    project = ProjectSpec(
        name=_project_name(report, path, name, found.name),
        source=os.path.abspath(path),
        services=running,
        networks=networks,
        volumes={volume: spec for volume, (_, spec) in found.volumes.items()},
        secrets=found.files_of("secrets"),
        configs=found.files_of("configs"),
    )
    if check_host:
        _report_host(found, host.host_problems(project))
        _report_host(found, host.limit_problems(project, service_pid))
    if ports_to_take:
        _report_host(found, host.port_problems(ports_to_take(project)))
    if not running:
        report.warning(path, None, "there is no service to run")
    if report.problems:
        raise ManifestError(report.problems)
    return Loaded(project, tuple(report.warnings), tuple(report.files), found)


def _lay_dotenv_beneath(report: Report, path: str) -> None:
    name = os.path.join(os.path.dirname(path), ".env")
    try:
        text = report.read_text(name)
    except UnreadableError as error:
        if error.missing:
            report.files.remove(name)
        else:
            report.problem(name, error.line, str(error))
        return
    variables, problems = dotenv.parse(text, report.environ.get)
    for line, problem in problems:
        report.problem(name, line, problem)
    report.environ = ChainMap(dict(report.environ), variables)


def _chosen_profiles(profiles: Sequence[str], report: Report) -> Collection[str]:
    if profiles:
        return profiles
    text = report.environ.get("ORCH_PROFILES") or report.environ.get("COMPOSE_PROFILES") or ""
    return [profile.strip() for profile in text.split(",")]


def _project_name(report: Report, path: str, given: str | None, written: str | None) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    name = given or written or values.project_name(os.path.basename(folder))
    if not name:
        report.problem(
            path, None, f'the folder "{folder}" gives the project no name (write name = "..." at the top)'
        )
    elif not written or given:  # a written one has been checked where it stands
        try:
            return values.name(name)
        except ValueError as error:
            report.problem(path, None, f"the project's name: {error}")
    return name


class _Definitions:
    """All that a manifest and what it includes define."""

    def __init__(self, report: Report) -> None:
        self.name: str | None = None
        self.drafts: dict[str, Draft] = {}
        self.networks: dict[str, tuple[Place, NetworkSpec]] = {}
        self.volumes: dict[str, tuple[Place, VolumeSpec]] = {}
        #: What has a name, also if something is wrong with it: section -> name -> first place.
        self.named: dict[str, dict[str, Place]] = {
            section: {} for section in ("services", "networks", "volumes", *_FILE_SECTIONS)
        }
        self._files: dict[tuple[str, str], tuple[Place, FileSpec]] = {}
        self._contents: dict[tuple[str, str], bytes] = {}
        self._report = report
        self._added: set[str] = set()

    def add(self, document: Document, chain: tuple[str, ...] = ()) -> None:
        """Take in a file and, recursively, what it includes.

        :param chain: the files that led here.
        """
        self._added.add(os.path.realpath(document.name))
        root = Place(document, (), self._report)
        parsed = root.read(schema.MANIFEST, document.data)
        if not chain:  # an included file has a name for when it is used alone
            self.name = parsed.get("name", "invalid" if "name" in document.data else None)
        for section in ("networks", "volumes", *_FILE_SECTIONS, "services"):
            self._define(section, root, parsed)
        for place, path in parsed.get("include", ()):
            self._include(place, path, (*chain, document.name))

    def _define(self, section: str, root: Place, parsed: dict[str, dict[str, dict[str, object]]]) -> None:
        below, defaults = parsed.get("defaults", {}), root.child("defaults")
        table = root.document.data.get(section)
        for name in table if isinstance(table, dict) else ():
            place = root.child(section, name)
            first = self.named[section].setdefault(name, place)
            is_new = first is place
            entry = parsed.get(section, {}).get(name)
            if entry is None:
                continue
            if section == "services":
                if is_new:
                    self.drafts[name] = Draft.layered(name, entry, place, below, defaults)
                same = is_new
            elif section == "networks":
                network = NetworkSpec(name=name, **entry)  # type: ignore[arg-type]
                same = self.networks.setdefault(name, (place, network))[1] == network
            elif section in _FILE_SECTIONS:
                file = _file_spec(name, place, entry)
                same = self._files.setdefault((section, name), (place, file))[1] == file
            else:
                volume = VolumeSpec(name=name, **entry)  # type: ignore[arg-type]
                same = self.volumes.setdefault(name, (place, volume))[1] == volume
            if not same:
                place.problem(f"is defined differently at {first} (rename one, or make them the same)")

    def _include(self, place: Place, path: str, chain: tuple[str, ...]) -> None:
        try:
            name = place.file_name(path)
            real = os.path.realpath(name)
            if real in map(os.path.realpath, chain):
                place.problem(f"files include each other in a circle: {' -> '.join((*chain, name))}")
            elif len(chain) >= _MAX_INCLUDE_DEPTH:
                place.problem(f"files include each other more than {_MAX_INCLUDE_DEPTH} deep")
            elif real not in self._added:
                self.add(self._report.read_document(name), chain)
        except ValueError as error:
            place.problem(str(error))
        except UnreadableError as error:
            if error.line is None:
                place.problem(f'"{path}" {error}')
            else:
                self._report.problem(name, error.line, str(error))

    def files_of(self, section: str) -> dict[str, FileSpec]:
        """The secrets, or the configs."""
        return {name: spec for (where, name), (_, spec) in self._files.items() if where == section}

    def content(self, section: str, name: str) -> bytes:
        """What a secret or config holds; problems are reported where it is defined, once."""
        key = section, name
        if key not in self._contents and key in self._files:
            self._contents[key] = self._read(*self._files[key])
        return self._contents.get(key, b"")

    def _read(self, place: Place, spec: FileSpec) -> bytes:
        if spec.content is not None:
            return self._limited(place.child("content"), spec.content.encode())
        if spec.file is not None:
            try:
                return self._report.read_bytes(spec.file, _MAX_CONTENT)
            except UnreadableError as error:
                place.child("file").problem(f'"{spec.file}" {error}')
                return b""
        at = place.child("environment")
        try:
            value = self._report.lookup(spec.environment or "")
        except ValueError as error:
            at.problem(str(error))
            return b""
        if value is None:
            at.problem(f'variable "{spec.environment}" is not set')
        return self._limited(at, (value or "").encode())

    def _limited(self, place: Place, content: bytes) -> bytes:
        if len(content) > _MAX_CONTENT:
            place.problem(f"is too large (at most {format_size(_MAX_CONTENT)})")
        return content

    def problems(self, problems: Iterable[host.HostProblem]) -> list[str]:
        """These problems, found after the manifest turned out to be sound, with their lines, and in their order."""
        _report_host(self, problems)
        return self._report.problems

    def active(self, profiles: Collection[str]) -> set[str]:
        """The names of the services that are not left out."""
        return {
            name
            for name, draft in self.drafts.items()
            if not draft.profiles or "*" in profiles or not set(profiles).isdisjoint(draft.profiles)
        }


def _file_spec(name: str, place: Place, entry: Mapping[str, object]) -> FileSpec:
    """A secret or config, its file's path made absolute."""
    spec = FileSpec(name=name, **entry)  # type: ignore[arg-type]
    if spec.file is not None:
        try:
            return FileSpec(name=name, file=place.resolve(spec.file))
        except ValueError as error:
            place.child("file").problem(str(error))
    return spec


def _check_contents(report: Report, path: str, found: _Definitions, specs: Mapping[str, ServiceSpec]) -> None:
    total = 0
    for name, spec in specs.items():
        size = sum(len(grant.content) for grant in (*spec.secrets, *spec.configs))
        total += size
        if size > _MAX_SERVICE_CONTENT:
            section = "secrets" if spec.secrets else "configs"
            found.drafts[name].problem((section,), _too_much(size, _MAX_SERVICE_CONTENT))
    if total > _MAX_PROJECT_CONTENT:
        report.problem(path, None, f"the services' files: {_too_much(total, _MAX_PROJECT_CONTENT)}")


def _too_much(size: int, limit: int) -> str:
    return (
        f"secrets and configs have {format_size(size)} together, at most {format_size(limit)} are allowed "
        "(mount large files with volumes)"
    )


def _check(found: _Definitions, active: Collection[str], specs: Mapping[str, ServiceSpec]) -> None:
    check.check_references(found.drafts, active, **found.named)
    check.check_cycles(found.drafts)
    check.check_names(found.drafts)
    check.check_networks(found.networks, specs)
    check.check_ports({name: found.drafts[name] for name in specs}, specs)


def _report_host(found: _Definitions, problems: Iterable[host.HostProblem]) -> None:
    for service, keys, text in problems:
        draft = found.drafts[service]
        match keys:
            case ("mounts", int(index)):
                draft.mounts[index][0].problem(text)
            case ("devices", int(index)):
                draft.devices[index][0].problem(text)
            case ("ports", int(index)):
                draft.ports[index][0].problem(text)
            case ("pressure", int(index)):
                draft.values["pressure"][index][0].problem(text)
            case ("resources", "io", int(index)):
                draft.values["resources"]["io"][index][0].problem(text)
            case _:
                draft.problem(tuple(map(str, keys)), text)
