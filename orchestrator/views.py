"""What the service tells of itself: the JSON objects of the API, and of ``--format json``.

Times are seconds since the epoch (floats); a missing value is null, never a made-up one. Fields may be added;
they are not renamed or removed.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from orchestrator.states import Health, State


class View(msgspec.Struct, kw_only=True):
    """Base of all views. Unknown fields are ignored, so an older client can read a newer service."""


class PortView(View):
    """A published port: ``host_ip:published -> target/protocol``."""

    host_ip: str
    published: int
    target: int
    protocol: str


class ContainerView(View):
    """One line of ``orch ps``.

    :param pid: of the container's first process, as the host sees it; null when it has none.
    :param address: the first network's address; null for host and none mode.
    :param restarts: how often the restart policy has started it again.
    :param reason: why it is in its state, for people: what it waits for, or what failed.
    :param next_attempt_at: when the restart policy starts it again (state ``restarting``).
    """

    project: str
    service: str
    name: str
    id: str
    replica: int
    kind: str
    image: str
    command: list[str]
    state: State
    health: Health
    pid: int | None
    address: str | None
    addresses: dict[str, str]  # network -> address
    ports: list[PortView]
    restarts: int
    exit_code: int | None
    reason: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    next_attempt_at: float | None


class Stage(View):
    """One step of a start, and how long it took (seconds)."""

    name: str
    seconds: float


class ProbeView(View):
    """The result of one health probe."""

    time: float
    ok: bool
    output: str
    seconds: float


class SeccompView(View):
    """The filter of system calls in force: that of the latest start.

    :param profile: ``default``, ``unconfined``, or the file's path.
    :param digest: SHA-256 of the filter's program; ``""`` when there is none.
    """

    profile: str
    digest: str = ""
    architectures: list[str] = []
    rules: int = 0
    instructions: int = 0


class PressureTriggerView(View):
    """A pressure trigger of a running container.

    :param trigger: for people: ``memory some 20% over 2s for 10s``.
    :param sustained: whether it is too much, for too long.
    :param text: what has been noticed, if that goes on.
    """

    trigger: str
    action: str
    sustained: bool
    text: str


class InspectView(View):
    """Everything about one container (``orch inspect``)."""

    container: ContainerView
    spec: dict[str, Any]
    spec_digest: str
    cgroup: dict[str, str]  # controller (or "unified") -> absolute path
    rootfs: dict[str, Any]
    log_path: str
    stages: list[Stage]
    program: list[str]  # the launch program, one described operation a line
    probes: list[ProbeView]
    environment: list[str]
    seccomp: SeccompView | None = None
    pressure: list[PressureTriggerView] = []
    lsm: dict[str, str] = {}  # labels and profile of security modules, and what is in force for its process


class PressureView(View):
    """How much of the time a container's processes waited for one resource: ``some`` of them, or all (``full``).

    :param some_avg10: percent of the last ten seconds.
    :param some_seconds: since the container was made.
    """

    some_avg10: float
    some_seconds: float
    full_avg10: float
    full_seconds: float


class StatsView(View):
    """One container's use of resources at one moment; cumulative counters unless said otherwise.

    :param cpu_percent: of one core, since the previous sample; null in the first.
    :param memory: bytes in use without the reclaimable page cache (as ``docker stats`` counts).
    :param swap: bytes that are swapped out; null where the kernel does not count them.
    :param pids_refused: how often a process was not made because of ``pids_limit``.
    :param pressure: of ``cpu``, ``memory`` and ``io``; null where the kernel does not account it.
    """

    project: str
    service: str
    name: str
    id: str
    time: float
    cpu_seconds: float
    cpu_percent: float | None
    cpu_throttled_seconds: float
    memory: int
    memory_peak: int | None
    memory_limit: int | None
    pids: int
    pids_limit: int | None
    io_read_bytes: int
    io_write_bytes: int
    net_rx_bytes: int
    net_tx_bytes: int
    oom_kills: int
    swap: int | None = None
    pids_refused: int = 0
    pressure: dict[str, PressureView] | None = None


class ProcessView(View):
    """One process inside a container (``orch top``)."""

    name: str  # of the container
    pid: int
    ppid: int
    user: str
    cpu_seconds: float
    rss: int
    state: str
    command: str


class EventView(View):
    """Something that happened to an object of a project (``orch events``).

    :param type: ``container`` or ``network`` or ``volume`` or ``project``.
    :param action: past tense or state: ``started``, ``exited``, ``unhealthy``, ``oom``, ...
    """

    time: float
    type: str
    action: str
    project: str
    service: str
    name: str
    id: str
    message: str
    attributes: dict[str, Any]


class LogLine(View):
    """One line that a container wrote."""

    time: float
    stream: str  # stdout or stderr
    service: str
    name: str
    line: str


class OperationView(View):
    """One operation of a plan. ``after`` names the operations (by id) that it waits for."""

    id: str
    action: str  # create-network, create, start, recreate, update, restart, stop, remove, remove-network, ...
    target: str
    service: str
    cause: str
    after: list[str]


class PlanView(View):
    """What ``orch up`` would do, in the order it would do it; empty when there is nothing to do."""

    project: str
    operations: list[OperationView]


class ProgressKind(enum.StrEnum):
    """What a line of a progress stream says."""

    PLAN = "plan"  # first line; ``plan`` is set
    RUNNING = "running"  # an operation began
    WAITING = "waiting"  # an operation waits; ``message`` says for what, and until when
    DONE = "done"  # an operation ended well; ``seconds`` is set
    FAILED = "failed"  # an operation failed; ``error`` is set
    WARNING = "warning"  # something the user should know; ``message`` is set
    RESULT = "result"  # last line; ``ok`` is set, ``error`` when not ok, ``containers`` as they are now


class Progress(View):
    """One line of the stream that ``up``, ``down``, ``scale`` and the like answer with."""

    kind: ProgressKind
    time: float
    operation: str = ""  # id
    message: str = ""
    seconds: float | None = None
    ok: bool | None = None
    error: dict[str, Any] | None = None
    plan: PlanView | None = None
    containers: list[ContainerView] | None = None


class VersionView(View):
    """The service that answers."""

    version: str
    api: int
    instance: str
    pid: int
    started_at: float
    state_dir: str
    run_dir: str
