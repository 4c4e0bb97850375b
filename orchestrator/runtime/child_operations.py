"""What a child can do: every operation of a launch program, by name."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from orchestrator.kernel import operations
from orchestrator.kernel.syscalls import (
    PR_SET_PDEATHSIG,
    prctl,
)
from orchestrator.runtime import (
    child_files,
    child_lsm,
    child_namespaces,
    child_program,
    child_user,
    child_volume,
)
from orchestrator.runtime.child import Child, Refused


def _die_with_parent(child: Child) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit(child: Child) -> None:
    os._exit(0)


def _hostname(child: Child, name: str) -> None:
    socket.sethostname(name)


def _wait(child: Child) -> None:
    # One byte: the network is there. End of file: whoever would have sent it is gone.
    if not os.read(child.ready, 1):
        raise Refused("the service went away before the network was ready")


def _environment(child: Child, environment: dict[str, str]) -> None:
    child.environment = environment


def _plain(name: str) -> Callable[..., None]:
    function = operations.PERFORM[name]
    return lambda _child, *arguments: function(*arguments)


OPERATIONS: dict[str, Callable[..., None]] = {
    **{name: _plain(name) for name in operations.PERFORM},
    "stage": Child.stage,
    "die-with-parent": _die_with_parent,
    "exit": _exit,
    "hostname": _hostname,
    "wait": _wait,
    "environment": _environment,
    **child_namespaces.OPERATIONS,
    **child_files.OPERATIONS,
    **child_lsm.OPERATIONS,
    **child_user.OPERATIONS,
    **child_volume.OPERATIONS,
    **child_program.OPERATIONS,
}
