"""What a filter decides, without the kernel: the BPF that libseccomp writes (seccomp(2), linux/filter.h)."""

from __future__ import annotations

import struct

INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, constant
_DATA = struct.Struct("=IIQ6Q")  # struct seccomp_data: number, architecture, instruction pointer, arguments


class Code:
    """Instructions."""

    LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
    AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
    JUMP = 0x05  # BPF_JMP | BPF_JA
    JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
    JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
    JUMP_NOT_LESS = 0x35  # BPF_JMP | BPF_JGE | BPF_K
    RETURN = 0x06  # BPF_RET | BPF_K


# Offsets in struct seccomp_data
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16


def decide(program: bytes, architecture: int, number: int, args: tuple[int, ...] = ()) -> int:
    """The action (SECCOMP_RET_...) for one call.

    :param architecture: AUDIT_ARCH_... (linux/audit.h).
    """
    data = _DATA.pack(number & 0xFFFFFFFF, architecture, 0, *args, *([0] * (6 - len(args))))
    accumulator = at = 0
    while True:
        code, then, otherwise, constant = INSTRUCTION.unpack_from(program, at * INSTRUCTION.size)
        at += 1
        match code:
            case Code.LOAD:
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case Code.AND:
                accumulator &= constant
            case Code.JUMP:
                at += constant
            case Code.JUMP_EQUAL:
                at += then if accumulator == constant else otherwise
            case Code.JUMP_GREATER:
                at += then if accumulator > constant else otherwise
            case Code.JUMP_NOT_LESS:
                at += then if accumulator >= constant else otherwise
            case Code.RETURN:
                return int(constant)
            case _:
                raise ValueError(f"{code:#x} is no instruction of a filter that is known here")
