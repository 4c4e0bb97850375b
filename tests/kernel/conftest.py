"""Kernel tests run in the sandbox, and each must leave it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from orchestrator.runtime.handle import SpawnerHandle
from support.box import Box
from support.plugin import inside_the_sandbox, leaves_nothing_behind

__all__ = ["box", "inside_the_sandbox", "leaves_nothing_behind"]


@pytest_asyncio.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    """A spawner, and a folder for its containers."""
    spawner = await SpawnerHandle.start()
    yield Box(spawner, tmp_path)
    await spawner.close()
