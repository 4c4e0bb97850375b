"""One probe: one check against one target, within its timeout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.health import http
from orchestrator.health.failure import CheckFailed
from orchestrator.health.tcp import connected, peer_name
from orchestrator.spec import ExecCheck, HttpCheck, TcpCheck
from orchestrator.units import format_duration

#: Bytes of a command's output that are kept (as Docker does).
OUTPUT_LIMIT = 4096

#: Runs a command in the container, within a time: its exit code and the beginning of its output. It raises
#: TimeoutError when that takes too long, and leaves no process behind, also when it is cancelled.
RunExec = Callable[[tuple[str, ...], float], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed. ``address`` is numeric: the container's, or 127.0.0.1 for host mode."""

    address: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found.

    :param output: of the command, or the answer in short; the reason when not ``ok``.
    :param seconds: how long it took.
    """

    ok: bool
    output: str
    seconds: float


async def probe(
    check: ExecCheck | TcpCheck | HttpCheck, target: Target, timeout: float, run_exec: RunExec
) -> ProbeResult:
    """Check ``target`` once. Every failure is a result, so this raises nothing but cancellation.

    :param timeout: seconds, for everything together.
    """
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            output, ok = await _check(check, target, timeout, run_exec), True
    except TimeoutError:
        output, ok = f"no answer within {format_duration(timeout)}", False
    except CheckFailed as failure:
        output, ok = str(failure), False
    return ProbeResult(ok, output, time.perf_counter() - began)


async def _check(
    check: ExecCheck | TcpCheck | HttpCheck, target: Target, timeout: float, run_exec: RunExec
) -> str:
    match check:
        case TcpCheck(port=port):
            async with connected(target.address, port):
                return f"connected to {peer_name(target.address, port)}"
        case HttpCheck():
            return await http.request(check, target.address)
        case ExecCheck(command=command):
            code, data = await run_exec(command, timeout)
            output = data[:OUTPUT_LIMIT].decode(errors="replace").strip()
            if code != 0:
                raise CheckFailed(f"exited ({code}): {output}" if output else f"exited ({code})")
            return output
