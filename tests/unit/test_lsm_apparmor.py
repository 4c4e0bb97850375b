"""Profiles by name, and the text of the one that containers have."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.lsm import apparmor

ROOT = Path(__file__).parents[2]


def test_the_kernels_list_names_profiles_and_modes() -> None:
    listing = (
        "orch-default (enforce)\n/usr/bin/man (complain)\nname with spaces (kill)\nfoo//child (enforce)\n"
    )
    assert apparmor.loaded(listing) == {
        "orch-default": "enforce",
        "/usr/bin/man": "complain",
        "name with spaces": "kill",
        "foo//child": "enforce",
    }
    assert apparmor.loaded("") == {}


def test_what_is_deployed_is_what_the_service_loads() -> None:
    assert (ROOT / "deploy/apparmor/orch-default").read_bytes() == apparmor.default_text()


def test_the_profile_has_its_name_and_stands_alone() -> None:
    text = apparmor.default_text().decode()
    assert re.findall(r"^profile (\S+)", text, re.MULTILINE) == [apparmor.DEFAULT_PROFILE]
    assert set(re.findall(r"peer=([\w-]+)", text)) == {apparmor.DEFAULT_PROFILE, apparmor.UNCONFINED}
    assert "include" not in re.sub(r"#.*", "", text)
