"""``orch ns`` and the isolation that ``orch inspect`` tells of, against what the kernel has."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from support.cli import Orch
from support.waiting import wait_until

pytestmark = pytest.mark.requires("root", "netns", "pidns", "userns", "overlay")

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
MANIFEST = """
name = "box"
[defaults]
stop_grace_period = "0s"
[services.web]
command = ["sleep", "1000"]
[services.side]
command = ["sleep", "1000"]
network_mode = "service:web"
depends_on = ["web"]
[services.open]
command = ["sleep", "1000"]
userns = "host"
pid = "host"
user = "nobody"
cap_add = ["NET_RAW"]
read_only = true
masked_paths = ["/opt/hidden"]
read_only_paths = ["/opt/shut"]
[services.job]
kind = "job"
command = ["true"]
[services.inside]
command = ["sh", "-c", "unshare --uts sleep 1000 & exec sleep 1000"]
cap_add = ["SYS_ADMIN"]
"""


@pytest.fixture
def box(orch: Orch) -> Orch:
    orch.project = "box"
    orch.up(orch.manifest(MANIFEST, "orch.toml"))
    return orch


def rows_of(box: Orch, *words: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by service and kind, without namespaces that were made inside."""
    rows = box.run("ns", "-p", "box", "--format", "json", *words).json()
    return {(row["service"], row["kind"]): row for row in rows if row["first"]}


def lsns() -> dict[int, tuple[int, int]]:
    """What lsns(8) says: namespace -> processes in it, and the user namespace that owns it."""
    done = subprocess.run(
        ["lsns", "--json", "--output", "NS,NPROCS,ONS"], capture_output=True, text=True, check=True
    )
    listed = json.loads(done.stdout)["namespaces"]
    return {int(row["ns"]): (int(row["nprocs"]), int(row["ons"] or 0)) for row in listed}


def id_map(pid: int, name: str) -> list[dict[str, int]]:
    with open(f"/proc/{pid}/{name}_map") as file:
        return [
            dict(zip(("inside", "outside", "count"), map(int, line.split()), strict=True)) for line in file
        ]


def test_ns_shows_what_the_kernel_has(box: Orch) -> None:
    rows, pids = rows_of(box), {each["service"]: each["pid"] for each in box.ps()}
    for service in ("web", "side", "open"):
        for kind in KINDS:
            row = rows[service, kind]
            assert row["inode"] == os.stat(f"/proc/{pids[service]}/ns/{kind}").st_ino, (service, kind)
            assert row["pid"] == pids[service]
            alone = kind in ("mnt", "uts", "ipc", "cgroup")
            assert row["shared_with"] == [] or not alone, (service, kind)
    # owners
    user = rows["web", "user"]["inode"]
    assert {kind for kind in KINDS if rows["web", kind]["owner"] == user} == {
        "mnt",
        "net",
        "ipc",
        "uts",
        "cgroup",
    }
    assert (
        rows["web", "user"]["owner"] == rows["web", "user"]["parent"] == os.stat("/proc/self/ns/user").st_ino
    )
    # maps
    assert rows["web", "user"]["uid_map"] == id_map(pids["web"], "uid")
    assert rows["web", "user"]["gid_map"] == id_map(pids["web"], "gid")
    assert rows["web", "net"]["uid_map"] is None
    # who shares them
    assert rows["web", "net"]["shared_with"] == rows["web", "user"]["shared_with"] == ["box-side-1"]
    assert rows["side", "net"]["shared_with"] == ["box-web-1"]
    assert rows["web", "pid"]["shared_with"] == []
    assert {kind for kind in KINDS if "host" in rows["open", kind]["shared_with"]} == {"user", "pid", "time"}
    # what a container that has ended keeps
    assert [kind for service, kind in rows if service == "job"] == ["user", "net"]
    assert rows["job", "net"]["processes"] == 0
    assert rows["job", "net"]["owner"] == rows["job", "user"]["inode"]
    assert rows["job", "user"]["uid_map"][0]["count"] == 65536
    assert box.call("GET", "/v1/namespaces?kinds=net,network") == 400
    # a filter, and the table
    assert {kind for _, kind in rows_of(box, "-t", "net,uts", "web")} == {"net", "uts"}
    table = box.run("ns", "-p", "box", "-t", "net", "web", "side").stdout.splitlines()
    assert [line.split()[:2] for line in table] == [
        ["NAME", "TYPE"],
        ["box-side-1", "net"],
        ["box-web-1", "net"],
    ]


def test_ns_agrees_with_lsns_and_finds_what_is_made_inside(box: Orch) -> None:
    def made_inside() -> list[dict[str, Any]]:
        rows = box.run("ns", "inside", "--format", "json").json()
        return [row for row in rows if not row["first"]]

    (inside,) = wait_until("its other process has a namespace of its own", made_inside)
    assert inside["kind"] == "uts"
    assert inside["shared_with"] == []
    rows, listed = rows_of(box), lsns()
    assert listed[inside["inode"]] == (inside["processes"], inside["owner"])
    compared = [row for row in rows.values() if row["processes"] and "host" not in row["shared_with"]]
    assert len(compared) > 20
    for row in compared:
        assert listed[row["inode"]] == (row["processes"], row["owner"]), row


def test_inspect_tells_what_isolates_a_container(box: Orch) -> None:
    view = box.inspect("open")
    isolation, pid = view["isolation"], view["container"]["pid"]
    assert isolation["namespaces"] == {
        "user": "host", "mnt": "private", "pid": "host", "net": "private", "ipc": "private", "uts": "private",
        "cgroup": "private", "time": "host",
    }  # fmt: skip
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    for name, field in (("effective", "CapEff"), ("bounding", "CapBnd"), ("ambient", "CapAmb")):
        assert ("NET_RAW" in isolation["capabilities"][name]) == bool(int(status[field], 16) >> 13 & 1), name
        assert len(isolation["capabilities"][name]) == int(status[field], 16).bit_count(), name
    assert isolation["capabilities"]["effective"] == ["NET_RAW"]
    assert isolation["no_new_privileges"] is (status["NoNewPrivs"] == "1") is True
    assert (isolation["seccomp"], status["Seccomp"]) == ("filter", "2")
    assert "/proc/kcore" in isolation["masked_paths"]
    assert {"/sys", "/proc/sys", "/sys/fs/cgroup", "/usr", "/opt/shut"} <= set(isolation["read_only_paths"])
    assert "/opt/hidden" in isolation["masked_paths"]
    web = box.inspect("web")["isolation"]
    assert (web["namespaces"]["net"], web["shared_with"]["net"]) == ("shared", ["box-side-1"])
    assert web["uid_map"] == id_map(box.container("web")["pid"], "uid")
    ended = box.inspect("job")["isolation"]
    assert ended["capabilities"] is ended["no_new_privileges"] is ended["uid_map"] is None
    assert ended["namespaces"]["net"] == "private"
    assert "namespaces: user, pid, time host; " in box.run("inspect", "open", "--format", "text").stdout
