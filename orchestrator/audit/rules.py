"""The table of all rules, and the judging."""

from __future__ import annotations

from orchestrator.audit import confinement, devices, exposure, files, kernel, namespaces, privileges
from orchestrator.audit.subject import Rule, Subject
from orchestrator.views import FindingView, Severity

RULES: tuple[Rule, ...] = (
    kernel.capability_sets,
    kernel.no_new_privileges,
    kernel.id_maps,
    kernel.separate_namespaces,
    kernel.system_calls,
    kernel.label,
    kernel.limits,
    confinement.combinations,
    confinement.labels,
    confinement.system_calls,
    privileges.added_capabilities,
    privileges.new_privileges,
    privileges.host_groups,
    namespaces.user_namespace,
    namespaces.mapped_accounts,
    namespaces.host_mounts,
    namespaces.host_processes,
    namespaces.host_network,
    namespaces.host_objects,
    namespaces.shared_namespaces,
    files.sensitive_binds,
    files.sockets,
    files.files_of_root,
    files.propagation,
    files.unmasked,
    files.fellows,
    devices.host_devices,
    devices.device_rules,
    exposure.published_ports,
    exposure.secrets_in_environment,
    exposure.limits,
    exposure.spared_by_the_kernel,
)
_ORDER = {severity: number for number, severity in enumerate(Severity)}


def judge(subject: Subject) -> list[FindingView]:
    """What is found about it, the worst first, and then in the order of the rules."""
    return sorted(
        (found for rule in RULES for found in rule(subject)), key=lambda found: _ORDER[found.severity]
    )
