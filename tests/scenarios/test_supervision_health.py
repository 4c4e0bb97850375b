"""Health checks of all sorts against real servers, and what follows from bad health."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from typing import Any

import pytest

from support.cli import Orch
from support.lifecycle import actions, events
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")


def project(check: str, command: str, more: str = "") -> str:
    return f"""
    name = "h"
    [services.x]
    command = {command}
    healthcheck = {check}
    stop_grace_period = "1s"
    {more}
    """


HTTP = """["python3", "-m", "http.server", "-d", "/usr/share/doc", "8000"]"""


@pytest.mark.parametrize(
    ("check", "command"),
    [
        ('{ tcp = 8000, interval = "1s" }', HTTP),
        ('{ http = "http://:8000/", interval = "1s" }', HTTP),
        ('{ test = ["CMD", "test", "-e", "/proc/1"], interval = "1s" }', HTTP),
        ('{ test = ["CMD-SHELL", "test -e /proc/1 && true"], interval = "1s" }', HTTP),
    ],
    ids=["tcp", "http", "exec", "shell"],
)
def test_a_server_becomes_healthy_and_up_waits_for_it(orch: Orch, check: str, command: str) -> None:
    orch.up(orch.manifest(project(check, command)))
    container = orch.container("x")
    assert (container["state"], container["health"], container["reason"]) == ("running", "healthy", "")


@pytest.mark.requires("redis")
def test_redis_is_healthy_when_its_port_answers(orch: Orch) -> None:
    command = '["redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no"]'
    orch.up(orch.manifest(project('{ tcp = 6379, interval = "1s" }', command)))
    assert orch.container("x")["health"] == "healthy"
    assert orch.run("exec", "-p", "h", "x", "redis-cli", "ping").stdout == "PONG\n"


NGINX = """
pid /tmp/nginx.pid;
daemon off;
events {}
http {
    access_log off;
    server {
        listen 443 ssl;
        ssl_certificate /work/cert.pem;
        ssl_certificate_key /work/key.pem;
        location / { return 200 "hello"; }
        location /teapot { return 418 "short and stout"; }
    }
}
"""


@pytest.fixture
def nginx(orch: Orch) -> str:
    """The command of an nginx that speaks TLS with a certificate that nobody has signed."""
    with open(f"{orch.work}/nginx.conf", "w") as file:
        file.write(NGINX)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=x", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=orch.work, check=True, capture_output=True,
    )  # fmt: skip
    return '["nginx", "-e", "/dev/stderr", "-c", "/work/nginx.conf"]'


@pytest.mark.requires("nginx", "openssl")
def test_https_is_checked_without_asking_who_signed_it(orch: Orch, nginx: str) -> None:
    check = '{ http = "https://:443/", interval = "1s" }'
    orch.up(orch.manifest(project(check, nginx, _temporary(orch))))
    assert orch.container("x")["health"] == "healthy"


@pytest.mark.requires("nginx", "openssl")
def test_a_bad_status_is_told_with_what_the_server_says(orch: Orch, nginx: str) -> None:
    check = '{ http = "https://:443/teapot", interval = "50ms", retries = 2 }'
    done = orch.up(orch.manifest(project(check, nginx, _temporary(orch))), check=False)
    assert done.returncode == 1
    assert "h-x-1 is unhealthy: 2/2 checks failed: HTTP 418: short and stout" in done.stderr


def _temporary(orch: Orch) -> str:
    return f'volumes = ["{orch.work}:/work:ro"]\ntmpfs = ["/var/lib/nginx", "/var/log/nginx"]'


def test_failures_within_the_start_period_do_not_count(orch: Orch) -> None:
    check = (
        '{ test = ["CMD", "test", "-e", "/work/ready"], interval = "20ms", retries = 1, start_period = "1m" }'
    )
    manifest = orch.manifest(project(check, '["sleep", "1000"]', f'volumes = ["{orch.work}:/work"]'))
    orch.up(manifest, "--no-wait")
    wait_until("some checks have failed", lambda: len(_probes(orch)) >= 3, interval=0.05)
    container = orch.container("x")
    assert (container["state"], container["health"]) == ("running", "starting")
    assert container["reason"] == "last check failed: exited (1)"
    open(f"{orch.work}/ready", "w").close()
    orch.wait_state("x", "healthy")
    os.unlink(f"{orch.work}/ready")  # from the first success on they do
    orch.wait_state("x", "unhealthy")


def _probes(orch: Orch) -> list[Any]:
    return list(orch.inspect("x")["probes"])


SICKENS = (
    '{ test = ["CMD", "test", "!", "-e", "/tmp/sick"], interval = "30ms", retries = 2, action = "ACTION" }'
)


def sicken(orch: Orch, action: str, more: str = "") -> dict[str, Any]:
    """Bring a healthy container up and make it sick; the container as it was."""
    manifest = project(SICKENS.replace("ACTION", action), '["sleep", "1000"]', "init = true\n" + more)
    orch.up(orch.manifest(manifest))
    container = orch.container("x")
    orch.run("exec", "-p", "h", "x", "touch", "/tmp/sick")
    return container


def test_bad_health_is_shown_and_left_alone_by_default(orch: Orch) -> None:
    before = sicken(orch, "none")
    (after,) = orch.wait_state("x", "unhealthy")
    assert re.fullmatch(r"(2/2|\d+) checks failed: exited \(1\)", after["reason"])
    assert (after["pid"], after["restarts"]) == (before["pid"], 0)
    orch.run("exec", "-p", "h", "x", "rm", "/tmp/sick")
    orch.wait_state("x", "healthy")


def test_bad_health_with_action_restart_brings_another_life(orch: Orch) -> None:
    sicken(orch, "restart", 'tmpfs = ["/tmp"]')

    def restarted() -> bool:
        now = orch.container("x")
        return (now["restarts"], now["health"]) == (1, "healthy")

    wait_until("it was restarted and is healthy", restarted, interval=0.05)
    (message,) = [e["message"] for e in events(orch, "h") if e["action"] == "restarting"]
    assert message.startswith("unhealthy, exited (143), restart 1")


def test_bad_health_with_action_stop_ends_it_with_the_reason(orch: Orch) -> None:
    sicken(orch, "stop", 'restart = "always"')
    (container,) = orch.wait_state("x", "exited")
    assert container["reason"] == "stopped because unhealthy: 2/2 checks failed: exited (1)"
    assert container["restarts"] == 0


def test_a_check_that_hangs_is_killed_with_all_its_processes(orch: Orch) -> None:
    check = """{ test = ["CMD-SHELL", "sleep 777 & sleep 777"], timeout = "100ms", interval = "20ms", retries = 3 }"""
    orch.up(orch.manifest(project(check, '["sleep", "1000"]', "init = true")), "--no-wait")
    (container,) = orch.wait_state("x", "unhealthy")
    assert container["reason"].endswith("no answer within 100ms")
    assert len([probe for probe in _probes(orch) if not probe["ok"]]) >= 3
    wait_until("few checks' processes live", lambda: _sleepers() <= 2)


def _sleepers() -> int:
    found = 0
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                found += file.read() == b"sleep\x00777\x00"
        except OSError:
            pass
    return found


def test_nobody_is_checked_while_paused(orch: Orch) -> None:
    before = sicken_later(orch)
    orch.run("pause", "-p", "h")
    count = len(actions(orch, "h", "unhealthy"))
    assert orch.container("x")["state"] == "paused"
    orch.run("unpause", "-p", "h")
    (after,) = orch.wait_state("x", "healthy")
    assert (count, after["pid"], after["restarts"]) == (0, before["pid"], 0)


def sicken_later(orch: Orch) -> dict[str, Any]:
    """A container whose checks fail at once when they are made while it is paused."""
    check = (
        '{ test = ["CMD", "true"], interval = "20ms", timeout = "200ms", retries = 1, action = "restart" }'
    )
    orch.up(orch.manifest(project(check, '["sleep", "1000"]', "init = true")))
    return orch.container("x")


def test_a_container_in_host_mode_is_checked_on_the_host(orch: Orch) -> None:
    command = '["python3", "-m", "http.server", "-d", "/usr/share/doc", "18000"]'
    orch.up(orch.manifest(project('{ tcp = 18000, interval = "1s" }', command, 'network_mode = "host"')))
    assert orch.container("x")["health"] == "healthy"
