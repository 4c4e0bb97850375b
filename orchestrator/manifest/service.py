"""One service: the values of its keys, laid over the file's ``[defaults]``, become its spec."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from orchestrator.manifest import dotenv
from orchestrator.manifest.document import UnreadableError
from orchestrator.manifest.draft import GRANT_FOLDERS, Draft
from orchestrator.manifest.mounts import mount_target
from orchestrator.manifest.namespaces import check_namespaces, userns
from orchestrator.manifest.place import Place, hint
from orchestrator.spec import (
    HOST,
    PRIVATE,
    Device,
    ExecCheck,
    Grant,
    Healthcheck,
    HttpCheck,
    Logging,
    Mount,
    Resources,
    RestartPolicy,
    Seccomp,
    Selinux,
    ServiceSpec,
    TcpCheck,
    TimeOffsets,
)
from orchestrator.units import format_size, parse_size

#: The content of a secret or config, by section and name; what is wrong with it has been reported.
Contents = Callable[[str, str], bytes]

_AS_THEY_ARE = (
    "kind", "entrypoint", "command", "working_dir", "user", "hostname", "expose", "read_only", "network_mode",
    "device_cgroup_rules", "stop_signal", "stop_grace_period", "replicas", "labels", "ulimits", "oom_score_adj",
    "sysctls", "init", "mnt", "pid", "ipc", "uts", "cgroup", "cap_add", "cap_drop", "no_new_privileges",
    "group_add", "masked_paths", "read_only_paths", "unmask", "shm_size", "apparmor",
)  # fmt: skip


def build(draft: Draft, active: Collection[str], contents: Contents) -> ServiceSpec:
    """The spec of a service; what is wrong with it by itself is reported.

    :param contents: asked for secrets and configs that it gets, unless it is left out.
    :param active: the services that are not left out. An optional dependency on another one is dropped, and
        the files of a service that is left out need not exist.
    """
    values = draft.values
    mounts = tuple(_resolved(place, mount) for place, mount in draft.mounts)
    spec = ServiceSpec(
        name=draft.name,
        image=_image(draft),
        environment=_environment(draft, draft.name in active),
        ports=tuple(port for _, port in draft.ports),
        mounts=mounts,
        devices=tuple(device for _, device in draft.devices),
        **_grants(draft, contents if draft.name in active else lambda section, name: b""),
        networks=tuple(attachment for _, attachment in draft.networks),
        depends_on=tuple(
            dependency
            for _, dependency in draft.dependencies
            if dependency.required or dependency.service in active
        ),
        userns=userns(draft),
        time="private" if isinstance(draft.values.get("time"), dict) else draft.values.get("time", HOST),
        time_offsets=TimeOffsets(**draft.values["time"])
        if isinstance(draft.values.get("time"), dict)
        else None,
        healthcheck=_healthcheck(draft),
        pressure=tuple(trigger for _, trigger in values.get("pressure", ())),
        restart=_restart(draft),
        resources=_resources(draft),
        seccomp=_seccomp(draft, draft.name in active),
        selinux=Selinux(**values.get("selinux", {})),
        logging=Logging(**values.get("logging", {})),
        **{key: values[key] for key in _AS_THEY_ARE if key in values},
    )
    _check_program(draft, spec)
    _check_network_mode(draft, spec)
    check_namespaces(draft, spec)
    _check_targets(draft, spec)
    return spec


def _image(draft: Draft) -> str:
    image: str = draft.values.get("image", "host")
    if not image.startswith("dir:"):
        return image
    at = draft.at("image")
    try:
        return "dir:" + at.resolve(image.removeprefix("dir:"))
    except ValueError as error:
        at.problem(str(error))
        return image


def _resolved(place: Place, mount: Mount) -> Mount:
    if mount.type != "bind":
        return mount
    try:
        return msgspec.structs.replace(mount, source=place.resolve(mount.source))
    except ValueError as error:
        place.problem(str(error))
        return mount


def _grants(draft: Draft, contents: Contents) -> dict[str, Any]:
    """Its secrets and configs, with their content."""
    grants: dict[str, Any] = dict.fromkeys(GRANT_FOLDERS, ())
    for place, section, grant in draft.grants:
        source = grant["source"]
        target = grant.get("target") or source
        try:
            if not target.startswith("/"):
                target = f"{GRANT_FOLDERS[section]}/{target}"
            target = mount_target(target)
        except ValueError as error:
            place.problem(str(error))
        content = contents(section, source)
        grants[section] += (Grant(**{**grant, "target": target, "content": content}),)
    return grants


def _environment(draft: Draft, with_files: bool) -> dict[str, str]:
    """``env_file`` and, over it, ``environment``; a name alone takes the value that orch's environment has."""
    report = draft.place.report
    environment: dict[str, str] = {}
    for place, entry in draft.values.get("env_file", ()) if with_files else ():
        environment.update(_env_file(place, entry["path"], entry.get("required", True)))
    for name, value in draft.values.get("environment", {}).items():
        if value is not None:
            environment[name] = value
            continue
        try:
            inherited = report.lookup(name)
        except ValueError as error:
            draft.problem(("environment",), str(error))
            continue
        if inherited is not None:
            environment[name] = inherited
    return environment


def _env_file(place: Place, path: str, required: bool) -> dict[str, str]:
    report = place.report
    try:
        name = place.file_name(path)
        text = report.read_text(name)
    except ValueError as error:
        place.problem(str(error))
        return {}
    except UnreadableError as error:
        if required or not error.missing:
            place.problem(f'"{path}" {error}')
        return {}
    variables, problems = dotenv.parse(
        text,
        report.lookup,
        lambda variable: report.warning(name, None, f'variable "{variable}" is not set; it counts as empty'),
    )
    for line, problem in problems:
        report.problem(name, line, problem)
    return variables


def _healthcheck(draft: Draft) -> Healthcheck | None:
    if "healthcheck" not in draft.values:
        return None
    values = dict(draft.values["healthcheck"])
    if values.pop("disable", False):
        return None
    probes = {name: values.pop(name) for name in ("test", "tcp", "http") if name in values}
    port = values.pop("port", None)
    if "test" in probes and probes["test"] is None:
        return None
    if len(probes) > 1:
        draft.problem(("healthcheck",), f"has {' and '.join(probes)} at once (allowed: one of them)")
        return None
    if not probes:
        if not any(draft.find("healthcheck", name) for name in ("test", "tcp", "http")):
            draft.problem(
                ("healthcheck",), "does not say what to check (one of test, tcp, http; or disable = true)"
            )
        return None
    ((name, probe),) = probes.items()
    if port is not None and name != "http":
        draft.problem(("healthcheck", "port"), f"has no meaning beside {name} (it is for http)")
    if name != "test" and draft.values.get("network_mode") == "none":
        draft.problem(("healthcheck", name), 'cannot reach a container with network_mode "none" (use test)')
    if name == "test":
        return Healthcheck(test=ExecCheck(command=probe), **values)
    if name == "tcp":
        return Healthcheck(test=TcpCheck(port=probe), **values)
    if port is not None:
        if probe.get("port", port) != port:
            draft.problem(("healthcheck", "port"), f"contradicts http, which says {probe['port']}")
        probe = {"port": port, **probe}
    if "port" not in probe:
        draft.problem(
            ("healthcheck", "http"), 'does not name a port (write "http://:8080/path", or add port)'
        )
        return None
    return Healthcheck(test=HttpCheck(**probe), **values)


def _restart(draft: Draft) -> RestartPolicy:
    values = draft.values.get("restart", {})
    policy = RestartPolicy(**values)
    if values and "policy" not in values and not draft.find("restart", "policy"):
        draft.problem(("restart",), "lacks policy (allowed: no, on-failure, always, unless-stopped)")
    if policy.policy == "no" and policy.max_attempts is not None and "policy" in values:
        draft.problem(("restart", "max_attempts"), 'has no meaning with policy "no"')
    if draft.values.get("kind") == "job" and policy.policy in ("always", "unless-stopped"):
        draft.problem(
            ("restart",), f'a job with "{policy.policy}" would never end (allowed for a job: no, on-failure)'
        )
    if policy.backoff is not None and policy.backoff > policy.backoff_max:
        draft.problem(
            ("restart", "backoff"), f"{policy.backoff:g}s is above backoff_max, {policy.backoff_max:g}s"
        )
    return policy


_ABOVE = {
    "memory": "{} is above memory, {}, and so would never be reached",
    "memory_low": "{} is above memory_low, {} (what is never taken back is part of what is taken back last)",
}


def _resources(draft: Draft) -> Resources:
    values = dict(draft.values.get("resources", {}))
    limits = values.pop("io", ())
    resources = Resources(io=tuple(limit for _, limit in limits), **values)
    for lower, upper in (
        ("memory_high", "memory"), ("memory_low", "memory"), ("memory_min", "memory"), ("memory_min", "memory_low"),
    ):  # fmt: skip
        low, high = getattr(resources, lower), getattr(resources, upper)
        if low is not None and high is not None and low > high:
            draft.problem(("resources", lower), _ABOVE[upper].format(format_size(low), format_size(high)))
    if resources.cpu_burst is not None:
        if resources.cpus is None:
            if not draft.find("resources", "cpus"):
                draft.problem(("resources", "cpu_burst"), "needs cpus, on top of which it counts")
        elif resources.cpu_burst > resources.cpus:
            text = f"{resources.cpu_burst:g} is above cpus, {resources.cpus:g}, and the kernel takes no more"
            draft.problem(("resources", "cpu_burst"), text)
    if resources.memory_swap is not None and not draft.find("resources", "memory"):
        draft.problem(("resources", "memory_swap"), "needs memory, on top of which it counts")
    devices: dict[str, Place] = {}
    for place, limit in limits:
        if limit.device in devices:
            place.problem(f'"{limit.device}" has limits already, at {devices[limit.device]}')
        devices.setdefault(limit.device, place)
        if limit.read_bps is limit.write_bps is limit.read_iops is limit.write_iops is None:
            place.problem("sets no limit (at least one of read_bps, write_bps, read_iops, write_iops)")
    for page, count in resources.hugepages.items():
        if count % parse_size(page):
            draft.problem(("resources", "hugepages", page), f"must be a multiple of {page}")
    return resources


def _seccomp(draft: Draft, with_file: bool) -> Seccomp:
    values = draft.values.get("seccomp", {})
    written = values.get("profile", "default")
    allow, deny = (tuple(dict.fromkeys(values.get(key, ()))) for key in ("allow", "deny"))
    seccomp = Seccomp(allow=allow, deny=deny)
    at = draft.at("seccomp", "profile")
    if written in ("default", "unconfined"):
        seccomp = msgspec.structs.replace(seccomp, profile=written)
    elif with_file:
        seccomp = _with_file(at, written, seccomp)
    if seccomp != Seccomp():
        from orchestrator.manifest.seccomp import starts_nothing

        if starts_nothing(seccomp):
            draft.problem(("seccomp",), "does not allow execve, without which no program can be started")
    return seccomp


def _with_file(at: Place, written: str, seccomp: Seccomp) -> Seccomp:
    """Over the profile in a file, which is read once for all services that use it."""
    from orchestrator.manifest.seccomp import read_profile

    report = at.report
    try:
        name = at.file_name(written)
        if name not in report.read:
            report.read[name] = read_profile(report, name)
    except ValueError as error:
        at.problem(str(error))
        return seccomp
    except UnreadableError as error:
        if error.line is None:
            word = "/" not in written and error.missing
            at.problem(f'"{written}" {error}{hint(written, ("default", "unconfined")) if word else ""}')
        else:
            report.problem(name, error.line, str(error))
        return seccomp
    return msgspec.structs.replace(seccomp, profile=at.resolve(written), content=report.read[name])


def _check_program(draft: Draft, spec: ServiceSpec) -> None:
    written = [key for key in ("entrypoint", "command") if draft.find(key)]
    if not written:
        draft.problem(
            (), "has nothing to run (write command; an image that is a folder or the host has none)"
        )
    elif all(key in draft.values for key in written) and not (spec.argv and spec.argv[0]):
        draft.problem((written[0],), "is empty: there is no program to run")


def _check_network_mode(draft: Draft, spec: ServiceSpec) -> None:
    if spec.network_mode == "bridge":
        return
    for key in ("ports", "networks"):
        if draft.values.get(key):
            draft.problem(
                (key,), f'cannot be combined with network_mode "{spec.network_mode}" (only with "bridge")'
            )


def _check_targets(draft: Draft, spec: ServiceSpec) -> None:
    """Nothing is mounted where something else is."""
    if "shm_size" in draft.values:
        if any(mount.target == "/dev/shm" for mount in spec.mounts):
            draft.problem(("shm_size",), "has no meaning beside a mount on /dev/shm (give that one the size)")
        if spec.ipc != PRIVATE:
            draft.problem(("shm_size",), f'has no meaning with ipc "{spec.ipc}", whose /dev/shm is used')
    taken: dict[str, Place] = {}
    places = [
        *(place for place, _ in draft.mounts),
        *(place for place, _, _ in draft.grants),
        *(place for place, _ in draft.devices),
    ]
    mounted: tuple[Mount | Grant | Device, ...] = (
        *spec.mounts,
        *spec.secrets,
        *spec.configs,
        *(device for _, device in draft.devices),
    )
    for place, mount in zip(places, mounted, strict=True):
        if mount.target in taken:
            place.problem(f'"{mount.target}" is mounted on already, at {taken[mount.target]}')
        taken.setdefault(mount.target, place)
