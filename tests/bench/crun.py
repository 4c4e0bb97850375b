"""The peer: Debian's crun, timed from a mount namespace of its own.

crun refuses a v2 mount beside v1 hierarchies, so where there are both, the v2 mount is taken away for it;
orch goes on seeing both. The helper process (``python -m bench.crun``) reads one command a line (JSON) and
answers the seconds it took (JSON), so that no interpreter's start is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from support import sandbox

#: The bounding set that Docker gives by default, as orch does.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT "
    "KILL AUDIT_WRITE"
)
CGROUP = "orch-bench-crun"


def bundle_config(rootfs: str, command: tuple[str, ...], name: str) -> dict[str, Any]:
    """An OCI bundle's config.json: the namespaces (a network without devices), limits and mounts of orch's.

    https://github.com/opencontainers/runtime-spec/blob/main/config.md
    """
    capabilities = [f"CAP_{word}" for word in CAPABILITIES.split()]
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs},
        "hostname": "crun",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
        ],
        "linux": {
            "cgroupsPath": f"/{CGROUP}/{name}",
            "resources": {
                "memory": {"limit": 64 << 20},
                "pids": {"limit": 64},
                "cpu": {"quota": 50_000, "period": 100_000},
            },
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        },
    }


class Crun:
    """crun with bundles beneath ``base``; a context manager that ends its helper and removes its cgroups."""

    def __init__(self, base: str, rootfs: str) -> None:
        self._base = f"{base}/crun"
        self._rootfs = rootfs
        self._count = 0
        os.makedirs(self._base)
        self._helper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench.crun"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._helper.communicate()
        for hierarchy in sandbox.cgroup_hierarchies():
            if os.path.isdir(f"{hierarchy.point}/{CGROUP}"):
                os.rmdir(f"{hierarchy.point}/{CGROUP}")
        shutil.rmtree(self._base)

    def bundle(self, name: str, *command: str) -> str:
        """Make a bundle that runs ``command``; its folder."""
        folder = f"{self._base}/{name}"
        os.makedirs(folder)
        with open(f"{folder}/config.json", "w") as file:
            json.dump(bundle_config(self._rootfs, command, name), file)
        return folder

    def time(self, *words: str) -> float:
        """Run ``crun WORDS``; the seconds from its start to its end."""
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.write(json.dumps(["crun", "--root", f"{self._base}/state", *words]) + "\n")
        self._helper.stdin.flush()
        answer: dict[str, Any] = json.loads(self._helper.stdout.readline())
        if answer["code"] != 0:
            raise RuntimeError(f"crun {' '.join(words)} failed with exit code {answer['code']}")
        return float(answer["seconds"])

    def run(self, bundle: str) -> float:
        """``crun run``: make a container, run its program to the end, remove it."""
        self._count += 1
        return self.time("run", "--bundle", bundle, f"bench-{self._count}")


def _serve() -> None:
    hierarchies = sandbox.cgroup_hierarchies()
    if len(hierarchies) > 1:
        for hierarchy in hierarchies:
            if hierarchy.kind == "unified":
                sandbox.umount(hierarchy.point, sandbox.MNT_DETACH)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Standard error stays: crun's complaints are for whoever runs the benchmark.
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    for line in sys.stdin:
        words = json.loads(line)
        began = time.perf_counter()
        pid = os.posix_spawnp(words[0], words, os.environ, file_actions=actions)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"seconds": time.perf_counter() - began, "code": code}), flush=True)


if __name__ == "__main__":
    _serve()
