import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.checks import cgroups, kernel, limits, lsm, network, privileges, storage
from orchestrator.checks.finding import Finding, ok, warning
from orchestrator.doctor import examine
from orchestrator.ids import Instance
from orchestrator.lsm import host

_ALL = (1 << 41) - 1


def _status(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


def test_what_is_not_ok_must_have_a_remedy_and_what_is_ok_must_not() -> None:
    assert ok("a", "yes").remedy == ""
    assert warning("a", "no", "do this").remedy == "do this"
    with pytest.raises(ValueError, match="needs one"):
        warning("a", "no", "")
    with pytest.raises(ValueError, match="no remedy"):
        Finding("a", "ok", "yes", "do this")


def test_a_host_is_examined_without_leaving_anything(tmp_path: Path) -> None:
    state = tmp_path / "state"
    findings = examine(Instance(str(state), str(tmp_path / "run")))
    assert {"root", "kernel", "system calls", "cgroups", "nftables", "overlay", "disk", "open files"} <= {
        finding.name for finding in findings
    }
    assert len({finding.name for finding in findings}) == len(findings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requires("root")
def test_a_user_gets_the_same_examination() -> None:
    script = """
from orchestrator.doctor import examine
from orchestrator.ids import Instance
for finding in examine(Instance("/var/lib/orch", "/run/orch")): print(finding)"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, user=65534, group=65534)
    assert done.returncode == 0, done.stderr
    assert "Finding(name='root', status='missing'" in done.stdout
    assert "Finding(name='system calls', status='ok'" in done.stdout


def test_loading_the_doctor_loads_nothing_slow() -> None:
    script = "import sys, orchestrator.doctor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pyroute2", "asyncio", "aiohttp", "anyio", "msgspec"} & set(loaded)


def test_root_with_everything_may_everything() -> None:
    assert _status(list(privileges.judge(0, _ALL, "0"))) == {"root": "ok", "capabilities": "ok"}


def test_a_user_is_told_to_use_sudo() -> None:
    (finding,) = privileges.judge(1000, 0, "0")
    assert (finding.status, finding.remedy) == ("missing", "run it with sudo")


def test_a_lacking_capability_is_named_with_what_it_is_for() -> None:
    (_, finding) = privileges.judge(0, _ALL & ~(1 << 21), "0")
    assert finding.status == "missing"
    assert "CAP_SYS_ADMIN (namespaces and mounts)" in finding.detail


def test_without_sys_resource_only_bounds_beyond_our_own_suffer() -> None:
    (_, finding) = privileges.judge(0, _ALL & ~(1 << 24), "0")
    assert (finding.status, finding.detail) == (
        "warning",
        "doesn't work: CAP_SYS_RESOURCE (ulimits above orch's own hard limits, oom_score_adj below its own, "
        "pressure in other windows than of 2s)",
    )


def test_a_seccomp_filter_is_mentioned() -> None:
    assert _status(list(privileges.judge(0, _ALL, "2")))["seccomp filter"] == "warning"


@pytest.mark.parametrize(
    ("number", "present"), [(39, True), (511, False)]
)  # getpid, and a number never assigned
def test_system_calls_are_tried(number: int, present: bool) -> None:
    assert kernel.exists(number) is present


def test_a_lacking_controller_says_what_cannot_be_limited() -> None:
    findings = list(cgroups.judge("v2", frozenset({"cpu", "memory", "pids", "cpuset", "hugetlb"}), 2))
    assert _status(findings) == {"cgroups": "ok", "cgroup controllers": "warning", "pressure": "ok"}
    assert findings[1].detail == "can't be limited: io (io limits)"


def test_all_controllers_are_enough() -> None:
    everything = frozenset({"cpu", "memory", "pids", "cpuset", "hugetlb", "io"})
    assert _status(list(cgroups.judge("hybrid", everything, 1))) == {"cgroups": "ok", "pressure": "ok"}


def test_a_host_that_cannot_rule_devices_is_told_so() -> None:
    everything = frozenset({"cpu", "memory", "pids", "cpuset", "hugetlb", "io"})
    (_, finding, _) = cgroups.judge("v2", everything, None)
    assert (finding.name, finding.status) == ("device rules", "warning")
    assert "CONFIG_CGROUP_BPF" in finding.remedy


def test_a_kernel_that_accounts_no_pressure_says_how_it_would() -> None:
    lack = "the kernel accounts no pressure (boot with psi=1)"
    finding = list(cgroups.judge("v2", frozenset(), 2, lack))[-1]
    assert (finding.name, finding.status, finding.remedy) == ("pressure", "warning", "boot with psi=1")
    assert finding.detail.endswith(": the kernel accounts no pressure")


def test_no_cgroups_at_all_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.kernel.cgroupfs.read", lambda path: "")
    (finding,) = cgroups.check()
    assert finding.status == "missing"
    assert finding.detail == "no cgroup file system is mounted"


def test_missing_nft_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    assert _status(list(network.check()))["nftables"] == "missing"


@pytest.mark.parametrize(
    ("files", "name", "status"),
    [
        ({"net/ipv4/ip_forward": "1"}, "IP forwarding", "ok"),
        ({}, "IP forwarding", "missing"),
        ({"net/bridge/bridge-nf-call-iptables": "1"}, "bridge filter", "warning"),
        ({"net/bridge/bridge-nf-call-iptables": "0"}, "bridge filter", "ok"),
        ({}, "bridge filter", "ok"),
        ({"net/netfilter/nf_conntrack_max": "262144"}, "connection tracking", "ok"),
        ({"net/netfilter/nf_conntrack_max": "1000"}, "connection tracking", "warning"),
        (
            {"net/netfilter/nf_conntrack_max": "100000", "net/netfilter/nf_conntrack_count": "99000"},
            "connection tracking",
            "warning",
        ),
        ({"net/ipv4/neigh/default/gc_thresh3": "1024"}, "neighbour table", "warning"),
        ({"net/ipv4/neigh/default/gc_thresh3": "8192"}, "neighbour table", "ok"),
    ],
)
def test_network_settings(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], name: str, status: str
) -> None:
    def text_of(path: str) -> str | None:
        return files.get(path.removeprefix("/proc/sys/"))

    def number_of(path: str) -> int | None:
        text = text_of(path)
        return None if text is None else int(text)

    monkeypatch.setattr(network, "text_of", text_of)
    monkeypatch.setattr(network, "number_of", number_of)
    monkeypatch.setattr(network, "attempt", lambda *words, text="": "")
    assert _status(list(network.check()))[name] == status


def test_the_kernels_refusal_of_rules_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "attempt", lambda *words, text="": "Operation not supported")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    findings = {finding.name: finding for finding in network.check()}
    assert findings["nftables"].detail == "the kernel refuses orch's rules: Operation not supported"
    assert findings["veth interfaces"].status == "missing"


@pytest.mark.parametrize(("length", "status"), [(107, "ok"), (108, "missing")])
def test_the_sockets_path_fits_in_107_bytes(length: int, status: str) -> None:
    folder = "/" + "x" * (length - len("//orch.sock"))
    instance = Instance("/tmp", folder)
    assert len(instance.socket) == length
    assert _status(list(storage.check(instance)))["socket path"] == status


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/run/orch", "tmpfs"), ("/running", "ext4"), ("/mnt/a b/c", "xfs"), ("/var", "btrfs")],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    mountinfo = """\
1 0 254:0 / / rw,relatime - ext4 /dev/vda rw
2 1 0:1 / /run rw - tmpfs tmpfs rw
3 1 0:2 / /mnt/a\\040b rw shared:1 master:2 - xfs /dev/vdb rw
4 1 0:3 / /var rw - ext4 /dev/vdc rw
5 1 0:4 / /var rw - btrfs /dev/vdd rw"""
    assert storage.file_system(path, mountinfo) == kind


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    assert storage.nearest(str(tmp_path / "a" / "b")) == str(tmp_path)


@pytest.mark.parametrize(
    ("hard", "status"), [(1024, "warning"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_descriptors(hard: int, status: str) -> None:
    assert limits.descriptors(1024, hard).status == status


def test_a_low_kernel_parameter_says_which_and_how_to_raise_it() -> None:
    finding = limits.sysctl("kernel.pid_max", 4096, 32768, "process ids")
    assert (finding.status, finding.remedy) == ("warning", "sysctl -w kernel.pid_max=65536")


@pytest.mark.parametrize(("available", "status"), [(100_000, "warning"), (1_000_000, "ok")])
def test_memory(available: int, status: str) -> None:
    text = f"MemTotal:        2000000 kB\nMemFree:  1 kB\nMemAvailable:    {available} kB\nHugePages_Total:       0"
    assert limits.memory(text).status == status


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host with SELinux enforcing and AppArmor, both of which give containers all that they can."""
    monkeypatch.setattr(lsm, "text_of", lambda path: "capability,yama,selinux,apparmor")
    for name, value in {
        "selinux_enabled": True, "selinux_enforcing": True, "own_context": "u:r:mine_t:s0", "apparmor_enabled": True,
        "apparmor_profiles": {"orch-default": "enforce"}, "apparmor_parser": "/usr/sbin/apparmor_parser",
    }.items():  # fmt: skip
        monkeypatch.setattr(host, name, lambda value=value: value)
    monkeypatch.setattr(host, "knows", lambda context: True)
    monkeypatch.setattr(host, "forbidden", lambda source, target, needed: [])
    monkeypatch.setattr(host, "keeps_categories", lambda: False)
    return monkeypatch


def test_security_modules_say_what_containers_get(modules: pytest.MonkeyPatch) -> None:
    found = {finding.name: finding for finding in lsm.check()}
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["security modules"].detail == "apparmor, selinux"
    assert "container_t with categories of its own" in found["SELinux"].detail
    assert found["AppArmor"].detail == "containers get the profile orch-default, which is loaded (enforce)"
    modules.setattr(host, "apparmor_profiles", dict)
    found = {finding.name: finding for finding in lsm.check()}
    assert found["AppArmor"].detail == "containers get the profile orch-default; the first one loads it"


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        ({"knows": False}, "SELinux", "the policy has no container_t: containers get no label"),
        ({"forbidden": ["transition"]}, "SELinux", "may not start programs as container_t (transition)"),
        ({"selinux_enforcing": False}, "SELinux", "permissive"),
        (
            {"keeps_categories": True},
            "SELinux",
            "containers cannot read each other's on a volume that they share",
        ),
        ({"apparmor_profiles": None}, "AppArmor", "its profiles are"),
        (
            {"apparmor_profiles": {}, "apparmor_parser": None},
            "AppArmor",
            "there is no apparmor_parser: containers get none",
        ),
    ],
)
def test_security_modules_that_give_less(
    modules: pytest.MonkeyPatch, change: dict[str, object], name: str, detail: str
) -> None:
    for function, value in change.items():
        modules.setattr(host, function, lambda *_, value=value: value)
    found = {finding.name: finding for finding in lsm.check()}
    assert found[name].status == "warning"
    assert detail in found[name].detail


def test_a_host_without_security_modules_is_warned_about(modules: pytest.MonkeyPatch) -> None:
    modules.setattr(lsm, "text_of", lambda path: None)
    modules.setattr(host, "selinux_enabled", lambda: False)
    modules.setattr(host, "apparmor_enabled", lambda: False)
    assert _status(list(lsm.check())) == {"security modules": "warning"}
