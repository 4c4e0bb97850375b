"""Filters that have been compiled, each once, ready to be handed to children."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from orchestrator.errors import LaunchError
from orchestrator.kernel.syscalls import SECCOMP_FILTER_FLAGS
from orchestrator.runtime.seccomp.resolve import Host, Rules, resolve
from orchestrator.spec import Seccomp

#: Profiles, as edits of files make ever new ones, that are kept at most.
_CAPACITY = 64
_SEALS = fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter.

    :param fd: a sealed memfd with the BPF program; it belongs to :class:`SeccompFilters`.
    :param flags: of seccomp(2).
    :param digest: of the program.
    """

    fd: int
    flags: int
    profile: str
    digest: str
    architectures: tuple[str, ...]
    rules: int
    instructions: int

    def __str__(self) -> str:
        return (
            f"{self.profile} ({self.digest[:12]}: {self.rules} rules for {', '.join(self.architectures)}, "
            f"{self.instructions} instructions)"
        )


def compile_rules(rules: Rules) -> bytes:
    """As :func:`orchestrator.runtime.seccomp.compile.compile_filter`, which it loads.

    :raises LaunchError: when there is no libseccomp.
    :raises UncompilableError: when it cannot express the rules.
    """
    try:
        from orchestrator.runtime.seccomp.compile import compile_filter
    except (ImportError, RuntimeError, AttributeError) as error:  # RuntimeError: pyseccomp finds no library
        raise LaunchError(
            "cannot compile a seccomp filter", str(error),
            'install libseccomp (Debian: libseccomp2), version 2.5 or later; or, less safe, seccomp = "unconfined"',
        ) from None  # fmt: skip
    return compile_filter(rules)


class SeccompFilters:
    """All filters of a service, by profile and capabilities. libseccomp runs in a thread, one filter at a time."""

    def __init__(self, compile: Callable[[Rules], bytes] = compile_rules, host: Host | None = None) -> None:
        self._compile = compile
        self._host = host or Host.here()
        self._thread = ThreadPoolExecutor(1, "seccomp")
        self._filters: dict[tuple[bytes, frozenset[str]], asyncio.Future[Filter]] = {}

    async def get(self, seccomp: Seccomp, capabilities: frozenset[str]) -> Filter | None:
        """The filter for a container with these capabilities; None where it is unconfined.

        Its descriptor is good until the next ``await``.

        :raises LaunchError: when it cannot be compiled.
        """
        if seccomp.profile == "unconfined":
            return None
        key = (msgspec.json.encode(seccomp, order="deterministic"), capabilities)
        future = self._filters.pop(key, None)
        if future is None or (future.done() and (future.cancelled() or future.exception())):
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, self._make, seccomp, capabilities)
        self._filters[key] = future  # the last that was asked for goes last
        self._forget_oldest()
        return await asyncio.shield(future)

    def close(self) -> None:
        """Let all filters go."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for future in self._filters.values():
            _close(future)
        self._filters.clear()

    def _forget_oldest(self) -> None:
        while len(self._filters) > _CAPACITY:
            self._filters.pop(next(iter(self._filters))).add_done_callback(_close)

    def _make(self, seccomp: Seccomp, capabilities: frozenset[str]) -> Filter:
        name = seccomp.profile
        try:
            rules = resolve(seccomp, capabilities, self._host)
            program = self._compile(rules)
        except LaunchError:
            raise
        except Exception as error:  # of libseccomp, whose errors are as many as its versions
            raise LaunchError(f'cannot compile seccomp profile "{name}"', str(error)) from error
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, program)
        fcntl.fcntl(fd, *_SEALS)
        return Filter(
            fd=fd,
            flags=sum(SECCOMP_FILTER_FLAGS[flag] for flag in rules.flags),
            profile=name + (", changed" if seccomp.allow or seccomp.deny else ""),
            digest=hashlib.sha256(program).hexdigest(),
            architectures=rules.architectures,
            rules=rules.count,
            instructions=len(program) // 8,
        )


def _close(future: asyncio.Future[Filter]) -> None:
    if future.done() and not future.cancelled() and not future.exception():
        os.close(future.result().fd)
