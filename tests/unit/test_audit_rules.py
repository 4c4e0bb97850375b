"""The table of rules, and the order of what they find."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import confinement, devices, exposure, files, kernel, namespaces, privileges
from orchestrator.audit.rules import RULES, judge
from orchestrator.audit.subject import Subject
from orchestrator.spec import Healthcheck, Mount, Port, Resources, ServiceSpec, TcpCheck, UserNamespace
from orchestrator.views import Severity
from support.audits import planned, running, service

ORDER = list(Severity)


@pytest.mark.parametrize(
    "module",
    [confinement, devices, exposure, files, kernel, namespaces, privileges],
    ids=lambda m: m.__name__,
)
def test_every_rule_is_in_the_table(module: ModuleType) -> None:
    rules = {
        value
        for value in vars(module).values()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and list(inspect.signature(value).parameters) == ["subject"]
        and not value.__name__.startswith("_")
    }
    assert rules
    assert rules <= set(RULES)


NAMES = st.text("abcdefghij", min_size=1, max_size=8)
#: Services that say nothing of their isolation, whatever else they say.
ORDINARY = st.builds(
    ServiceSpec,
    name=NAMES,
    command=st.lists(NAMES, max_size=3).map(tuple),
    kind=st.sampled_from(["service", "job"]),
    user=st.sampled_from([None, "root", "www", "1000:1000"]),
    environment=st.dictionaries(NAMES, NAMES, max_size=3),
    working_dir=st.none() | NAMES.map(lambda name: f"/{name}"),
    hostname=st.none() | NAMES,
    ports=st.lists(st.builds(Port, target=st.integers(1, 65535)), max_size=2).map(tuple),
    mounts=st.lists(
        st.builds(
            Mount,
            type=st.sampled_from(["volume", "tmpfs"]),
            target=NAMES.map(lambda name: f"/{name}"),
            source=NAMES,
            read_only=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    read_only=st.booleans(),
    network_mode=st.sampled_from(["bridge", "none"]),
    cap_drop=st.sampled_from([(), ("ALL",), ("CHOWN", "KILL")]),
    cap_add=st.sampled_from([(), ("CHOWN",)]),
    init=st.booleans(),
    replicas=st.integers(0, 3),
    oom_score_adj=st.none() | st.integers(0, 1000),
    resources=st.builds(
        Resources, memory=st.none() | st.integers(1 << 20, 1 << 30), pids=st.integers(1, 4096)
    ),
    userns=st.sampled_from([UserNamespace(), UserNamespace(mode="auto")]),
    healthcheck=st.none() | st.just(Healthcheck(test=TcpCheck(port=80))),
)


@given(ORDINARY, st.booleans())
def test_a_default_service_has_no_finding_above_info(spec: ServiceSpec, runs: bool) -> None:
    findings = judge(running(spec) if runs else Subject(spec))
    assert [finding for finding in findings if finding.severity is not Severity.INFO] == []


def test_the_bare_default_too() -> None:
    assert {finding.severity for finding in judge(Subject(ServiceSpec(name="x")))} <= {Severity.INFO}


def test_the_worst_comes_first() -> None:
    subject = planned(
        cap_add=("AUDIT_WRITE", "SYS_ADMIN"), pid="host", userns=UserNamespace(mode="host"),
        environment={"PASSWORD": "x"},
    )  # fmt: skip
    severities = [ORDER.index(finding.severity) for finding in judge(subject)]
    assert severities == sorted(severities)
    assert severities[0] == 0
    assert severities[-1] > 2


def test_judging_changes_nothing() -> None:
    spec = service(cap_add=("SYS_ADMIN",))
    assert judge(Subject(spec)) == judge(Subject(spec))
