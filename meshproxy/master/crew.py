"""The workers: born into their slots, heard, found hung, buried, and their connections steered and rescued meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from meshproxy import priority
from meshproxy.clock import monotonic_s
from meshproxy.errors import FrameError
from meshproxy.ipc.boot import WorkerBoot
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.frames import close_all
from meshproxy.ipc.messages import AdoptConnections, Applied, Configure, Drain, LetGo, Message, Ready, Refusal, Stop, WantBlock
from meshproxy.master import deaths
from meshproxy.master.node import Node
from meshproxy.master.slots import Slot, State
from meshproxy.master.spawn import fork
from meshproxy.model import Listener
from meshproxy.model.snapshot import for_data_path

HEIR_WAIT_S = 1.0
"""A connection waits this long in a dead worker's queue for its heir, who is mostly ready in half of it; then another worker gets it."""


@dataclass
class Worker:
    """A live process. `ours` is why the master has told it to end, "" while it has not."""

    slot: Slot
    pid: int
    channel: Channel
    ours: str = ""


@dataclass
class Crew:
    """`on_*` are the master's: a worker was born, became ready, answered a change, wants a block, was born without some resources that it
    cannot take, died (slot, pid, return code)."""

    node: Node
    on_born: Callable[[Worker], None]
    on_ready: Callable[[Worker], None]
    on_applied: Callable[[Worker, Applied], None]
    on_want_block: Callable[[Worker, WantBlock], None]
    on_refused: Callable[[Worker, list[Refusal]], None]
    on_gone: Callable[[Slot, int, int], None]
    workers: dict[int, Worker] = field(default_factory=dict)
    _crash_fds: dict[int, int] = field(default_factory=dict)

    # ---- birth ----

    def start_due(self, now_s: float) -> None:
        for slot in self.node.workers.due(now_s):
            self._start(slot, now_s)

    def _start(self, slot: Slot, now_s: float) -> None:
        node = self.node
        ours, theirs = Channel.pair()
        channel_fd = theirs.detach()
        sockets = node.bindings.sockets_of(node.configuration.listeners(), slot.lane)
        fds = [fd for _, fd in sockets]
        crash_fd = self._crash_fd(slot)
        node.region.clear_slot(slot.number)
        node.region.set_generation(slot.number, slot.generation + 1)
        node.region.set_state(slot.number, State.STARTING)
        boot = WorkerBoot(
            slot=slot.number, slots=node.region.slots, generation=slot.generation + 1, channel_fd=channel_fd, region=node.region,
            version=node.configuration.version, resources=list(map(for_data_path, node.configuration.resources())),
            sockets=[socket for socket, _ in sockets],
            fds=fds, process=node.configuration.process, ticket_root=node.ticket_root, crash_fd=crash_fd, idle=node.idle,
        )
        keep = [channel_fd, node.region.fd, *fds]
        try:
            # A master that gives way has children that do.
            pid = fork(f"meshproxy: worker {slot.number}", node.command.entries.worker, boot, keep, crash_fd)
        finally:
            os.close(channel_fd)
        node.region.set_pid(slot.number, pid)
        node.workers.started(slot, pid, now_s)
        worker = Worker(slot, pid, ours)
        self.workers[pid] = worker
        node.loop.watch(ours, lambda: self._hear(worker))
        node.journal.debug("worker started", slot=slot.number, pid=pid, generation=slot.generation)
        self.on_born(worker)

    def _crash_fd(self, slot: Slot) -> int:
        if slot.number not in self._crash_fds:
            self._crash_fds[slot.number] = os.memfd_create(f"meshproxy-crash-{slot.number}")
        return self._crash_fds[slot.number]

    def lift(self) -> None:
        """Those that still give way to others do so no longer."""
        for pid in self.workers:
            priority.lift(pid)

    # ---- talk ----

    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.slot.state is State.READY]

    def tell(self, worker: Worker, message: Message, fds: list[int] | None = None) -> None:
        try:
            worker.channel.send(message, fds or ())
        except FrameError as error:
            self.kill(worker, f"does not read what the master says: {error}")

    def configure(self, configure: Configure, listeners_with_sockets: list[Listener]) -> None:
        """A change to all of them."""
        for worker in list(self.workers.values()):
            self.configure_one(worker, configure, listeners_with_sockets)

    def configure_one(self, worker: Worker, configure: Configure, listeners_with_sockets: list[Listener]) -> None:
        """A change, with the sockets of the worker's own lane for the listeners whose sockets are others now."""
        sockets = self.node.bindings.sockets_of(listeners_with_sockets, worker.slot.lane)
        own = Configure(
            version=configure.version, upserts=configure.upserts, removes=configure.removes, process=configure.process,
            sockets=[socket for socket, _ in sockets],
        )
        self.tell(worker, own, [fd for _, fd in sockets])

    def drain(self, worker: Worker, limit_s: float, why: str, close_idle: bool = False) -> None:
        """To its end. One that is not ready has nothing to drain. `close_idle`: idle connections close now, not after their next answer."""
        if worker.slot.state is State.STARTING:
            self.kill(worker, why)
            return
        worker.ours = why
        self.node.workers.drain(worker.slot, monotonic_s(), limit_s)
        self.tell(worker, Drain(limit_s=limit_s, close_idle=close_idle))

    def stop(self, worker: Worker, why: str) -> None:
        """Now."""
        worker.ours = why
        self.node.workers.drain(worker.slot, monotonic_s(), 0.0)
        self.tell(worker, Stop())

    def kill(self, worker: Worker, why: str) -> None:
        worker.ours = worker.ours or why
        worker.slot.killed_s = monotonic_s()
        os.kill(worker.pid, 9)

    def _hear(self, worker: Worker) -> None:
        try:
            messages = worker.channel.receive()
        except FrameError as error:
            messages = []
            self.kill(worker, f"said what is no message: {error}")
        for message, fds in messages:
            close_all(fds)
            self._on_message(worker, message)
        if worker.channel.closed:
            self.node.loop.forget(worker.channel)

    def _on_message(self, worker: Worker, message: Message) -> None:
        if isinstance(message, Ready) and worker.slot.state is State.STARTING:
            self.node.workers.ready(worker.slot, monotonic_s())
            self.node.journal.debug("worker serves", slot=worker.slot.number, pid=worker.pid, version=message.version)
            self.on_ready(worker)
            if message.refused:
                self.on_refused(worker, message.refused)
        elif isinstance(message, Applied):
            if message.error:
                self.node.journal.error("worker refuses a change", slot=worker.slot.number, version=message.version, error=message.error)
            self.on_applied(worker, message)
        elif isinstance(message, WantBlock):
            self.on_want_block(worker, message)
        elif isinstance(message, LetGo):
            self.node.retirement.let_go(worker.pid, self.node.configuration.versions.order(message.version))

    # ---- death ----

    def end_hung(self, now_s: float) -> None:
        for overdue in self.node.workers.overdue(now_s, self.node.heartbeat_age_s):
            worker = self.workers[overdue.slot.pid]
            worker.ours = worker.ours or overdue.why
            overdue.slot.killed_s = overdue.slot.killed_s or now_s
            kill = overdue.kill.value
            self.node.journal.error("worker is ended", slot=worker.slot.number, pid=worker.pid, signal=kill.name, why=overdue.why)
            os.kill(worker.pid, kill)

    def bury(self, pid: int, returncode: int) -> bool:
        """A child has ended; False if it was none of ours. What it counted as open is open no more."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return False
        node, slot = self.node, worker.slot
        self._hear_last_words(worker)
        expected = returncode == 0 and slot.state is State.DRAINING
        slot.last_death = "" if expected else deaths.explain(returncode, worker.ours)
        node.workers.died(slot, monotonic_s(), returncode)
        self.steer()
        node.region.set_state(slot.number, State.GONE)
        node.region.zero_gauges(slot.number, node.configuration.allocator.all_rows())
        node.retirement.gone(pid)
        self._write_obituary(worker, expected)
        self.on_gone(slot, pid, returncode)
        return True

    def _hear_last_words(self, worker: Worker) -> None:
        if not worker.channel.closed:
            self._hear(worker)
        self.node.loop.forget(worker.channel)
        worker.channel.close()

    def _write_obituary(self, worker: Worker, expected: bool) -> None:
        node, slot = self.node, worker.slot
        report = deaths.read_report(self._crash_fd(slot))
        if expected:
            node.journal.debug("worker ended", slot=slot.number, pid=worker.pid, why=worker.ours)
            return
        fields: dict[str, object] = {"slot": slot.number, "pid": worker.pid, "why": slot.last_death}
        if slot.due_s is not None and node.workers.is_tripped(slot):
            fields["crash_loop"] = f"{slot.deaths_in_a_row} deaths in a row, next try in {node.workers.patience.trip_retry_s:g} s"
        if last := node.region.last_exchange(slot.number):
            fields["last_exchange"] = last.decode("utf-8", "replace")
        if report:
            fields["report"] = report
            fields["build"] = deaths.build()
        node.journal.error("worker died", **fields)

    # ---- connections of who is not ready ----

    def steer(self, force: bool = False) -> None:
        """New connections to ready workers only. Not by a new master before it takes over: the former one's workers serve every lane."""
        if not self.node.owner:
            return
        self.node.bindings.steer([slot.lane for slot in self.node.workers.in_state(State.READY)], force)

    def rescue(self, now_s: float, also: frozenset[int] = frozenset()) -> None:
        """Gives what waits too long in a dead worker's queue to live ones in turn. `also`: lanes that are being given up."""
        heirs = self.ready()
        if not heirs or not self.node.owner:
            return
        lanes = {slot.lane for slot in self.node.workers.unserved(now_s, HEIR_WAIT_S)}
        for number, lane in enumerate(sorted(lanes | also)):
            self._hand_over_queue(lane, heirs[number % len(heirs)])

    def _hand_over_queue(self, lane: int, heir: Worker) -> None:
        for listener, index, connections in self.node.bindings.accept_queue(self.node.configuration.listeners(), lane):
            message = AdoptConnections(listener=listener, address_index=index, count=len(connections))
            self.tell(heir, message, connections)
            close_all(connections)
            self.node.journal.info("connections go to another worker", lane=lane, count=len(connections), slot=heir.slot.number)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.channel.close()
        close_all(self._crash_fds.values())
