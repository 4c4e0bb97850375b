"""What an audit finds about namespaces, users and their ids."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.audit import namespaces
from orchestrator.audit.subject import Extents, Subject, inherited
from orchestrator.spec import IdMapping, ServiceSpec, UserNamespace
from support.audits import found, in_force, isolation, planned, running, service

HOST_IDS = UserNamespace(mode="host")


def mapped(*extents: tuple[int, int, int]) -> UserNamespace:
    mappings = tuple(IdMapping(inside=i, outside=o, count=c) for i, o, c in extents)
    return UserNamespace(mode="maps", uid=mappings, gid=(IdMapping(inside=0, outside=1 << 20, count=1),))


@pytest.mark.parametrize(
    ("user", "severity"),
    [(None, "high"), ("0", "high"), ("root:www", "high"), ("www", "medium"), ("33", "medium")],
)
def test_the_hosts_ids_are_worse_for_root(user: str | None, severity: str) -> None:
    ((seen, key, what),) = found(namespaces.user_namespace, planned(userns=HOST_IDS, user=user))
    assert (seen, key) == (severity, "userns")
    assert ("its program is root" in what) == (severity == "high")


def test_why_it_came_to_the_hosts_ids_is_said() -> None:
    reason = "/mnt/nfs: its file system cannot be mounted with other ids"
    force = in_force((), isolation=isolation(userns_reason=reason))
    ((severity, _, what),) = found(namespaces.user_namespace, Subject(service(), force=force))
    assert severity == "high"
    assert reason in what
    assert found(namespaces.user_namespace, running(service())) == []
    assert found(namespaces.user_namespace, planned()) == []


def test_the_hosts_files_are_a_finding_of_their_own() -> None:
    subject = planned(mnt="host", userns=HOST_IDS)
    assert found(namespaces.user_namespace, subject) == []
    what = "it has the host's files instead of an image's"
    assert found(namespaces.host_mounts, subject) == [("critical", "mnt", what)]
    assert found(namespaces.host_mounts, planned(mnt="host", user="www"))[0][0] == "high"
    assert found(namespaces.host_mounts, planned()) == []


@pytest.mark.parametrize(
    ("extent", "severity", "what"),
    [
        ((0, 0, 1), "critical", "its users 0 are 0 of the host"),
        ((0, 0, 1 << 17), "critical", "its users 0-65535 are 0-65535 of the host"),
        ((5, 1000, 10), "high", "its users 5-14 are 1000-1009 of the host"),
        ((0, 65535, 2), "high", "its users 0 are 65535 of the host"),
    ],
)
def test_maps_onto_accounts_of_the_host(extent: tuple[int, int, int], severity: str, what: str) -> None:
    rest = (60_000, 1 << 20, 10)
    seen = found(namespaces.mapped_accounts, planned(userns=mapped(extent, rest)))
    assert seen == [(severity, "userns.uid", what)]


def test_maps_beyond_accounts_are_fine() -> None:
    assert found(namespaces.mapped_accounts, planned(userns=mapped((0, 65536, 65536)))) == []
    assert found(namespaces.mapped_accounts, running(service())) == []


def test_a_range_from_subuid_may_hold_accounts_too() -> None:
    low: Extents = ((0, 30_000, 10),)
    keys = [key for _, key, _ in found(namespaces.mapped_accounts, running(service(), uid_map=low))]
    assert keys == ["userns.uid", "userns.gid"]


def test_the_hosts_processes() -> None:
    assert found(namespaces.host_processes, planned(pid="host", userns=HOST_IDS))[0][:2] == ("high", "pid")
    assert found(namespaces.host_processes, planned(pid="host"))[0][0] == "medium"
    assert found(namespaces.host_processes, planned(pid="service:db")) == []


def test_the_hosts_network() -> None:
    assert found(namespaces.host_network, planned(network_mode="host"))[0][:2] == ("high", "network_mode")
    assert found(namespaces.host_network, planned(network_mode="none")) == []


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        ({"ipc": "host"}, ("medium", "ipc")),
        ({"uts": "host"}, ("low", "uts")),
        ({"uts": "host", "cap_add": ("SYS_ADMIN",)}, ("low", "uts")),
        ({"uts": "host", "cap_add": ("SYS_ADMIN",), "userns": HOST_IDS}, ("medium", "uts")),
        ({"cgroup": "host"}, ("low", "cgroup")),
    ],
)
def test_other_namespaces_of_the_host(keys: dict[str, Any], seen: tuple[str, str]) -> None:
    assert [each[:2] for each in found(namespaces.host_objects, planned(**keys))] == [seen]


def test_the_clocks_of_the_host_are_everybodys() -> None:
    assert ServiceSpec(name="x").time == "host"
    assert found(namespaces.host_objects, planned()) == []


def test_what_is_the_hosts_by_way_of_another_service() -> None:
    services = {
        each.name: each
        for each in (
            ServiceSpec(name="a", pid="host", userns=HOST_IDS, network_mode="service:b"),
            ServiceSpec(name="b", pid="service:a", network_mode="host"),
            ServiceSpec(name="c", pid="service:b", ipc="service:a"),
            ServiceSpec(name="d", pid="container:x", uts="service:nosuch"),
            ServiceSpec(name="e", pid="service:f"),
            ServiceSpec(name="f", pid="service:e"),
        )
    }
    seen = {name: inherited(spec, services) for name, spec in services.items()}
    assert seen == {
        "a": {"net"}, "b": {"pid", "user"}, "c": {"pid", "user"}, "d": set(), "e": set(), "f": set(),
    }  # fmt: skip
    subject = Subject(services["c"], inherited=seen["c"])
    assert found(namespaces.host_processes, subject)[0][:2] == ("high", "pid")
    assert found(namespaces.user_namespace, subject)[0][:2] == ("high", "userns")
    assert found(namespaces.host_processes, Subject(services["c"])) == []


def test_sharing_with_a_stranger_is_more_than_with_a_service() -> None:
    seen = found(namespaces.shared_namespaces, planned(network_mode="service:db", pid="container:x"))
    assert seen == [
        ("info", "network_mode", "it shares the net namespace of service db"),
        ("low", "pid", "it shares the pid namespace of container x"),
    ]
    assert found(namespaces.shared_namespaces, planned()) == []
