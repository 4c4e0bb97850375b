"""Live objects as the views of the API."""

from __future__ import annotations

import msgspec

from orchestrator.launch.container import Container
from orchestrator.lsm.host import attribute_of
from orchestrator.runtime.program import environment
from orchestrator.spec import digest, redacted
from orchestrator.states import ALIVE
from orchestrator.supervise.project import Project
from orchestrator.supervise.supervisor import Supervisor
from orchestrator.supervise.watch import PressureWatch
from orchestrator.units import format_duration
from orchestrator.views import (
    ContainerView,
    InspectView,
    PortView,
    PressureTriggerView,
    SeccompView,
)


def container_view(supervisor: Supervisor) -> ContainerView:
    """One container, as ``ps`` shows it."""
    container = supervisor.container
    spec = container.spec
    endpoints = container.network_home.endpoints
    return ContainerView(
        project=container.project,
        service=spec.name,
        name=container.name,
        id=container.id,
        replica=container.replica,
        kind=spec.kind,
        image=spec.image,
        command=list(spec.argv),
        state=supervisor.state,
        health=supervisor.health,
        pid=supervisor.pid,
        address=str(endpoints[0].address) if endpoints else None,
        addresses={endpoint.network.name: str(endpoint.address) for endpoint in endpoints},
        ports=[
            PortView(
                host_ip=str(port.host_ip),
                published=port.published,
                target=port.target,
                protocol=port.protocol,
            )
            for port in container.ports
        ],
        restarts=supervisor.restarts,
        exit_code=None if supervisor.state in ALIVE else supervisor.exit_code,
        reason=supervisor.reason,
        created_at=supervisor.created_at,
        started_at=supervisor.started_at,
        finished_at=supervisor.finished_at,
        next_attempt_at=supervisor.next_attempt_at,
    )


def project_containers(project: Project) -> list[ContainerView]:
    """All of a project's containers, by service and replica."""
    supervisors = sorted(
        project.supervisors.values(), key=lambda s: (s.spec.name, s.container.replica, s.container.name)
    )
    return [container_view(supervisor) for supervisor in supervisors]


def inspect_view(supervisor: Supervisor) -> InspectView:
    """Everything about one container."""
    container = supervisor.container
    spec = redacted(container.spec)
    return InspectView(
        container=container_view(supervisor),
        spec=msgspec.to_builtins(spec),
        spec_digest=digest(spec),
        cgroup=dict(container.cgroup.directories),
        rootfs=_rootfs(container),
        log_path=f"{container.log_directory}/container.log",
        stages=supervisor.stages,
        program=container.program.describe() if container.program else [],
        probes=list(supervisor.health_watch.probes) if supervisor.health_watch else [],
        environment=[
            f"{key}={value}" for key, value in environment(container.spec, container.hostname).items()
        ],
        seccomp=_seccomp(container) if container.program else None,
        pressure=[_trigger(watch) for watch in supervisor.pressure_watches],
        lsm=_lsm(container, supervisor.pid),
    )


def _seccomp(container: Container) -> SeccompView:
    filter = container.seccomp
    if filter is None:
        return SeccompView(profile=container.spec.seccomp.profile)
    return SeccompView(
        profile=filter.profile,
        digest=filter.digest,
        architectures=list(filter.architectures),
        rules=filter.rules,
        instructions=filter.instructions,
    )


def _lsm(container: Container, pid: int | None) -> dict[str, str]:
    confinement = container.confinement
    said = {
        "selinux_process": confinement.process,
        "selinux_files": confinement.files,
        "apparmor": confinement.profile,
        "in_force": attribute_of(pid) if pid else "",
        "note": confinement.note,
    }
    return {key: value for key, value in said.items() if value}


def _trigger(watch: PressureWatch) -> PressureTriggerView:
    wanted = watch.trigger
    window, sustained = format_duration(wanted.window), format_duration(wanted.sustained)
    return PressureTriggerView(
        trigger=f"{wanted.resource} {wanted.kind} {wanted.threshold:g}% over {window} for {sustained}",
        action=wanted.action,
        sustained=watch.sustained,
        text=watch.text,
    )


def _rootfs(container: Container) -> dict[str, object]:
    return {
        "image": container.image.reference,
        "layers": [
            {"target": layer.target, "lower": list(layer.lower), "upper": layer.upper}
            for layer in container.layers
        ],
        "hosts": container.hosts_file,
        "volumes": dict(container.volumes),
    }
