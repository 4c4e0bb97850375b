"""Secrets and configs: where they come from, what a service gets of them, and that they are not shown."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ManifestError
from orchestrator.manifest.dump import to_json, to_toml
from orchestrator.manifest.load import Loaded, load
from orchestrator.plan.changes import IN_PLACE, changed_keys
from orchestrator.runtime import rootfs
from orchestrator.spec import FileSpec, Grant, ServiceSpec, digest, redacted

HIDDEN = "top-secret-5f3a"


def loaded(folder: Path, text: str, profiles: tuple[str, ...] = (), **environ: str) -> Loaded:
    path = folder / "orch.toml"
    path.write_text(text)
    return load(str(path), environ=environ, profiles=profiles, name="test", check_host=False)


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        loaded(folder, text, (), **environ)
    return [problem.removeprefix(f"{folder}/orch.toml:") for problem in caught.value.problems]


def test_what_a_service_gets(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"\x00\xff binary\n")
    project = loaded(
        tmp_path,
        """
[services.web]
command = "x"
secrets = ["pw", { source = "token", target = "/srv/t", uid = 999, gid = "998", mode = "0400" },
           { source = "pw", target = "sub/pw" }]
configs = ["app.conf", { source = "app.conf", target = "etc/app" }]
[secrets]
pw = { file = "pw" }
token = { environment = "TOKEN" }
[configs."app.conf"]
content = "port=${PORT:-80}\\nprice=5$$"
""".replace("app.conf", "app-conf"),
        TOKEN="t0k",
    ).project
    assert project.services["web"].secrets == (
        Grant(source="pw", target="/run/secrets/pw", content=b"\x00\xff binary\n"),
        Grant(source="token", target="/srv/t", uid=999, gid=998, mode=0o400, content=b"t0k"),
        Grant(source="pw", target="/run/secrets/sub/pw", content=b"\x00\xff binary\n"),
    )
    assert [(grant.target, grant.content) for grant in project.services["web"].configs] == [
        ("/app-conf", b"port=80\nprice=5$"), ("/etc/app", b"port=80\nprice=5$"),
    ]  # fmt: skip
    assert project.secrets["pw"] == FileSpec(name="pw", file=f"{tmp_path}/pw")


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ('file = "nosuch"', '5: secrets.pw.file: "{folder}/nosuch" cannot be read: No such file or directory'),
        ('file = "."', '5: secrets.pw.file: "{folder}" cannot be read: Is a directory'),
        ('file = "large"', '5: secrets.pw.file: "{folder}/large" is too large (at most 500K)'),
        ('environment = "UNSET"', '5: secrets.pw.environment: variable "UNSET" is not set'),
        ('environment = "LARGE"', "5: secrets.pw.environment: is too large (at most 500K)"),
        ('environment = "A=B"', "5: secrets.pw.environment: \"A=B\" cannot name an environment variable"),
        ('file = "pw"\nenvironment = "X"', "4: secrets.pw: has file and environment at once"),
        ("", "4: secrets.pw: does not say where its content comes from"),
        ("external = true", "5: secrets.pw.external: unknown key (nobody but the manifest keeps them"),
        ('content = "x"', "5: secrets.pw.content: unknown key (a manifest is no place for a secret"),
    ],
)  # fmt: skip
def test_a_secret_that_is_not_to_be_had(tmp_path: Path, definition: str, expected: str) -> None:
    (tmp_path / "large").write_bytes(b"x" * (500 << 10) + b"x")
    (tmp_path / "pw").write_bytes(b"x" * (500 << 10))
    text = f'[services.web]\ncommand = "x"\nsecrets = ["pw"]\n[secrets.pw]\n{definition}'
    found = problems(tmp_path, text, LARGE="x" * ((500 << 10) + 1))
    assert any(problem.startswith(expected.format(folder=tmp_path)) for problem in found), found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('secrets = ["pv"]', 'services.web.secrets[0]: there is no secret "pv" (did you mean "pw"?)'),
        ('secrets = ["other"]', 'there is no secret "other" (allowed: pw)'),
        ('configs = ["pw"]', 'there is no config "pw" (declare it: [configs.pw])'),
        ('secrets = ["pw", "pw"]', '[1]: "/run/secrets/pw" is mounted on already'),
        ('secrets = ["pw"]\ntmpfs = "/run/secrets/pw"', '"/run/secrets/pw" is mounted on already'),
        ('secrets = [{ source = "pw", target = "/proc/x" }]', 'nothing can be mounted on "/proc/x"'),
        ('secrets = [{ source = "pw", target = "../../proc/x" }]', 'nothing can be mounted on "/proc/x"'),
        ('secrets = [{ source = "pw", mode = "0999" }]', "is not a file mode"),
        ('secrets = [{ source = "pw", uid = 4294967295 }]', "out of range"),
        ('secrets = [{ target = "/x" }]', 'lacks "source"'),
        ("secrets = [5]", "expected a name or a table"),
    ],
)
def test_a_service_that_asks_for_the_wrong_thing(tmp_path: Path, keys: str, expected: str) -> None:
    (tmp_path / "pw").write_text("x")
    found = problems(tmp_path, f'[services.web]\ncommand = "x"\n{keys}\n[secrets.pw]\nfile = "pw"')
    assert any(expected in problem for problem in found), found


def test_what_nobody_gets_is_not_read(tmp_path: Path) -> None:
    text = """
[services.web]
command = "x"
[services.debug]
command = "x"
profiles = ["debug"]
secrets = ["pw"]
[secrets.pw]
file = "nosuch"
"""
    assert loaded(tmp_path, text).project.secrets["pw"].file == f"{tmp_path}/nosuch"
    with pytest.raises(ManifestError, match="nosuch"):
        loaded(tmp_path, text, profiles=("debug",))


def test_all_together_have_limits(tmp_path: Path) -> None:
    """Of a service, and of a project."""
    (tmp_path / "big").write_bytes(b"x" * (500 << 10))
    secret = '[secrets.big]\nfile = "big"\n'
    three = ", ".join(f'{{ source = "big", target = "/big{number}" }}' for number in range(3))
    remedy = "(mount large files with volumes)"
    assert problems(tmp_path, f'{secret}[services.web]\ncommand = "x"\nsecrets = [{three}]\n') == [
        "5: services.web.secrets: secrets and configs have 1.5M together, at most 1M are allowed " + remedy
    ]
    services = "".join(f'[services.s{n}]\ncommand = "x"\nsecrets = ["big"]\n' for n in range(17))
    assert problems(tmp_path, secret + services) == [
        " the services' files: secrets and configs have 8.3M together, at most 8M are allowed " + remedy
    ]
    sixteen = services.partition("[services.s16]")[0]
    assert len(loaded(tmp_path, secret + sixteen).project.services) == 16


@given(content=st.binary(max_size=64), name=st.sampled_from(["secrets", "configs"]))
def test_nothing_that_is_shown_has_the_content(content: bytes, name: str) -> None:
    grant = Grant(source="a", target="/a", content=HIDDEN.encode() + content)
    spec, plain = (
        msgspec.structs.replace(ServiceSpec(name="x"), **{name: (each,)})
        for each in (grant, msgspec.structs.replace(grant, content=b""))
    )
    assert redacted(spec) == plain
    assert digest(redacted(spec)) == digest(plain)
    assert HIDDEN not in f"{spec!r} {grant} {spec}"
    assert changed_keys(plain, spec) == {name}
    assert name not in IN_PLACE


def test_the_project_that_is_printed_loads_again_and_does_not_say_them(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(HIDDEN)
    project = loaded(
        tmp_path,
        """
[services.web]
command = "x"
secrets = ["pw", { source = "token", uid = 5, mode = "0400" }]
configs = ["app", "motd"]
[secrets]
pw = { file = "pw" }
token = { environment = "TOKEN" }
[configs]
app = { content = "a = $$5" }
motd = { file = "pw" }
""",
        TOKEN=f"{HIDDEN}2",
    ).project
    text = to_toml(project)
    assert HIDDEN not in text + to_json(project)
    assert json.loads(to_json(project))["services"]["web"]["secrets"][1] == {
        "source": "token", "target": "/run/secrets/token", "uid": 5, "mode": "0400",
    }  # fmt: skip
    again = loaded(tmp_path, text, TOKEN=f"{HIDDEN}2").project
    assert again == project


def test_the_launch_program_does_not_describe_them() -> None:
    from orchestrator.runtime.program import describe

    spec = ServiceSpec(name="x", secrets=(Grant(source="a", target="/a", uid=7, content=HIDDEN.encode()),))
    (operation,) = rootfs.secrets(spec)
    assert operation == ["secrets", [["dG9wLXNlY3JldC01ZjNh", 7, 0, 0o444]]]
    assert describe(operation) == "make 1 read-only files of secrets and configs in memory"
    assert rootfs.attach_mounts(spec, ()) == [["attach-tree", "secret0", "/a"]]
    assert rootfs.secrets(ServiceSpec(name="x")) == []
