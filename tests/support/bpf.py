"""What a seccomp filter decides, in words."""

from __future__ import annotations

from orchestrator.runtime.seccomp import bpf

ALLOW = "ALLOW"
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028  # linux/audit.h
X32 = 0x40000000  # a bit of the number; its architecture is X86_64
_ACTIONS = {
    0x80000000: "KILL_PROCESS",
    0x00000000: "KILL_THREAD",
    0x00030000: "TRAP",
    0x00050000: "ERRNO",
    0x7FF00000: "TRACE",
    0x7FFC0000: "LOG",
    0x7FFF0000: ALLOW,
}  # linux/seccomp.h


def decide(program: bytes, architecture: int, number: int, *args: int) -> str:
    """The action, with its number: ``ALLOW``, ``ERRNO 1``."""
    found = bpf.decide(program, architecture, number, args)
    action = _ACTIONS[found & 0xFFFF0000]
    return f"{action} {found & 0xFFFF}" if action in ("ERRNO", "TRACE") else action
