"""The parts of a running node that the master's modules share. Made once, in `main`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import meshproxy
from meshproxy.clock import monotonic_s
from meshproxy.ipc.messages import NodeState, WorkerRow
from meshproxy.master.configuration import Change, Configuration
from meshproxy.master.journal import Journal
from meshproxy.master.listeners import Bindings
from meshproxy.master.loop import Loop
from meshproxy.master.privileges import Identity
from meshproxy.master.rollout import Retirement
from meshproxy.master.slots import Patience, Slot, SlotTable, State
from meshproxy.master.systemd import Notifier
from meshproxy.model import Address
from meshproxy.scoreboard.region import Region


@dataclass(frozen=True)
class Entries:
    """Whom the master runs in its children, as `package.module:function`. They are named and not imported."""

    worker: str = "meshproxy.workers.main:run"
    agent: str = "meshproxy.agent.main:run"
    loader: str = "meshproxy.config.load:load_for_node"


@dataclass(frozen=True)
class Command:
    """How this master was started, for the next one to be started alike."""

    config_path: str
    workers: int
    control: str
    argv: list[str]
    directory: str
    env: Mapping[str, str]
    entries: Entries
    patience: Patience
    admin_address_path: str = ""
    """A file for the admin API's address; "" = none."""


@dataclass
class Node:
    """Everything that lives as long as the master."""

    command: Command
    journal: Journal
    region: Region
    bindings: Bindings
    configuration: Configuration
    retirement: Retirement
    notifier: Notifier
    control_path: str
    who: Identity
    workers: SlotTable
    agents: SlotTable
    """Of one slot, `agent`."""
    ticket_root: bytes
    """Of TLS session tickets; the same in all workers and from one master to the next."""
    restart_epoch: int = 0
    loop: Loop = field(default_factory=Loop)
    agent: Slot = field(default_factory=lambda: Slot(-1))
    admin_fd: int = -1
    admin_address: Address | None = None
    admin_asked: Address | None = None
    """As the configuration has it; `admin_address` has the port that the kernel picked."""
    owner: bool = True
    """False in a new master before it has taken over: another one steers, answers orders and speaks to systemd."""
    idle: bool = False
    """A new master's processes start with what nobody else wants of the processors, so that an upgrade is not noticed."""
    draining: bool = False
    """The node ends, or has handed over."""
    started_s: float = field(default_factory=monotonic_s)
    pid: int = 0

    def adjust(self, change: Change) -> None:
        """What the master itself takes from a new configuration."""
        if change.settings is not None:
            self.journal.level = change.settings.log_level
        if change.process is not None:
            self.workers.patience = replace(self.workers.patience, hung_s=change.process.worker_hung_s)

    def heartbeat_age_s(self, slot: Slot) -> float:
        """0 before a worker's first heartbeat."""
        beat_ms = self.region.heartbeat_ms(slot.number)
        return max(monotonic_s() - max(beat_ms / 1000, slot.since_s), 0.0)

    def answers(self, slot: Slot) -> bool:
        return slot.state is State.READY and self.heartbeat_age_s(slot) <= self.workers.patience.hung_s

    def is_live(self) -> bool:
        return not self.draining and any(self.answers(slot) for slot in self.workers)

    def state(self) -> NodeState:
        now_s = monotonic_s()
        return NodeState(
            pid=self.pid,
            version=meshproxy.__version__,
            config_version=self.configuration.number,
            config_file=self.command.config_path,
            live=self.is_live(),
            draining=self.draining,
            uptime_s=round(now_s - self.started_s, 3),
            restart_epoch=self.restart_epoch,
            workers=[row(slot, now_s) for slot in self.workers],
            agent=row(self.agent, now_s) if self.agent.generation else None,
            listeners=self.bindings.rows(self.configuration.listeners()),
            admin=str(self.admin_address or ""),
            control=self.control_path,
        )


def row(slot: Slot, now_s: float) -> WorkerRow:
    """A child as `status` and the admin API show it."""
    return WorkerRow(
        slot=slot.number, pid=slot.pid, state=slot.state.name, generation=slot.generation,
        uptime_s=round(now_s - slot.started_s, 3) if slot.pid else 0.0, restarts=slot.restarts, last_death=slot.last_death,
    )
