"""The recent past: a bounded log of events, and those who follow it."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator

from orchestrator.views import EventView

_KEPT = 10_000
#: A follower that is this far behind misses events rather than holding memory.
_BACKLOG = 10_000


class EventLog:
    """Keeps the last events and hands new ones to followers; nobody can slow it down."""

    def __init__(self) -> None:
        self._events: collections.deque[EventView] = collections.deque(maxlen=_KEPT)
        self._followers: set[_Follower] = set()

    def add(self, event: EventView) -> None:
        """Record an event."""
        self._events.append(event)
        for follower in self._followers:
            follower.add(event)

    def recent(self, since: float = 0.0) -> list[EventView]:
        """The events that are kept, from ``since`` on, oldest first."""
        return [event for event in self._events if event.time >= since]

    async def follow(self) -> AsyncGenerator[EventView, None]:
        """Every event from now on."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            while True:
                for event in await follower.take():
                    yield event
        finally:
            self._followers.discard(follower)


class _Follower:
    def __init__(self) -> None:
        self._pending: collections.deque[EventView] = collections.deque(maxlen=_BACKLOG)
        self._filled = asyncio.Event()

    def add(self, event: EventView) -> None:
        self._pending.append(event)
        self._filled.set()

    async def take(self) -> list[EventView]:
        await self._filled.wait()
        self._filled.clear()
        events = list(self._pending)
        self._pending.clear()
        return events
