"""exec and run, as processes of their own, with real pipes and terminals; the fake service starts the programs."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LaunchError, OrchError
from orchestrator.ids import Instance
from orchestrator.views import ProgressKind
from support.fake_service import Connection, FakeService, Request, operation, plan, progress

MANIFEST = 'name = "shop"\n[services.web]\ncommand = ["sleep", "1"]\n'


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    os.mkdir(tmp_path / "run")
    (tmp_path / "orch.toml").write_text(MANIFEST)
    return Instance(str(tmp_path / "state"), str(tmp_path / "run"))


@pytest.fixture
def service(instance: Instance) -> Iterator[FakeService]:
    with FakeService(instance.socket).running() as running:
        running.on("POST /v1/exec", execute)
        running.on("POST /v1/run", execute)
        yield running


def execute(request: Request, connection: Connection) -> None:
    """What the service does: start the program, hand its ends over, pass on signals and the exit code."""
    body = request.body
    connection.upgrade()
    if request.path == "/v1/run":
        one = operation("create", "shop-db-1")
        connection.message({"progress": progress(ProgressKind.PLAN, plan=plan(one))})
        connection.message({"progress": progress(ProgressKind.DONE, one.id, seconds=0.1)})
        connection.message({"progress": progress(ProgressKind.RESULT, ok=True)})
    if body["tty"]:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            body["command"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        given: tuple[int, ...] = (master,)
        os.close(slave)
    else:
        process = subprocess.Popen(
            body["command"],
            stdin=subprocess.PIPE if body["stdin"] else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        pipes = [process.stdin] if body["stdin"] else []
        given = tuple(os.dup(pipe.fileno()) for pipe in [*pipes, process.stdout, process.stderr] if pipe)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
    connection.message({"started": {"id": "web100000000", "pid": process.pid}}, given)
    for descriptor in given:
        os.close(descriptor)
    threading.Thread(target=pass_signals, args=(connection, process), daemon=True).start()
    code = process.wait()
    connection.message({"exited": {"code": 128 - code if code < 0 else code, "signal": None, "reason": ""}})


def pass_signals(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        while message := connection.socket.recv(4096):
            process.send_signal(signal.Signals[message.decode().split('"')[3]])
    process.kill()  # the client hung up


def orch(instance: Instance, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "ORCH_STATE_DIR": instance.state_dir, "ORCH_RUN_DIR": instance.run_dir}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", *words],
        env=environ,
        cwd=os.path.dirname(instance.run_dir),
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_pipes_carry_every_byte_both_ways(service: FakeService, instance: Instance) -> None:
    data = os.urandom(3 << 20)  # far more than pipes hold, so both ways must be served at once
    with orch(instance, "exec", "web", "cat") as process:
        out, err = process.communicate(data)
    assert out == data
    assert (err, process.returncode) == (b"", 0)
    assert service.requests[-1].body["project"] == "shop"


def test_stderr_stays_apart_and_the_exit_code_is_passed_on(service: FakeService, instance: Instance) -> None:
    with orch(
        instance, "exec", "-e", "A=b", "-u", "1", "-w", "/", "web", "sh", "-c", "echo o; echo e >&2; exit 7"
    ) as process:
        assert process.communicate() == (b"o\n", b"e\n")
    assert process.returncode == 7
    body = service.requests[-1].body
    assert (body["environment"], body["user"], body["working_dir"]) == ({"A": "b"}, "1", "/")


def test_without_input_the_program_reads_nothing(service: FakeService, instance: Instance) -> None:
    with orch(instance, "exec", "--no-stdin", "--index", "2", "web", "cat") as process:
        assert process.wait() == 0
    assert service.requests[-1].body["container"] == "web-2"


def test_a_program_that_ignores_its_input_ends_nevertheless(service: FakeService, instance: Instance) -> None:
    with orch(instance, "exec", "web", "true") as process:
        assert process.wait() == 0  # stdin is still open


def test_a_process_that_keeps_the_output_open_does_not_keep_us(
    service: FakeService, instance: Instance
) -> None:
    with orch(instance, "exec", "web", "sh", "-c", "sleep 5 & echo done") as process:
        assert process.communicate() == (b"done\n", b"")


def test_signals_are_passed_on_without_a_terminal(service: FakeService, instance: Instance) -> None:
    with orch(
        instance,
        "exec",
        "-T",
        "web",
        "sh",
        "-c",
        "trap 'echo hup; exit 3' HUP; echo up; while :; do sleep 0.01; done",
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.read() == b"hup\n"
    assert process.returncode == 3


def test_a_reader_that_goes_away_ends_the_program(service: FakeService, instance: Instance) -> None:
    with orch(instance, "exec", "web", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait() in (1, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("status", [125, 126, 127])
def test_a_program_that_cannot_start_exits_with_its_status(
    service: FakeService, instance: Instance, status: int
) -> None:
    def fail(request: Request, connection: Connection) -> None:
        connection.upgrade()
        connection.message(
            {"error": LaunchError('cannot run "x"', "ENOENT: no such file", status=status).to_wire()}
        )

    service.on("POST /v1/exec", fail)
    with orch(instance, "exec", "web", "x") as process:
        assert process.communicate()[1] == b'orch: cannot run "x": ENOENT: no such file\n'
    assert process.returncode == status


def test_a_service_that_dies_is_an_error(service: FakeService, instance: Instance) -> None:
    service.on("POST /v1/exec", lambda request, connection: connection.upgrade())
    with orch(instance, "exec", "web", "x") as process:
        assert b"lost the connection" in process.communicate()[1]
    assert process.returncode == 1


def test_run_shows_its_dependencies_and_sends_the_spec(service: FakeService, instance: Instance) -> None:
    words = ["run", "--no-deps", "--entrypoint", "sh -e", "--name", "once", "web", "echo", "-n", "hi"]
    with orch(instance, *words) as process:
        assert process.communicate() == (b"hi", b"shop-db-1: created in 100ms\n")
    body = service.asked("POST /v1/run")[0].body
    assert body["project"]["name"] == "shop"
    assert body["service"] == "web"
    assert body["command"] == ["echo", "-n", "hi"]
    assert body["entrypoint"] == ["sh", "-e"]
    assert (body["name"], body["keep"], body["dependencies"], body["publish"]) == (
        "once",
        False,
        False,
        False,
    )


def test_run_refuses_a_service_that_the_manifest_lacks(service: FakeService, instance: Instance) -> None:
    with orch(instance, "run", "nosuch") as process:
        assert b'no service "nosuch"' in process.communicate()[1]
    assert process.returncode == 2


class Tty:
    """A terminal with an ``orch`` on it."""

    def __init__(self, instance: Instance, *words: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (33, 111))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = orch(instance, *words, stdin=slave, stdout=slave, stderr=slave)
        self.seen = b""

    def read_until(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.master, 4096)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(instance: Instance, service: FakeService) -> Iterator[Any]:
    opened: list[Tty] = []

    def on_terminal(*words: str) -> Tty:
        opened.append(Tty(instance, *words))
        return opened[-1]

    yield on_terminal
    for each in opened:
        each.close()


def test_a_terminal_is_raw_meanwhile_and_has_our_size(terminal: Any, service: FakeService) -> None:
    shell = terminal("exec", "web", "sh", "-c", "stty size; read x; echo got $x; exit 5")
    shell.read_until(b"33 111\r\n")
    assert not termios.tcgetattr(shell.slave)[3] & (termios.ICANON | termios.ECHO)
    os.write(shell.master, b"word\r")
    shell.read_until(b"got word\r\n")
    assert shell.process.wait() == 5
    assert termios.tcgetattr(shell.slave) == shell.before
    body = service.requests[-1].body
    assert (body["tty"], body["rows"], body["columns"]) == (True, 33, 111)


def test_the_size_follows_ours(terminal: Any) -> None:
    shell = terminal("exec", "web", "sh", "-c", "echo up; read x; stty size")
    shell.read_until(b"up\r\n")
    termios.tcsetwinsize(shell.slave, (44, 99))
    shell.process.send_signal(signal.SIGWINCH)  # orch has no controlling terminal here that would do it
    os.write(shell.master, b"\r")
    shell.read_until(b"44 99")


def test_the_terminal_is_restored_after_an_error_too(terminal: Any, service: FakeService) -> None:
    ready = threading.Event()

    def die(request: Request, connection: Connection) -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        connection.upgrade()
        connection.message({"started": {"id": "x", "pid": 1}}, (master,))
        os.write(slave, b"started")
        ready.wait(10)
        connection.message({"error": OrchError("the container is gone").to_wire()})
        os.close(master)
        os.close(slave)

    service.on("POST /v1/exec", die)
    shell = terminal("exec", "web", "sh")
    shell.read_until(b"started")
    assert not termios.tcgetattr(shell.slave)[3] & termios.ICANON
    ready.set()
    shell.read_until(b"the container is gone")
    assert shell.process.wait() == 1
    assert termios.tcgetattr(shell.slave) == shell.before


def test_no_tty_wins_over_a_terminal(terminal: Any, service: FakeService) -> None:
    shell = terminal("exec", "-T", "web", "tty")
    assert shell.process.wait() == 1
    assert service.requests[-1].body["tty"] is False


def test_a_terminal_can_be_forced_and_ends_with_the_input(service: FakeService, instance: Instance) -> None:
    with orch(instance, "exec", "-t", "web", "sh", "-c", "stty -echo; echo up; cat") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\r\n"
        out, _ = process.communicate(b"word\n")
    assert out == b"word\r\n"
    assert process.returncode == 0
