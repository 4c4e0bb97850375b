"""What waits for what, what fails with what, and that every wait has an end with a reason."""

from __future__ import annotations

import re
import time

import pytest

from support.cli import Orch
from support.lifecycle import when
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

#: Longer than any test: who waits for this has not noticed what he should have.
FOREVER = '{ test = ["CMD", "false"], interval = "50ms", retries = 100000, start_period = "10m" }'


def up(orch: Orch, text: str, *words: str) -> tuple[int, str, float]:
    """``up -d`` of a project; its exit code, what it said, and how long it took."""
    began = time.monotonic()
    head = 'name = "d"\n[defaults]\ninit = true\nstop_grace_period = "1s"\n'
    done = orch.up(orch.manifest(head + text), *words, check=False)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def test_started_healthy_and_completed_are_waited_for_in_order(orch: Orch) -> None:
    code, text, _ = up(orch, """
    [services.db]
    command = ["sh", "-c", "sleep 0.3; touch /tmp/ready; sleep 1000"]
    healthcheck = { test = ["CMD", "test", "-e", "/tmp/ready"], interval = "20ms", start_period = "1m" }
    [services.migrate]
    kind = "job"
    command = ["sleep", "0.2"]
    depends_on = { db = "healthy" }
    [services.api]
    command = ["sleep", "1000"]
    depends_on = { migrate = "completed" }
    [services.web]
    command = ["sleep", "1000"]
    depends_on = ["api"]
    """)  # fmt: skip
    assert code == 0, text
    order = [
        when(orch, "d", "db", "started"), when(orch, "d", "db", "healthy"), when(orch, "d", "migrate", "started"),
        when(orch, "d", "migrate", "exited"), when(orch, "d", "api", "started"), when(orch, "d", "web", "started"),
    ]  # fmt: skip
    assert order == sorted(order)
    assert order[1] - order[0] >= 0.25


def test_who_waits_says_for_what(orch: Orch) -> None:
    manifest = orch.manifest(f"""
    name = "d"
    [services.db]
    command = ["sleep", "1000"]
    init = true
    healthcheck = {FOREVER}
    [services.web]
    command = ["sleep", "1000"]
    depends_on = {{ db = {{ condition = "healthy", timeout = "2m" }} }}
    """)
    process = orch.popen("up", "-d", manifest)
    orch.wait_state("web", "pending")
    text = "waits for d-db-1 to be healthy (is not healthy yet; at most 2m)"
    wait_until("it says so", lambda: orch.container("web")["reason"] == text, interval=0.05)
    assert orch.container("web")["state"] == "pending"
    orch.run("down", "-p", "d")
    process.communicate(timeout=10)
    assert process.returncode == 1


def test_a_dependency_that_exits_fails_its_dependants_at_once(orch: Orch) -> None:
    code, text, seconds = up(orch, f"""
    [services.db]
    command = ["sh", "-c", "sleep 0.3; exit 3"]
    healthcheck = {FOREVER}
    [services.api]
    command = ["sleep", "1000"]
    depends_on = {{ db = "healthy" }}
    [services.web]
    command = ["sleep", "1000"]
    depends_on = ["api"]
    """)  # fmt: skip
    assert code == 1
    assert "cannot create api-1: dependency d-db-1 exited (3) (see orch logs db)" in text
    assert seconds < 8
    states = {one["service"]: (one["state"], one["reason"]) for one in orch.ps()}
    assert states["db"] == ("exited", "exited (3)")
    for name in ("api", "web"):
        assert states[name][0] == "failed"
        assert "d-db-1 exited (3)" in states[name][1]


def test_a_job_that_fails_fails_its_dependants(orch: Orch) -> None:
    code, text, _ = up(orch, """
    [services.migrate]
    kind = "job"
    command = ["sh", "-c", "exit 4"]
    [services.web]
    command = ["sleep", "1000"]
    depends_on = { migrate = "completed" }
    """)  # fmt: skip
    assert code == 1
    assert "cannot create web-1: dependency d-migrate-1 exited (4)" in text
    assert orch.container("web")["state"] == "failed"


def test_a_dependency_that_never_gets_healthy_hits_the_deadline_with_its_reason(orch: Orch) -> None:
    code, text, _ = up(orch, """
    [services.db]
    command = ["sleep", "1000"]
    healthcheck = { tcp = 5432, interval = "50ms", start_period = "10m" }
    [services.web]
    command = ["sleep", "1000"]
    depends_on = { db = { condition = "healthy", timeout = "400ms" } }
    """)  # fmt: skip
    assert code == 1
    assert re.search(
        r"cannot create web-1: dependency d-db-1 is not healthy yet after 400ms: last check failed: "
        r"connection refused by 10\.\d+\.\d+\.\d+:5432 \(see orch logs db, or raise depends_on\.db\.timeout\)",
        text,
    ), text


def test_an_unhealthy_dependency_is_not_waited_for_any_longer(orch: Orch) -> None:
    code, text, seconds = up(orch, """
    [services.db]
    command = ["sleep", "1000"]
    healthcheck = { test = ["CMD", "false"], interval = "20ms", retries = 2 }
    [services.web]
    command = ["sleep", "1000"]
    depends_on = { db = "healthy" }
    """)  # fmt: skip
    assert code == 1
    assert "dependency d-db-1 is unhealthy: 2/2 checks failed: exited (1)" in text
    assert seconds < 8


def test_what_is_not_required_only_warns(orch: Orch) -> None:
    code, text, _ = up(orch, """
    [services.cache]
    command = ["false"]
    kind = "job"
    [services.web]
    command = ["sleep", "1000"]
    depends_on = { cache = { condition = "completed", required = false } }
    """, "--no-wait")  # fmt: skip
    assert code == 0, text
    assert "d-cache-1 exited (1)" in text
    assert orch.container("web")["state"] == "running"


def test_wait_timeout_ends_the_wait_and_says_on_what(orch: Orch) -> None:
    code, text, _ = up(
        orch,
        f'[services.db]\ncommand = ["sleep", "1000"]\nhealthcheck = {FOREVER}',
        "--wait-timeout",
        "300ms",
    )
    assert code == 1
    assert "d-db-1 is not healthy yet after 300ms: last check failed: exited (1)" in text
    assert "raise --wait-timeout" in text
    assert orch.container("db")["state"] == "running"


def test_a_service_that_exits_at_once_fails_up(orch: Orch) -> None:
    code, text, _ = up(orch, f"""
    [services.web]
    command = ["sh", "-c", "sleep 0.2; exit 9"]
    healthcheck = {FOREVER}
    """)  # fmt: skip
    assert code == 1
    assert "d-web-1 exited (9)" in text


def test_a_restarted_dependency_restarts_who_asked_for_it(orch: Orch) -> None:
    code, text, _ = up(orch, """
    [services.db]
    command = ["sleep", "1000"]
    [services.api]
    command = ["sleep", "1000"]
    depends_on = { db = { restart = true } }
    [services.web]
    command = ["sleep", "1000"]
    depends_on = ["db"]
    """)  # fmt: skip
    assert code == 0, text
    before = {one["service"]: one["pid"] for one in orch.ps()}
    orch.run("restart", "-p", "d", "db")
    after = {one["service"]: one["pid"] for one in orch.ps()}
    assert {name for name in before if before[name] != after[name]} == {"db", "api"}


def test_a_crashing_dependency_that_comes_back_is_waited_for(orch: Orch) -> None:
    code, text, _ = up(orch, f"""
    [services.db]
    command = ["sh", "-c", "if [ -e /work/again ]; then touch /tmp/ok; sleep 1000; fi; touch /work/again; exit 1"]
    volumes = ["{orch.work}:/work"]
    restart = {{ policy = "on-failure", backoff = "50ms" }}
    healthcheck = {{ test = ["CMD", "test", "-e", "/tmp/ok"], interval = "20ms" }}
    [services.web]
    command = ["sleep", "1000"]
    depends_on = {{ db = "healthy" }}
    """)  # fmt: skip
    assert code == 0, text
    assert orch.container("db")["restarts"] == 1
