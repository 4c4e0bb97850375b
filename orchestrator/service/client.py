"""The client of the API: one typed method per request, answers as views, streams as iterators.

Synchronous and light, because a command line tool is a short process: no event loop, no HTTP library. Each
request has a connection of its own. Every method raises what the service answered (any
:class:`~orchestrator.errors.OrchError`), or :class:`~orchestrator.errors.ServiceUnavailableError` when no
service listens or the connection is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import msgspec

from orchestrator.errors import OrchError, ServiceUnavailableError, from_wire
from orchestrator.service.http_client import BodyDecoder, Connection
from orchestrator.views import (
    AuditView,
    ContainerView,
    EventView,
    InspectView,
    LogLine,
    NamespaceView,
    PlanView,
    ProcessView,
    Progress,
    StatsView,
    VersionView,
    View,
)

if TYPE_CHECKING:
    from orchestrator.ids import Instance
    from orchestrator.spec import ProjectSpec

T = TypeVar("T")
_ANSWER_TIMEOUT = 60.0  # seconds, for requests that the service answers from what it knows
_UPGRADE = "orch-stdio"


class ProjectView(View):
    """One project that the service knows (``orch ls``)."""

    name: str
    source: str
    state: str
    services: dict[str, int]  # service -> number of containers


class Started(View):
    """The program of an exec or run runs; its descriptors came with this message."""

    id: str
    pid: int


class Exited(View):
    """The program of an exec or run ended. ``code`` is 128 + ``signal`` when a signal ended it."""

    code: int
    signal: int | None = None
    reason: str = ""


class StdioMessage(View):
    """One message of the service on an upgraded connection; exactly one field is set."""

    started: Started | None = None
    exited: Exited | None = None
    progress: Progress | None = None
    error: dict[str, Any] | None = None


class Terminal(View):
    """What an exec or run needs to know of the caller's terminal."""

    tty: bool = False
    stdin: bool = True
    rows: int = 24
    columns: int = 80


class Stream(Generic[T]):
    """An answer that comes as lines: iterate over it, or wait on :meth:`fileno` and call :meth:`receive`."""

    def __init__(self, connection: Connection, body: BodyDecoder, first: bytes, kind: Any) -> None:
        self._connection = connection
        self._body = body
        self._decoder = msgspec.json.Decoder(kind)
        self._text = bytearray(body.feed(first))
        self._failure: OrchError | None = None
        #: Whether the stream has ended and nothing is left to receive.
        self.ended = False

    def fileno(self) -> int:
        """The socket's descriptor, to wait on; call :meth:`pending` first, once."""
        return self._connection.fileno()

    def pending(self) -> list[T]:
        """The lines that have arrived already, without reading."""
        *lines, self._text = self._text.split(b"\n")
        self.ended = self._body.complete
        if self.ended:
            lines.append(self._text)
            self._text = bytearray()
        items: list[T] = []
        for line in lines:
            if line.startswith(b'{"error":'):  # no view begins with this field: the stream breaks off here
                self._failure = from_wire(msgspec.json.decode(line)["error"])
                self.ended = False
                break
            if line.strip() and line != b"{}":
                items.append(self._decoder.decode(line))
        return items

    def receive(self) -> list[T]:
        """The lines that one read brings; an empty list is no end, see :attr:`ended`.

        :raises OrchError: what the service said instead of going on.
        :raises ServiceUnavailableError: when the connection is lost before the stream's end.
        """
        if self._failure:
            raise self._failure
        data = self._connection.receive()
        if data:
            self._text += self._body.feed(data)
        elif self._body.ends_with_connection:
            self._body.complete = True
        else:
            raise self._connection.lost()
        return self.pending()

    def __iter__(self) -> Iterator[T]:
        yield from self.pending()
        while not self.ended:
            yield from self.receive()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StdioChannel:
    """The upgraded connection of an exec or run: messages both ways, and the program's descriptors."""

    def __init__(self, connection: Connection, first: bytes) -> None:
        self._connection = connection
        self._decoder = msgspec.json.Decoder(StdioMessage)
        self._text = bytearray(first)
        #: Whether the service closed the connection.
        self.ended = False

    def fileno(self) -> int:
        """The socket's descriptor, to wait on; call :meth:`pending` first, once."""
        return self._connection.fileno()

    def pending(self) -> list[StdioMessage]:
        """The messages that have arrived already, without reading."""
        *lines, self._text = self._text.split(b"\n")
        return [self._decoder.decode(line) for line in lines if line]

    def receive(self) -> list[StdioMessage]:
        """The messages that one read brings."""
        data = self._connection.receive()
        self.ended = not data
        self._text += data
        return self.pending()

    def take_descriptors(self) -> list[int]:
        """The descriptors received so far; the caller owns them now."""
        taken = list(self._connection.descriptors)
        self._connection.descriptors.clear()
        return taken

    def signal(self, name: str) -> None:
        """Send a signal to the program, by name: ``SIGINT``."""
        self._connection.send(msgspec.json.encode({"signal": name}) + b"\n")

    def lost(self) -> OrchError:
        """The error for a connection that ended before the program did."""
        return self._connection.lost()

    def close(self) -> None:
        """Hang up: the service ends the program."""
        self._connection.close()


class Client:
    """The service of one instance, as seen by its clients."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def version(self) -> VersionView:
        """Who answers."""
        return self._get("/v1/version", {}, VersionView)

    def is_listening(self) -> bool:
        """Whether a service listens on the instance's socket."""
        try:
            Connection(self.instance.socket).close()
        except ServiceUnavailableError:
            return False
        return True

    def shutdown(self) -> None:
        """Stop every project and end the service."""
        self._call("POST", "/v1/shutdown", {}, timeout=None)

    def projects(self) -> list[ProjectView]:
        """All projects."""
        return self._get("/v1/projects", {}, list[ProjectView])

    def plan(
        self,
        project: ProjectSpec,
        *,
        services: Sequence[str] = (),
        force_recreate: bool = False,
        remove_orphans: bool = True,
    ) -> PlanView:
        """What :meth:`up` with the same arguments would do."""
        body = _up_body(project, services, force_recreate, remove_orphans)
        return msgspec.json.decode(self._call("POST", "/v1/plan", body), type=PlanView)

    def up(
        self,
        project: ProjectSpec,
        *,
        services: Sequence[str] = (),
        force_recreate: bool = False,
        remove_orphans: bool = True,
        wait: bool = False,
        wait_timeout: float | None = None,
    ) -> Stream[Progress]:
        """Make the project so; it goes on when the stream is closed.

        :param wait: the result is ok only once everything is running and healthy and every job completed.
        :param wait_timeout: seconds for that.
        """
        body = _up_body(project, services, force_recreate, remove_orphans)
        return self._stream(
            "POST", "/v1/up", {**body, "wait": wait, "wait_timeout": wait_timeout}, kind=Progress
        )

    def lease(self, project: str) -> Stream[Any]:
        """Bind the project's life to the connection: it is brought down when the stream is closed."""
        return self._stream("POST", _project(project, "lease"), {}, kind=Any)

    def down(
        self,
        project: str,
        *,
        services: Sequence[str] = (),
        volumes: bool = False,
        timeout: float | None = None,
        kill: bool = False,
    ) -> Stream[Progress]:
        """Stop and remove containers and networks; ``kill`` hurries a ``down`` that is under way."""
        body = {"volumes": volumes, "timeout": timeout, "services": list(services), "kill": kill}
        return self._stream("POST", _project(project, "down"), body, kind=Progress)

    def lifecycle(
        self,
        verb: Literal["start", "stop", "restart"],
        project: str,
        *,
        services: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Stream[Progress]:
        """Start, stop or restart existing containers; ``timeout`` replaces their stop grace period."""
        body = {"services": list(services), "timeout": timeout}
        return self._stream("POST", _project(project, verb), body, kind=Progress)

    def kill(self, project: str, *, services: Sequence[str] = (), signal: str = "SIGKILL") -> list[str]:
        """Send a signal; the names of the containers that got it."""
        body = {"services": list(services), "signal": signal}
        answer = msgspec.json.decode(
            self._call("POST", _project(project, "kill"), body), type=dict[str, list[str]]
        )
        return answer["signalled"]

    def freeze(
        self, verb: Literal["pause", "unpause"], project: str, *, services: Sequence[str] = ()
    ) -> list[str]:
        """Pause or unpause; the names of the containers it was done to."""
        answer = msgspec.json.decode(
            self._call("POST", _project(project, verb), {"services": list(services)}),
            type=dict[str, list[str]],
        )
        return answer["containers"]

    def scale(self, project: str, services: Mapping[str, int]) -> Stream[Progress]:
        """Change the number of replicas."""
        return self._stream("POST", _project(project, "scale"), {"services": dict(services)}, kind=Progress)

    def wait(
        self,
        project: str,
        *,
        services: Sequence[str] = (),
        condition: str = "exited",
        timeout: float | None = None,
    ) -> list[ContainerView]:
        """Wait until all the containers meet ``condition`` (exited, running or healthy)."""
        body = {"services": list(services), "condition": condition, "timeout": timeout}
        answer = self._call("POST", _project(project, "wait"), body, timeout=None)
        return msgspec.json.decode(answer, type=list[ContainerView])

    def containers(
        self, project: str | None = None, *, services: Sequence[str] = (), all: bool = False
    ) -> list[ContainerView]:
        """The containers; without ``all`` those that exited are left out."""
        query = {"project": project, "services": services, "all": all}
        return self._get("/v1/containers", query, list[ContainerView])

    def inspect(self, reference: str, project: str | None = None) -> InspectView:
        """Everything about one container, named by its name, id, id prefix, service or service-N."""
        return self._get(f"/v1/containers/{_quote(reference)}", {"project": project}, InspectView)

    def logs(
        self,
        project: str | None,
        *,
        services: Sequence[str] = (),
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
    ) -> Stream[LogLine]:
        """What the containers wrote, ordered by time; ``since`` in seconds since the epoch."""
        query = {"project": project, "services": services, "follow": follow, "tail": tail, "since": since}
        return self._stream("GET", _target("/v1/logs", query), kind=LogLine)

    def events(
        self,
        project: str | None = None,
        *,
        services: Sequence[str] = (),
        follow: bool = False,
        since: float | None = None,
    ) -> Stream[EventView]:
        """What happened, recent history first."""
        query = {"project": project, "services": services, "follow": follow, "since": since}
        return self._stream("GET", _target("/v1/events", query), kind=EventView)

    def stats(
        self,
        project: str | None = None,
        *,
        services: Sequence[str] = (),
        stream: bool = False,
        interval: float | None = None,
    ) -> Stream[list[StatsView]]:
        """Samples of the containers' use of resources, each ``interval`` seconds."""
        query = {"project": project, "services": services, "stream": stream, "interval": interval}
        return self._stream("GET", _target("/v1/stats", query), kind=list[StatsView])

    def top(self, project: str | None = None, *, services: Sequence[str] = ()) -> list[ProcessView]:
        """The processes inside the containers."""
        return self._get("/v1/top", {"project": project, "services": services}, list[ProcessView])

    def namespaces(
        self, project: str | None = None, *, services: Sequence[str] = (), kinds: Sequence[str] = ()
    ) -> list[NamespaceView]:
        """The containers' namespaces; without ``kinds`` of all kinds."""
        query = {"project": project, "services": services, "kinds": kinds}
        return self._get("/v1/namespaces", query, list[NamespaceView])

    def audit(self, project: str | None = None, *, services: Sequence[str] = ()) -> list[AuditView]:
        """What of the containers deviates from the secure default."""
        return self._get("/v1/audit", {"project": project, "services": services}, list[AuditView])

    def exec(
        self,
        project: str | None,
        container: str,
        command: Sequence[str],
        terminal: Terminal,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
    ) -> StdioChannel:
        """Run a program in a running container."""
        body = {
            "project": project,
            "container": container,
            "command": list(command),
            "environment": dict(environment or {}),
            "user": user,
            "working_dir": working_dir,
            **msgspec.to_builtins(terminal),
        }
        return self._upgrade("/v1/exec", body)

    def run(
        self,
        project: ProjectSpec,
        service: str,
        command: Sequence[str] | None,
        terminal: Terminal,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        name: str | None = None,
        entrypoint: Sequence[str] | None = None,
        keep: bool = False,
        dependencies: bool = True,
        publish: bool = False,
    ) -> StdioChannel:
        """Run a one-off container of a service, after its dependencies."""
        body = {
            "project": project,
            "service": service,
            "command": None if command is None else list(command),
            "environment": dict(environment or {}),
            "user": user,
            "working_dir": working_dir,
            "name": name,
            "entrypoint": None if entrypoint is None else list(entrypoint),
            "keep": keep,
            "dependencies": dependencies,
            "publish": publish,
            **msgspec.to_builtins(terminal),
        }
        return self._upgrade("/v1/run", body)

    def _get(self, path: str, query: Mapping[str, Any], kind: type[T]) -> T:
        return msgspec.json.decode(self._call("GET", _target(path, query)), type=kind)

    def _call(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = _ANSWER_TIMEOUT,
    ) -> bytes:
        connection, status, decoder, first = self._open(method, target, body, timeout)
        try:
            return _read(connection, status, decoder, first)
        finally:
            connection.close()

    def _stream(
        self, method: str, target: str, body: Mapping[str, Any] | None = None, *, kind: Any
    ) -> Stream[Any]:
        connection, status, decoder, first = self._open(method, target, body, None)
        if status >= 400:
            self._refuse(connection, status, decoder, first)
        return Stream(connection, decoder, first, kind)

    def _upgrade(self, target: str, body: Mapping[str, Any]) -> StdioChannel:
        connection, status, decoder, first = self._open("POST", target, body, None, upgrade=_UPGRADE)
        if status != 101:
            self._refuse(connection, status, decoder, first)
        return StdioChannel(connection, first)

    def _open(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        timeout: float | None,
        upgrade: str = "",
    ) -> tuple[Connection, int, BodyDecoder, bytes]:
        connection = Connection(self.instance.socket, timeout)
        try:
            content = b"" if body is None else msgspec.json.encode(body)
            connection.request(method, target, content, upgrade)
            status, headers, first = connection.head()
            return connection, status, BodyDecoder(headers), first
        except BaseException:
            connection.close()
            raise

    @staticmethod
    def _refuse(connection: Connection, status: int, decoder: BodyDecoder, first: bytes) -> None:
        try:
            _read(connection, status, decoder, first)
        finally:
            connection.close()
        raise OrchError(f"the orch service answered with HTTP status {status}")


def _read(connection: Connection, status: int, decoder: BodyDecoder, first: bytes) -> bytes:
    """The whole body of an answer; raises the error that it carries."""
    body = bytearray(decoder.feed(first))
    while not decoder.complete:
        if data := connection.receive():
            body += decoder.feed(data)
        elif decoder.ends_with_connection:
            break
        else:
            raise connection.lost()
    if status < 400:
        return bytes(body)
    try:
        error = msgspec.json.decode(body, type=dict[str, dict[str, Any]])["error"]
    except (msgspec.DecodeError, KeyError):
        text = body.decode(errors="replace").strip()
        raise OrchError(f"the orch service answered with HTTP status {status}", text) from None
    raise from_wire(error)


def _up_body(
    project: ProjectSpec, services: Sequence[str], force_recreate: bool, remove_orphans: bool
) -> dict[str, Any]:
    return {
        "project": project,
        "services": list(services),
        "force_recreate": force_recreate,
        "remove_orphans": remove_orphans,
    }


def _project(name: str, verb: str) -> str:
    return f"/v1/projects/{_quote(name)}/{verb}"


_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _quote(text: str) -> str:
    """Percent-encoding (RFC 3986); urllib.parse would cost a command 5 ms to import."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in os.fsencode(text))


def _target(path: str, query: Mapping[str, Any]) -> str:
    """A request target; parameters that are None, False or empty are left out."""
    pairs = []
    for key, value in query.items():
        if value is None or value is False or value == ():
            continue
        if value is True:
            text = "1"
        elif isinstance(value, (list, tuple)):
            text = ",".join(_quote(item) for item in value)
        else:
            text = _quote(str(value))
        if text:
            pairs.append(f"{key}={text}")
    return f"{path}?{'&'.join(pairs)}" if pairs else path
