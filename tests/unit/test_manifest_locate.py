"""The locator: every key that tomllib finds has a line, and it is the right one."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.manifest.document import Path
from orchestrator.manifest.locate import locate

T = TypeVar("T")

_KEYS = st.one_of(
    st.sampled_from(
        ["a", "b", "services", "web", "x-y", "1", "true", "é", "a.b", "", "# no", '"', "'", "[a]", "\n"]
    ),
    st.text(max_size=5, alphabet=st.characters(exclude_categories=["Cs"])),
)
_TEXTS = st.sampled_from(
    [
        "",
        "plain",
        "a = 1",
        "[a]\nb = 1\n[[c]]",
        'say "hi"',
        "'''",
        '"""',
        "\\",
        "x = [1,\n2]",
        "# hash",
        "}],{[",
    ]
)
_SCALARS = st.one_of(_TEXTS, st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=12,
)


class _Emitter:
    """Writes a table as TOML, in a style that ``draw`` chooses anew for each part."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self.lines: list[str] = []

    def _choose(self, *options: T) -> T:
        return self._draw(st.sampled_from(options))

    def table(self, table: dict[str, Any], prefix: str = "") -> None:
        own = {key: value for key, value in table.items() if self._is_inline(value)}
        for key, value in own.items():
            self._assign(self.key(key), value)
        for key, value in table.items():
            if key in own:
                continue
            self.lines.append(self._choose("", "# a = [comment", "\t"))
            path = prefix + self._choose(".", " . ") + self.key(key) if prefix else self.key(key)
            if isinstance(value, dict):
                self.lines.append(self._choose(f"[{path}]", f"  [ {path} ] # [x]"))
                self.table(value, path)
            else:
                for entry in value:
                    self.lines.append(self._choose(f"[[{path}]]", f"[[ {path} ]]"))
                    self.table(entry, path)

    def _is_inline(self, value: Any) -> bool:
        if isinstance(value, dict):
            return self._choose(True, False)
        is_tables = isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value)
        return not is_tables or self._choose(True, False)

    def _assign(self, path: str, value: Any) -> None:
        if isinstance(value, dict) and value and self._choose(True, False):
            for key, entry in value.items():
                self._assign(f"{path}.{self.key(key)}", entry)
        else:
            self.lines.append(
                f"{path}{self._choose(' = ', '=')}{self.value(value)}{self._choose('', ' # = {')}"
            )

    def key(self, key: str) -> str:
        return self._choose(*_spellings(key))

    def value(self, value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return self._choose(*_string_spellings(value))
        if isinstance(value, dict):
            inside = ", ".join(f"{self.key(key)} = {self.value(entry)}" for key, entry in value.items())
            return f"{{ {inside} }}"
        if isinstance(value, list):
            comma, end = self._choose((", ", ""), (",\n  # ]\n", ""), (" ,", " ,\n"))
            return "[" + comma.join(map(self.value, value)) + (end if value else "") + "]"
        return repr(value)


def _basic(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f") if text.isascii() else _escaped(text)


def _escaped(text: str) -> str:
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'


def _spellings(key: str) -> list[str]:
    spellings = [_basic(key)]
    if key and all(character.isascii() and (character.isalnum() or character in "-_") for character in key):
        spellings.append(key)
    if "'" not in key and key.isprintable():
        spellings.append(f"'{key}'")
    return spellings


def _string_spellings(text: str) -> list[str]:
    spellings = [_basic(text), '"""' + _basic(text)[1:-1].replace("\\n", "\n") + '"""']
    if "'''" not in text and not text.endswith("'"):
        spellings.append(f"'''{text}'''")
    return spellings


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield from _paths(entry, (*path, key))


@st.composite
def _documents(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    table = draw(st.dictionaries(_KEYS, _VALUES, max_size=4))
    emitter = _Emitter(draw)
    emitter.table(table)
    return table, "\n".join(emitter.lines)


@given(_documents())
def test_every_key_has_a_line_that_contains_it(document: tuple[dict[str, Any], str]) -> None:
    table, text = document
    assert tomllib.loads(text) == table
    lines, found = text.split("\n"), locate(text)
    for path in _paths(table):
        assert path in found
        key = path[-1]
        if isinstance(key, str):
            assert any(spelling in lines[found[path] - 1] for spelling in _spellings(key))


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\nb = 2", ("b",), 2),
        ("\r\n\r\nb = 2\r\n", ("b",), 3),
        ('a = """\nb = 1\n"""\nb = 2', ("b",), 4),
        ('a = """x"""""\nb = 2', ("b",), 2),
        ("a = '''\n'b' = 1'''\nb = 2", ("b",), 3),
        ("a = [\n 1,\n # ]\n 2,\n]\nb = 2", ("a", 1), 4),
        ("a = [\n {x = 1},\n {x = 2}]", ("a", 1, "x"), 3),
        ("[services.web]\n[services.db]\nimage = 'x'", ("services", "db", "image"), 3),
        ("[services.web]\n[services.db]\n", ("services",), 1),
        ("[[a]]\nx=1\n[[a]]\nx=2\n[a.b]\ny=3", ("a", 1, "b", "y"), 6),
        ("[[a]]\n[[a.b]]\n[[a]]\n[[a.b]]\n[[a.b]]\nz=1", ("a", 1, "b", 1, "z"), 6),
        ('"a.b" . c = 1.5', ("a.b", "c"), 1),
        ('x=1\n"\\u0061" = 1', ("a",), 2),
        ("d = 1979-05-27 07:32:00.5\nt = 1e3\nb = 1", ("b",), 3),
        ("a = {}\nb = []\nc = {x={}, y=[ ]}\nd=1", ("d",), 4),
    ],
)
def test_line_of_a_key(text: str, path: Path, line: int) -> None:
    tomllib.loads(text)
    assert locate(text)[path] == line


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000 + "]" * 50_000, "a" + ".a" * 50_000 + " = 1"])
def test_nesting_of_any_depth_is_scanned(text: str) -> None:
    assert locate(text + "\nb = 1")[("b",)] == 2
