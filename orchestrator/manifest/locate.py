"""Line numbers of the keys of a TOML text, which ``tomllib`` does not tell.

The text has been read by ``tomllib`` already, so it is valid, and a scanner of tokens is enough; grammar:
https://toml.io/en/v1.0.0. It uses no recursion, so nesting of any depth is fine.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.manifest.document import Path

#: Deeper than any manifest's keys; without a limit a hostile text could make paths of quadratic size.
_MAX_DEPTH = 64

_TOKEN = re.compile(
    r'''
      (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>"""(?:[^\\]|\\.)*?""""{0,2} | \'\'\'.*?\'\'\'\'{0,2} | "(?:[^"\\\n]|\\.)*" | '[^'\n]*')
    | (?P<mark>[][{},=.])
    | (?P<bare>[^][{},=.\s\#"']+)
    ''',
    re.VERBOSE | re.DOTALL,
)


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) on which each key, and each item of an array, first appears.

    Keys that lie deeper than 64 tables and arrays are left out.

    :param text: a text that ``tomllib.loads`` accepts.
    """
    return _Scanner(text).scan()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


_END = _Token("end", "", 0)


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield _Token(match.lastgroup or "", match.group(), line)
        line += match.group().count("\n")


def _inner(path: Path, part: str | int) -> Path:
    return (*path, part) if len(path) <= _MAX_DEPTH else path


class _Scanner:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._token = next(self._tokens, _END)
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}  # arrays of tables -> how many so far

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._token is not _END:
            if self._token.kind == "newline":
                self._advance()
            elif self._token.text == "[" and self._token.kind == "mark":
                table = self._header()
            else:
                self._value(self._assigned(table))
        return self._lines

    def _advance(self) -> _Token:
        token, self._token = self._token, next(self._tokens, _END)
        return token

    def _record(self, path: Path, line: int) -> None:
        if len(path) <= _MAX_DEPTH:
            self._lines.setdefault(path, line)

    def _key(self) -> list[tuple[str, int]]:
        """Read a key, dotted or not: its parts with their lines."""
        parts = []
        while True:
            token = self._advance()
            if token.kind == "string":  # let tomllib undo the escapes
                parts.append((next(iter(tomllib.loads(f"{token.text} = 0"))), token.line))
            else:
                parts.append((token.text, token.line))
            if self._token.text != ".":
                return parts
            self._advance()

    def _header(self) -> Path:
        """Read ``[a.b]`` or ``[[a.b]]``: the path of the table that it opens."""
        self._advance()
        is_array = self._token.text == "[" and self._token.kind == "mark"
        if is_array:
            self._advance()
        path: Path = ()
        parts = self._key()
        for index, (part, line) in enumerate(parts):
            path = _inner(path, part)
            self._record(path, line)
            if is_array and index == len(parts) - 1:
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:  # a table of an array of tables: always the latest
                path = _inner(path, self._counts[path] - 1)
                self._record(path, line)
        while self._token.kind == "mark":
            self._advance()
        return path

    def _assigned(self, table: Path) -> Path:
        """Read ``key =`` within a table: the path that it names."""
        path = table
        for part, line in self._key():
            path = _inner(path, part)
            self._record(path, line)
        self._advance()
        return path

    def _value(self, path: Path) -> None:
        """Read a value to its end; within it, record the items of arrays and the keys of inline tables."""
        opened: list[tuple[Path, int | None]] = []  # arrays with the current index; inline tables with None
        here = path
        while self._token is not _END:
            token = self._advance()
            if token.kind == "newline":
                if not opened:
                    return
            elif token.kind != "mark":
                self._record(here, token.line)
            elif token.text == "[":
                self._record(here, token.line)
                opened.append((here, 0))
                here = _inner(here, 0)
            elif token.text == "{":
                self._record(here, token.line)
                opened.append((here, None))
                if self._token.text != "}":
                    here = self._assigned(here)
            elif token.text in "]}":
                here = opened.pop()[0]
            elif token.text == ",":
                container, index = opened.pop()
                opened.append((container, None if index is None else index + 1))
                here = self._assigned(container) if index is None else _inner(container, index + 1)
