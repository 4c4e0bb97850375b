"""How ``up`` and ``run`` start the service; a small program plays the service."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.ids import Instance
from orchestrator.service.client import Client
from support.waiting import wait_until

#: Prepares an interpreter whose ``sys.executable`` is the program that plays the service.
SCRIPT = """
import sys
sys.executable = sys.argv[1]
from orchestrator.cli.start import ensure_service
from orchestrator.cli import main
from orchestrator.ids import Instance
from orchestrator.service.client import Client
try:
    ensure_service(Client(Instance(sys.argv[2], sys.argv[3])))
except main.OrchError as error:
    sys.exit(f"{type(error).__name__} {error}")
"""
PRELUDE = f"""#!{sys.executable}
import json, os, socket, sys
ready = os.fdopen(int(sys.argv[sys.argv.index("--ready-fd") + 1]), "w")
run_dir = sys.argv[sys.argv.index("--run-dir") + 1]
def listen():
    global listener
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(run_dir + "/orch.sock")
    listener.listen()
"""


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(str(tmp_path / "state"), str(tmp_path / "run"))


def ensure(instance: Instance, tmp_path: Path, service: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "service"
    program.write_text(PRELUDE + service)
    program.chmod(0o755)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(program), instance.state_dir, instance.run_dir],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )


def test_it_returns_when_the_service_is_ready(instance: Instance, tmp_path: Path) -> None:
    done = ensure(
        instance,
        tmp_path,
        f"""
listen()
json.dump([sys.argv[1:], os.getsid(0) == os.getpid(), os.getcwd()], open({str(tmp_path / "seen")!r}, "w"))
print("to the log", flush=True)
print("ready", file=ready, flush=True)
ready.close()
listener.accept()
listener.accept()[0].recv(1)
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = (tmp_path / "seen").read_text()
    assert "orchestrator.service.main" in seen
    assert "--exit-when-idle" in seen
    assert seen.endswith(', true, "/"]')  # a session of its own: Ctrl-C is not for the service
    assert Path(instance.run_dir, "service.log").read_text() == "to the log\n"
    assert Client(instance).is_listening()  # and it ends


def test_the_services_own_error_is_shown(instance: Instance, tmp_path: Path) -> None:
    error = (
        '{"error": {"code": "kernel", "what": "cannot make a bridge", "cause": "EPERM", "remedy": "be root"}}'
    )
    done = ensure(instance, tmp_path, f"print({error!r}, file=ready)\n")
    assert done.stderr == "KernelError cannot make a bridge: EPERM (be root)\n"


def test_a_service_that_dies_points_to_its_log(instance: Instance, tmp_path: Path) -> None:
    done = ensure(instance, tmp_path, "raise SystemExit('broken')\n")
    assert "it ended before it was ready" in done.stderr
    assert f"its log is {instance.run_dir}/service.log" in done.stderr
    assert Path(instance.run_dir, "service.log").read_text() == "broken\n"


def test_of_two_that_start_at_once_the_one_with_the_lock_is_used(instance: Instance, tmp_path: Path) -> None:
    conflict = '{"error": {"code": "conflict", "what": "another service has the lock"}}'
    done = ensure(
        instance,
        tmp_path,
        f"""
print({conflict!r}, file=ready, flush=True)
ready.close()
if not os.path.exists(run_dir + "/second"):
    open(run_dir + "/second", "w").close()
else:
    listen()
    listener.accept()
    os.remove(run_dir + "/orch.sock")
""",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_while_another_one_begins_or_ends_no_third_is_started(instance: Instance, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    conflict = '{"error": {"code": "conflict", "what": "another service has the lock"}}'
    os.makedirs(instance.run_dir)

    def begin() -> None:
        wait_until("one was started", starts.exists)
        time.sleep(0.5)  # in which several would have been
        listener.bind(instance.socket)
        listener.listen()

    with socket.socket(socket.AF_UNIX) as listener, open(f"{instance.run_dir}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            beginning = pool.submit(begin)
            service = (
                f"open({str(starts)!r}, 'a').write('x\\n')\nprint({conflict!r}, file=ready, flush=True)\n"
            )
            done = ensure(instance, tmp_path, service)
            beginning.result()
    assert (done.returncode, done.stderr) == (0, "")
    assert starts.read_text() == "x\n"


def test_a_run_dir_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    instance = Instance(str(tmp_path / "state"), str(tmp_path / "file" / "run"))
    done = ensure(instance, tmp_path, "")
    assert "cannot start the orch service" in done.stderr
    assert os.strerror(20) in done.stderr
