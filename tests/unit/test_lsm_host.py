"""What the host has of security modules, read from files that stand for the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ManifestError
from orchestrator.lsm import host
from orchestrator.manifest.load import load
from orchestrator.spec import Mount, Selinux, ServiceSpec


@pytest.fixture
def no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without any."""
    monkeypatch.setattr(host, "selinux_enabled", lambda: False)
    monkeypatch.setattr(host, "apparmor_enabled", lambda: False)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with a policy that knows container_t, and with one profile."""
    monkeypatch.setattr(host, "selinux_enabled", lambda: True)
    monkeypatch.setattr(host, "knows", lambda context: ":container_t:" in context)
    monkeypatch.setattr(host, "apparmor_enabled", lambda: True)
    monkeypatch.setattr(host, "apparmor_profiles", lambda: {"mine": "enforce"})
    monkeypatch.setattr(host, "apparmor_parser", lambda: "/usr/sbin/apparmor_parser")


def problems(**keys: object) -> list[tuple[tuple[str | int, ...], str]]:
    return list(host.problems(ServiceSpec(name="a", **keys)))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_modules")
def test_a_host_without_modules_refuses_only_what_insists() -> None:
    assert problems() == []
    assert problems(selinux=Selinux(disable=True), apparmor="unconfined") == []
    ((keys, text),) = problems(selinux=Selinux(level="s0:c1"))
    assert keys == ("selinux",)
    assert text.startswith("this host does not use SELinux (")
    ((keys, text),) = problems(apparmor="mine")
    assert keys == ("apparmor",)
    assert text.startswith("this host does not use AppArmor (")
    relabelled = Mount(type="bind", source="/etc", target="/x", relabel="private")
    assert problems(mounts=(relabelled,), replicas=2) == []


@pytest.mark.usefixtures("both")
def test_labels_and_profiles_that_the_host_knows() -> None:
    assert problems() == []
    assert problems(selinux=Selinux(level="s0:c1,c2"), apparmor="mine") == []
    assert problems(apparmor="orch-default") == []  # which the service loads


@pytest.mark.usefixtures("both")
def test_a_label_that_the_policy_does_not_know() -> None:
    ((_, text),) = problems(selinux=Selinux(type="no_such_t"))
    assert text == (
        "the SELinux policy knows no system_u:system_r:no_such_t:s0:c0,c1 (see seinfo -t, -r and -u)"
    )


@pytest.mark.usefixtures("both")
def test_a_profile_that_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, text),) = problems(apparmor="other")
    assert text == 'profile "other" is not loaded (apparmor_parser -r FILE loads it)'
    monkeypatch.setattr(host, "apparmor_parser", lambda: None)
    ((_, text),) = problems(apparmor="orch-default")
    assert "there is no apparmor_parser" in text
    monkeypatch.setattr(host, "apparmor_profiles", lambda: None)  # only root may see them
    assert problems(apparmor="other") == []


@pytest.mark.usefixtures("both")
def test_what_may_not_be_relabelled(tmp_path: Path) -> None:
    def bind(source: str, relabel: str) -> Mount:
        return Mount(type="bind", source=source, target="/x", relabel=relabel)  # type: ignore[arg-type]

    ((keys, text),) = problems(mounts=(bind(str(tmp_path), "shared"), bind("/etc", "shared")))
    assert keys == ("mounts", 1)
    assert text.startswith('"/etc" is the system\'s own')
    assert problems(mounts=(bind(str(tmp_path), "private"),)) == []
    ((keys, text),) = problems(mounts=(bind(str(tmp_path), "private"),), replicas=3)
    assert text.startswith("only one of 3 replicas could use it")


@pytest.mark.usefixtures("no_modules")
def test_a_manifest_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "orch.toml"
    path.write_text(
        """
        name = "x"
        [defaults]
        apparmor = "mine"
        [services.a]
        command = "true"
        selinux = { type = "container_t" }
        """
    )
    with pytest.raises(ManifestError) as caught:
        load(str(path), environ={})
    assert caught.value.exit_code == 2
    one, two = caught.value.problems
    assert one.startswith(f"{path}:4: defaults.apparmor: this host does not use AppArmor")
    assert one.endswith('(in service "a")')
    assert two.startswith(f"{path}:7: services.a.selinux: this host does not use SELinux")
    assert load(str(path), environ={}, check_host=False).project.services["a"].apparmor == "mine"


def test_the_policys_answer_is_read_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "class/process/perms"
    folder.mkdir(parents=True)
    (tmp_path / "class/process/index").write_text("2")
    (folder / "transition").write_text("2")
    (folder / "sigkill").write_text("4")
    asked = tmp_path / "access"
    monkeypatch.setattr(host, "SELINUXFS", str(tmp_path))
    # The file stands for a transaction: the question is written over, the answer read behind it.
    question = "a_t b_t 2"
    needed = {"process": ("transition", "sigkill", "not-in-this-policy"), "no-such-class": ("anything",)}
    for allowed, denied in (
        ("2", ["sigkill"]),
        ("8", ["transition"]),
        ("a", []),
        ("0", ["transition", "sigkill"]),
    ):
        asked.write_text(" " * len(question) + f"{allowed} ffffffff 0 ffffffff 1 0")
        assert host.forbidden("a_t", "b_t", needed) == denied
        assert asked.read_text().startswith(question)


@pytest.mark.parametrize(("level", "keeps"), [("s0:c0,c1", True), ("s0", False)])
def test_the_policy_says_whose_new_files_are(
    monkeypatch: pytest.MonkeyPatch, level: str, keeps: bool
) -> None:
    asked = []

    def ask(name: str, question: str) -> str:
        asked.append((name, question))
        return f"system_u:object_r:container_file_t:{level}\0"

    texts = {f"{host.SELINUXFS}/class/file/index": "6"}
    monkeypatch.setattr(host, "_text", texts.get)
    monkeypatch.setattr(host, "_ask", ask)
    assert host.keeps_categories() is keeps
    assert asked == [
        ("create", "system_u:system_r:container_t:s0:c0,c1 system_u:object_r:container_file_t:s0 6")
    ]


def test_the_kind_of_policy_is_read_from_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        host._SELINUX_CONFIG: "# SELINUXTYPE=no\nSELINUX=enforcing\nSELINUXTYPE=default\n",
        "/etc/selinux/default/contexts/lxc_contexts": 'process = "u:r:here_t:s0"',
    }
    monkeypatch.setattr(host, "_text", texts.get)
    assert host.selinux_defaults().process.type == "here_t"
    del texts[host._SELINUX_CONFIG]
    texts["/etc/selinux/targeted/contexts/lxc_contexts"] = 'process = "u:r:there_t:s0"'
    assert host.selinux_defaults().process.type == "there_t"


@pytest.mark.parametrize(
    ("attribute", "fs", "enabled"),
    [
        ("unconfined_u:unconfined_r:unconfined_t:s0\0", True, True),
        ("kernel\0", True, False),  # no policy is loaded yet
        ("unconfined\n", False, False),  # AppArmor's
        ("", True, False),
    ],
)
def test_selinux_is_in_use_when_a_policy_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, fs: bool, enabled: bool
) -> None:
    if fs:
        (tmp_path / "context").touch()
    monkeypatch.setattr(host, "SELINUXFS", str(tmp_path))
    monkeypatch.setattr(host, "_text", lambda path: attribute)
    assert host.selinux_enabled() is enabled
