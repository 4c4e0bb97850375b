"""Names and identifiers. Deterministic wherever a sweep must find what a killed process had half made."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

#: What a project, service, network or volume may be called (Compose's rule for project names).
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_INTERFACE_HASH = 10  # IFNAMSIZ leaves 15 characters; the prefixes below take up to 4


def new_container_id() -> str:
    """A fresh container id: 12 hexadecimal digits."""
    return os.urandom(6).hex()


def container_name(project: str, service: str, replica: int) -> str:
    """The name people see, Compose's way: ``shop-api-2``."""
    return f"{project}-{service}-{replica}"


def short_hash(*parts: str) -> str:
    """Ten hexadecimal digits that depend on all parts."""
    import hashlib  # late: most client commands need no hash, and it takes a while to load

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_INTERFACE_HASH]


class Instance(NamedTuple):
    """One independent orch on this host; everything it owns is named after ``id``.

    :param state_dir: what survives a reboot (images, volumes, logs, writable layers).
    :param run_dir: what must not survive one (socket, ledger).
    """

    state_dir: str
    run_dir: str

    @property
    def id(self) -> str:
        """Eight hexadecimal digits from the run directory, which no two instances share."""
        return short_hash("instance", os.path.realpath(self.run_dir))[:8]

    @property
    def socket(self) -> str:
        """Path of the API's Unix socket."""
        return f"{self.run_dir}/orch.sock"

    @property
    def ledger(self) -> str:
        """Path of the ledger."""
        return f"{self.run_dir}/ledger.jsonl"

    @property
    def cgroup_parent(self) -> str:
        """The one cgroup, in every hierarchy, beneath which everything of this instance lives."""
        return f"orch-{self.id}"

    @property
    def nft_table(self) -> str:
        """The one nftables table of this instance."""
        return f"orch_{self.id}"

    def bridge(self, project: str, network: str) -> str:
        """The name of a network's bridge interface."""
        return "orb-" + short_hash(self.id, project, network)

    def veth(self, container_id: str, index: int) -> str:
        """The name of the host's end of a container's ``index``-th veth pair."""
        return f"ov{index}-" + short_hash(self.id, container_id)

    @classmethod
    def from_environment(cls, state_dir: str | None = None, run_dir: str | None = None) -> Instance:
        """The instance named by flags, else by ORCH_STATE_DIR and ORCH_RUN_DIR, else the host's own.

        When only one of the two folders is given, the other is its subfolder, so that one variable is enough
        to get an instance of one's own.
        """
        state = state_dir or os.environ.get("ORCH_STATE_DIR")
        run = run_dir or os.environ.get("ORCH_RUN_DIR")
        if state and not run:
            run = os.path.join(state, "run")
        elif run and not state:
            state = os.path.join(run, "state")
        return cls(os.path.abspath(state or "/var/lib/orch"), os.path.abspath(run or "/run/orch"))
