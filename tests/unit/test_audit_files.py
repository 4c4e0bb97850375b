"""What an audit finds about the host's files that a container sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import files
from orchestrator.audit.host import look
from orchestrator.audit.subject import HostPaths
from orchestrator.spec import Mount, UserNamespace
from orchestrator.views import Severity
from support.audits import found, planned, running, service

HOST_IDS = UserNamespace(mode="host")


def bind(source: str, **keys: Any) -> Mount:
    return Mount(type="bind", source=source, target="/inside", **keys)


@pytest.mark.parametrize(
    ("path", "read", "write"),
    [
        ("/", "high", "critical"),
        ("/etc", "high", "critical"),
        ("/etc/", "high", "critical"),
        ("/etc/shadow", "high", "critical"),
        ("/etc/nginx", None, "medium"),
        ("/etc/nginx/../shadow", "high", "critical"),
        ("/proc", "high", "critical"),
        ("/proc/sys/kernel/core_pattern", "medium", "critical"),
        ("/sys/fs/cgroup", "medium", "critical"),
        ("/dev", "high", "high"),
        ("/root", "high", "critical"),
        ("/root/project", "medium", "high"),
        ("/run", "high", "high"),
        ("/var/run", "high", "high"),
        ("/var/run/x/state", "low", "medium"),
        ("/usr/bin", None, "critical"),
        ("/usr/local/lib", None, "critical"),
        ("/home", "medium", "high"),
        ("/home/alice", "medium", "high"),
        ("/home/alice/project", None, None),
        ("/home/alice/.ssh", "high", "high"),
        ("/var/lib/docker/volumes/x", "high", "critical"),
        ("/var/lib/shop", None, None),
        ("/srv/shop", None, None),
        ("/etcetera", None, None),
    ],
)
def test_places_of_the_host(path: str, read: str | None, write: str | None) -> None:
    for writable, severity in ((False, read), (True, write)):
        judged = files.judge_path(path, writable)
        assert (judged[0].value if judged else None) == severity, writable


@given(st.sampled_from(files.PLACES), st.text("ab/.", max_size=12))
def test_to_write_is_at_least_as_bad_as_to_read(place: files.Place, below: str) -> None:
    order = [None, *reversed(Severity)]
    judged = [files.judge_path(f"{place.path}/{below}", writable) for writable in (False, True)]
    read, write = (order.index(each[0] if each else None) for each in judged)
    assert write >= read


def test_a_sensitive_bind_names_the_path_and_what_it_really_is() -> None:
    host = HostPaths({"/srv/link": "/etc"})
    seen = found(
        files.sensitive_binds, planned(host, mounts=(bind("/srv/link"), bind("/etc/nginx", read_only=True)))
    )
    assert seen == [("critical", "volumes", "it may write to /srv/link (/etc) of the host")]


def test_volumes_and_tmpfs_are_nobodys_but_its_own() -> None:
    mounts = (Mount(type="volume", source="etc", target="/etc"), Mount(type="tmpfs", target="/root"))
    assert found(files.sensitive_binds, planned(mounts=mounts)) == []
    assert found(files.files_of_root, planned(mounts=mounts)) == []


def test_an_image_that_is_the_host() -> None:
    assert found(files.sensitive_binds, planned(image="dir:/"))[0] == (
        "high",
        "image",
        "its image is / of the host",
    )
    assert found(files.sensitive_binds, planned(image="dir:/srv/image")) == []
    assert found(files.sensitive_binds, planned(image="host")) == []


@pytest.mark.parametrize(
    ("path", "severity"),
    [("/var/run/docker.sock", "critical"), ("/run/podman/podman.sock", "critical"), ("/srv/orch.sock", "critical"),
     ("/run/dbus/system_bus_socket", "high"), ("/run/postgresql/.s.PGSQL.5432", "medium"), ("/srv/a.sock", "medium")],
)  # fmt: skip
@pytest.mark.parametrize("read_only", [False, True])
def test_sockets_give_what_the_daemon_gives_even_read_only(path: str, severity: str, read_only: bool) -> None:
    subject = planned(
        HostPaths(sockets=frozenset({"/run/postgresql/.s.PGSQL.5432"})),
        mounts=(bind(path, read_only=read_only),),
    )
    assert found(files.sockets, subject) == [(severity, "volumes", f"it may connect to {path} of the host")]
    assert found(files.sensitive_binds, subject) == []


def test_a_folder_is_no_socket() -> None:
    assert found(files.sockets, planned(mounts=(bind("/srv/data"),))) == []


def test_what_root_makes_on_the_host_is_roots() -> None:
    what = "what root of the container makes in /srv/data is root's on the host"
    assert found(files.files_of_root, planned(mounts=(bind("/srv/data"),))) == [("low", "volumes", what)]
    for keys in ({"read_only": True}, {"owner": (1000, 1000)}):
        assert found(files.files_of_root, planned(mounts=(bind("/srv/data", **keys),))) == []
    assert found(files.files_of_root, planned(mounts=(bind("/srv/data"),), user="www")) == []
    assert found(files.files_of_root, planned(mounts=(bind("/etc"),))) == []  # said already, and worse


@pytest.mark.parametrize(
    ("propagation", "keys", "severity"),
    [
        ("private", {}, None),
        ("slave", {}, "info"),
        ("shared", {}, "low"),
        ("shared", {"cap_add": ("SYS_ADMIN",)}, "low"),
        ("shared", {"cap_add": ("SYS_ADMIN",), "userns": HOST_IDS}, "medium"),
    ],
)
def test_mounts_that_leave_the_container(
    propagation: Any, keys: dict[str, Any], severity: str | None
) -> None:
    seen = found(files.propagation, planned(mounts=(bind("/srv", propagation=propagation),), **keys))
    assert [each[:2] for each in seen] == ([(severity, "volumes")] if severity else [])


@pytest.mark.parametrize(
    ("pattern", "severity"),
    [("all", "critical"), ("/proc/*", "critical"), ("/proc/sys", "critical"), ("/proc/sysrq-trigger", "critical"),
     ("/proc/kcore", "medium"), ("/proc/k*", "medium"), ("/proc/interrupts", "low"), ("/sys/firmware", "low")],
)  # fmt: skip
def test_files_of_the_kernel_that_are_not_masked(pattern: str, severity: str) -> None:
    what = f"{pattern} is not masked"
    assert found(files.unmasked, planned(unmask=(pattern,), userns=HOST_IDS)) == [(severity, "unmask", what)]
    better: tuple[dict[str, Any], ...] = ({}, {"userns": HOST_IDS, "user": "www"})
    for keys in better:
        assert found(files.unmasked, planned(unmask=(pattern,), **keys)) == [("low", "unmask", what)]
    assert found(files.unmasked, planned(masked_paths=(pattern,))) == []


def test_a_folder_of_two_projects() -> None:
    spec = service(mounts=(bind("/srv/a"), bind("/srv/b", read_only=True), bind("/srv/c")))
    subject = running(spec, fellows={"/srv/a": ("x-db-1",), "/srv/b": ("x-db-1", "y-db-1"), "/srv/c": ()})
    assert found(files.fellows, subject) == [
        ("low", "volumes", "/srv/a is shared with x-db-1 of another project"),
        ("info", "volumes", "/srv/b is shared with x-db-1, y-db-1 of another project"),
    ]
    assert found(files.fellows, planned(mounts=spec.mounts)) == []


def test_looking_at_the_host(tmp_path: Path) -> None:
    import socket

    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        spec = service(
            image=f"dir:{tmp_path}/link",
            mounts=tuple(bind(f"{tmp_path}/{name}") for name in ("folder", "link", "s", "missing")),
        )
        seen = look(spec)
    assert seen == HostPaths({f"{tmp_path}/link": f"{tmp_path}/folder"}, frozenset({f"{tmp_path}/s"}))
