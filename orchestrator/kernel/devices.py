"""Which devices the processes of a cgroup may open and make: v1's devices controller, v2's eBPF program.

A rule is a line in the words of the v1 controller: ``c 1:3 rwm`` is type (``c`` or ``b``), major and minor number
(``*`` is any), and what is allowed: to read, to write, to make nodes (mknod). Whatever no rule allows is denied.

An open for reading *and* writing needs one rule that allows both (match_exception in security/device_cgroup.c); the
program for v2 judges the same way. What is open already stays open. Sources: Documentation/admin-guide/cgroup-v1/
devices.rst; cgroup-v2.rst, "Device controller"; struct bpf_cgroup_dev_ctx in include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from orchestrator.kernel import bpf
from orchestrator.kernel.bpf import Instruction

_LETTERS = "rwm"
_EVERYTHING = {"a *:*": "rwm"}  # how devices.list shows that nothing is denied
# BPF_DEVCG_DEV_... and BPF_DEVCG_ACC_...
_TYPES = {"b": 1, "c": 2}
_BITS = {"m": 1, "r": 2, "w": 4}
_MINOR_BITS = 20  # of the 32 that the kernel's numbers of devices have (linux/kdev_t.h)
_CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR, _BOTH = 1, 2, 3, 4, 5, 6  # registers
_LONGEST = 32767  # instructions: what a jump can skip
_PROGRAM_NAME = "orch_devices"
#: Programs that this process has loaded, by their rules: most containers have the same ones.
_loaded: dict[tuple[str, ...], int] = {}
_MOST_LOADED = 64


def merge(lines: Iterable[str]) -> dict[str, str]:
    """``{"c 1:3": "rwm"}``: what all the rules about exactly the same devices allow together, as v1 merges them."""
    merged: dict[str, set[str]] = {}
    for line in lines:
        devices, _, access = line.rpartition(" ")
        merged.setdefault(devices, set()).update(access)
    return {devices: _ordered(access) for devices, access in merged.items()}


def compile_program(lines: Iterable[str]) -> list[Instruction]:
    """The program that gives 1 for what a rule allows and 0 for everything else. Pure.

    For each type four searches follow each other: for both numbers, for major, for minor, for any. What is found in
    one and does not allow everything that is wanted is looked for in the next; within one, only one rule can match.
    All comparisons that fail lie on one straight path, so that the kernel's check of a program takes time in
    proportion to its length. (One rule after the other makes it follow each rule's partial match to the end.)

    :raises OSError: E2BIG for more rules than jumps can reach over.
    """
    program = [
        bpf.load_word(_KIND, _CONTEXT, 0),  # access_type: access << 16 | type
        bpf.move(_ACCESS, _KIND),
        bpf.shift_right(_ACCESS, 16),
        bpf.mask(_KIND, 0xFFFF),
        bpf.load_word(_MAJOR, _CONTEXT, 4),
        bpf.load_word(_MINOR, _CONTEXT, 8),
        bpf.move(_BOTH, _MAJOR),
        bpf.shift_left(_BOTH, _MINOR_BITS),
        bpf.either(_BOTH, _MINOR),
    ]
    searches: dict[str, dict[int, dict[int, str]]] = {
        name: {_BOTH: {}, _MAJOR: {}, _MINOR: {}, _KIND: {}} for name in _TYPES
    }
    for devices, allowed in merge(lines).items():
        type_name, numbers = devices.split(" ")
        match numbers.split(":"):
            case ["*", "*"]:
                searches[type_name][_KIND][_TYPES[type_name]] = allowed
            case ["*", minor]:
                searches[type_name][_MINOR][int(minor)] = allowed
            case [major, "*"]:
                searches[type_name][_MAJOR][int(major)] = allowed
            case [major, minor]:
                searches[type_name][_BOTH][int(major) << _MINOR_BITS | int(minor)] = allowed
    for type_name, by_register in searches.items():
        code = [each for register, rules in by_register.items() for each in _search(register, rules)]
        if code:
            program += [bpf.skip_unless_equal(_KIND, _TYPES[type_name], len(code)), *code]
    program += bpf.give(0)
    if len(program) > _LONGEST:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return program


def _search(register: int, rules: dict[int, str]) -> list[Instruction]:
    """End with 1 if the register holds a number whose rule allows all that is wanted; otherwise go on behind."""
    if not rules:
        return []
    verdicts = {
        allowed: sum(bit for letter, bit in _BITS.items() if letter not in allowed)
        for allowed in rules.values()
    }
    places, end = {}, len(rules) + 1
    for allowed, denied in verdicts.items():
        places[allowed], end = end, end + len(bpf.give(1)) + bool(denied)
    code: list[Instruction] = []
    for number, allowed in rules.items():
        code.append(bpf.skip_if_equal(register, number, places[allowed] - len(code) - 1))
    code.append(bpf.skip(end - len(code) - 1))
    for denied in verdicts.values():
        if denied:
            code.append(bpf.skip_if_any(_ACCESS, denied, end - len(code) - 1))
        code += bpf.give(1)
    return code


def set_list(directory: str, lines: Sequence[str]) -> None:
    """v1: allow exactly this to the processes of a cgroup, whatever was allowed before.

    Only differences are written, so that nothing is denied for a moment that was and will be allowed.

    :raises OSError: EPERM for what the cgroup above does not allow; ``filename`` ends in the rule.
    """
    now = merge(_read(f"{directory}/devices.list").splitlines())
    wanted = merge(lines)
    if now == _EVERYTHING:
        _write(f"{directory}/devices.deny", ["a"])
        now = {}
    _write(f"{directory}/devices.allow", _differences(wanted, now))
    _write(f"{directory}/devices.deny", _differences(now, wanted))


def set_program(directory: str, lines: Sequence[str]) -> None:
    """v2: allow exactly this to the processes of a cgroup, whatever was allowed before.

    :raises OSError: as :func:`bpf.load` and :func:`bpf.put_in_force` do.
    """
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        bpf.put_in_force(bpf.CGROUP_DEVICE, _PROGRAM_NAME, cgroup, _program(tuple(lines)))
    finally:
        os.close(cgroup)


def programs_work() -> bool:
    """Whether the kernel takes such programs from this process."""
    try:
        os.close(bpf.load(bpf.CGROUP_DEVICE, _PROGRAM_NAME, compile_program(())))
    except OSError:
        return False
    return True


def _program(lines: tuple[str, ...]) -> int:
    program = _loaded.get(lines)
    if program is None:
        if len(_loaded) >= _MOST_LOADED:
            os.close(_loaded.pop(next(iter(_loaded))))
        program = _loaded[lines] = bpf.load(bpf.CGROUP_DEVICE, _PROGRAM_NAME, compile_program(lines))
    return program


def _differences(rules: dict[str, str], others: dict[str, str]) -> list[str]:
    """What ``rules`` allow beyond ``others``, device by device."""
    beyond = {devices: set(access) - set(others.get(devices, "")) for devices, access in rules.items()}
    return [f"{devices} {_ordered(access)}" for devices, access in beyond.items() if access]


def _ordered(access: Iterable[str]) -> str:
    return "".join(sorted(access, key=_LETTERS.index))


def _read(path: str) -> str:
    """A text file, without Python's layers: a child cannot import codecs any more."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode()


def _write(path: str, lines: Sequence[str]) -> None:
    """One line in each write, as the kernel wants it."""
    if not lines:
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for line in lines:
            try:
                os.write(fd, line.encode())
            except OSError as error:
                error.filename = f"{path}: {line}"
                raise
    finally:
        os.close(fd)
