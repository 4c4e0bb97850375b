"""Containers made by the spawner alone, without a service, cgroups and a network."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from orchestrator.images.resolve import resolve
from orchestrator.runtime import rootfs
from orchestrator.runtime.handle import Process, SpawnerHandle
from orchestrator.runtime.program import CgroupPart, NamespacesPart, NetworkPart, RootfsPart, compile_start
from orchestrator.runtime.userns import IdMaps
from orchestrator.spec import ServiceSpec
from support.requirements import program_path

FILES = {"/etc/hostname": "box\n", "/etc/resolv.conf": "# none\n"}
LAST_CAPABILITY = int(Path("/proc/sys/kernel/cap_last_cap").read_text())


class Box:
    """Starts containers and reads what they print."""

    def __init__(self, spawner: SpawnerHandle, directory: Path, maps: IdMaps | None = None) -> None:
        self.spawner = spawner
        self.directory = directory
        self.maps = maps
        self.count = 0

    @property
    def root(self) -> str:
        """The folder that containers build their root on."""
        return str(self.directory / "root")

    async def start(
        self, *command: str, binds: tuple[rootfs.Bind, ...] = (), image: str = "host", **spec: Any
    ) -> Process:
        """Clone a container; its program has not been exec'd yet."""
        self.count += 1
        base = self.directory / str(self.count)
        base.mkdir()
        layers = []
        lowers = (await asyncio.to_thread(resolve, image, str(self.directory / "images"))).lowers
        for number, lower in enumerate(lowers):
            upper, work = (str(base / f"layers/{name}{number}") for name in ("upper", "work"))
            layers.append(rootfs.Layer(lower.target, lower.folders, upper, work))
        return await self.launch(tuple(layers), str(base / "layers"), *command, binds=binds, **spec)

    async def launch(
        self,
        layers: tuple[rootfs.Layer, ...],
        layers_directory: str,
        *command: str,
        binds: tuple[rootfs.Bind, ...] = (),
        cgroup: CgroupPart | None = None,
        cgroups: tuple[rootfs.CgroupMount, ...] = (),
        **spec: Any,
    ) -> Process:
        """As :meth:`start`, of these layers."""
        Path(self.root).mkdir(exist_ok=True)
        service = ServiceSpec(name="x", command=command or ("true",), **spec)
        files = RootfsPart(self.root, layers_directory, layers, binds, FILES, cgroups=cgroups)
        program = compile_start(
            service, "box", cgroup or CgroupPart(), files, NetworkPart(new=True), LAST_CAPABILITY,
            NamespacesPart(self.maps),
        )  # fmt: skip
        process = self.spawner.launch(program)
        await process.cloned()
        return process

    async def run(self, *command: str, **spec: Any) -> tuple[int, str]:
        """Run to the end; exit code, and output and errors together."""
        process = await self.start(*command, **spec)
        try:
            await process.started()
            output = await asyncio.gather(
                *(asyncio.to_thread(read_all, process.take(n)) for n in ("stdout", "stderr"))
            )
            exit = await process.exited()
            return exit.code, "".join(output)
        finally:
            process.close()


def read_all(fd: int) -> str:
    """Everything up to the end of a pipe, which is closed."""
    with open(fd, "rb") as file:
        return file.read().decode()


def bare_image(folder: Path) -> Path:
    """A new image: the usual empty folders, and busybox as /bin/busybox."""
    for name in ("bin", "usr", "proc", "sys", "dev", "etc"):
        (folder / name).mkdir(parents=True)
    found = program_path("busybox")
    assert found is not None
    shutil.copy(found, folder / "bin/busybox")
    return folder
