"""Sound manifests: each way of writing something, and what it means."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ManifestError
from orchestrator.manifest.load import find_manifest, load
from orchestrator.spec import (
    Attachment,
    Condition,
    Dependency,
    Device,
    ExecCheck,
    Healthcheck,
    HttpCheck,
    IoLimit,
    Logging,
    Mount,
    NetworkSpec,
    Port,
    PressureTrigger,
    ProjectSpec,
    RestartPolicy,
    Selinux,
    ServiceSpec,
    TcpCheck,
    Ulimit,
    VolumeSpec,
)


def _load(folder: Path, text: str, profiles: tuple[str, ...] = (), **environ: str) -> ProjectSpec:
    (folder / "orch.toml").write_text(text)
    return load(
        str(folder / "orch.toml"), environ=environ, profiles=profiles, name="test", check_host=False
    ).project


def _service(folder: Path, text: str, **environ: str) -> ServiceSpec:
    """The service ``web`` with these keys and a command."""
    command = "" if "command" in text or "entrypoint" in text else 'command = "true"\n'
    others = '[services.db]\ncommand = "true"\nhealthcheck.tcp = 1\nrestart = "no"\n[networks.back]\n[volumes.data]\n'
    return _load(folder, f"{others}[services.web]\n{command}{text}", (), **environ).services["web"]


def _port(target: int, published: int = 0, **more: Any) -> Port:
    return Port(target=target, published=published, **more)


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("", "image", "host"),
        ('command = "sh -c \'exit 1\'"', "command", ("sh", "-c", "exit 1")),
        ('command = ["sh", "-c", "x y"]', "command", ("sh", "-c", "x y")),
        ('entrypoint = "a b"', "argv", ("a", "b")),
        ('environment = { A = "x", B = "$P" }', "environment", {"A": "x", "B": "8"}),
        ("environment = { A = 1, B = 1.5, C = true }", "environment", {"A": "1", "B": "1.5", "C": "true"}),
        ('environment = ["A=x=y", "HOME", "UNSET", "E="]', "environment", {"A": "x=y", "HOME": "/h", "E": ""}),
        ("user = 1000", "user", "1000"),
        ('user = "www-data:33"', "user", "www-data:33"),
        ('working_dir = "/a/../b/"', "working_dir", "/b"),
        ('hostname = "a.example"', "hostname", "a.example"),
        ('ports = ["8080:80"]', "ports", (_port(80, 8080),)),
        ("ports = [80]", "ports", (_port(80),)),
        ('ports = ["80/udp"]', "ports", (_port(80, protocol="udp"),)),
        ('ports = ["0.0.0.0:1:2/udp"]', "ports", (_port(2, 1, host_ip="0.0.0.0", protocol="udp"),)),
        ('ports = ["127.0.0.2::80"]', "ports", (_port(80, host_ip="127.0.0.2"),)),
        ('ports = ["8000-8002:80-82"]', "ports", (_port(80, 8000), _port(81, 8001), _port(82, 8002))),
        ('ports = ["3000-3001"]', "ports", (_port(3000), _port(3001))),
        ("ports = [{ target = 80, published = 8080 }]", "ports", (_port(80, 8080),)),
        ('ports = [{ target = "${P}", host_ip = "10.0.0.1" }]', "ports", (_port(8, host_ip="10.0.0.1"),)),
        ('expose = [80, "53/udp", "1-3"]', "expose", ("80", "53/udp", "1", "2", "3")),
        ('volumes = ["data:/d"]', "mounts", (Mount(type="volume", source="data", target="/d"),)),
        ('volumes = ["data:/d/:ro"]', "mounts", (Mount(type="volume", source="data", target="/d", read_only=True),)),
        ('volumes = ["/x/../s:/d:rw"]', "mounts", (Mount(type="bind", source="/s", target="/d", create=True),)),
        ('volumes = ["~/s:/d"]', "mounts", (Mount(type="bind", source="/h/s", target="/d", create=True),)),
        (
            'volumes = [{ type = "bind", source = "/s", target = "/d" }]',
            "mounts",
            (Mount(type="bind", source="/s", target="/d"),),
        ),
        (
            'volumes = [{ source = "/s", target = "/d", bind = { create_host_path = true } }]',
            "mounts",
            (Mount(type="bind", source="/s", target="/d", create=True),),
        ),
        (
            'volumes = [{ type = "tmpfs", target = "/d", tmpfs = { size = "1M", mode = "700" } }]',
            "mounts",
            (Mount(type="tmpfs", target="/d", size=1 << 20, mode=0o700),),
        ),
        ('devices = ["/dev/x"]', "devices", (Device(source="/dev/x", target="/dev/x"),)),
        ('devices = ["/dev/x:wr"]', "devices", (Device(source="/dev/x", target="/dev/x", permissions="rw"),)),
        ('devices = ["/dev/x:/y/"]', "devices", (Device(source="/dev/x", target="/y"),)),
        ('devices = ["/dev/x:/y:r"]', "devices", (Device(source="/dev/x", target="/y", permissions="r"),)),
        ('devices = [{ source = "/dev/a:b" }]', "devices", (Device(source="/dev/a:b", target="/dev/a:b"),)),
        (
            'devices = [{ source = "/dev/x", target = "/y", permissions = "mr" }]',
            "devices",
            (Device(source="/dev/x", target="/y", permissions="rm"),),
        ),
        ('device_cgroup_rules = ["c 01:* mr"]', "device_cgroup_rules", ("c 1:* rm",)),
        ('device_cgroup_rules = ["a *:* rwm"]', "device_cgroup_rules", ("b *:* rwm", "c *:* rwm")),
        (
            'volumes = ["/s:/d:ro,rslave,Z,cached"]',
            "mounts",
            (
                Mount(
                    type="bind", source="/s", target="/d", read_only=True, create=True, propagation="slave",
                    relabel="private",
                ),
            ),
        ),
        (
            'volumes = [{ source = "/s", target = "/d", consistency = "cached", '
            'bind = { propagation = "rshared", selinux = "z" } }]',
            "mounts",
            (Mount(type="bind", source="/s", target="/d", propagation="shared", relabel="shared"),),
        ),
        (
            'volumes = ["data:/d:nocopy,z"]',
            "mounts",
            (Mount(type="volume", source="data", target="/d", nocopy=True, relabel="shared"),),
        ),
        (
            'volumes = [{ source = "data", target = "/d", volume = { subpath = "./a//b/", nocopy = true } }]',
            "mounts",
            (Mount(type="volume", source="data", target="/d", subpath="a/b", nocopy=True),),
        ),
        ('shm_size = "1G"', "shm_size", 1 << 30),
        ('masked_paths = ["/proc/./cpuinfo", "/etc/x/"]', "masked_paths", ("/proc/cpuinfo", "/etc/x")),
        ('read_only_paths = ["/a"]', "read_only_paths", ("/a",)),
        ('unmask = "all"', "unmask", ("all",)),
        ('unmask = ["/proc/asound", "/sys/*"]', "unmask", ("/proc/asound", "/sys/*")),
        (
            'tmpfs = "/run:uid=1000,gid=7,nr_inodes=99,exec,nosuid,nodev"',
            "mounts",
            (Mount(type="tmpfs", target="/run", uid=1000, gid=7, nr_inodes=99, exec=True),),
        ),
        ('tmpfs = "/run:exec,noexec"', "mounts", (Mount(type="tmpfs", target="/run"),)),
        ('tmpfs = "/run"', "mounts", (Mount(type="tmpfs", target="/run"),)),
        (
            'tmpfs = ["/run:size=64M,mode=1777,ro"]',
            "mounts",
            (Mount(type="tmpfs", target="/run", size=64 << 20, mode=0o1777, read_only=True),),
        ),
        ("read_only = true", "read_only", True),
        ("", "networks", (Attachment(network="default"),)),
        ('network_mode = "host"', "networks", ()),
        ('networks = ["back", "default"]', "networks", (Attachment(network="back"), Attachment(network="default"))),
        ('networks = { back = { aliases = ["w"] } }', "networks", (Attachment(network="back", aliases=("w",)),)),
        ('depends_on = ["db"]', "depends_on", (Dependency(service="db"),)),
        ('depends_on = { db = "healthy" }', "depends_on", (Dependency(service="db", condition=Condition.HEALTHY),)),
        (
            'depends_on.db = { condition = "service_completed_successfully", timeout = "1m" }',
            "depends_on",
            (Dependency(service="db", condition=Condition.COMPLETED, timeout=60),),
        ),
        (
            "depends_on.db = { restart = true, required = false }",
            "depends_on",
            (Dependency(service="db", restart=True, required=False),),
        ),
        ('restart = "always"', "restart", RestartPolicy(policy="always")),
        ('restart = "on-failure:5"', "restart", RestartPolicy(policy="on-failure", max_attempts=5)),
        (
            'restart = { policy = "always", max_attempts = 2, backoff = "1s", factor = 3 }',
            "restart",
            RestartPolicy(policy="always", max_attempts=2, backoff=1, factor=3),
        ),
        (
            'restart = { policy = "on-failure", backoff_max = 90, jitter = 0, reset_after = "1h" }',
            "restart",
            RestartPolicy(policy="on-failure", backoff_max=90, jitter=0, reset_after=3600),
        ),
        ('stop_signal = "INT"', "stop_signal", "SIGINT"),
        ("stop_signal = 9", "stop_signal", "SIGKILL"),
        ('stop_grace_period = "1m30s"', "stop_grace_period", 90.0),
        ("stop_grace_period = 0.5", "stop_grace_period", 0.5),
        ('replicas = "${N:-2}"', "replicas", 2),
        ("replicas = 0", "replicas", 0),
        ('kind = "job"', "kind", "job"),
        ('labels = ["a=b", "c="]', "labels", {"a": "b", "c": ""}),
        ('labels = { "a.b" = 1 }', "labels", {"a.b": "1"}),
        ("ulimits = { nofile = 10 }", "ulimits", {"nofile": Ulimit(soft=10, hard=10)}),
        ('ulimits = { core = { soft = 0, hard = "unlimited" } }', "ulimits", {"core": Ulimit(soft=0, hard=-1)}),
        ('sysctls = { "net.core.somaxconn" = 1 }', "sysctls", {"net.core.somaxconn": "1"}),
        ('sysctls = ["kernel.sem=1 2"]', "sysctls", {"kernel.sem": "1 2"}),
        ('init = "true"', "init", True),
        ('selinux = "disable"', "selinux", Selinux(disable=True)),
        ('selinux = { type = "t_t", level = "s0:c0.c5,c9-s3:c1", user = "u", role = "r" }', "selinux",
         Selinux(type="t_t", level="s0:c0.c5,c9-s3:c1", user="u", role="r")),
        ('apparmor = "a profile//child"', "apparmor", "a profile//child"),
        ('logging = { max_size = "1M", max_files = 5 }', "logging", Logging(max_size=1 << 20, max_files=5)),
    ],
)  # fmt: skip
def test_a_key_of_a_service(tmp_path: Path, text: str, field: str, expected: object) -> None:
    assert getattr(_service(tmp_path, text, HOME="/h", P="8"), field) == expected


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ('test = "exit 1 | x"', ExecCheck(command=("/bin/sh", "-c", "exit 1 | x"))),
        ('test = "CMD-SHELL exit 1"', ExecCheck(command=("/bin/sh", "-c", "exit 1"))),
        ('test = "CMD a \'b c\'"', ExecCheck(command=("a", "b c"))),
        ('test = ["CMD", "a", "b"]', ExecCheck(command=("a", "b"))),
        ('test = ["CMD-SHELL", "a b"]', ExecCheck(command=("/bin/sh", "-c", "a b"))),
        ("tcp = 5432", TcpCheck(port=5432)),
        ('http = "http://:8080/x?y"', HttpCheck(port=8080, path="/x?y")),
        ('http = "https://example.org/"', HttpCheck(port=443, scheme="https", host="example.org")),
        ('http = "/x"\nport = 80', HttpCheck(port=80, path="/x")),
        ("http = { port = 80, status = 204 }", HttpCheck(port=80, status=(204,))),
        (
            'http = { port = 1, path = "/p", headers = { A = "b" }, status = [200, 301] }',
            HttpCheck(port=1, path="/p", headers={"A": "b"}, status=(200, 301)),
        ),
        (
            'http = { port = 1, scheme = "https", host = "h", verify = true }',
            HttpCheck(port=1, scheme="https", host="h", verify=True),
        ),
    ],
)  # fmt: skip
def test_a_probe(tmp_path: Path, text: str, test: ExecCheck | TcpCheck | HttpCheck) -> None:
    assert _service(tmp_path, f"[services.web.healthcheck]\n{text}").healthcheck == Healthcheck(test=test)


def test_the_times_of_a_health_check(tmp_path: Path) -> None:
    check = _service(
        tmp_path,
        'healthcheck = { tcp = 1, interval = "1s", timeout = 2, retries = 4, start_period = "1m", '
        'start_interval = "100ms", action = "restart" }',
    ).healthcheck
    assert check == Healthcheck(
        test=TcpCheck(port=1),
        interval=1,
        timeout=2,
        retries=4,
        start_period=60,
        start_interval=0.1,
        action="restart",
    )


@pytest.mark.parametrize(
    "text", ["disable = true", 'test = "NONE"', 'test = ["NONE"]', "tcp = 1\ndisable = true"]
)
def test_no_health_check(tmp_path: Path, text: str) -> None:
    assert _service(tmp_path, f"[services.web.healthcheck]\n{text}").healthcheck is None


def test_resources(tmp_path: Path) -> None:
    resources = _service(
        tmp_path,
        """
        [services.web.resources]
        cpus = "1.5"
        cpu_weight = 50
        cpuset = "0-1,3"
        memory = "1.5G"
        memory_high = 1073741824
        memory_swap = 0
        pids = 100
        io_weight = 10
        io = [{ device = "/dev/vda", read_bps = "1M", write_iops = 5 }]
        hugepages = { "2MB" = "4M" }
        """,
    ).resources
    assert resources.cpus == 1.5
    assert resources.cpu_weight == 50
    assert resources.cpuset == "0-1,3"
    assert resources.memory == 3 << 29
    assert resources.memory_high == 1 << 30
    assert resources.memory_swap == 0
    assert resources.pids == 100
    assert resources.io_weight == 10
    assert resources.io == (IoLimit(device="/dev/vda", read_bps=1 << 20, write_iops=5),)
    assert resources.hugepages == {"2MB": 4 << 20}


def test_pressure_in_short_and_in_full(tmp_path: Path) -> None:
    one = PressureTrigger(resource="memory", threshold=20.0)
    assert _service(tmp_path, 'pressure = { resource = "memory", threshold = "20%" }').pressure == (one,)
    text = """
        [[services.web.pressure]]
        resource = "cpu"
        kind = "full"
        threshold = 12.5
        window = "4s"
        sustained = "1m"
        action = "signal:usr1"
        [[services.web.pressure]]
        resource = "memory"
        threshold = 20
        """
    two = PressureTrigger(
        resource="cpu", kind="full", threshold=12.5, window=4.0, sustained=60.0, action="signal:SIGUSR1"
    )
    assert _service(tmp_path, text).pressure == (two, one)


@pytest.mark.parametrize("written", ['"unlimited"', "-1", "0", '"-1"'])
def test_the_limit_of_processes_is_lifted_by_a_word_only(tmp_path: Path, written: str) -> None:
    assert _service(tmp_path, "").resources.pids == 2048
    assert _service(tmp_path, f"resources = {{ pids = {written} }}").resources.pids is None


def test_a_service_may_lift_the_limit_of_swap_that_the_defaults_set(tmp_path: Path) -> None:
    project = _load(
        tmp_path,
        """
        [defaults]
        command = "true"
        resources = { memory = "8M", memory_swap = 0 }
        [services.a]
        [services.b]
        resources = { memory_swap = "unlimited" }
        """,
    )
    assert [project.services[name].resources.memory_swap for name in "ab"] == [0, None]


def test_relative_paths_start_at_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("A=1\nB=2\n")
    text = 'image = "dir:root"\nvolumes = ["./x:/x"]\nenv_file = "a.env"\nenvironment = { B = "3" }'
    service = _service(tmp_path, text)
    assert service.image == f"dir:{tmp_path}/root"
    assert service.mounts[0].source == f"{tmp_path}/x"
    assert service.environment == {"A": "1", "B": "3"}


def test_an_optional_env_file_may_be_missing(tmp_path: Path) -> None:
    assert _service(tmp_path, 'env_file = [{ path = "no.env", required = false }]').environment == {}


def test_defaults_lie_beneath_each_service(tmp_path: Path) -> None:
    project = _load(
        tmp_path,
        """
        [defaults]
        command = "sleep 1"
        environment = { A = "1", B = "2" }
        resources = { memory = "1M", pids = 5 }
        restart = { policy = "always", backoff = "1s" }
        healthcheck = { tcp = 80, interval = "1s" }
        volumes = ["./x:/x"]
        [services.a]
        [services.b]
        command = "true"
        environment = ["B=3"]
        resources.pids = 6
        restart = "on-failure:2"
        healthcheck.http = "http://:81/"
        volumes = []
        """,
    )
    a, b = project.services["a"], project.services["b"]
    assert a.command == ("sleep", "1")
    assert a.environment == {"A": "1", "B": "2"}
    assert len(a.mounts) == 1
    assert b.command == ("true",)
    assert b.environment == {"A": "1", "B": "3"}
    assert (b.resources.memory, b.resources.pids) == (1 << 20, 6)
    assert b.restart == RestartPolicy(policy="on-failure", max_attempts=2, backoff=1)
    assert b.healthcheck == Healthcheck(test=HttpCheck(port=81), interval=1)
    assert b.mounts == ()


def test_a_probe_of_its_own_undoes_disabled_defaults(tmp_path: Path) -> None:
    project = _load(
        tmp_path,
        '[defaults]\nhealthcheck = { http = "/", port = 1, disable = true }\n'
        '[services.a]\ncommand = "a"\nhealthcheck.tcp = 2\n[services.b]\ncommand = "b"\n',
    )
    assert project.services["a"].healthcheck == Healthcheck(test=TcpCheck(port=2))
    assert project.services["b"].healthcheck is None


def test_networks_and_volumes(tmp_path: Path) -> None:
    project = _load(
        tmp_path,
        """
        [services.a]
        command = "true"
        networks = ["back"]
        [networks.back]
        subnet = "10.1.0.0/24"
        gateway = "10.1.0.254"
        internal = true
        [volumes.data.labels]
        a = "b"
        """,
    )
    assert project.networks == {
        "back": NetworkSpec(name="back", subnet="10.1.0.0/24", gateway="10.1.0.254", internal=True)
    }
    assert project.volumes == {"data": VolumeSpec(name="data", labels={"a": "b"})}


def test_the_default_network_appears_when_it_is_used(tmp_path: Path) -> None:
    assert _load(tmp_path, '[services.a]\ncommand = "true"').networks == {
        "default": NetworkSpec(name="default")
    }


def test_extension_keys_are_ignored_everywhere(tmp_path: Path) -> None:
    web = 'command = "true"\nx-b = 1\nresources = { x-c = 1 }\nenvironment = { x-d = "1" }'
    assert _load(tmp_path, f'x-a = "${{NO:?}}"\n[services.web]\n{web}').services["web"].environment == {
        "x-d": "1"
    }


@pytest.mark.parametrize(
    ("folder", "text", "given", "expected"),
    [
        ("My_App.1", "", None, "my_app1"),
        ("_-x", "", None, "x"),
        ("x", 'name = "shop"', None, "shop"),
        ("x", 'name = "${N}"', None, "from-env"),
        ("x", 'name = "shop"', "mine", "mine"),
    ],
)
def test_the_name_of_a_project(
    tmp_path: Path, folder: str, text: str, given: str | None, expected: str
) -> None:
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / "orch.toml"
    path.write_text(text)
    assert load(str(path), environ={"N": "from-env"}, name=given).project.name == expected


def test_the_source_is_absolute_and_all_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("A=1")
    (tmp_path / "web.env").write_text("B=1")
    (tmp_path / "more.toml").write_text("")
    (tmp_path / "orch.toml").write_text(
        'include = "more.toml"\n[services.a]\ncommand = "a"\nenv_file = "web.env"'
    )
    monkeypatch.chdir(tmp_path)
    loaded = load("orch.toml", environ={})
    assert loaded.project.source == f"{tmp_path}/orch.toml"
    assert loaded.files == ("orch.toml", ".env", "more.toml", "web.env")


def test_a_dotenv_file_is_beneath_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\n")
    service = _service(tmp_path, 'environment = { A = "$A", B = "$B" }', B="environment")
    assert service.environment == {"A": "file", "B": "environment"}


def test_an_unset_variable_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "orch.toml"
    path.write_text('name = "x"\n[services.a]\ncommand = "true"\nuser = "${WHO}root"\n')
    loaded = load(str(path), environ={})
    assert loaded.warnings == (f'{path}:4: services.a.user: variable "WHO" is not set; it counts as empty',)
    assert loaded.project.services["a"].user == "root"


def test_include_adds_files_relative_to_each(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.toml").write_text(
        'name = "alone"\ninclude = ["../b.toml"]\n[defaults]\nuser = "a"\n'
        '[services.a]\ncommand = "a"\nvolumes = ["./x:/x"]\n[networks.shared]\n'
    )
    (tmp_path / "b.toml").write_text('[services.b]\ncommand = "b"\n[networks.shared]\n[volumes.v]\n')
    project = _load(
        tmp_path,
        'include = ["sub/a.toml", "b.toml"]\n'
        '[services.web]\ncommand = "w"\ndepends_on = ["a", "b"]\nvolumes = ["v:/v"]',
    )
    assert project.name == "test"
    assert set(project.services) == {"web", "a", "b"}
    assert project.services["a"].mounts[0].source == f"{tmp_path}/sub/x"
    assert project.services["a"].user == "a"
    assert project.services["b"].user is None  # defaults are those of the file they stand in
    assert set(project.networks) == {"shared", "default"}


_PROFILED = """
[services.web]
command = "w"
[services.debug]
command = "d"
profiles = ["debug", "all"]
depends_on = { web = { required = false }, other = { required = false } }
[services.other]
command = "o"
profiles = ["other"]
env_file = "missing.env"
"""


@pytest.mark.parametrize(
    ("profiles", "environ", "expected"),
    [
        ((), {}, {"web"}),
        (("debug",), {}, {"web", "debug"}),
        ((), {"ORCH_PROFILES": "x, all"}, {"web", "debug"}),
        ((), {"COMPOSE_PROFILES": "debug"}, {"web", "debug"}),
        (("x",), {"ORCH_PROFILES": "debug"}, {"web"}),
    ],
)
def test_profiles(
    tmp_path: Path, profiles: tuple[str, ...], environ: dict[str, str], expected: set[str]
) -> None:
    assert set(_load(tmp_path, _PROFILED, profiles, **environ).services) == expected


def test_an_optional_dependency_that_is_left_out_is_dropped(tmp_path: Path) -> None:
    debug = _load(tmp_path, _PROFILED, ("debug",)).services["debug"]
    assert [dependency.service for dependency in debug.depends_on] == ["web"]


def test_the_star_is_every_profile(tmp_path: Path) -> None:
    (tmp_path / "missing.env").write_text("")
    assert set(_load(tmp_path, _PROFILED, ("*",)).services) == {"web", "debug", "other"}


def test_a_project_without_services_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "orch.toml").write_text('name = "x"')
    assert "no service" in load(str(tmp_path / "orch.toml"), environ={}).warnings[0]


def test_find_manifest_prefers_orch_toml(tmp_path: Path) -> None:
    assert find_manifest(str(tmp_path)) is None
    (tmp_path / "manifest.toml").touch()
    assert find_manifest(str(tmp_path)) == f"{tmp_path}/manifest.toml"
    (tmp_path / "orch.toml").touch()
    assert find_manifest(str(tmp_path)) == f"{tmp_path}/orch.toml"


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "orch.toml").write_text('name = "x"\n[services.a]\ncommand = ["true"]\nports = ["80:80"]')
    script = (
        "import sys; from orchestrator.manifest.load import load; load(sys.argv[1], environ={}); "
        "heavy = {'asyncio', 'aiohttp', 'anyio', 'pyroute2', 'structlog', 'difflib', 'ipaddress', 'socket'}; "
        "print(*heavy & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "orch.toml")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout.strip() == ""


def test_the_environment_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not UTF-8"):
        _service(tmp_path, 'environment = ["BAD"]', BAD="\udcff")
