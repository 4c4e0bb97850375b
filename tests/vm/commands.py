"""Running the programs that a guest is made with."""

from __future__ import annotations

import subprocess


class CommandError(Exception):
    """A program that a guest is made with is not there or failed; the text says which, and what it said."""


def run(*command: str, cwd: str | None = None) -> str:
    """What a program writes.

    :raises CommandError: it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    except FileNotFoundError:
        raise CommandError(f"needs {command[0]}, which `tools/host-packages vm` installs") from None
    if done.returncode != 0:
        words = " ".join(command)
        raise CommandError(f"`{words[:200]}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
