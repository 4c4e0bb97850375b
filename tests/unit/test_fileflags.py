from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from orchestrator.kernel.fileflags import spread_subfolders

_GET_FLAGS, _TOP_OF_HIERARCHY = 0x80086601, 0x00020000


def test_the_flag_is_set_where_the_file_system_knows_it(tmp_path: Path) -> None:
    try:
        spread_subfolders(str(tmp_path))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL):
            raise
        return  # not an ext4
    fd = os.open(tmp_path, os.O_RDONLY)
    (flags,) = struct.unpack("i", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))
    os.close(fd)
    assert flags & _TOP_OF_HIERARCHY


def test_a_file_system_without_flags_says_so() -> None:
    with pytest.raises(OSError):
        spread_subfolders("/proc/self")
