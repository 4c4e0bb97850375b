"""Rules become BPF. libseccomp writes all of it but the one thing that it cannot express.

libseccomp's state is not made for threads: only one may be in here at a time. ``filters`` sees to it, and imports this
late, since the import looks for the library with ldconfig(8).
"""

from __future__ import annotations

import errno
import itertools
import operator
import os
from collections.abc import Iterable

import pyseccomp

from orchestrator.runtime.seccomp.bpf import ARCHITECTURE, FIRST_ARGUMENT, INSTRUCTION, NUMBER, Code, decide
from orchestrator.runtime.seccomp.resolve import Action, Alternative, Rules, UncompilableError
from orchestrator.spec import SyscallArgument

#: The kernel takes no longer program (BPF_MAXINSNS, linux/bpf_common.h).
MAX_INSTRUCTIONS = 4096

_BINARY_TREE = 2
#: i386's numbers (arch/x86/entry/syscalls/syscall_32.tbl, linux/net.h), and its name in a filter (linux/audit.h).
_I386, _I386_SOCKETCALL, _I386_SOCKET, _SYS_SOCKET = 0x40000003, 102, 359, 1

_pack = INSTRUCTION.pack


def compile_filter(rules: Rules) -> bytes:
    """The BPF program, an array of ``struct sock_filter``.

    A process that makes a call of an architecture that the rules do not name is killed: nothing is known about it.
    For each call a binary tree is searched, which also takes the kernel a quarter of the time to load.

    :raises UncompilableError: a rule that this libseccomp does not know would be missing, or there are too many.
    """
    program = _export(rules, tuple(name for name in rules.architectures if name != "X86"))
    if "X86" in rules.architectures:
        # By itself: a rule that libseccomp refuses for one architecture is missing in all that are in the same filter.
        guard = _socket_guard(rules) if rules.families else b""
        program = _for_i386(guard + _export(rules, ("X86",))) + program
    if (length := len(program) // INSTRUCTION.size) > MAX_INSTRUCTIONS:
        raise UncompilableError(
            f"its rules make {length} instructions, and the kernel takes {MAX_INSTRUCTIONS}"
        )
    for name, alternatives in rules.calls.items():
        if alternatives[0].args and not rules.own:
            _verify(program, name, alternatives, rules)
    return program


def _export(rules: Rules, architectures: tuple[str, ...]) -> bytes:
    """What libseccomp makes of the rules for some of the architectures."""
    whole = pyseccomp.SyscallFilter(_code(rules.default))
    whole.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    whole.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    tokens = [getattr(pyseccomp.Arch, name) for name in architectures]
    native = pyseccomp.system_arch()
    for token in tokens:
        if token != native:
            whole.add_arch(token)
    if native not in tokens:
        whole.remove_arch(native)
    for name, alternatives in rules.calls.items():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number == -1:  # unknown; a call that only other architectures have is less than -1
            _miss(name, alternatives, rules.default)
        elif name == "socket" and rules.families and architectures == ("X86",):
            whole.add_rule(pyseccomp.ALLOW, number)  # see _socket_guard
        else:
            _add(whole, name, number, alternatives)
    with open(os.memfd_create("seccomp", os.MFD_CLOEXEC), "wb") as file:
        whole.export_bpf(file)
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


def _add(
    part: pyseccomp.SyscallFilter, name: str, number: int, alternatives: tuple[Alternative, ...]
) -> None:
    _check(name, alternatives)
    for action, args in sorted(alternatives, key=lambda alternative: len(alternative.args)):
        compared = [
            pyseccomp.Arg(arg.index, getattr(pyseccomp, arg.op), arg.value, arg.value_two) for arg in args
        ]
        try:
            part.add_rule(_code(action), number, *compared)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise UncompilableError(f"libseccomp refuses a rule of {name}: {error.strerror}") from None
            # A rule that says the same is fine. And i386 has socketcall(2), whose arguments no filter sees: libseccomp
            # makes of each rule one without them, of which the first counts.
            several = len({alternative.action for alternative in alternatives}) > 1
            if several and not part.exist_arch(pyseccomp.Arch.X86):
                raise UncompilableError(f"two rules of {name} contradict each other") from None


def _check(name: str, alternatives: tuple[Alternative, ...]) -> None:
    """libseccomp takes of two rules for the same arguments one, without a word."""
    for one in alternatives:
        for other in alternatives:
            if one.action != other.action and set(one.args) <= set(other.args):
                raise UncompilableError(f"two rules of {name} contradict each other")


_COMPARISONS = {
    "EQ": operator.eq, "NE": operator.ne, "LT": operator.lt, "LE": operator.le, "GE": operator.ge, "GT": operator.gt,
}  # fmt: skip
_WORD = (1 << 64) - 1
#: Combinations of arguments that are tried at most, of each call.
_TRIALS = 4096


def _verify(program: bytes, name: str, alternatives: tuple[Alternative, ...], rules: Rules) -> None:
    """That the program decides as the rules do on the machine's own architecture, at the edges of what they compare.

    libseccomp (2.5.4) makes wrong programs of some rules that overlap, such as "less than 0 or less than 2^32", and
    what it leaves out may be what was to be refused. It also compares one argument with what another one was to be
    compared with, so the edges of all are tried on each. These are samples, no proof: not every wrong program is found.
    """
    architecture = pyseccomp.Arch.__dict__[rules.architectures[0]]
    number = pyseccomp.resolve_syscall(architecture, name)
    if number < 0:
        return
    arguments = [argument for alternative in alternatives for argument in alternative.args]
    values = {
        value for each in arguments for value in (each.value, each.value_two, each.value ^ each.value_two)
    }
    near = sorted({0} | {(value + by) & _WORD for value in values for by in (-1, 0, 1)})
    compared = {argument.index for argument in arguments}
    edges = [near if index in compared else [0] for index in range(6)]
    for args in itertools.islice(itertools.product(*edges), _TRIALS):
        matching = [
            each.action for each in alternatives if all(_agrees(argument, args) for argument in each.args)
        ]
        expected = {_code(action) for action in matching or [rules.default]}
        if decide(program, architecture, number, args) not in expected:
            raise UncompilableError(f"libseccomp cannot express the rules of {name}, whose arguments overlap")


def _agrees(argument: SyscallArgument, args: tuple[int, ...]) -> bool:
    value = args[argument.index]
    if argument.op == "MASKED_EQ":
        return value & argument.value == argument.value_two & argument.value
    return bool(_COMPARISONS[argument.op](value, argument.value))


def _miss(name: str, alternatives: Iterable[Alternative], default: Action) -> None:
    """Leaving a rule out is safe only where the default is at least as strict."""
    if any(alternative.action.stricter_than(default) for alternative in alternatives):
        raise UncompilableError(f"this host's libseccomp does not know {name}, which the profile restricts")


def _code(action: Action) -> int:
    code = getattr(pyseccomp, action.name)
    return int(code(action.errno) if callable(code) else code)


def _for_i386(program: bytes) -> bytes:
    """A program, which always decides, for i386 alone; the others go on behind it."""
    return b"".join(
        [
            _pack(Code.LOAD, 0, 0, ARCHITECTURE),
            _pack(Code.JUMP_EQUAL, 1, 0, _I386),
            _pack(Code.JUMP, 0, 0, len(program) // INSTRUCTION.size),
            program,
        ]
    )


def _socket_guard(rules: Rules) -> bytes:
    """What stands before libseccomp's program for i386 where the families of sockets are limited.

    i386 has two ways to a socket. socket(2) is checked as elsewhere; socketcall(2) keeps the family in memory, where
    no filter can look, so its making of sockets is answered as by a kernel that does not have it. (libseccomp would
    mistake the number of socketcall's operation for the family.)
    """
    guard = [_pack(Code.LOAD, 0, 0, NUMBER)]
    if "socketcall" not in rules.allowed:
        guard += [
            _pack(Code.JUMP_EQUAL, 0, 4, _I386_SOCKETCALL),
            _pack(Code.LOAD, 0, 0, FIRST_ARGUMENT),
            _pack(Code.JUMP_EQUAL, 0, 1, _SYS_SOCKET),
            _pack(Code.RETURN, 0, 0, pyseccomp.ERRNO(errno.ENOSYS)),
            _pack(Code.LOAD, 0, 0, NUMBER),
        ]
    count = len(rules.families)
    guard += [
        _pack(Code.JUMP_EQUAL, 0, count + 2, _I386_SOCKET),
        _pack(Code.LOAD, 0, 0, FIRST_ARGUMENT),
        *(_pack(Code.JUMP_EQUAL, count - index, 0, family) for index, family in enumerate(rules.families)),
        _pack(Code.RETURN, 0, 0, pyseccomp.ERRNO(errno.EPERM)),
    ]
    return b"".join(guard)
