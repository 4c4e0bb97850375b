"""How a container is asked to stop, and how we know that asking is futile."""

from __future__ import annotations

import os
import signal

#: A program may need this long (seconds) after its exec until it has installed its signal handlers.
SETTLING = 1.0
#: The number of rt_sigtimedwait(2).
_SIGTIMEDWAIT = {"x86_64": "128", "aarch64": "137"}


def signal_number(name: str) -> int:
    """The number of ``SIGTERM``, ``TERM`` or ``15``.

    :raises ValueError: when there is no such signal.
    """
    if name.isascii() and name.isdigit():
        return signal.Signals(int(name)).value
    word = name.upper()
    try:
        return signal.Signals[word if word.startswith("SIG") else "SIG" + word].value
    except KeyError:
        base, _, offset = word.removeprefix("SIG").partition("+")
        number = int(signal.SIGRTMIN) + int(offset) if base == "RTMIN" and offset.isdecimal() else 0
        if 0 < number <= signal.SIGRTMAX:
            return number
        raise ValueError(f"{name!r} is not a signal (SIGTERM, SIGINT, SIGHUP, SIGKILL, ...)") from None


def heeds(pid: int, number: int) -> bool:
    """Whether process ``pid``, the first of its pid namespace, would notice the signal.

    The kernel drops signals to the first process of a pid namespace that has installed no handler for them
    (pid_namespaces(7)): such a program never stops by being asked, however long one waits. A blocked signal
    may be awaited (sigwait, signalfd), so it counts as noticed.
    """
    if number in (signal.SIGKILL, signal.SIGSTOP):
        return True
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            masks = {line[:6]: int(line[7:], 16) for line in file if line.startswith(("SigCgt", "SigBlk"))}
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has ended
    return bool((masks["SigCgt"] | masks["SigBlk"]) >> (number - 1) & 1) or _awaits_signals(pid)


def _awaits_signals(pid: int) -> bool:
    """Whether the process is in sigwait(3): meanwhile the kernel does not show what it awaits as blocked."""
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:  # proc(5)
            return file.read().split(" ")[0] == _SIGTIMEDWAIT.get(os.uname().machine)
    except OSError:  # it has ended, or this kernel does not tell
        return False
