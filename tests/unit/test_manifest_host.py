"""What a host lacks."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ManifestError, UsageError
from orchestrator.manifest.host import HostProblem, host_problems, limit_problems, port_problems
from orchestrator.manifest.load import load
from orchestrator.spec import Device, IoLimit, Mount, Port, ProjectSpec, Resources, ServiceSpec, Ulimit


def _problems(service: ServiceSpec) -> list[str]:
    return [
        str(problem) for problem in host_problems(ProjectSpec(name="x", services={service.name: service}))
    ]


def test_a_service_that_asks_for_nothing_has_no_problem() -> None:
    assert _problems(ServiceSpec(name="a", resources=Resources(cpus=0.5, cpuset="0"))) == []


def test_more_cpus_than_there_are() -> None:
    (problem,) = _problems(ServiceSpec(name="a", resources=Resources(cpus=9000)))
    assert problem.startswith("services.a.resources.cpus: 9000 is more than this host has (from 0.01 to ")


def test_cpus_that_are_not_there() -> None:
    (problem,) = _problems(ServiceSpec(name="a", resources=Resources(cpuset="0,8000-8001")))
    assert problem.startswith("services.a.resources.cpuset: this host has no CPU 8000, 8001 (online: 0")


def test_memory_nodes_that_are_not_there() -> None:
    (problem,) = _problems(ServiceSpec(name="a", resources=Resources(cpuset_mems="1000")))
    assert problem.startswith(
        "services.a.resources.cpuset_mems: this host has no memory node 1000 (online: 0"
    )


def test_the_image_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert _problems(ServiceSpec(name="a", image=f"dir:{tmp_path}")) == []
    assert "does not exist" in _problems(ServiceSpec(name="a", image=f"dir:{tmp_path}/no"))[0]
    assert "is not a folder" in _problems(ServiceSpec(name="a", image=f"dir:{tmp_path}/file"))[0]


def test_a_bind_source_must_exist_unless_it_is_created(tmp_path: Path) -> None:
    def mount(create: bool) -> Mount:
        return Mount(type="bind", source=f"{tmp_path}/no", target="/x", create=create)

    assert _problems(ServiceSpec(name="a", mounts=(mount(True),))) == []
    (problem,) = _problems(ServiceSpec(name="a", mounts=(mount(False),)))
    assert "does not exist (make it, or add create = true)" in problem


def test_devices_must_be_there_and_be_devices(tmp_path: Path) -> None:
    def given(source: str) -> Device:
        return Device(source=source, target="/x")

    sources = ("/dev/null", "/dev/nothing", str(tmp_path / "file"), "/dev/.", str(tmp_path), "/dev/shm/none")
    (tmp_path / "file").touch()
    assert _problems(ServiceSpec(name="a", devices=tuple(map(given, sources)))) == [
        'services.a.devices.1: "/dev/nothing": No such file or directory '
        "(load the driver that makes it, or leave it out)",
        f'services.a.devices.2: "{tmp_path}/file" is not a device (mount a file or folder with volumes)',
        'services.a.devices.3: "/dev/." would give every device of the host (name those that are needed)',
        f'services.a.devices.4: "{tmp_path}" is a folder outside of /dev (mount it with volumes, or name a device)',
        'services.a.devices.5: "/dev/shm/none": No such file or directory '
        "(load the driver that makes it, or leave it out)",
    ]


def test_disks_must_be_block_devices() -> None:
    limits = (IoLimit(device="/dev/nothing", read_bps=1), IoLimit(device="/dev/null", read_bps=1))
    missing, other = _problems(ServiceSpec(name="a", resources=Resources(io=limits)))
    assert missing == 'services.a.resources.io.0: "/dev/nothing": No such file or directory'
    assert other == 'services.a.resources.io.1: "/dev/null" is not a block device'


@pytest.fixture
def bounded() -> Iterator[int]:
    """The pid of a process without capabilities whose hard limits are low."""
    script = """
import ctypes, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
open("/proc/self/oom_score_adj", "w").write("300")
libc = ctypes.CDLL(None, use_errno=True)
header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capset(header, nothing) == 0
print("ready", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process.pid
    process.communicate("\n", timeout=10)


def _beyond(pid: int, **fields: Any) -> list[str]:
    project = ProjectSpec(name="x", services={"a": ServiceSpec(name="a", **fields)})
    return [str(problem) for problem in limit_problems(project, lambda: pid)]


def test_limits_within_the_services_own_are_no_problem(bounded: int) -> None:
    limits = {
        "nofile": Ulimit(soft=10, hard=100), "nproc": Ulimit(soft=1, hard=2), "locks": Ulimit(soft=1, hard=-1),
    }  # fmt: skip
    assert _beyond(bounded, ulimits=limits, oom_score_adj=300) == []


def test_a_limit_above_the_services_own_takes_a_capability(bounded: int) -> None:
    limits = {"nofile": Ulimit(soft=10, hard=101), "nproc": Ulimit(soft=1, hard=-1)}
    assert _beyond(bounded, ulimits=limits, oom_score_adj=-5) == [
        "services.a.ulimits.nofile: a hard limit of 101 is above the service's own hard limit, 100"
        " (going beyond its own takes CAP_SYS_RESOURCE, which orch lacks here)",
        "services.a.ulimits.nproc: unlimited is above the service's own hard limit, 200"
        " (going beyond its own takes CAP_SYS_RESOURCE, which orch lacks here)",
        "services.a.oom_score_adj: -5 is below the service's own, 300"
        " (going beyond its own takes CAP_SYS_RESOURCE, which orch lacks here)",
    ]


def test_nobody_may_have_more_descriptors_than_the_kernel_allows(bounded: int) -> None:
    (problem,) = _beyond(bounded, ulimits={"nofile": Ulimit(soft=10, hard=-1)})
    assert problem.startswith(
        "services.a.ulimits.nofile: unlimited is above what the kernel allows, fs.nr_open"
    )


def test_a_project_that_asks_for_nothing_of_the_kind_is_not_looked_at() -> None:
    project = ProjectSpec(name="x", services={"a": ServiceSpec(name="a")})
    assert limit_problems(project, lambda: pytest.fail("it was")) == []


def test_nothing_is_said_of_a_service_that_nobody_knows() -> None:
    limits = {"nofile": Ulimit(soft=10, hard=-1)}
    project = ProjectSpec(name="x", services={"a": ServiceSpec(name="a", ulimits=limits)})
    assert limit_problems(project, lambda: None) == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_is_taken(protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        number = taken.getsockname()[1]
        port = Port(target=1, published=number, protocol=protocol)  # type: ignore[arg-type]
        assert port_problems([("a", 0, port), ("a", 1, Port(target=1))]) == [
            HostProblem(
                "a",
                ("ports", 0),
                f"cannot publish 127.0.0.1:{number}/{protocol}: Address already in use "
                "(stop the program that has it, or publish another port)",
            )
        ]
    assert port_problems([("a", 0, port)]) == []


def test_load_says_where_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "orch.toml"
    path.write_text(
        """
        name = "x"
        [defaults.resources]
        cpus = 5000
        [services.a]
        command = "true"
        image = "dir:./no"
        volumes = [
            "./made:/made",
            { source = "./no", target = "/no" },
        ]
        devices = [
            "/dev/null:/dev/other",
            "/dev/nothing",
        ]
        [[services.a.resources.io]]
        device = "/dev/null"
        read_bps = 1
        """
    )
    with pytest.raises(ManifestError) as caught:
        load(str(path), environ={})
    assert [problem.removeprefix(f"{path}:").partition(": ")[0] for problem in caught.value.problems] == [
        "4", "7", "10", "14", "16",
    ]  # fmt: skip
    assert "defaults.resources.cpus: 5000 is more" in caught.value.problems[0]
    assert caught.value.problems[0].endswith('(in service "a")')
    assert len(load(str(path), environ={}, check_host=False).project.services) == 1


def test_load_says_where_a_taken_port_is_written(tmp_path: Path) -> None:
    path = tmp_path / "orch.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        path.write_text(f"""\
name = "x"
[services.a]
command = "true"
ports = [
    "80",
    "{number}:80",
]
""")

        def choose(project: ProjectSpec) -> list[tuple[str, int, Port]]:
            return [("a", index, port) for index, port in enumerate(project.services["a"].ports)]

        with pytest.raises(ManifestError) as caught:
            load(str(path), environ={}, ports_to_take=choose)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{path}:6: services.a.ports[1]: cannot publish 127.0.0.1:{number}/tcp: ")
        assert load(str(path), environ={}, ports_to_take=lambda project: ()).project.name == "x"


def test_what_the_service_refuses_is_told_with_the_lines_of_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "orch.toml"
    path.write_text("""\
[defaults.resources]
memory_low = "1M"
[services.b]
command = "true"
[services.a]
command = "true"
[[services.a.resources.io]]
device = "/dev/x"
read_bps = 1
""")
    loaded = load(str(path), environ={}, check_host=False, name="x")
    refusal = UsageError(
        "services.a.resources.io.0: no such disk (x)\n"
        "services.a.resources.memory_low: cgroup v1 protects no memory (leave it out)"
    )
    error = loaded.placed(refusal)
    assert isinstance(error, ManifestError)
    assert error.problems == (
        f'{path}:2: defaults.resources.memory_low: cgroup v1 protects no memory (leave it out) (in service "a")',
        f"{path}:7: services.a.resources.io[0]: no such disk (x)",
    )
    other = UsageError("cannot scale web", "it publishes a fixed port")
    assert loaded.placed(other) is other
    assert loaded.placed(UsageError("services.c.image: x")).__class__ is UsageError
