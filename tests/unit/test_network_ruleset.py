from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

import pytest

from orchestrator.errors import KernelError
from orchestrator.network import rules
from orchestrator.network.model import PublishedPort
from orchestrator.network.ruleset import Change, Ruleset


class FakeNft:
    """Takes scripts; ``refuse`` is how many of the next ones it refuses."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.refuse = 0
        self.listing = b""
        self.asked = asyncio.Event()

    async def __call__(self, argv: list[str], stdin: bytes) -> tuple[int, bytes, bytes]:
        if argv[:3] == ["nft", "-j", "list"]:
            return (0, self.listing, b"") if self.listing else (1, b"", b"No such file")
        assert argv == ["nft", "-f", "-"]
        self.scripts.append(stdin.decode())
        self.asked.set()
        await asyncio.sleep(0)
        if self.refuse:
            self.refuse -= 1
            return 1, b"", b"Error: refused\n"
        return 0, b"", b""


def adding(number: int) -> Change:
    port = PublishedPort("tcp", IPv4Address("127.0.0.1"), number, IPv4Address("10.5.0.2"), 80)
    return lambda elements: rules.add_port(elements, port)


def nothing(elements: rules.Elements) -> None:
    pass


@pytest.fixture
def nft() -> FakeNft:
    return FakeNft()


@pytest.fixture
async def ruleset(nft: FakeNft) -> Ruleset:
    made = Ruleset("orch_x", nft)
    await made.observe()
    return made


async def test_the_first_change_makes_the_table_and_later_ones_amend_it(
    nft: FakeNft, ruleset: Ruleset
) -> None:
    await ruleset.apply(adding(1))
    await ruleset.apply(adding(2))
    assert "delete table ip orch_x" in nft.scripts[0]
    assert nft.scripts[1] == "add element ip orch_x published { 127.0.0.1 . tcp . 2 : 10.5.0.2 . 80 }\n"


async def test_changes_at_the_same_time_share_a_run(nft: FakeNft, ruleset: Ruleset) -> None:
    await asyncio.gather(*(ruleset.apply(adding(number)) for number in range(50)))
    assert len(nft.scripts) == 1
    assert len(ruleset.wanted["published"]) == 50


async def test_changes_that_come_during_a_run_share_the_next(nft: FakeNft, ruleset: Ruleset) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ruleset.apply(adding(0)))
        await nft.asked.wait()
        for number in range(1, 20):
            group.create_task(ruleset.apply(adding(number)))
    assert len(nft.scripts) == 2
    assert len(ruleset.wanted["published"]) == 20


async def test_a_change_of_nothing_runs_nothing(nft: FakeNft, ruleset: Ruleset) -> None:
    await ruleset.apply(nothing)
    await ruleset.delete()
    assert nft.scripts == []


async def test_a_table_that_somebody_flushed_is_made_anew_whole(nft: FakeNft, ruleset: Ruleset) -> None:
    await ruleset.apply(adding(1))
    nft.refuse = 1
    await ruleset.apply(adding(2))
    assert "tcp . 1 :" in nft.scripts[-1]
    assert "tcp . 2 :" in nft.scripts[-1]
    assert "table ip orch_x {" in nft.scripts[-1]


async def test_a_refused_change_is_not_remembered(nft: FakeNft, ruleset: Ruleset) -> None:
    await ruleset.apply(adding(1))
    nft.refuse = 2
    with pytest.raises(KernelError, match="cannot change nftables table ip orch_x: Error: refused"):
        await ruleset.apply(adding(2))
    await ruleset.apply(adding(3))
    assert list(ruleset.wanted["published"]) == ["127.0.0.1 . tcp . 1", "127.0.0.1 . tcp . 3"]
    assert "tcp . 2 :" not in nft.scripts[-1]


async def test_everybody_in_a_refused_batch_is_told(nft: FakeNft, ruleset: Ruleset) -> None:
    nft.refuse = 2
    results = await asyncio.gather(*(ruleset.apply(adding(n)) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [KernelError] * 3


async def test_a_cancelled_caller_does_not_take_the_others_changes_along(
    nft: FakeNft, ruleset: Ruleset
) -> None:
    first = asyncio.create_task(ruleset.apply(adding(1)))
    second = asyncio.create_task(ruleset.apply(adding(2)))
    await nft.asked.wait()
    first.cancel()
    await second
    assert "127.0.0.1 . tcp . 2" in ruleset.wanted["published"]


async def test_after_an_interrupted_change_the_table_is_looked_at(nft: FakeNft, ruleset: Ruleset) -> None:
    """The kernel may or may not have got it, and nobody wants it any more."""
    interrupted = asyncio.create_task(ruleset.apply(adding(1)))
    await nft.asked.wait()
    interrupted.cancel()
    await asyncio.wait([interrupted])
    nft.listing = listing_with_port_1()
    await ruleset.apply(nothing)
    assert nft.scripts[-1] == "delete element ip orch_x published { 127.0.0.1 . tcp . 1 }\n"


async def test_an_interrupted_first_change_leaves_no_table(nft: FakeNft, ruleset: Ruleset) -> None:
    interrupted = asyncio.create_task(ruleset.apply(adding(1)))
    await nft.asked.wait()
    interrupted.cancel()
    await asyncio.wait([interrupted])
    await ruleset.delete()
    assert nft.scripts[-1] == "table ip orch_x {}\ndelete table ip orch_x\n"


def listing_with_port_1() -> bytes:
    entry = '[{"concat": ["127.0.0.1", "tcp", 1]}, {"concat": ["10.5.0.2", 80]}]'
    sets = [
        f'{{"{"map" if " : " in kind else "set"}": {{"name": "{name}"'
        + (f', "elem": [{entry}]' if name == "published" else "")
        + "}}"
        for name, kind in rules.SETS.items()
    ]
    return f'{{"nftables": [{{"set": {{"name": "{rules.LAYOUT}"}}}}, {", ".join(sets)}]}}'.encode()


async def test_what_an_earlier_service_left_is_amended(nft: FakeNft) -> None:
    old = rules.empty()
    adding(1)(old)
    nft.listing = listing_with_port_1()
    ruleset = Ruleset("orch_x", nft)
    await ruleset.observe()
    assert ruleset.wanted == old
    await ruleset.apply(adding(1))
    assert nft.scripts == []
    await ruleset.delete()
    assert nft.scripts == ["table ip orch_x {}\ndelete table ip orch_x\n"]
