"""Namespaces, ids and capabilities in manifests: what is understood, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import capabilities
from orchestrator.errors import ManifestError
from orchestrator.manifest.dump import to_toml
from orchestrator.manifest.load import load
from orchestrator.spec import (
    Dependency,
    IdMapping,
    ProjectSpec,
    ServiceSpec,
    Sharing,
    TimeOffsets,
    UserNamespace,
)


def loaded(folder: Path, text: str) -> ProjectSpec:
    path = folder / "orch.toml"
    path.write_text(text)
    return load(str(path), environ={}, name="test", check_host=False).project


def service(folder: Path, keys: str) -> ServiceSpec:
    return loaded(folder, f'[services.web]\ncommand = "a"\n{keys}\n[services.db]\ncommand = "b"\n').services[
        "web"
    ]


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ("", "userns", UserNamespace()),
        ('userns = "auto"', "userns", UserNamespace(mode="auto")),
        ('userns = "host"', "userns", UserNamespace(mode="host")),
        (
            'userns = { uid = ["0:1000:1", "1:200000:65535"] }', "userns",
            UserNamespace(
                mode="maps",
                uid=(IdMapping(inside=0, outside=1000, count=1), IdMapping(inside=1, outside=200000, count=65535)),
                gid=(IdMapping(inside=0, outside=1000, count=1), IdMapping(inside=1, outside=200000, count=65535)),
            ),
        ),
        ('time = "private"', "time", "private"),
        ('time = { boottime = "-1h", monotonic = "90s" }', "time_offsets", TimeOffsets(monotonic=90, boottime=-3600)),
        ('time = { boottime = "1h" }', "time", "private"),
        ('cap_add = ["CAP_NET_ADMIN", "sys_time"]', "cap_add", ("NET_ADMIN", "SYS_TIME")),
        ('cap_drop = ["ALL"]', "cap_drop", ("ALL",)),
        ("no_new_privileges = false", "no_new_privileges", False),
        ('group_add = ["video", 44]', "group_add", ("video", "44")),
        ('network_mode = "service:db"', "network_mode", "service:db"),
        ('pid = "container:other-x-1"', "pid", "container:other-x-1"),
        (
            'ipc = "service:db"', "depends_on", (Dependency(service="db", restart=True),),
        ),
        (
            'ipc = "service:db"\ndepends_on = { db = "started" }', "depends_on", (Dependency(service="db"),),
        ),
    ],
)  # fmt: skip
def test_what_is_written_is_understood_and_dumped(
    tmp_path: Path, keys: str, field: str, value: object
) -> None:
    spec = service(tmp_path, keys)
    assert getattr(spec, field) == value
    project = loaded(tmp_path, to_toml(loaded(tmp_path, (tmp_path / "orch.toml").read_text())))
    assert project.services["web"] == spec


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('cap_add = ["SYS_TYME"]', '3: services.web.cap_add[0]: "SYS_TYME" is not a capability (did you mean'),
        ('userns = "none"', 'services.web.userns: "none" is not allowed'),
        ('userns = { gid = ["0:1:1"] }', 'services.web.userns: lacks "uid"'),
        ('userns = { uid = ["1:1000:1"] }', "does not say who root of the container is"),
        ('userns = { uid = ["0:1000:10", "5:2000:10"] }', 'userns.uid[1]: "5:2000:10" overlaps "0:1000:10" in'),
        ('userns = { uid = ["0:1000:10", "20:1009:1"] }', "in the ids of the host"),
        ('userns = { uid = ["0:1000"] }', 'userns.uid[0]: "0:1000" is not a range of ids'),
        ('userns = { uid = ["0:4294967290:65536"] }', "is not a range of ids"),
        ('userns = "auto"\npid = "service:db"', "3: services.web.userns: has no meaning beside pid"),
        ('userns = "auto"\nmnt = "host"', 'cannot be combined with mnt "host"'),
        ('mnt = "service:db"\nread_only = true', '4: services.web.read_only: has no meaning with mnt "service:db"'),
        ('pid = "service:web"', "a service cannot share its own pid namespace"),
        ('pid = "service:dbb"', 'there is no service "dbb" (did you mean "db"?)'),
        ('pid = "servic:db"', '"servic:db" is not allowed'),
        ('network_mode = "service:db"\nports = ["80:80"]', 'ports: cannot be combined with network_mode "service:db"'),
        ('network_mode = "service:db"\nsysctls = ["net.core.somaxconn=1"]', "would change another container's network"),
        ('ipc = "host"\n[services.web.sysctls]\n"kernel.shmmax" = 1', "would change the host's own IPC namespace"),
        ('[services.web.sysctls]\n"kernel.panic" = 1', "belongs to the whole host"),
        ('uts = "host"\nhostname = "x"', 'hostname: has no meaning with uts "host"'),
        ('time = "1h"', '"1h" is not allowed'),
        ('group_add = ["a:b"]', "is not a group"),
        ('no_new_privileges = false\ncap_drop = ["ALL"]', "there is nothing to gain"),
        ('volumes = [{ source = "/a", target = "/b", owner = "no-such-user" }]', 'the host has no user "no-such-user"'),
        ('volumes = [{ type = "tmpfs", target = "/b", owner = 5 }]', "owner"),
        ("privileged = true", "say what is needed: cap_add"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, keys: str, expected: str) -> None:
    with pytest.raises(ManifestError) as caught:
        service(tmp_path, keys)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


def test_sharing_in_a_circle_is_refused(tmp_path: Path) -> None:
    text = '[services.a]\ncommand = "a"\npid = "service:b"\n[services.b]\ncommand = "b"\nipc = "service:a"\n'
    with pytest.raises(ManifestError, match="in a circle"):
        loaded(tmp_path, text)


def test_modes_name_their_neighbour() -> None:
    assert Sharing.parse("service:db") == Sharing(kind="service", name="db")
    assert [Sharing.parse(mode) for mode in ("private", "host", "bridge", "service:", "x:db")] == [None] * 5


def test_capabilities_are_added_after_some_are_dropped() -> None:
    default = set(capabilities.DEFAULT)
    assert set(capabilities.granted((), ())) == default
    assert set(capabilities.granted(("NET_ADMIN",), ("CHOWN",))) == (default | {"NET_ADMIN"}) - {"CHOWN"}
    assert capabilities.granted(("KILL",), ("ALL",)) == ("KILL",)
    assert set(capabilities.granted(("ALL",), ("SYS_ADMIN",))) == capabilities.NUMBERS.keys() - {"SYS_ADMIN"}
    assert set(capabilities.granted(("KILL",), ("KILL",))) == default  # who adds it by name wants it


def test_another_user_than_root_holds_only_what_is_added() -> None:
    assert capabilities.ambient((), ()) == ()
    assert capabilities.ambient(("NET_RAW",), ("ALL",)) == ("NET_RAW",)
    assert len(capabilities.ambient(("ALL",), ("SYS_ADMIN",))) == len(capabilities.NUMBERS) - 1
