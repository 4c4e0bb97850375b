"""``orch up`` as a process of its own, against a service that the test plays step by step."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.up import _verdict
from orchestrator.errors import DependencyError, NotFoundError
from orchestrator.ids import Instance
from orchestrator.states import Health, State
from orchestrator.views import ContainerView, EventView, LogLine, ProgressKind
from support.fake_service import (
    Connection,
    FakeService,
    Request,
    container,
    exited,
    operation,
    plan,
    port,
    progress,
)

MANIFEST = (
    'name = "shop"\n[services.web]\ncommand = ["sleep", "1"]\n[services.db]\ncommand = ["sleep", "1"]\n'
)
PLAN = progress(ProgressKind.PLAN, plan=plan(operation("create", "shop-web-1")))
DONE = progress(ProgressKind.DONE, "create shop-web-1", seconds=0.5)
OK = progress(ProgressKind.RESULT, ok=True)
STOPPED = [
    progress(ProgressKind.PLAN, plan=plan(operation("remove", "shop-web-1"))),
    progress(ProgressKind.DONE, "remove shop-web-1", seconds=0.1),
    OK,
]
BAD = DependencyError("shop-web-1 was not started", "shop-db-1 exited with code 1")


def line(text: str, service: str = "web") -> LogLine:
    return LogLine(time=1.0, stream="stdout", service=service, name=f"shop-{service}-1", line=text)


def event(action: str) -> EventView:
    return EventView(
        time=1.0, type="container", action=action, project="shop", service="web", name="shop-web-1", id="x",
        message="", attributes={},
    )  # fmt: skip


class Stage:
    """The service's side of one foreground ``up``: a project with logs, events and a lease."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.containers: list[ContainerView] = [container(), container("db")]
        self.lease_ended = threading.Event()
        self.down = threading.Event()
        self._streams: dict[str, Connection] = {}
        self._opened = {name: threading.Event() for name in ("logs", "events", "lease")}
        service.streams("POST /v1/up", PLAN, DONE, OK)
        service.on("POST /v1/projects/shop/lease", self._lease)
        service.on("GET /v1/logs", lambda request, connection: self._hold("logs", connection))
        service.on("GET /v1/events", lambda request, connection: self._hold("events", connection))
        service.on("GET /v1/containers", lambda request, connection: connection.reply(self.containers))
        service.on("POST /v1/projects/shop/down", self._down)

    def send(self, stream: str, value: Any) -> None:
        assert self._opened[stream].wait(10)
        self._streams[stream].send(value)

    def end(self, stream: str) -> None:
        assert self._opened[stream].wait(10)
        self._streams[stream].end_stream()

    def _hold(self, name: str, connection: Connection) -> None:
        connection.begin_stream()
        self._streams[name] = connection
        self._opened[name].set()
        connection.wait_for_hangup()

    def _lease(self, request: Request, connection: Connection) -> None:
        self._hold("lease", connection)
        self.lease_ended.set()

    def _down(self, request: Request, connection: Connection) -> None:
        connection.stream(*STOPPED)
        self.down.set()
        self.end("logs")


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    os.mkdir(tmp_path / "run")
    (tmp_path / "orch.toml").write_text(MANIFEST)
    return Instance(str(tmp_path / "state"), str(tmp_path / "run"))


@pytest.fixture
def service(instance: Instance) -> Iterator[FakeService]:
    with FakeService(instance.socket).running() as running:
        yield running


@pytest.fixture
def stage(service: FakeService) -> Stage:
    return Stage(service)


Orch = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def orch(instance: Instance) -> Iterator[Orch]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **options: Any) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "ORCH_STATE_DIR": instance.state_dir, "ORCH_RUN_DIR": instance.run_dir}
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *words],
            env={**environ, "TERM": "xterm"},
            cwd=os.path.dirname(instance.run_dir),
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[bytes], text: bytes, stream: str = "stdout") -> None:
    for shown in getattr(process, stream):
        if text in shown:
            return
    raise AssertionError(f"{text!r} did not come")


def paths(service: FakeService) -> list[str]:
    return [request.path.rpartition("/")[2] for request in service.requests]


# In the background


def test_detached_up_waits_and_tells_where_to_go(service: FakeService, orch: Orch) -> None:
    result = progress(
        ProgressKind.RESULT, ok=True, containers=[container(ports=[port(8080, 80)]), container("db")]
    )
    service.streams("POST /v1/up", PLAN, DONE, result)
    process = orch("up", "-d", "--wait-timeout", "1m", "--force-recreate", "--no-remove-orphans", "web")
    out, err = process.communicate()
    assert (process.returncode, out) == (0, b"")
    shown = err.decode().splitlines()
    assert shown[0] == "shop-web-1: created in 500ms"
    assert shown[1].startswith("shop is up: 2 containers running, after ")
    assert shown[2] == "  web listens on 127.0.0.1:8080 (its port 80/tcp)"
    body = service.asked("POST /v1/up")[0].body
    assert (body["wait"], body["wait_timeout"], body["services"]) == (True, 60.0, ["web"])
    assert (body["force_recreate"], body["remove_orphans"]) == (True, False)


def test_detached_up_says_what_is_not_well_and_why(service: FakeService, orch: Orch) -> None:
    containers = [
        container(),
        container("api", health=Health.UNHEALTHY, reason="connection refused"),
        exited("db", 1, reason="exit code 1 at once"),
        exited("job", 0),
    ]
    service.streams(
        "POST /v1/up",
        PLAN,
        progress(ProgressKind.RESULT, ok=False, error=BAD.to_wire(), containers=containers),
    )
    process = orch("up", "-d")
    assert process.communicate()[1].decode().splitlines() == [
        "shop-api-1: running, unhealthy: connection refused",
        "shop-db-1: exited, exit code 1: exit code 1 at once",
        "orch: shop-web-1 was not started: shop-db-1 exited with code 1",
    ]
    assert process.returncode == 1


def test_an_empty_plan_is_up_to_date(service: FakeService, orch: Orch) -> None:
    service.streams("POST /v1/up", progress(ProgressKind.PLAN, plan=plan()), OK)
    assert orch("up", "-d", "--no-wait").communicate()[1].startswith(b"shop: up to date\n")
    assert service.requests[-1].body["wait"] is False


# In the foreground


def test_ctrl_c_brings_everything_down_and_exits_with_130(stage: Stage, orch: Orch) -> None:
    process = orch("up")
    stage.send("logs", line("hello"))
    read_until(process, b"web-1  | hello\n")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == b""
    assert err.decode().splitlines() == [
        "shop-web-1: created in 500ms", "stopping (Ctrl-C again kills)", "shop-web-1: removed in 100ms",
    ]  # fmt: skip
    assert paths(stage.service)[:2] == ["lease", "up"]  # the lease first: nothing may be left behind
    assert stage.lease_ended.wait(10)
    assert stage.service.asked("GET /v1/logs")[0].query["follow"] == "1"


def test_a_second_ctrl_c_kills(stage: Stage, orch: Orch) -> None:
    gave_up = threading.Event()

    def down(request: Request, connection: Connection) -> None:
        connection.begin_stream()
        if request.body["kill"]:
            gave_up.set()
        else:
            connection.send(STOPPED[0])
            connection.send(
                progress(ProgressKind.WAITING, "remove shop-web-1", message="for shop-web-1 to exit")
            )
            assert gave_up.wait(10)
        connection.send(OK)
        connection.end_stream()
        stage.end("logs")

    stage.service.on("POST /v1/projects/shop/down", down)
    process = orch("up")
    stage.send("logs", line("hello"))
    read_until(process, b"hello")
    process.send_signal(signal.SIGINT)
    read_until(process, b"for shop-web-1 to exit", "stderr")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert [request.body["kill"] for request in stage.service.asked("POST /v1/projects/shop/down")] == [
        False,
        True,
    ]


def test_sigterm_is_a_graceful_end_too(stage: Stage, orch: Orch) -> None:
    process = orch("up")
    stage.send("logs", line("hello"))
    read_until(process, b"hello")
    process.terminate()
    assert process.wait() == 143
    assert stage.down.is_set()


def test_what_is_logged_before_everything_is_up_is_shown(stage: Stage, orch: Orch) -> None:
    up_goes_on = threading.Event()

    def up(request: Request, connection: Connection) -> None:
        connection.begin_stream()
        connection.send(PLAN)
        assert up_goes_on.wait(10)
        connection.send(DONE)
        connection.send(OK)
        connection.end_stream()

    stage.service.on("POST /v1/up", up)
    process = orch("up")
    stage.send("logs", line("early", "db"))
    read_until(process, b"db-1   | early\n")
    up_goes_on.set()
    read_until(process, b"created", "stderr")


def test_an_up_that_fails_takes_everything_down_and_keeps_the_cause(stage: Stage, orch: Orch) -> None:
    stage.service.streams("POST /v1/up", PLAN, progress(ProgressKind.RESULT, ok=False, error=BAD.to_wire()))
    process = orch("up")
    assert process.communicate()[1].endswith(f"orch: {BAD}\n".encode())
    assert process.returncode == 1
    assert stage.down.is_set()


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 1)])
def test_when_all_containers_ended_it_ends(stage: Stage, orch: Orch, code: int, status: int) -> None:
    process = orch("up", "-q")
    stage.send("logs", line("working"))
    stage.containers = [exited("web", 0), exited("db", code)]
    stage.send("events", event("exited"))
    assert process.wait() == status
    assert stage.down.is_set()


def test_a_container_that_is_only_restarted_by_hand_does_not_end_it(stage: Stage, orch: Orch) -> None:
    process = orch("up")
    stage.send("logs", line("working"))
    stage.containers = [exited("web", 143)]
    stage.send("events", event("exited"))
    stage.containers = [container()]
    stage.send("events", event("started"))
    stage.send("logs", line("again"))
    read_until(process, b"again")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    assert not stage.down.is_set()


def test_the_exit_code_can_come_from_a_service(stage: Stage, orch: Orch) -> None:
    process = orch("up", "--exit-code-from", "web")
    stage.send("logs", line("working"))
    stage.containers = [exited("web", 7), container("db")]
    stage.send("events", event("exited"))
    assert process.wait() == 7


def test_a_project_that_somebody_else_brings_down_ends_it(stage: Stage, orch: Orch) -> None:
    process = orch("up")
    stage.send("logs", line("working"))
    read_until(process, b"working")
    stage.end("logs")
    stage.end("lease")
    assert b"brought down by somebody else" in process.communicate()[1]
    assert process.returncode == 0


def test_a_service_that_dies_is_an_error(stage: Stage, orch: Orch) -> None:
    stage.service.on("POST /v1/projects/shop/lease", lambda request, connection: connection.begin_stream())
    process = orch("up")
    assert b"lost the connection to the orch service" in process.communicate()[1]
    assert process.returncode == 1


def test_logs_are_tried_again_until_the_service_knows_the_project(stage: Stage, orch: Orch) -> None:
    known = stage.service.routes["GET /v1/logs"]

    def not_yet(request: Request, connection: Connection) -> None:
        stage.service.on("GET /v1/logs", known)
        connection.refuse(NotFoundError("no such project"), 404)

    stage.service.on("GET /v1/logs", not_yet)
    process = orch("up")
    stage.send("logs", line("hello"))
    read_until(process, b"hello")


def test_a_terminal_shows_progress_in_place_and_the_log_above_it(stage: Stage, orch: Orch) -> None:
    finish = threading.Event()

    def up(request: Request, connection: Connection) -> None:
        connection.begin_stream()
        connection.send(PLAN)
        connection.send(progress(ProgressKind.RUNNING, "create shop-web-1"))
        assert finish.wait(10)
        connection.send(DONE)
        connection.send(OK)
        connection.end_stream()

    stage.service.on("POST /v1/up", up)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    process = orch("up", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""

    def until(text: str) -> None:
        nonlocal seen
        while text.encode() not in seen:
            seen += os.read(master, 4096)

    until("creating")
    stage.send("logs", line("early"))
    until("early")
    finish.set()
    until("✔")
    until("created")
    process.send_signal(signal.SIGINT)
    until("removed")
    assert process.wait() == 130
    assert "\x1b[36mweb-1  |\x1b[0m early\r\n" in seen.decode()
    assert "\x1b[1A\x1b[J" in seen.decode() or "\x1b[2A\x1b[J" in seen.decode()
    os.close(master)


# When it is time to go


@pytest.mark.parametrize(
    ("containers", "abort", "exit_from", "code"),
    [
        ([container(), exited("job", 1, kind="job")], False, None, None),
        ([container(), exited("job", 1, kind="job")], True, None, 1),
        ([container(), exited("job", 0, kind="job")], True, None, None),
        ([container(), exited("db", 0)], True, None, 0),
        ([container(), exited("db", 9)], True, None, 9),
        ([container("web"), exited("web", 9, replica=2)], False, "web", None),
        ([exited("web", 0), exited("web", 9), container("db")], False, "web", 9),
        ([container(state=State.FAILED, pid=None)], False, None, 1),
        ([container(state=State.RESTARTING, pid=None, exit_code=1)], False, None, None),
        ([exited("web", 0), exited("db", 137)], False, None, 1),
        ([], False, None, 0),
    ],
)
def test_the_verdict_over_the_containers(
    containers: list[ContainerView], abort: bool, exit_from: str | None, code: int | None
) -> None:
    assert _verdict(containers, abort=abort, exit_from=exit_from) == code
