"""Keeping the kernel's copy of the table equal to what it should be, in as few nft runs as possible."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable

from orchestrator.errors import KernelError
from orchestrator.kernel import conntrack
from orchestrator.network import rules
from orchestrator.network.model import Runner

#: Alters elements in place.
Change = Callable[[rules.Elements], None]


class _Batch:
    """Changes that go to the kernel in one transaction."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.scripts: list[str] = []
        self.udp_ports: set[int] = set()
        self.done = False
        self.error: KernelError | None = None


class Ruleset:
    """One nftables table. What the kernel has is remembered, so that only differences are sent."""

    def __init__(self, table: str, run: Runner) -> None:
        self.table = table
        self._run = run
        self._known: rules.Elements | None = None  # None: there is no table, or not one of these rules
        self._sure = True  # False: a change was interrupted or refused, so look before the next one
        self._wanted = rules.empty()
        self._batch = _Batch()
        self._lock = asyncio.Lock()

    @property
    def wanted(self) -> rules.Elements:
        """The elements that the table should have; not to be altered."""
        return self._wanted

    async def observe(self) -> None:
        """Take over what an earlier service left: its elements stay until somebody removes them."""
        async with self._lock:
            await self._look()
            self._wanted = copy.deepcopy(self._known) if self._known is not None else rules.empty()

    async def apply(self, change: Change, udp_ports: Iterable[int] = (), script: str = "") -> None:
        """Make a change, with all others that are asked for at the same time; returns once it is in force.

        :param script: more for nft to do in the same transaction (each costs some 15 ms of the kernel's).
        :param udp_ports: of the host, whose flows are then forgotten. A flow keeps the way that its first
            packet took, so a client that goes on sending would never notice that the port leads elsewhere.
        :raises KernelError: when nft refuses; none of the batch's changes is then in force.
        """
        batch = self._batch
        batch.changes.append(change)
        batch.scripts.append(script)
        batch.udp_ports.update(udp_ports)
        async with self._lock:
            if not batch.done:
                await asyncio.sleep(0)  # lets everybody who is ready join
                if self._batch is batch:
                    self._batch = _Batch()
                try:
                    await self._commit(batch.changes, "".join(batch.scripts))
                    await _forget_flows(batch.udp_ports)
                except KernelError as error:
                    batch.error = error
                batch.done = True
        if batch.error is not None:
            raise batch.error

    async def _commit(self, changes: list[Change], extra: str) -> None:
        wanted = copy.deepcopy(self._wanted)
        for change in changes:
            change(wanted)
        error = await self._send(wanted, extra)
        if error:  # somebody may have altered or flushed the table behind our back
            error = await self._send(wanted, extra)
        if error:
            raise KernelError(f"cannot change nftables table ip {self.table}", error)
        self._wanted = wanted

    async def _send(self, wanted: rules.Elements, extra: str) -> str:
        """Make the kernel's copy equal ``wanted``; returns nft's complaint, or ""."""
        if not self._sure:
            await self._look()
        if self._known is not None:
            script = rules.difference(self.table, self._known, wanted)
        elif any(wanted.values()):
            script = rules.render(self.table, wanted)
        else:
            script = ""  # no need to make a table for nothing
        if script or extra:
            self._sure = False
            error = await run_script(self._run, script + extra)
            if error:
                return error
        if self._known is not None or any(wanted.values()):
            self._known = copy.deepcopy(wanted)
        self._sure = True
        return ""

    async def _look(self) -> None:
        code, output, _ = await self._run(["nft", "-j", "list", "table", "ip", self.table], b"")
        self._known, self._sure = rules.parse(output) if code == 0 else None, True

    async def delete(self, *others: str) -> None:
        """Remove the table, and ``others``, in one transaction; those that do not exist are fine.

        :raises KernelError: when nft refuses.
        """
        async with self._lock:
            own = [self.table] if self._known is not None or not self._sure else []
            if own or others:
                self._sure = False
                await delete_tables(self._run, *own, *others)
            self._known, self._sure = None, True
            self._wanted = rules.empty()


async def _forget_flows(udp_ports: set[int]) -> None:
    if udp_ports:
        try:
            await asyncio.to_thread(conntrack.forget_udp, udp_ports)  # some 20 ms, however many ports
        except OSError:
            pass  # a kernel without ctnetlink: such a flow lasts until its client pauses for 30 seconds


async def run_script(run: Runner, script: str) -> str:
    """Run an nft script as one transaction; returns its complaint, or ""."""
    code, _, error = await run(["nft", "-f", "-"], script.encode())
    return "" if code == 0 else error.decode(errors="replace").strip() or f"nft exited with {code}"


async def delete_tables(run: Runner, *tables: str) -> None:
    """Remove tables of family ip in one transaction; those that do not exist are fine.

    :raises KernelError: when nft refuses.
    """
    error = await run_script(
        run, "".join(f"table ip {table} {{}}\ndelete table ip {table}\n" for table in tables)
    )
    if error:
        raise KernelError(f"cannot remove nftables table ip {', '.join(tables)}", error)


async def list_tables(run: Runner) -> list[str]:
    """The names of all tables of family ip in this network namespace.

    :raises KernelError: when nft refuses.
    """
    code, output, error = await run(["nft", "list", "tables", "ip"], b"")
    if code:
        raise KernelError("cannot list nftables tables", error.decode(errors="replace").strip())
    return [line.split()[2] for line in output.decode().splitlines() if line.startswith("table ip ")]
