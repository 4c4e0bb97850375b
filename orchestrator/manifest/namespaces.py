"""What a service says about namespaces and ids: does it fit together?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

from orchestrator.manifest.draft import Draft
from orchestrator.manifest.place import Place
from orchestrator.spec import BRIDGE, HOST, PRIVATE, IdMapping, ServiceSpec, UserNamespace

#: A map's lines (user_namespaces(7)).
_MAX_MAPPINGS = 340
#: The keys that say what a container's own files are made from.
_FILE_KEYS = ("image", "volumes", "tmpfs", "read_only")
#: sysctl prefixes -> the key that says whose namespace they belong to.
_SYSCTLS = {"net.": "network_mode", "kernel.": "ipc", "fs.mqueue.": "ipc"}


def userns(draft: Draft) -> UserNamespace:
    """The service's ``userns``; its problems are reported."""
    value = draft.values.get("userns")
    if value is None:
        return UserNamespace()
    if isinstance(value, str):
        return UserNamespace(mode="host" if value == HOST else "auto")
    uid = tuple(value["uid"])
    gid = tuple(value.get("gid", uid))
    for key, mappings in (("uid", uid), ("gid", gid)):
        if key not in value:
            continue
        at = draft.at("userns", key)
        for place, text in _map_problems(mappings):
            (place or at).problem(text)
    return UserNamespace(mode="maps", uid=tuple(each for _, each in uid), gid=tuple(each for _, each in gid))


def _map_problems(mappings: tuple[tuple[Place, IdMapping], ...]) -> Iterator[tuple[Place | None, str]]:
    if not any(each.inside == 0 for _, each in mappings):
        yield (
            None,
            'does not say who root of the container is (a range must begin with 0, like "0:100000:65536")',
        )
    if len(mappings) > _MAX_MAPPINGS:
        yield None, f"has {len(mappings)} ranges, and the kernel takes {_MAX_MAPPINGS}"
    for (_, one), (place, other) in combinations(mappings, 2):
        for side in ("inside", "outside"):
            first, second = getattr(one, side), getattr(other, side)
            if first < second + other.count and second < first + one.count:
                whose = "the container" if side == "inside" else "the host"
                yield place, f"{_show(other)} overlaps {_show(one)} in the ids of {whose}"


def _show(mapping: IdMapping) -> str:
    return f'"{mapping.inside}:{mapping.outside}:{mapping.count}"'


def check_namespaces(draft: Draft, spec: ServiceSpec) -> None:
    """Report what contradicts what."""
    for keys, text in _problems(draft, spec):
        draft.problem(keys, text)


def _problems(draft: Draft, spec: ServiceSpec) -> Iterable[tuple[tuple[str, ...], str]]:
    shared = {kind: "network_mode" if kind == "net" else kind for kind in spec.shared}
    if shared and draft.find("userns"):
        key = next(iter(shared.values()))
        yield ("userns",), f"has no meaning beside {key}: the ids are those of whose namespace is shared"
    if spec.mnt != PRIVATE:
        for key in _FILE_KEYS:
            if draft.find(key):
                yield (key,), f'has no meaning with mnt "{spec.mnt}", whose files are used'
    if spec.mnt == HOST and spec.userns.mode in ("auto", "maps"):
        yield ("userns",), "cannot be combined with mnt \"host\": the host's files belong to the host's users"
    for kind, mode in spec.namespaces.items():
        if mode == f"service:{spec.name}":
            key = "network_mode" if kind == "net" else kind
            yield (key,), f"a service cannot share its own {kind} namespace"
    for name in spec.sysctls:
        key = next((key for prefix, key in _SYSCTLS.items() if name.startswith(prefix)), "")
        mode = getattr(spec, key) if key else PRIVATE
        if mode not in (PRIVATE, BRIDGE, "none"):
            whose = "the host's own" if mode == HOST else "another container's"
            what = "network" if key == "network_mode" else "IPC namespace"
            yield ("sysctls", name), f'would change {whose} {what} ({key} is "{mode}")'
    if spec.hostname and spec.uts != PRIVATE:
        yield ("hostname",), f'has no meaning with uts "{spec.uts}"'
    if not spec.no_new_privileges and "ALL" in spec.cap_drop and not spec.cap_add:
        yield ("no_new_privileges",), "there is nothing to gain: cap_drop leaves no capability"
