"""Contexts of containers: what the policy says, what the manifest says, and categories that keep them apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lsm.selinux import CATEGORIES, Context, allocate, defaults, labels, shared, with_categories
from orchestrator.spec import Selinux

BASE = defaults("")
NAMES = st.text("abc-1/", min_size=1, max_size=12)


@given(NAMES)
def test_a_pair_is_two_categories_of_the_policy_in_order(name: str) -> None:
    first, second = allocate(name, ())
    assert 0 <= first < second < CATEGORIES


@given(st.lists(NAMES, unique=True, max_size=40))
def test_no_two_containers_have_the_same_pair(names: list[str]) -> None:
    taken: list[tuple[int, int]] = []
    for name in names:
        taken.append(allocate(name, taken))
    assert len(set(taken)) == len(names)


@given(NAMES)
def test_a_container_gets_the_same_pair_again(name: str) -> None:
    assert allocate(name, ()) == allocate(name, {allocate(f"{name}x", ())} - {allocate(name, ())})


@given(NAMES)
def test_a_pair_that_is_taken_gives_way_to_another_one(name: str) -> None:
    wish = allocate(name, ())
    assert allocate(name, {wish}) != wish


def test_names_spread_over_all_pairs() -> None:
    pairs = [allocate(f"instance/project-service-{number}", ()) for number in range(2000)]
    assert len(set(pairs)) > 1980  # of half a million: some 4 are expected to meet
    assert {first // 256 for first, _ in pairs} == {0, 1, 2, 3}


def test_every_pair_is_found_before_there_is_none() -> None:
    class All:
        """Takes every pair but one."""

        def __init__(self, left: set[tuple[int, int]]) -> None:
            self.left = left

        def __contains__(self, pair: object) -> bool:
            return pair not in self.left

    for left in ((0, 1), (1022, 1023), (0, 1023), (511, 512)):
        assert allocate("x", All({left})) == left
    with pytest.raises(ValueError, match="all pairs"):
        allocate("x", All(set()))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "system_u:system_r:container_t:s0:c1,c2",
            ("system_u", "system_r", "container_t", "s0:c1,c2"),
        ),
        ("u:r:t", ("u", "r", "t", "")),
        ("u:r:t:s0-s0:c0.c1023", ("u", "r", "t", "s0-s0:c0.c1023")),
    ],
)
def test_a_context_is_taken_apart_and_put_together(text: str, parts: tuple[str, ...]) -> None:
    assert tuple(Context.parse(text)) == parts
    assert str(Context.parse(text)) == text


@pytest.mark.parametrize("text", ["", "u", "u:r", "u::t", "u:r:t:"])
def test_what_is_no_context(text: str) -> None:
    with pytest.raises(ValueError, match="not an SELinux context"):
        Context.parse(text)


def test_the_policys_file_says_what_containers_have() -> None:
    text = """
# containers
process = "system_u:system_r:svirt_lxc_net_t:s0"
content = "system_u:object_r:virt_var_lib_t:s0"
file = "system_u:object_r:svirt_sandbox_file_t:s0"
sandbox_kvm_process = "system_u:system_r:svirt_qemu_net_t:s0"
"""
    found = defaults(text)
    assert str(found.process) == "system_u:system_r:svirt_lxc_net_t:s0"
    assert str(found.files) == "system_u:object_r:svirt_sandbox_file_t:s0"


@given(st.text() | st.text("process file=\"'\n:u").map(lambda text: f'process = "{text}"'))
def test_any_text_in_that_file_gives_contexts(text: str) -> None:
    found = defaults(text)
    assert all(found.process[:3])
    assert all(found.files[:3])


def test_a_container_has_the_policys_types_and_its_own_categories() -> None:
    found = labels(Selinux(), BASE, (5, 900))
    assert str(found.process) == "system_u:system_r:container_t:s0:c5,c900"
    assert str(found.files) == "system_u:object_r:container_file_t:s0:c5,c900"
    assert str(shared(found.files)) == "system_u:object_r:container_file_t:s0"


def test_a_manifests_level_is_for_files_too_and_its_type_is_not() -> None:
    wanted = Selinux(user="staff_u", role="staff_r", type="mine_t", level="s0:c7")
    found = labels(wanted, BASE, (1, 2))
    assert str(found.process) == "staff_u:staff_r:mine_t:s0:c7"
    assert str(found.files) == "system_u:object_r:container_file_t:s0:c7"


def test_a_policy_without_levels_gets_none() -> None:
    base = defaults('process = "u:r:t"\nfile = "u:object_r:f"')
    found = labels(Selinux(), base, (1, 2))
    assert (str(found.process), str(found.files)) == ("u:r:t", "u:object_r:f")


def test_categories_replace_those_that_are_there() -> None:
    assert with_categories("s0:c1", (2, 3)) == "s0:c2,c3"
