"""Random small projects: up, changed, and down in random ways; whatever they are, nothing is left of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess

import pytest

from support.cli import Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

PROGRAMS = (
    '["sleep", "1000"]',
    '["sh", "-c", "echo one line; exec sleep 1000"]',
    """["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.02; done"]""",
    '["sh", "-c", "sleep 500 & sleep 1000"]',
    '["sh", "-c", "yes | head -c 100000; exec sleep 1000"]',
)


def project(rng: random.Random) -> str:
    """A manifest of up to five services that all come up well."""
    networks, volumes = ["n1", "n2"][: rng.randint(0, 2)], ["v1", "v2"][: rng.randint(0, 2)]
    lines = [
        'name = "any"',
        "[defaults]",
        'stop_grace_period = "1s"',
        f"init = {rng.choice(('true', 'false'))}",
    ]
    earlier: list[str] = []
    for number in range(rng.randint(1, 5)):
        name, is_job = f"s{number}", rng.random() < 0.25
        lines += [f"[services.{name}]"]
        if is_job:
            lines += ['kind = "job"', 'command = ["sh", "-c", "echo done"]']
        else:
            lines += [f"command = {rng.choice(PROGRAMS)}", f"replicas = {rng.randint(1, 2)}"]
        if earlier and rng.random() < 0.6:
            lines += [f"depends_on = {sorted(rng.sample(earlier, rng.randint(1, len(earlier))))}"]
        match rng.randint(0, 4):
            case 0:
                lines += [f'network_mode = "{rng.choice(("none", "host"))}"']
            case 1 if networks:
                lines += [f"networks = {rng.sample(networks, rng.randint(1, len(networks)))}"]
            case 2 if not is_job:
                lines += ['ports = ["80", "53/udp"]']
        if volumes and rng.random() < 0.5:
            lines += [f'volumes = ["{rng.choice(volumes)}:/data"]']
        if rng.random() < 0.3:
            lines += [f'resources = {{ memory = "{rng.choice((32, 64))}M", pids = 30 }}']
        if rng.random() < 0.3:
            lines += ["read_only = true", 'tmpfs = ["/tmp"]']
        if rng.random() < 0.3 and not is_job:
            lines += ['healthcheck = { test = ["CMD", "true"], interval = "100ms" }']
        if rng.random() < 0.3:
            lines += ['restart = "on-failure"']
        earlier.append(name)
    lines += [f"[networks.{name}]" for name in networks] + [f"[volumes.{name}]" for name in volumes]
    return "\n".join(lines) + "\n"


def disturb(orch: Orch, rng: random.Random) -> None:
    """Something that happens to a project while it is up."""
    running = [one for one in orch.ps() if one["state"] == "running"]
    one = rng.choice(running) if running else None
    match rng.randint(0, 5):
        case 0 if one:
            os.kill(one["pid"], signal.SIGKILL)
        case 1 if one:
            orch.run("pause", "-p", "any", one["name"])
        case 2 if one:
            orch.run("stop", "-p", "any", one["service"])
        case 3 if one and not one["ports"]:
            orch.run("scale", "-p", "any", f"{one['service']}={rng.randint(0, 3)}")
        case 4:
            orch.up(orch.manifest(project(rng), "any.toml"))
        case 5 if one:
            orch.run("exec", "-p", "any", one["name"], "sh", "-c", "sleep 300 > /dev/null 2>&1 &")


def end(orch: Orch, rng: random.Random, manifest: str) -> None:
    """One of the ways in which a project goes."""
    match rng.randint(0, 3):
        case 0:
            orch.run("down", "-p", "any")
        case 1:
            orch.run("down", "-p", "any", "--volumes", "--kill")
        case 2:
            orch.up(orch.manifest('name = "any"\n', "any.toml"))
        case 3:
            foreground = orch.popen("up", manifest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until("it has its lease", lambda: foreground.poll() is not None or has_lease(foreground))
            foreground.kill()
            foreground.wait()
            wait_until("the project is gone", lambda: orch.run("ls", "-q").stdout == "", timeout=15)


def has_lease(process: subprocess.Popen[str]) -> bool:
    """Whether a foreground ``up`` is connected to the service: its two streams, of lease and progress."""
    sockets = 0
    with contextlib.suppress(FileNotFoundError):  # it ends, or has closed what was listed
        for number in os.listdir(f"/proc/{process.pid}/fd"):
            sockets += os.readlink(f"/proc/{process.pid}/fd/{number}").startswith("socket:")
    return sockets >= 2


@pytest.mark.parametrize("seed", range(8))
def test_a_random_project_leaves_nothing(orch: Orch, seed: int) -> None:
    rng = random.Random(seed)
    orch.project = "any"
    for _ in range(2):
        manifest = orch.manifest(project(rng), "any.toml")
        orch.up(manifest)
        assert orch.run("plan", manifest).stdout == "any is up to date\n"
        for _ in range(rng.randint(0, 2)):
            disturb(orch, rng)
        end(orch, rng, manifest)
        assert orch.run("ps", "-a", "--format", "json").json() == []
        assert not os.path.exists(f"{orch.instance.state_dir}/logs/any")
        assert os.listdir(f"{orch.instance.state_dir}/containers") == []
