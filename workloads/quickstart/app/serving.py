"""What the servers of this application share: an address to listen on, a clean end, JSON over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY = 64 * 1024


class RequestError(Exception):
    """A request that is answered with an error status and a sentence about it."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` as a pair."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def listen_address() -> tuple[str, int]:
    """Where to listen: the environment's LISTEN, ``host:port``; port 0 lets the kernel choose."""
    return split_address(os.environ["LISTEN"])


def serve(server: socketserver.TCPServer, *, ready: str = "") -> None:
    """Say where the server listens, and serve until SIGTERM or SIGINT.

    The kernel drops a signal that the first process of a PID namespace has no handler for
    (pid_namespaces(7)), so a program that shall end well has to install one.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    host, port = server.socket.getsockname()[:2]
    print(f"listening on {host}:{port}", flush=True)
    if ready:
        print(ready, flush=True)
    with server:
        server.serve_forever()


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection; none of them delays the end of the process."""

    request_queue_size = 128


Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body


def as_json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """A value as a JSON answer."""
    return status, "application/json", json.dumps(value).encode()


class Handler(BaseHTTPRequestHandler):
    """Finds the answer to a request in ``routes``, by method and path."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    routes: dict[tuple[str, str], Callable[[Handler], Answer]] = {}

    def answer(self) -> Answer:
        """The answer to this request; a subclass may look further than ``routes``."""
        route = self.routes.get((self.command, self.path))
        if route is None:
            raise RequestError(HTTPStatus.NOT_FOUND, f"no {self.command} {self.path} here")
        return route(self)

    def body(self) -> bytes:
        """The request's body."""
        return self._body

    def respond(self) -> None:
        """Answer one request; whatever goes wrong is an answer too."""
        length = int(self.headers.get("Content-Length") or 0)
        try:
            if length > MAX_BODY:
                self.close_connection = True
                raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY} bytes")
            self._body = self.rfile.read(length)
            status, kind, body = self.answer()
        except RequestError as error:
            status, kind, body = as_json({"error": str(error)}, error.status)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = respond  # noqa: N815 - http.server looks for these names

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        # The page and the checks poll: what went well and changed nothing would drown the rest.
        if self.command == "POST" or int(code) >= HTTPStatus.BAD_REQUEST:
            self.log_message("%s %s %s", self.command, self.path, int(code))

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)
