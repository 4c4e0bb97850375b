"""Names and identifiers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ids import NAME, Instance, container_name, new_container_id, short_hash

IFNAMSIZ = 16  # linux/if.h, with the terminating NUL
NAMES = st.from_regex(NAME, fullmatch=True)


def test_container_ids_are_twelve_hex_digits_and_differ() -> None:
    ids = {new_container_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 12 and int(one, 16) >= 0 for one in ids)


def test_containers_are_named_as_compose_does() -> None:
    assert container_name("shop", "api", 2) == "shop-api-2"


@given(st.lists(NAMES, min_size=2, max_size=3))
def test_hash_knows_where_its_parts_begin(parts: list[str]) -> None:
    assert short_hash(*parts) != short_hash("".join(parts))
    assert short_hash(*parts) == short_hash(*parts)


@given(NAMES, NAMES, st.integers(0, 99))
def test_interfaces_fit_into_the_kernels_limit(project: str, network: str, index: int) -> None:
    instance = Instance("/state", "/run/orch")
    assert len(instance.bridge(project, network)) < IFNAMSIZ
    assert len(instance.veth(new_container_id(), index)) < IFNAMSIZ


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a.b", "a/b", "a b", "ä", "a" * 64, "a\n"])
def test_names_that_would_break_something_are_refused(name: str) -> None:
    assert not NAME.fullmatch(name)


def test_instances_that_share_a_run_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    one, two, other = (Instance("/s", str(tmp_path / name)) for name in ("run", "link", "other"))
    assert one.id == two.id != other.id
    assert one.nft_table == f"orch_{one.id}"
    assert one.cgroup_parent == f"orch-{one.id}"
    assert one.socket == f"{tmp_path}/run/orch.sock"


@pytest.mark.parametrize(("flags", "environment", "expected"), [
    ((None, None), {}, ("/var/lib/orch", "/run/orch")),
    ((None, None), {"ORCH_STATE_DIR": "/a"}, ("/a", "/a/run")),
    ((None, None), {"ORCH_RUN_DIR": "/b"}, ("/b/state", "/b")),
    ((None, None), {"ORCH_STATE_DIR": "/a", "ORCH_RUN_DIR": "/b"}, ("/a", "/b")),
    (("/c", None), {"ORCH_STATE_DIR": "/a", "ORCH_RUN_DIR": "/b"}, ("/c", "/b")),
    (("/c", "/d"), {"ORCH_STATE_DIR": "/a"}, ("/c", "/d")),
])  # fmt: skip
def test_folders_come_from_flags_then_environment(
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str | None, str | None],
    environment: dict[str, str],
    expected: tuple[str, str],
) -> None:
    for name in ("ORCH_STATE_DIR", "ORCH_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    instance = Instance.from_environment(*flags)
    assert (instance.state_dir, instance.run_dir) == expected
