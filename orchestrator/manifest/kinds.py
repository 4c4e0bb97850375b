"""The forms that values take: each reads a value and describes itself in JSON Schema.

A kind is told the value and its place. It raises ValueError about the value itself; whatever contains other
values reports the problems of each of them at its own place and leaves it out, so that one pass finds all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.manifest.place import INVALID, Place, hint

Schema = dict[str, Any]

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


class Kind:
    """Base of all kinds.

    :cvar types: the Python types of TOML values that it takes; exactly these (a bool is not an int here).
    :cvar expected: a noun phrase for "expected ..., got ...".
    """

    types: tuple[type, ...]
    expected: str

    def parse(self, value: Any, place: Place) -> Any:
        """Read a value whose type is one of ``types``; INVALID when all that is wrong has been reported.

        :raises ValueError: what is wrong with it, and what is allowed.
        """
        raise NotImplementedError

    def schema(self) -> Schema:
        """The values that :meth:`parse` accepts, as JSON Schema 2020-12."""
        raise NotImplementedError


class Value(Kind):
    """A value without parts, read by a function."""

    def __init__(
        self,
        types: tuple[type, ...],
        expected: str,
        convert: Callable[[Any], Any],
        schema: Schema | None = None,
    ) -> None:
        self.types = types
        self.expected = expected
        self._convert = convert
        self._schema = schema or {}

    def parse(self, value: Any, place: Place) -> Any:
        return self._convert(value)

    def schema(self) -> Schema:
        names = [_JSON_TYPES[kind] for kind in self.types]
        if "number" in names and "integer" in names:
            names.remove("integer")
        return {"type": names if len(names) > 1 else names[0], **self._schema}


class Choice(Kind):
    """One of a few words; ``synonyms`` are accepted and stand for one of them."""

    types = (str,)

    def __init__(self, *words: str, synonyms: dict[str, str] | None = None) -> None:
        self._words = {word: word for word in words} | (synonyms or {})
        self._names = words
        self.expected = " or ".join(f'"{word}"' for word in words)

    def parse(self, value: str, place: Place) -> str:
        if value not in self._words:
            raise ValueError(f'"{value}" is not allowed{hint(value, self._names)}')
        return self._words[value]

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self._words)}, {"type": "string", "pattern": r"\$"}]}


class Forms(Kind):
    """Several kinds, told apart by the type of the value."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds
        self._by_type = {accepted: kind for kind in reversed(kinds) for accepted in kind.types}
        self.types = tuple(self._by_type)
        self.expected = " or ".join(kind.expected for kind in kinds)

    def parse(self, value: Any, place: Place) -> Any:
        return self._by_type[type(value)].parse(value, place)

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self._kinds]}


class Then(Kind):
    """A kind whose value is made into something else; ``convert`` may raise ValueError."""

    def __init__(self, kind: Kind, convert: Callable[[Any], Any]) -> None:
        self._kind = kind
        self._convert = convert
        self.types = kind.types
        self.expected = kind.expected

    def parse(self, value: Any, place: Place) -> Any:
        parsed = self._kind.parse(value, place)
        return INVALID if parsed is INVALID else self._convert(parsed)

    def schema(self) -> Schema:
        return self._kind.schema()


class ListOf(Kind):
    """A list of items of one kind, as a tuple; or a single item without the list, if ``or_one``.

    :param placed: each item becomes (place, item), for checks that come later.
    :param spread: an item is itself several, as a range of ports is.
    """

    def __init__(
        self, item: Kind, expected: str, *, placed: bool = False, spread: bool = False, or_one: bool = False
    ) -> None:
        self._item = item
        self._placed = placed
        self._spread = spread
        self._one = or_one
        self.types = (list, *item.types) if or_one else (list,)
        self.expected = expected

    def parse(self, value: Any, place: Place) -> tuple[Any, ...]:
        if not isinstance(value, list):
            item = self._item.parse(value, place)
            return () if item is INVALID else self._items(item, place)
        items: list[Any] = []
        for index, entry in enumerate(value):
            at = place.child(index)
            item = at.read(self._item, entry)
            if item is not INVALID:
                items.extend(self._items(item, at))
        return tuple(items)

    def _items(self, item: Any, place: Place) -> tuple[Any, ...]:
        items = item if self._spread else (item,)
        return tuple((place, entry) for entry in items) if self._placed else tuple(items)

    def schema(self) -> Schema:
        several = {"type": "array", "items": self._item.schema()}
        return {"anyOf": [self._item.schema(), several]} if self._one else several


class MapOf(Kind):
    """A table with keys of the user's choosing, as a dict.

    :param key: checks a key, and may change it; raises ValueError.
    :param pattern: what ``key`` accepts, for the schema.
    """

    types = (dict,)

    def __init__(self, item: Kind, expected: str, key: Callable[[str], str], pattern: str = "") -> None:
        self._item = item
        self._key = key
        self._pattern = pattern
        self.expected = expected

    def parse(self, value: dict[str, Any], place: Place) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for name, entry in value.items():
            at = place.child(name)
            try:
                key = self._key(name)
            except ValueError as error:
                at.problem(str(error))
                key = name
            item = at.read(self._item, entry)
            if item is not INVALID:
                items[key] = item
        return items

    def schema(self) -> Schema:
        names = {"propertyNames": {"pattern": f"^(?:{self._pattern})$"}} if self._pattern else {}
        return {"type": "object", "additionalProperties": self._item.schema(), **names}


class Pairs(Kind):
    """Names with text values: a table, or a list of ``"NAME=value"``.

    :param bare: whether an item ``"NAME"`` without a value is allowed; its value is None then.
    """

    types = (dict, list)
    _types = (str, int, float, bool)

    def __init__(self, expected: str, key: Callable[[str], str], *, bare: bool = False) -> None:
        self.expected = expected
        self._key = key
        self._bare = bare
        self._value = Value(self._types, "a string, a number or a boolean", _as_text)
        self._pair = Value((str,), 'a string "NAME=value"', self._split)

    def parse(self, value: Any, place: Place) -> dict[str, str | None]:
        pairs: dict[str, str | None] = {}
        if isinstance(value, dict):
            for name, entry in value.items():
                at = place.child(name)
                text = at.read(self._value, entry)
                try:
                    name = self._key(name)
                except ValueError as error:
                    at.problem(str(error))
                if text is not INVALID:
                    pairs[name] = text
            return pairs
        for index, entry in enumerate(value):
            at = place.child(index)
            pair = at.read(self._pair, entry)
            if pair is INVALID:
                continue
            if pair[0] in pairs:
                at.problem(f'"{pair[0]}" is given twice')
            pairs[pair[0]] = pair[1]
        return pairs

    def _split(self, text: str) -> tuple[str, str | None]:
        name, equals, value = text.partition("=")
        if not equals and not self._bare:
            raise ValueError(f'"{text}" has no value (write "NAME=value")')
        return self._key(name), value if equals else None

    def schema(self) -> Schema:
        table = {"type": "object", "additionalProperties": self._value.schema()}
        return {"anyOf": [table, {"type": "array", "items": {"type": "string"}}]}


def _as_text(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class Key:
    """One key of a table.

    :param merge: how a service's value is laid over that of ``[defaults]``; None replaces it.
    :param in_defaults: whether ``[defaults]`` may hold it.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        description: str,
        *,
        default: Any = None,
        required: bool = False,
        merge: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
        in_defaults: bool = True,
    ) -> None:
        self.name = name
        self.kind = kind
        self.description = description
        self.default = default
        self.required = required
        self.merge = merge
        self.in_defaults = in_defaults


class Table(Kind):
    """A table with known keys, as a dict of those that are there; keys that begin with ``x-`` are ignored.

    :param elsewhere: words that people try, and where to find what they mean.
    """

    types = (dict,)

    def __init__(self, expected: str, keys: Iterable[Key], elsewhere: dict[str, str] | None = None) -> None:
        self.expected = expected
        self.keys = {key.name: key for key in keys}
        self._elsewhere = elsewhere or {}

    def parse(self, value: dict[str, Any], place: Place) -> Any:
        values: dict[str, Any] = {}
        for name, entry in value.items():
            at = place.child(name)
            key = self.keys.get(name)
            if key is None:
                if not name.startswith("x-"):
                    at.problem("unknown key" + self._remedy(name))
                continue
            parsed = at.read(key.kind, entry)
            if parsed is not INVALID:
                values[name] = parsed
        missing = [key.name for key in self.keys.values() if key.required and key.name not in value]
        if missing:
            raise ValueError("lacks " + " and ".join(f'"{name}"' for name in missing))
        if any(key.required and key.name not in values for key in self.keys.values()):
            return INVALID
        return values

    def _remedy(self, name: str) -> str:
        if name in self._elsewhere:
            return f" ({self._elsewhere[name]})"
        return hint(name, self.keys)

    def schema(self) -> Schema:
        properties = {}
        for key in self.keys.values():
            described: Schema = {"description": key.description}
            if key.default is not None:
                described["default"] = key.default
            properties[key.name] = described | key.kind.schema()
        required = [key.name for key in self.keys.values() if key.required]
        return {
            "type": "object",
            "properties": properties,
            "patternProperties": {"^x-": {}},
            "additionalProperties": False,
            **({"required": required} if required else {}),
        }
