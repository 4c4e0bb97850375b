"""Programs that end, and what follows: restart policies, crash loops, and the replacement of a killed program."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import time
from typing import Any

import pytest

from support.cli import Orch
from support.lifecycle import actions, events, free_port
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")


def ends(orch: Orch, code: int, restart: str, pause: float = 0) -> str:
    """A service that notes that it runs, and ends."""
    return orch.manifest(f"""
    name = "r"
    [services.x]
    command = ["sh", "-c", "echo run >> /work/runs; sleep {pause}; exit {code}"]
    volumes = ["{orch.work}:/work"]
    restart = {restart}
    """)


def runs(orch: Orch) -> int:
    with open(f"{orch.work}/runs") as file:
        return len(file.readlines())


def restarted(orch: Orch, times: int) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        container = orch.container("x")
        return container if container["restarts"] >= times else None

    found = wait_until(f"x was restarted {times} times", there, interval=0.05)
    assert found is not None
    return found


@pytest.mark.parametrize(("code", "restart"), [(0, '"no"'), (7, '"no"'), (0, '"on-failure"')])
def test_what_is_not_to_be_restarted_stays_exited(orch: Orch, code: int, restart: str) -> None:
    orch.up(ends(orch, code, restart), "--no-wait")
    (container,) = orch.wait_state("x", "exited")
    assert (container["exit_code"], container["restarts"]) == (code, 0)
    assert container["reason"] == f"exited ({code})"
    assert runs(orch) == 1


@pytest.mark.parametrize(
    ("code", "restart"), [(1, "on-failure"), (0, "always"), (1, "always"), (0, "unless-stopped")]
)
def test_what_is_to_be_restarted_is(orch: Orch, code: int, restart: str) -> None:
    orch.up(ends(orch, code, f'{{ policy = "{restart}", backoff = "20ms" }}'), "--no-wait")
    restarted(orch, 2)
    wait_until("it runs a third time", lambda: runs(orch) >= 3)


def test_a_crash_loop_is_seen_with_its_reason_and_its_next_attempt(orch: Orch) -> None:
    orch.up(ends(orch, 3, '{ policy = "always", backoff = "30s", jitter = 0.0 }'), "--no-wait")
    (container,) = orch.wait_state("x", "restarting")
    assert container["reason"] == "exited (3), restart 1 in 30s"
    assert 25 < container["next_attempt_at"] - time.time() <= 30
    assert (container["exit_code"], container["pid"]) == (3, None)
    row = next(line for line in orch.run("ps", "-p", "r").stdout.splitlines() if "r-x-1" in line)
    assert re.search(r"restarting .*exited \(3\), restart 1 in 30s; next attempt in (2\d|30)s", row)


def test_waits_between_attempts_grow_and_their_number_is_bounded(orch: Orch) -> None:
    policy = '{ policy = "on-failure", max_attempts = 3, backoff = "40ms", factor = 3.0, jitter = 0.0 }'
    orch.up(ends(orch, 1, policy), "--no-wait")
    (container,) = orch.wait_state("x", "failed")
    assert re.fullmatch(
        r"exited \(1\), restarted 3 times in .*, giving up \(restart = on-failure:3\)", container["reason"]
    )
    assert runs(orch) == 4
    seen = [event for event in events(orch, "r") if event["action"] in ("restarting", "started")]
    waits = [
        later["time"] - earlier["time"]
        for earlier, later in itertools.pairwise(seen)
        if earlier["action"] == "restarting"
    ]
    assert [wait >= least for wait, least in zip(waits, (0.04, 0.12, 0.36), strict=True)] == [True] * 3
    assert waits[0] < 0.12


def test_the_short_form_gives_up_after_its_number(orch: Orch) -> None:
    orch.up(ends(orch, 1, '"on-failure:1"'), "--no-wait")
    orch.wait_state("x", "failed")
    assert runs(orch) == 2


def test_attempts_count_anew_after_a_stable_time(orch: Orch) -> None:
    policy = '{ policy = "on-failure", max_attempts = 1, backoff = "10ms", reset_after = "40ms" }'
    orch.up(ends(orch, 1, policy, pause=0.08), "--no-wait")
    restarted(orch, 3)
    assert orch.container("x")["state"] != "failed"


def test_a_stopped_container_stays_stopped_whatever_its_policy(orch: Orch) -> None:
    manifest = orch.manifest("""
    name = "r"
    [services.x]
    command = ["sleep", "1000"]
    init = true
    restart = "always"
    """)
    orch.up(manifest)
    orch.run("stop", "-p", "r")
    container = orch.container("x")
    assert (container["state"], container["restarts"]) == ("exited", 0)
    orch.run("start", "-p", "r")
    assert orch.container("x")["state"] == "running"


def test_stop_ends_a_wait_for_the_next_attempt(orch: Orch) -> None:
    orch.up(ends(orch, 1, '{ policy = "always", backoff = "1m" }'), "--no-wait")
    orch.wait_state("x", "restarting")
    orch.run("stop", "-p", "r")
    assert orch.container("x")["state"] == "exited"
    assert runs(orch) == 1


def test_a_program_that_cannot_be_executed_is_given_up_with_the_reason(orch: Orch) -> None:
    done = orch.up(
        orch.manifest('name = "r"\n[services.x]\ncommand = ["/no/such"]\nrestart = "on-failure"'), check=False
    )
    assert done.returncode == 1
    assert 'cannot start "r-x-1": exec /no/such: ENOENT' in done.stderr
    container = orch.container("x")
    assert container["state"] == "failed"
    assert "ENOENT" in container["reason"]


def test_under_always_a_missing_program_is_tried_until_it_is_there(orch: Orch) -> None:
    manifest = orch.manifest(f"""
    name = "r"
    [services.x]
    command = ["/work/late", "1000"]
    volumes = ["{orch.work}:/work"]
    restart = {{ policy = "always", backoff = "50ms", backoff_max = "50ms" }}
    """)
    done = orch.up(manifest, check=False)
    assert done.returncode == 1
    assert "exec /work/late: ENOENT" in done.stderr
    container = orch.container("x")
    assert container["state"] in ("restarting", "starting")
    os.symlink("/bin/sleep", f"{orch.work}/late")
    orch.wait_state("x", "running")


SERVER = """
name = "r"
[services.web]
command = ["python3", "-c", '''
import os, socket
server = socket.create_server(("", 80))
while True:
    peer, _ = server.accept()
    peer.sendall(b"started %d" % os.stat("/proc/1").st_ctime_ns)
    peer.close()
''']
ports = ["127.0.0.1:PORT:80"]
restart = "always"
healthcheck = { tcp = 80, interval = "50ms", start_period = "5s" }
[services.client]
command = ["sleep", "1000"]
init = true
"""


def ask(port: int) -> bytes:
    """What the published server says; it may be between two lives."""

    def answer() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
                return peer.recv(100)
        except OSError:
            return b""

    return wait_until(f"port {port} answers", answer)


def test_a_killed_program_is_replaced_at_the_same_place(orch: Orch) -> None:
    port = free_port()
    orch.up(orch.manifest(SERVER.replace("PORT", str(port))))
    before = orch.container("web")
    first = ask(port)
    namespace = os.stat(f"/proc/{before['pid']}/ns/net").st_ino
    hosts = orch.run("exec", "-p", "r", "web", "cat", "/etc/hosts").stdout
    os.kill(before["pid"], signal.SIGKILL)

    def replaced() -> dict[str, Any] | None:
        now = orch.container("web")
        return now if now["pid"] not in (None, before["pid"]) and now["state"] == "running" else None

    after = wait_until("there is a replacement", replaced)
    assert after is not None
    assert after["restarts"] == 1
    assert (after["id"], after["address"], after["ports"]) == (
        before["id"],
        before["address"],
        before["ports"],
    )
    assert os.stat(f"/proc/{after['pid']}/ns/net").st_ino == namespace
    assert orch.run("exec", "-p", "r", "web", "cat", "/etc/hosts").stdout == hosts
    assert ask(port) != first
    restarting = [e for e in events(orch, "r", "web") if e["action"] == "restarting"]
    assert [event["message"] for event in restarting] == [
        "exited (137: killed by SIGKILL), restart 1 at once"
    ]
    resolve = "import socket; print(socket.create_connection(('web', 80)).recv(100).decode())"  # by its name
    orch.wait_state("web", "healthy")
    assert orch.run("exec", "-p", "r", "client", "python3", "-c", resolve).stdout.startswith("started")


def test_a_restarted_program_finds_its_files_and_an_empty_process_table(orch: Orch) -> None:
    orch.up(
        orch.manifest("""
    name = "r"
    [services.x]
    command = ["sh", "-c", "setsid sleep 999 & echo life >> /tmp/lives; ps -e | grep -c sleep; sleep 1000"]
    restart = "always"
    """)
    )
    (container,) = orch.wait_state("x", "running")
    os.kill(container["pid"], signal.SIGKILL)
    restarted(orch, 1)
    lives = ["exec", "-p", "r", "x", "cat", "/tmp/lives"]
    wait_until("it lives again", lambda: orch.run(*lives).stdout == "life\nlife\n", interval=0.05)
    sleeps = orch.run("exec", "-p", "r", "x", "sh", "-c", "cat /proc/[0-9]*/comm").stdout
    assert sleeps.count("sleep") == 2
    assert actions(orch, "r", "restarting") == [("restarting", "x-1")]
