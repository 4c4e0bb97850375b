"""What a device program answers, without a kernel: an interpreter of the instructions that they consist of.

It knows no more than it must, and refuses the rest. Source: the kernel's Documentation/bpf/standardization/
instruction-set.rst.
"""

from __future__ import annotations

import struct

from orchestrator.kernel import devices
from orchestrator.kernel.bpf import assemble

_TYPES = {"b": 1, "c": 2}
_BITS = {"m": 1, "r": 2, "w": 4}
_LOW = (1 << 32) - 1


class BrokenProgramError(AssertionError):
    """The kernel would refuse this program."""


def run(code: bytes, context: bytes) -> int:
    """The result of a program (as the kernel takes it) on a context."""
    program = [
        (operation, registers & 15, registers >> 4, offset, immediate)
        for operation, registers, offset, immediate in struct.iter_unpack("<BBhi", code)
    ]
    registers: dict[int, int] = {}
    here = 0
    while 0 <= here < len(program):
        operation, target, source, offset, immediate = program[here]
        here += 1
        match operation:
            case 0x61:  # ldxw: the context is the only memory there is
                if source != 1 or 1 in registers:
                    raise BrokenProgramError(f"instruction {here - 1} loads from register {source}")
                registers[target] = struct.unpack_from("<I", context, offset)[0]
            case 0xBC:
                registers[target] = registers[source] & _LOW
            case 0x74:
                registers[target] = (registers[target] & _LOW) >> immediate
            case 0x54:
                registers[target] = registers[target] & immediate & _LOW
            case 0x64:
                registers[target] = registers[target] << immediate & _LOW
            case 0x4C:
                registers[target] = (registers[target] | registers[source]) & _LOW
            case 0x05:
                here += offset
            case 0x16:
                here += offset if registers[target] & _LOW == immediate & _LOW else 0
            case 0x56:
                here += offset if registers[target] & _LOW != immediate & _LOW else 0
            case 0x45:
                here += offset if registers[target] & immediate else 0
            case 0xB7:
                registers[target] = immediate
            case 0x95:
                return registers[0]
            case _:
                raise BrokenProgramError(f"instruction {here - 1} is unknown: {operation:#x}")
    raise BrokenProgramError(f"the program leaves its code at {here}")


def program_allows(rules: list[str], kind: str, major: int, minor: int, access: str) -> bool:
    """Whether the program for these rules lets a process do all of ``access`` (of ``rwm``) at once."""
    bits = sum(_BITS[letter] for letter in access)
    context = struct.pack("<III", bits << 16 | _TYPES[kind], major, minor)
    return run(assemble(devices.compile_program(rules)), context) == 1


def rules_allow(rules: list[str], kind: str, major: int, minor: int, access: str) -> bool:
    """What v1's controller answers (match_exception in security/device_cgroup.c): rules about the same devices are
    one, and one of them must allow everything that is wanted.
    """
    together: dict[tuple[str, str, str], set[str]] = {}
    for rule in rules:
        type_name, numbers, letters = rule.split(" ")
        first, second = numbers.split(":")
        together.setdefault((type_name, first, second), set()).update(letters)
    return any(
        type_name == kind
        and first in ("*", str(major))
        and second in ("*", str(minor))
        and set(access) <= letters
        for (type_name, first, second), letters in together.items()
    )
