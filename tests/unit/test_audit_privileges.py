"""What an audit finds about capabilities, no_new_privs and groups."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import capabilities
from orchestrator.audit import privileges
from orchestrator.spec import UserNamespace
from support.audits import found, planned, running, service

HOST_IDS = UserNamespace(mode="host")


def test_every_capability_that_is_not_granted_by_default_is_judged() -> None:
    assert set(privileges.POWERS) == set(capabilities.NUMBERS) - set(capabilities.DEFAULT)


@pytest.mark.parametrize(
    ("name", "host", "own"),
    [("SYS_ADMIN", "critical", "high"), ("SYS_MODULE", "critical", "low"), ("NET_ADMIN", "medium", "medium"),
     ("DAC_READ_SEARCH", "critical", "low"), ("SYS_TIME", "high", "low"), ("ALL", "critical", "high")],
)  # fmt: skip
def test_an_added_capability_is_worse_with_the_hosts_ids(name: str, host: str, own: str) -> None:
    (bad,) = found(privileges.added_capabilities, planned(cap_add=(name,), userns=HOST_IDS))
    (better,) = found(privileges.added_capabilities, planned(cap_add=(name,)))
    assert (bad[:2], better[:2]) == ((host, "cap_add"), (own, "cap_add"))
    assert name in bad[2] or name == "ALL"


def test_what_it_came_to_counts_and_not_what_was_asked_for() -> None:
    spec = service(cap_add=("SYS_ADMIN",))
    assert found(privileges.added_capabilities, running(spec))[0][0] == "high"
    assert found(privileges.added_capabilities, running(spec, uid_map=()))[0][0] == "critical"


def test_the_hosts_network_is_worth_more_to_whoever_may_change_it() -> None:
    keys: dict[str, Any] = {"cap_add": ("NET_ADMIN",), "network_mode": "host"}
    assert found(privileges.added_capabilities, planned(**keys, userns=HOST_IDS))[0][0] == "high"
    assert (
        found(privileges.added_capabilities, planned(**keys))[0][0] == "low"
    )  # not its own, so no power over it


def test_adding_what_is_there_by_default_is_no_finding() -> None:
    assert (
        found(privileges.added_capabilities, planned(cap_add=("CHOWN", "SYS_CHROOT"), cap_drop=("ALL",)))
        == []
    )


def test_gaining_privileges_is_worse_for_who_has_none() -> None:
    what = "its programs may gain privileges by being executed"
    rule = privileges.new_privileges
    assert found(rule, planned(no_new_privileges=False)) == [("low", "no_new_privileges", what)]
    assert found(rule, planned(no_new_privileges=False, user="www-data"))[0][0] == "medium"
    assert found(rule, planned()) == []


def test_groups_matter_where_they_are_the_hosts() -> None:
    (seen,) = found(privileges.host_groups, planned(group_add=("disk", "docker"), userns=HOST_IDS))
    assert seen == ("low", "group_add", "it is in further groups of the host: disk, docker")
    assert found(privileges.host_groups, planned(group_add=("disk",))) == []
