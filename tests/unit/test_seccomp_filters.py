"""Each filter is compiled once, in a thread, and handed out as a sealed descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import threading

import pytest

from orchestrator.errors import LaunchError
from orchestrator.runtime.seccomp import filters
from orchestrator.runtime.seccomp.filters import Filter, SeccompFilters
from orchestrator.runtime.seccomp.resolve import Host, Rules, UncompilableError
from orchestrator.spec import Seccomp, SeccompProfile

PROGRAM = b"12345678" * 3
NOTHING = frozenset[str]()


class Compiler:
    """Keeps what it was asked for."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[Rules] = []
        self.threads: set[int] = set()
        self.failure = failure

    def __call__(self, rules: Rules) -> bytes:
        self.asked.append(rules)
        self.threads.add(threading.get_ident())
        if self.failure:
            raise self.failure
        return PROGRAM


def made(compiler: Compiler) -> SeccompFilters:
    return SeccompFilters(compiler, Host("x86_64", (6, 1)))


async def got(found: SeccompFilters, seccomp: Seccomp, held: frozenset[str] = NOTHING) -> Filter:
    filter = await found.get(seccomp, held)
    assert filter
    return filter


async def test_a_filter_is_compiled_once_for_all_who_want_it_at_the_same_time() -> None:
    compiler = Compiler()
    all_filters = made(compiler)
    first, *others = await asyncio.gather(*(got(all_filters, Seccomp()) for _ in range(20)))
    assert {other.fd for other in others} == {first.fd}
    assert len(compiler.asked) == 1
    assert threading.get_ident() not in compiler.threads
    all_filters.close()


async def test_another_profile_or_capability_makes_another_filter() -> None:
    compiler = Compiler()
    all_filters = made(compiler)
    custom = Seccomp(profile="/p.json", content=SeccompProfile(action="ALLOW", arch_map={"X86_64": ("X86",)}))
    changed = Seccomp(profile="/p.json", content=SeccompProfile(action="LOG", arch_map={"X86_64": ("X86",)}))
    wanted = [
        (Seccomp(), NOTHING), (Seccomp(), frozenset({"SYS_ADMIN"})), (Seccomp(deny=("chmod",)), NOTHING),
        (custom, NOTHING), (changed, NOTHING),
    ]  # fmt: skip
    for _ in range(2):
        for seccomp, held in wanted:
            await got(all_filters, seccomp, held)
    assert len(compiler.asked) == len(wanted)
    all_filters.close()


async def test_unconfined_is_no_filter() -> None:
    compiler = Compiler()
    all_filters = made(compiler)
    assert await all_filters.get(Seccomp(profile="unconfined"), NOTHING) is None
    assert compiler.asked == []
    all_filters.close()


async def test_the_program_cannot_be_changed_by_who_gets_it() -> None:
    all_filters = made(Compiler())
    filter = await got(all_filters, Seccomp())
    assert os.pread(filter.fd, 100, 0) == PROGRAM
    with pytest.raises(OSError) as caught:
        os.pwrite(filter.fd, b"x", 0)
    assert caught.value.errno == errno.EPERM
    assert fcntl.fcntl(filter.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    assert (filter.digest, filter.instructions) == (hashlib.sha256(PROGRAM).hexdigest(), 3)
    all_filters.close()


async def test_a_failure_is_told_and_tried_again() -> None:
    compiler = Compiler(UncompilableError("two rules of read contradict each other"))
    all_filters = made(compiler)
    with pytest.raises(LaunchError, match='"default": two rules of read contradict each other'):
        await all_filters.get(Seccomp(), NOTHING)
    compiler.failure = None
    await got(all_filters, Seccomp())
    all_filters.close()


def held() -> int:
    """The number of filters that this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("memfd:seccomp" in link for link in links)


async def test_old_filters_are_let_go() -> None:
    before = held()
    all_filters = made(Compiler())
    for number in range(filters._CAPACITY + 10):
        await got(all_filters, Seccomp(deny=(f"call{number}",)))
        await got(all_filters, Seccomp())  # in use, so it stays
    await asyncio.sleep(0)  # those that were let go are closed
    assert held() - before == filters._CAPACITY
    all_filters.close()
    assert held() == before


async def test_without_libseccomp_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "pyseccomp":
                raise RuntimeError("Unable to find libseccomp")

    monkeypatch.delitem(sys.modules, "orchestrator.runtime.seccomp.compile", raising=False)
    monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    all_filters = SeccompFilters(host=Host("x86_64", (6, 1)))
    with pytest.raises(
        LaunchError, match=r"Unable to find libseccomp \(install libseccomp .Debian: libseccomp2"
    ):
        await all_filters.get(Seccomp(), NOTHING)
    all_filters.close()
