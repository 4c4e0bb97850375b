"""What the guest does, as text: its first process, its units for systemd, and the script with the tests."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm.archive import File
from vm.outcome import began, result

#: Where the guest has its disk, an ext4: an overlay cannot be the upper layer of another.
DISK = "/disk"
#: The port that carries what the tests print.
PORT = "/dev/orch-vm"
#: What the first process loads: to see the host's files, the layers, the disk and the port.
MODULES = ("virtio_pci", "virtiofs", "overlay", "virtio_blk", "virtio_console")

INIT = """\
#!/bin/busybox sh
# Assembles the root file system and hands over to systemd. Whatever fails, the guest panics and says so.
set -e
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
exec >/dev/console 2>&1
mount -t proc none /proc
mount -t sysfs none /sys
for module in $(cat /modules); do insmod "$module"; done
mkdir /rw /new
for share in $(cat /shares); do
    mkdir "/$share"
    mount -t virtiofs -o ro "$share" "/$share"
    layers="${layers:+$layers:}/$share"
done
mount -t tmpfs -o size=75% none /rw
mkdir /rw/upper /rw/work
mount -t overlay -o "lowerdir=$layers,upperdir=/rw/upper,workdir=/rw/work" none /new
cp -a /files/. /new/
rm -f /new/.dockerenv  # or systemd believes that it is in a container
mkdir -p /new/disk
mount -t ext4 /dev/vda /new/disk
port=
until [ "$port" ]; do  # its name comes a moment after it
    port=$(grep -lsx orch /sys/class/virtio-ports/*/name) || usleep 1000
done
ln -s "$(basename "$(dirname "$port")")" /dev/orch-vm
mount --move /dev /new/dev
umount /proc /sys
exec switch_root /new /lib/systemd/systemd
"""

TARGET = """\
[Unit]
Description=The tests, and nothing else that this host would start
DefaultDependencies=no
Requires=orch-vm.service
AllowIsolate=yes
"""

SERVICE = f"""\
[Unit]
Description=The tests
DefaultDependencies=no
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/sh /orch-vm
StandardInput=null
StandardOutput=file:{PORT}
StandardError=file:{PORT}
"""


@dataclass(frozen=True)
class Task:
    """What to do in the guest.

    :param command: the program and its arguments.
    :param folder: where it runs.
    :param slowness: how many times slower than this host the guest is.
    :param token: a word of this run, in the lines that the harness recognises.
    """

    command: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    token: str


def script(task: Task) -> str:
    """The shell script that the guest's unit runs."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(task.environment.items())]
    return "\n".join(
        [
            f"echo {shlex.quote(began(task.token))}",
            "mkdir -p /disk/state /var/lib/orch && mount --bind /disk/state /var/lib/orch",
            *exports,
            f"cd {shlex.quote(task.folder)}",
            shlex.join(task.command),
            f"echo {shlex.quote(result(task.token))}$?",
            "",
        ]
    )


def files(task: Task, busybox: bytes, shares: Sequence[str], modules: Sequence[Path]) -> dict[str, File]:
    """All that the initramfs holds.

    :param shares: the tags of the folders that the guest's root consists of, uppermost first.
    """
    found = {
        "init": File(INIT.encode(), 0o755),
        "bin/busybox": File(busybox, 0o755),
        "shares": File("\n".join(shares).encode()),
        "modules": File("".join(f"/{path.name}\n" for path in modules).encode()),
        "files/etc/fstab": File(b""),
        "files/etc/systemd/system/orch-vm.target": File(TARGET.encode()),
        "files/etc/systemd/system/orch-vm.service": File(SERVICE.encode()),
        "files/orch-vm": File(script(task).encode()),
    }
    found |= {path.name: File(path.read_bytes()) for path in modules}
    return found | {f"{folder}/.keep": File(b"") for folder in ("dev", "proc", "sys")}
