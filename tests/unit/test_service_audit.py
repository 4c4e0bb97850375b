"""Who may share what, as manifests have it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from orchestrator.launch.container import Container
from orchestrator.service.audit import find_partners


def fake(name: str, **neighbours: Any) -> Container:
    return cast(Container, SimpleNamespace(name=name, neighbours=neighbours))


def test_partners_of_partners_are_partners() -> None:
    a, alone = fake("a"), fake("alone")
    b = fake("b", net=a)
    c = fake("c", net=b, pid=a)
    partners = find_partners([c, b, a, alone])
    assert partners["a"] == {"net": {"b", "c"}, "pid": {"c"}, "user": {"b", "c"}}
    assert partners["b"] == {"net": {"a", "c"}, "user": {"a", "c"}}
    assert partners["c"] == {"net": {"a", "b"}, "pid": {"a"}, "user": {"a", "b"}}
    assert partners["alone"] == {}


def test_a_neighbour_that_was_removed_is_nobody() -> None:
    assert find_partners([fake("b", net=fake("gone"))]) == {"b": {}}
