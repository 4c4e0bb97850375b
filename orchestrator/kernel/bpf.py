"""eBPF programs: a tiny assembler, and bpf(2) as far as a program of a cgroup needs it.

Sources: the instruction set is Documentation/bpf/standardization/instruction-set.rst of the kernel; numbers and
structures are include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.kernel.syscalls import bpf

# enum bpf_cmd
_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15
_PROG_QUERY = 16

_F_ALLOW_MULTI = 2
_F_REPLACE = 4
_NAME_OFFSET, _NAME_SIZE = 64, 16  # of struct bpf_prog_info
_MAX_PROGRAMS = 64  # of one kind in one cgroup (BPF_CGROUP_MAX_PROGS, include/linux/bpf-cgroup.h)
#: The kernel gives up the check of a program when a signal arrives; trying again is the caller's.
_ATTEMPTS = 5


class Kind(NamedTuple):
    """A kind of program, and where in a cgroup it is attached (enum bpf_prog_type, enum bpf_attach_type)."""

    program_type: int
    attach_type: int


CGROUP_DEVICE = Kind(15, 6)


class Instruction(NamedTuple):
    """One instruction; ``offset`` of a jump counts from the next one."""

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0


def load_word(target: int, source: int, offset: int) -> Instruction:
    """target = the 32 bits at source + offset."""
    return Instruction(0x61, target, source, offset)


def move(target: int, source: int) -> Instruction:
    """target = the lower 32 bits of source."""
    return Instruction(0xBC, target, source)


def mask(target: int, bits: int) -> Instruction:
    """target &= bits, 32 bits."""
    return Instruction(0x54, target, immediate=bits)


def either(target: int, source: int) -> Instruction:
    """target |= source, 32 bits."""
    return Instruction(0x4C, target, source)


def shift_left(target: int, count: int) -> Instruction:
    """target <<= count, 32 bits."""
    return Instruction(0x64, target, immediate=count)


def shift_right(target: int, count: int) -> Instruction:
    """target >>= count, 32 bits."""
    return Instruction(0x74, target, immediate=count)


def skip(count: int) -> Instruction:
    """Skip ``count`` instructions."""
    return Instruction(0x05, offset=count)


def skip_if_equal(register: int, value: int, count: int) -> Instruction:
    """Skip ``count`` instructions if the lower 32 bits of the register are this value."""
    return Instruction(0x16, register, offset=count, immediate=value - (value >> 31 << 32))


def skip_unless_equal(register: int, value: int, count: int) -> Instruction:
    """Skip ``count`` instructions if the lower 32 bits of the register are not this value."""
    return Instruction(0x56, register, offset=count, immediate=value - (value >> 31 << 32))


def skip_if_any(register: int, bits: int, count: int) -> Instruction:
    """Skip ``count`` instructions if any of the bits is set in the register."""
    return Instruction(0x45, register, offset=count, immediate=bits)


def give(value: int) -> tuple[Instruction, Instruction]:
    """End the program with this result."""
    return Instruction(0xB7, immediate=value), Instruction(0x95)


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program as the kernel takes it, on a little-endian machine."""
    return b"".join(
        struct.pack("<BBhi", code, source << 4 | target, offset, immediate)
        for code, target, source, offset, immediate in program
    )


def load(kind: Kind, name: str, program: Sequence[Instruction]) -> int:
    """A descriptor (close-on-exec) of the program, which the kernel has checked and translated.

    :raises OSError: EINVAL if the kernel knows no such programs, or refuses this one; EPERM without CAP_BPF.
    """
    code = ctypes.create_string_buffer(assemble(program))
    license_name = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "IIQQIIQII16s",
        kind.program_type, len(program), ctypes.addressof(code), ctypes.addressof(license_name),
        0, 0, 0, 0, 0, name.encode(),
    )  # fmt: skip
    for _ in range(_ATTEMPTS - 1):
        try:
            return bpf(_PROG_LOAD, attributes)[0]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    return bpf(_PROG_LOAD, attributes)[0]


def put_in_force(kind: Kind, name: str, cgroup: int, program: int) -> None:
    """Attach a program to the cgroup that ``cgroup`` is open on, in one step in place of that of the same name.

    It then judges besides those of the cgroups above and beneath (BPF_F_ALLOW_MULTI): all must agree. Programs of
    other names are left alone. When the cgroup is removed, the kernel detaches what is attached to it.

    :raises OSError: EPERM if a program above forbids others, or without CAP_BPF and CAP_NET_ADMIN.
    """
    former = [fd for number in _attached(kind, cgroup) if (fd := _named(number, name)) is not None]
    try:
        if former:
            _attach(kind, cgroup, program, _F_ALLOW_MULTI | _F_REPLACE, former[0])
        else:
            _attach(kind, cgroup, program, _F_ALLOW_MULTI)
    finally:
        for fd in former:
            os.close(fd)


def _attach(kind: Kind, cgroup: int, program: int, flags: int, former: int = 0) -> None:
    bpf(_PROG_ATTACH, struct.pack("IIIII", cgroup, program, kind.attach_type, flags, former))


def _attached(kind: Kind, cgroup: int) -> list[int]:
    """The ids of the programs that are attached to the cgroup itself."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    query = struct.pack("IIIIQI", cgroup, kind.attach_type, 0, 0, ctypes.addressof(ids), _MAX_PROGRAMS)
    _, answer = bpf(_PROG_QUERY, query)
    return ids[: struct.unpack_from("I", answer, 24)[0]]


def _named(number: int, name: str) -> int | None:
    """A descriptor of the program with this id if that is its name; None if it has another, or is gone."""
    try:
        fd, _ = bpf(_PROG_GET_FD_BY_ID, struct.pack("III", number, 0, 0))
    except FileNotFoundError:
        return None
    info = ctypes.create_string_buffer(_NAME_OFFSET + _NAME_SIZE)
    try:
        bpf(_OBJ_GET_INFO_BY_FD, struct.pack("IIQ", fd, len(info), ctypes.addressof(info)))
    except OSError:
        os.close(fd)
        raise
    if info.raw[_NAME_OFFSET:].rstrip(b"\0") == name.encode():
        return fd
    os.close(fd)
    return None
