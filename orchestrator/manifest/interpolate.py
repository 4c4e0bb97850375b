"""Variables in strings, with the Compose Specification's syntax ("Interpolation" section).

``$VAR`` ``${VAR}`` ``${VAR:-default}`` ``${VAR-default}`` ``${VAR:?message}`` ``${VAR?message}``
``${VAR:+alternative}`` ``${VAR+alternative}`` and ``$$`` for a dollar sign. With the colon an empty variable
counts as unset. The word after the operator may hold variables itself; it is expanded only when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_PLAIN = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:?[-?+])?")
_MAX_DEPTH = 32


def interpolate(
    text: str,
    lookup: Callable[[str], str | None],
    unset: Callable[[str], None] = lambda name: None,
    *,
    lenient: bool = False,
) -> str:
    """``text`` with its variables replaced.

    :param lookup: a variable's value, or None when it is not set.
    :param unset: called with the name of each plain variable that is not set and so becomes empty.
    :param lenient: leave a dollar sign that starts no variable as it is (dotenv files), instead of refusing it.
    :raises ValueError: bad syntax, or a variable that is required (``:?``) and not set.
    """
    if "$" not in text:
        return text
    return _Expansion(text, lookup, unset, lenient).run()


class _Expansion:
    def __init__(
        self, text: str, lookup: Callable[[str], str | None], unset: Callable[[str], None], lenient: bool
    ) -> None:
        self._text = text
        self._lookup = lookup
        self._unset = unset
        self._lenient = lenient
        self._at = 0

    def run(self, depth: int = 0, live: bool = True) -> str:
        """Expand to the end of the text, or (within braces) to the brace that closes.

        :param live: False for a word that is skipped: nothing in it may warn or fail.
        """
        text, parts = self._text, []
        while self._at < len(text):
            if depth and text[self._at] == "}":
                break
            if text[self._at] == "$":
                parts.append(self._variable(depth, live))
                continue
            end = self._at
            while end < len(text) and text[end] != "$" and not (depth and text[end] == "}"):
                end += 1
            parts.append(text[self._at : end])
            self._at = end
        return "".join(parts)

    def _variable(self, depth: int, live: bool) -> str:
        text, start = self._text, self._at
        if text.startswith("$$", start):
            self._at += 2
            return "$"
        if match := _PLAIN.match(text, start):
            self._at = match.end()
            return self._plain(match[1], live)
        if match := _BRACED.match(text, start):
            self._at = match.end()
            value = self._braced(match[1], match[2], depth, live)
            if not text.startswith("}", self._at):
                raise ValueError(
                    f'"${{{match[1]}" is not closed or not well formed (write "${{{match[1]}}}")'
                )
            self._at += 1
            return value
        if self._lenient:
            self._at += 1
            return "$"
        raise ValueError(f'"{text[start : start + 10]}" is not a variable (write "$$" for a dollar sign)')

    def _plain(self, name: str, live: bool) -> str:
        value = self._lookup(name) if live else ""
        if value is None:
            self._unset(name)
        return value or ""

    def _braced(self, name: str, operator: str | None, depth: int, live: bool) -> str:
        if operator is None:
            return self._plain(name, live)
        if depth >= _MAX_DEPTH:
            raise ValueError(f"variables are nested more than {_MAX_DEPTH} deep")
        value = self._lookup(name)
        present = bool(value) if operator[0] == ":" else value is not None
        uses_word = present if operator[-1] == "+" else not present
        word = self.run(depth + 1, live and uses_word)
        if operator[-1] == "?" and not present:
            if live:
                raise ValueError(f'variable "{name}" is required' + (f": {word}" if word else " and not set"))
            return ""
        if operator[-1] == "+":
            return word if present else ""
        return value or "" if present else word
