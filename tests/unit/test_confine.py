"""What each container is held to, on hosts that stand for real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LaunchError, SpawnerError
from orchestrator.ids import Instance
from orchestrator.launch.confine import Confiner
from orchestrator.launch.container import Container
from orchestrator.lsm import host, relabel, selinux
from orchestrator.lsm.confinement import UNCONFINED
from orchestrator.spec import Mount, Selinux, ServiceSpec
from support.fake_launcher import FakeCgroup, fake_container


class Host:
    """The host's answers, and what was run and relabelled on it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.selinux = self.enforcing = self.apparmor = False
        self.types = {"container_t"}
        self.denied: list[str] = []
        self.profiles: dict[str, str] | None = {}
        self.parser: str | None = "/usr/sbin/apparmor_parser"
        self.result: tuple[int, bytes, bytes] | SpawnerError = (0, b"", b"")
        self.ran: list[tuple[Sequence[str], bytes]] = []
        self.labels: dict[str, str] = {}
        patch.setattr(host, "selinux_enabled", lambda: self.selinux)
        patch.setattr(host, "selinux_enforcing", lambda: self.enforcing)
        patch.setattr(host, "selinux_defaults", lambda: selinux.defaults(""))
        patch.setattr(host, "own_context", lambda: "u:r:orch_t:s0")
        patch.setattr(host, "knows", lambda context: context.split(":")[2] in self.types)
        patch.setattr(host, "forbidden", lambda source, target, needed: self.denied)
        patch.setattr(host, "apparmor_enabled", lambda: self.apparmor)
        patch.setattr(host, "apparmor_profiles", lambda: self.profiles)
        patch.setattr(host, "apparmor_parser", lambda: self.parser)
        patch.setattr(relabel, "label", self._label)
        patch.setattr(relabel, "current", lambda path: self.labels.get(path, ""))

    def _label(self, path: str, context: str) -> int:
        if path.endswith("/refused"):
            raise OSError(95, "Operation not supported", path)
        self.labels[path] = context
        return 1

    async def run(self, argv: Sequence[str], stdin: bytes) -> tuple[int, bytes, bytes]:
        self.ran.append((argv, stdin))
        await asyncio.sleep(0)
        if isinstance(self.result, SpawnerError):
            raise self.result
        if self.result[0] == 0 and self.profiles is not None:
            self.profiles["orch-default"] = "enforce"
        return self.result


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def confiner(machine: Host) -> Confiner:
    return Confiner(Instance("/state", "/run/x"), machine.run)


def container(name: str = "a", **keys: Any) -> Container:
    made = fake_container(ServiceSpec(name=name, command=("true",), **keys), FakeCgroup())
    made.volumes = {
        mount.source: f"/volumes/{mount.source}" for mount in made.spec.mounts if mount.type == "volume"
    }
    return made


async def test_a_host_without_modules_gives_nothing_and_complains_about_nothing(machine: Host) -> None:
    one = container(mounts=(Mount(type="volume", source="v", target="/v"),))
    await confiner(machine).confine(one)
    assert one.confinement == UNCONFINED
    assert (machine.ran, machine.labels) == ([], {})


async def test_selinux_gives_each_container_categories_of_its_own(machine: Host) -> None:
    machine.selinux = machine.enforcing = True
    given = confiner(machine)
    many = [container(f"s{number}") for number in range(50)]
    for one in many:
        await given.confine(one)
    contexts = {one.confinement.process for one in many}
    assert len(contexts) == 50
    for one in many:
        assert one.confinement.process.startswith("system_u:system_r:container_t:s0:c")
        assert one.confinement.files.startswith("system_u:object_r:container_file_t:s0:c")
        assert one.confinement.files.rpartition(":")[2] == one.confinement.process.rpartition(":")[2]
        assert (one.confinement.profile, one.confinement.note) == ("", "")


async def test_categories_follow_from_the_name_and_are_free_again_afterwards(machine: Host) -> None:
    machine.selinux = True
    given = confiner(machine)
    first, again, twin = container("a"), container("a"), container("a")
    first.id, again.id, twin.id = "1", "2", "3"
    await given.confine(first)
    await given.confine(twin)  # of the same name, while that one is still there
    assert twin.confinement.process != first.confinement.process
    given.release(first)
    await given.confine(again)
    assert again.confinement == first.confinement


async def test_a_policy_without_containers_is_noted_unless_the_manifest_insists(machine: Host) -> None:
    machine.selinux, machine.types = True, set()
    one = container()
    await confiner(machine).confine(one)
    assert one.confinement.process == one.confinement.files == ""
    assert "the SELinux policy has no container_t" in one.confinement.note


async def test_a_domain_that_may_start_no_containers_is_refused(machine: Host) -> None:
    machine.selinux, machine.denied = True, ["nnp_transition"]
    await confiner(machine).confine(container())  # permissive: the kernel only reports
    machine.enforcing = True
    with pytest.raises(LaunchError) as caught:
        await confiner(machine).confine(container())
    assert "orch, as u:r:orch_t:s0" in caught.value.cause
    assert "(nnp_transition)" in caught.value.cause
    await confiner(machine).confine(container(selinux=Selinux(disable=True)))


async def test_volumes_are_labelled_for_all_and_paths_as_they_ask(machine: Host, tmp_path: Path) -> None:
    machine.selinux = True
    (tmp_path / "link").symlink_to(tmp_path / "own")
    one = container(
        mounts=(
            Mount(type="volume", source="v", target="/v"),
            Mount(type="volume", source="w", target="/w", relabel="private"),
            Mount(type="bind", source=str(tmp_path / "link"), target="/o", relabel="private"),
            Mount(type="bind", source=str(tmp_path / "all"), target="/a", relabel="shared"),
            Mount(type="bind", source=str(tmp_path / "kept"), target="/k"),
            Mount(type="tmpfs", target="/t"),
        )
    )
    await confiner(machine).confine(one)
    common = "system_u:object_r:container_file_t:s0"
    assert machine.labels == {
        "/volumes/v": common,
        "/volumes/w": one.confinement.files,
        str(tmp_path / "own"): one.confinement.files,
        str(tmp_path / "all"): common,
    }


async def test_a_volume_is_labelled_once(machine: Host) -> None:
    machine.selinux = True
    given, volume = confiner(machine), Mount(type="volume", source="v", target="/v")
    await given.confine(container(mounts=(volume,)))
    labelled = dict(machine.labels)
    machine.labels["/volumes/v"] = labelled["/volumes/v"] + ":c1,c2"  # of a container that owned it
    await given.confine(container("b", mounts=(volume,)))
    assert machine.labels["/volumes/v"].endswith(":c1,c2")


@pytest.mark.parametrize("source", ["/etc", "/", "/home/somebody"])
async def test_the_systems_own_folders_keep_their_labels(machine: Host, source: str) -> None:
    machine.selinux = True
    mount = Mount(type="bind", source=source, target="/x", relabel="shared")
    with pytest.raises(LaunchError, match="cannot be relabelled"):
        await confiner(machine).confine(container(mounts=(mount,)))
    assert machine.labels == {}


async def test_a_label_that_cannot_be_stored_names_the_file(machine: Host) -> None:
    machine.selinux = True
    mount = Mount(type="bind", source="/srv/x/refused", target="/x", relabel="shared")
    with pytest.raises(LaunchError, match="/srv/x/refused: no new SELinux label: Operation not supported"):
        await confiner(machine).confine(container(mounts=(mount,)))


async def test_the_default_profile_is_loaded_once_for_all(machine: Host) -> None:
    machine.apparmor = True
    given = confiner(machine)
    many = [container(f"s{number}") for number in range(5)]
    await asyncio.gather(*map(given.confine, many))
    assert {one.confinement.profile for one in many} == {"orch-default"}
    ((argv, text),) = machine.ran
    assert argv[0] == "/usr/sbin/apparmor_parser"
    assert b"profile orch-default" in text


async def test_a_profile_that_is_loaded_is_the_operators(machine: Host) -> None:
    machine.apparmor, machine.profiles = True, {"orch-default": "complain", "mine": "enforce"}
    given = confiner(machine)
    ones = [container(), container(apparmor="mine"), container(apparmor="unconfined")]
    for one in ones:
        await given.confine(one)
    assert [one.confinement.profile for one in ones] == ["orch-default", "mine", "unconfined"]
    assert machine.ran == []


@pytest.mark.parametrize(
    ("parser", "result", "reason"),
    [
        (None, (0, b"", b""), "there is no apparmor_parser"),
        ("/p", (1, b"", b"no such feature\n"), "no such feature"),
        ("/p", (1, b"", b""), "exit code 1"),
        ("/p", SpawnerError("cannot run /p", "it did not end"), "it did not end"),
    ],
)
async def test_a_profile_that_cannot_be_loaded_is_noted_unless_the_manifest_insists(
    machine: Host, parser: str | None, result: Any, reason: str
) -> None:
    machine.apparmor, machine.parser, machine.result = True, parser, result
    given, one = confiner(machine), container()
    await given.confine(one)
    assert one.confinement.profile == ""
    assert one.confinement.note == f"AppArmor profile orch-default cannot be loaded: {reason}"
    with pytest.raises(LaunchError, match="orch-default cannot be loaded"):
        await given.confine(container(apparmor="orch-default"))
    machine.parser, machine.result = "/p", (0, b"", b"")  # it is tried again
    await given.confine(one)
    assert (one.confinement.profile, one.confinement.note) == ("orch-default", "")


async def test_containers_that_share_processes_have_one_level(machine: Host) -> None:
    machine.selinux = True
    given = confiner(machine)
    home, guest, stubborn = (
        container("home"),
        container("guest"),
        container("b", selinux=Selinux(level="s0:c9")),
    )
    for one in (home, guest, stubborn):
        await given.confine(one)
    own = guest.confinement
    guest.neighbours = stubborn.neighbours = {"net": home}
    given.follow(guest)
    assert guest.confinement == own  # a network is used through sockets
    guest.neighbours = stubborn.neighbours = {"net": home, "pid": home}
    for one in (guest, stubborn):
        given.follow(one)
    assert guest.confinement == home.confinement
    assert stubborn.confinement.process.endswith(":s0:c9")
    free = container("c", selinux=Selinux(disable=True))
    free.neighbours = {"pid": home}
    await given.confine(free)
    given.follow(free)
    assert free.confinement == UNCONFINED


@pytest.mark.parametrize("kind", ["pid", "ipc", "mnt"])
async def test_a_container_among_the_hosts_processes_has_no_label_of_its_own(
    machine: Host, kind: str
) -> None:
    machine.selinux = True
    one = container(**{kind: "host"})
    await confiner(machine).confine(one)
    assert one.confinement.process == ""
    assert one.confinement.note == f"no SELinux label, since it has the host's {kind} namespace"
    insisting = container("b", selinux=Selinux(type="container_t"), **{kind: "host"})
    await confiner(machine).confine(insisting)
    assert ":container_t:" in insisting.confinement.process
