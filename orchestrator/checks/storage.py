"""The folders of an instance: file systems, space, overlay, the socket's path."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.checks.finding import Finding, missing, ok, text_of, warning
from orchestrator.checks.trial import attempt
from orchestrator.ids import Instance
from orchestrator.units import format_size

_SOCKET_LIMIT = 107  # bytes; sun_path of unix(7) has 108, one of them for the final NUL
_LEAST_SPACE = 100 << 20
_FEW_SPACE = 1 << 30
_FEW_INODES = 10_000
#: File systems that can't hold an overlay's writable layer (kernel, filesystems/overlayfs.rst: it needs
#: xattrs and d_type).
_NO_UPPER = ("overlay", "nfs", "nfs4", "vfat", "exfat", "9p", "ntfs", "ntfs3", "fuseblk", "ramfs", "squashfs")


def check(instance: Instance) -> Iterator[Finding]:
    """All of it."""
    yield _socket(instance.socket)
    yield _space(instance.state_dir)
    yield _overlay(instance.state_dir)
    yield _idmapped(instance.state_dir)
    yield _run_dir(instance.run_dir)


def nearest(path: str) -> str:
    """The folder itself, or if it doesn't exist yet, the one in which it will be made."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def file_system(path: str, mountinfo: str) -> str:
    """The type of the file system that a path is on, from the text of /proc/self/mountinfo (proc(5))."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        point = fields[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the last of equals lies on top
            best, kind = point, fields[fields.index("-") + 1]
    return kind


def _kind(path: str) -> str:
    return file_system(os.path.realpath(nearest(path)), text_of("/proc/self/mountinfo") or "")


def _socket(path: str) -> Finding:
    length = len(os.fsencode(path))
    if length > _SOCKET_LIMIT:
        detail = f"{path} has {length} bytes, the kernel takes {_SOCKET_LIMIT}"
        return missing("socket path", detail, "choose a shorter ORCH_RUN_DIR")
    return ok("socket path", path)


def _space(state_dir: str) -> Finding:
    folder = nearest(state_dir)
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return missing("disk", f"{folder}: {error.strerror}", "choose another ORCH_STATE_DIR")
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    detail = f"{format_size(free)} of {format_size(total)} free at {state_dir}"
    remedy = "make room, or choose another ORCH_STATE_DIR"
    if status.f_flag & os.ST_RDONLY:
        return missing("disk", f"{state_dir} is on a read-only file system", "choose another ORCH_STATE_DIR")
    if free < _LEAST_SPACE:
        return missing("disk", f"only {detail}", remedy)
    if free < _FEW_SPACE:
        return warning("disk", f"only {detail}", remedy)
    if status.f_files and status.f_favail < _FEW_INODES:
        return warning("disk", f"only {status.f_favail} inodes free at {state_dir}", remedy)
    return ok("disk", detail)


def _overlay(state_dir: str) -> Finding:
    kind = _kind(state_dir)
    elsewhere = "choose an ORCH_STATE_DIR on ext4, xfs or btrfs"
    if os.geteuid() == 0:
        if failure := attempt("overlay", nearest(state_dir)):
            known = "overlay" in (text_of("/proc/filesystems") or "").split()
            remedy = elsewhere if known else "modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS"
            return missing("overlay", f"no writable layer at {state_dir} ({kind}): {failure}", remedy)
        return ok("overlay", f"works at {state_dir} ({kind})")
    if kind in _NO_UPPER:
        return missing("overlay", f"{state_dir} is on {kind}, which can't hold writable layers", elsewhere)
    return warning(
        "overlay", f"not tried without root ({state_dir} is on {kind})", "run `orch doctor` with sudo"
    )


def _idmapped(state_dir: str) -> Finding:
    """Whether containers' layers can be mounted with other ids than they have on the disk."""
    if os.geteuid() != 0:
        return warning("idmapped layers", "not tried without root", "run `orch doctor` with sudo")
    if failure := attempt("idmap", nearest(state_dir)):
        detail = f"{state_dir} ({_kind(state_dir)}): {failure}; so containers have the host's ids"
        remedy = 'Linux 5.19 with ORCH_STATE_DIR on ext4, xfs or btrfs, and /usr as well for image "host"'
        return warning("idmapped layers", detail, remedy)
    return ok("idmapped layers", f"work at {state_dir}: root of a container is nobody outside")


def _run_dir(run_dir: str) -> Finding:
    kind = _kind(run_dir)
    if kind in ("tmpfs", "ramfs"):
        return ok("run folder", f"{run_dir} ({kind}, empty after a reboot)")
    detail = (
        f"{run_dir} is on {kind}: after a reboot, the first start has to clear away what it says of the last"
    )
    return warning("run folder", detail, "choose an ORCH_RUN_DIR on a tmpfs such as /run")
