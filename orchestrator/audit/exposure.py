"""Rules about what others can reach, read and use up: ports, secrets, limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from orchestrator.audit.subject import Subject, finding
from orchestrator.views import FindingView, Severity

CRITICAL, HIGH, MEDIUM, LOW, INFO = Severity

#: Names of variables that hold secrets, as whole words between underscores.
_SECRET_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|TOKEN|SECRET|SECRETS|CREDENTIALS?|APIKEY|(API|ACCESS|PRIVATE|SECRET|"
    r"ENCRYPTION|SIGNING|MASTER|AUTH)_KEY|SECRET_KEY_BASE)(_|$)",
    re.IGNORECASE,
)
#: Names that say where a secret is, or how long it lives, and not what it is.
_ABOUT_A_SECRET = re.compile(
    r"_(FILE|FILES|PATH|DIR|NAME|ID|TTL|URL|URI|HOST|TYPE|LENGTH|LIFETIME|EXPIRY|EXPIRES|EXPIRATION|TIMEOUT|ENABLED|"
    r"REQUIRED|ALGORITHM|ISSUER|AUDIENCE)$|^(OLD)?PWD$",
    re.IGNORECASE,
)
#: A URL with a password in it (RFC 3986, section 3.2.1).
_URL_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s:@]*:[^/?#\s@]+@", re.IGNORECASE)

#: An ``oom_score_adj`` from which on hardly anything is killed later (proc_pid_oom_score_adj(5): -1000 is never).
_LAST_OF_ALL = -900


def published_ports(subject: Subject) -> Iterator[FindingView]:
    """Ports on other addresses than the loopback's."""
    for port in subject.spec.ports:
        address = ip_address(port.host_ip)
        if address.is_loopback:
            continue
        name = f"port {port.target}/{port.protocol}"
        if address.is_unspecified:
            what, severity = f"{name} is published on all addresses of the host ({port.host_ip})", LOW
        else:
            what, severity = f"{name} is published on {port.host_ip}", INFO
        yield finding(
            severity,
            "ports",
            what,
            "whoever reaches that address reaches the program, past the host's own firewall rules for input",
            "publish it on 127.0.0.1, or on the one address that it is meant for",
        )


def secrets_in_environment(subject: Subject) -> Iterator[FindingView]:
    """Variables that hold a secret itself. The value is never repeated."""
    for name, value in subject.spec.environment.items():
        named = _SECRET_NAME.search(name) and not _ABOUT_A_SECRET.search(name)
        if value and (named or _URL_WITH_PASSWORD.search(value)):
            yield finding(
                MEDIUM,
                "environment",
                f"{name} looks like a secret" if named else f"{name} holds a URL with a password",
                "every process of the container inherits it, crash reports and debug pages print it, and orch config "
                "and orch inspect show it",
                "make it a secret ([secrets.NAME]), and have the program read the file: many take the path in "
                f"{name}_FILE",
            )


def limits(subject: Subject) -> Iterator[FindingView]:
    """No limit of memory or processes."""
    if subject.spec.resources.memory is None:
        yield finding(
            INFO, "resources.memory", "nothing limits its memory",
            "it can take all of the host's, and the kernel then kills whomever it chooses", "set resources.memory",
        )  # fmt: skip
    if subject.spec.resources.pids is None or (subject.force and subject.force.limits.get("pids", 1) is None):
        yield finding(
            LOW, "resources.pids", "nothing limits the number of its processes",
            "a fork bomb in it stops the host",
            "leave resources.pids out, or set a number; orch doctor says if this host cannot limit them",
        )  # fmt: skip


def spared_by_the_kernel(subject: Subject) -> Iterator[FindingView]:
    """``oom_score_adj`` below 0."""
    score = subject.spec.oom_score_adj
    if score is not None and score < 0:
        yield finding(
            MEDIUM if score <= _LAST_OF_ALL else LOW, "oom_score_adj",
            f"the kernel spares it when memory is short ({score})",
            "it kills others first, the host's own programs too, even if this one took the memory",
            "leave it out, and set resources.memory to what it needs",
        )  # fmt: skip
