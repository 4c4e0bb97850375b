"""The quickstart application by itself, on loopback and without orch, wired as its manifest has it."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

APP = Path(__file__).parents[2] / "workloads" / "quickstart" / "app"
DEADLINE = 20.0  # seconds; a bound for a loaded machine, not a measure


class Program:
    """One server of the application; ``port`` is the one the kernel chose."""

    def __init__(self, name: str, environment: Mapping[str, str], listen: str = "127.0.0.1:0") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _RUN, name],
            cwd=APP,
            env={"LISTEN": listen, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,  # else a line could hide in the buffer, where select does not see it
        )
        self.port = int(self.read_line("listening on ").rpartition(":")[2])

    def read_line(self, prefix: str) -> str:
        """The first line that starts so, waited for until the deadline."""
        assert self.process.stdout is not None
        seen = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while selector.select(DEADLINE) and (line := self.process.stdout.readline().decode()):
                seen.append(line.strip())
                if line.startswith(prefix):
                    return seen[-1]
        raise AssertionError(f"no line {prefix!r} came: {seen}")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


# As `python3 NAME.py` does in the container, whatever this test's interpreter has on its path.
_RUN = (
    "import runpy, sys; sys.dont_write_bytecode = True; sys.path.insert(0, '.');"
    "runpy.run_path(sys.argv[1] + '.py', run_name='__main__')"
)

Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []

    def _start(name: str, environment: Mapping[str, str], listen: str = "127.0.0.1:0") -> Program:
        programs.append(Program(name, environment, listen))
        return programs[-1]

    yield _start
    for program in programs:
        program.close()


def migrate(store: Program) -> str:
    """Run the migration job; what it printed."""
    command = [sys.executable, "-I", "-S", "-c", _RUN, "migrate"]
    environment = {"STORE": f"127.0.0.1:{store.port}"}
    done = subprocess.run(
        command, cwd=APP, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(program: Program, path: str, message: Any = None) -> Any:
    """The JSON answer of the front to a GET, or to a POST of ``message``."""
    body = None if message is None else json.dumps(message).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{program.port}{path}", body)
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return json.load(answer)


def failure(program: Program, path: str, message: Any = None) -> tuple[int, str]:
    """The status and the error's text of a request that must fail."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(program, path, message)
    with caught.value as answer:
        return answer.code, json.load(answer)["error"]


@pytest.fixture
def application(start: Start, tmp_path: Path) -> tuple[Program, Program, list[Program]]:
    """Front, store and two replicas of the API."""
    store = start("store", {"DATABASE": str(tmp_path / "data.sqlite")})
    migrate(store)
    replicas = [start("api", {"STORE": f"127.0.0.1:{store.port}"}) for _ in range(2)]
    front = start("front", {"API": ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)})
    return front, store, replicas


Application = tuple[Program, Program, list[Program]]


def test_an_entry_travels_from_the_front_to_the_store_and_back(application: Application) -> None:
    front, _, _ = application
    call(front, "/api/entries", {"author": "Ada", "text": "hello"})
    entries = call(front, "/api/entries")["entries"]
    assert [(entry["author"], entry["text"]) for entry in entries] == [("Ada", "hello")]


def test_the_data_survives_a_restart_of_the_store(
    application: Application, start: Start, tmp_path: Path
) -> None:
    front, store, _ = application
    call(front, "/api/entries", {"author": "Ada", "text": "still here"})
    store.stop()
    start("store", {"DATABASE": str(tmp_path / "data.sqlite")}, f"127.0.0.1:{store.port}")
    assert [entry["text"] for entry in call(front, "/api/entries")["entries"]] == ["still here"]


def test_an_answered_entry_survives_a_kill_of_the_store(
    application: Application, start: Start, tmp_path: Path
) -> None:
    front, store, _ = application
    call(front, "/api/entries", {"author": "Ada", "text": "on the disk"})
    store.process.kill()
    store.process.wait(DEADLINE)
    start("store", {"DATABASE": str(tmp_path / "data.sqlite")}, f"127.0.0.1:{store.port}")
    assert [entry["text"] for entry in call(front, "/api/entries")["entries"]] == ["on the disk"]


def test_the_front_takes_the_replicas_in_turn(application: Application) -> None:
    front, _, _ = application
    assert sorted(call(front, "/api/entries")["answered"] for _ in range(4)) == [1, 1, 2, 2]


def test_the_front_passes_over_a_replica_that_is_gone(application: Application) -> None:
    front, _, replicas = application
    replicas[0].stop()
    visits = [call(front, "/api/visits", {})["visits"] for _ in range(4)]
    assert visits == [1, 2, 3, 4]


def test_status_tells_of_each_replica(application: Application) -> None:
    front, _, replicas = application
    replicas[0].stop()
    states = {state["port"]: state["ok"] for state in call(front, "/api/status")["replicas"]}
    assert states == {replicas[0].port: False, replicas[1].port: True}


def test_without_its_store_the_api_says_so(application: Application) -> None:
    front, store, replicas = application
    store.stop()
    code, text = failure(front, "/api/entries")
    assert code == 503
    assert text.startswith("the store does not answer: ")
    assert failure(replicas[0], "/health")[0] == 503


def test_an_entry_that_is_not_one_is_refused(application: Application) -> None:
    front, _, _ = application
    assert failure(front, "/api/entries", {"author": "", "text": "nobody's"})[0] == 400
    assert failure(front, "/api/entries", ["not", "an", "entry"])[0] == 400
    assert call(front, "/api/entries")["entries"] == []


def test_the_migration_does_nothing_the_second_time(start: Start, tmp_path: Path) -> None:
    store = start("store", {"DATABASE": str(tmp_path / "data.sqlite")})
    assert migrate(store).splitlines() == [
        "step 1 of 2: create table entries",
        "step 2 of 2: create table counters",
        "the schema is at step 2",
    ]
    assert migrate(store) == "the schema is at step 2\n"


def test_a_transaction_is_carried_out_whole_or_not_at_all(application: Application) -> None:
    front, _, _ = application
    entry = "INSERT INTO entries VALUES (1, 0, 'Ada', 'half', 'x')"
    with pytest.raises(AssertionError, match="no such table"):
        transact(application[1], [[entry, []], ["INSERT INTO nowhere VALUES (1)", []]])
    assert call(front, "/api/entries")["entries"] == []


def transact(store: Program, statements: list[Any]) -> Any:
    """One transaction, in the store's own protocol."""
    with socket.create_connection(("127.0.0.1", store.port), DEADLINE) as connection:
        connection.sendall(json.dumps(statements).encode() + b"\n")
        answer = json.loads(connection.makefile("rb").readline())
    assert "rows" in answer, answer
    return answer["rows"]


def test_every_server_ends_well_and_soon_on_sigterm(application: Application) -> None:
    front, store, replicas = application
    started = time.monotonic()
    assert [program.stop() for program in (front, *replicas, store)] == [0, 0, 0, 0]
    assert time.monotonic() - started < DEADLINE


def test_the_front_prints_the_address_to_open(start: Start) -> None:
    front = start("front", {"API": "127.0.0.1:1", "PUBLIC_URL": "http://127.0.0.1:8080/"})
    assert front.read_line("open ") == "open http://127.0.0.1:8080/"
    with urllib.request.urlopen(f"http://127.0.0.1:{front.port}/", timeout=DEADLINE) as answer:
        assert b"<title>orch quickstart" in answer.read()
