"""``up`` and ``plan``: a whole project, again without a change, after a change, and with a bad manifest."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from support.cli import Orch
from support.lifecycle import events, free_port, operations, pids, when

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")

SHOP = """
name = "shop"

[defaults]
init = true
stop_grace_period = "2s"

[services.db]
command = ["sleep", "1000"]
volumes = ["data:/data"]

[services.migrate]
kind = "job"
command = ["sh", "-c", "echo done > /data/schema"]
volumes = ["data:/data"]
depends_on = ["db"]

[services.web]
command = ["busybox", "httpd", "-f", "-p", "80", "-h", "/data"]
ports = ["${PORT}:80"]
volumes = ["data:/data:ro"]
environment = { MODE = "one" }
depends_on = { migrate = "completed" }
healthcheck = { tcp = 80, interval = "100ms" }

[services.front]
command = ["sleep", "1000"]
networks = ["default", "edge"]
depends_on = { web = "healthy" }

[services.aside]
command = ["sleep", "1000"]

[networks.edge]
[volumes.data]
"""


def shop(orch: Orch, port: int, text: str = SHOP, name: str = "shop.toml") -> str:
    """The manifest, with its port."""
    orch.project = "shop"
    return orch.manifest(text.replace("${PORT}", str(port)), name)


@pytest.mark.vm
def test_a_whole_project_comes_up(orch: Orch) -> None:
    port = free_port()
    manifest = shop(orch, port)
    up = orch.up(manifest)
    assert "shop is up: 4 containers running" in up.stderr
    assert f"web listens on 127.0.0.1:{port} (its port 80/tcp)" in up.stderr
    states = {one["name"]: (one["state"], one["health"], one["exit_code"]) for one in orch.ps()}
    assert states == {
        "shop-aside-1": ("running", "none", None),
        "shop-db-1": ("running", "none", None),
        "shop-front-1": ("running", "none", None),
        "shop-migrate-1": ("exited", "none", 0),
        "shop-web-1": ("running", "healthy", None),
    }
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET /schema HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"done\n")
    order = [when(orch, "shop", service, action) for service, action in [
        ("db", "started"), ("migrate", "started"), ("migrate", "exited"), ("web", "starting"), ("web", "healthy"),
        ("front", "starting"),
    ]]  # fmt: skip
    assert order == sorted(order)


def test_up_again_changes_nothing(orch: Orch) -> None:
    manifest = shop(orch, free_port())
    orch.up(manifest)
    before, log = orch.ps(), events(orch, "shop")
    plan = orch.run("plan", manifest)
    assert plan.stdout == "shop is up to date\n"
    orch.up(manifest)
    assert orch.ps() == before
    assert events(orch, "shop") == log


def test_plan_changes_nothing_and_needs_no_service(orch: Orch) -> None:
    done = orch.run("plan", shop(orch, free_port()), check=False)
    assert done.returncode == 100
    assert not orch.is_serving()
    assert not os.path.exists(orch.instance.state_dir)


@pytest.mark.parametrize("change", ["", 'MODE = "one"', "db", "edge", "scale", "gone"])
def test_up_does_what_plan_said(orch: Orch, change: str) -> None:
    port = free_port()
    manifest = shop(orch, port)
    if change:
        orch.up(manifest)
        new = {
            'MODE = "one"': SHOP.replace('MODE = "one"', 'MODE = "two"'),
            "db": SHOP.replace('["sleep", "1000"]', '["sleep", "2000"]', 1),
            "edge": SHOP.replace("[networks.edge]", "[networks.edge]\ninternal = true"),
            "scale": SHOP.replace("[services.aside]", "[services.aside]\nreplicas = 2"),
            "gone": re.sub(r"\[services.aside\]\ncommand.*", "", SHOP),
        }[change]
        assert new != SHOP
        shop(orch, port, new)
    plan = orch.run("plan", manifest, "--format", "json", check=False)
    assert plan.returncode == 100
    planned = plan.json()["operations"]
    done = [line for line in orch.run("up", "-d", "--format", "json", manifest).stdout.splitlines() if line]
    assert operations(done, "plan") == planned
    assert sorted(operations(done, "done")) == sorted(operation["id"] for operation in planned)
    assert orch.run("plan", manifest).stdout == "shop is up to date\n"


def test_a_change_recreates_the_service_and_restarts_its_dependants_only(orch: Orch) -> None:
    port = free_port()
    orch.up(shop(orch, port))
    before = {one["service"]: one for one in orch.ps()}
    orch.up(shop(orch, port, SHOP.replace('MODE = "one"', 'MODE = "two"')))
    after = {one["service"]: one for one in orch.ps()}
    unchanged = ("db", "migrate", "aside")
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert after["web"]["id"] != before["web"]["id"]
    assert after["web"]["address"] == before["web"]["address"]
    assert after["front"]["id"] == before["front"]["id"]
    assert after["front"]["pid"] != before["front"]["pid"]
    assert "MODE=two" in orch.run("exec", "-p", "shop", "web", "env").stdout.splitlines()
    last = {service: when(orch, "shop", service, "started", last=True) for service in ("web", "front")}
    assert last["front"] > when(orch, "shop", "web", "healthy", last=True) > last["web"]


def test_changed_limits_are_changed_in_place(orch: Orch) -> None:
    text = """
    name = "limits"
    [services.a]
    command = ["sleep", "1000"]
    init = true
    resources = { memory = "64M", pids = 20, cpus = 0.5 }
    """
    orch.project = "limits"
    orch.up(orch.manifest(text, "limits.toml"))
    before = orch.container("a")
    plan = orch.run(
        "plan", orch.manifest(text.replace("64M", "96M").replace("= 20", "= 30"), "limits.toml"), check=False
    )
    assert re.search(r"~ limits-a-1 +update +resources changed\n", plan.stdout)
    orch.up(f"{orch.work}/limits.toml")
    assert orch.container("a") == before
    cgroup = orch.inspect("a")["cgroup"]
    limits = {name: _limit(cgroup, name) for name in ("memory", "pids")}
    assert limits == {"memory": str(96 << 20), "pids": "30"}


def _limit(cgroup: dict[str, str], controller: str) -> str:
    """The hard limit that the kernel holds."""
    if "unified" in cgroup and os.path.exists(f"{cgroup['unified']}/{controller}.max"):
        path = f"{cgroup['unified']}/{controller}.max"
    else:
        path = f"{cgroup[controller]}/" + {"memory": "memory.limit_in_bytes", "pids": "pids.max"}[controller]
    return Path(path).read_text().strip()


def test_up_of_one_service_starts_it_with_its_dependencies(orch: Orch) -> None:
    manifest = shop(orch, free_port())
    orch.up(manifest, "web")
    assert {one["service"] for one in orch.ps()} == {"db", "migrate", "web"}
    running = pids(orch)
    orch.up(manifest, "aside")
    assert {**pids(orch), **running} == pids(orch)
    assert set(pids(orch)) == {"shop-db-1", "shop-web-1", "shop-aside-1"}


def test_a_service_that_is_no_longer_named_is_removed(orch: Orch) -> None:
    port = free_port()
    orch.up(shop(orch, port))
    kept = pids(orch)
    orch.up(shop(orch, port, re.sub(r"\[services.aside\]\ncommand.*", "", SHOP)))
    del kept["shop-aside-1"]
    assert pids(orch) == kept


def test_a_service_that_is_no_longer_named_is_kept_when_asked_for(orch: Orch) -> None:
    port = free_port()
    orch.up(shop(orch, port))
    kept = pids(orch)
    without = shop(orch, port, re.sub(r"\[services.aside\]\ncommand.*", "", SHOP))
    orch.up(without, "--no-remove-orphans")
    assert pids(orch) == kept


def test_force_recreate_makes_everything_anew(orch: Orch) -> None:
    manifest = shop(orch, free_port())
    orch.up(manifest)
    before = {one["name"]: one["id"] for one in orch.ps()}
    orch.up(manifest, "--force-recreate")
    after = {one["name"]: one["id"] for one in orch.ps()}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def test_up_starts_what_has_ended(orch: Orch) -> None:
    manifest = shop(orch, free_port())
    orch.up(manifest)
    before = orch.container("aside")
    orch.run("kill", "-p", "shop", "aside")
    orch.wait_state("aside", "exited")
    assert orch.run("plan", manifest, check=False).returncode == 100
    orch.up(manifest)
    after = orch.container("aside")
    assert after["state"] == "running"
    assert after["id"] == before["id"]


def test_up_says_what_is_not_well_and_why(orch: Orch) -> None:
    done = orch.up(
        orch.manifest("""
        name = "ill"
        [services.db]
        command = ["sh", "-c", "exit 3"]
        healthcheck = { tcp = 80 }
        [services.web]
        command = ["sleep", "1000"]
        init = true
        depends_on = { db = "healthy" }
        """),
        check=False,
    )
    assert done.returncode == 1
    assert "ill-web-1: failed: cannot create web-1: dependency ill-db-1 exited (3)" in done.stderr


def test_up_waits_no_longer_than_it_is_told(orch: Orch) -> None:
    done = orch.up(
        orch.manifest("""
        name = "late"
        [services.web]
        command = ["sleep", "1000"]
        init = true
        healthcheck = { tcp = 80, interval = "30s" }
        """),
        "--wait-timeout", "300ms", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "late-web-1 is not healthy yet" in done.stderr
    assert "after 300ms" in done.stderr
    orch.project = "late"
    assert orch.container("web")["state"] == "running"


BAD = {
    "unknown key": ('comand = "x"', 'services.web.comand: unknown key (did you mean "command"?)'),
    "wrong type": ("replicas = true", "services.web.replicas: "),
    "missing reference": ('depends_on = ["bd"]', 'there is no service "bd"'),
    "cycle": ('depends_on = ["db"]', "db -> web -> db"),
    "same port twice": ('ports = ["9000:1", "9000:2"]', "127.0.0.1:9000/tcp is published already"),
    "impossible limit": ('resources = { memory = "1K" }', "services.web.resources.memory: "),
    "more CPUs than there are": ("resources = { cpus = 4096 }", "is more than this host has"),
    "missing folder": ('image = "dir:/nowhere/at/all"', '"/nowhere/at/all" does not exist'),
    "missing bind source": (
        'volumes = [{ source = "/nowhere/at/all", target = "/x" }]', '"/nowhere/at/all" does not exist'
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), BAD.values(), ids=BAD.keys())
def test_a_bad_manifest_is_refused_with_its_line_and_changes_nothing(
    orch: Orch, line: str, expected: str
) -> None:
    manifest = orch.manifest(f"""\
name = "bad"
[services.db]
command = ["sleep", "1000"]
depends_on = {"['web']" if "db -> web" in expected else "[]"}
[services.web]
command = ["sleep", "1000"]
{line}
""")
    done = orch.up(manifest, check=False)
    assert done.returncode == 2
    assert expected in done.stderr
    assert re.search(rf"^{manifest}:\d+: ", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert not orch.is_serving()
    assert not os.path.exists(orch.instance.state_dir)


def test_a_bad_change_leaves_what_runs_alone(orch: Orch) -> None:
    port = free_port()
    orch.up(shop(orch, port))
    before = orch.ps()
    done = orch.up(
        shop(orch, port, SHOP.replace("[services.aside]", "[services.aside]\nlabls = {}")), check=False
    )
    assert done.returncode == 2
    assert orch.ps() == before


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_another_program_has_is_refused_before_anything_changes(
    orch: Orch, protocol: str
) -> None:
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    ) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        manifest = orch.manifest(f"""\
name = "clash"
[services.first]
command = ["sleep", "1000"]
init = true
[services.web]
command = ["sleep", "1000"]
ports = [
  "80",
  "{port}:80/{protocol}",
]
""")
        for words in (("plan",), ("up", "-d"), ("up",)):
            done = orch.run(*words, manifest, check=False)
            assert done.returncode == 2
            expected = f"{manifest}:9: services.web.ports[1]: cannot publish 127.0.0.1:{port}/{protocol}: "
            assert expected + "Address already in use" in done.stderr
        assert not orch.is_serving()
        orch.up(manifest, "first")  # which needs no port
        orch.project = "clash"
        assert [one["service"] for one in orch.ps()] == ["first"]


def test_a_port_that_another_project_has_is_refused(orch: Orch) -> None:
    port = free_port()
    text = f"""
    name = "NAME"
    [services.web]
    command = ["sleep", "1000"]
    init = true
    ports = ["{port}:80"]
    """
    orch.up(orch.manifest(text.replace("NAME", "one")))
    done = orch.up(orch.manifest(text.replace("NAME", "two")), check=False)
    assert done.returncode == 2
    assert f"cannot publish 127.0.0.1:{port}/tcp" in done.stderr
    assert [one["project"] for one in orch.ps()] == ["one"]


def test_a_port_that_the_project_has_itself_may_change_hands(orch: Orch) -> None:
    port = free_port()
    text = """
    name = "swap"
    [defaults]
    init = true
    [services.a]
    command = ["sleep", "1000"]
    {a}
    [services.b]
    command = ["sleep", "1000"]
    {b}
    """
    publish, orch.project = f'ports = ["{port}:80"]', "swap"
    orch.up(orch.manifest(text.format(a=publish, b=""), "swap.toml"))
    orch.up(orch.manifest(text.format(a="", b=publish), "swap.toml"))
    assert [[port["published"] for port in one["ports"]] for one in orch.ps()] == [[], [port]]


def test_every_problem_is_told_at_once(orch: Orch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = orch.up(
            orch.manifest(f"""\
name = "bad"
[services.a]
comand = ["sleep", "1"]
image = "dir:/nowhere"
[services.b]
command = ["sleep", "1"]
ports = ["{port}:80"]
depends_on = ["c"]
"""),
            check=False,
        )
    lines = {int(number) for number in re.findall(r"^/.*?:(\d+): ", done.stderr, re.MULTILINE)}
    assert {3, 4, 7, 8} <= lines


def test_the_plan_names_every_cause(orch: Orch) -> None:
    port = free_port()
    orch.up(shop(orch, port))
    changed = re.sub(r"\[services.aside\]\ncommand.*", "", SHOP).replace('MODE = "one"', 'MODE = "two"')
    plan: dict[str, Any] = {
        operation["id"]: operation["cause"]
        for operation in orch.run("plan", shop(orch, port, changed), "--format", "json", check=False).json()[
            "operations"
        ]
    }
    assert plan == {
        "remove aside-1": "no longer in the manifest",
        "recreate web-1": "environment changed",
        "restart front-1": "dependency web is recreated",
    }
