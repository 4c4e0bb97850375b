"""Bring the store's schema up to date: a job that runs once, does nothing the next time, and ends."""

from __future__ import annotations

import sys

from database import Statement, StoreError, transact

#: Each step is one transaction. Steps are only ever added: a database remembers how many it has had.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, at REAL NOT NULL, author TEXT NOT NULL,"
        " text TEXT NOT NULL, replica TEXT NOT NULL)",
    ),
    (
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        "INSERT INTO counters VALUES ('visits', 0)",
    ),
)


def main() -> None:
    """Carry out the steps that the database has not had."""
    had = transact(("PRAGMA user_version", ()))[0][0]
    for number, step in enumerate(STEPS[had:], had + 1):
        statements: list[Statement] = [(statement, ()) for statement in step]
        transact(*statements, (f"PRAGMA user_version = {number}", ()))
        print(f"step {number} of {len(STEPS)}: {step[0].partition('(')[0].strip().lower()}", flush=True)
    print(f"the schema is at step {max(had, len(STEPS))}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except StoreError as error:
        sys.exit(f"cannot migrate: {error}")
