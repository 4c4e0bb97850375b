"""An orch service some of whose launch programs are changed, and whose host is less tidy than it should be.

``python -m support.tampered_service BASE ARGUMENTS``: the service with these arguments. Beneath BASE:

* ``tamper`` says, as JSON, what is done to launch programs from now on (see :func:`tamper`);
* ``bin/python3`` is the spawner's interpreter, which an attacker may overwrite;
* ``open`` is a folder that the spawner holds open, and forgot to close on exec.

It is in the group :data:`GROUP`, and has a session keyring with a key :data:`KEY`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import join_session_keyring
from orchestrator.runtime.handle import Process, SpawnerHandle
from orchestrator.runtime.program import Program
from orchestrator.service.main import main
from support import inside

#: A group that whoever starts the service is in.
GROUP = 424242
#: A key in its session keyring; it reads ``secret``.
KEY = "orch-attack"


def tamper(operations: list[Operation], changes: Sequence[Sequence[Any]]) -> list[Operation]:
    """``["drop", begin]`` removes the operations that begin so; ``["before", begin, operation...]`` puts others before
    the first of them; ``["if", program]`` leaves all programs alone that exec another one.

    :raises ValueError: when there is none.
    """
    for verb, begin, *rest in changes:
        if verb == "if":
            if operations[-1][1][0] != begin:
                break
            continue
        found = [number for number, each in enumerate(operations) if each[: len(begin)] == list(begin)]
        if not found:
            raise ValueError(f"no operation begins with {begin}: {operations}")
        if verb == "drop":
            operations = [each for number, each in enumerate(operations) if number not in found]
        else:
            operations = [*operations[: found[0]], *rest, *operations[found[0] :]]
    return operations


def _serve(base: str, arguments: list[str]) -> int:
    launch = SpawnerHandle.launch

    def launch_tampered(self: SpawnerHandle, program: Program, fds: Sequence[int] = ()) -> Process:
        with open(f"{base}/tamper", encoding="utf-8") as file:
            changes = json.load(file)
        if changes and any(each[0] == "privileges" for each in program.operations):
            wire = program.to_wire() | {"operations": tamper(program.operations, changes)}
            program = msgspec.convert(wire, Program)
        return launch(self, program, fds)

    SpawnerHandle.launch = launch_tampered  # type: ignore[method-assign]
    os.setgroups([0, GROUP])
    join_session_keyring()
    inside.call("add_key", b"user", KEY.encode(), b"secret", 6, -3)  # KEY_SPEC_SESSION_KEYRING
    leak = os.open(f"{base}/open", os.O_RDONLY | os.O_DIRECTORY)
    popen = subprocess.Popen

    def start_spawner(
        words: list[str], *, pass_fds: Sequence[int], **options: Any
    ) -> subprocess.Popen[bytes]:
        words[0] = f"{base}/bin/python3"
        return popen(words, pass_fds=[*pass_fds, leak], **options)

    subprocess.Popen = start_spawner  # type: ignore[misc,assignment]
    return main(arguments)


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1], sys.argv[2:]))
