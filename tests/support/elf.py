"""Tiny programs of i386 and x86-64, made by hand, so that no compiler for them is needed (elf(5))."""

from __future__ import annotations

import struct

_BASE = 0x10000


def i386_call(number: int, *args: int) -> bytes:
    """A program that makes one system call in i386's way and exits with its errno, or 0."""
    registers = (0xBB, 0xB9, 0xBA, 0xBE, 0xBF)  # mov imm32 into ebx, ecx, edx, esi, edi
    code = b"\xb8" + struct.pack("<I", number)  # mov eax
    for register, value in zip(registers, args, strict=False):
        code += bytes([register]) + struct.pack("<I", value)
    code += b"\xcd\x80\xf7\xd8"  # int 0x80; neg eax
    code += b"\x79\x02\x31\xc0"  # jns over: xor eax, eax - what was no error
    code += b"\x89\xc3\xb8\x01\x00\x00\x00\xcd\x80"  # mov ebx, eax; mov eax, 1 (exit); int 0x80
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, _BASE + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    size = 84 + len(code)
    return header + struct.pack("<8I", 1, 0, _BASE, _BASE, size, size, 5, 0x1000) + code


def x86_64_call(number: int, *args: int) -> bytes:
    """As :func:`i386_call` for x86-64; with bit 30 in ``number`` it is a call of x32."""
    registers = (b"\xbf", b"\xbe", b"\xba")  # mov imm32 into edi, esi, edx
    code = b"\xb8" + struct.pack("<I", number)
    for register, value in zip(registers, args, strict=False):
        code += register + struct.pack("<I", value)
    code += b"\x0f\x05\xf7\xd8"  # syscall; neg eax
    code += b"\x79\x02\x31\xc0"
    code += b"\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"  # mov edi, eax; mov eax, 60 (exit); syscall
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    size = 120 + len(code)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000) + code
