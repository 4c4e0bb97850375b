"""The errors that everybody shares.

Every error names the object it is about, the cause, and (where there is one) the remedy; its text is the
sentence the user reads, so nothing above needs to add words. An error crosses the service's socket as the
dict of :meth:`OrchError.to_wire` and comes out of the client as the same class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class OrchError(Exception):
    """Something that orch could not do.

    :param what: what was being done, with the object's name: ``cannot start "web"``.
    :param cause: why not, ending in the kernel's word where there is one.
    :param remedy: what the user can do about it, or ``""``.
    """

    code: ClassVar[str] = "error"
    #: Exit code of the command that meets this error.
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, cause: str = "", remedy: str = "") -> None:
        super().__init__(what, cause, remedy)
        self.what = what
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.what}: {self.cause}" if self.cause else self.what
        return f"{text} ({self.remedy})" if self.remedy else text

    def to_wire(self) -> dict[str, Any]:
        """The error as the JSON object that the API sends."""
        return {"code": self.code, "what": self.what, "cause": self.cause, "remedy": self.remedy}


class ManifestError(OrchError):
    """The manifest has problems; all of them, each already ``file:line: key.path: what is wrong``."""

    code = "manifest"
    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def to_wire(self) -> dict[str, Any]:
        return {**super().to_wire(), "problems": list(self.problems)}


class UsageError(OrchError):
    """A request that cannot be right whatever the host's state (exit code 2, nothing changed)."""

    code = "usage"
    exit_code = 2


class NotFoundError(OrchError):
    """The project, service or container that was named does not exist."""

    code = "not-found"


class ConflictError(OrchError):
    """The request contradicts the state the object is in (for example ``exec`` in a stopped container)."""

    code = "conflict"


class KernelError(OrchError):
    """A system call or kernel file refused; ``cause`` ends in the errno's name and text."""

    code = "kernel"

    def __init__(self, what: str, cause: str = "", remedy: str = "", errno: int = 0) -> None:
        super().__init__(what, cause, remedy)
        self.errno = errno

    def to_wire(self) -> dict[str, Any]:
        return {**super().to_wire(), "errno": self.errno}


class LaunchError(OrchError):
    """A container could not be started.

    ``status`` is the exit code that a shell would show for it: 127 when the program does not exist, 126 when
    it cannot be executed, else 125 (as ``docker run`` has it).
    """

    code = "launch"

    def __init__(self, what: str, cause: str = "", remedy: str = "", status: int = 125) -> None:
        super().__init__(what, cause, remedy)
        self.status = status

    def to_wire(self) -> dict[str, Any]:
        return {**super().to_wire(), "status": self.status}


class DependencyError(OrchError):
    """A container was not started because something it depends on failed or took too long."""

    code = "dependency"


class SpawnerError(OrchError):
    """The spawner process is gone or broke its protocol."""

    code = "spawner"


class ServiceUnavailableError(OrchError):
    """No host service answers on the instance's socket."""

    code = "unavailable"


_BY_CODE: dict[str, type[OrchError]] = {
    cls.code: cls
    for cls in (
        OrchError, UsageError, NotFoundError, ConflictError, KernelError, LaunchError, DependencyError,
        SpawnerError, ServiceUnavailableError,
    )
}  # fmt: skip


def from_wire(data: Mapping[str, Any]) -> OrchError:
    """Rebuild the error that :meth:`OrchError.to_wire` described; an unknown code gives a plain OrchError."""
    if data.get("code") == ManifestError.code:
        return ManifestError(data.get("problems", ()))
    words = (str(data.get("what", "")), str(data.get("cause", "")), str(data.get("remedy", "")))
    cls = _BY_CODE.get(str(data.get("code")), OrchError)
    if cls is LaunchError:
        return LaunchError(*words, status=int(data.get("status", 125)))
    if cls is KernelError:
        return KernelError(*words, errno=int(data.get("errno", 0)))
    return cls(*words)
