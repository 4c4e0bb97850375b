"""A service made of canned answers, on a Unix socket, with the API's framing: what the client is tested against."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from orchestrator.errors import OrchError
from orchestrator.states import Health, State
from orchestrator.views import ContainerView, OperationView, PlanView, PortView, Progress, ProgressKind


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Connection:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def reply(self, value: Any, status: int = 200) -> None:
        body = msgspec.json.encode(value)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def refuse(self, error: OrchError, status: int = 400) -> None:
        self.reply({"error": error.to_wire()}, status)

    def begin_stream(self) -> None:
        self.socket.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    def chunk(self, data: bytes) -> None:
        self.socket.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def send(self, value: Any) -> None:
        self.chunk(msgspec.json.encode(value) + b"\n")

    def end_stream(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def stream(self, *values: Any) -> None:
        self.begin_stream()
        for value in values:
            self.send(value)
        self.end_stream()

    def upgrade(self) -> None:
        self.socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: orch-stdio\r\n\r\n"
        )

    def message(self, value: Any, descriptors: tuple[int, ...] = ()) -> None:
        socket.send_fds(self.socket, [msgspec.json.encode(value) + b"\n"], descriptors)

    def wait_for_hangup(self) -> None:
        with contextlib.suppress(OSError):
            while self.socket.recv(4096):
                pass


Handler = Callable[[Request, Connection], None]


@dataclass
class FakeService:
    """Answers by ``METHOD /path``; what was asked is in ``requests``."""

    path: str
    routes: dict[str, Handler] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def on(self, route: str, handler: Handler) -> None:
        self.routes[route] = handler

    def answers(self, route: str, value: Any) -> None:
        self.routes[route] = lambda request, connection: connection.reply(value)

    def streams(self, route: str, *values: Any) -> None:
        self.routes[route] = lambda request, connection: connection.stream(*values)

    def refuses(self, route: str, error: OrchError, status: int = 400) -> None:
        self.routes[route] = lambda request, connection: connection.refuse(error, status)

    def asked(self, route: str) -> list[Request]:
        return [request for request in self.requests if f"{request.method} {request.path}" == route]

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            data = b""
            while b"\r\n\r\n" not in data:
                received = sock.recv(65536)
                if not received:
                    return
                data += received
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            while len(body) < int(headers.get("content-length", "0")):
                body += sock.recv(65536)
            url = urlsplit(target)
            request = Request(
                method,
                url.path,
                dict(parse_qsl(url.query)),
                headers,
                msgspec.json.decode(body) if body else None,
            )
            self.requests.append(request)
            connection = Connection(sock)
            if handler := self.routes.get(f"{method} {url.path}"):
                handler(request, connection)
            else:
                connection.refuse(OrchError(f"the fake service has no {method} {url.path}"), 404)

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeService]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(16)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            yield self
            listener.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()


def container(service: str = "web", replica: int = 1, **changes: Any) -> ContainerView:
    """A running container of the project ``shop``."""
    view = ContainerView(
        project="shop",
        service=service,
        name=f"shop-{service}-{replica}",
        id=f"{service}{replica}".ljust(12, "0"),
        replica=replica,
        kind="service",
        image="host",
        command=["serve"],
        state=State.RUNNING,
        health=Health.HEALTHY,
        pid=4200 + replica,
        address=f"10.88.0.{replica + 1}",
        addresses={"default": f"10.88.0.{replica + 1}"},
        ports=[],
        restarts=0,
        exit_code=None,
        reason="",
        created_at=1_700_000_000.0,
        started_at=1_700_000_001.0,
        finished_at=None,
        next_attempt_at=None,
    )
    return msgspec.structs.replace(view, **changes)


def exited(service: str, code: int, **changes: Any) -> ContainerView:
    """A container that has ended."""
    return container(
        service,
        state=State.EXITED,
        health=Health.NONE,
        pid=None,
        address=None,
        exit_code=code,
        finished_at=1_700_000_100.0,
        **changes,
    )


def port(published: int, target: int, protocol: str = "tcp") -> PortView:
    return PortView(host_ip="127.0.0.1", published=published, target=target, protocol=protocol)


def operation(
    action: str, target: str, cause: str = "not running", after: tuple[str, ...] = ()
) -> OperationView:
    return OperationView(
        id=f"{action} {target}", action=action, target=target, service="", cause=cause, after=list(after)
    )


def plan(*operations: OperationView) -> PlanView:
    return PlanView(project="shop", operations=list(operations))


def progress(kind: ProgressKind, operation: str = "", **fields: Any) -> Progress:
    return Progress(kind=kind, time=1_700_000_000.0, operation=operation, **fields)
