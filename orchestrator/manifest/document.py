"""One TOML file: its tables, its folder, and the lines of its keys."""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from typing import Any

from orchestrator.units import format_size

#: The way to a value: keys of tables and indices of arrays.
Path = tuple[str | int, ...]

#: No manifest, include or env_file may be larger; a wrong path such as /dev/zero must not fill the memory.
MAX_FILE_SIZE = 4 << 20

_SYNTAX_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", re.DOTALL)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Document:
    """A parsed file.

    :ivar name: its path as the user gave it, for messages; relative paths in the file start in its folder.
    """

    def __init__(self, name: str, text: str, data: dict[str, Any]) -> None:
        self.name = name
        self.data = data
        self._text = text

    @cached_property
    def _lines(self) -> dict[Path, int]:
        from orchestrator.manifest.locate import locate  # only when there is something to report

        return locate(self._text)

    def line(self, path: Path) -> int:
        """The line of a key, else of the nearest key around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


class UnreadableError(Exception):
    """A file that cannot be had.

    :ivar line: where the problem is, or None when the whole file is meant.
    :ivar missing: whether there is no such file.
    """

    def __init__(self, text: str, line: int | None = None, *, missing: bool = False) -> None:
        super().__init__(text)
        self.line = line
        self.missing = missing


def read_text(name: str) -> str:
    """The text of a small UTF-8 file.

    :raises UnreadableError: missing, too large, or not UTF-8.
    """
    data = read_bytes(name, MAX_FILE_SIZE)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError("is not UTF-8 text", data.count(b"\n", 0, error.start) + 1) from None


def read_bytes(name: str, limit: int) -> bytes:
    """The content of a small file.

    :param limit: the most bytes it may have.
    :raises UnreadableError: missing, or too large.
    """
    try:
        with open(name, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        missing = isinstance(error, FileNotFoundError)
        raise UnreadableError(f"cannot be read: {reason}", missing=missing) from None
    if len(data) > limit:
        raise UnreadableError(f"is too large (at most {format_size(limit)})")
    return data


def read_document(name: str) -> Document:
    """Read and parse a TOML file.

    :raises UnreadableError: no such file, or not TOML.
    """
    text = read_text(name)
    try:
        return Document(name, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        match = _SYNTAX_ERROR.fullmatch(str(error))
        if match is None:
            raise UnreadableError(f"not TOML: {error}") from None
        reason, line, column, _ = match.groups()
        if line is None:
            raise UnreadableError(
                f"not TOML: {reason} at the end of the file", text.count("\n") + 1
            ) from None
        raise UnreadableError(f"not TOML: {reason} (column {column})", int(line)) from None
    except ValueError as error:  # dates and numbers that tomllib leaves to the library: 9999-99-99, 10**5000
        raise UnreadableError(f"not TOML: {error}") from None
    except RecursionError:
        raise UnreadableError("is nested too deeply") from None


def format_path(path: Path) -> str:
    """A path as people write it: ``services.web.ports[1]``; keys that are not bare are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        text += "." if text else ""
        text += part if _BARE_KEY.fullmatch(part) else '"' + part.replace("\n", "\\n") + '"'
    return text
