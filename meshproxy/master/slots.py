"""The life of a child, as a table: what state it is in, when it gets an heir, when it is too late. Pure: `now_s` is an argument.

    GONE --started--> STARTING --ready--> READY --drain--> DRAINING
      ^                  |                  |                 |
      +------------------+------ died ------+-----------------+

An heir starts at once after a first death; after deaths in a row it waits longer each time, and after `trip_deaths` of them the crash
loop is broken: from then on one try each `trip_retry_s`. A child that stays READY for `settle_s` ends the row.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meshproxy.ipc.boot import ExitCode


class State(enum.IntEnum):
    """Numbers as in the scoreboard (`scoreboard.region.SLOT_STATES`)."""

    GONE = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


@dataclass(frozen=True)
class Patience:
    """How long is waited for what."""

    start_s: float = 30.0
    """From fork to Ready. Imports take a quarter of a second; a configuration of 10,000 routes some more; a cold disk the rest."""
    hung_s: float = 10.0
    """Age of a READY worker's heartbeat, which is written every second."""
    settle_s: float = 1.0
    backoff_first_s: float = 0.1
    backoff_most_s: float = 5.0
    trip_deaths: int = 10
    trip_retry_s: float = 30.0
    warm_s: float = 5.0
    """For the first answers to names of clusters, at a start or a reload. As long as a resolver waits before it asks another server."""
    idle_load_s: float = 3.0
    """For a reload's loader that gets only what no other process wants of the processors. A large configuration needs a second of one."""
    idle_start_s: float = 3.0
    """The same for a new master and its workers at an upgrade, which need half a second of one."""
    idle_agent_s: float = 1.0
    """The same for its agent: nobody empties the rings of records meanwhile."""
    report_s: float = 1.0
    """Between the signal that makes a hung child write its report and the one that ends it."""


@dataclass
class Slot:
    """One place for a child, and who is in it."""

    number: int
    """Its page in the scoreboard."""
    lane: int = 0
    """Which of each listener's sockets is its own."""
    state: State = State.GONE
    pid: int = 0
    generation: int = 0
    since_s: float = 0.0
    """When the present state began."""
    started_s: float = 0.0
    deadline_s: float = 0.0
    """Of STARTING and DRAINING."""
    due_s: float | None = 0.0
    """When an heir may start; None = not at all."""
    wanted: bool = True
    """False once it is being given up (scale-down)."""
    deaths_in_a_row: int = 0
    restarts: int = 0
    last_death: str = ""
    unserved_since_s: float = 0.0
    """When the last worker that served its lane ended."""
    killed_s: float = 0.0
    """When it was first told by a signal to end; 0 = never."""


class Kill(enum.Enum):
    """A signal that the table asks for."""

    REPORT = signal.SIGABRT
    """faulthandler writes where it hangs."""
    END = signal.SIGKILL


@dataclass(frozen=True)
class Overdue:
    slot: Slot
    kill: Kill
    why: str


class SlotTable:
    """All slots of one kind of child."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.slots: list[Slot] = []

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def in_state(self, *states: State) -> list[Slot]:
        return [slot for slot in self.slots if slot.state in states]

    def due(self, now_s: float) -> list[Slot]:
        """Slots whose heir is to start now."""
        return [
            slot for slot in self.slots
            if slot.state is State.GONE and slot.wanted and slot.due_s is not None and slot.due_s <= now_s
        ]

    def is_tripped(self, slot: Slot) -> bool:
        """Whether it is in a crash loop that was broken."""
        return slot.deaths_in_a_row >= self.patience.trip_deaths

    def started(self, slot: Slot, pid: int, now_s: float) -> None:
        slot.restarts += slot.generation > 0
        slot.generation += 1
        slot.pid, slot.state, slot.killed_s = pid, State.STARTING, 0.0
        slot.since_s = slot.started_s = now_s
        slot.deadline_s = now_s + self.patience.start_s

    def ready(self, slot: Slot, now_s: float) -> None:
        slot.state, slot.since_s = State.READY, now_s

    def unserved(self, now_s: float, wait_s: float) -> list[Slot]:
        """Slots that nobody has served for longer than `wait_s`."""
        return [slot for slot in self.in_state(State.GONE, State.STARTING) if now_s - slot.unserved_since_s >= wait_s]

    def drain(self, slot: Slot, now_s: float, limit_s: float) -> None:
        """Told to end when its last exchange has; a second of grace for the exit itself."""
        slot.state, slot.since_s = State.DRAINING, now_s
        slot.deadline_s = now_s + limit_s + self.patience.report_s

    def died(self, slot: Slot, now_s: float, returncode: int) -> None:
        """`returncode` as subprocess has it: negative is a signal."""
        settled = slot.state is State.DRAINING or (slot.state is State.READY and now_s - slot.since_s >= self.patience.settle_s)
        slot.deaths_in_a_row = 1 if settled else slot.deaths_in_a_row + 1
        slot.due_s = None if returncode in (ExitCode.BOOT_ERROR, ExitCode.CONFIG_REFUSED) else now_s + self._wait_s(slot)
        if slot.state is not State.STARTING:
            slot.unserved_since_s = now_s
        slot.state, slot.since_s, slot.pid = State.GONE, now_s, 0

    def forgive(self, now_s: float) -> None:
        """Something has changed (a new configuration): slots that had been given up or wait long may try again now."""
        for slot in self.slots:
            if slot.state is State.GONE:
                slot.due_s, slot.deaths_in_a_row = now_s, 0

    def overdue(self, now_s: float, heartbeat_age_s: Callable[[Slot], float]) -> list[Overdue]:
        """Who is too late, and by which signal it is to be helped on: first to report where it hangs, then to end."""
        late = []
        for slot in self.slots:
            why = self._lateness(slot, now_s, heartbeat_age_s)
            if why and not slot.killed_s:
                late.append(Overdue(slot, Kill.REPORT, why))
            elif slot.killed_s and slot.state is not State.GONE and now_s - slot.killed_s >= self.patience.report_s:
                late.append(Overdue(slot, Kill.END, "did not end when it was told to"))
        return late

    def _lateness(self, slot: Slot, now_s: float, heartbeat_age_s: Callable[[Slot], float]) -> str:
        if slot.state is State.STARTING and now_s >= slot.deadline_s:
            return f"not ready {now_s - slot.started_s:.1f} s after its start"
        if slot.state is State.DRAINING and now_s >= slot.deadline_s:
            return f"still there {now_s - slot.since_s:.1f} s after it was told to drain"
        if slot.state is State.READY and (age_s := heartbeat_age_s(slot)) > self.patience.hung_s:
            return f"hung: no heartbeat for {age_s:.1f} s"
        return ""

    def _wait_s(self, slot: Slot) -> float:
        patience, deaths = self.patience, slot.deaths_in_a_row
        if deaths <= 1:
            return 0.0
        if self.is_tripped(slot):
            return patience.trip_retry_s
        return min(patience.backoff_first_s * 2 ** (deaths - 2), patience.backoff_most_s)
