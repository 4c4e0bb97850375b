"""HTTP/1.1 over a Unix socket: as little of RFC 9112 as a client of the service needs, plus descriptors.

``http.client`` would do for most of it, but importing it (with the email package behind it) adds some 20 ms to
every command, and it reads ahead with ``recv``, which would drop the descriptors that come after an upgrade.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from orchestrator.errors import OrchError, ServiceUnavailableError, UsageError

_READ = 1 << 18
_MAX_HEAD = 1 << 16
_CONTROL = socket.CMSG_SPACE(8 * 4)  # room for eight descriptors
_MAX_SOCKET_PATH = 107  # sun_path of unix(7), without its final NUL


class BodyDecoder:
    """The body of one answer, incrementally: bytes of the connection in, bytes of the body out.

    Framing as in RFC 9112 section 6.3: chunked, else by Content-Length, else until the connection closes.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        self._left = int(length) if length is not None and not self._chunked else None
        self._buffer = bytearray()
        #: Whether the whole body has been seen.
        self.complete = self._left == 0
        #: Whether the closing of the connection is how this body ends.
        self.ends_with_connection = not self._chunked and self._left is None

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body."""
        if self._chunked:
            return self._feed_chunked(data)
        if self._left is None:
            return data
        data = data[: self._left]
        self._left -= len(data)
        self.complete = self._left == 0
        return data

    def _feed_chunked(self, data: bytes) -> bytes:
        buffer, out = self._buffer, bytearray()
        buffer += data
        while not self.complete:
            line = buffer.find(b"\r\n")
            if line < 0:
                break
            size = int(buffer[:line].partition(b";")[0], 16)
            if size == 0:
                self.complete = buffer.find(b"\r\n\r\n", line) >= 0
                break
            end = line + 2 + size
            if len(buffer) < end + 2:
                break
            out += buffer[line + 2 : end]
            del buffer[: end + 2]
        return bytes(out)


class Connection:
    """One connection, which carries one request.

    :param path: of the service's socket.
    :param timeout: seconds that a single read may take; None waits for ever.
    :raises ServiceUnavailableError: when nothing listens on ``path``.
    :raises OrchError: when it cannot be reached for another reason.
    """

    def __init__(self, path: str, timeout: float | None = None) -> None:
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            raise UsageError(
                f"cannot use the socket {path}",
                f"its path is longer than {_MAX_SOCKET_PATH} bytes",
                "choose a shorter run directory",
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            self._socket.close()
            raise ServiceUnavailableError(
                f"no orch service is running for this instance (run dir {os.path.dirname(path)})"
            ) from None
        except PermissionError:
            self._socket.close()
            raise OrchError(
                f"cannot talk to the orch service at {path}", "EACCES: Permission denied", "run it as root"
            ) from None
        except OSError as error:
            self._socket.close()
            raise OrchError(f"cannot talk to the orch service at {path}", str(error)) from None
        self._socket.settimeout(timeout)
        #: Descriptors that came with what has been received so far.
        self.descriptors: list[int] = []

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise self._silent() from None
        except OSError as error:
            raise self._gone(str(error)) from None

    def request(self, method: str, target: str, body: bytes = b"", upgrade: str = "") -> None:
        """Send a request; the answer's head is read by :meth:`head`."""
        lines = [f"{method} {target} HTTP/1.1", "Host: orch", f"Content-Length: {len(body)}"]
        if body:
            lines.append("Content-Type: application/json")
        lines += ["Connection: Upgrade", f"Upgrade: {upgrade}"] if upgrade else ["Connection: close"]
        self.send("\r\n".join([*lines, "", ""]).encode("ascii") + body)

    def head(self) -> tuple[int, dict[str, str], bytes]:
        """The answer's status, its headers (names in lower case), and what has been read of its body."""
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            received = self.receive()
            if not received or len(data) > _MAX_HEAD:
                raise self._gone("it closed the connection without an answer")
            data += received
        status_line, *lines = data[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(status_line.split(" ", 2)[1]), headers, bytes(data[end + 4 :])

    def receive(self) -> bytes:
        """What one read of the socket brings; empty at its end."""
        try:
            # socket.recv_fds ignores its flags (CPython 3.11), and the descriptors must be close-on-exec.
            data, controls, _, _ = self._socket.recvmsg(_READ, _CONTROL, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise self._silent() from None
        except OSError as error:
            raise self._gone(str(error)) from None
        for level, kind, content in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.descriptors += memoryview(content).cast("i")
        return data

    def close(self) -> None:
        """Close the connection, and the descriptors nobody took."""
        self._socket.close()
        while self.descriptors:
            os.close(self.descriptors.pop())

    def lost(self) -> ServiceUnavailableError:
        """The error for a connection that ended before its time."""
        return self._gone("it closed the connection before the end of its answer")

    @staticmethod
    def _gone(cause: str) -> ServiceUnavailableError:
        return ServiceUnavailableError("lost the connection to the orch service", cause)

    def _silent(self) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            "the orch service does not answer", f"nothing came within {self._socket.gettimeout():g} seconds"
        )
