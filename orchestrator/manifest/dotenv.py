"""Files of ``NAME=value`` lines: ``.env`` beside a manifest, and ``env_file``.

The format is that of the Compose Specification ("env_file format"): blank lines and ``#`` comments are
skipped, ``export`` may stand in front, ``'single quotes'`` are literal, in ``"double quotes"`` and without
quotes variables are replaced, quoted values may span lines, and a name alone takes the value that the
environment has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from orchestrator.manifest.interpolate import interpolate

_ASSIGNMENT = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*([=:]?)[ \t]*")
_QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_REST = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$$"}  # $$ is then interpolated to $


def parse(
    text: str,
    lookup: Callable[[str], str | None],
    unset: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """The variables of a file, and its problems as (line, text).

    :param lookup: the environment; it wins over the file's own earlier lines, as in Compose.
    :param unset: called with each variable that a value names, that neither has.
    """
    variables: dict[str, str] = {}
    problems: list[tuple[int, str]] = []

    def find(name: str) -> str | None:
        value = lookup(name)
        return variables.get(name) if value is None else value

    for line, name, quote, raw in _assignments(text, problems):
        if "\0" in raw:
            problems.append((line, f"{name}: contains a NUL character"))
        elif quote is None:
            inherited = lookup(name)
            if inherited is not None:
                variables[name] = inherited
        elif quote == "'":
            variables[name] = raw
        else:
            if quote == '"':
                raw = _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), raw)
            try:
                variables[name] = interpolate(raw, find, unset, lenient=True)
            except ValueError as error:
                problems.append((line, f"{name}: {error}"))
    return variables, problems


def _assignments(text: str, problems: list[tuple[int, str]]) -> Iterator[tuple[int, str, str | None, str]]:
    """Each assignment as (line, name, quote, raw value); the quote is None for a name alone, "" for no quotes."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    at, line = 0, 1
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        stripped = text[at:end].strip()
        start = at + (len(text[at:end]) - len(text[at:end].lstrip()))
        next_at = end + 1
        if stripped and not stripped.startswith("#"):
            match = _ASSIGNMENT.match(text, start)
            if match is None:
                problems.append((line, f'"{stripped[:40]}" is not NAME=value'))
            elif not match[2]:
                if _COMMENT.sub("", text[match.end() : end]).strip():
                    problems.append((line, f'"{stripped[:40]}" is not NAME=value'))
                else:
                    yield line, match[1], None, ""
            elif quoted := _QUOTED.match(text, match.end()):
                rest = _REST.match(text, quoted.end())
                assert rest is not None
                next_at = rest.end() + 1
                if _COMMENT.sub("", " " + rest.group()).strip():
                    problems.append((line, f"{match[1]}: text follows the closing quote"))
                else:
                    single = quoted[1] is not None
                    yield line, match[1], "'" if single else '"', quoted[1] if single else quoted[2]
            elif text[match.end() : match.end() + 1] in ("'", '"'):
                problems.append((line, f"{match[1]}: the quote is not closed"))
            else:
                yield line, match[1], "", _COMMENT.sub("", text[match.end() : end]).strip()
        line += text.count("\n", at, min(next_at, len(text)))
        at = next_at
