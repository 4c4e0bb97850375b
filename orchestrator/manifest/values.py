"""Small values: pure functions from what people write to what specs hold.

Each raises ValueError with what is wrong and what is allowed.
"""

from __future__ import annotations

import math
import re
import signal
from typing import Any

from orchestrator.ids import NAME
from orchestrator.manifest.place import hint
from orchestrator.spec import Port, Ulimit
from orchestrator.units import format_duration, format_size, parse_duration, parse_size

#: The largest number a spec may hold: the kernel's counters and JSON's are signed 64 bit.
MAX_INTEGER = (1 << 63) - 1
#: The highest uid or gid: (uid_t) -1 means "unchanged" to the kernel (chown(2), setresuid(2)).
MAX_ID = (1 << 32) - 2
#: Names of getrlimit(2)'s resources, in lower case without RLIMIT_.
ULIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
#: sysctls that belong to a network or IPC namespace (network_namespaces(7), ipc_namespaces(7)); the others
#: are the whole host's.
_NAMESPACED = re.compile(r"net\..+|kernel\.(?:shm|msg)[a-z_]+|kernel\.sem|fs\.mqueue\..+")
_SYSCTL = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_ENVIRONMENT_NAME = re.compile(r"[^=\0]+")
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_HOSTNAME_MAX = 64  # HOST_NAME_MAX, gethostname(2)
_USER = re.compile(r"[^:\s]+(?::[^:\s]+)?")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NUMBERS = re.compile(r"\d{1,4}(?:-\d{1,4})?(?:,\d{1,4}(?:-\d{1,4})?)*")
_MAX_CPU = 8191  # NR_CPUS in arch/x86/Kconfig
_MAX_NODE = 1023  # NODES_SHIFT in arch/x86/Kconfig
_MAX_PIDS = 4 << 20  # PID_MAX_LIMIT, include/linux/threads.h
_PAGE_SIZE = re.compile(r"[1-9]\d*[KMG]B")
_DEVICE = re.compile(r"/dev/[^\0]+")
_PORT = re.compile(r"(?:(?:(\[[^]]*\]|[^:]*):)?([0-9-]*):)?([0-9-]+)(?:/(.*))?")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MODE = re.compile(r"[0-7]{1,4}")


def integer(value: str | int, minimum: int, maximum: int = MAX_INTEGER) -> int:
    """A whole number within bounds; a string, as variables give, is accepted too."""
    allowed = f"at least {minimum}" if maximum == MAX_INTEGER else f"from {minimum} to {maximum}"
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[-+]?\d{1,20}\s*", value):
            raise ValueError(f'"{value}" is not a whole number ({allowed})')
        value = int(value)
    if not minimum <= value <= maximum:
        raise ValueError(f"{_short(value)} is out of range ({allowed})")
    return value


def real(value: str | int | float, minimum: float, maximum: float = math.inf) -> float:
    """A finite number within bounds."""
    allowed = f"at least {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{_short(value)} is not a number in range ({allowed})") from None
    if not math.isfinite(number) or not minimum <= number <= maximum:
        raise ValueError(f"{_short(value)} is out of range ({allowed})")
    return number


def boolean(value: str | bool) -> bool:
    """A boolean; the strings ``"true"`` and ``"false"``, as variables give, are accepted too."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError(f'"{value}" is not a boolean (allowed: true, false)')
    return value == "true"


def duration(value: str | int | float, *, positive: bool = False) -> float:
    """Seconds, from a number or a text such as ``"1m30s"``."""
    if isinstance(value, str) and not re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        value = parse_duration(value)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError("the duration is not finite")
    if seconds < 0 or (positive and seconds == 0):
        raise ValueError(
            f"a duration of {_short(value)} is impossible ({'above' if positive else 'at least'} 0s)"
        )
    return seconds


def size(value: str | int, minimum: int = 0) -> int:
    """Bytes, from a number or a text such as ``"256M"``."""
    try:
        count = parse_size(value) if isinstance(value, str) else value
    except OverflowError:
        count = MAX_INTEGER + 1
    if count > MAX_INTEGER:
        raise ValueError("the size is too large (at most 8 EiB)")
    if count < minimum:
        raise ValueError(f"a size of {_short(value)} is too small (at least {format_size(minimum)})")
    return count


def name(value: str) -> str:
    """The name of a project, service, network or volume."""
    if not NAME.fullmatch(value):
        raise ValueError(
            f'"{value}" is not a name (allowed: up to 63 of a-z, 0-9, "-" and "_", beginning with a letter or digit)'
        )
    return value


def project_name(folder: str) -> str:
    """The name that a folder gives to a project, normalised as Compose does; may be empty."""
    return re.sub(r"[^a-z0-9_-]", "", folder.lower()).lstrip("_-")[:63]


def environment_name(value: str) -> str:
    """The name of an environment variable: anything without ``=`` (environ(7))."""
    if not _ENVIRONMENT_NAME.fullmatch(value):
        raise ValueError(
            f'"{value}" cannot name an environment variable (it must not be empty or contain "=")'
        )
    return value


def label_name(value: str) -> str:
    """The name of a label: anything but nothing."""
    if not value:
        raise ValueError("a label needs a name")
    return value


def sysctl_name(value: str) -> str:
    """A kernel parameter that a container has for itself."""
    if not _SYSCTL.fullmatch(value):
        raise ValueError(f'"{value}" is not the name of a sysctl (write it like "net.core.somaxconn")')
    if not _NAMESPACED.fullmatch(value):
        raise ValueError(
            f'"{value}" belongs to the whole host, not to a container '
            "(allowed: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*)"
        )
    return value


def ulimit_name(value: str) -> str:
    """A resource of getrlimit(2)."""
    if value not in ULIMITS:
        raise ValueError(f'"{value}" is not a resource limit{hint(value, ULIMITS)}')
    return value


def page_size(value: str) -> str:
    """A size of huge pages as the kernel writes it in the names of its cgroup files."""
    if not _PAGE_SIZE.fullmatch(value):
        raise ValueError(f'"{value}" is not a size of huge pages (write it like "2MB" or "1GB")')
    return value


def hostname(value: str) -> str:
    """A host name: labels of letters, digits, ``-`` and ``_``, 64 characters at most (hostname(7))."""
    if len(value) > _HOSTNAME_MAX or not _HOSTNAME.fullmatch(value):
        raise ValueError(
            f'"{value}" is not a host name (up to {_HOSTNAME_MAX} letters, digits, "-", "_" and ".")'
        )
    return value


def user(value: str | int) -> str:
    """``user``, ``user:group``, each a name or a number."""
    if isinstance(value, int):
        return str(integer(value, 0, MAX_ID))
    if not _USER.fullmatch(value):
        raise ValueError(f'"{value}" is not a user (write "name", "1000" or "1000:1000")')
    for part in value.split(":"):
        if part.isdecimal():
            integer(part, 0, MAX_ID)
    return value


def owner(value: str | int) -> tuple[int, int]:
    """A user and a group of the host, by number or name: ``"1000"``, ``"1000:1000"``, ``"alice:users"``."""
    import grp  # both late: few manifests need them
    import pwd

    name, _, group = user(value).partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not name.isdecimal():
            raise ValueError(f'the host has no user "{name}"') from None
        uid = gid = int(name)
    if group:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ValueError(f'the host has no group "{group}"') from None
    return uid, gid


def group(value: str | int) -> str:
    """A group's name or number."""
    text = user(value)
    if ":" in text:
        raise ValueError(f'"{text}" is not a group (write "name" or "1000")')
    return text


def profile(value: str) -> str:
    """The name of a profile."""
    if not _PROFILE.fullmatch(value):
        raise ValueError(f'"{value}" is not the name of a profile (letters, digits, "_", "." and "-")')
    return value


def words(value: str) -> tuple[str, ...]:
    """A command line in one string, split as a POSIX shell would (and run without one)."""
    import shlex

    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(
            f"cannot be split into words: {str(error).lower()} (or write a list of strings)"
        ) from None


def image(value: str) -> str:
    """``host`` or ``dir:PATH``."""
    if value == "host" or (value.startswith("dir:") and value != "dir:"):
        return value
    raise ValueError(
        f'"{value}" is not available: images from registries come in a later version (allowed: "host", "dir:PATH")'
    )


#: SIGRTMIN to SIGRTMAX are 34 to 64 (signal(7), with the two that the C library keeps for itself).
_REAL_TIME = re.compile(r"SIGRTMIN\+([1-9]|[12]\d|30)")


def stop_signal(value: str | int) -> str:
    """A signal that asks a program to end."""
    found = signal_name(value)
    if found in ("SIGSTOP", "SIGCONT", "SIGCHLD"):
        raise ValueError(
            f'{found} stops no process for good (use one that ends it, such as "SIGTERM" or "SIGINT")'
        )
    return found


def percent(value: str | int | float) -> float:
    """A percentage, ``"20%"``; the sign may be left out."""
    return real(value.strip().removesuffix("%") if isinstance(value, str) else value, 0.1, 100)


def pressure_window(value: str | int | float) -> float:
    """Seconds of a window that the kernel watches pressure in (WINDOW_MIN_US, WINDOW_MAX_US in kernel/sched/psi.c)."""
    seconds = duration(value)
    if not 0.5 <= seconds <= 10:
        raise ValueError(f"a window of {format_duration(seconds)} is out of range (from 500ms to 10s)")
    return seconds


def pressure_action(value: str) -> str:
    """``none``, ``restart``, ``stop``, or ``signal:`` and the name of a signal."""
    word, colon, name = value.partition(":")
    if word == "signal" and colon:
        return f"signal:{signal_name(name)}"
    actions = ("none", "restart", "stop")
    if value not in actions:
        raise ValueError(f'"{value}" is not allowed{hint(value, (*actions, "signal:SIGUSR1"))}')
    return value


def signal_name(value: str | int) -> str:
    """The name of a signal, with SIG; numbers, names without SIG and ``SIGRTMIN+3`` are accepted."""
    names = [member.name for member in signal.Signals]
    if isinstance(value, int) or value.isdecimal():
        try:
            found = signal.Signals(int(value)).name
        except ValueError:
            raise ValueError(f'there is no signal {_short(value)} (write it like "SIGTERM")') from None
    else:
        found = value.upper() if value.upper().startswith("SIG") else "SIG" + value.upper()
    if _REAL_TIME.fullmatch(found):
        return found
    if found not in names:
        raise ValueError(f'"{value}" is not a signal{hint(found, names)}')
    return found


def cpuset(value: str | int) -> str:
    """CPUs in the kernel's list format, ``0-1,3`` (cpuset(7))."""
    return _numbers(value, "CPU", _MAX_CPU)


def memory_nodes(value: str | int) -> str:
    """Memory nodes in the kernel's list format."""
    return _numbers(value, "memory node", _MAX_NODE)


def _numbers(value: str | int, what: str, maximum: int) -> str:
    text = str(value)
    if not _NUMBERS.fullmatch(text):
        raise ValueError(f'"{text}" is not a list of {what}s (write it like "0-1,3")')
    highest = max(numbers_of(text))
    if highest > maximum:
        raise ValueError(f"there is no {what} {highest} (Linux counts to {maximum} at most)")
    return text


def numbers_of(text: str) -> set[int]:
    """The numbers that a text in the kernel's list format names."""
    numbers: set[int] = set()
    for part in set(text.split(",")):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f'"{part}" counts backwards (write "{last}-{first}")')
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def pids(value: str | int) -> int | None:
    """A number of processes; ``"unlimited"``, -1 and 0 (as Podman and Docker have it) are none."""
    if value in ("unlimited", -1, 0, "-1", "0"):
        return None
    return integer(value, 1, _MAX_PIDS)


def swap(value: str | int) -> int | None:
    """Bytes of swap; ``"unlimited"`` and -1 are none."""
    return None if value in ("unlimited", -1, "-1") else size(value)


def device(value: str) -> str:
    """The path of a block device."""
    if not _DEVICE.fullmatch(value):
        raise ValueError(f'"{value}" is not the path of a device (write it like "/dev/vda")')
    return value


def mode(value: str) -> int:
    """Permission bits from octal digits. (A number won't do: 0o755 and 755 look the same once parsed.)"""
    if not _MODE.fullmatch(value):
        raise ValueError(f'"{value}" is not a file mode (write octal digits in quotes, like "1777")')
    return int(value, 8)


def port_number(value: str | int) -> int:
    """A port that a process can listen on."""
    return integer(value, 1, 65535)


def port_range(value: str, minimum: int = 1) -> range:
    """``80`` or ``8000-8010``."""
    match = _RANGE.fullmatch(value)
    if match is None:
        raise ValueError(f'"{value}" is not a port or a range of ports')
    first = integer(match[1], minimum, 65535)
    last = integer(match[2] or match[1], minimum, 65535)
    if last < first:
        raise ValueError(f'"{value}" counts backwards (write "{last}-{first}")')
    return range(first, last + 1)


def address(value: str) -> str:
    """An IPv4 address."""
    import ipaddress  # only manifests that name one pay for it

    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError(f'"{value}" is not an IPv4 address (write it like "127.0.0.1")') from None


def port(value: str | int) -> tuple[Port, ...]:
    """Published ports in short syntax: ``[[host_ip:][published]:]target[/protocol]``, with ranges."""
    if isinstance(value, int):
        return (Port(target=port_number(value)),)
    match = _PORT.fullmatch(value)
    if match is None:
        raise ValueError(f'"{value}" is not a port (write "8080:80", "127.0.0.1:8080:80/udp" or "80")')
    host, published, target, protocol = match.groups()
    if protocol is None:
        protocol = "tcp"
    elif protocol not in ("tcp", "udp"):
        raise ValueError(f'"{protocol}" is not a protocol (allowed: tcp, udp)')
    common: dict[str, Any] = {"protocol": protocol}
    if host is not None:
        common["host_ip"] = address(host.strip("[]"))
    targets = port_range(target)
    if not published:
        return tuple(Port(target=number, **common) for number in targets)
    sources = port_range(published, 0)
    if len(sources) != len(targets):
        raise ValueError(
            f'"{value}" publishes {len(sources)} ports for {len(targets)} (both ranges must be as long)'
        )
    pairs = zip(sources, targets, strict=True)
    return tuple(Port(target=inside, published=outside, **common) for outside, inside in pairs)


def port_table(values: dict[str, Any]) -> tuple[Port, ...]:
    """A published port in long syntax."""
    return (Port(**values),)


def expose(value: str | int) -> tuple[str, ...]:
    """Ports that only other containers use: ``80``, ``53/udp``, ``8000-8010``; one string each."""
    text, slash, protocol = str(value).partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise ValueError(f'"{protocol}" is not a protocol (allowed: tcp, udp)')
    return tuple(f"{number}{slash}{protocol}" for number in port_range(text))


def restart(value: str) -> dict[str, Any]:
    """A restart policy in one word, ``on-failure:5`` with the number of attempts."""
    policies = ("no", "on-failure", "always", "unless-stopped")
    policy, colon, attempts = value.partition(":")
    if policy not in policies:
        raise ValueError(f'"{value}" is not a restart policy{hint(policy, policies)}')
    if colon and policy != "on-failure":
        raise ValueError(f'"{policy}" takes no number of attempts (only "on-failure:5" does)')
    return {"policy": policy, "max_attempts": integer(attempts, 1) if colon else None}


def ulimit(value: str | int) -> int:
    """A limit's number; -1 and ``"unlimited"`` are none."""
    return -1 if value == "unlimited" else integer(value, -1)


def ulimit_table(values: dict[str, int]) -> Ulimit:
    """Soft and hard limit; the soft one may not be above the hard one (getrlimit(2))."""
    soft, hard = values["soft"], values["hard"]
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"the soft limit {soft} is above the hard limit {hard}")
    return Ulimit(**values)


def exec_test(value: str) -> tuple[str, ...] | None:
    """A health check's command in one string: for a shell, unless it begins with ``CMD``; None for ``NONE``."""
    first, _, rest = value.partition(" ")
    if value == "NONE":
        return None
    command = (
        words(rest) if first == "CMD" else ("/bin/sh", "-c", rest.strip() if first == "CMD-SHELL" else value)
    )
    if not command or not command[-1].strip():
        raise ValueError("the command is empty")
    return command


def exec_test_list(items: tuple[str, ...]) -> tuple[str, ...] | None:
    """A health check's command as a list; the first item says how to run the others; None for ``NONE``."""
    match items:
        case ("NONE",):
            return None
        case ("CMD", _, *_):
            return items[1:]
        case ("CMD-SHELL", text):
            return ("/bin/sh", "-c", text)
    raise ValueError(
        'must be ["CMD", program, arguments...], ["CMD-SHELL", text] or ["NONE"] (or one string)'
    )


def http_url(value: str) -> dict[str, Any]:
    """A health check's URL, ``http://:8080/path``; or the path alone, when the port is given beside it."""
    match = re.fullmatch(r"(?:(https?)://([^/:@\s]*)(?::(\d+))?)?(/[^\s]*)?", value)
    if match is None or not value:
        raise ValueError(f'"{value}" is not a URL (write "http://:8080/path", or "/path" with a port)')
    scheme, host, number, path = match.groups()
    found: dict[str, Any] = {"path": path or "/"}
    if scheme is not None:
        found["scheme"] = scheme
        found["port"] = port_number(number) if number else {"http": 80, "https": 443}[scheme]
    if host:
        found["host"] = hostname(host)
    return found


def http_path(value: str) -> str:
    """What a GET asks for (RFC 9112, section 3.2.1)."""
    if not re.fullmatch(r"/\S*", value):
        raise ValueError(f'"{value}" is not a path of HTTP (it must begin with "/" and have no spaces)')
    return value


def header_name(value: str) -> str:
    """The name of a header (a token of RFC 9110, section 5.6.2)."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError(f'"{value}" is not the name of a header')
    return value


def status(value: str | int) -> int:
    """A final status of HTTP."""
    return integer(value, 200, 599)


def subnet(value: str) -> str:
    """An IPv4 network with room for containers."""
    import ipaddress

    try:
        network = ipaddress.IPv4Network(value, strict=False)
    except ValueError:
        raise ValueError(f'"{value}" is not an IPv4 network (write it like "10.89.0.0/24")') from None
    if str(network) != value:
        raise ValueError(f'"{value}" is not the address of a network (did you mean "{network}"?)')
    if not 8 <= network.prefixlen <= 30:
        raise ValueError(
            f'"{value}" is {"too small" if network.prefixlen > 30 else "too large"} (from /8 to /30)'
        )
    if (
        value.startswith("0.")
        or network.is_loopback
        or network.is_multicast
        or network.is_link_local
        or network.is_reserved
    ):
        raise ValueError(
            f'containers cannot have addresses of "{value}" (use a private network: 10.89.0.0/24)'
        )
    return value


def _short(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value) if not _is_huge(value) else "the number"
    return text if len(text) <= 42 else text[:40] + '..."'


def _is_huge(value: object) -> bool:
    """Whether a number has too many digits to print (Python refuses more than 4300)."""
    return isinstance(value, int) and abs(value) > 1 << 256
