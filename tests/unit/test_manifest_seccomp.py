"""The manifest's key ``seccomp``, and profiles in files: what they mean, and every mistake with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ManifestError
from orchestrator.manifest.document import UnreadableError
from orchestrator.manifest.dump import to_toml
from orchestrator.manifest.load import Loaded, load
from orchestrator.manifest.place import Report
from orchestrator.manifest.seccomp import read_profile
from orchestrator.plan.changes import changed_keys
from orchestrator.spec import Seccomp, SeccompProfile, SyscallArgument, SyscallCondition, SyscallRule, digest

ALLOWING: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
EXECVE = {"names": ["execve"], "action": "SCMP_ACT_ALLOW"}


class Folder:
    """A manifest with one service, and profiles beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, content: object, name: str = "p.json") -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.path / name).write_text(text)

    def load(self, seccomp: str, *, rest: str = "") -> Loaded:
        manifest = f'name = "x"\n[services.web]\ncommand = ["true"]\nseccomp = {seccomp}\n{rest}'
        (self.path / "m.toml").write_text(manifest)
        return load(str(self.path / "m.toml"), environ={})

    def seccomp(self, seccomp: str) -> Seccomp:
        return self.load(seccomp).project.services["web"].seccomp

    def profile(self, content: object) -> SeccompProfile:
        self.write(content)
        profile = self.seccomp('"p.json"').content
        assert profile
        return profile

    def problems(self, seccomp: str = '"p.json"', content: object = None) -> list[str]:
        if content is not None:
            self.write(content)
        with pytest.raises(ManifestError) as caught:
            self.load(seccomp)
        return [problem.replace(str(self.path) + "/", "") for problem in caught.value.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# The key


def test_nothing_said_is_the_default(folder: Folder) -> None:
    assert folder.seccomp('"default"') == Seccomp()
    assert folder.seccomp("{}") == Seccomp()


def test_it_can_be_switched_off(folder: Folder) -> None:
    assert folder.seccomp('"unconfined"') == Seccomp(profile="unconfined")


def test_single_calls_are_laid_over_the_default(folder: Folder) -> None:
    wanted = Seccomp(allow=("io_uring_setup",), deny=("chmod", "ptrace"))
    assert folder.seccomp('{ allow = ["io_uring_setup"], deny = ["chmod", "ptrace", "chmod"] }') == wanted


def test_a_file_is_part_of_the_service(folder: Folder) -> None:
    folder.write(ALLOWING)
    before = folder.load('"p.json"').project.services["web"]
    assert before.seccomp == Seccomp(
        profile=str(folder.path / "p.json"), content=SeccompProfile(action="ALLOW")
    )
    folder.write('{\n\n"defaultAction":\n"SCMP_ACT_ALLOW"}')
    assert folder.load('"p.json"').project.services["web"] == before  # other spaces, the same meaning
    folder.write({"defaultAction": "SCMP_ACT_LOG"})
    after = folder.load('"p.json"').project.services["web"]
    assert changed_keys(before, after) == {"seccomp"}
    assert digest(before) != digest(after)


def test_a_file_is_read_once_for_all_services(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(ALLOWING)
    read: list[str] = []
    read_text = Report.read_text

    def noted(report: Report, name: str) -> str:
        read.append(name)
        return read_text(report, name)

    monkeypatch.setattr(Report, "read_text", noted)
    loaded = folder.load('"p.json"', rest='[services.b]\ncommand = ["true"]\nseccomp = "p.json"\n')
    first, second = (spec.seccomp for spec in loaded.project.services.values())
    assert first == second
    assert read.count(str(folder.path / "p.json")) == 1


@pytest.mark.parametrize(
    "seccomp", ['"unconfined"', '"p.json"', '{ allow = ["bpf"] }', '{ profile = "p.json", deny = ["chmod"] }']
)
def test_the_dump_says_the_same(folder: Folder, seccomp: str) -> None:
    folder.write(ALLOWING)
    loaded = folder.load(seccomp)
    again = folder.path / "again.toml"
    again.write_text(to_toml(loaded.project))
    assert load(str(again), environ={}).project.services == loaded.project.services


@pytest.mark.parametrize(
    ("seccomp", "problem"),
    [
        (
            '"unconfind"',
            ': "unconfind" cannot be read: No such file or directory (did you mean "unconfined"?)',
        ),
        ('"./nothing.json"', ': "./nothing.json" cannot be read: No such file or directory'),
        (
            '{ allow = ["io_uring"] }',
            '.allow[0]: there is no system call "io_uring" (did you mean "io_uring_setup"?)',
        ),
        ('{ deny = ["chmodd"] }', '.deny[0]: there is no system call "chmodd" (did you mean "chmod"?)'),
        ('{ deny = ["xyzzy"] }', '.deny[0]: there is no system call "xyzzy"'),
        ('{ profile = "unconfined", deny = ["chmod"] }', ': "unconfined" allows everything'),
        ('{ allow = ["bpf"], deny = ["bpf"] }', ': "bpf" cannot be both allowed and denied'),
        ('{ deny = ["execve"] }', ": does not allow execve, without which no program can be started"),
        ('{ denny = ["chmod"] }', '.denny: unknown key (did you mean "deny"?)'),
        ("true", ": expected a profile or a table, got true"),
    ],
)
def test_mistakes_in_the_manifest(folder: Folder, seccomp: str, problem: str) -> None:
    (found,) = folder.problems(seccomp)
    assert found.startswith(f"m.toml:4: services.web.seccomp{problem}")


@pytest.mark.parametrize(
    "content",
    [
        {"defaultAction": "SCMP_ACT_ERRNO"},
        {"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "execve", "action": "SCMP_ACT_ERRNO"}]},
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "execve", "action": "SCMP_ACT_TRACE"}]},
    ],
)  # fmt: skip
def test_a_profile_under_which_nothing_starts_is_refused(folder: Folder, content: object) -> None:
    assert folder.problems(content=content) == [
        "m.toml:4: services.web.seccomp: does not allow execve, without which no program can be started"
    ]


def test_but_the_manifest_may_allow_execve_itself(folder: Folder) -> None:
    folder.write({"defaultAction": "SCMP_ACT_ERRNO"})
    assert folder.seccomp('{ profile = "p.json", allow = ["execve"] }').allow == ("execve",)


# Files


def test_the_form_of_oci(folder: Folder) -> None:
    argument = {"index": 1, "value": 18446744073709551615, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}
    profile = folder.profile(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                EXECVE,
                {"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 9, "args": [argument]},
            ],
        }
    )
    assert profile == SeccompProfile(
        action="ERRNO",
        errno=38,
        architectures=("X86_64", "X32"),
        flags=("LOG",),
        rules=(
            SyscallRule(names=("execve",), action="ALLOW"),
            SyscallRule(
                names=("read",),
                action="TRACE",
                errno=9,
                args=(SyscallArgument(index=1, op="MASKED_EQ", value=(1 << 64) - 1, value_two=3),),
            ),
        ),
    )


def test_the_form_of_docker_and_podman(folder: Folder) -> None:
    profile = folder.profile(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "defaultErrnoRet": None,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None}],
            "syscalls": [
                {"name": "bpf", "action": "SCMP_ACT_ERRNO", "errno": "EINVAL", "args": None, "comment": "",
                 "includes": {"caps": ["CAP_SYS_ADMIN", "BPF"], "minKernel": "4.8"},
                 "excludes": {"arches": ["s390x", "arm64"], "caps": None}},
            ],
            "listenerPath": "",
        }
    )  # fmt: skip
    assert profile.arch_map == {"X86_64": ("X86",), "RISCV64": ()}
    assert profile.rules == (
        SyscallRule(
            names=("bpf",),
            action="ERRNO",
            errno=22,
            includes=SyscallCondition(caps=("SYS_ADMIN", "BPF"), min_kernel=(4, 8)),
            excludes=SyscallCondition(arches=("s390x", "arm64")),
        ),
    )


def test_the_number_is_eperm_unless_one_is_given(folder: Folder) -> None:
    refused = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}
    rules = [EXECVE, refused, {**refused, "names": ["write"], "errnoRet": 0}]
    profile = folder.profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})
    assert profile.errno == 1
    assert [rule.errno for rule in profile.rules] == [0, 1, 0]


@pytest.mark.requires("containers-common")
def test_debians_profile_is_read(folder: Folder) -> None:
    loaded = folder.load('"/usr/share/containers/seccomp.json"')
    (warning,) = loaded.warnings
    assert "never counts for setns" in warning
    content = loaded.project.services["web"].seccomp.content
    assert content
    assert (content.action, content.errno) == ("ERRNO", 38)
    assert sum(len(rule.names) for rule in content.rules) > 400


LINES = """{
  "defaultAction": "SCMP_ACT_ALLOW",
  "syscalls": [
    {
      "names": [
        "read",
        "chmodd"
      ],
      "action": "SCMP_ACT_ERRNO"
    }, {"names": ["write"],
        "action": "SCMP_ACT_KILLL",
        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 6, "value": 1,
                  "op": "SCMP_CMP_EQ"}]}
  ],
  "flag": ["\\ud800"]
}"""


def test_problems_have_the_line_of_the_file(folder: Folder) -> None:
    assert folder.problems(content=LINES) == [
        'p.json:7: syscalls[0].names[1]: there is no system call "chmodd" (did you mean "chmod"?)',
        'p.json:11: syscalls[1].action: expected a word such as SCMP_ACT_ALLOW, got "SCMP_ACT_KILLL" '
        '(did you mean "SCMP_ACT_KILL"?)',
        "p.json:12: syscalls[1].args[1].index: expected a whole number from 0 to 5, got 6",
        'p.json:15: flag: unknown key (did you mean "flags"?)',
    ]


def rule(**keys: Any) -> dict[str, Any]:
    return {**ALLOWING, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", **keys}]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "p.json:1: not JSON: Expecting value (column 1)"),
        ('{\n"a": }', "p.json:2: not JSON: Expecting value (column 6)"),
        ('{"defaultAction": NaN}', "not a profile: NaN is no number of JSON"),
        ('{"flags": [], "flags": []}', 'not a profile: the key "flags" is there twice in one object'),
        ("[" * 100_000, "is nested too deeply"),
        ("[]", "p.json:1: expected an object, got a list"),
        ("{}", 'p.json:1: lacks "defaultAction"'),
        ({"defaultAction": "ALLOW"}, 'defaultAction: expected a word such as SCMP_ACT_ALLOW, got "ALLOW" (allowed: '),
        ({"defaultAction": 7}, "defaultAction: expected a word such as SCMP_ACT_ALLOW, got 7"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY asks a program outside for each decision"),
        ({**ALLOWING, "listenerPath": "/s"}, "listenerPath: unknown key (asks a program outside"),
        ({**ALLOWING, "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}, "flags[0]: expected a word such as"),
        ({**ALLOWING, "architectures": ["SCMP_ARCH_X86-64"]}, "architectures[0]: expected a word such as"),
        ({**ALLOWING, "archMap": [{}]}, 'archMap[0]: lacks "architecture"'),
        ({**ALLOWING, "archMap": [{"architecture": "SCMP_ARCH_ARM"}] * 2}, "SCMP_ARCH_ARM is there twice"),
        ({**ALLOWING, "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_ARM"}]},
         'archMap: cannot be combined with "architectures"'),
        ({**ALLOWING, "linux": {"seccomp": {}}}, "linux: unknown key (give the object in linux.seccomp alone)"),
        ({**ALLOWING, "defaultErrnoRet": 1}, "defaultErrnoRet: has no meaning for SCMP_ACT_ALLOW"),
        ({**ALLOWING, "syscalls": {}}, "syscalls: expected a list, got an object"),
        ({**ALLOWING, "syscalls": [3]}, "syscalls[0]: expected an object, got 3"),
        (rule(names=[]), "syscalls[0]: names no system call"),
        (rule(names=["re ad"]), 'syscalls[0].names[0]: expected the name of a system call, got "re ad"'),
        (rule(name="read"), 'syscalls[0].name: cannot be combined with "names"'),
        (rule(errno="EPRM"), 'syscalls[0].errno: expected a name such as "EPERM", got "EPRM" (did you mean "EPERM"?)'),
        (rule(errno="EPERM", errnoRet=2), "syscalls[0].errno: EPERM contradicts errnoRet, 2"),
        (rule(errnoRet=4096), "syscalls[0].errnoRet: expected a whole number from 0 to 4095, got 4096"),
        (rule(errnoRet=True), "syscalls[0].errnoRet: expected a whole number from 0 to 4095, got true"),
        (rule(args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]), "args[0].value: expected a whole number"),
        (rule(args=[{"index": 0, "value": 1.5, "op": "SCMP_CMP_EQ"}]), "args[0].value: expected a whole number"),
        (rule(args=[{"index": 0, "value": 1}]), 'args[0]: lacks "op"'),
        (rule(args=[{"op": "SCMP_CMP_EQ", "value": 1}]), 'args[0]: lacks "index"'),
        (rule(args=[{"index": 0, "op": "=="}]), "args[0].op: expected a word such as SCMP_CMP_NE"),
        (rule(args="x"), 'syscalls[0].args: expected a list, got "x"'),
        (rule(includes={"caps": ["admin"]}), 'expected a capability such as "CAP_SYS_ADMIN", got "admin"'),
        (rule(includes={"minKernel": "new"}), 'includes.minKernel: expected a version such as "4.8", got "new"'),
        (rule(excludes={"arches": ["amd46"]}), 'excludes.arches[0]: expected a word such as 386, got "amd46" (did'),
        (rule(includes={"archs": ["amd64"]}), 'includes.archs: unknown key (did you mean "arches"?)'),
        (rule(args=[{"index": 0, "value": 1, "valueTow": 3, "op": "SCMP_CMP_EQ"}]), "args[0].valueTow: unknown key"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(folder: Folder, content: object, problem: str) -> None:
    found = folder.problems(content=content)
    assert any(problem in text for text in found), found


def test_a_rule_that_can_never_refuse_what_it_should_is_warned_of(folder: Folder) -> None:
    wide = {"names": ["read", "socket"], "action": "SCMP_ACT_ALLOW"}
    narrow = {
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}],
    }
    content = {**ALLOWING, "syscalls": [wide, narrow]}
    folder.write(content)
    (warning,) = folder.load('"p.json"').warnings
    assert warning.endswith(
        "p.json:1: syscalls[1]: never counts for socket: syscalls[0] decides on every one"
    )


def test_an_unknown_call_may_be_allowed_with_a_warning_and_not_refused(folder: Folder) -> None:
    strange = {"names": ["from_the_future"], "action": "SCMP_ACT_ALLOW"}
    folder.write({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [EXECVE, strange]})
    (warning,) = folder.load('"p.json"').warnings
    assert 'syscalls[1].names[0]: there is no system call "from_the_future"' in warning
    assert "only if the host's libseccomp knows it" in warning
    (problem,) = folder.problems(content=rule(names=["from_the_future"]))
    assert problem == 'p.json:1: syscalls[0].names[0]: there is no system call "from_the_future"'


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ARCH_X86", "SCMP_CMP_EQ", "read", "EPERM"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "syscalls",
             "names", "name", "action", "errnoRet", "errno", "args", "includes", "excludes", "caps", "arches",
             "minKernel", "index", "value", "valueTwo", "op", "architecture", "subArchitectures"]
        )
        | st.text(),
        inner,
        max_size=6,
    ),
    max_leaves=30,
)  # fmt: skip


@given(_JSON)
def test_whatever_a_file_holds_it_is_a_profile_or_has_problems(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.mktemp("p") / "p.json"
    path.write_text(json.dumps(data))
    report = Report({})
    try:
        profile = read_profile(report, str(path))
    except UnreadableError:
        return
    assert (profile is None) == bool(report.problems)
    for text in report.problems:
        text.encode()  # it can be printed
        assert text.startswith(f"{path}:")


@given(st.text(alphabet="{}[]\":,\\ \nab0-.eE'", max_size=30))
def test_text_that_is_nearly_json_is_reported(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("p") / "p.json"
    path.write_text(text)
    report = Report({})
    try:
        profile = read_profile(report, str(path))
    except UnreadableError:
        return
    assert (profile is None) == bool(report.problems)
