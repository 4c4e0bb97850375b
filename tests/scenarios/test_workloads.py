"""The ready projects, used as people use them: over their published ports, with their data kept."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.cli import Orch
from support.waiting import wait_until

pytestmark = [
    pytest.mark.requires("root", "netns", "pidns", "overlay", "nft"),
    pytest.mark.timeout(120),
]

WORKLOADS = Path(__file__).parents[2] / "workloads"


def manifest(name: str) -> str:
    """The path of a ready project's manifest."""
    return str(WORKLOADS / name / "manifest.toml")


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """A request to a published port: its status and answer; (0, why) when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, json.loads(text) if is_json else text


def kill_and_see_it_back(orch: Orch, service: str) -> None:
    """kill -9 a service's program, from the host, and wait until orch has it back in health."""
    before = orch.container(service)
    os.kill(before["pid"], signal.SIGKILL)

    def back() -> bool:
        now = orch.container(service)
        return (now["restarts"], now["health"]) == (before["restarts"] + 1, "healthy")

    wait_until(f"{service} is healthy again", back, timeout=20, interval=0.05)


def everything_is_filtered(orch: Orch) -> bool:
    """Whether every container runs under a seccomp filter (proc(5)): the default one, which must let it work."""
    pids = [container["pid"] for container in orch.ps() if container["state"] == "running"]
    return bool(pids) and all("Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text() for pid in pids)


def test_quickstart(orch: Orch) -> None:
    orch.project = "quickstart"
    shown = orch.up(manifest("quickstart")).stderr
    assert "front listens on 127.0.0.1:8080" in shown
    assert orch.container("migrate")["exit_code"] == 0
    assert everything_is_filtered(orch)
    status, page = call(8080, "GET", "/")
    assert (status, "<html" in page) == (200, True)

    status, _ = call(8080, "POST", "/api/entries", {"author": "Ada", "text": "kept"})
    assert status in (200, 201)
    replicas = {call(8080, "GET", "/api/entries")[1]["replica"] for _ in range(6)}
    assert len(replicas) == 2  # in turn

    kill_and_see_it_back(orch, "store")
    wait_until("the API answers again", lambda: texts() == ["kept"])

    orch.run("down", "-p", "quickstart")
    assert call(8080, "GET", "/")[0] == 0
    orch.up(manifest("quickstart"))
    assert texts() == ["kept"]
    orch.run("down", "-p", "quickstart", "--volumes")
    orch.up(manifest("quickstart"))
    assert texts() == []


def texts() -> list[str] | None:
    """What the guestbook holds; None when it does not answer."""
    status, answer = call(8080, "GET", "/api/entries")
    return [entry["text"] for entry in answer["entries"]] if status == 200 else None


@pytest.mark.requires("nginx", "redis")
def test_web_stack(orch: Orch) -> None:
    orch.project = "web-stack"
    orch.up(manifest("web-stack"))
    assert everything_is_filtered(orch)
    status, page = call(8081, "GET", "/")
    assert (status, "nginx, Python and Redis" in page) == (200, True)
    answers = [call(8081, "POST", "/api/count")[1] for _ in range(8)]
    assert [answer["count"] for answer in answers] == list(range(1, 9))
    assert len({answer["replica"] for answer in answers}) == 2

    kill_and_see_it_back(orch, "redis")  # what it has answered is in its append-only file
    wait_until("the application counts again", lambda: call(8081, "GET", "/api/count")[0] == 200)
    assert call(8081, "GET", "/api/count")[1]["count"] == 8

    orch.run("down", "-p", "web-stack")
    orch.up(manifest("web-stack"))
    assert call(8081, "POST", "/api/count")[1]["count"] == 9


@pytest.mark.requires("postgres")
def test_postgres(orch: Orch) -> None:
    orch.project = "postgres"
    orch.up(manifest("postgres"))
    assert everything_is_filtered(orch)
    assert sql(orch, "create table kept (word text); insert into kept values ('here')") == ""

    kill_and_see_it_back(orch, "postgres")
    assert sql(orch, "select word from kept") == "here"

    orch.run("down", "-p", "postgres")
    orch.up(manifest("postgres"))
    assert "the cluster is there" in orch.logs("init")
    assert sql(orch, "select word from kept") == "here"
    assert orch.run("port", "postgres", "5432").stdout == "127.0.0.1:5433\n"
    address = "postgresql://postgres:orch@127.0.0.1:5433/postgres"
    words = ["psql", "--quiet", "-At", "-c", "select word from kept", address]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout == "here\n"


def sql(orch: Orch, statement: str) -> str:
    """What psql in the container prints."""
    return orch.run("exec", "postgres", "psql", "--quiet", "-At", "-c", statement).stdout.strip()
