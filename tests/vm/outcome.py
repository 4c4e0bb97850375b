"""What became of a run, from what the guest said; pure.

The guest's kernel writes to its console, the tests to a port of their own. A line with a word of this run
(the token) marks the tests' beginning there, another carries their exit code: neither a guest that dies nor
a test that prints something can be mistaken for success.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: What a kernel writes that does not go on; or our first process, which then makes it panic.
_DEATH = re.compile(r"Kernel panic - not syncing.*|.*\bFreezing execution\b.*|.*rcu.*detected stalls.*")
_SUMMARY = re.compile(r"^=+ (?P<counts>.*) in [0-9.]+s.*=+$", re.MULTILINE)
#: So much of the console is shown with a failure.
CONSOLE_LINES = 25


@dataclass(frozen=True)
class Said:
    """What is known when the virtual machine has ended.

    :param console: what the guest's kernel wrote.
    :param port: what the guest's script wrote.
    :param stopped: why the harness ended it, ``""`` when it ended by itself.
    :param code: the exit code of QEMU itself.
    :param errors: what QEMU wrote to its standard error.
    """

    console: str
    port: str
    stopped: str = ""
    code: int = 0
    errors: str = ""


def began(token: str) -> str:
    """The line that says that systemd has started the script."""
    return f"orch-vm {token} begins"


def result(token: str) -> str:
    """The line that carries the exit code, up to the code itself."""
    return f"orch-vm {token} ends with "


def problem(token: str, said: Said, tests: bool) -> str:
    """Why the run failed, ``""`` only when it is certain that it did not.

    :param tests: the script was pytest: then at least one test must have passed.
    """
    code = _code(token, said.port)
    if code is None:
        return _no_result(token, said)
    if code != 0:
        what = (
            {1: "tests failed", 2: "pytest was interrupted", 5: "pytest found no such test"}.get(code)
            if tests
            else ""
        )
        return f"{what or 'the command failed'} (exit code {code} in the guest)"
    if tests and not any(" passed" in found["counts"] for found in _SUMMARY.finditer(said.port)):
        return "not one test passed: all of them were skipped, or pytest said nothing"
    return ""


def _code(token: str, port: str) -> int | None:
    found = re.findall(rf"^{re.escape(result(token))}(\d+)\r?$", port, re.MULTILINE)
    return int(found[-1]) if found else None


def _no_result(token: str, said: Said) -> str:
    death = _DEATH.search(said.console)
    if death:
        what = f"the guest's kernel died: {death[0].strip()}"
    elif said.code != 0 and not said.stopped:
        what = f"QEMU ended with code {said.code}: {said.errors.strip() or 'it said nothing'}"
    elif began(token) not in said.port:
        what = f"the guest never came up: {said.stopped or 'it ended before the tests began'}"
    else:
        what = f"the tests gave no result: {said.stopped or 'the guest ended before they did'}"
    # What led to a death comes before it; the registers after it say nothing to us.
    console = said.console[: death.end()] if death else said.console
    lines = console.strip().splitlines()[-CONSOLE_LINES:]
    shown = "".join(f"\n  {line.rstrip()}" for line in lines) or " empty"
    return f"{what}\nThe end of its console:{shown}"
