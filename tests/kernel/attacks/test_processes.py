"""What a container can do to processes that are not its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from support import inside
from support.attack import Target

pytestmark = pytest.mark.requires("root", "netns", "overlay")

MARKER = "orch-attack-marker"
#: A program that ends when its standard input does.
WAITS = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host, root's, with :data:`MARKER` in its command line."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WAITS, MARKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as made:
        assert made.stdout
        made.stdout.readline()
        yield made
        made.kill()


def see(marker: str) -> bool:
    return inside.find(marker) != 0


def test_processes_of_the_host_are_not_seen(target: Target, process: subprocess.Popen[bytes]) -> None:
    """pid_namespaces(7)."""
    assert target.both(see, MARKER) is False
    assert target.start(see, MARKER, options="pid = 'host'") is True
