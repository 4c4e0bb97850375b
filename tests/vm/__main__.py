"""``make test-vm``: run tests in a virtual machine; exit 1 when they fail or the machine does."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vm import machine
from vm.commands import CommandError
from vm.guest import Task
from vm.layer import KINDS
from vm.outcome import problem

PROJECT = Path(__file__).parents[2]
#: A guest that prints nothing for so long hangs: a test's time-out is a minute or two of the guest's own, which
#: emulation makes up to ten of ours.
QUIET_SECONDS = 1500.0
#: The guest gets no more of this host's environment than that.
PASSED_ON = ("CI", "HYPOTHESIS_PROFILE", "PYTEST_ADDOPTS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the guest ends with us
    kind = KINDS[options.host]
    command = ["/bin/sh", "-c", options.run] if options.run else _pytest(options.tests)
    task = Task(command, str(PROJECT), _environment(), secrets.token_hex(8), kind.before)
    start = time.monotonic()
    accelerators = ["kvm", "tcg"] if options.accel == "auto" else [options.accel]
    if options.accel == "auto" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        accelerators = ["tcg"]
    limits = machine.Limits(quiet=options.quiet, whole=options.timeout)
    try:
        said = machine.run(kind, task, accelerators, options.memory, limits, sys.stdout.buffer)
    except CommandError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    failure = problem(task.token, said, tests=not options.run)
    print(f"vm: {failure or 'the guest has done it'} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
    return 1 if failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vm",
        description="Runs tests in a virtual machine with cgroup v2 only, systemd as PID 1 and AppArmor.",
        epilog="For instance: make test-vm TESTS=tests/kernel PYTEST_ARGS='-k v2 -x'; "
        "make test-vm VM_ARGS='--run \"cat /proc/self/cgroup\"'",
    )
    add = parser.add_argument
    add(
        "tests",
        nargs="*",
        default=["tests/kernel", "tests/scenarios"],
        help="what pytest gets, options after --",
    )
    add("--host", choices=sorted(KINDS), default="unified", help="with AppArmor, or with SELinux enforcing")
    add("--run", metavar="COMMAND", help="run this shell command instead of pytest")
    add("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto: KVM if a guest lives on it")
    add("--memory", type=int, default=2048, metavar="MIB")
    add("--quiet", type=float, default=QUIET_SECONDS, metavar="SECONDS", help="silent for so long: hung")
    add("--timeout", type=float, default=4 * 3600, metavar="SECONDS", help="for all of it")
    return parser


def _pytest(words: Sequence[str]) -> list[str]:
    python = str(PROJECT / ".venv/bin/python")
    return [python, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *words]


def _environment() -> dict[str, str]:
    fixed = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": "/disk",
        "PYTHONUNBUFFERED": "1",
    }
    return fixed | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


if __name__ == "__main__":
    sys.exit(main())
