"""The new process, from clone3 to execve.

It performs its launch program, one operation after the other, and then is the container's program. Whatever
fails is reported whole (which operation, errno, path) in memory that the spawner shares; see ``protocol``.
The operations themselves are in ``child_operations``.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from orchestrator.kernel.operations import Operation
from orchestrator.kernel.syscalls import set_file_ids
from orchestrator.runtime.idmap import IDENTITY, IdMap, outside
from orchestrator.runtime.protocol import Message, leave


class Refused(Exception):
    """An operation cannot be done for a reason that has no errno; ``status`` is the exit code it means."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status = status


class Child:
    """The state that operations of one program share."""

    def __init__(self, status: socket.socket, words: mmap.mmap, ready: int, slots: dict[str, int]) -> None:
        self.status = status
        self.words = words
        self.ready = ready
        self.slots = slots
        self.environment: dict[str, str] = {}
        #: The user and group to become, and further groups, as the container counts them.
        self.user = (0, 0)
        self.groups: list[int] = []
        #: The container's user namespace (a descriptor), and its maps: (inside, outside, count) each.
        self.user_namespace = -1
        self.uid_map = self.gid_map = IDENTITY
        #: Pidfds of processes that have been killed and must be reaped.
        self.zombies: list[int] = []
        #: The container's root before pivot_root: a descriptor, and its path on the host.
        self.root = -1
        self.root_path = ""
        #: What has been mounted at which target: device and inode.
        self.attached: dict[str, tuple[int, int]] = {}
        self.files_context = ""
        self.profile = ""
        self.stages: list[tuple[str, float]] = []
        self.mark = time.perf_counter()

    def host_uid(self, uid: int) -> int:
        """The host's number of a user of the container.

        :raises Refused: when its user namespace has no such user.
        """
        return _mapped(self.uid_map, uid, "user")

    def host_gid(self, gid: int) -> int:
        """As :meth:`host_uid`, of a group."""
        return _mapped(self.gid_map, gid, "group")

    @contextlib.contextmanager
    def as_host(self) -> Iterator[None]:
        """What is made meanwhile belongs to root of the host."""
        own = self.host_uid(0), self.host_gid(0)
        set_file_ids(0, 0)
        try:
            yield
        finally:
            set_file_ids(*own)

    def stage(self, name: str) -> None:
        """A stage of the start has ended: note how long it took."""
        now = time.perf_counter()
        self.stages.append((name, now - self.mark))
        self.mark = now

    def leave(self, message: Message) -> None:
        """What the spawner shall know when this process has exec'd or died; the last one counts."""
        leave(self.words, message)

    def run(self, program: list[Operation], operations: Mapping[str, Callable[..., None]]) -> NoReturn:
        """Perform the program, each operation by its name in ``operations``; the last one execs. Never returns."""
        # An import after pivot_root would run what the image has in that place; so would a codec's name.
        sys.meta_path.clear()
        index = 0
        failure: dict[str, Any]
        try:
            for index, (name, *arguments) in enumerate(program):
                operations[name](self, *arguments)
            failure = {"text": "the launch program does not end in exec", "status": 125}
        except OSError as error:
            failure = {"errno": error.errno, "text": error.strerror, "path": error.filename, "status": 125}
            if program[index][0] == "exec":
                failure["status"] = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
        except Refused as error:
            failure = {"text": str(error), "status": error.status}
        except BaseException as error:  # whatever it is, it must reach the user
            failure = {"text": f"{type(error).__name__}: {error}", "status": 125}
        self.leave({"error": {"operation": index, **failure}})
        os._exit(failure["status"])


def _mapped(mapping: IdMap, number: int, what: str) -> int:
    if (found := outside(mapping, number)) is not None:
        return found
    ranges = ", ".join(f"{inside} to {inside + count - 1}" for inside, _, count in mapping)
    raise Refused(f"the container's user namespace has no {what} {number} (it has {ranges})", 126)
