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
. /settings
for module in $modules; do insmod "/$module"; done
if [ -e /policy ]; then
    mount -t selinuxfs none /sys/fs/selinux
    dd if=/policy of=/sys/fs/selinux/load bs=64M 2>/dev/null  # the kernel wants it in one piece
fi
mkdir /rw /new
for share in $shares; do
    mkdir "/$share"
    options=ro
    if [ "$share" = host ]; then options=$host_options; fi
    mount -t virtiofs -o "$options" "$share" "/$share"
    layers="${layers:+$layers:}/$share"
done
mount -t tmpfs -o size=75% none /rw
mkdir /rw/upper /rw/work
mount -t overlay -o "lowerdir=$layers,upperdir=/rw/upper,workdir=/rw/work" none /new
cp -a /files/. /new/
rm -f /new/.dockerenv  # or systemd believes that it is in a container
mkdir -p /new/disk
mount -t ext4 -o "$disk_options" /dev/vda /new/disk
port=
until [ "$port" ]; do  # its name comes a moment after it
    port=$(grep -lsx orch /sys/class/virtio-ports/*/name) || usleep 1000
done
ln -s "$(basename "$(dirname "$port")")" /dev/orch-vm
for folder in dev proc sys; do mount --move "/$folder" "/new/$folder"; done
exec switch_root /new /lib/systemd/systemd
"""

#: Would walk through this host's temporary files when a unit asks for a whole system. An empty file masks.
MASKED = ("systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer")

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
class SELinux:
    """What a guest needs to enforce a policy from its first process on.

    :param policy: the compiled policy's file.
    :param host: the label of all of this host's files.
    :param disk: the label of the disk's root.
    :param context: what the tests run as.
    """

    policy: Path
    host: str
    disk: str
    context: str


@dataclass(frozen=True)
class Task:
    """What to do in the guest.

    :param command: the program and its arguments.
    :param folder: where it runs.
    :param token: a word of this run, in the lines that the harness recognises.
    :param before: lines of shell that make the guest ready for it.
    """

    command: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    token: str
    before: Sequence[str] = ()


def script(task: Task) -> str:
    """The shell script that the guest's unit runs."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(task.environment.items())]
    return "\n".join(
        [
            f"echo {shlex.quote(began(task.token))}",
            *exports,
            f"mkdir -p {DISK}/state /var/lib/orch && mount --bind {DISK}/state /var/lib/orch",
            *task.before,
            f"cd {shlex.quote(task.folder)}",
            shlex.join(task.command),
            f"echo {shlex.quote(result(task.token))}$?",
            "",
        ]
    )


def files(
    task: Task, busybox: bytes, shares: Sequence[str], modules: Sequence[Path], selinux: SELinux | None
) -> dict[str, File]:
    """All that the initramfs holds.

    :param shares: the tags of the folders that the guest's root consists of, uppermost first.
    """
    settings = {
        "shares": " ".join(shares),
        "modules": " ".join(path.name for path in modules),
        "host_options": "ro",
        "disk_options": "rw",
    }
    service = SERVICE
    found = {}
    if selinux is not None:
        settings["host_options"] += f",context={selinux.host}"
        settings["disk_options"] += f",rootcontext={selinux.disk}"
        service += f"SELinuxContext={selinux.context}\n"
        found["policy"] = File(selinux.policy.read_bytes())
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
    units = "files/etc/systemd/system"
    found |= {
        "init": File(INIT.encode(), 0o755),
        "settings": File("".join(lines).encode()),
        "bin/busybox": File(busybox, 0o755),
        "files/etc/fstab": File(b""),
        f"{units}/orch-vm.target": File(TARGET.encode()),
        f"{units}/orch-vm.service": File(service.encode()),
        "files/orch-vm": File(script(task).encode()),
    }
    found |= {f"{units}/{name}": File(b"") for name in MASKED}
    found |= {path.name: File(path.read_bytes()) for path in modules}
    return found | {f"{folder}/.keep": File(b"") for folder in ("dev", "proc", "sys")}
