"""A failed operation becomes a sentence that names the object, the cause and, where we can tell, the remedy."""

from __future__ import annotations

import errno
import os

from orchestrator.errors import LaunchError
from orchestrator.kernel.operations import Operation
from orchestrator.runtime.handle import ProgramFailed
from orchestrator.runtime.program import describe


def explain(what: str, image: str, failure: ProgramFailed) -> LaunchError:
    """The error of a launch program that failed.

    :param what: what was being done: ``cannot start "web"``.
    """
    operation = failure.operation
    if operation is None:
        return LaunchError(
            what, _errno_text(failure) or failure.text, _clone_remedy(failure.errno), failure.status
        )
    name = operation[0]
    if name == "exec":
        return _explain_exec(what, image, operation, failure)
    if name == "overlay":
        cause, remedy = _explain_overlay(operation, image, failure)
    elif name == "device-list" and failure.path:
        cause, remedy = f"write {failure.path}: {_errno_text(failure)}", _remedy(name, failure.errno)
    else:
        remedy = _remedy(name, failure.errno)
        if name == "write" and operation[1].endswith("/oom_score_adj"):
            remedy = "orch itself needs CAP_SYS_RESOURCE to go below its own"
        cause = f"{_short(operation)}: {_errno_text(failure)}"
    return LaunchError(what, cause, remedy, failure.status)


def _short(operation: Operation) -> str:
    return f"mount overlay on {operation[1]}" if operation[0] == "overlay" else describe(operation)


def _errno_text(failure: ProgramFailed) -> str:
    if not failure.errno:
        return failure.text
    return f"{errno.errorcode.get(failure.errno, failure.errno)}: {failure.text}"


def _explain_exec(what: str, image: str, operation: Operation, failure: ProgramFailed) -> LaunchError:
    program = operation[1][0]
    if failure.status == 127:
        cause = f'exec {program}: ENOENT: no such program in image "{image}"'
        remedy = "give its path, or one that PATH holds"
        if "/" in program:
            remedy = "check the path; a script's interpreter (its #! line) must exist as well"
    else:
        forbidden = "its seccomp profile may forbid execve, or what comes with it"
        cause = f"exec {failure.path or program}: {_errno_text(failure)}"
        remedy = {
            errno.EACCES: "the file must be executable (chmod +x) for the container's user",
            errno.ENOEXEC: "a script needs a first line such as #!/bin/sh; a program must fit this machine",
            errno.EPERM: forbidden,
            errno.ENOSYS: forbidden,
        }.get(failure.errno, "")
    return LaunchError(what, cause, remedy, failure.status)


def _explain_overlay(operation: Operation, image: str, failure: ProgramFailed) -> tuple[str, str]:
    _, target, lower, upper, work = operation
    target = target.partition("/root")[2] or "/"
    start = f"mount overlay on {target}: {_errno_text(failure)}"
    if failure.errno == errno.ENOENT:
        for kind, folder in (*(("lower", path) for path in lower), ("upper", upper), ("work", work)):
            if not os.path.isdir(folder):
                cause = errno.errorcode[errno.ENOENT]
                return (
                    f'mount overlay on {target}: {cause}: {kind} folder {folder} does not exist (image "{image}")',
                    "",
                )
    if failure.errno == errno.EINVAL:
        return start, (
            f"the file system of {os.path.dirname(upper)} may not serve as an upper layer (overlay on overlay, "
            "NFS): set ORCH_STATE_DIR to a folder on ext4, xfs, btrfs or tmpfs"
        )
    if failure.errno == errno.ENODEV:
        return start, "this kernel has no overlay file system: load the module (modprobe overlay)"
    return start, ""


def _clone_remedy(number: int) -> str:
    return {
        errno.EPERM: "orch must run as root with CAP_SYS_ADMIN",
        errno.EAGAIN: "the host is out of processes: see pids.max and kernel.pid_max",
        errno.ENOMEM: "the host is out of memory",
        errno.ENOSPC: "too many namespaces: see /proc/sys/user/max_*_namespaces",
        errno.EMFILE: "raise the service's open files limit (LimitNOFILE)",
        errno.ENFILE: "raise fs.file-max",
    }.get(number, "")


def _remedy(name: str, number: int) -> str:
    if name == "open-tree" and number == errno.ENOENT:
        return "make the folder or file on the host, or correct the volume's source"
    if name == "namespaces" and number == errno.ENOSPC:
        return "too many namespaces: see /proc/sys/user/max_*_namespaces"
    if name in ("namespaces", "mount-map") and number == errno.EAGAIN:
        return "a process is needed for a moment to make them: resources.pids must be at least 2"
    if name in ("open-tree", "idmap-folders") and number == errno.EINVAL:
        return 'its file system cannot be mounted with other ids: set userns = "host" for the service'
    if name == "privileges" and number == errno.EPERM:
        return "orch itself lacks a capability that cap_add names"
    if name == "open-tree" and number in (errno.EXDEV, errno.ELOOP):
        return "a symbolic link in the volume leads out of it, which is refused"
    if name == "open-tree" and not number:
        return "share it on the host (mount --make-rshared), or drop propagation"
    if name == "fill":
        return "with nocopy = true the volume stays as it is"
    if name == "confine":
        return {
            errno.ENOENT: "the AppArmor profile is not loaded: apparmor_parser -r FILE",
            errno.EACCES: "the policy does not let orch do this: see ausearch -m avc, or dmesg",
            errno.EINVAL: "the policy does not know this label",
            errno.EXDEV: "a volume is mounted on /proc, where the label must be written; mount it elsewhere",
        }.get(number, "")
    if name == "limit":
        return "orch itself needs CAP_SYS_RESOURCE to raise a hard limit"
    if name == "device-list" and number == errno.EPERM:
        return "the cgroup that orch runs in does not allow it either, as its devices.list shows"
    if name == "device-program" and number == errno.EPERM:
        return "orch needs CAP_BPF and CAP_NET_ADMIN, and no cgroup above may forbid further programs"
    if name == "nodes" and number == errno.EPERM:
        return "orch needs CAP_MKNOD"
    if name == "attach-tree" and number in (errno.EROFS, errno.ENOTDIR):
        return "the mount's target cannot be made inside another mount; mount it elsewhere"
    if name in ("files", "secrets", "mount", "attach-tree", "tmpfs", "hide", "write-protect") and number in (
        errno.ELOOP,
        errno.EXDEV,
    ):
        return "the image has a symbolic link where this must be mounted, which is refused"
    if name == "seccomp":
        return "the kernel must have CONFIG_SECCOMP_FILTER, and take the profile's flags"
    if name == "init":
        return "a seccomp profile must allow the init's own calls; leave init out, or allow them"
    if name == "write" and number in (errno.ENOENT, errno.EINVAL, errno.EPERM, errno.EACCES):
        return "the kernel does not know or does not accept this setting"
    return ""
