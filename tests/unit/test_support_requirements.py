"""What the ``requires`` marker decides."""

from __future__ import annotations

import pytest

from support import requirements
from support.requirements import Requirement, verdict


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements.lacks.cache_clear()
    invented = {
        "here": Requirement(lambda: ""),
        "tool": Requirement(lambda: "needs a tool"),
        "kind": Requirement(lambda: "another kind of host", kind_of_host=True),
    }
    monkeypatch.setattr(requirements, "REQUIREMENTS", invented)


@pytest.mark.parametrize(
    ("names", "ci", "what", "why"),
    [
        ((), True, "run", ""),
        (("here",), True, "run", ""),
        (("here", "tool"), False, "skip", "needs a tool"),
        (("here", "tool"), True, "fail", "needs a tool"),
        (("kind",), True, "skip", "another kind of host"),
        (("kind", "tool"), True, "fail", "another kind of host; needs a tool"),
    ],
)
def test_a_missing_requirement_skips_or_fails(names: tuple[str, ...], ci: bool, what: str, why: str) -> None:
    assert verdict(names, ci) == (what, why)


@pytest.mark.parametrize("ci", [True, False])
def test_an_unknown_requirement_fails_everywhere(ci: bool) -> None:
    what, why = verdict(("here", "tol"), ci)
    assert what == "fail"
    assert "unknown requirement tol" in why
