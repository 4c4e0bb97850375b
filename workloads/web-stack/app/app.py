"""Counts in Redis, over HTTP: POST /count adds one, GET /count tells, GET /health asks whether Redis answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPLICA = socket.gethostname()
COMMANDS = {
    ("GET", "/health"): ("PING",),
    ("GET", "/count"): ("GET", "count"),
    ("POST", "/count"): ("INCR", "count"),
}


class RedisError(Exception):
    """Redis does not answer, or refused the command."""


def redis(*words: str, timeout: float = 2.0) -> str | None:
    """One command to the Redis at the environment's REDIS (``host:port``), in RESP2; its simple answer.

    :raises RedisError: when Redis does not answer or answers with an error.
    """
    host, _, port = os.environ["REDIS"].rpartition(":")
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    try:
        with socket.create_connection((host, int(port)), timeout) as connection:
            connection.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
            with connection.makefile("r", encoding="utf-8", newline="\r\n") as answers:
                head = answers.readline().rstrip("\r\n")
                if head.startswith("$"):
                    return None if head == "$-1" else answers.readline().rstrip("\r\n")
    except OSError as error:
        raise RedisError(f"Redis does not answer: {error}") from error
    if head[:1] not in ("+", ":"):
        raise RedisError(f"Redis answered {head!r}")
    return head[1:]


class Handler(BaseHTTPRequestHandler):
    """One command to Redis for each request."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def respond(self) -> None:
        """Answer one request."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        command = COMMANDS.get((self.command, self.path))
        try:
            if command is None:
                self.reply(HTTPStatus.NOT_FOUND, {"error": f"no {self.command} {self.path} here"})
            elif command[0] == "PING":
                self.reply(HTTPStatus.OK, {"redis": redis(*command)})
            else:
                self.reply(HTTPStatus.OK, {"count": int(redis(*command) or 0), "replica": REPLICA})
        except RedisError as error:
            self.reply(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})

    do_GET = do_POST = respond  # noqa: N815 - http.server looks for these names

    def reply(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        """Send a JSON answer."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """nginx keeps the access log."""


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    request_queue_size = 128


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Server(("0.0.0.0", 8000), Handler).serve_forever()
