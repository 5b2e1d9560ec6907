"""One worker more or less while the node runs (SIGTTIN, SIGTTOU). Down goes in this order: steer away, drain, close."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshproxy.clock import monotonic_s
from meshproxy.errors import BindError
from meshproxy.master.crew import Crew
from meshproxy.master.node import Node
from meshproxy.master.slots import Slot, State

LINGER_S = 1.0
"""A lane's sockets outlive its worker by this: handshakes that were under way when it was steered away from end within a round trip or a
retransmit, and their connections go to another worker."""


@dataclass
class Scale:
    """How many workers there are."""

    node: Node
    crew: Crew
    foreign: set[int] = field(default_factory=set)
    """Pages of the scoreboard that a former master's workers still write."""
    _leaving: dict[int, float] = field(default_factory=dict)
    """Lane -> when its sockets may be closed."""

    def begin(self, lanes: Iterable[int]) -> None:
        """Slots for these lanes, at the start."""
        for lane in lanes:
            self.node.workers.slots.append(Slot(self._free_page(), lane, unserved_since_s=monotonic_s()))

    def more(self) -> str:
        """One worker more; an error's text or ""."""
        node = self.node
        taken = {slot.lane for slot in node.workers}
        lane = next(number for number in range(len(taken) + 1) if number not in taken)
        try:
            slot = Slot(self._free_page(), lane, unserved_since_s=monotonic_s())
            node.bindings.add_lane(lane)
        except (BindError, TooManyWorkers) as error:
            return str(error)
        node.workers.slots.append(slot)
        # Nothing for the new socket until its worker is ready.
        self.crew.steer(force=True)
        node.journal.info("one worker more", workers=len(node.workers.slots))
        return ""

    def fewer(self) -> str:
        """One worker less, the one with the highest lane; an error's text or ""."""
        node = self.node
        staying = [slot for slot in node.workers if slot.wanted]
        if len(staying) <= 1:
            return "the last worker stays: use `meshproxy stop` to end the node"
        slot = max(staying, key=lambda each: each.lane)
        slot.wanted = False
        if slot.state is State.GONE:
            self._leaving[slot.lane] = monotonic_s() + LINGER_S
        for worker in self.crew.workers.values():
            if worker.slot is slot:
                # Steered away from before it hears of it: a DRAINING slot is not among the ready.
                node.workers.drain(slot, monotonic_s(), node.configuration.process.drain_timeout_s)
                self.crew.steer()
                self.crew.drain(worker, node.configuration.process.drain_timeout_s, "one worker less")
        node.journal.info("one worker less", workers=len(staying) - 1, slot=slot.number)
        return ""

    def on_gone(self, slot: Slot) -> None:
        if not slot.wanted:
            self._leaving[slot.lane] = monotonic_s() + LINGER_S

    def tick(self, now_s: float) -> None:
        """Closes what has lingered long enough."""
        if not self._leaving:
            return
        self.crew.rescue(now_s, also=frozenset(self._leaving))
        for lane in [lane for lane, until_s in self._leaving.items() if now_s >= until_s]:
            del self._leaving[lane]
            self.node.bindings.remove_lane(lane)
            self.node.workers.slots = [slot for slot in self.node.workers if slot.lane != lane]
            self.crew.steer(force=True)

    @property
    def busy(self) -> bool:
        return bool(self._leaving)

    def _free_page(self) -> int:
        used = {slot.number for slot in self.node.workers} | self.foreign
        free = [number for number in range(self.node.region.slots) if number not in used]
        if not free:
            raise TooManyWorkers(f"no page of the scoreboard is free for one worker more: it has {self.node.region.slots}, "
                                 "and an upgrade needs as many again. Start the node anew with --workers.")
        return free[0]


class TooManyWorkers(Exception):
    """The region has no page left."""
