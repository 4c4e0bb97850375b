"""The network's peer: two network namespaces, each on a bare bridge by a veth pair, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator

from support.waiting import wait_until

BRIDGE = "bench-br"


def gigabits(report: str) -> float:
    """Received gigabits per second, from the report of ``iperf3 --json``."""
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e9


def listening(enter: list[str], port: int) -> bool:
    """Whether someone listens on a TCP port in the namespace that the prefix ``enter`` leads to."""
    words = [*enter, "ss", "--no-header", "--listening", "--tcp", "--numeric", f"sport = :{port}"]
    return bool(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@contextlib.contextmanager
def bare_pair() -> Iterator[list[list[str]]]:
    """Two command prefixes that run a program in the one and in the other namespace (10.99.0.1 and .2)."""
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "link", "set", BRIDGE, "up")
    holders = []
    try:
        for index in (1, 2):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            holders.append(holder)
            _wait_for_own_namespace(holder.pid)
            _run(
                "ip", "link", "add", f"bench{index}", "type", "veth", "peer", "eth0", "netns", str(holder.pid)
            )
            _run("ip", "link", "set", f"bench{index}", "master", BRIDGE, "up")
            enter = _enter(holder.pid)
            _run(*enter, "ip", "address", "add", f"10.99.0.{index}/24", "dev", "eth0")
            _run(*enter, "ip", "link", "set", "eth0", "up")
            _run(*enter, "ip", "link", "set", "lo", "up")
        yield [_enter(holder.pid) for holder in holders]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
        _run("ip", "link", "del", BRIDGE)


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


def _wait_for_own_namespace(pid: int) -> None:
    ours = os.readlink("/proc/self/ns/net")
    wait_until("unshare has unshared", lambda: os.readlink(f"/proc/{pid}/ns/net") != ours)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
