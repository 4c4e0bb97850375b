"""Problems: each says file, line, key, what is wrong and what is allowed; all come at once."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ManifestError
from orchestrator.manifest.document import MAX_FILE_SIZE
from orchestrator.manifest.load import load
from orchestrator.manifest.schema import DEFAULTS, HEALTHCHECK, MANIFEST, NETWORK, RESOURCES, SERVICE


def _problems(folder: Path, text: str, profiles: tuple[str, ...] = (), **environ: str) -> list[str]:
    """The problems of a manifest, without its path."""
    path = folder / "orch.toml"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load(str(path), environ=environ, profiles=profiles, name="test", check_host=False)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("intervall = 1", "services.web.intervall: unknown key"),
        ("comand = 1", 'services.web.comand: unknown key (did you mean "command"?)'),
        ('mem_limit = "1G"', 'services.web.mem_limit: unknown key (did you mean "resources.memory"?)'),
        ("cpus = 1", 'services.web.cpus: unknown key (did you mean "resources.cpus"?)'),
        ("healthcheck = { intervall = 1, tcp = 1 }", '.healthcheck.intervall: unknown key (did you mean "interval"?)'),
        ("read_only = 1", "services.web.read_only: expected true or false, got the number 1"),
        ('replicas = "x"', 'services.web.replicas: "x" is not a whole number (from 0 to 1023)'),
        ("replicas = -1", "-1 is out of range"),
        ("replicas = 1.5", "expected a whole number, got the number 1.5"),
        ("command = 5", "expected a string or a list of strings, got the number 5"),
        ('command = ["a", 5]', "services.web.command[1]: expected a string, got the number 5"),
        ("command = \"a 'b\"", "cannot be split into words: no closing quotation"),
        ("command = []", "is empty: there is no program to run"),
        ('command = "a\\u0000b"', "contains a NUL character"),
        ("environment = 5", "expected a table or a list of strings"),
        ("environment = { A = [] }", "environment.A: expected a string, a number or a boolean, got a list"),
        ('environment = { "A=" = 1 }', "cannot name an environment variable"),
        ('environment = ["A=1", "A=2"]', 'services.web.environment[1]: "A" is given twice'),
        ('environment = { A = "${NO:?set it}" }', 'services.web.environment.A: variable "NO" is required: set it'),
        ('environment = { A = "5$" }', 'write "$$" for a dollar sign'),
        ('env_file = "no.env"', 'services.web.env_file: "no.env" cannot be read: No such file or directory'),
        ('working_dir = "a"', "is not an absolute path in the container"),
        ('user = "a b"', "is not a user"),
        ("user = 4294967295", "out of range"),
        ('hostname = "-a"', "is not a host name"),
        ('image = "nginx:1"', 'come in a later version (allowed: "host", "dir:PATH")'),
        ('image = "dir:"', 'allowed: "host", "dir:PATH"'),
        ('ports = ["x:80"]', '"x:80" is not a port'),
        ('ports = ["99999:80"]', "99999 is out of range (from 0 to 65535)"),
        ("ports = [0]", "0 is out of range (from 1 to 65535)"),
        ('ports = ["80/sctp"]', '"sctp" is not a protocol (allowed: tcp, udp)'),
        ('ports = ["1-3:1-2"]', "publishes 3 ports for 2"),
        ('ports = ["3-1"]', 'counts backwards (write "1-3")'),
        ('ports = ["localhost:1:1"]', '"localhost" is not an IPv4 address'),
        ('ports = ["[::1]:1:1"]', '"::1" is not an IPv4 address'),
        ("ports = [{ published = 1 }]", 'services.web.ports[0]: lacks "target"'),
        ('ports = [{ target = 1, protocol = "tpc" }]', 'ports[0].protocol: "tpc" is not allowed (did you mean "tcp"?)'),
        ('volumes = ["data"]', "names no source"),
        ('volumes = ["data:x"]', '"x" is not an absolute path in the container'),
        ('volumes = ["data:/"]', 'nothing can be mounted on "/"'),
        ('volumes = ["data:/proc/1"]', 'nothing can be mounted on "/proc/1"'),
        ('volumes = ["data:/d:nocoyp"]', '"nocoyp" is not an option of a mount (allowed: ro, rw, '),
        ('volumes = ["data:/d:ro,"]', '"" is not an option of a mount (allowed: ro, rw, z, Z, nocopy, private, '),
        ('volumes = ["./x:/d:nocopy"]', '"nocopy" has no meaning for a bind (only for a volume)'),
        ('volumes = ["data:/d:rshared"]', '"propagation" has no meaning for a volume (only for a bind)'),
        ('volumes = [{ source = "data", target = "/d", uid = 1 }]', '"uid" has no meaning for a volume'),
        ('volumes = [{ source = "data", target = "/d", subpath = "../x" }]', "is not a path within a volume"),
        ('volumes = [{ source = "data", target = "/d", subpath = "/x" }]', "is not a path within a volume"),
        ('volumes = [{ source = "data", target = "/d", volume = { subpath = "./" } }]', "is not a path within a"),
        ('volumes = [{ source = "./x", target = "/d", propagation = "salve" }]', 'did you mean "slave"?'),
        ('volumes = [{ source = "./x", target = "/d", bind = { selinux = "y" } }]', '"y" is not allowed'),
        ('volumes = [{ type = "tmpfs", target = "/d", relabel = "shared" }]', '"relabel" has no meaning for a tmpfs'),
        ('volumes = ["dta:/d"]', 'services.web.volumes[0]: there is no volume "dta" (did you mean "data"?)'),
        ('volumes = ["a/b:/d"]', 'a folder is written "./a/b"'),
        ('volumes = ["data:/d", "./x:/d/"]', 'services.web.volumes[1]: "/d" is mounted on already'),
        ('volumes = ["~/x:/d"]', "needs the variable HOME"),
        ('volumes = [{ type = "bind", target = "/d" }]', 'lacks "source" (a path of the host)'),
        ('volumes = [{ type = "volume", source = "./x", target = "/d" }]', "is not the name of a volume"),
        ('volumes = [{ type = "tmpfs", source = "x", target = "/d" }]', "a tmpfs has no source"),
        ('volumes = [{ source = "data", target = "/d", size = 1 }]', '"size" has no meaning for a volume'),
        ('tmpfs = "/run:size=big"', "is not a size"),
        ('tmpfs = "/run:mode=999"', "is not a file mode"),
        ('devices = ["fuse"]', 'services.web.devices[0]: "fuse" is not an absolute path (write the path of a device'),
        ('devices = ["v.com/d=gpu"]', '"v.com/d=gpu" is the name of a CDI device, which orch does not know'),
        ('devices = ["/dev/x:/dev/y:rx"]', '"rx" are not permissions of a device (allowed: "r", "w" and "m"'),
        ('devices = ["/dev/x:rr"]', '"rr" are not permissions of a device'),
        ('devices = ["/dev/x:/y:"]', '"" are not permissions of a device'),
        ('devices = ["/dev/x:a:/y:r"]', "has too many parts"),
        ('devices = ["/dev/x:y:rw"]', '"y" is not an absolute path in the container'),
        ('devices = ["/dev/x:/proc/y"]', 'nothing can be mounted on "/proc/y"'),
        ('devices = ["/dev/zero:/dev/null"]', 'every container has a "/dev/null" of its own'),
        ('devices = [{ source = "/dev/ptmx" }]', 'every container has a "/dev/ptmx" of its own'),
        ('devices = [{ target = "/dev/x" }]', 'services.web.devices[0]: lacks "source"'),
        ('devices = [{ source = "/dev/x", permissions = "a" }]', 'devices[0].permissions: "a" are not permissions'),
        ('devices = ["/dev/x", "/dev/y:/dev/x"]', 'services.web.devices[1]: "/dev/x" is mounted on already, at'),
        ('volumes = ["data:/d"]\ndevices = ["/dev/y:/d"]', 'services.web.devices[0]: "/d" is mounted on already, at'),
        ('device_cgroup_rules = ["c 1:3"]', 'device_cgroup_rules[0]: "c 1:3" is not a rule for devices'),
        ('device_cgroup_rules = ["x 1:3 r"]', '"x 1:3 r" is not a rule for devices (write type major:minor'),
        ('device_cgroup_rules = ["c 1:3 rx"]', '"rx" are not permissions of a device'),
        ('device_cgroup_rules = ["c 4096:0 r"]', "4096 is out of range (from 0 to 4095)"),
        ('device_cgroup_rules = ["c 1:1048576 r"]', "1048576 is out of range (from 0 to 1048575)"),
        ('device_cgroup_rules = [{ deny = "all" }]', "expected a rule, got a table"),
        ('tmpfs = "/run:suid"', '"suid" is not an option of a tmpfs (allowed: size=, mode=, nr_inodes=, uid=, gid='),
        ('tmpfs = "/run:exec=1"', '"exec=1" is not an option of a tmpfs'),
        ('tmpfs = "/run:uid=-1"', "-1 is out of range (from 0 to 4294967294)"),
        ('tmpfs = "/run:nr_inodes=0"', "0 is out of range (at least 1)"),
        ('tmpfs = "/dev/shm"\nshm_size = "1M"', "services.web.shm_size: has no meaning beside a mount on /dev/shm"),
        ('shm_size = "0"', "is too small"),
        ('masked_paths = ["/"]', "services.web.masked_paths[0]: \"/\" is the whole container"),
        ('read_only_paths = ["x"]', "is not an absolute path in the container"),
        ('unmask = "/etc"', 'services.web.unmask: "/etc" is not masked by default (allowed: "all", or paths in'),
        ('unmask = ["al"]', '"al" is not an absolute path'),
        ('tmpfs = "/run"\nvolumes = ["data:/run"]', 'services.web.tmpfs: "/run" is mounted on already'),
        ('networks = ["bak"]', 'services.web.networks[0]: there is no network "bak" (did you mean "back"?)'),
        ('networks = ["host"]', 'did you mean network_mode = "host"?'),
        ('networks = ["back", "back"]', 'services.web.networks[1]: "back" is named twice'),
        ('networks = { back = { aliases = ["a b"] } }', "networks.back.aliases[0]: "),
        ('network_mode = "hots"', 'did you mean "host"?'),
        ('network_mode = "none"\nports = [80]', 'services.web.ports: cannot be combined with network_mode "none"'),
        ('network_mode = "host"\nnetworks = ["back"]', 'cannot be combined with network_mode "host"'),
        ('network_mode = "none"\nhealthcheck = { tcp = 1 }', 'services.web.healthcheck.tcp: cannot reach'),
        ('network_mode = "host"\nsysctls = { "net.x" = 1 }', "would change the host's own network"),
        ('depends_on = ["bd"]', 'services.web.depends_on[0]: there is no service "bd" (did you mean "db"?)'),
        ('depends_on = ["web"]', "a service cannot depend on itself"),
        ('depends_on = ["db", "db"]', 'depends_on[1]: "db" is named twice'),
        ('depends_on = { db = "healthy" }', 'services.web.depends_on.db: service "db" has no healthcheck'),
        ('depends_on = { db = "completed" }', 'service "db" never completes, since its restart is "always"'),
        ('depends_on = { db = { condition = "strated" } }', 'depends_on.db.condition: "strated" is not allowed'),
        ('depends_on = { db = { timeout = 0 } }', "a duration of 0 is impossible (above 0s)"),
        ('selinux = "off"', 'services.web.selinux: "off" is not allowed (allowed: disable)'),
        ('selinux = { type = "a b" }', 'services.web.selinux.type: "a b" is not a name of SELinux'),
        ('selinux = { level = "c1,c2" }', '"c1,c2" is not a level of SELinux (write it like "s0:c1,c2")'),
        ('selinux = { level = "s0:c1,c1024" }', "has a category c1024 (from c0 to c1023)"),
        ('selinux = { disable = true, level = "s0" }', "selinux: disables the label, and yet gives it a level"),
        ('selinux = { label = "x" }', "services.web.selinux.label: unknown key"),
        ('apparmor = " "', "services.web.apparmor: ' ' is not the name of a profile"),
        ('apparmor = "a\\nb"', "is not the name of a profile"),
        ('security_opt = ["label=disable"]', 'did you mean no_new_privileges, seccomp, selinux or apparmor?'),
        ("healthcheck = { interval = 1 }", "does not say what to check (one of test, tcp, http"),
        ("healthcheck = { tcp = 1, test = \"x\" }", "has test and tcp at once"),
        ('healthcheck = { test = ["a"] }', 'must be ["CMD"'),
        ('healthcheck = { test = " " }', "the command is empty"),
        ('healthcheck = { http = "/x" }', "does not name a port"),
        ('healthcheck = { http = "ftp://:1/" }', "is not a URL"),
        ('healthcheck = { http = "http://:80/", port = 81 }', "contradicts http, which says 80"),
        ("healthcheck = { tcp = 1, port = 1 }", "has no meaning beside tcp"),
        ("healthcheck = { tcp = 70000 }", "70000 is out of range (from 1 to 65535)"),
        ('healthcheck = { tcp = 1, interval = "5 parsecs" }', "is not a duration"),
        ("healthcheck = { tcp = 1, timeout = -1 }", "a duration of -1 is impossible"),
        ("healthcheck = { tcp = 1, timeout = inf }", "the duration is not finite"),
        ("healthcheck = { tcp = 1, retries = 0 }", "0 is out of range (at least 1)"),
        ('restart = "sometimes"', '"sometimes" is not a restart policy'),
        ('restart = "always:3"', '"always" takes no number of attempts'),
        ('restart = { backoff = "1s" }', "lacks policy"),
        ('restart = { policy = "no", max_attempts = 1 }', 'has no meaning with policy "no"'),
        ('restart = { policy = "always", backoff = "2m" }', "120s is above backoff_max, 60s"),
        ('restart = { policy = "always", jitter = 2 }', "2 is out of range (from 0 to 1)"),
        ('kind = "job"\nrestart = "always"', 'a job with "always" would never end'),
        ('stop_signal = "SIGTREM"', 'did you mean "SIGTERM"?'),
        ("stop_signal = 99", "there is no signal 99"),
        ('stop_signal = "SIGSTOP"', "stops no process for good"),
        ('labels = ["x"]', 'has no value (write "NAME=value")'),
        ("ulimits = { nofil = 1 }", '"nofil" is not a resource limit (did you mean "nofile"?)'),
        ("ulimits = { nofile = { soft = 2, hard = 1 } }", "the soft limit 2 is above the hard limit 1"),
        ("ulimits = { nofile = { soft = 2 } }", 'services.web.ulimits.nofile: lacks "hard"'),
        ('sysctls = { "vm.swappiness" = 1 }', "belongs to the whole host"),
        ('sysctls = { "net/../x" = 1 }', "is not the name of a sysctl"),
        ("logging = { max_size = 1 }", "is too small (at least 4K)"),
        ('logging = { driver = "x" }', "logs are always rotated files"),
        ("resources = { cpus = 0 }", "0 is out of range (from 0.01 to"),
        ("resources = { cpus = nan }", "is out of range"),
        ("resources = { cpu_weight = 0 }", "0 is out of range (from 1 to 10000)"),
        ("resources = { io_weight = 10001 }", "10001 is out of range"),
        ('resources = { cpuset = "a" }', "is not a list of CPUs"),
        ('resources = { cpuset = "3-1" }', "counts backwards"),
        ('resources = { memory = "1K" }', 'a size of "1K" is too small (at least 512K)'),
        ("resources = { memory = -1 }", "a size of -1 is too small"),
        ('resources = { memory = "999999999999T" }', "too large"),
        ('resources = { memory = "1G", memory_high = "2G" }', "resources.memory_high: 2G is above memory, 1G"),
        ("resources = { memory_swap = 0 }", "resources.memory_swap: needs memory"),
        ("resources = { pids = -2 }", "-2 is out of range"),
        ("resources = { cpu_burst = 1 }", "needs cpus, on top of which it counts"),
        ("resources = { cpus = 1, cpu_burst = 1.5 }", "1.5 is above cpus, 1, and the kernel takes no more"),
        ('resources = { memory = "8M", memory_low = "9M" }', "9M is above memory, 8M"),
        ('resources = { memory_low = "8M", memory_min = "9M" }', "9M is above memory_low, 8M"),
        ("resources = { cpuset_mems = 5000 }", "there is no memory node 5000 (Linux counts to 1023 at most)"),
        ('resources = { cpuset_mems = "a" }', '"a" is not a list of memory nodes'),
        ("resources = { cpu_quota = 5 }", 'did you mean "cpus"'),
        ("pressure = { resource = 'memory' }", 'lacks "threshold"'),
        ("pressure = [{ threshold = '20%' }]", 'pressure[0]: lacks "resource"'),
        ("pressure = { resource = 'swap', threshold = 5 }", '"swap" is not allowed'),
        ("pressure = { resource = 'io', threshold = 0 }", "0 is out of range (from 0.1 to 100)"),
        ("pressure = { resource = 'io', threshold = '101%' }", "is out of range (from 0.1 to 100)"),
        ("pressure = { resource = 'io', threshold = '%' }", "is not a number"),
        ("pressure = { resource = 'io', threshold = 5, window = '400ms' }", "(from 500ms to 10s)"),
        ("pressure = { resource = 'io', threshold = 5, window = '11s' }", "a window of 11s is out of range"),
        ("pressure = { resource = 'io', threshold = 5, action = 'restrat' }", 'did you mean "restart"'),
        ("pressure = { resource = 'io', threshold = 5, action = 'signal:NO' }", "is not a signal"),
        ("pressure = { resource = 'io', threshold = 5, action = 'signal' }", '"signal" is not allowed'),
        ("oom_score_adj = -1001", "-1001 is out of range (from -1000 to 1000)"),
        ("mem_swappiness = 5", "memory_swap = 0 forbids swap"),
        ('resources = { io = [{ device = "/dev/x" }] }', "resources.io[0]: sets no limit"),
        ('resources = { io = [{ device = "vda", read_bps = 1 }] }', "is not the path of a device"),
        (
            'resources = { io = [{ device = "/dev/x", read_bps = 1 }, { device = "/dev/x", read_bps = 1 }] }',
            'resources.io[1]: "/dev/x" has limits already',
        ),
        ('resources = { hugepages = { "2M" = "4M" } }', "is not a size of huge pages"),
        ('resources = { hugepages = { "2MB" = "3M" } }', "resources.hugepages.2MB: must be a multiple of 2MB"),
        ('profiles = ["a b"]', "is not the name of a profile"),
        ("x = 2020-01-01", "unknown key"),
        ("user = 2020-01-01", "expected a user, got a date or time"),
    ],
)  # fmt: skip
def test_a_problem_of_a_service(tmp_path: Path, text: str, expected: str) -> None:
    command = "" if text.startswith("command") else 'command = "true"\n'
    others = '[services.db]\ncommand = "true"\nrestart = "always"\n[networks.back]\n[volumes.data]\n'
    (problem,) = _problems(tmp_path, f"{others}[services.web]\n{command}{text}")
    assert expected in problem
    line = problem.partition(":")[0]
    assert int(line) > 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = \n", "1: not TOML: Invalid value (column 5)"),
        ("[a", "1: not TOML: Expected ']' at the end of a table declaration at the end of the file"),
        ("a = 1\n\n[b]\na = 1\na = 2\n", "5: not TOML: Cannot overwrite a value (column 6)"),
        ("d = 9999-99-99", "1: not TOML: "),
        ("a = " + "[" * 5000 + "]" * 5000, " is nested too deeply"),
        ("a = " + "9" * 5000, " not TOML: "),
        ('name = "A"', '1: name: "A" is not a name (allowed: '),
        ('colour = "red"', "1: colour: unknown key (allowed: name, include, "),
        ('version = "3"', "manifests need none; remove it"),
        ("services = 5", "1: services: expected a table of services, got the number 5"),
        ("[services.A]\ncommand = 'a'", '1: services.A: "A" is not a name'),
        ("[services]\nweb = 5", "2: services.web: expected a table, got the number 5"),
        ("[services.web]", "1: services.web: has nothing to run"),
        ("[defaults]\ndepends_on = []", "2: defaults.depends_on: unknown key (it must be given for each service)"),
        ('[defaults]\nrestrat = "no"', '2: defaults.restrat: unknown key (did you mean "restart"?)'),
        (
            '[defaults]\nresources.memory = "1M"\n[services.web]\ncommand = "a"\nresources.memory_high = "2M"',
            "5: services.web.resources.memory_high: 2M is above memory, 1M",
        ),
        (
            '[defaults]\nresources.memory_high = "2M"\n[services.web]\ncommand = "a"\nresources.memory = "1M"',
            '2: defaults.resources.memory_high: 2M is above memory, 1M, and so would never be reached (in',
        ),
        ('[networks.a]\nsubnet = "10.0.0.0/33"', "2: networks.a.subnet: "),
        ('[networks.a]\nsubnet = "10.0.0.1/24"', 'did you mean "10.0.0.0/24"?'),
        ('[networks.a]\nsubnet = "10.0.0.0/31"', "is too small (from /8 to /30)"),
        ('[networks.a]\nsubnet = "127.0.0.0/8"', "containers cannot have addresses of"),
        ('[networks.a]\nsubnet = "0.0.0.0/8"', "containers cannot have addresses of"),
        ('[networks.a]\ngateway = "10.0.0.1"', "2: networks.a.gateway: needs a subnet"),
        ('[networks.a]\nsubnet = "10.0.0.0/24"\ngateway = "10.0.1.1"', "3: networks.a.gateway: 10.0.1.1 is not in"),
        ('[networks.a]\nsubnet = "10.0.0.0/24"\ngateway = "10.0.0.255"', "is not a host's address (10.0.0.1 to"),
        (
            '[networks.a]\nsubnet = "10.0.0.0/16"\n[networks.b]\nsubnet = "10.0.1.0/24"',
            '4: networks.b.subnet: 10.0.1.0/24 overlaps 10.0.0.0/16 of network "a"',
        ),
        (
            '[networks.a]\nsubnet = "10.0.0.0/29"\n[services.w]\ncommand = "a"\nreplicas = 6\nnetworks = ["a"]',
            "2: networks.a.subnet: 10.0.0.0/29 has room for 5 containers, and 6 join",
        ),
        ('[networks.a.ipam]', 'did you mean "subnet" and "gateway"?'),
        ('[volumes.a]\ndriver = "x"', "volumes are always folders that orch keeps"),
        ('include = "no.toml"', '1: include: "no.toml" cannot be read: No such file or directory'),
        ('include = ["orch.toml"]', "1: include[0]: files include each other in a circle: "),
        ("include = [\"a\\u0000\"]", "contains a NUL character"),
    ],
)  # fmt: skip
def test_a_problem_of_a_manifest(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = _problems(tmp_path, text)
    assert expected in problem


def _service(name: str, text: str) -> str:
    return f'[services.{name}]\ncommand = "true"\n{text}\n'


def test_all_problems_come_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    problems = _problems(
        tmp_path,
        'colour = 1\n[services.b]\ncommand = 5\nports = [80, "x", "y"]\n[services.a]\nuser = true\n[networks.N]\n',
    )
    assert [problem.partition(": ")[0] for problem in problems] == ["1", "3", "4", "4", "5", "6", "7"]
    assert problems[4] == (
        "5: services.a: has nothing to run (write command; an image that is a folder or the host has none)"
    )


def test_a_cycle_is_printed(tmp_path: Path) -> None:
    text = (
        _service("a", 'depends_on = ["b"]')
        + _service("b", 'depends_on = ["c"]')
        + _service("c", 'depends_on = ["a"]')
    )
    (problem,) = _problems(tmp_path, text + _service("d", 'depends_on = ["a"]'))
    assert (
        problem == "9: services.c.depends_on[0]: services depend on each other in a circle: a -> b -> c -> a"
    )


def test_two_cycles_are_two_problems(tmp_path: Path) -> None:
    pairs = (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"))
    problems = _problems(
        tmp_path, "".join(_service(one, f'depends_on = ["{other}"]') for one, other in pairs)
    )
    assert [problem.rpartition(": ")[2] for problem in problems] == ["a -> b -> a", "c -> d -> c"]


def test_a_long_chain_of_dependencies_is_no_problem(tmp_path: Path) -> None:
    text = "".join(_service(f"s{n}", f'depends_on = ["s{n + 1}"]') for n in range(3000)) + _service(
        "s3000", ""
    )
    (tmp_path / "orch.toml").write_text(text)
    assert len(load(str(tmp_path / "orch.toml"), environ={}, name="x").project.services) == 3001


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("8080:80", "8080:81", True),
        ("0.0.0.0:8080:80", "8080:81", True),
        ("127.0.0.1:8080:80", "127.0.0.2:8080:80", False),
        ("8080:80", "8080:80/udp", False),
        ("8000-8010:80-90", "8005:80", True),
        ("0:80", "0:80", False),
        ("80", "80", False),
    ],
)
def test_ports_clash_within_a_manifest(tmp_path: Path, one: str, other: str, clash: bool) -> None:
    path = tmp_path / "orch.toml"
    path.write_text(_service("a", f'ports = ["{one}"]') + _service("b", f'ports = ["{other}"]'))
    if not clash:
        assert len(load(str(path), environ={}, name="x").project.services) == 2
        return
    with pytest.raises(
        ManifestError, match=r'services\.b\.ports\[0\]: .* is published already by service "a"'
    ):
        load(str(path), environ={}, name="x")


def test_replicas_cannot_share_a_published_port(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path, _service("a", 'replicas = 2\nports = ["8080:80", "81"]'))
    assert problem.startswith("4: services.a.ports[0]: 2 replicas cannot all publish 127.0.0.1:8080/tcp")


def test_a_service_cannot_be_called_as_a_replica(tmp_path: Path) -> None:
    (problem,) = _problems(
        tmp_path, _service("api", "replicas = 2") + _service("api-2", "") + _service("api-3", "")
    )
    assert problem.startswith('4: services.api-2: "api-2" also means replica 2 of service "api"')


def test_a_dependency_that_is_left_out_names_its_profile(tmp_path: Path) -> None:
    text = _service("a", 'depends_on = ["b"]') + _service("b", 'profiles = ["extra"]')
    (problem,) = _problems(tmp_path, text)
    assert problem == '3: services.a.depends_on[0]: service "b" is left out (activate its profile "extra")'


def test_conflicting_definitions_name_both_places(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(_service("a", "") + "[networks.n]\ninternal = true\n")
    path = tmp_path / "orch.toml"
    path.write_text('include = ["b.toml"]\n' + _service("a", "") + "[networks.n]\n")
    with pytest.raises(ManifestError) as caught:
        load(str(path), environ={}, name="x")
    assert list(caught.value.problems) == [
        f"{tmp_path}/b.toml:1: services.a: is defined differently at {path}:2 (rename one, or make them the same)",
        f"{tmp_path}/b.toml:4: networks.n: is defined differently at {path}:5 (rename one, or make them the same)",
    ]


def test_a_circle_of_includes_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.toml").write_text('include = ["b.toml"]')
    (tmp_path / "b.toml").write_text('include = ["a.toml"]')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as caught:
        load("a.toml", environ={}, name="x")
    assert list(caught.value.problems) == [
        "b.toml:1: include[0]: files include each other in a circle: a.toml -> b.toml -> a.toml"
    ]


def test_problems_of_other_files_are_theirs(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("\nservices.x.comand = 1\n")
    (tmp_path / "c.toml").write_text("= 1")
    (tmp_path / "web.env").write_text("A=1\n!\n")
    (tmp_path / ".env").write_text("?\n")
    path = tmp_path / "orch.toml"
    path.write_text('include = ["b.toml", "c.toml"]\n' + _service("a", 'env_file = "web.env"'))
    with pytest.raises(ManifestError) as caught:
        load(str(path), environ={}, name="x")
    places = {problem.partition(": ")[0] for problem in caught.value.problems}
    assert places == {f"{tmp_path}/{place}" for place in (".env:1", "b.toml:2", "c.toml:1", "web.env:2")}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "orch.toml: cannot be read: No such file or directory"),
        (b"a = 1\n\xff", "orch.toml:2: is not UTF-8 text"),
        (b" " * (MAX_FILE_SIZE + 1), "orch.toml: is too large (at most 4M)"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "orch.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        load(str(path), environ={})
    assert list(caught.value.problems) == [f"{tmp_path}/{expected}"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Bad Name", 'the project\'s name: "Bad Name" is not a name'), (None, "gives the project no name")],
)
def test_a_project_needs_a_name(tmp_path: Path, name: str | None, expected: str) -> None:
    (tmp_path / "É").mkdir()
    path = tmp_path / "É" / "orch.toml"
    path.write_text("")
    with pytest.raises(ManifestError, match=expected):
        load(str(path), environ={}, name=name)


_WORDS = [
    *MANIFEST.keys,
    *SERVICE.keys,
    *HEALTHCHECK.keys,
    *RESOURCES.keys,
    *NETWORK.keys,
    *DEFAULTS.keys,
    "web",
    "a",
]
_TEXTS = st.sampled_from(
    [
        "",
        "a",
        "a:b",
        "/x",
        "./x:/y",
        "1",
        "-1",
        "1G",
        "5s",
        "$A",
        "${A:?}",
        "10.0.0.0/24",
        "1:2:3",
        "\\",
        "'",
        "é",
        "\t",
    ]
)
_VALUES = st.recursive(
    st.one_of(
        _TEXTS,
        st.text(max_size=5),
        st.integers(),
        st.integers(min_value=10**30, max_value=10**400),
        st.floats(),
        st.booleans(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=3), inner, max_size=5),
    ),
    max_leaves=40,
)


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case list():
            return "[" + ",".join(map(_toml, value)) + "]"
        case dict():
            return "{" + ",".join(f"{_toml(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    return repr(value)


@given(
    table=st.dictionaries(
        st.sampled_from(["services", "defaults", "networks", "volumes", "include", "name"]),
        st.dictionaries(st.sampled_from(["a", "web", *SERVICE.keys]), _VALUES) | _VALUES,
    )
)
def test_garbage_is_a_manifest_error_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in table.items()))
    try:
        load(str(path), environ={"A": "1"}, name="x")
    except ManifestError as error:
        for problem in error.problems:
            assert problem.startswith(f"{path}:")


@given(data=st.binary(max_size=300) | st.text(alphabet="[]{}=.\"'\n# a1").map(str.encode))
def test_bytes_are_a_manifest_error_or_nothing(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(data)
    with contextlib.suppress(ManifestError):
        load(str(path), environ={}, name="x")
