"""Watching a virtual machine, with a program in QEMU's place."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from vm.machine import Limits, Watch
from vm.outcome import Said, began, problem, result

TOKEN = "c0ffee"
LONG = 60.0
PATIENT = Limits(LONG, LONG)


def watched(tmp_path: Path, program: str, limits: Limits = PATIENT, boot: float = LONG) -> Said:
    console = tmp_path / "console"
    code = f"import os, sys, time\nbegan, result = {began(TOKEN)!r}, {result(TOKEN)!r}\n"
    code += f"console = open({str(console)!r}, 'a')\n{program}"
    out = io.BytesIO()
    said = Watch(TOKEN, console, limits, boot, out).run([sys.executable, "-u", "-c", code])
    assert out.getvalue().decode() == said.port  # it was shown as it came
    return said


def test_a_guest_that_does_its_task(tmp_path: Path) -> None:
    said = watched(tmp_path, "print(began)\nprint('busy')\nprint(result + '0')")
    assert "busy\n" in said.port
    assert problem(TOKEN, said, tests=False) == ""


def test_a_guest_that_dies(tmp_path: Path) -> None:
    panic = "console.write('Kernel panic - not syncing: Oh'); console.flush()"
    assert "the guest's kernel died" in problem(TOKEN, watched(tmp_path, panic), tests=False)


def test_a_qemu_that_refuses(tmp_path: Path) -> None:
    said = watched(tmp_path, "sys.exit('no such machine')")
    assert "QEMU ended with code 1: no such machine" in problem(TOKEN, said, tests=False)


@pytest.mark.parametrize(
    ("program", "limits", "boot", "why"),
    [
        ("time.sleep(60)", Limits(LONG, LONG), 0.3, "the guest never came up: no sign of systemd after"),
        ("print(began)\ntime.sleep(60)", Limits(0.3, LONG), LONG, "no result: no output for"),
        ("print(began)\nwhile True: print('.')", Limits(LONG, 0.5), LONG, "no result: not done after"),
    ],
)
def test_a_guest_that_hangs_is_ended(
    tmp_path: Path, program: str, limits: Limits, boot: float, why: str
) -> None:
    assert why in problem(TOKEN, watched(tmp_path, program, limits, boot), tests=True)
