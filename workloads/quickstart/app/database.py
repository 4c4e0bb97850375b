"""The store's protocol, and its client.

A request is one line of JSON: a list of ``[statement, parameters]`` that are carried out as one transaction.
The answer is one line of JSON: ``{"rows": [...]}`` of the last statement, or ``{"error": "why"}``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from serving import split_address

MAX_LINE = 1 << 20
Statement = tuple[str, Sequence[Any]]


class StoreError(Exception):
    """The store does not answer, or refused the transaction."""


def transact(*statements: Statement, timeout: float = 2.0) -> list[list[Any]]:
    """Carry out statements as one transaction in the store at the environment's STORE (``host:port``).

    :param timeout: seconds for each step: connect, send, receive.
    :returns: the rows of the last statement.
    :raises StoreError: when the store refuses (nothing was changed), or does not answer (it may have been).
    """
    try:
        with socket.create_connection(split_address(os.environ["STORE"]), timeout) as connection:
            connection.sendall(json.dumps(statements).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = answers.readline(MAX_LINE)
    except OSError as error:
        raise StoreError(f"the store does not answer: {error}") from error
    if not answer.endswith(b"\n"):
        raise StoreError("the store hung up before it answered")
    message = json.loads(answer)
    if "error" in message:
        raise StoreError(message["error"])
    rows: list[list[Any]] = message["rows"]
    return rows
