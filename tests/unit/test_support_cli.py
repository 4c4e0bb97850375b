"""The scenarios' handle on a command, with a small script in the place of orch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import pytest

from support import cli
from support.cli import CommandError, Orch

SCRIPT = """
import json, os, sys, time
match sys.argv[1:]:
    case ["echo", *words]:
        print(json.dumps([words, sys.stdin.read(), os.environ["ORCH_RUN_DIR"]]))
    case ["fail"]:
        sys.exit("it failed")
    case ["follow"]:
        print("one", flush=True)
        time.sleep(60)
    case ["daemon"]:
        if os.fork() == 0:
            os.setsid()
            time.sleep(5)
"""


@pytest.fixture
def orch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Orch]:
    monkeypatch.setattr(cli, "COMMAND", (sys.executable, "-c", SCRIPT))
    instance = Orch(cli.make_base())
    yield instance
    instance.close()
    shutil.rmtree(instance.base)


def test_run_gives_the_output_as_json_and_the_instance_its_folders(orch: Orch) -> None:
    assert orch.run("echo", "a", input="typed").json() == [["a"], "typed", orch.instance.run_dir]
    assert len(orch.instance.socket) < 108  # sun_path, unix(7)


def test_a_failure_raises_with_the_whole_output_unless_it_is_expected(orch: Orch) -> None:
    with pytest.raises(CommandError, match="it failed\n\\[exit code 1\\]"):
        orch.run("fail")
    assert orch.run("fail", check=False).returncode == 1


def test_a_command_that_takes_too_long_is_killed_and_shows_what_it_said(orch: Orch) -> None:
    with pytest.raises(CommandError, match=r"not done after 1 s:\n.*\none\n"):
        orch.run("follow", timeout=1)


def test_a_background_process_does_not_hold_the_command_open(orch: Orch) -> None:
    assert orch.run("daemon", timeout=4).returncode == 0


def test_reading_waits_for_a_text_and_not_longer_than_told(orch: Orch) -> None:
    process = orch.popen("follow")
    assert orch.read_until(process, "one\n") == "one\n"
    with pytest.raises(CommandError, match=r"'two' did not come; the output had after 0.1 s"):
        orch.read_until(process, "two", timeout=0.1)


def test_running_commands_end_with_the_instance(orch: Orch) -> None:
    process = orch.popen("follow")
    assert orch.close() == []
    assert process.returncode == -9
