"""A service between its text and its spec: values that have been read, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.manifest.place import Place
from orchestrator.manifest.schema import SERVICE
from orchestrator.spec import Attachment, Dependency, Device, Mount, Port, Sharing

#: The network of services that name none.
DEFAULT_NETWORK = "default"
#: Where secrets and configs are by default, as in Compose.
GRANT_FOLDERS = {"secrets": "/run/secrets", "configs": ""}
#: The keys that can name another service's namespace.
_NAMESPACES = ("network_mode", "mnt", "pid", "ipc", "uts", "cgroup", "time")


@dataclass(frozen=True, slots=True)
class Draft:
    """A service on its way to a spec.

    :param values: its keys, read, with those of ``[defaults]`` beneath.
    :param place: where it is defined.
    :param defaults: where the ``[defaults]`` of its file are.
    """

    name: str
    values: dict[str, Any]
    place: Place
    defaults: Place

    @classmethod
    def layered(
        cls, name: str, values: dict[str, Any], place: Place, below: dict[str, Any], defaults: Place
    ) -> Draft:
        """The service whose own keys are ``values``, over the defaults ``below``."""
        layered = {**below, **values}
        for key in SERVICE.keys.values():
            if key.merge and key.name in below and key.name in values:
                layered[key.name] = key.merge(below[key.name], values[key.name])
        return cls(name, layered, place, defaults)

    def find(self, *keys: str) -> Place | None:
        """Where a key of the service is written: in the service, else in the defaults, else nowhere."""
        for base in (self.place, self.defaults):
            table: Any = base.document.data
            for key in (*base.path, *keys):
                table = table.get(key) if isinstance(table, dict) else None
            if table is not None:
                return base.child(*keys)
        return None

    def at(self, *keys: str) -> Place:
        """As :meth:`find`, but for a key that is not written the place of what would hold it."""
        found = self.find(*keys)
        return found or (self.at(*keys[:-1]) if keys else self.place)

    def problem(self, keys: tuple[str, ...], text: str) -> None:
        """Report a problem with a key; one that comes from the defaults says whose it is."""
        at = self.at(*keys)
        inherited = at.path[: len(self.place.path)] != self.place.path
        at.problem(f'{text} (in service "{self.name}")' if inherited else text)

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles that make it active; none means always."""
        return tuple(self.values.get("profiles", ()))

    @property
    def ports(self) -> tuple[tuple[Place, Port], ...]:
        """Its ports, with their places."""
        return tuple(self.values.get("ports", ()))

    @property
    def mounts(self) -> tuple[tuple[Place, Mount], ...]:
        """Its mounts, with their places; sources are as they were written."""
        return (*self.values.get("volumes", ()), *self.values.get("tmpfs", ()))

    @property
    def devices(self) -> tuple[tuple[Place, Device], ...]:
        """Its devices, with their places."""
        return tuple(self.values.get("devices", ()))

    @property
    def grants(self) -> tuple[tuple[Place, str, dict[str, Any]], ...]:
        """Its secrets and configs, with their places and sections."""
        return tuple(
            (place, section, grant)
            for section in GRANT_FOLDERS
            for place, grant in self.values.get(section, ())
        )

    @property
    def networks(self) -> tuple[tuple[Place, Attachment], ...]:
        """Its networks, with their places; empty when it is not on a bridge."""
        if self.values.get("network_mode", "bridge") != "bridge":
            return ()
        return tuple(self.values.get("networks", ())) or ((self.place, Attachment(network=DEFAULT_NETWORK)),)

    @property
    def dependencies(self) -> tuple[tuple[Place, Dependency], ...]:
        """Its dependencies, with their places; whose namespace it shares, it depends on."""
        written = tuple(self.values.get("depends_on", ()))
        names = {dependency.service for _, dependency in written}
        shared: dict[str, tuple[Place, Dependency]] = {}
        for kind in _NAMESPACES:
            mode = self.values.get(kind)
            sharing = Sharing.parse(mode) if isinstance(mode, str) else None
            if sharing and sharing.kind == "service" and sharing.name not in names:
                # A namespace ends with whoever made it, so this must start anew as well.
                dependency = Dependency(service=sharing.name, restart=True)
                shared.setdefault(sharing.name, (self.at(kind), dependency))
        return (*written, *shared.values())
