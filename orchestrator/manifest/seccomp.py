"""Seccomp profiles in files: the form of the OCI runtime specification (config-linux, seccomp) and of Docker.

Docker's adds ``archMap``, ``includes`` and ``excludes`` (as moby/profiles has them); containers-common adds
``errno`` and ``defaultErrno``, names of what are numbers in ``errnoRet``. Everything is checked here, and nothing is
guessed: a key or a call that is not known is a problem, for a rule that is not in force is a hole.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from orchestrator.manifest.document import Path, UnreadableError, format_path
from orchestrator.manifest.place import Report, hint
from orchestrator.spec import (
    Seccomp,
    SeccompProfile,
    SyscallArgument,
    SyscallCondition,
    SyscallRule,
)

_ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "TRACE", "TRAP")
#: Actions that let a program go on as if nothing were, and so let it be started.
_PASSING = ("ALLOW", "LOG")
_ARCHITECTURES = (
    "X86", "X86_64", "X32", "ARM", "AARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64",
    "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64", "LOONGARCH64",
    "SHEB", "SH",
)  # fmt: skip
#: Go's names, which Docker's profiles use.
_MACHINES = (
    "386", "amd64", "amd64p32", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mips64n32", "mips64p32",
    "mips64p32le", "mipsel", "mipsel64", "mipsel64n32", "mipsle", "ppc", "ppc64", "ppc64le", "riscv64", "s390",
    "s390x", "x32", "x86",
)  # fmt: skip
_FLAGS = ("TSYNC", "LOG", "SPEC_ALLOW")
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_MAX_ERRNO = 4095  # linux/err.h; the kernel returns no larger one from a filter
_MAX_VALUE = (1 << 64) - 1
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_CAPABILITY = re.compile(r"(?:CAP_)?([A-Z][A-Z_]*[A-Z])")
_KERNEL = re.compile(r"(\d{1,5})\.(\d{1,5})(?:\..*)?")

_NOTIFY = "asks a program outside for each decision, which orch has none of"
_ELSEWHERE = {
    "listenerPath": _NOTIFY,
    "listenerMetadata": _NOTIFY,
    "linux": "give the object in linux.seccomp alone",
}


def unknown_call(name: str) -> str:
    """Why ``name`` is no system call, with what may be meant; ``""`` if it is one."""
    from orchestrator.manifest.syscall_names import SYSTEM_CALLS  # late: few manifests name any

    return "" if name in SYSTEM_CALLS else f'there is no system call "{name}"{_near(name, SYSTEM_CALLS)}'


def _near(name: str, names: Collection[str]) -> str:
    found = hint(name, names)
    return found if found.startswith(" (did you mean") else ""


def read_profile(report: Report, name: str) -> SeccompProfile | None:
    """The profile in a file; None after problems, which are reported.

    :raises UnreadableError: there is no such file, or it is not JSON.
    """
    text = report.read_text(name)
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"not JSON: {error.msg} (column {error.colno})", error.lineno) from None
    except RecursionError:
        raise UnreadableError("is nested too deeply") from None
    except ValueError as error:  # a number of more than 4300 digits, or a key that is there twice
        raise UnreadableError(f"not a profile: {error}") from None
    return _Reader(report, name, text).profile(data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f'the key "{twice}" is there twice in one object')
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def starts_nothing(seccomp: Seccomp) -> bool:
    """Whether no program can be started under it, because execve(2) can never pass."""
    if "execve" in seccomp.deny:
        return True
    profile = seccomp.content
    if profile is None or "execve" in seccomp.allow:
        return False
    rules = [rule for rule in profile.rules if "execve" in rule.names]
    if any(rule.action in _PASSING for rule in rules):
        return False
    always = any(_always(rule) and not rule.args for rule in rules)
    return profile.action not in _PASSING or always


def _always(rule: SyscallRule) -> bool:
    """Whether it holds on every host and with any capabilities."""
    return rule.includes == rule.excludes == SyscallCondition()


class _Reader:
    """Reads one file; each problem is reported with its place in it."""

    def __init__(self, report: Report, name: str, text: str) -> None:
        self._report = report
        self._name = name
        self._text = text
        self._lines: dict[Path, int] | None = None
        self._sound = True

    def profile(self, data: Any) -> SeccompProfile | None:
        top = self._object(data, (), tuple(_TOP), _ELSEWHERE)
        if top is None:
            return None
        action = self._action(top.get("defaultAction"), ("defaultAction",))
        if "defaultAction" not in top:
            self._problem((), 'lacks "defaultAction"')
        number = self._errno(top, (), action, ("defaultErrnoRet", "defaultErrno"))
        flags = self._words(top, "flags", (), _FLAGS, "SECCOMP_FILTER_FLAG_", self._flag_remedy)
        architectures = self._words(top, "architectures", (), _ARCHITECTURES, "SCMP_ARCH_")
        arch_map = self._arch_map(top)
        if architectures and arch_map:
            self._problem(("archMap",), 'cannot be combined with "architectures" (allowed: one of them)')
        rules = [self._rule(*entry, action) for entry in self._list(top, "syscalls", ())]
        self._check_overridden(rules)
        if not self._sound:
            return None
        return SeccompProfile(
            action=action,
            errno=number,
            architectures=architectures,
            arch_map=arch_map,
            flags=flags,
            rules=tuple(rule for rule in rules if rule),
        )

    def _check_overridden(self, rules: list[SyscallRule | None]) -> None:
        """Warn of rules that were to refuse something, and never count.

        A rule without arguments decides on its calls alone, as in libseccomp, whatever the others say. It is no
        problem, since even distributions' profiles have such rules (Debian's about setns).
        """
        whole: dict[str, tuple[int, SyscallRule]] = {}
        sound = [(index, rule) for index, rule in enumerate(rules) if rule]
        for index, rule in sound:
            for name in rule.names if not rule.args and _always(rule) else ():
                whole.setdefault(name, (index, rule))
        for index, rule in sound:
            for name in rule.names:
                first, decides = whole.get(name, (index, rule))
                if _strictness(rule.action) > _strictness(decides.action):
                    self._warning(
                        ("syscalls", index),
                        f"never counts for {name}: syscalls[{first}] decides on every one",
                    )

    def _rule(self, value: Any, path: Path, default: str) -> SyscallRule | None:
        table = self._object(value, path, tuple(_RULE))
        if table is None:
            return None
        if "name" in table and "names" in table:
            self._problem((*path, "name"), 'cannot be combined with "names" (allowed: one of them)')
        action = self._action(table.get("action"), (*path, "action"))
        if "action" not in table:
            self._problem(path, 'lacks "action"')
        names = self._names(table, path, action, default)
        number = self._errno(table, path, action, ("errnoRet", "errno"))
        args = [self._argument(*entry) for entry in self._list(table, "args", path)]
        return SyscallRule(
            names=names,
            action=action,
            errno=number,
            args=tuple(argument for argument in args if argument),
            includes=self._condition(table, "includes", path),
            excludes=self._condition(table, "excludes", path),
        )

    def _names(self, table: dict[str, Any], path: Path, action: str, default: str) -> tuple[str, ...]:
        if "name" in table and "names" not in table:
            entries: list[tuple[Any, Path]] = [(table["name"], (*path, "name"))]
        else:
            entries = self._list(table, "names", path)
        if not entries:
            self._problem(path, "names no system call")
        names: dict[str, None] = {}
        for value, at in entries:
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                self._problem(at, f"expected the name of a system call, got {_describe(value)}")
                continue
            names[value] = None
            if text := unknown_call(value):
                if _strictness(action) > _strictness(default):
                    self._problem(at, text)
                else:  # a new one, perhaps; without its rule nothing more is possible
                    self._warning(at, f"{text}; its rule counts only if the host's libseccomp knows it")
        return tuple(names)

    def _argument(self, value: Any, path: Path) -> SyscallArgument | None:
        table = self._object(value, path, ("index", "value", "valueTwo", "op"))
        if table is None:
            return None
        for key in ("index", "op"):
            if key not in table:
                self._problem(path, f'lacks "{key}"')
        operator = self._word(table.get("op", "EQ"), (*path, "op"), _OPERATORS, "SCMP_CMP_")
        index = self._integer(table.get("index", 0), (*path, "index"), 5)
        first = self._integer(table.get("value", 0), (*path, "value"), _MAX_VALUE)
        second = self._integer(table.get("valueTwo", 0), (*path, "valueTwo"), _MAX_VALUE)
        return SyscallArgument(
            index=index, op=operator, value=first, value_two=second if operator == "MASKED_EQ" else 0
        )

    def _condition(self, table: dict[str, Any], key: str, path: Path) -> SyscallCondition:
        path = (*path, key)
        inner = self._object(table.get(key) or {}, path, ("caps", "arches", "minKernel")) or {}
        caps = []
        for value, at in self._list(inner, "caps", path):
            match = _CAPABILITY.fullmatch(value) if isinstance(value, str) else None
            if match is None:
                self._problem(at, f'expected a capability such as "CAP_SYS_ADMIN", got {_describe(value)}')
            else:
                caps.append(match[1])
        kernel = inner.get("minKernel")
        match = _KERNEL.fullmatch(kernel) if isinstance(kernel, str) else None
        if kernel and match is None:
            self._problem((*path, "minKernel"), f'expected a version such as "4.8", got {_describe(kernel)}')
        return SyscallCondition(
            caps=tuple(caps),
            arches=self._words(inner, "arches", path, _MACHINES, ""),
            min_kernel=(int(match[1]), int(match[2])) if match else None,
        )

    def _arch_map(self, top: dict[str, Any]) -> dict[str, tuple[str, ...]]:
        found = {}
        for value, path in self._list(top, "archMap", ()):
            table = self._object(value, path, ("architecture", "subArchitectures"))
            if table is None:
                continue
            if "architecture" not in table:
                self._problem(path, 'lacks "architecture"')
                continue
            own = self._word(table["architecture"], (*path, "architecture"), _ARCHITECTURES, "SCMP_ARCH_")
            others = self._words(table, "subArchitectures", path, _ARCHITECTURES, "SCMP_ARCH_")
            if own in found:
                self._problem((*path, "architecture"), f"SCMP_ARCH_{own} is there twice")
            found[own] = others
        return found

    def _action(self, value: Any, path: Path) -> str:
        if value == "SCMP_ACT_NOTIFY":
            self._problem(path, f"SCMP_ACT_NOTIFY {_NOTIFY}")
            return "ERRNO"
        return "ERRNO" if value is None else self._word(value, path, _ACTIONS, "SCMP_ACT_")

    def _flag_remedy(self, value: str) -> str:
        return f" ({_NOTIFY})" if value == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" else ""

    def _errno(self, table: dict[str, Any], path: Path, action: str, keys: tuple[str, str]) -> int:
        """The number that is returned; EPERM unless something is said (OCI)."""
        numeric, by_name = table.get(keys[0]), table.get(keys[1])
        found = errno.EPERM
        if numeric is not None:
            found = self._integer(numeric, (*path, keys[0]), _MAX_ERRNO)
        if by_name:
            known = {name: number for number, name in errno.errorcode.items()}
            if not isinstance(by_name, str) or by_name not in known:
                near = hint(by_name, known) if isinstance(by_name, str) else ""
                near = near if "did you mean" in near else ""
                self._problem(
                    (*path, keys[1]), f'expected a name such as "EPERM", got {_describe(by_name)}{near}'
                )
            elif numeric is not None and known[by_name] != numeric:
                self._problem((*path, keys[1]), f"{by_name} contradicts {keys[0]}, {numeric}")
            else:
                found = known[by_name]
        if action in ("ERRNO", "TRACE"):
            return found
        if numeric is not None or by_name:
            key = keys[0] if numeric is not None else keys[1]
            self._problem((*path, key), f"has no meaning for SCMP_ACT_{action} (only for ERRNO and TRACE)")
        return 0

    # The forms of JSON

    def _object(
        self, value: Any, path: Path, keys: tuple[str, ...], elsewhere: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self._problem(path, f"expected an object, got {_describe(value)}")
            return None
        for key in value:
            if key not in keys and not key.startswith("$"):
                remedy = f" ({elsewhere[key]})" if elsewhere and key in elsewhere else hint(key, keys)
                if value[key]:  # Go's programs write empty ones for what is not there
                    self._problem((*path, key), f"unknown key{remedy}")
        return value

    def _list(self, table: dict[str, Any], key: str, path: Path) -> list[tuple[Any, Path]]:
        """The items of a list, with their places; null is an empty one, as Go writes it."""
        value = table.get(key)
        if value is not None and not isinstance(value, list):
            self._problem((*path, key), f"expected a list, got {_describe(value)}")
            return []
        return [(item, (*path, key, index)) for index, item in enumerate(value or ())]

    def _words(
        self,
        table: dict[str, Any],
        key: str,
        path: Path,
        allowed: tuple[str, ...],
        prefix: str,
        remedy: Callable[[str], str] = lambda _: "",
    ) -> tuple[str, ...]:
        items = self._list(table, key, path)
        return tuple(dict.fromkeys(self._word(value, at, allowed, prefix, remedy) for value, at in items))

    def _word(
        self,
        value: Any,
        path: Path,
        allowed: tuple[str, ...],
        prefix: str,
        remedy: Callable[[str], str] = lambda _: "",
    ) -> str:
        words = [prefix + word for word in allowed]
        if isinstance(value, str) and value in words:
            return value.removeprefix(prefix)
        found = (remedy(value) or hint(value, words)) if isinstance(value, str) else ""
        self._problem(path, f"expected a word such as {words[0]}, got {_describe(value)}{found}")
        return allowed[0]

    def _integer(self, value: Any, path: Path, maximum: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            self._problem(path, f"expected a whole number from 0 to {maximum}, got {_describe(value)}")
            return 0
        return value

    def _problem(self, path: Path, text: str) -> None:
        self._sound = False
        self._report.problem(self._name, self._line(path), _sentence(path, text))

    def _warning(self, path: Path, text: str) -> None:
        self._report.warning(self._name, self._line(path), _sentence(path, text))

    def _line(self, path: Path) -> int:
        if self._lines is None:
            self._lines = _locate(self._text)
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


_TOP = (
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "syscalls",
)  # fmt: skip
_RULE = (
    "names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes",
)  # fmt: skip


def _sentence(path: Path, text: str) -> str:
    whole = f"{format_path(path)}: {text}" if path else text
    return whole.encode(errors="backslashreplace").decode()  # JSON can spell halves of characters


def _strictness(action: str) -> int:
    """From lenient to strict, in the kernel's order (seccomp(2))."""
    order = ("ALLOW", "LOG", "TRACE", "ERRNO", "TRAP", "KILL", "KILL_THREAD", "KILL_PROCESS")
    return order.index(action)


def _describe(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, dict | list) else ""
    if not text:
        return "an object" if isinstance(value, dict) else "a list"
    return text if len(text) <= 42 else text[:40] + "..."


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|\n|[^][{},:"\s]+', re.DOTALL)


def _locate(text: str) -> dict[Path, int]:
    """The line of each key and item of a JSON text that is valid."""
    lines: dict[Path, int] = {}
    opened: list[str | int] = []  # the way to the present value; an index stands in an array
    arrays: list[bool] = []
    key = ""
    for token, line in _tokens(text):
        if token in ("{", "["):
            if arrays and arrays[-1]:
                lines.setdefault(tuple(opened), line)
            arrays.append(token == "[")
            opened.append(0 if token == "[" else "")
        elif token in ("}", "]"):
            arrays.pop()
            opened.pop()
        elif token == ",":
            if arrays[-1]:
                opened[-1] = int(opened[-1]) + 1
        elif token == ":":
            opened[-1] = json.loads(key)
            lines.setdefault(tuple(opened), line)
            continue
        key = token
        if arrays and arrays[-1] and token != ",":
            lines.setdefault(tuple(opened), line)
    return lines


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match[0] == "\n":
            line += 1
        else:
            yield match[0], line
