"""Dependency order. A graph maps each service's name to the names of the services it depends on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from orchestrator.spec import ServiceSpec

Graph = Mapping[str, Collection[str]]


def dependency_graph(services: Mapping[str, ServiceSpec]) -> dict[str, frozenset[str]]:
    """The graph of ``services``; dependencies on services that are not among them are left out."""
    return {
        name: frozenset(d.service for d in spec.depends_on if d.service in services and d.service != name)
        for name, spec in services.items()
    }


def levels(graph: Graph) -> dict[str, int]:
    """Each service's level: 0 without dependencies, else above all of its dependencies.

    The manifest refuses cycles, but what is observed may mix specs of several manifests. A cycle is cut
    before its first name in the alphabet, so that every plan can be executed.
    """
    level: dict[str, int] = {}
    waiting = dict(graph)
    while waiting:
        ready = [name for name, needs in waiting.items() if level.keys() >= set(needs)] or [min(waiting)]
        height = max(level.values(), default=-1) + 1
        for name in ready:
            level[name] = height
            del waiting[name]
    return level


def closure(graph: Graph, roots: Iterable[str]) -> set[str]:
    """``roots`` and everything they depend on, directly or not."""
    found: set[str] = set()
    stack = [root for root in roots if root in graph]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(graph[name])
    return found
