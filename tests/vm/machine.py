"""Runs a virtual machine, passes on what the tests in it print, and ends it when it makes no progress."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from support.requirements import program_path
from support.waiting import wait_until
from vm import archive, guest, layer, qemu
from vm.commands import CommandError
from vm.commands import run as run_program
from vm.outcome import Said, began

#: Of the disk that holds containers' writable layers and images. It takes as much as is written.
DISK_SIZE = "8G"
#: The folders of which the guest's root consists, uppermost first.
SHARES = ("layer", "host")
#: Until the tests begin. Emulation takes some ten seconds.
BOOT_SECONDS = 180.0
#: Until the guest's kernel hands over, on KVM, where it takes two.
KVM_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """Seconds after which a guest is ended.

    :param quiet: without output of the tests.
    :param whole: from the beginning.
    """

    quiet: float
    whole: float


def run(
    kind: layer.Kind,
    task: guest.Task,
    accelerators: Sequence[str],
    memory: int,
    limits: Limits,
    out: IO[bytes],
) -> Said:
    """Boot a guest, let it do its task, and tell what it said.

    :param accelerators: those to try, in this order; only the last one may fail.
    :param out: where the task's output goes as it comes.
    :raises CommandError: what the guest is made of could not be had.
    """
    packages = layer.layer(kind)
    with tempfile.TemporaryDirectory(prefix="orch-vm-") as folder:
        machine = _prepare(Path(folder), packages, kind, task, memory)
        for accelerator in accelerators:
            last = accelerator == accelerators[-1]
            boot = BOOT_SECONDS if last else KVM_SECONDS
            with _served({"layer": packages, "host": Path("/")}, machine.shares):
                watch = Watch(task.token, machine.console, limits, boot, out)
                said = watch.run(qemu.command(replace(machine, accelerator=accelerator)))
            if last or began(task.token) in said.port:
                return said
            print(f"vm: no guest comes up with {accelerator} here", file=sys.stderr)
    raise ValueError("no accelerator")


def _prepare(folder: Path, packages: Path, kind: layer.Kind, task: guest.Task, memory: int) -> qemu.Machine:
    busybox = program_path("busybox")
    if busybox is None:
        raise CommandError("needs busybox (Debian package busybox-static)")
    modules = layer.modules(packages, *guest.MODULES)
    files = guest.files(
        task, Path(busybox).read_bytes(), SHARES, modules, kind.selinux(packages) if kind.selinux else None
    )
    initramfs = folder / "initramfs"
    initramfs.write_bytes(archive.pack(files))
    disk = folder / "disk"
    run_program("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", str(disk), DISK_SIZE)
    return qemu.Machine(
        accelerator="tcg",
        memory=memory,
        kernel=packages / f"boot/vmlinuz-{layer.kernel_version(packages)}",
        initramfs=initramfs,
        disk=disk,
        shares={tag: folder / tag for tag in SHARES},
        console=folder / "console",
        append=kind.kernel,
    )


@contextmanager
def _served(folders: Mapping[str, Path], sockets: Mapping[str, Path]) -> Iterator[None]:
    """Each folder is served to one guest at the socket of the same name."""
    with ExitStack() as stack:
        for tag, folder in folders.items():
            stack.enter_context(_server(folder, sockets[tag]))
        yield


@contextmanager
def _server(folder: Path, socket: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "vm.share", str(folder), str(socket)]
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(command, stderr=errors) as server:
        try:
            wait_until("virtiofsd listens", lambda: socket.exists() or server.poll() is not None)
            if server.poll() is not None:
                errors.seek(0)
                raise CommandError(f"cannot serve {folder} to a guest: {errors.read().strip()}")
            yield
        finally:
            server.kill()
            socket.unlink(missing_ok=True)


class Watch:
    """Reads what a machine says until it ends, or until it has been silent for too long."""

    def __init__(self, token: str, console: Path, limits: Limits, boot: float, out: IO[bytes]) -> None:
        self._token = token
        self._console = console
        self._limits = limits
        self._boot = boot
        self._out = out
        self._port = b""

    def run(self, command: Sequence[str]) -> Said:
        """Run QEMU to its end; it is gone afterwards, whatever happens."""
        self._console.write_bytes(b"")
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            ) as process,
        ):
            try:
                stopped = self._read(process)
            finally:
                process.kill()
                code = process.wait()
            errors.seek(0)
            return Said(
                console=self._console.read_text(errors="replace"),
                port=self._port.decode(errors="replace"),
                stopped=stopped,
                code=0 if stopped else code,
                errors=errors.read().decode(errors="replace"),
            )

    def _read(self, process: subprocess.Popen[bytes]) -> str:
        """Pass on the output until its end; why it was not waited for, ``""`` when it was."""
        assert process.stdout is not None
        start = heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(1.0):
                    data = os.read(process.stdout.fileno(), 1 << 16)
                    if not data:
                        process.wait(10)  # the port closes with it
                        return ""
                    heard = time.monotonic()
                    self._take(data)
                elapsed, silent = time.monotonic() - start, time.monotonic() - heard
                if elapsed > self._limits.whole:
                    return f"not done after {elapsed:.0f} s"
                if not self._begun and elapsed > self._boot:
                    return f"no sign of systemd after {elapsed:.0f} s"
                if self._begun and silent > self._limits.quiet:
                    return f"no output for {silent:.0f} s"

    def _take(self, data: bytes) -> None:
        self._port += data
        self._out.write(data)
        self._out.flush()

    @property
    def _begun(self) -> bool:
        return began(self._token).encode() in self._port
