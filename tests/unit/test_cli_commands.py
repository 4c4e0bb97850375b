from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import pytest

from orchestrator.cli import parser
from orchestrator.cli.main import main
from orchestrator.cli.project import DEFAULT_NAMES
from orchestrator.errors import LaunchError, NotFoundError, OrchError
from orchestrator.ids import Instance
from orchestrator.manifest.load import FILE_NAMES
from orchestrator.states import Health, State
from orchestrator.views import (
    EventView,
    InspectView,
    LogLine,
    PressureView,
    ProbeView,
    ProcessView,
    ProgressKind,
    Stage,
    StatsView,
    VersionView,
)
from support.fake_service import FakeService, container, exited, operation, plan, port, progress

MANIFEST = """
name = "shop"
[services.db]
command = ["sleep", "1"]
[services.web]
command = ["sleep", "1"]
depends_on = ["db"]
"""
LINES = [
    LogLine(time=1_700_000_000.0, stream="stdout", service="web", name="shop-web-1", line="ready"),
    LogLine(time=1_700_000_001.0, stream="stderr", service="db", name="shop-db-1", line="oops"),
]
OK = progress(ProgressKind.RESULT, ok=True)


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Orch = Callable[..., Result]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance of our own, in an empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ORCH_STATE_DIR", str(tmp_path))
    for name in ("ORCH_RUN_DIR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    os.mkdir(tmp_path / "run")
    return Instance.from_environment()


@pytest.fixture
def service(instance: Instance) -> Iterator[FakeService]:
    with FakeService(instance.socket).running() as running:
        running.answers("GET /v1/projects", [project("shop")])
        yield running


@pytest.fixture
def orch(instance: Instance, capsys: pytest.CaptureFixture[str]) -> Orch:
    def call(*words: str) -> Result:
        try:
            code = main(words)
        except SystemExit as end:  # argparse's --help
            code = end.code if isinstance(end.code, int) else 1
        return Result(code, *capsys.readouterr())

    return call


def project(name: str) -> dict[str, object]:
    return {"name": name, "source": f"/srv/{name}.toml", "state": "running", "services": {"web": 2}}


def write(name: str = "orch.toml", text: str = MANIFEST) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)
    return name


# The grammar


def test_alone_it_prints_help_with_all_commands_and_exit_codes(orch: Orch) -> None:
    shown = orch()
    assert shown.code == 0
    assert all(f"\n    {name} " in shown.out for name in parser.COMMANDS)
    assert "124" in shown.out
    assert "NO_COLOR" in shown.out


@pytest.mark.parametrize("command", parser.COMMANDS)
def test_every_command_has_help_with_an_example(orch: Orch, command: str) -> None:
    shown = orch(command, "--help")
    assert shown.code == 0
    assert f"usage: orch {command}" in shown.out
    assert f"  orch {command}" in shown.out.partition("examples:")[2] or command == "exec"
    assert "--run-dir" in shown.out


def test_an_unknown_command_is_answered_with_a_guess(orch: Orch) -> None:
    assert orch("inspct") == (2, "", 'orch: there is no command "inspct" (did you mean: orch inspect)\n')
    assert orch("xyzzy")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--bad"], ["logs", "--tail", "many"], ["ls", "extra"], ["ps", "--format", "toml"], ["scale"],
        ["scale", "web=x"], ["kill", "-s", "SIGFOO"], ["stop", "-t", "soon"], ["exec", "web"], ["run"],
        ["port", "web", "http"], ["up", "-d", "--exit-code-from", "web"], ["--format", "toml", "ps"],
        ["run", "--keep", "--rm", "web"], ["exec", "-e", "=x", "web", "sh"], ["inspect"],
    ],
)  # fmt: skip
def test_bad_usage_exits_with_2_and_one_line(orch: Orch, service: FakeService, words: list[str]) -> None:
    write()
    shown = orch(*words)
    assert shown.code == 2
    assert shown.out == ""
    assert shown.err.startswith("orch: ")
    assert shown.err.count("\n") == 1


def test_common_options_may_stand_before_and_after_the_command(orch: Orch, service: FakeService) -> None:
    service.answers("GET /v1/containers", [])
    orch("-p", "a", "--format", "json", "ps")
    orch("ps", "-p", "b")
    orch("-p", "a", "ps", "--project", "c")
    assert [request.query["project"] for request in service.requests] == ["a", "b", "c"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(orch: Orch, shell: str) -> None:
    shown = orch("completion", shell)
    assert shown.code == 0
    assert "unpause" in shown.out
    assert "force-recreate" in shown.out


# Which project


def test_the_names_of_manifests_are_those_of_the_manifest_room() -> None:
    assert DEFAULT_NAMES == FILE_NAMES


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('name = "alpha"', "alpha"),
        ('name = "alpha"\n[services.x]\nimag = 3\n', "alpha"),
        ("[services]", "myfolder"),
        ('name = "${NAME:-beta}"\n[services]\n', "beta"),
    ],
)
def test_a_manifest_names_the_project_even_if_it_has_problems(
    orch: Orch, service: FakeService, text: str, name: str
) -> None:
    service.answers("GET /v1/containers", [])
    assert orch("ps", write("My.Folder/x.toml", text)).code == 0
    assert service.requests[0].query == {"project": name}


def test_a_first_word_that_is_the_path_of_a_file_is_a_manifest(orch: Orch, service: FakeService) -> None:
    service.answers("GET /v1/containers", [])
    orch("ps", write("sub/manifest"), "web")
    assert service.requests[0].query == {"project": "shop", "services": "web"}


def test_a_manifest_with_broken_syntax_is_an_error_that_names_the_line(
    orch: Orch, service: FakeService
) -> None:
    shown = orch("logs", write("x.toml", 'name = "a"\n???\n'))
    assert shown.code == 2
    assert shown.err.startswith("x.toml:2: ")


def test_the_current_folders_manifest_is_next(orch: Orch, service: FakeService) -> None:
    write("manifest.toml")
    service.streams("GET /v1/logs")
    service.answers("GET /v1/containers", [])
    orch("logs")
    write("orch.toml", 'name = "first"')
    orch("logs", "--format", "json")
    assert [request.query["project"] for request in service.asked("GET /v1/logs")] == ["shop", "first"]


def test_else_the_only_project_is_meant(orch: Orch, service: FakeService) -> None:
    service.answers("POST /v1/projects/shop/kill", {"signalled": ["shop-web-1"]})
    assert orch("kill", "web") == (0, "shop-web-1 signalled\n", "")


def test_with_several_projects_one_must_be_named(orch: Orch, service: FakeService) -> None:
    service.answers("GET /v1/projects", [project("a"), project("b")])
    shown = orch("stop")
    assert shown.code == 2
    assert "several are up: a, b" in shown.err


@pytest.mark.parametrize("command", ["ps", "top", "events", "stats"])
def test_with_nothing_named_all_projects_are_shown(orch: Orch, service: FakeService, command: str) -> None:
    write()
    service.answers("GET /v1/containers", [])
    service.answers("GET /v1/top", [])
    service.streams("GET /v1/events")
    service.streams("GET /v1/stats")
    assert orch(command).code == 0
    assert "project" not in service.requests[0].query


# ps, ls


def test_ps_is_a_table(orch: Orch, service: FakeService) -> None:
    now = time.time()
    service.answers(
        "GET /v1/containers",
        [
            container(ports=[port(8080, 80)], started_at=now - 3725),
            container("db", started_at=now - 2, health=Health.STARTING, restarts=2),
            exited("job", 3, reason="exit code 3"),
        ],
    )
    assert orch("ps", "-a").lines == [
        "NAME         SERVICE   STATE        HEALTH     PID    ADDRESS     PORTS                    "
        "RESTARTS   UPTIME   REASON",
        "shop-web-1   web       running      healthy    4201   10.88.0.2   127.0.0.1:8080->80/tcp   0          1h 2m",
        "shop-db-1    db        running      starting   4201   10.88.0.2                            2          2s",
        "shop-job-1   job       exited (3)                                                          "
        "0                   exit code 3",
    ]


def test_ps_says_when_the_next_attempt_is(orch: Orch, service: FakeService) -> None:
    waiting = container(
        state=State.RESTARTING, pid=None, reason="exit code 1", next_attempt_at=time.time() + 30
    )
    service.answers("GET /v1/containers", [waiting])
    assert orch("ps").out.rstrip().endswith("exit code 1; next attempt in 30s")


def test_ps_prints_one_json_array_of_the_views(orch: Orch, service: FakeService) -> None:
    views = [container(), exited("job", 0)]
    service.answers("GET /v1/containers", views)
    assert json.loads(orch("ps", "-a", "--format", "json").out) == msgspec.to_builtins(views)
    assert orch("ps", "-q").out == "web100000000\njob100000000\n"


def test_colours_are_for_terminals_and_those_who_ask(orch: Orch, service: FakeService) -> None:
    service.answers("GET /v1/containers", [container()])
    assert "\x1b" not in orch("ps").out
    assert "\x1b[32mrunning\x1b[0m" in orch("ps", "--color", "always").out


def test_without_a_service_ps_is_empty(orch: Orch) -> None:
    assert orch("ps", "--format", "json") == (0, "[]\n", "")
    assert orch("ps").out.startswith("NAME")
    assert orch("ls", "--format", "json") == (0, "[]\n", "")


def test_a_project_that_is_not_up_has_no_containers(orch: Orch, service: FakeService) -> None:
    service.refuses("GET /v1/containers", NotFoundError('no project "x"'), 404)
    assert orch("ps", "-p", "x", "--format", "json") == (0, "[]\n", "")
    assert orch("ps", "-p", "x", "web").code == 1


def test_ls_shows_projects(orch: Orch, service: FakeService) -> None:
    assert orch("ls").lines == [
        "NAME   STATE     SERVICES   MANIFEST",
        "shop   running   web (2)    /srv/shop.toml",
    ]
    assert orch("ls", "-q").out == "shop\n"


# Without a service


@pytest.mark.parametrize(
    "command", ["logs", "stop", "kill", "wait", "inspect x", "exec x y", "port x", "stats"]
)
def test_other_commands_fail_without_a_service(orch: Orch, instance: Instance, command: str) -> None:
    shown = orch(*command.split())
    assert shown.code == 1
    assert shown.err == f"orch: no orch service is running for this instance (run dir {instance.run_dir})\n"


def test_down_has_nothing_to_do_without_a_service(orch: Orch) -> None:
    shown = orch("down")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err.startswith("nothing to do: ")


def test_plan_needs_no_service(orch: Orch) -> None:
    write()
    assert orch("plan") == (
        100,
        "plan for shop: 3 to create\n"
        "\n"
        "  + network default  create  does not exist\n"
        "  + shop-db-1        create  does not exist  (after network default)\n"
        "  + shop-web-1       create  does not exist  (after network default, shop-db-1)\n",
        "",
    )


# plan


def test_a_plan_shows_signs_causes_and_waits(orch: Orch, service: FakeService) -> None:
    write()
    service.answers(
        "POST /v1/plan",
        plan(
            operation("recreate", "shop-db-1", "image changed"),
            operation("restart", "shop-web-1", "db is recreated", after=("recreate shop-db-1",)),
            operation("remove", "shop-old-1", "not in the manifest"),
        ),
    )
    shown = orch("plan", "--no-remove-orphans", "web")
    assert shown.code == 100
    assert shown.lines == [
        "plan for shop: 1 to recreate, 1 to restart, 1 to remove",
        "",
        "  ~ shop-db-1   recreate  image changed",
        "  ~ shop-web-1  restart   db is recreated  (after shop-db-1)",
        "  - shop-old-1  remove    not in the manifest",
    ]
    assert service.requests[0].body["services"] == ["web"]
    assert service.requests[0].body["remove_orphans"] is False


def test_an_empty_plan_exits_with_0(orch: Orch, service: FakeService) -> None:
    write()
    service.answers("POST /v1/plan", plan())
    assert orch("plan") == (0, "shop is up to date\n", "")
    assert json.loads(orch("plan", "--format", "json").out) == {"project": "shop", "operations": []}


def test_every_problem_of_a_manifest_is_a_line_and_exits_with_2(orch: Orch, service: FakeService) -> None:
    shown = orch("plan", write("x.toml", "name = 3\n[services.web]\nimag = 1\n"))
    assert shown.code == 2
    assert [line.partition(": ")[0] for line in shown.err.splitlines()] == [
        "x.toml:1",
        "x.toml:2",
        "x.toml:3",
    ]
    assert service.requests == []


# Changing what is there


def test_down_shows_its_progress_as_plain_lines(orch: Orch, service: FakeService) -> None:
    service.streams(
        "POST /v1/projects/shop/down",
        progress(
            ProgressKind.PLAN, plan=plan(operation("stop", "shop-web-1"), operation("remove", "shop-web-1"))
        ),
        progress(ProgressKind.RUNNING, "stop shop-web-1"),
        progress(ProgressKind.WAITING, "stop shop-web-1", message="for shop-web-1 to exit, killed in 10s"),
        progress(ProgressKind.WAITING, "stop shop-web-1", message="for shop-web-1 to exit, killed in 10s"),
        progress(ProgressKind.DONE, "stop shop-web-1", seconds=0.25),
        progress(ProgressKind.WARNING, message="the volume is kept"),
        progress(ProgressKind.DONE, "remove shop-web-1", seconds=0.01),
        OK,
    )
    shown = orch("down", "-v", "-t", "3s")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err.splitlines() == [
        "shop-web-1: stopped in 250ms",
        "warning: the volume is kept",
        "shop-web-1: removed in 10ms",
    ]
    assert service.asked("POST /v1/projects/shop/down")[0].body == {
        "volumes": True, "timeout": 3.0, "services": [], "kill": False,
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_a_failed_operation_is_an_error(orch: Orch, service: FakeService, verb: str) -> None:
    error = OrchError(f"cannot {verb} shop-web-1", "it does not answer")
    service.streams(
        f"POST /v1/projects/shop/{verb}",
        progress(ProgressKind.PLAN, plan=plan(operation(verb, "shop-web-1"))),
        progress(ProgressKind.FAILED, f"{verb} shop-web-1", error=error.to_wire(), seconds=2.0),
        progress(ProgressKind.RESULT, ok=False, error=error.to_wire()),
    )
    shown = orch(verb, "web")
    assert shown.code == 1
    assert shown.err.splitlines() == [
        f"shop-web-1: failed in 2.0s: cannot {verb} shop-web-1: it does not answer",
        f"orch: cannot {verb} shop-web-1: it does not answer",
    ]
    assert orch(verb, "-q").err.count("\n") == 1


def test_progress_as_json_is_the_stream_itself(orch: Orch, service: FakeService) -> None:
    service.streams("POST /v1/projects/shop/scale", progress(ProgressKind.PLAN, plan=plan()), OK)
    shown = orch("scale", "api=3", "web=0", "--format", "json")
    assert [json.loads(line)["kind"] for line in shown.lines] == ["plan", "result"]
    assert service.asked("POST /v1/projects/shop/scale")[0].body == {"services": {"api": 3, "web": 0}}


def test_signals_are_named_in_any_way(orch: Orch, service: FakeService) -> None:
    service.answers("POST /v1/projects/shop/kill", {"signalled": []})
    for given in ("SIGHUP", "hup", "1"):
        orch("kill", "-s", given)
    assert {request.body["signal"] for request in service.asked("POST /v1/projects/shop/kill")} == {"SIGHUP"}


def test_pause_and_unpause_name_the_containers(orch: Orch, service: FakeService) -> None:
    for verb in ("pause", "unpause"):
        service.answers(f"POST /v1/projects/shop/{verb}", {"containers": ["shop-web-1"]})
    assert orch("pause", "web").out == "shop-web-1 paused\n"
    assert orch("unpause", "--format", "json").out == '["shop-web-1"]\n'


def test_wait_passes_the_exit_code_on(orch: Orch, service: FakeService) -> None:
    service.answers("POST /v1/projects/shop/wait", [exited("a", 0), exited("b", 7)])
    assert orch("wait", "a", "b") == (7, "shop-a-1 exited (0)\nshop-b-1 exited (7)\n", "")
    assert orch("wait", "--condition", "running").code == 0


def test_wait_exits_with_124_when_the_time_is_up(orch: Orch, service: FakeService) -> None:
    service.refuses("POST /v1/projects/shop/wait", OrchError("shop-web-1 is not healthy"), 408)
    assert orch("wait", "--timeout", "0").code == 124
    assert orch("wait", "--timeout", "60").code == 1


# Looking at what is there


def test_logs_have_aligned_prefixes(orch: Orch, service: FakeService) -> None:
    service.streams("GET /v1/logs", *LINES)
    service.answers("GET /v1/containers", [container(), container("db"), container("worker")])
    assert orch("logs", "-n", "5", "--since", "100", "web", "db").lines == [
        "web-1     | ready",
        "db-1      | oops",
    ]
    assert service.asked("GET /v1/logs")[0].query == {
        "project": "shop", "services": "web,db", "tail": "5", "since": "100.0",
    }  # fmt: skip


def test_logs_can_be_bare_or_with_times_or_json(orch: Orch, service: FakeService) -> None:
    service.streams("GET /v1/logs", *LINES)
    service.answers("GET /v1/containers", [container()])
    assert orch("logs", "--no-prefix").lines == ["ready", "oops"]
    assert orch("logs", "--no-prefix", "-t").lines[0] == "2023-11-14T22:13:20.000000Z ready"
    shown = orch("logs", "-f", "--format", "json").lines
    assert [msgspec.json.decode(line, type=LogLine) for line in shown] == LINES


def test_events_are_lines(orch: Orch, service: FakeService) -> None:
    event = EventView(
        time=1_700_000_000.0, type="container", action="oom", project="shop", service="web",
        name="shop-web-1", id="x", message="limit 64M", attributes={},
    )  # fmt: skip
    service.streams("GET /v1/events", event)
    assert orch("events").out == "2023-11-14T22:13:20.000000Z container shop-web-1 oom: limit 64M\n"
    assert json.loads(orch("events", "-f", "--format", "json").out)["action"] == "oom"
    assert service.requests[-1].query == {"follow": "1"}


def test_port_prints_the_hosts_address(orch: Orch, service: FakeService) -> None:
    views = [
        container(ports=[port(8080, 80), port(5353, 53, "udp")]),
        container(replica=2, ports=[port(8080, 80)]),
    ]
    service.answers("GET /v1/containers", views)
    assert orch("port", "web", "80").out == "127.0.0.1:8080\n"
    assert orch("port", "web", "53/udp").out == "127.0.0.1:5353\n"
    assert orch("port", "web").lines == ["80/tcp -> 127.0.0.1:8080", "53/udp -> 127.0.0.1:5353"]
    assert orch("port", "web", "81") == (1, "", 'orch: "web" does not publish port 81\n')


def inspected() -> InspectView:
    return InspectView(
        container=container(reason=""),
        spec={"name": "web"},
        spec_digest="abc",
        cgroup={"unified": "/sys/fs/cgroup/x"},
        rootfs={"lower": "/"},
        log_path="/var/log/x",
        stages=[Stage(name="cgroup", seconds=0.0011), Stage(name="clone", seconds=0.003)],
        program=["mount proc on /proc"],
        probes=[ProbeView(time=1_700_000_000.0, ok=False, output="refused", seconds=0.002)],
        environment=["PATH=/bin"],
        lsm={"apparmor": "orch-default", "in_force": "orch-default (enforce)"},
    )


def test_inspect_prints_one_object_or_a_text_with_the_stages(orch: Orch, service: FakeService) -> None:
    service.answers("GET /v1/containers/web", inspected())
    assert json.loads(orch("inspect", "web").out) == msgspec.to_builtins(inspected())
    shown = orch("inspect", "web", "--format", "text").lines
    assert "state:       running" in shown
    start = shown.index("start:")
    assert shown[start + 1 : start + 5] == [
        "  STAGE       TIME",
        "  cgroup   1.10 ms",
        "  clone    3.00 ms",
        "",
    ]
    assert "  mount proc on /proc" in shown
    modules = shown.index("security modules:")
    assert shown[modules + 1 : modules + 3] == [
        "  apparmor: orch-default",
        "  in force: orch-default (enforce)",
    ]
    assert "  2023-11-14T22:13:20.000000Z   failed   2ms    refused" in shown


def sample(name: str, cpu: float | None, **more: Any) -> StatsView:
    return StatsView(
        **more,
        project="shop", service="web", name=name, id="x", time=1.0, cpu_seconds=1.0, cpu_percent=cpu,
        cpu_throttled_seconds=0.0, memory=64 << 20, memory_peak=None, memory_limit=65 << 20, pids=3,
        pids_limit=50, io_read_bytes=0, io_write_bytes=1536, net_rx_bytes=10, net_tx_bytes=0, oom_kills=1,
    )  # fmt: skip


def test_stats_once_shows_the_busiest_first(orch: Orch, service: FakeService) -> None:
    service.streams("GET /v1/stats", [sample("a", 1.25), sample("c", None), sample("b", 90.0)])
    assert orch("stats", "--no-stream").lines == [
        "NAME   CPU %   THROTTLED   MEMORY   PEAK   LIMIT   PIDS   NET IN / OUT   DISK READ / WRITTEN   OOM",
        "b       90.0        0.0s      64M      -     65M   3/50         10 / 0              0 / 1.5K     1",
        "a        1.2        0.0s      64M      -     65M   3/50         10 / 0              0 / 1.5K     1",
        "c          -        0.0s      64M      -     65M   3/50         10 / 0              0 / 1.5K     1",
    ]
    assert len(json.loads(orch("stats", "--no-stream", "--format", "json").out)) == 3
    assert "stream" not in service.requests[-1].query


def test_stats_show_pressure_where_there_is_any_to_show(orch: Orch, service: FakeService) -> None:
    calm, hard = (
        PressureView(some_avg10=1.5, some_seconds=2.0, full_avg10=0.0, full_seconds=0.0),
        PressureView(some_avg10=80.4, some_seconds=30.0, full_avg10=12.6, full_seconds=9.0),
    )
    told = sample("a", 1.0, pressure={"cpu": hard, "memory": calm, "io": calm})
    service.streams("GET /v1/stats", [told, sample("b", None)])
    head, first, second = orch("stats", "--no-stream").lines
    assert head.endswith("OOM   CPU STALL   MEM STALL   IO STALL")
    assert first.split()[-3:] == ["80/13", "2/0", "2/0"]
    assert second.split()[-3:] == ["-", "-", "-"]


def test_stats_go_on_until_the_project_is_gone(orch: Orch, service: FakeService) -> None:
    service.streams("GET /v1/stats", [sample("a", 1.25)], [sample("a", 2.5)])
    shown = orch("stats", "--interval", "2s", "--format", "json").lines
    assert [json.loads(line)[0]["cpu_percent"] for line in shown] == [1.25, 2.5]
    assert service.requests[-1].query == {"stream": "1", "interval": "2.0"}


def test_top_is_a_table(orch: Orch, service: FakeService) -> None:
    process = ProcessView(
        name="shop-web-1",
        pid=7,
        ppid=1,
        user="root",
        cpu_seconds=0.5,
        rss=1 << 20,
        state="S",
        command="sleep 1",
    )
    service.answers("GET /v1/top", [process])
    assert orch("top").lines == [
        "NAME         PID   PPID   USER    CPU   MEMORY   S   COMMAND",
        "shop-web-1     7      1   root   0.5s       1M   S   sleep 1",
    ]


def test_version_names_client_and_service(orch: Orch, service: FakeService) -> None:
    view = VersionView(
        version="9.9",
        api=1,
        instance="abcd",
        pid=5,
        started_at=time.time() - 61,
        state_dir="/s",
        run_dir="/r",
    )
    service.answers("GET /v1/version", view)
    shown = orch("version")
    assert "service: 9.9 (API 1, pid 5, up 1m 1s, instance abcd)" in shown.lines
    assert json.loads(orch("version", "--format", "json").out)["service"]["pid"] == 5
    assert orch("--version").out.startswith("orch ")


# config


def test_config_prints_what_it_amounts_to(orch: Orch) -> None:
    path = write("x.toml", MANIFEST + 'environment = { A = "${B:-c}" }\n')
    assert json.loads(orch("config", path, "--format", "json").out)["services"]["web"]["environment"] == {
        "A": "c"
    }
    assert 'A = "c"' in orch("config", path).out
    assert orch("config", path, "--services").out == "db\nweb\n"
    assert orch("config", path, "-q") == (0, "", "")
    assert orch("config", path, "nosuch").code == 2


def test_config_prints_the_json_schema(orch: Orch) -> None:
    assert json.loads(orch("config", "--schema").out)["$schema"].startswith("https://json-schema.org/")


# doctor


@dataclass
class Finding:
    name: str
    status: str
    detail: str
    remedy: str


@pytest.mark.parametrize(("status", "code"), [("warning", 0), ("missing", 1)])
def test_doctor_says_what_to_do(orch: Orch, monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    findings = [
        Finding("cgroups", "ok", "v2", ""),
        Finding("nftables", status, "no nf_tables", "modprobe nf_tables"),
    ]
    module = ModuleType("orchestrator.doctor")
    module.examine = lambda instance: findings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orchestrator.doctor", module)
    shown = orch("doctor")
    assert shown.code == code
    assert shown.lines == [
        "WHAT       STATUS    DETAIL",
        "cgroups    ok        v2",
        f"nftables   {status}   no nf_tables",
        "nftables: modprobe nf_tables",
    ]
    assert json.loads(orch("doctor", "--format", "json").out)[1]["status"] == status


# The process


def spawn(*words: str, instance: Instance) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "ORCH_STATE_DIR": instance.state_dir, "ORCH_RUN_DIR": instance.run_dir}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", *words],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_reader_that_goes_away_is_no_error(service: FakeService, instance: Instance) -> None:
    service.streams("GET /v1/logs", *(LINES * 20_000))
    service.answers("GET /v1/containers", [])
    with spawn("logs", "-p", "shop", instance=instance) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"web-1  | ready\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_ps_loads_nothing_slow(service: FakeService, instance: Instance) -> None:
    service.answers("GET /v1/containers", [container()])
    script = (
        "import sys; from orchestrator.cli.main import main; code = main(['ps']); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "shop-web-1" in done.stdout
    slow = {
        "asyncio",
        "aiohttp",
        "anyio",
        "pyroute2",
        "http.client",
        "subprocess",
        "tomllib",
        "orchestrator.spec",
    }
    assert slow & set(done.stderr.split()) == set()


def test_a_launch_error_passes_its_status_on_for_exec_only(orch: Orch, service: FakeService) -> None:
    service.refuses("POST /v1/exec", LaunchError('cannot run "nosuch"', "ENOENT", status=127))
    assert orch("exec", "web", "nosuch") == (127, "", 'orch: cannot run "nosuch": ENOENT\n')
