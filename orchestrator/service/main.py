"""Start and end of the service process.

``python -m orchestrator.service.main`` is what ``orch serve`` runs, and what ``orch up`` starts when no service
listens. Everything is set up before the socket appears, so who can connect can be served.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence

import structlog
from aiohttp import web

from orchestrator import capabilities
from orchestrator.cgroups.host import CgroupHost, detect
from orchestrator.errors import ConflictError, OrchError
from orchestrator.ids import Instance
from orchestrator.launch.launcher import Launcher
from orchestrator.ledger import Ledger
from orchestrator.logs.pump import LogPump
from orchestrator.network.manager import NetworkManager
from orchestrator.runtime.handle import SpawnerHandle
from orchestrator.runtime.seccomp.filters import SeccompFilters
from orchestrator.service.api import Api
from orchestrator.service.daemon import Daemon
from orchestrator.service.sweep import remove_run_dir, run_here, sweep, take_lock
from orchestrator.service.version import version
from orchestrator.service.watchdog import watch_from_environment
from orchestrator.spec import Seccomp
from orchestrator.supervise.project import Facilities

log = structlog.get_logger()
#: A service that was started for one command ends this long (seconds) after it has nothing to do.
_IDLE_AT_START = 15.0
_IDLE_AFTER_WORK = 0.05
_PATH_LIMIT = 107  # sun_path of unix(7), without its final NUL


def main(argv: Sequence[str] | None = None) -> int:
    """Run a service until it is told to end; the exit code."""
    parser = argparse.ArgumentParser(prog="orch serve", description="Run the host service in the foreground.")
    parser.add_argument(
        "--state-dir", help="what survives a reboot (default: $ORCH_STATE_DIR or /var/lib/orch)"
    )
    parser.add_argument("--run-dir", help="what does not (default: $ORCH_RUN_DIR or /run/orch)")
    parser.add_argument("--exit-when-idle", action="store_true", help="end when no project is up any more")
    parser.add_argument("--ready-fd", type=int, help="descriptor to write 'ready' to, or an error as JSON")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(argv)
    instance = Instance.from_environment(options.state_dir, options.run_dir)
    _configure_logging(options.log_level)
    ready = _Ready(options.ready_fd)
    try:
        asyncio.run(_serve(instance, options.exit_when_idle, ready))
    except OrchError as error:
        ready.failed(error)
        if options.ready_fd is None:
            log.error("cannot serve", error=str(error))
        return error.exit_code
    return 0


def serve(instance: Instance, *, exit_when_idle: bool = False) -> int:
    """As :func:`main`, for a caller that has parsed its own arguments."""
    idle = ["--exit-when-idle"] if exit_when_idle else []
    return main(["--state-dir", instance.state_dir, "--run-dir", instance.run_dir, *idle])


class _Ready:
    """Tells whoever started this service that it is ready, or why not."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def ready(self) -> None:
        """The socket is there."""
        self._say("ready\n")

    def failed(self, error: OrchError) -> None:
        """It will never be there."""
        self._say(json.dumps({"error": error.to_wire()}) + "\n")

    def _say(self, text: str) -> None:
        if self._fd is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._fd, text.encode())
            os.close(self._fd)
            self._fd = None


async def _serve(instance: Instance, exit_when_idle: bool, ready: _Ready) -> None:
    # The log pump's thread must get its turn between two callbacks of a busy loop, not after 5 ms.
    sys.setswitchinterval(0.0005)
    # What is loaded by now stays. Otherwise every full collection looks through all of it, for some 10 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    # Each container takes about 12 descriptors. The spawner needs as many; containers get a soft limit of their own.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    lock = _prepare_folders(instance)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.close, lock)
        stack.push(functools.partial(_remove_run_dir, instance))
        if watchdog := watch_from_environment():
            stack.callback(watchdog.stop)
        sweeper = [sys.executable, "-m", "orchestrator.service.sweep", instance.state_dir, instance.run_dir]
        spawner = await SpawnerHandle.start(sweeper)
        stack.push_async_callback(spawner.close)
        networks = NetworkManager(instance, functools.partial(_run_host, spawner))
        await networks.start()
        stack.push_async_callback(networks.close)
        ledger = Ledger(instance.ledger)
        stack.callback(ledger.close)
        cgroups = detect()
        swept = await sweep(instance, ledger, cgroups, networks)
        if swept:
            log.warning("removed what a killed service had left", things=swept)
        accounting = asyncio.create_task(_enable_io_accounting(cgroups, instance))
        stack.push_async_callback(asyncio.wait, [accounting])
        logs = LogPump(lambda text: log.warning("log trouble", detail=text))
        logs.start()
        stack.callback(logs.stop)
        seccomp = SeccompFilters()
        stack.callback(seccomp.close)
        compiling = asyncio.create_task(_compile_default_filter(seccomp))
        stack.push_async_callback(asyncio.wait, [compiling])
        launcher = Launcher(instance, spawner, networks, ledger, logs, seccomp)
        daemon = Daemon(Facilities(instance, spawner, cgroups, networks, ledger, logs, launcher))
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end.set)
        runner = web.AppRunner(
            Api(daemon, end.set).application(),
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.5,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.UnixSite(runner, instance.socket).start()
        os.chmod(instance.socket, 0o600)
        log.info(
            "ready", version=version(), instance=instance.id, socket=instance.socket, spawner=spawner.pid
        )
        ready.ready()
        await _until_end(daemon, spawner, end, exit_when_idle)
        log.info("ending")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(instance.socket)  # from now on, a command starts another service
        await daemon.shut_down()
        await networks.destroy()
        await accounting  # it may have yet to make the cgroup that is removed next
        await asyncio.to_thread(cgroups.group(instance.cgroup_parent).remove_if_empty)
        if not ledger.owned():
            spawner.dismiss()


async def _run_host(spawner: SpawnerHandle, argv: Sequence[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Through the spawner as long as there is one: what is made must be taken back without it as well."""
    return await (run_here if spawner.gone.is_set() else spawner.run_host)(argv, stdin)


async def _enable_io_accounting(cgroups: CgroupHost, instance: Instance) -> None:
    try:
        await asyncio.to_thread(cgroups.group(instance.cgroup_parent).enable_io_accounting)
    except OrchError as error:
        log.warning("no I/O counters", error=str(error))


async def _compile_default_filter(seccomp: SeccompFilters) -> None:
    """So that the first container need not wait for it. What is wrong, it says itself."""
    with contextlib.suppress(OrchError):
        await seccomp.get(Seccomp(), frozenset(capabilities.DEFAULT))


async def _until_end(
    daemon: Daemon, spawner: SpawnerHandle, end: asyncio.Event, exit_when_idle: bool
) -> None:
    """Return when the service is to end: asked to, without a spawner, or (if it may) without work."""
    ended = asyncio.ensure_future(end.wait())
    lost = asyncio.ensure_future(spawner.gone.wait())
    patience = _IDLE_AT_START
    try:
        while not ended.done() and not lost.done():
            changed = asyncio.ensure_future(daemon.changed.wait())
            waits = {ended, lost, changed}
            limit = patience if exit_when_idle and daemon.idle else None
            done, _ = await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if not done and daemon.idle:
                return
            daemon.changed.clear()
            patience = _IDLE_AFTER_WORK
        if lost.done():
            log.error("the spawner is gone, and its containers with it")
    finally:
        ended.cancel()
        lost.cancel()


def _prepare_folders(instance: Instance) -> int:
    """Make the folders and take the instance's lock; its descriptor."""
    if len(os.fsencode(instance.socket)) > _PATH_LIMIT:
        raise OrchError(
            "cannot serve", f"the socket's path {instance.socket} is longer than {_PATH_LIMIT} bytes",
            "choose a shorter ORCH_RUN_DIR",
        )  # fmt: skip
    if os.geteuid() != 0:
        raise OrchError("cannot serve", "orch makes containers itself and must be root", "use sudo")
    try:
        for folder in (instance.state_dir, instance.run_dir):
            os.makedirs(folder, mode=0o711, exist_ok=True)
        for folder in ("containers", "logs", "images", "root", "volumes"):
            path = f"{instance.state_dir}/{folder}"
            os.makedirs(path, mode=0o700, exist_ok=True)
            # A container's root may make setuid programs in there, which no user of the host shall reach.
            os.chmod(path, 0o700)
        os.makedirs(f"{instance.run_dir}/hosts", mode=0o711, exist_ok=True)
        lock = take_lock(instance)
    except OSError as error:
        raise OrchError(
            "cannot serve", f"{error.filename}: {error.strerror}", "choose other folders"
        ) from None
    if lock is None:
        raise ConflictError(
            "cannot serve", f"another orch service has {instance.run_dir}", "use it, or set ORCH_RUN_DIR"
        )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(instance.socket)
    return lock


def _remove_run_dir(instance: Instance, failure: type[BaseException] | None, *_: object) -> None:
    remove_run_dir(instance, keep_log=failure is not None)


def _configure_logging(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
