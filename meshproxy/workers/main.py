"""A worker's life, in the order things run: hub, loop, configuration, sockets, READY; then messages of the master until the end."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
import weakref
from collections.abc import Callable

from gevent import get_hub, spawn
from gevent.event import Event
from gevent.queue import Queue

from meshproxy import priority
from meshproxy.clock import monotonic_s
from meshproxy.ipc.boot import ExitCode, WorkerBoot
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import AdoptConnections, Applied, BlockGiven, Configure, Drain, LetGo, Ready, Refusal, Sockets, Stop
from meshproxy.proxy.exchange import milliseconds
from meshproxy.scoreboard.region import SLOT_STATES
from meshproxy.workers.configure import ChangeRefused, Configuration
from meshproxy.workers.late_blocks import LateBlocks
from meshproxy.workers.loop import Loop

log = logging.getLogger("meshproxy.worker")

HEARTBEAT_S = 0.5
"""Half of what the master's table promises; a hung loop cannot beat."""
DRAIN_POLL_S = 0.05
"""How often a draining worker looks whether its last connection is gone."""
GC_THRESHOLD = (50_000, 20, 50)
"""Objects of the data path are pooled or freed by their count; the collector is for what users' filters leave."""
READ, WRITE = 1, 2


class Retired:
    """What changes took out of use, by version, until nothing refers to it: then its metrics' places may be given to others."""

    def __init__(self, let_go: Callable[[str], None], soon: Callable[[Callable[[], None]], object]) -> None:
        self._let_go = let_go
        self._soon = soon
        self._versions: list[tuple[str, set[weakref.ref]]] = []

    def add(self, version: str, objects: list[object]) -> None:
        waiting: set[weakref.ref] = set()
        self._versions.append((version, waiting))
        waiting.update(weakref.ref(each, lambda gone: self._gone(waiting, gone)) for each in objects)
        self._soon(self._sweep)

    def _gone(self, waiting: set[weakref.ref], gone: weakref.ref) -> None:
        """Called wherever the last reference went, so nothing but a note is made here."""
        waiting.discard(gone)
        if not waiting:
            self._soon(self._sweep)

    def _sweep(self) -> None:
        version = ""
        while self._versions and not self._versions[0][1]:
            version = self._versions.pop(0)[0]
        if version:
            self._let_go(version)


class Worker:
    """The one object of the process; its greenlets are the hub's callbacks, the configurer and, at the end, the drain."""

    def __init__(self, boot: WorkerBoot) -> None:
        self.boot = boot
        self.hub = get_hub()
        self.loop = Loop(self.hub, boot.region, boot.slot, boot.process.max_worker_buffer_bytes, log)
        self.loop.drain_ms = milliseconds(boot.process.drain_timeout_s)
        self.late_blocks = LateBlocks(boot.region, boot.slot, self.send)
        self.configuration = Configuration(
            self.loop, boot.region, boot.slot, boot.process.max_worker_connections, boot.ticket_root, self.late_blocks, log,
        )
        self.channel = Channel.from_fd(boot.channel_fd)
        self.orders: Queue = Queue()
        self.ended = Event()
        self.exit_code = ExitCode.DONE
        self.retired = Retired(lambda version: self.send(LetGo(version=version)), self.hub.loop.run_callback)
        self.early_sockets: list = []
        """What came in `Sockets` messages, for the next Configure: pairs of (ListenerSocket, fd)."""

    def start(self) -> None:
        """Make the first configuration live, then say so."""
        refused = self.configuration.boot(self.boot.resources, zip(self.boot.sockets, self.boot.fds, strict=True))
        self.heartbeat = self.hub.loop.timer(0, HEARTBEAT_S)
        self.heartbeat.start(self.loop.beat)
        self.readable = self.hub.loop.io(self.channel.fileno(), READ)
        self.readable.start(self.on_readable)
        self.writable = self.hub.loop.io(self.channel.fileno(), WRITE)
        self.configurer = spawn(self.configure_forever)
        if self.boot.idle:
            priority.come_back()
        priority.take_usual_turns()              # a master's child has long ones
        self.boot.region.set_state(self.boot.slot, SLOT_STATES.index("READY"))
        self.send(Ready(version=self.boot.version, refused=refused))

    # -- messages

    def send(self, message) -> None:
        self.channel.send(message)
        if self.channel.want_write:
            self.writable.start(self.on_writable)

    def on_writable(self) -> None:
        self.channel.flush()
        if not self.channel.want_write:
            self.writable.stop()

    def on_readable(self) -> None:
        """In the hub: takes messages in, decides nothing that takes long."""
        for message, fds in self.channel.receive():
            if isinstance(message, Configure | Drain):
                self.orders.put((message, fds))
            elif isinstance(message, Sockets):
                self.early_sockets += zip(message.sockets, fds, strict=True)
            elif isinstance(message, AdoptConnections):
                self.configuration.adopt(message.listener, fds)
            elif isinstance(message, BlockGiven):
                self.late_blocks.given(message)
            elif isinstance(message, Stop):
                self.end()
        if self.channel.closed:
            log.warning("event=master_gone slot=%d", self.boot.slot)
            self.readable.stop()
            self.end()

    def configure_forever(self) -> None:
        """One order after the other; a Configure yields to the data path between its slices."""
        while True:
            message, fds = self.orders.get()
            if isinstance(message, Drain):
                self.drain(message)
            else:
                self.configure(message, fds)

    def configure(self, message: Configure, fds: list[int]) -> None:
        sockets = self.early_sockets + list(zip(message.sockets, fds, strict=True))
        self.early_sockets = []
        error = ""
        blamed: list[Refusal] = []
        retired: list[object] = []
        gc.disable()                             # going through a large change's objects is a long turn; what is made here lives long
        priority.take_long_turns()               # it is a long piece of work, and those whom the data path speaks to are woken meanwhile
        try:
            retired = self.configuration.apply(message.upserts, message.removes, sockets)
            if message.process is not None:
                self.configuration.limit(message.process)
                self.loop.drain_ms = milliseconds(message.process.drain_timeout_s)
        except ChangeRefused as refused:
            error, blamed = str(refused), refused.refused
        except Exception as refused:
            error = f"{type(refused).__name__}: {refused}"
            log.exception("event=configuration_refused version=%s", message.version)
        priority.take_usual_turns()
        gc.freeze()
        gc.enable()
        self.send(Applied(version=message.version, error=error, refused=blamed))
        if not error:
            self.retired.add(message.version, retired)

    # -- the end

    def drain(self, message: Drain) -> None:
        """Accept what queues, stop accepting, let every connection end with its next answer; then exit."""
        self.boot.region.set_state(self.boot.slot, SLOT_STATES.index("DRAINING"))
        self.loop.drain_ms = min(self.loop.drain_ms, milliseconds(message.limit_s))
        self.configuration.drain(message.close_idle)
        deadline_s = monotonic_s() + message.limit_s
        timer = self.hub.loop.timer(DRAIN_POLL_S, DRAIN_POLL_S)

        def look() -> None:
            if self.configuration.open_connections == 0 or monotonic_s() >= deadline_s:
                timer.stop()
                self.end()

        timer.start(look)
        self.drain_timer = timer

    def end(self, code: ExitCode = ExitCode.DONE) -> None:
        self.exit_code = code
        self.ended.set()


def run(boot: WorkerBoot) -> int:
    """The entry of a worker process; its exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(levelname)s worker={boot.slot} %(message)s")
    gc.set_threshold(*GC_THRESHOLD)
    try:
        worker = Worker(boot)
        worker.start()
    except ChangeRefused as refused:
        log.error("event=configuration_refused slot=%d error=%s", boot.slot, refused)
        return ExitCode.CONFIG_REFUSED
    except Exception:
        log.error("event=boot_failed slot=%d\n%s", boot.slot, traceback.format_exc())
        return ExitCode.CONFIG_REFUSED
    gc.collect()
    gc.freeze()
    worker.ended.wait()
    return worker.exit_code
