"""What a child can do: every operation of a launch program, by name."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from orchestrator.kernel import operations
from orchestrator.kernel.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    prctl,
    setns,
    unshare,
)
from orchestrator.runtime import child_files, child_lsm, child_program, child_user
from orchestrator.runtime.child import Child, Refused


def _die_with_parent(child: Child) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _unshare_cgroup(child: Child) -> None:
    # Only now: the root of a cgroup namespace is the group its creator is in (cgroup_namespaces(7)).
    unshare(CLONE_NEWCGROUP)


def _join(child: Child, slot: str, what: str) -> None:
    if what == "net":
        setns(child.slots[slot], CLONE_NEWNET)
    else:  # all of a container's namespaces; its pid namespace the child was born in
        prctl(PR_SET_DUMPABLE, 0)  # nobody in there may look into this process before it has exec'd
        setns(child.slots[slot], CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP)
        os.chdir("/")


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
    "unshare-cgroup": _unshare_cgroup,
    "join": _join,
    "hostname": _hostname,
    "wait": _wait,
    "environment": _environment,
    **child_files.OPERATIONS,
    **child_lsm.OPERATIONS,
    **child_user.OPERATIONS,
    **child_program.OPERATIONS,
}
