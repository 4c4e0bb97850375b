"""The image ``host``: the host's own programs, and nothing else of it.

A container sees the host's /usr (and /bin, /lib... where they are folders of their own) as read-only lower
layers, and a *skeleton*: a small root folder with the usual empty places and a minimal /etc. Of the host's
/etc only what programs need and everybody may read is copied; no secrets, no settings of the host's services.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile

#: Top-level entries that hold programs; on a merged-/usr host all but the first are symbolic links.
_PROGRAM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_EMPTY_FOLDERS = {
    "dev": 0o755, "etc": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o555,
    "root": 0o700, "run": 0o755, "run/lock": 0o1777, "srv": 0o755, "sys": 0o555, "tmp": 0o1777, "var": 0o755,
    "var/cache": 0o755, "var/lib": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
_EMPTY_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
#: Copied from the host's /etc when present: settings that programs need to run at all.
_COPIED = (
    "alternatives", "bash.bashrc", "debian_version", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "localtime", "magic", "mime.types", "networks", "os-release", "profile", "protocols", "python3",
    "python3.11", "python3.12", "python3.13", "rpc", "services", "shells", "ssl/certs", "ssl/openssl.cnf",
    "terminfo", "timezone",
)  # fmt: skip
_NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
)
_FIRST_PERSON = 1000  # accounts from here on are people's (login.defs(5), UID_MIN)
_NOBODY = 65534


def folders() -> list[str]:
    """The host's own program folders (not symbolic links), as absolute paths: ``["/usr"]`` on most hosts."""
    return [f"/{name}" for name in _PROGRAM_FOLDERS if _is_folder(f"/{name}")]


def skeleton(images_dir: str) -> str:
    """The skeleton for the host as it is now, made if needed. Its name depends on its content.

    It is built aside and renamed, so that it is either whole or not there. Blocks; raises OSError.
    """
    base = os.path.join(images_dir, "host")
    os.makedirs(base, exist_ok=True)
    path = os.path.join(base, _fingerprint())
    if os.path.isdir(path):
        return path
    draft = tempfile.mkdtemp(prefix=".draft-", dir=base)
    try:
        _build(draft)
        os.rename(draft, path)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not os.path.isdir(path):  # otherwise another process was faster
            raise
    return path


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _fingerprint() -> str:
    """Changes whenever something that :func:`_build` copies does."""
    digest = hashlib.sha256(b"2")
    for name in ("passwd", "group", *_COPIED):
        try:
            info = os.stat(f"/etc/{name}")
        except OSError:
            continue
        digest.update(f"{name}\0{info.st_mtime_ns}\0{info.st_size}\0{info.st_ino}\0".encode())
    for name in _PROGRAM_FOLDERS:
        digest.update(f"{name}\0{os.path.realpath('/' + name)}\0".encode())
    return digest.hexdigest()[:16]


def _build(root: str) -> None:
    os.chmod(root, 0o755)
    for name, mode in _EMPTY_FOLDERS.items():
        os.mkdir(f"{root}/{name}")
        os.chmod(f"{root}/{name}", mode)
    for name in _EMPTY_FILES:
        _write(f"{root}/{name}", "")
    for name in _PROGRAM_FOLDERS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif _is_folder(f"/{name}"):
            os.mkdir(f"{root}/{name}")
    os.symlink("/run", f"{root}/var/run")
    os.symlink("/proc/self/mounts", f"{root}/etc/mtab")
    for name in _COPIED:
        _copy(f"/etc/{name}", f"{root}/etc/{name}")
    _write(f"{root}/etc/passwd", _system_accounts("/etc/passwd"))
    _write(f"{root}/etc/group", _system_accounts("/etc/group", members=False))
    _write(f"{root}/etc/nsswitch.conf", _NSSWITCH)
    _write(f"{root}/etc/host.conf", "multi on\n")  # or only one of a service's addresses would be found


def _copy(source: str, target: str) -> None:
    """Copy what everybody may read; symbolic links stay links, special files and private ones are left out."""
    try:
        info = os.lstat(source)
    except FileNotFoundError:
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_IROTH:
        os.mkdir(target)
        for name in os.listdir(source):
            _copy(f"{source}/{name}", f"{target}/{name}")
    elif stat.S_ISREG(info.st_mode) and info.st_mode & stat.S_IROTH:
        shutil.copyfile(source, target)
        os.chmod(target, stat.S_IMODE(info.st_mode))


def _system_accounts(path: str, members: bool = True) -> str:
    """The host's system accounts (names and numbers only), without people."""
    lines = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.rstrip("\n").split(":")
            if len(fields) < 4 or not fields[2].isdigit():
                continue
            if not (int(fields[2]) < _FIRST_PERSON or int(fields[2]) == _NOBODY):
                continue
            fields[1] = "x"
            if not members:
                fields[3] = ""
            lines.append(":".join(fields))
    return "\n".join(lines) + "\n"


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
