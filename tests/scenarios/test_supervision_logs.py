"""No line is lost: under crashes, restarts, rotation, and readers that do not read."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from support.cli import Orch
from support.waiting import wait_until

pytestmark = [pytest.mark.requires("root", "netns", "pidns", "overlay"), pytest.mark.timeout(90)]

#: Room for everything that a test writes.
ROOM = 'logging = { max_size = "100M", max_files = 3 }'


def up(orch: Orch, command: str, more: str = "") -> None:
    orch.up(orch.manifest(f'name = "l"\n[services.x]\ncommand = {command}\n{more}'), "--no-wait")


def python(script: str) -> str:
    return f"""["python3", "-c", '''{script}''']"""


def numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"line (\d+)$", text, re.MULTILINE)]


def numbering(count: int, then: str = "") -> str:
    return python(f"""
import sys, os, signal, time
sys.stdout.write("".join(f"line {{n}}\\n" for n in range({count})))
sys.stdout.flush()
{then}
""")


def test_a_hundred_thousand_lines_and_an_exit_lose_none(orch: Orch) -> None:
    up(orch, numbering(100_000), ROOM)
    orch.wait_state("x", "exited")
    assert numbers(orch.logs("--no-prefix")) == list(range(100_000))


def test_a_program_that_kills_itself_loses_nothing_that_it_wrote(orch: Orch) -> None:
    up(orch, numbering(20_000, "os.kill(os.getpid(), signal.SIGKILL)"), f"{ROOM}\ninit = true")
    orch.wait_state("x", "exited")
    assert numbers(orch.logs("--no-prefix")) == list(range(20_000))


def test_a_follower_that_is_stopped_for_a_while_gets_every_line(orch: Orch) -> None:
    gate = "while not os.path.exists('/work/go'): time.sleep(0.01)"
    script = numbering(
        0,
        f"""
print("begun", flush=True)
{gate}
for start in range(0, 100_000, 1000):
    sys.stdout.write("".join(f"line {{n}}\\n" for n in range(start, start + 1000)))
    sys.stdout.flush()
open("/work/written", "w").close()
""",
    )
    up(orch, script, f'{ROOM}\nvolumes = ["{orch.work}:/work"]')
    with open(f"{orch.base}/followed", "w+") as out:
        follower = orch.popen("logs", "-f", "-p", "l", "--no-prefix", stdout=out)
        wait_until("it follows", lambda: "begun" in _read(out.name))
        follower.send_signal(signal.SIGSTOP)
        open(f"{orch.work}/go", "w").close()
        wait_until("the program did not wait for it", lambda: os.path.exists(f"{orch.work}/written"))
        follower.send_signal(signal.SIGCONT)
        wait_until("the follower has caught up", lambda: "line 99999\n" in _read(out.name), timeout=30)
        orch.run("down", "-p", "l")
        follower.communicate(timeout=20)
        assert numbers(_read(out.name)) == list(range(100_000))


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def test_a_follower_sees_every_line_of_every_life(orch: Orch) -> None:
    script = python("""
import os, sys
try: lives = os.listdir("/tmp/lives")
except FileNotFoundError: os.mkdir("/tmp/lives"); lives = []
life = len(lives)
if life == 4: __import__("signal").pause()
open(f"/tmp/lives/{life}", "w").close()
sys.stdout.write("".join(f"life {life} line {n}\\n" for n in range(2000)))
sys.stdout.flush()
os.kill(os.getpid(), 9) if life % 2 else sys.exit(1)
""")
    up(orch, script, f'{ROOM}\ninit = true\nrestart = {{ policy = "always", backoff = "10ms" }}')
    follower = orch.popen("logs", "-f", "-p", "l", "--no-prefix")
    seen = orch.read_until(follower, "life 3 line 1999\n", timeout=20)
    expected = [f"life {life} line {n}" for life in range(4) for n in range(2000)]
    assert seen.splitlines() == expected


def test_rotation_keeps_the_newest_lines_without_a_gap(orch: Orch) -> None:
    up(orch, numbering(60_000), 'logging = { max_size = "256K", max_files = 3 }')
    orch.wait_state("x", "exited")
    kept = numbers(orch.logs("--no-prefix"))
    assert kept[-1] == 59_999
    assert kept == list(range(kept[0], 60_000))
    assert len(kept) > 1000
    folder = f"{orch.instance.state_dir}/logs/l/l-x-1"
    sizes = [os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder)]
    assert len(sizes) <= 3
    assert sum(sizes) <= 4 * (256 << 10)


def test_both_streams_are_kept_and_told_apart(orch: Orch) -> None:
    up(orch, """["sh", "-c", "for i in 1 2 3; do echo out $$i; echo err $$i >&2; done"]""")
    orch.wait_state("x", "exited")
    done = orch.run("logs", "-p", "l", "--format", "json")
    import json

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        assert [one["line"] for one in lines if one["stream"] == stream] == [f"{word} {i}" for i in (1, 2, 3)]


def test_a_last_line_without_its_end_is_a_line(orch: Orch) -> None:
    up(orch, '["printf", "whole\\\\nhalf"]')
    orch.wait_state("x", "exited")
    assert orch.logs("--no-prefix").splitlines() == ["whole", "half"]


def test_a_line_that_is_not_finished_is_seen_when_it_is(orch: Orch) -> None:
    up(orch, """["sh", "-c", "printf half; while ! [ -e /work/go ]; do sleep 0.05; done; echo +half"]""",
       f'volumes = ["{orch.work}:/work"]')  # fmt: skip
    follower = orch.popen("logs", "-f", "-p", "l", "--no-prefix")
    open(f"{orch.work}/go", "w").close()
    assert orch.read_until(follower, "\n").splitlines() == ["half+half"]


def test_bytes_that_are_no_text_do_no_harm(orch: Orch) -> None:
    script = 'import sys; sys.stdout.buffer.write(bytes(range(256)) * 4 + b"\\x00\\xff\\nafter\\n")'
    up(orch, python(script))
    orch.wait_state("x", "exited")
    assert orch.logs("--no-prefix").splitlines()[-1] == "after"


def test_a_very_long_line_stays_one(orch: Orch) -> None:
    up(orch, python('print("x" * 300_000); print("next")'))
    orch.wait_state("x", "exited")
    assert orch.logs("--no-prefix").splitlines() == ["x" * 300_000, "next"]


def test_tail_since_and_timestamps(orch: Orch) -> None:
    up(orch, """["sh", "-c", "echo one; sleep 0.5; echo two; echo three"]""")
    orch.wait_state("x", "exited")
    assert orch.logs("--no-prefix", "--tail", "2").splitlines() == ["two", "three"]
    assert orch.logs("--no-prefix", "--tail", "0") == ""
    stamped = orch.logs("--no-prefix", "--timestamps").splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two", "three"]
    times = [line.split(" ", 1)[0] for line in stamped]
    assert times == sorted(times)
    since = orch.logs("--no-prefix", "--since", times[1])
    assert since.splitlines() == ["two", "three"]
    assert orch.logs("--no-prefix", "--since", f"{time.time():.3f}") == ""


def test_nobody_who_writes_much_waits_for_nobody_who_reads(orch: Orch) -> None:
    up(orch, """["sh", "-c", "head -c 200000000 /dev/zero | tr '\\\\0' x | fold -w 99; echo done"]""",
       'logging = { max_size = "2M", max_files = 2 }')  # fmt: skip
    orch.wait_state("x", "exited", timeout=60)
    lines = orch.logs("--no-prefix", "--tail", "2").splitlines()
    assert lines[-1].endswith("done")
    folder = f"{orch.instance.state_dir}/logs/l/l-x-1"
    assert sum(os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder)) <= 3 * (2 << 20)
