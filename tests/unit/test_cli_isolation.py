"""The commands ns and audit, and what inspect says of isolation, against a fake service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.cli import ns
from orchestrator.cli.inspect import _isolation
from orchestrator.cli.main import main
from orchestrator.errors import NotFoundError
from orchestrator.ids import Instance
from orchestrator.kernel.process import NAMESPACES
from orchestrator.views import AuditView, FindingView, IdMapView, NamespaceView, Severity
from support.audits import isolation
from support.fake_service import FakeService

MANIFEST = """
name = "shop"
[services.web]
command = ["sleep", "1"]
pid = "host"
[services.db]
command = ["sleep", "1"]
resources = { memory = "64M", pids = 10 }
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance of our own, in an empty current folder."""
    (tmp_path / "work").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ORCH_STATE_DIR", str(tmp_path))
    for name in ("ORCH_RUN_DIR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    return Instance.from_environment()


@pytest.fixture
def service(instance: Instance) -> Iterator[FakeService]:
    with FakeService(instance.socket).running() as running:
        running.answers(
            "GET /v1/projects", [{"name": "shop", "source": "", "state": "running", "services": {}}]
        )
        yield running


# ns


def namespace(kind: str, name: str = "shop-web-1", **changes: object) -> NamespaceView:
    view = NamespaceView(
        project="shop", service="web", name=name, id="web1", kind=kind, inode=4026532000, owner=4026531837,
        parent=None, first=True, processes=2, pid=7, shared_with=[], uid_map=None, gid_map=None,
    )  # fmt: skip
    return msgspec.structs.replace(view, **changes)


def extent(inside: int, outside: int, count: int) -> list[IdMapView]:
    return [IdMapView(inside=inside, outside=outside, count=count)]


def test_ns_is_a_table(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    ids = extent(0, 100_000, 65536)
    service.answers(
        "GET /v1/namespaces",
        [
            namespace("user", uid_map=ids, gid_map=ids),
            namespace("net", shared_with=["shop-db-1", "shop-log-1"]),
            namespace("pid", first=False, pid=9, processes=1),
            namespace("net", "shop-job-1", pid=None, processes=0, owner=None),
            namespace("time", "shop-job-1", shared_with=["host"]),
        ],
    )
    assert main(["ns", "-t", "user,net", "--kind", "pid", "web", "-p", "shop"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME         TYPE                   NS        OWNER   PROCS   PID   SHARED WITH             IDS",
        "shop-web-1   user           4026532000   4026531837       2     7                           "
        "0-65535 = 100000-165535",
        "             net            4026532000   4026531837       2     7   shop-db-1, shop-log-1",
        "             pid (inside)   4026532000   4026531837       1     9",
        "shop-job-1   net            4026532000            -       0     -",
        "             time           4026532000   4026531837       2     7   host",
    ]
    asked = service.asked("GET /v1/namespaces")[0].query
    assert asked == {"project": "shop", "services": "web", "kinds": "user,net,pid"}


def test_ns_as_json_is_one_array(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    view = namespace("net", shared_with=["host", "shop-db-1"])
    service.answers("GET /v1/namespaces", [view])
    assert main(["ns", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [msgspec.to_builtins(view)]


def test_ns_knows_the_kinds(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert ns.KINDS == NAMESPACES
    assert main(["ns", "-t", "net,network"]) == 2
    assert 'there is no kind of namespace "network": allowed: user, mnt' in capsys.readouterr().err
    assert service.requests == []


def test_ns_without_a_service_has_nothing_to_list(
    instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ns", "--format", "json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert main(["ns", "web"]) == 1


@pytest.mark.parametrize(
    ("uid", "gid", "text"),
    [
        (extent(0, 0, (1 << 32) - 1), extent(0, 0, (1 << 32) - 1), "the host's"),
        (extent(0, 5, 1), extent(0, 5, 1), "0 = 5"),
        (extent(0, 5, 10), extent(0, 50, 10), "users 0-9 = 5-14; groups 0-9 = 50-59"),
        ([*extent(0, 5, 1), *extent(9, 7, 2)], [], "users 0 = 5, 9-10 = 7-8; groups none"),
        (None, None, ""),
    ],
)
def test_maps_of_ids(uid: list[IdMapView] | None, gid: list[IdMapView] | None, text: str) -> None:
    assert ns.ids_text(uid, gid) == text


# inspect


def test_isolation_for_people() -> None:
    view = isolation(
        namespaces={"user": "private", "net": "shared", "pid": "shared", "time": "host"},
        shared_with={"net": ["a", "b"], "pid": ["a"]},
        capabilities={"effective": ["CHOWN", "KILL"], "ambient": []},
        masked_paths=["/proc/kcore"],
    )
    assert list(_isolation(view)) == [
        "namespaces: user private; net shared with a, b; pid shared with a; time host",
        "users: 0-65535 = 1048576-1114111",
        "groups: 0-65535 = 1048576-1114111",
        "effective capabilities: CHOWN, KILL",
        "ambient capabilities: none",
        "no_new_privs: yes",
        "seccomp: filter, profile default",
        "security module: orch-default (enforce)",
        "masked: /proc/kcore",
        "read-only: nothing",
    ]


def test_isolation_of_what_has_ended() -> None:
    view = isolation(
        namespaces={"user": "host"}, uid_map=None, gid_map=None, capabilities=None, no_new_privileges=None,
        seccomp=None, label=None, userns_reason="/nfs cannot",
    )  # fmt: skip
    assert list(_isolation(view)) == [
        "namespaces: user host", "in the host's user namespace because /nfs cannot", "masked: nothing",
        "read-only: nothing",
    ]  # fmt: skip


# audit


def finding(severity: Severity, key: str = "pid") -> FindingView:
    return FindingView(severity=severity, key=key, what="it sees all", why="so " * 60, remedy="leave it out")


def audited(name: str, *findings: FindingView) -> AuditView:
    return AuditView(project="shop", service="web", name=name, id="x", running=True, findings=list(findings))


def test_audit_tells_containers_with_the_same_findings_together(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    worst, least = finding(Severity.CRITICAL), finding(Severity.INFO, "resources.memory")
    service.answers(
        "GET /v1/audit",
        [audited("shop-web-1", worst, least), audited("shop-db-1"), audited("shop-web-2", worst, least)],
    )
    assert main(["audit", "-p", "shop", "web", "db"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "shop-web-1, shop-web-2",
        "  CRITICAL  pid: it sees all",
        "            why     " + ("so " * 30).strip(),
    ]
    assert lines[3] == "            " + " " * 8 + ("so " * 30).strip()
    assert lines[4:7] == [
        "            remedy  leave it out",
        "  INFO      resources.memory: it sees all",
        lines[2],
    ]
    assert lines[-4:] == ["", "shop-db-1", "", "3 containers: 2 critical, 2 info"]
    assert service.asked("GET /v1/audit")[0].query == {"project": "shop", "services": "web,db"}


@pytest.mark.parametrize(
    ("found", "limit", "code"),
    [
        ("high", "high", 1),
        ("critical", "high", 1),
        ("medium", "high", 0),
        ("info", "info", 1),
        ("critical", "", 0),
    ],
)
def test_audit_fails_when_it_is_told_to(service: FakeService, found: str, limit: str, code: int) -> None:
    service.answers("GET /v1/audit", [audited("a"), audited("b", finding(Severity(found)))])
    assert main(["audit", *(["--fail-on", limit] if limit else [])]) == code


def test_audit_as_json(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    view = audited("a", finding(Severity.LOW))
    service.answers("GET /v1/audit", [view])
    assert main(["audit", "--format", "json", "--fail-on", "low"]) == 1
    assert json.loads(capsys.readouterr().out) == [msgspec.to_builtins(view)]


def test_audit_of_a_manifest_that_is_not_up(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    Path("shop.toml").write_text(MANIFEST)
    assert main(["audit", "shop.toml", "--fail-on", "critical"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "judged by the manifest; what this host makes of it shows when it runs"
    assert lines[2:4] == ["web", "  MEDIUM    pid: it sees the processes of the host"]
    assert lines[-1].startswith("2 services: 1 medium")
    assert main(["audit", "shop.toml", "--fail-on", "medium", "db"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "db",
        "",
        "1 service: nothing deviates from the default",
    ]
    assert main(["audit", "shop.toml", "nosuch"]) == 2


def test_audit_prefers_what_is_up(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    Path("orch.toml").write_text(MANIFEST)
    service.answers("GET /v1/audit", [audited("shop-web-1")])
    for words, shown in (
        ([], "shop-web-1"), (["orch.toml"], "shop-web-1"), (["web"], "shop-web-1"), (["--planned"], "judged by"),
    ):  # fmt: skip
        assert main(["audit", *words]) == 0
        assert capsys.readouterr().out.startswith(shown), words
    Path("orch.toml").write_text(MANIFEST.replace('"shop"', '"other"'))
    assert main(["audit", "orch.toml"]) == 0
    assert capsys.readouterr().out.startswith("judged by")


def test_audit_of_nothing(
    instance: Instance, service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers("GET /v1/audit", [])
    assert main(["audit"]) == 0
    assert capsys.readouterr().out == "0 containers: nothing deviates from the default\n"
    service.refuses("GET /v1/audit", NotFoundError('no project "x" is up'), 404)
    assert main(["audit", "-p", "x"]) == 1
