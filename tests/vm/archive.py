"""Files as a cpio archive, the form in which the kernel unpacks its first root file system.

The form is "newc" (Documentation/driver-api/early-userspace/buffer-format.rst): a header of hexadecimal
numbers, name and content of each file, padded to four bytes; directories come before what is in them.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class File:
    """:param mode: permission bits."""

    content: bytes
    mode: int = 0o644


def pack(files: Mapping[str, File]) -> bytes:
    """An archive of files by their paths, with the directories that they need."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {".", "/"}
    entries = [(path, File(b"", stat.S_IFDIR | 0o755)) for path in sorted(folders)]
    entries += [(path, File(file.content, stat.S_IFREG | file.mode)) for path, file in files.items()]
    entries.append(("TRAILER!!!", File(b"", 0)))
    return b"".join(_entry(number, path, file) for number, (path, file) in enumerate(entries, 1))


def _entry(number: int, path: str, file: File) -> bytes:
    name = path.lstrip("/").encode() + b"\0"
    links = 2 if stat.S_ISDIR(file.mode) else 1
    # inode, mode, uid, gid, links, time, size, device, device of a node, length of the name, checksum
    numbers = (number, file.mode, 0, 0, links, 0, len(file.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % each for each in numbers)
    return _padded(header + name) + _padded(file.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
