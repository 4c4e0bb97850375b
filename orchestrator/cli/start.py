"""Starts the host service for the commands that need one: ``up`` and ``run``.

Two commands may start one at the same time: the services settle with a lock which of them stays, and the
commands only care that one listens.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time

from orchestrator.errors import OrchError, from_wire
from orchestrator.service.client import Client

_PATIENCE = 15.0  # seconds
_RETRY = 0.02  # seconds


def ensure_service(client: Client) -> None:
    """Return once a service listens; start one that ends when it has nothing to do, if there is none.

    :raises OrchError: what kept it from starting.
    """
    deadline = time.monotonic() + _PATIENCE
    while not client.is_listening():
        error = _start(client)
        if client.is_listening():
            return
        if error is not None and error.code != "conflict":  # conflict: another one has the lock
            raise error
        if time.monotonic() > deadline:
            raise error or OrchError(
                "cannot start the orch service", "it does not listen on its socket", _remedy(client)
            )
        time.sleep(_RETRY)
        while error is not None and not client.is_listening() and _is_locked(client.instance.run_dir):
            # It begins or ends. To start yet another one would only take its time.
            if time.monotonic() > deadline:
                raise error
            time.sleep(_RETRY)


def _start(client: Client) -> OrchError | None:
    """Start a service and wait for its word: None when it is ready, else its error."""
    instance = client.instance
    try:
        os.makedirs(instance.run_dir, mode=0o755, exist_ok=True)
        log = open(_log(client), "ab")  # noqa: SIM115
    except OSError as error:
        remedy = "" if os.geteuid() == 0 else "orch makes containers itself and must be root: use sudo"
        return OrchError("cannot start the orch service", f"{error.filename}: {error.strerror}", remedy)
    reading, writing = os.pipe()
    try:
        with log:
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "orchestrator.service.main"),
                    *("--state-dir", instance.state_dir, "--run-dir", instance.run_dir),
                    *("--exit-when-idle", "--ready-fd", str(writing)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=[writing],
                start_new_session=True,
            )
        os.close(writing)
        if not select.select([reading], [], [], _PATIENCE)[0]:
            return OrchError(
                "cannot start the orch service",
                f"it is not ready after {_PATIENCE:g} seconds",
                _remedy(client),
            )
        with open(reading, "rb", closefd=False) as pipe:
            word = pipe.readline()
    finally:
        os.close(reading)
    if word == b"ready\n":
        return None
    if word:
        return from_wire(json.loads(word)["error"])
    return OrchError("cannot start the orch service", "it ended before it was ready", _remedy(client))


def _is_locked(run_dir: str) -> bool:
    """Whether a service holds the instance's lock; to try it would get in the way of one that begins."""
    try:
        info = os.stat(f"{run_dir}/lock")
    except FileNotFoundError:
        return False
    name = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    with open("/proc/locks", encoding="ascii") as file:  # proc_locks(5)
        return any(name in line.split() for line in file)


def _log(client: Client) -> str:
    return f"{client.instance.run_dir}/service.log"


def _remedy(client: Client) -> str:
    return f"its log is {_log(client)}"
