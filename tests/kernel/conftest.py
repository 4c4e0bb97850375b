"""Kernel tests run in the sandbox, and each must leave it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.runtime.handle import SpawnerHandle
from orchestrator.runtime.userns import IdMaps
from support.box import Box
from support.plugin import inside_the_sandbox, leaves_nothing_behind

__all__ = ["box", "inside_the_sandbox", "leaves_nothing_behind"]


@pytest_asyncio.fixture(params=["host", "own"])
async def box(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Box]:
    """A spawner, and a folder for its containers.

    In the host's user namespace and in one of their own: most tests must not notice the difference.
    """
    spawner = await SpawnerHandle.start()
    tmp_path.chmod(0o755)
    yield Box(spawner, tmp_path, IdMaps.of_range(0x7000_0000) if request.param == "own" else None)
    await spawner.close()
