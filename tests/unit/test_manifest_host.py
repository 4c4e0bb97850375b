"""What a host lacks."""

import socket
from pathlib import Path

import pytest

from orchestrator.errors import ManifestError
from orchestrator.manifest.host import HostProblem, host_problems, port_problems
from orchestrator.manifest.load import load
from orchestrator.spec import Device, IoLimit, Mount, Port, ProjectSpec, Resources, ServiceSpec


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
