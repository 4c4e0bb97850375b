"""Where a value stands, and what is said about it: problems and warnings are collected here, never raised."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from orchestrator.manifest.document import Document, Path, format_path, read_bytes, read_document, read_text
from orchestrator.manifest.interpolate import interpolate

if TYPE_CHECKING:
    from orchestrator.manifest.kinds import Kind

#: What :meth:`Place.read` gives for a value that has a problem (already reported).
INVALID: Final = object()


class Report:
    """All problems and warnings of one load, and the files that were read, in order."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.files: list[str] = []
        #: What has been read for several services at once, by its file.
        self.read: dict[str, Any] = {}
        self._problems: dict[tuple[int, int, str], None] = {}
        self._warnings: dict[tuple[int, int, str], None] = {}

    @property
    def problems(self) -> list[str]:
        """In the order of the files and their lines; the same problem once."""
        return [text for _, _, text in sorted(self._problems, key=lambda entry: entry[:2])]

    @property
    def warnings(self) -> list[str]:
        """Ordered as the problems are."""
        return [text for _, _, text in sorted(self._warnings, key=lambda entry: entry[:2])]

    def problem(self, name: str, line: int | None, text: str) -> None:
        """Note a problem in the file ``name``."""
        self._problems[self._entry(name, line, text)] = None

    def warning(self, name: str, line: int | None, text: str) -> None:
        """Note a warning about the file ``name``."""
        self._warnings[self._entry(name, line, text)] = None

    def _entry(self, name: str, line: int | None, text: str) -> tuple[int, int, str]:
        index = self.files.index(name) if name in self.files else len(self.files)
        return index, line or 0, f"{name}:{line}: {text}" if line else f"{name}: {text}"

    def lookup(self, variable: str) -> str | None:
        """A variable of the environment.

        :raises ValueError: its bytes are not UTF-8, so it cannot be part of a spec.
        """
        value = self.environ.get(variable)
        if value is not None and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f'the value of variable "{variable}" is not UTF-8 text') from None
        return value

    def read_document(self, name: str) -> Document:
        """Read a TOML file.

        :raises UnreadableError: as :func:`orchestrator.manifest.document.read_document` does.
        """
        self._note_file(name)
        return read_document(name)

    def read_text(self, name: str) -> str:
        """Read a text file.

        :raises UnreadableError: as :func:`orchestrator.manifest.document.read_text` does.
        """
        self._note_file(name)
        return read_text(name)

    def read_bytes(self, name: str, limit: int) -> bytes:
        """Read a small file of any content.

        :raises UnreadableError: as :func:`orchestrator.manifest.document.read_bytes` does.
        """
        self._note_file(name)
        return read_bytes(name, limit)

    def _note_file(self, name: str) -> None:
        if name not in self.files:
            self.files.append(name)


class Place:
    """One key or item of a document."""

    __slots__ = ("document", "path", "report")

    def __init__(self, document: Document, path: Path, report: Report) -> None:
        self.document = document
        self.path = path
        self.report = report

    def child(self, *keys: str | int) -> Place:
        """The place of a key or item within this one."""
        return Place(self.document, self.path + keys, self.report)

    def __str__(self) -> str:
        """``file:line``, as messages name another place."""
        return f"{self.document.name}:{self.document.line(self.path)}"

    def problem(self, text: str) -> None:
        """Report that something is wrong here: ``file:line: key.path: text``."""
        self.report.problem(self.document.name, self.document.line(self.path), self._sentence(text))

    def warning(self, text: str) -> None:
        """Report something that is allowed, yet likely a mistake."""
        self.report.warning(self.document.name, self.document.line(self.path), self._sentence(text))

    def _sentence(self, text: str) -> str:
        return f"{format_path(self.path)}: {text}" if self.path else text

    def read(self, kind: Kind, value: object) -> Any:
        """``value`` with its variables replaced, read as ``kind``; INVALID after a problem, which is reported."""
        try:
            if isinstance(value, str):
                value = interpolate(value, self.report.lookup, self._unset)
                if "\0" in value:
                    raise ValueError("contains a NUL character, which the kernel's interfaces cannot carry")
            if type(value) not in kind.types:
                raise ValueError(f"expected {kind.expected}, got {describe(value)}")
            return kind.parse(value, self)
        except ValueError as error:
            self.problem(str(error))
            return INVALID

    def _unset(self, variable: str) -> None:
        self.warning(f'variable "{variable}" is not set; it counts as empty')

    def file_name(self, path: str) -> str:
        """A path of the manifest as the user would give it: relative to the document, ``~`` is HOME.

        :raises ValueError: ``~`` without a HOME in the environment.
        """
        if path == "~" or path.startswith("~/"):
            home = self.report.lookup("HOME")
            if not home:
                raise ValueError(f'"{path}" needs the variable HOME, which is not set')
            path = home + path[1:]
        return os.path.join(os.path.dirname(self.document.name), path)

    def resolve(self, path: str) -> str:
        """:meth:`file_name` as an absolute path."""
        return os.path.abspath(self.file_name(path))


def describe(value: object) -> str:
    """A value of TOML for a message: ``the number 5``, ``a table``."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number" if isinstance(value, int) and abs(value) > 1 << 64 else f"the number {value}"
        case str():
            return f'the string "{value}"' if len(value) <= 40 else f'the string "{value[:40]}..."'
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def hint(word: str, words: Iterable[str]) -> str:
    """What is allowed instead of ``word``, in parentheses: the likely one, else all of them (or nothing)."""
    import difflib  # only when something is wrong already

    spellings = {spelling.lower(): spelling for spelling in words}
    cutoff = 0.6 if len(word) > 3 else 0.5  # two letters swapped in a short word
    close = difflib.get_close_matches(word.lower(), spellings, n=1, cutoff=cutoff)
    if close:
        return f' (did you mean "{spellings[close[0]]}"?)'
    return f" (allowed: {', '.join(spellings.values())})" if spellings else ""
