"""The front: serves the page, and hands everything under /api/ to one of the API's replicas in turn."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

from serving import Answer, Handler, HttpServer, RequestError, as_json, listen_address, serve, split_address

PAGE = Path(__file__).with_name("page.html").read_bytes()
TIMEOUT = 2.0  # seconds that one replica gets
Address = tuple[str, int]
turn = itertools.count()
pool = ThreadPoolExecutor(16, thread_name_prefix="status")


def replicas() -> list[Address]:
    """The addresses behind the environment's API (``host:port`` or several with commas), sorted.

    They are looked up anew each time: orch writes all replicas of a service under its name into
    /etc/hosts, so ``orch scale`` is seen at the next request. getaddrinfo(3) returns every line of a name.
    """
    found: set[Address] = set()
    for item in os.environ["API"].split(","):
        host, port = split_address(item)
        try:
            answers = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        found.update((str(sockaddr[0]), port) for *_, sockaddr in answers)
    return sorted(found)


def in_turn() -> Iterator[Address]:
    """All replicas, beginning with the one whose turn it is."""
    addresses = replicas()
    start = next(turn)
    return (addresses[(start + i) % len(addresses)] for i in range(len(addresses)))


def ask(address: Address, method: str, path: str, body: bytes = b"") -> Answer:
    """One request to one replica.

    :raises OSError: when it cannot be reached.
    :raises http.client.HTTPException: when it does not answer in HTTP.
    """
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
    try:
        connection.request(method, path, body or None, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        kind = answer.getheader("Content-Type", "application/octet-stream")
        return HTTPStatus(answer.status), kind, answer.read()
    finally:
        connection.close()


def forward(method: str, path: str, body: bytes) -> Answer:
    """The answer of the first replica that gives one.

    Only a refused connection is tried elsewhere when the request changes something: a replica that took the
    request and did not answer may have carried it out.
    """
    problem = "the API has no address"
    for address in in_turn():
        try:
            return ask(address, method, path, body)
        except (OSError, http.client.HTTPException) as error:
            problem = f"{address[0]} does not answer: {error or type(error).__name__}"
            if method != "GET" and not isinstance(error, ConnectionRefusedError):
                break
    raise RequestError(HTTPStatus.BAD_GATEWAY, problem)


def probe(address: Address) -> dict[str, Any]:
    """The state of one replica, as the page shows it."""
    started = time.perf_counter()
    state: dict[str, Any] = {"address": address[0], "port": address[1], "ok": False}
    try:
        status, _, body = ask(address, "GET", "/status")
        state.update(json.loads(body), ok=status == HTTPStatus.OK)
    except (OSError, http.client.HTTPException, ValueError) as error:
        state["error"] = str(error) or type(error).__name__
    state["milliseconds"] = round((time.perf_counter() - started) * 1000, 1)
    return state


class Front(Handler):
    """The page at /, the API beneath /api/."""

    def answer(self) -> Answer:
        if self.path.startswith("/api/") and (self.command, self.path) not in self.routes:
            return forward(self.command, self.path[len("/api") :], self.body())
        return super().answer()


def page(_: Handler) -> Answer:
    """The page itself; it fetches the rest."""
    return HTTPStatus.OK, "text/html; charset=utf-8", PAGE


def health(_: Handler) -> Answer:
    """Healthy means: able to serve the page. The API has a check of its own."""
    return as_json({"ok": True})


def status(_: Handler) -> Answer:
    """Every replica's state, asked all at once."""
    return as_json({"replicas": list(pool.map(probe, replicas()))})


Front.routes = {
    ("GET", "/"): page,
    ("HEAD", "/"): page,
    ("GET", "/health"): health,
    ("GET", "/api/status"): status,
}

if __name__ == "__main__":
    url = os.environ.get("PUBLIC_URL", "")
    serve(HttpServer(listen_address(), Front), ready=f"open {url}" if url else "")
