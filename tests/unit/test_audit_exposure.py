"""What an audit finds about ports, secrets and limits."""

from __future__ import annotations

import pytest

from orchestrator.audit import exposure
from orchestrator.audit.rules import judge
from orchestrator.spec import Port, Resources
from support.audits import found, planned, running, service


@pytest.mark.parametrize(
    ("address", "severity"),
    [("127.0.0.1", None), ("127.3.2.1", None), ("0.0.0.0", "low"), ("192.0.2.7", "info")],
)
def test_published_ports(address: str, severity: str | None) -> None:
    seen = found(exposure.published_ports, planned(ports=(Port(target=80, host_ip=address),)))
    assert [each[0] for each in seen] == ([severity] if severity else [])
    assert all(address in what and "80/tcp" in what for _, _, what in seen)


@pytest.mark.parametrize(
    "name",
    ["PASSWORD", "POSTGRES_PASSWORD", "MYSQL_PWD", "API_TOKEN", "GITHUB_TOKEN", "JWT_SECRET", "AWS_SECRET_ACCESS_KEY",
     "STRIPE_API_KEY", "SECRET_KEY_BASE", "db_passwd", "SSH_PRIVATE_KEY", "SMTP_PASS"],
)  # fmt: skip
def test_a_variable_with_the_name_of_a_secret(name: str) -> None:
    seen = found(exposure.secrets_in_environment, planned(environment={name: "geheim"}))
    assert seen == [("medium", "environment", f"{name} looks like a secret")]
    assert found(exposure.secrets_in_environment, planned(environment={name: ""})) == []


@pytest.mark.parametrize(
    "name",
    ["POSTGRES_PASSWORD_FILE", "TOKEN_TTL", "PWD", "OLDPWD", "SECRET_NAME", "PASSENGER_COUNT", "TOKENIZERS_PARALLELISM",
     "BYPASS", "KEY", "AWS_ACCESS_KEY_ID", "AUTH_TOKEN_URL", "COMPASS"],
)  # fmt: skip
def test_a_variable_about_a_secret_or_something_else(name: str) -> None:
    assert found(exposure.secrets_in_environment, planned(environment={name: "geheim"})) == []


@pytest.mark.parametrize(
    ("url", "holds"),
    [("postgres://shop:geheim@db/shop", True), ("redis://:geheim@cache:6379", True), ("http://shop@host/a:b@c", False),
     ("http://host:80/", False), ("https://host/?x=a:b@c", False)],
)  # fmt: skip
def test_a_url_with_a_password(url: str, holds: bool) -> None:
    seen = found(exposure.secrets_in_environment, planned(environment={"DATABASE_URL": url}))
    assert seen == ([("medium", "environment", "DATABASE_URL holds a URL with a password")] if holds else [])


def test_no_secret_is_repeated() -> None:
    environment = {"DB_PASSWORD": "geheim", "URL": "amqp://user:geheim@mq"}
    findings = judge(planned(environment=environment))
    assert len(findings) > 2
    assert "geheim" not in repr(findings)


def test_no_limits() -> None:
    free = planned(resources=Resources(pids=None))
    assert found(exposure.limits, free) == [
        ("info", "resources.memory", "nothing limits its memory"),
        ("low", "resources.pids", "nothing limits the number of its processes"),
    ]
    limited = Resources(pids=10, memory=1 << 20)
    assert found(exposure.limits, planned(resources=limited)) == []
    cannot = running(service(resources=limited), limits={"memory": 1 << 20, "pids": None})
    assert [each[:2] for each in found(exposure.limits, cannot)] == [("low", "resources.pids")]


@pytest.mark.parametrize(
    ("score", "severity"),
    [(None, None), (0, None), (500, None), (-1, "low"), (-900, "medium"), (-1000, "medium")],
)
def test_who_is_spared_when_memory_is_short(score: int | None, severity: str | None) -> None:
    seen = found(exposure.spared_by_the_kernel, planned(oom_score_adj=score))
    assert [each[:2] for each in seen] == ([(severity, "oom_score_adj")] if severity else [])
