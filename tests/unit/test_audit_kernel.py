"""What an audit finds where the kernel has less in force than a manifest promises."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.audit import kernel
from orchestrator.audit.subject import Subject
from orchestrator.spec import Resources, Seccomp, UserNamespace
from orchestrator.views import IdMapView
from support.audits import found, in_force, isolation, planned, running, service

ALL_RULES = (
    kernel.capability_sets, kernel.no_new_privileges, kernel.id_maps, kernel.separate_namespaces,
    kernel.system_calls, kernel.label, kernel.limits,
)  # fmt: skip


def seen_as(spec: dict[str, Any], facts: dict[str, Any] | None = None, **changes: Any) -> Subject:
    """A container of which the kernel says something else than of the default."""
    return Subject(service(**spec), force=in_force(isolation=isolation(**changes), **(facts or {})))


def sets(**changes: list[str]) -> dict[str, list[str]]:
    held = isolation().capabilities
    assert held is not None
    return held | changes


def said(text: str, key: str) -> list[tuple[str, str, str]]:
    return [("critical", key, f"the kernel says otherwise: {text}")]


@pytest.mark.parametrize("rule", ALL_RULES)
def test_what_is_as_promised_is_no_finding_nor_what_does_not_run(rule: Any) -> None:
    spec = service(resources=Resources(memory=1 << 26, pids=10))
    assert found(rule, running(spec, limits={"memory": 1 << 26, "pids": 10})) == []
    assert found(rule, planned()) == []
    exited = isolation(
        uid_map=None, gid_map=None, capabilities=None, no_new_privileges=None, seccomp=None, label=None
    )
    assert found(rule, Subject(spec, force=in_force(isolation=exited))) == []


@pytest.mark.parametrize("name", ["bounding", "permitted", "effective", "inheritable", "ambient"])
def test_a_capability_too_many_in_any_set(name: str) -> None:
    held = sets(**{name: ["CHOWN", "SYS_ADMIN"]})
    text = f"its {name} capabilities have SYS_ADMIN"
    assert found(kernel.capability_sets, seen_as({}, capabilities=held)) == said(text, "cap_add")
    assert found(kernel.capability_sets, seen_as({"cap_add": ("SYS_ADMIN",)}, capabilities=held)) == []


def test_a_program_may_give_capabilities_up() -> None:
    none: dict[str, list[str]] = {name: [] for name in sets()}
    assert found(kernel.capability_sets, seen_as({}, capabilities=none)) == []


def test_a_user_other_than_root_holds_only_what_was_added() -> None:
    spec = {"user": "www", "cap_add": ("NET_RAW",)}
    bounding = [*sets()["bounding"], "NET_RAW"]
    right = sets(effective=["NET_RAW"], permitted=["NET_RAW"], ambient=["NET_RAW"], bounding=bounding)
    assert found(kernel.capability_sets, seen_as(spec, capabilities=right)) == []
    wrong = right | {"effective": ["CHOWN", "NET_RAW"]}
    text = "its effective capabilities have CHOWN"
    assert found(kernel.capability_sets, seen_as(spec, capabilities=wrong)) == said(text, "user")


def test_no_new_privileges() -> None:
    text = "NoNewPrivs is 0"
    rule = kernel.no_new_privileges
    assert found(rule, seen_as({}, no_new_privileges=False)) == said(text, "no_new_privileges")
    assert found(rule, seen_as({"no_new_privileges": False}, no_new_privileges=False)) == []


def test_other_ids_than_it_was_given() -> None:
    host = [IdMapView(inside=0, outside=0, count=65536)]
    text = "its users are mapped 0:0:65536"
    assert found(kernel.id_maps, seen_as({}, uid_map=host)) == said(text, "userns")
    assert found(kernel.id_maps, seen_as({}, gid_map=[]))[0][2].endswith("its groups are mapped not at all")


def test_a_namespace_of_the_host_that_should_be_its_own() -> None:
    spaces = isolation().namespaces
    for kind, key in (("net", "network_mode"), ("user", "userns"), ("pid", "pid")):
        text = f"it is in the host's {kind} namespace"
        subject = seen_as({}, namespaces=spaces | {kind: "host"})
        assert found(kernel.separate_namespaces, subject) == said(text, key)
    asked = seen_as({"pid": "host"}, namespaces=spaces | {"pid": "host"})
    assert found(kernel.separate_namespaces, asked) == []
    inherited = Subject(
        service(pid="service:db"),
        force=in_force(isolation=isolation(namespaces=spaces | {"pid": "host"})),
        inherited=frozenset({"pid"}),
    )
    assert found(kernel.separate_namespaces, inherited) == []
    with_host_ids = Subject(
        service(userns=UserNamespace(mode="host")),
        force=in_force((), isolation=isolation(namespaces=spaces | {"user": "host"})),
    )
    assert found(kernel.separate_namespaces, with_host_ids) == []


def test_a_stranger_in_its_namespace() -> None:
    changes: dict[str, Any] = {
        "namespaces": isolation().namespaces | {"net": "shared"}, "shared_with": {"net": ["a", "b"]},
    }  # fmt: skip
    partners = {"net": frozenset({"a"})}
    subject = seen_as({}, {"partners": partners}, **changes)
    assert found(kernel.separate_namespaces, subject) == said("b is in its net namespace", "network_mode")
    partners = {"net": frozenset({"a", "b"})}
    assert found(kernel.separate_namespaces, seen_as({}, {"partners": partners}, **changes)) == []


def test_a_filter_that_is_not_there() -> None:
    text = "Seccomp is 0, there is no filter"
    assert found(kernel.system_calls, seen_as({}, seccomp="none")) == said(text, "seccomp")
    unconfined = {"seccomp": Seccomp(profile="unconfined")}
    assert found(kernel.system_calls, seen_as(unconfined, seccomp="none")) == []


CONTEXT = "system_u:system_r:container_t:s0:c1,c2"


@pytest.mark.parametrize(
    ("given", "found_label", "text"),
    [
        (CONTEXT, CONTEXT, None),
        (CONTEXT, CONTEXT.replace("c1", "c3"), "it is confined by system_u:system_r:container_t:s0:c3,c2"),
        ("orch-default", "orch-default (enforce)", None),
        ("orch-default", "orch-default-2 (enforce)", "it is confined by orch-default-2 (enforce)"),
        ("orch-default", "unconfined", "it is confined by unconfined"),
        ("orch-default", "", "it is confined by none"),
        ("", "unconfined", None),
    ],
)
def test_another_label_than_it_was_given(given: str, found_label: str, text: str | None) -> None:
    subject = seen_as({}, {"label": given}, label=found_label)
    assert found(kernel.label, subject) == (said(text, "apparmor, selinux") if text else [])


@pytest.mark.parametrize(
    ("limits", "text"),
    [({"memory": None, "pids": 10}, "it has no such limit"), ({"memory": 1 << 30}, f"the limit is {1 << 30}"),
     ({"memory": 1 << 26, "pids": 10}, None), ({"memory": 1 << 20, "pids": 5}, None), ({}, None)],
)  # fmt: skip
def test_limits_that_are_not_there(limits: dict[str, int | None], text: str | None) -> None:
    subject = running(service(resources=Resources(memory=1 << 26, pids=10)), limits=limits)
    assert found(kernel.limits, subject) == (said(text, "resources.memory") if text else [])


def test_a_default_limit_that_the_host_cannot_have_was_not_promised() -> None:
    limits = {"memory": None, "pids": None}
    assert found(kernel.limits, running(service(), limits=limits)) == []
    assert len(found(kernel.limits, running(service(resources=Resources(pids=100)), limits=limits))) == 1
