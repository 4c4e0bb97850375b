"""Kernel work as data: a flat list of operations that can be logged, compared in tests, and performed.

An operation is a plain list, ``[name, argument, ...]``, so that it crosses a socket as JSON without a codec.
Upper rooms compile operations (purely); whoever is in the right namespace performs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from orchestrator.kernel import devices

Operation = list[Any]


def mkdir(path: str, mode: int = 0o755) -> Operation:
    """Make a directory; one that exists already is fine."""
    return ["mkdir", path, mode]


def write(path: str, text: str) -> Operation:
    """Write ``text`` to an existing (kernel) file in one write call."""
    return ["write", path, text]


def device_list(directory: str, lines: Sequence[str]) -> Operation:
    """Let the processes of a v1 cgroup use these devices and no others (:mod:`orchestrator.kernel.devices`)."""
    return ["device-list", directory, list(lines)]


def device_program(directory: str, lines: Sequence[str]) -> Operation:
    """As :func:`device_list`, for a v2 cgroup: by an eBPF program."""
    return ["device-program", directory, list(lines)]


def netlink_configure(network: dict[str, Any]) -> Operation:
    """Bring up ``lo`` and the interfaces of the network namespace, with addresses and default route.

    :param network: as :func:`orchestrator.kernel.netlink.configure` takes it.
    """
    return ["netlink-configure", network]


def _mkdir(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        pass


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _netlink_configure(network: dict[str, Any]) -> None:
    from orchestrator.kernel import netlink  # here: most processes that load this module never need it

    netlink.configure(network)


def _describe_netlink_configure(network: dict[str, Any]) -> str:
    from orchestrator.kernel import netlink

    return netlink.describe_configure(network)


def _describe_devices(directory: str, lines: Sequence[str]) -> str:
    return f"allow devices {', '.join(lines) or 'none'}{' and no others' if lines else ''} in {directory}"


PERFORM: dict[str, Callable[..., None]] = {
    "mkdir": _mkdir,
    "write": _write,
    "device-list": devices.set_list,
    "device-program": devices.set_program,
    "netlink-configure": _netlink_configure,
}
DESCRIBE: dict[str, Callable[..., str]] = {
    "mkdir": lambda path, mode: f"mkdir {path} {mode:04o}",
    "write": lambda path, text: f"write {text!r} to {path}",
    "device-list": _describe_devices,
    "device-program": lambda directory, lines: _describe_devices(directory, lines) + ", by an eBPF program",
    "netlink-configure": _describe_netlink_configure,
}


def describe(operation: Operation) -> str:
    """One line for people: what the operation does, to what."""
    name, *arguments = operation
    return DESCRIBE[name](*arguments)


def perform(operations: Iterable[Operation]) -> None:
    """Perform operations in order.

    :raises OSError: of the first that fails, with the file as ``filename`` where there is one; the operation
        is the exception's ``operation``.
    """
    for operation in operations:
        name, *arguments = operation
        try:
            PERFORM[name](*arguments)
        except OSError as error:
            if error.filename is None and arguments and isinstance(arguments[0], str):
                error.filename = arguments[0]
            error.operation = operation  # type: ignore[attr-defined]
            raise
