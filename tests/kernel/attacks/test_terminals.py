"""What a container can do to the terminal of whoever runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios

import pytest

from support import inside
from support.attack import SERVICE, Target, compile_attack, read_result
from support.terminal import input_waiting, terminal

pytestmark = pytest.mark.requires("root", "netns", "overlay")

TYPED = "touch /pwned\n"


def type_into(text: str, paths: list[str]) -> list[str]:
    """Put characters into the input of terminals."""
    words = []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
            for character in text:
                fcntl.ioctl(fd, termios.TIOCSTI, character.encode())
        except OSError as error:
            words.append(inside.name(error))
        else:
            words.append(inside.DONE)
    return words


@pytest.mark.parametrize("words", [("run",), ("run", "-T"), ("exec",), ("exec", "-T")])
def test_nothing_is_typed_into_the_users_terminal(target: Target, words: tuple[str, ...]) -> None:
    """CVE-2016-2568, CVE-2017-5226 and the like (TIOCSTI, ioctl_tty(2)): a shell runs what a program has typed.

    The terminal in the container is another one, and without ``-t`` there is none.
    """
    paths = ["/dev/tty", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/console", "/dev/pts/0"]
    verb, *options = words
    with terminal(
        target.orch, verb, *options, target.manifest(""), SERVICE, *compile_attack(type_into, TYPED, paths)
    ) as seat:
        output = seat.rest()
        assert seat.process.wait() == 0, output
        assert seat.waiting == 0
    assert set(read_result(output)) <= {inside.DONE, "EPERM", "EIO", "ENXIO", "ENOENT", "ENOTTY"}


def test_twin_of_typing() -> None:
    """The same attacker with the user's own terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, *compile_attack(type_into, TYPED, ["/dev/stdin"])[1:]]
    done = subprocess.run(
        command, stdin=slave, stdout=subprocess.PIPE, text=True, start_new_session=True, check=True
    )
    assert read_result(done.stdout) == [inside.DONE]
    assert input_waiting(slave) == len(TYPED)
    os.close(master)
    os.close(slave)


def paste() -> list[str]:
    """TIOCLINUX and the console's keyboard: of a virtual console, which no container has (ioctl_console(2))."""
    words = []
    for request, argument in ((0x541C, b"\3"), (0x4B49, b"\0" * 257), (0x5606, b"\1")):
        for fd in (0, 1, 2):
            words.append(inside.attempt(fcntl.ioctl, fd, request, argument))
    return sorted(set(words))


def test_consoles_are_not_reached(target: Target) -> None:
    """CVE-2023-1017's neighbours TIOCLINUX and KDSKBSENT: on pipes, and on /dev/null, they are no such request."""
    assert set(target.both(paste)) <= {"ENOTTY", "EPERM", "EINVAL"}


#: Sets a terminal's title; others of its kind make it type, or write to files (CVE-2003-0063 and its heirs).
ESCAPE = "\x1b]2;pwned\x07"
HOSTILE = r"""
name = "hostile"
[services.web]
entrypoint = ["python3", "-c", 'import signal; print("\u001b]2;pwned\u0007", flush=True); signal.pause()']
command = ["\u001b]2;pwned\u0007"]
healthcheck = { test = ["CMD", "printf", "\u001b]2;pwned\u0007"], interval = "50ms" }
[services.sick]
command = ["sleep", "infinity"]
healthcheck = { test = ["CMD", "sh", "-c", 'printf "\033]2;pwned\007"; exit 1'], interval = "50ms", retries = 1 }
[services.next]
command = ["sleep", "infinity"]
depends_on = { sick = { condition = "healthy", timeout = "5s" } }
"""


def test_no_escape_code_reaches_the_users_terminal(target: Target) -> None:
    """What a container says, calls its processes, or fails with is text of a stranger.

    A file or a pipe gets what a container wrote as it is, which is the twin.
    """
    orch, manifest = target.orch, target.orch.manifest(HOSTILE)
    commands = (
        ("up", "-d", manifest), ("ps", "-a", "-p", "hostile"), ("top", "-p", "hostile"), ("logs", "-p", "hostile"),
        ("inspect", "-p", "hostile", "sick"), ("inspect", "-p", "hostile", "web"), ("events", "-p", "hostile"),
        ("config", manifest), ("plan", manifest),
    )  # fmt: skip
    for words in commands:
        with terminal(orch, *words, columns=200) as seat:
            seen = seat.rest()
        assert "\x1b]" not in seen, (words, seen)
        assert "\x07" not in seen, (words, seen)
    assert ESCAPE in orch.run("logs", "-p", "hostile").stdout
    orch.run("down", "-p", "hostile", "-t", "0")
