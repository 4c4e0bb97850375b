"""QEMU's command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "qemu-system-x86_64"

#: An emulated processor is some ten times slower than this host's. So its clock does not follow ours but the
#: instructions, one nanosecond each: to itself the guest is a common machine, however slow or busy this host
#: is, and no time-out needs to be stretched. That takes a single processor. While it idles, time is ours.
_ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host", "-smp", "2"),
    "tcg": ("-accel", "tcg", "-cpu", "max", "-smp", "1", "-icount", "shift=0,sleep=on"),
}


@dataclass(frozen=True)
class Machine:
    """A virtual machine.

    :param accelerator: ``kvm``, or ``tcg``: emulation, which works everywhere.
    :param memory: MiB.
    :param disk: a file whose content is not changed.
    :param shares: the sockets at which folders of this host are served, by the tags that name them.
    :param console: the file for what the guest's kernel writes.
    """

    accelerator: str
    memory: int
    kernel: Path
    initramfs: Path
    disk: Path
    shares: Mapping[str, Path]
    console: Path
    append: str = ""


def command(machine: Machine) -> list[str]:
    """The program and its arguments; what the guest writes to its port comes to standard output."""
    words = [  # kernel-parameters.txt, systemd(1), systemd-fstab-generator(8)
        "console=ttyS0",
        "quiet",
        "panic=-1",  # reboot at once, which -no-reboot turns into an end
        "mitigations=off",
        "fstab=no",
        "systemd.unit=orch-vm.target",
        "systemd.gpt_auto=no",
        "systemd.firstboot=no",
        "systemd.unified_cgroup_hierarchy=1",
        machine.append,
    ]
    return [
        PROGRAM,
        *_ACCELERATORS[machine.accelerator],
        *("-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-m", str(machine.memory)),
        # What is shared comes through memory that both see.
        *("-object", f"memory-backend-memfd,id=memory,size={machine.memory}M,share=on"),
        *("-numa", "node,memdev=memory"),
        *_shares(machine.shares),
        *("-drive", f"file={machine.disk},if=virtio,format=raw,snapshot=on"),
        *("-serial", f"file:{machine.console}"),
        *("-device", "virtio-serial-pci", "-chardev", "file,id=port,path=/dev/stdout"),
        *("-device", "virtserialport,chardev=port,name=orch"),
        *("-kernel", str(machine.kernel), "-initrd", str(machine.initramfs)),
        *("-append", " ".join(word for word in words if word)),
    ]


def _shares(sockets: Mapping[str, Path]) -> Iterator[str]:
    for tag, path in sockets.items():
        yield from ("-chardev", f"socket,id={tag},path={path}")
        yield from ("-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}")
