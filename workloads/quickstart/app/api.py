"""The API: keeps a guestbook in the store. Any number of replicas may run; none holds anything of its own."""

from __future__ import annotations

import itertools
import json
import socket
import time
from http import HTTPStatus

from database import StoreError, transact
from serving import Answer, Handler, HttpServer, RequestError, as_json, listen_address, serve

REPLICA = socket.gethostname()
STARTED = time.monotonic()
MAX_AUTHOR, MAX_TEXT, NEWEST = 40, 280, 20
answered = itertools.count(1)  # next() on it is atomic under the interpreter's lock


class Api(Handler):
    """Answers 503 when the store does not answer."""

    def answer(self) -> Answer:
        try:
            return super().answer()
        except StoreError as error:
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error


def health(_: Handler) -> Answer:
    """Healthy means: able to serve, so the store must answer."""
    transact(("SELECT count(*) FROM entries", ()))
    return as_json({"ok": True})


def status(_: Handler) -> Answer:
    """What this replica is doing."""
    entries, visits = transact(
        ("SELECT (SELECT count(*) FROM entries), value FROM counters WHERE name = 'visits'", ())
    )[0]
    uptime = round(time.monotonic() - STARTED, 1)
    return as_json({"replica": REPLICA, "uptime": uptime, "entries": entries, "visits": visits})


def visit(_: Handler) -> Answer:
    """Count a visit."""
    visits = transact(
        ("UPDATE counters SET value = value + 1 WHERE name = 'visits'", ()),
        ("SELECT value FROM counters WHERE name = 'visits'", ()),
    )[0][0]
    return as_json({"visits": visits, "replica": REPLICA, "answered": next(answered)})


def entries(_: Handler) -> Answer:
    """The newest entries, newest first."""
    rows = transact(
        ("SELECT id, at, author, text, replica FROM entries ORDER BY id DESC LIMIT ?", (NEWEST,)),
    )
    listed = [
        {"id": key, "at": at, "author": author, "text": text, "replica": replica}
        for key, at, author, text, replica in rows
    ]
    return as_json({"entries": listed, "replica": REPLICA, "answered": next(answered)})


def write(request: Handler) -> Answer:
    """Add an entry: ``{"author": ..., "text": ...}``."""
    try:
        message = json.loads(request.body())
        author, text = str(message["author"]).strip(), str(message["text"]).strip()
    except (ValueError, KeyError, TypeError):
        raise RequestError(HTTPStatus.BAD_REQUEST, 'send {"author": "...", "text": "..."}') from None
    if not 0 < len(author) <= MAX_AUTHOR or not 0 < len(text) <= MAX_TEXT:
        limits = f"author: 1 to {MAX_AUTHOR} characters; text: 1 to {MAX_TEXT}"
        raise RequestError(HTTPStatus.BAD_REQUEST, limits)
    key = transact(
        (
            "INSERT INTO entries (at, author, text, replica) VALUES (?, ?, ?, ?)",
            (time.time(), author, text, REPLICA),
        ),
        ("SELECT last_insert_rowid()", ()),
    )[0][0]
    return as_json({"id": key, "replica": REPLICA, "answered": next(answered)}, HTTPStatus.CREATED)


Api.routes = {
    ("GET", "/health"): health,
    ("GET", "/status"): status,
    ("POST", "/visits"): visit,
    ("GET", "/entries"): entries,
    ("POST", "/entries"): write,
}

if __name__ == "__main__":
    serve(HttpServer(listen_address(), Api), ready=f"replica {REPLICA}")
