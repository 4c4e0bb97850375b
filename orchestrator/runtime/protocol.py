"""What service, spawner and child say to each other.

Every message is one JSON object in one SOCK_SEQPACKET datagram; descriptors travel with it (SCM_RIGHTS). A
message too large for a datagram travels in a memfd, which is then its last descriptor.

========================  ==========================================================  =======================
service -> spawner        meaning                                                     descriptors
========================  ==========================================================  =======================
``launch`` id, program    clone a child and let it run its launch program             the program's, by slot
``end``                   the service has taken everything back: nothing to sweep     -
========================  ==========================================================  =======================

========================  ==========================================================  =======================
spawner -> service        meaning                                                     descriptors
========================  ==========================================================  =======================
``cloned`` id, pid        the child exists (pid as the host sees it)                  pidfd, then as the
                                                                                      program's ``give`` says
``pty`` id                a terminal was made in the container                        its master end
``netns`` id              a network namespace was made for the container              it
``started`` id, stages    the program has been exec'd                                 -
``failed`` id, error      it has not, and why                                         -
``exited`` id, code,      the child has been reaped; ``signal`` is null unless one    -
signal                    killed it; always the last message of an id
========================  ==========================================================  =======================

========================  ==========================================================
child -> spawner          meaning (on a socket pair that closes on exec)
========================  ==========================================================
``pty``, ``netns``        as above
(end of file)             the child has exec'd, or died; its last words say which
========================  ==========================================================

========================  ==========================================================
last words                meaning (in a page of memory that child and spawner share)
========================  ==========================================================
``stages``                seconds each stage took; exec is next
``error``                 operation (index), errno, path, text, status; then it exits
========================  ==========================================================

Last words are in memory, since a seccomp filter, which is in force before exec, may refuse any system call.

A program is ``{"flags", "cgroup", "prepare", "operations", "give", "slots", "join", "tty"}``:

* ``flags``: the CLONE_NEW... flags of clone3; ``cgroup``: the v2 directory to be born in, or null;
* ``prepare``: operations that the spawner performs before the clone; ``operations``: the child's;
* ``slots``: names of the descriptors that came with the message; ``join`` names the slot whose pid
  namespace (a pidfd) the child is born in, or null;
* ``give``: what the service gets back after the pidfd, of ``stdin``, ``stdout``, ``stderr``, ``ready``
  (writing a byte lets the child's ``wait`` operation go on) and ``netns``;
* ``die_with_parent``: whether the child is killed when the spawner dies.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

_MAX_DATAGRAM = 64 * 1024
_MAX_DESCRIPTORS = 32
_LENGTH = struct.Struct("I")
#: The longest text or path in last words; escaped, both fit into a page.
_MAX_TEXT = 300

Message = dict[str, Any]


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay the caller's.

    :raises BlockingIOError: when ``sock`` is non-blocking and full: nothing was sent.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    memfd = -1
    if len(data) > _MAX_DATAGRAM:
        memfd = os.memfd_create("message", os.MFD_CLOEXEC)
        os.write(memfd, data)
        data, fds = b"memfd", [*fds, memfd]
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([data], rights)
    finally:
        if memfd >= 0:
            os.close(memfd)


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and its descriptors (now the caller's, close-on-exec); None at the end.

    :raises BlockingIOError: when ``sock`` is non-blocking and nothing is there.
    """
    rights = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(
        _MAX_DATAGRAM + 1024, socket.CMSG_SPACE(_MAX_DESCRIPTORS * rights.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            rights.frombytes(payload[: len(payload) - len(payload) % rights.itemsize])
    fds = list(rights)
    if not data:
        return None, fds
    if data == b"memfd":
        memfd = fds.pop()
        try:
            data = os.pread(memfd, os.fstat(memfd).st_size, 0)
        finally:
            os.close(memfd)
    message: Message = json.loads(data)
    return message, fds


def share_words() -> mmap.mmap:
    """Memory for a child's last words; it is gone from the child when that execs."""
    return mmap.mmap(-1, mmap.PAGESIZE)


def leave(words: mmap.mmap, message: Message) -> None:
    """Write last words, in the child; they replace earlier ones. Makes no system call."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > len(words) - _LENGTH.size:
        short = {key: text[:_MAX_TEXT] for key, text in message["error"].items() if isinstance(text, str)}
        data = json.dumps({"error": message["error"] | short}, separators=(",", ":")).encode()
    words[: _LENGTH.size] = _LENGTH.pack(0)  # whoever dies half-way has said nothing
    words[_LENGTH.size : _LENGTH.size + len(data)] = data
    words[: _LENGTH.size] = _LENGTH.pack(len(data))


def last_words(words: mmap.mmap) -> Message:
    """What a child has left, in the spawner; nothing if it said nothing. The memory is given back."""
    with words:
        (length,) = _LENGTH.unpack(words[: _LENGTH.size])
        message: Message = json.loads(words[_LENGTH.size : _LENGTH.size + length]) if length else {}
    return message
