from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import capabilities
from orchestrator.devices import Node
from orchestrator.kernel.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
)
from orchestrator.lsm.confinement import UNCONFINED, Confinement
from orchestrator.runtime import rootfs
from orchestrator.runtime.child_operations import OPERATIONS
from orchestrator.runtime.program import (
    _DESCRIBE,
    CgroupPart,
    NetworkPart,
    Program,
    RootfsPart,
    compile_exec,
    compile_limits,
    compile_oom,
    compile_start,
    describe,
)
from orchestrator.spec import Mount, ServiceSpec, Ulimit

FILES = RootfsPart(
    "/state/root",
    "/state/c",
    (rootfs.Layer("/", ("/lower",), "/state/c/0/upper", "/state/c/0/work"),),
    (rootfs.Bind("/run/c/hosts", "/etc/hosts"),),
)
CGROUP = CgroupPart([["mkdir", "/cg/u", 0o755]], [["write", "/cg/memory/tasks", "0"]], "/cg/u")


LABELLED = Confinement("u:r:c_t:s0:c1,c2", "u:object_r:f_t:s0:c1,c2", "a-profile")


def compiled(
    spec: ServiceSpec, network: NetworkPart | None = None, confinement: Confinement = UNCONFINED
) -> Program:
    return compile_start(
        spec, "box", CGROUP, FILES, network or NetworkPart(new=True), 40,
        confinement=confinement, run_dir="/run/orch",
    )  # fmt: skip


def names(program: Program) -> list[str]:
    return [operation[0] for operation in program.operations]


def test_every_operation_can_be_performed_and_described() -> None:
    assert set(OPERATIONS) == set(_DESCRIBE)


def test_sources_are_opened_before_and_targets_resolved_after_the_host_is_out_of_reach() -> None:
    order = names(compiled(ServiceSpec(name="x", command=("true",))))
    pivot = order.index("pivot-root")
    assert max(i for i, name in enumerate(order) if name in ("open-tree", "overlay")) < pivot
    assert min(i for i, name in enumerate(order) if name in ("mount", "attach-tree", "tmpfs")) > pivot


def test_the_cgroup_is_joined_before_the_cgroup_namespace_is_made() -> None:
    order = names(compiled(ServiceSpec(name="x", command=("true",))))
    assert order.index("write") < order.index("unshare-cgroup") < order.index("pivot-root")


def test_sysctls_are_written_before_proc_sys_becomes_read_only() -> None:
    program = compiled(ServiceSpec(name="x", command=("true",), sysctls={"net.core.somaxconn": "7"}))
    written = program.operations.index(["sysctl", "net.core.somaxconn", "7"])
    assert written < program.operations.index(["read-only", "/proc/sys"])


def test_the_kernels_files_are_masked_before_an_image_or_volume_has_a_say() -> None:
    program = compiled(ServiceSpec(name="x", command=("true",), mounts=(Mount(type="tmpfs", target="/a"),)))
    order = names(program)
    first = min(order.index(name) for name in ("attach-tree", "tmpfs"))
    masks = [i for i, name in enumerate(order) if name == "mask"]
    assert [program.operations[i][1] for i in masks] == list(rootfs.MASKED)
    assert order.index("devices") < masks[0]
    assert masks[-1] < first


def test_paths_of_the_manifest_are_hidden_when_everything_is_in_place() -> None:
    spec = ServiceSpec(
        name="x", command=("true",), mounts=(Mount(type="tmpfs", target="/a"),), masked_paths=("/a/b",),
        read_only_paths=("/a/c",), sysctls={"net.core.somaxconn": "7"},
    )  # fmt: skip
    program = compiled(spec)
    order = names(program)
    assert program.operations[order.index("hide")] == ["hide", "/a/b"]
    assert program.operations[order.index("write-protect")] == ["write-protect", "/a/c"]
    assert max(i for i, name in enumerate(order) if name in ("tmpfs", "write")) < order.index("hide")


@pytest.mark.parametrize(
    ("unmask", "masked", "read_only"),
    [
        ((), True, True),
        (("/proc/kcore",), False, True),
        (("/proc/k*", "/proc/sys"), False, False),
        (("/proc/*",), False, False),
        (("/*", "/proc", "/proc/kcore/x", "/proc/[!k]*"), True, False),
        (("all",), False, False),
    ],
)
def test_unmask_takes_globs_as_podman_does(unmask: tuple[str, ...], masked: bool, read_only: bool) -> None:
    program = compiled(ServiceSpec(name="x", command=("true",), unmask=unmask))
    assert (["mask", "/proc/kcore"] in program.operations) == masked
    assert (["read-only", "/proc/sys"] in program.operations) == read_only


def test_processors_whose_heat_can_be_read_are_masked_one_by_one() -> None:
    hot = "/sys/devices/system/cpu/cpu1/thermal_throttle"
    assert hot in rootfs.masked_paths(ServiceSpec(name="x"), [hot])
    pattern = ServiceSpec(name="x", unmask=(rootfs.MASKED_OF_CPUS,))
    assert hot not in rootfs.masked_paths(pattern, [hot])


def test_a_read_only_root_takes_dev_with_it_and_spares_what_is_mounted_there() -> None:
    layers = [rootfs.Layer(target, ("/l",), "/u", "/w") for target in ("/", "/usr")]
    spec = ServiceSpec(name="x", read_only=True)
    assert rootfs.restrict(spec, layers)[-1] == ["read-only-roots", ["/", "/usr", "/dev"]]
    mounts = (Mount(type="volume", source="v", target="/usr"), Mount(type="tmpfs", target="/dev"))
    assert rootfs.restrict(ServiceSpec(name="x", read_only=True, mounts=mounts), layers)[-1] == [
        "read-only-roots",
        ["/"],
    ]
    assert "read-only-roots" not in [op[0] for op in rootfs.restrict(ServiceSpec(name="x"), layers)]


def test_cgroups_are_shown_as_the_kind_of_host_has_them() -> None:
    assert rootfs.cgroup_mounts({}) == ()
    assert rootfs.cgroup_mounts({"/cg/x": ["unified"]}) == (rootfs.CgroupMount("/cg/x", ""),)
    hybrid = {"/cg/cpu/x": ["cpu", "cpuacct"], "/cg/m/x": ["memory"], "/cg/u/x": ["unified"]}
    assert rootfs.cgroup_mounts(hybrid) == (
        rootfs.CgroupMount("/cg/cpu/x", "cpu,cpuacct", ("cpu", "cpuacct")),
        rootfs.CgroupMount("/cg/m/x", "memory"),
        rootfs.CgroupMount("/cg/u/x", "unified"),
    )
    operations = rootfs.default_mounts(rootfs.cgroup_mounts(hybrid), ())
    assert [
        "cgroups",
        ["cpu,cpuacct", "memory", "unified"],
        [["cpu", "cpu,cpuacct"], ["cpuacct", "cpu,cpuacct"]],
    ] in (operations)


def test_privileges_are_dropped_after_everything_that_needs_them() -> None:
    spec = ServiceSpec(
        name="x", command=("true",), ulimits={"nofile": Ulimit(soft=9, hard=9)}, read_only=True
    )
    order = names(compiled(spec))
    assert order[-3:] == ["die-with-parent", "stage", "exec"]
    assert order.index("privileges") > max(
        order.index(name) for name in ("limit", "user", "read-only-roots", "mask")
    )


def test_a_program_has_no_core_files_and_few_descriptors_unless_the_manifest_says_so() -> None:
    def limits(**fields: Any) -> list[list[Any]]:
        return [
            op
            for op in compiled(ServiceSpec(name="x", command=("true",), **fields)).operations
            if op[0] == "limit"
        ]

    assert limits() == [["limit", "core", 0, 0], ["limit", "nofile", 1024, None]]
    wanted = {"nofile": Ulimit(soft=5, hard=6), "cpu": Ulimit(soft=-1, hard=-1)}
    assert limits(ulimits=wanted) == [
        ["limit", "core", 0, 0],
        ["limit", "nofile", 5, 6],
        ["limit", "cpu", -1, -1],
    ]


def test_a_service_that_is_spared_by_the_oom_killer_does_not_spare_its_containers() -> None:
    silent, own = ServiceSpec(name="x"), ServiceSpec(name="x", oom_score_adj=-7)
    assert compile_oom(silent, None) == []
    assert compile_oom(silent, 0) == [["write", "/proc/self/oom_score_adj", "0"]]
    assert compile_oom(own, 0) == [["write", "/proc/self/oom_score_adj", "-7"]]


def test_the_oom_killer_is_told_while_the_hosts_proc_is_there() -> None:
    order = compiled(ServiceSpec(name="x", command=("true",), oom_score_adj=5)).operations
    assert order.index(["write", "/proc/self/oom_score_adj", "5"]) < order.index(["unshare-cgroup"])


def test_exec_is_held_to_the_same_limits_before_it_sees_the_container() -> None:
    spec = ServiceSpec(name="x", oom_score_adj=5)
    limits = compile_oom(spec, None) + compile_limits(spec)
    order = compile_exec(spec, ["a"], {}, CGROUP, 40, limits=limits).operations
    assert order[1 : 1 + len(limits)] == limits
    assert [operation[0] for operation in order[1 + len(limits) :][:2]] == ["keyring", "join"]


def test_a_restart_joins_the_namespace_that_is_there_and_configures_nothing() -> None:
    first = compiled(ServiceSpec(name="x", command=("a",)), NetworkPart(new=True, wait=True))
    again = compiled(ServiceSpec(name="x", command=("a",)), NetworkPart(new=False, existing=True))
    assert first.flags & CLONE_NEWNET
    assert not again.flags & CLONE_NEWNET
    assert first.give[-2:] == ["netns", "ready"]
    assert again.slots == ["netns"]
    assert ["join", "netns", ["net"]] in again.operations
    assert ["wait"] not in again.operations


def test_a_host_network_leaves_the_hosts_sysctls_alone() -> None:
    spec = ServiceSpec(name="x", command=("a",), network_mode="host")
    program = compiled(spec, NetworkPart(new=False))
    assert not [op for op in program.operations if op[0] == "write" and op[1].startswith("/proc/sys")]


def test_inner_mounts_come_after_outer_ones() -> None:
    mounts = (
        Mount(type="tmpfs", target="/a/b/c"),
        Mount(type="tmpfs", target="/a"),
        Mount(type="tmpfs", target="/a/b", size=4096, mode=0o700),
    )
    program = compiled(ServiceSpec(name="x", command=("a",), mounts=mounts))
    tmpfs = [op for op in program.operations if op[0] == "tmpfs"]
    assert [op[1] for op in tmpfs] == ["/a", "/a/b", "/a/b/c"]
    assert tmpfs[1][3:] == ["mode=700,size=4096", 0, 0]


def test_a_tmpfs_runs_no_programs_unless_told() -> None:
    plain = Mount(type="tmpfs", target="/a")
    free = Mount(type="tmpfs", target="/b", nr_inodes=9, uid=7, gid=8, exec=True, read_only=True)
    program = compiled(ServiceSpec(name="x", command=("a",), mounts=(plain, free)))
    tmpfs = {op[1]: op[2:] for op in program.operations if op[0] == "tmpfs"}
    quiet = MS_NOSUID | MS_NODEV
    assert tmpfs["/a"] == [quiet | MS_NOEXEC, "mode=1777", 0, 0]
    assert tmpfs["/b"] == [quiet | MS_RDONLY, "mode=1777,nr_inodes=9", 7, 8]


def test_what_shall_propagate_is_opened_before_all_mounts_become_private() -> None:
    binds = [
        rootfs.Bind("/a", "/a"),
        rootfs.Bind("/b", "/b", propagation="slave"),
        rootfs.Bind("/c", "/c", subpath="x/y", fill=True),
    ]
    operations = rootfs.enter_root("/root", "/dir", (), binds)
    opened = {op[1]: number for number, op in enumerate(operations) if op[0] == "open-tree"}
    private = operations.index(["private-mounts"])
    assert opened["bind1"] < private < opened["bind0"] < opened["bind2"]
    assert operations[opened["bind2"]] == ["open-tree", "bind2", "/c", True, False, "private", "x/y", ""]
    attached = rootfs.attach_mounts(ServiceSpec(name="x"), binds)
    assert attached.index(["fill", "bind2", "/c"]) < attached.index(["attach-tree", "bind2", "/c"])
    assert [op[1] for op in attached if op[0] == "fill"] == ["bind2"]


def test_devices_are_made_out_of_the_hosts_reach_and_mounted_after_what_they_are_in() -> None:
    nodes = (
        Node("/dev/fuse", "c", 10, 229, 0o600, 0, 0, "rw"),
        Node("/data/disk", "b", 8, 0, 0o660, 0, 6, "r"),
    )
    files = dataclasses.replace(FILES, nodes=nodes)
    spec = ServiceSpec(name="x", command=("a",), mounts=(Mount(type="tmpfs", target="/data"),))
    program = compile_start(spec, "box", CGROUP, files, NetworkPart(new=True), 40)
    made = ["nodes", [["node0", "c", 10, 229, 0o600, 0, 0], ["node1", "b", 8, 0, 0o660, 0, 6]]]
    order = program.operations
    proc = next(index for index, op in enumerate(order) if op[:3] == ["mount", "proc", "/proc"])
    assert names(program).index("pivot-root") < order.index(made) < proc
    tmpfs = next(index for index, op in enumerate(order) if op[:2] == ["tmpfs", "/data"])
    assert tmpfs < order.index(["attach-tree", "node1", "/data/disk"])
    assert ["attach-tree", "node0", "/dev/fuse"] in order
    assert describe(made) == "make devices node0 (c 10:229), node1 (b 8:0)"


def test_without_devices_no_node_is_made() -> None:
    assert "nodes" not in names(compiled(ServiceSpec(name="x", command=("a",))))


def test_exec_has_the_containers_privileges_and_no_more() -> None:
    start = compiled(ServiceSpec(name="x", command=("a",)))
    run = compile_exec(ServiceSpec(name="x"), ["a"], {}, CGROUP, 40)
    privileges = [op for op in start.operations if op[0] == "privileges"]
    assert [op for op in run.operations if op[0] == "privileges"] == privileges
    assert run.join == "container"
    assert run.flags == 0
    assert not run.flags & (CLONE_NEWNS | CLONE_NEWPID)


def test_the_program_is_confined_last_and_its_files_are_labelled_from_the_first_mount_on() -> None:
    program = compiled(ServiceSpec(name="x", command=("a",), init=True), confinement=LABELLED)
    order = names(program)
    assert ["confine", LABELLED.process, LABELLED.profile] in program.operations
    assert order.index("privileges") < order.index("confine") < order.index("init") < order.index("exec")
    assert ["label-mounts", LABELLED.files] in program.operations
    mounts = ("overlay", "mount", "tmpfs", "files", "mask")
    assert order.index("label-mounts") < min(order.index(name) for name in mounts if name in order)
    assert program.fifos == ["/run/orch", LABELLED.files]


def test_exec_is_confined_as_the_container_is() -> None:
    spec = ServiceSpec(name="x", command=("a",))
    run = compile_exec(spec, ["a"], {}, CGROUP, 40, confinement=LABELLED, run_dir="/run/orch")
    assert names(run)[-2:] == ["confine", "exec"]
    assert run.fifos == ["/run/orch", LABELLED.files]
    assert names(run).index("keyring") < names(run).index("join")  # where /proc is the host's


def test_without_security_modules_nothing_is_labelled() -> None:
    program = compiled(ServiceSpec(name="x", command=("a",)))
    assert not {"confine", "label-mounts"} & set(names(program))
    assert program.fifos is None
    profiled = compiled(ServiceSpec(name="x", command=("a",)), confinement=Confinement(profile="p"))
    assert ["confine", "", "p"] in profiled.operations
    assert profiled.fifos is None


def test_default_capabilities_are_a_subset_of_dockers() -> None:
    docker = {
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
        "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    }  # fmt: skip
    assert set(capabilities.DEFAULT) <= docker
    assert capabilities.names(capabilities.mask()) == sorted(
        capabilities.DEFAULT, key=capabilities.NUMBERS.__getitem__
    )


@pytest.mark.parametrize(("name", "number"), [("CHOWN", 0), ("SYS_ADMIN", 21), ("CHECKPOINT_RESTORE", 40)])
def test_capability_numbers_are_the_kernels(name: str, number: int) -> None:
    assert capabilities.NUMBERS[name] == number


@given(
    st.builds(
        ServiceSpec,
        name=st.just("x"),
        command=st.lists(st.text(min_size=1), min_size=1).map(tuple),
        environment=st.dictionaries(st.text(min_size=1), st.text()),
        read_only=st.booleans(),
        init=st.booleans(),
        user=st.none() | st.text(min_size=1),
    )
)
def test_a_program_survives_the_wire_and_ends_in_its_exec(spec: ServiceSpec) -> None:
    program = compiled(spec)
    assert json.loads(json.dumps(program.to_wire())) == program.to_wire()
    assert program.operations[-1] == ["exec", list(spec.argv)]
    assert len(program.describe()) == len(program.operations) + len(program.prepare)
    assert all("\n" not in describe(op) for op in program.operations if op[0] != "exec" and op[0] != "user")
