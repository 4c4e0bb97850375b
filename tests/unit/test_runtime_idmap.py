"""Maps of ids: pure arithmetic, so properties rather than examples where there are any."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import LaunchError
from orchestrator.runtime import userns
from orchestrator.runtime.idmap import IDENTITY, for_owner, outside, render
from orchestrator.runtime.userns import DEFAULT_POOL, RANGE, IdMaps, RangeAllocator, pools, ranges

_MAP = ((0, 1_000_000, 100), (200, 5_000, 50))


def test_an_id_is_found_on_the_other_side_or_not() -> None:
    assert [outside(_MAP, number) for number in (0, 99, 100, 199, 200, 249, 250)] == [
        1_000_000, 1_000_099, None, None, 5_000, 5_049, None,
    ]  # fmt: skip
    assert outside(IDENTITY, (1 << 32) - 2) == (1 << 32) - 2
    assert outside(IDENTITY, (1 << 32) - 1) is None  # -1 is no id


def test_a_map_is_written_as_the_kernel_reads_it() -> None:
    assert render(_MAP) == "0 1000000 100\n200 5000 50\n"


@given(st.sampled_from([*range(100), *range(200, 250)]), st.integers(0, 70_000))
def test_what_the_user_makes_is_the_owners_and_nobody_elses(user: int, owner: int) -> None:
    mount = for_owner(_MAP, user, owner)
    assert outside(mount, owner) == outside(_MAP, user)
    for inside in {*range(100), *range(200, 250)} - {user, owner}:
        assert outside(mount, inside) == outside(_MAP, inside)
    # The kernel refuses a map that names an id twice (user_namespaces(7)).
    for side in (0, 1):
        taken = sorted((extent[side], extent[side] + extent[2]) for extent in mount)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken))


def test_without_a_word_containers_get_the_range_that_conventions_leave_free() -> None:
    assert pools("", "") == [DEFAULT_POOL]
    assert pools("alice:100000:65536\n", "alice:100000:65536\n") == [DEFAULT_POOL]
    assert len(ranges([DEFAULT_POOL])) == 4094


def test_ranges_of_the_account_orch_are_used_where_both_files_have_them() -> None:
    subuid = "# comment\norch:200000:131072\nbob:400000:65536\norch:900000:65536\nbad line\norch:x:1\n"
    assert pools(subuid, "orch:231072:500000\n") == [(231072, 100000)]
    assert pools(subuid, "bob:400000:65536\n") == []


@given(
    st.lists(
        st.tuples(
            st.integers(DEFAULT_POOL[0] - RANGE, DEFAULT_POOL[0] + DEFAULT_POOL[1]), st.integers(1, 5 * RANGE)
        ),
        max_size=5,
    )
)
def test_ids_that_somebody_else_has_are_never_given_out(taken: list[tuple[int, int]]) -> None:
    text = "".join(f"alice:{first}:{count}\n" for first, count in taken)
    given_out = ranges(pools(text, ""))
    assert len(set(given_out)) == len(given_out)
    for first in given_out:
        assert (first - DEFAULT_POOL[0]) % RANGE == 0
        for other, count in taken:
            assert first + RANGE <= other or other + count <= first
    assert len(given_out) >= 4094 - 6 * 5 - len(taken)  # and no more is lost than must be


def test_no_two_containers_have_the_same_range_not_even_of_two_instances(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locks = tmp_path / "ids"
    monkeypatch.setattr(userns, "_LOCKS", str(locks))
    monkeypatch.setattr(userns, "DEFAULT_POOL", (0x1234_0000, 3 * RANGE))
    one, other = RangeAllocator(0), RangeAllocator(7)
    maps = [one.allocate(), other.allocate(), one.allocate()]
    assert {m.uid[0][1] for m in maps} == {0x1234_0000, 0x1235_0000, 0x1236_0000}
    with pytest.raises(LaunchError, match="all 3 ranges are in use"):
        other.allocate()
    one.free(maps[0])
    assert other.allocate() == maps[0]
    one.free(IdMaps.of_range(42))  # not from here
    with pytest.raises(LaunchError, match="all 3 ranges are in use"):
        RangeAllocator(1).allocate()
    one.free(maps[2])
    assert locks.exists()
    other.free(maps[0])
    other.free(maps[1])
    assert not locks.exists()  # the last one removes it
    again = RangeAllocator(0)
    again.free(again.allocate())


def test_a_file_of_locks_that_is_not_there_to_be_made_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(userns, "_LOCKS", str(tmp_path / "nosuch" / "ids"))
    with pytest.raises(LaunchError, match="No such file"):
        RangeAllocator(0).allocate()
