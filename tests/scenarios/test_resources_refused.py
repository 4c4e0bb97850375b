"""What a host cannot give is refused before anything is started, with the line of the manifest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.cli import COMMAND, Completed, Orch

pytestmark = pytest.mark.requires("root", "netns", "pidns", "overlay")


def bring_up(orch: Orch, keys: str, *words: str) -> Completed:
    """Run the job of a project that has these keys at line 5."""
    manifest = orch.manifest(f'name = "no"\n[services.a]\nkind = "job"\ncommand = ["true"]\n{keys}\n')
    done = orch.run(*(words or ("up", "-d")), manifest, *(["a"] if words else []), check=False)
    done.stderr = done.stderr.replace(manifest, "MANIFEST")
    return done


def refused(orch: Orch, keys: str, *words: str) -> str:
    """Why these keys are refused, which they must be."""
    done = bring_up(orch, keys, *words)
    assert done.returncode == 2, done
    assert [container for container in orch.ps() if container["project"] == "no"] == []
    return done.stderr


def is_bounded() -> bool:
    """Whether this process, and so the service, lacks CAP_SYS_RESOURCE."""
    status = Path("/proc/self/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    return not mask >> 24 & 1


@pytest.mark.parametrize("words", [(), ("run",)])
def test_more_descriptors_than_the_kernel_allows(orch: Orch, words: tuple[str, ...]) -> None:
    problem = refused(orch, 'ulimits = { nofile = "unlimited" }', *words)
    assert problem.startswith(
        "MANIFEST:5: services.a.ulimits.nofile: unlimited is above what the kernel allows"
    )


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("oom_score_adj = -999", "services.a.oom_score_adj: -999 is below the service's own, "),
        ("ulimits = { rtprio = 99 }", "services.a.ulimits.rtprio: a hard limit of 99 is above the service's own"),
    ],
)  # fmt: skip
def test_what_takes_a_capability_is_refused_if_orch_lacks_it(orch: Orch, keys: str, says: str) -> None:
    if not is_bounded():
        assert bring_up(orch, keys).returncode == 0
        return
    problem = refused(orch, keys)
    assert problem.startswith(f"MANIFEST:5: {says}")
    assert "CAP_SYS_RESOURCE" in problem


def test_a_running_services_own_limits_count_and_not_ours(orch: Orch) -> None:
    manifest = orch.manifest('name = "low"\n[services.a]\ncommand = ["sleep", "1000"]\n')
    script = f"ulimit -n 2000; exec {' '.join(COMMAND)} up -d {manifest}"
    subprocess.run(["sh", "-c", script], env=orch.environment, check=True, capture_output=True)
    keys = "ulimits = { nofile = 3000 }"
    if not is_bounded():
        assert bring_up(orch, keys).returncode == 0
        return
    assert "a hard limit of 3000 is above the service's own hard limit, 2000" in refused(orch, keys)


@pytest.mark.requires("cgroup-v1")
@pytest.mark.parametrize("words", [(), ("run",)])
def test_protection_of_memory_where_the_kernel_has_none(orch: Orch, words: tuple[str, ...]) -> None:
    """Only the service knows: its refusal gets its line as well."""
    problem = refused(orch, 'resources = { memory_low = "8M" }', *words)
    assert problem.startswith("MANIFEST:5: services.a.resources.memory_low: cgroup v1 protects no memory (")
