"""The store: SQLite behind a TCP port, for one database that several programs share.

The protocol is described in database.py. A transaction that was answered is on the disk: ``synchronous=FULL``
makes SQLite fsync its write-ahead log at each commit.
"""

from __future__ import annotations

import json
import os
import socketserver
import sqlite3
import threading
from typing import Any

from database import MAX_LINE
from serving import listen_address, serve


class Database:
    """One SQLite file, one transaction at a time."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        for setting in ("journal_mode=WAL", "synchronous=FULL", "temp_store=MEMORY", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {setting}")

    def transact(self, statements: list[tuple[str, list[Any]]]) -> list[Any]:
        """Carry out all statements or none; returns the rows of the last one."""
        rows: list[Any] = []
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for statement, parameters in statements:
                    rows = self._connection.execute(statement, parameters).fetchall()
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        return rows

    def close(self) -> None:
        """Let the running transaction end, fold the write-ahead log into the file, and close it."""
        with self._lock:
            self._connection.close()


class Session(socketserver.StreamRequestHandler):
    """One client's connection."""

    timeout = 60

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        while (line := self.rfile.readline(MAX_LINE)).endswith(b"\n"):
            answer: dict[str, Any]
            try:
                answer = {"rows": server.database.transact(json.loads(line))}
            except (sqlite3.Error, ValueError, TypeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    """Listens for clients of one database."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], database: Database) -> None:
        super().__init__(address, Session)
        self.database = database


def main() -> None:
    """Serve the database at the environment's DATABASE until told to stop."""
    path = os.environ["DATABASE"]
    database = Database(path)
    try:
        serve(Server(listen_address(), database), ready=f"keeping {path}")
    finally:
        database.close()


if __name__ == "__main__":
    main()
