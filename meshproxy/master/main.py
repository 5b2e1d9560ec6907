"""The master: `start` reads, binds and drops; then workers are forked, and this loop supervises until the end."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import setproctitle

import meshproxy
from meshproxy import priority
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.errors import BindError, ConfigError, ControlError, MeshproxyError
from meshproxy.ipc.boot import ExitCode
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Answer, Ready
from meshproxy.ipc.state_path import VARIABLE as STATE
from meshproxy.ipc.state_path import state_path
from meshproxy.master import admin_socket, deaths, systemd
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.control import ControlServer
from meshproxy.master.crew import Crew, Worker
from meshproxy.master.farewell import Farewell
from meshproxy.master.journal import Journal
from meshproxy.master.late_blocks import LateBlocks
from meshproxy.master.node import Command, Entries
from meshproxy.master.orders import Orders
from meshproxy.master.puts import is_brought
from meshproxy.master.reload import Reloader
from meshproxy.master.scale import Scale
from meshproxy.master.signals import SignalQueue
from meshproxy.master.slots import Patience, Slot, State
from meshproxy.master.start import Start, prepare, write_pid_file
from meshproxy.master.upgrade import Inheritance, Upgrader, Yours, inherited
from meshproxy.master.warming import Warming
from meshproxy.model import ResourceKind

QUIET_S = 0.5
"""Between looks at heartbeats when nothing is under way."""
BUSY_S = 0.05
"""The same while something is: a worker starting, draining, or a queue waiting for its heir."""


def run(
    config_path: str, workers: int | None = None, control: str = "", log_level: str | None = None, *,
    entries: Entries | None = None, patience: Patience | None = None, argv: list[str] | None = None,
    env: MutableMapping[str, str] | None = None, admin_address_path: str = "",
) -> int:
    """Runs a node until it is told to end; gives the exit code. What is wrong at the start is told on stderr, and the code is 1.

    `workers`: None = as configured, 0 = one for each usable core. `argv` is how to start a new master at an upgrade (default: as this
    process was started). The address of the admin API is written to `admin_address_path` once it listens.
    """
    env = os.environ if env is None else env
    priority.take_long_turns()
    if directory := state_path(env, os.getuid()):
        # Once, as whoever starts it: another user than the one that the node runs as would mean another place.
        env = {**env, STATE: directory}
    journal = Journal(log_level or "info")
    setproctitle.setproctitle("meshproxy: master")
    command = Command(
        config_path, -1 if workers is None else workers, control, argv or [sys.executable, *sys.orig_argv[1:]], os.getcwd(), env,
        entries or Entries(), patience or Patience(), admin_address_path,
    )
    former: Channel | None = None
    try:
        systemd_fds = systemd.listen_fds(env, os.getpid())
        legacy = inherited(env)
        former = legacy[1] if legacy else None
        start = prepare(command, journal, legacy[0] if legacy else None, systemd_fds, log_level)
    except (ConfigError, BindError, ControlError, MeshproxyError) as error:
        _tell_refusal(error, former)
        return 1
    return Master(start, former).run()


def _tell_refusal(error: MeshproxyError, former: Channel | None) -> None:
    lines = str(error).splitlines()
    for text in lines:
        os.write(2, f"meshproxy: {text}\n".encode())
    if former is not None:
        former.send(Answer(ok=False, errors=lines))


@dataclass
class Ending:
    """How the node ends, once it does."""

    exit_code: int
    unlink: bool
    """Whether files of UNIX sockets go with it: not when another master has them."""
    agent_told: bool = False


class Master:
    """One object for the process. Its modules do the work; what is here is who calls whom."""

    def __init__(self, start: Start, former: Channel | None) -> None:
        node = start.node
        self.node = node
        self.former = former
        self.start = start
        self.signals = SignalQueue()
        self.keeper = AgentKeeper(node, on_born=lambda: self.reloader.on_agent_born(),
                                  on_order=lambda order, channel: self.orders.take(order, channel),
                                  on_resource=lambda put: self.reloader.put_resource(put),
                                  on_resources=lambda put: self.reloader.put_resources(put),
                                  on_report=lambda report: self.orders.reported(report), on_left=lambda: self.farewell.left())
        self.crew = Crew(node, on_born=lambda worker: self.reloader.on_born(worker), on_ready=self._on_ready,
                         on_applied=lambda worker, applied: self.reloader.on_applied(worker, applied),
                         on_want_block=lambda worker, wanted: self.late_blocks.give(worker, wanted),
                         on_refused=lambda worker, refused: self.reloader.take_away(refused), on_gone=self._on_gone)
        self.scale = Scale(node, self.crew, set(start.foreign_pages))
        self.reloader = Reloader(node, self.crew, self.keeper)
        self.late_blocks = LateBlocks(node, self.crew, self.keeper)
        self.upgrader = Upgrader(node, self.keeper, self._inheritance, self._on_handed_over)
        self.farewell = Farewell(node, self.keeper)
        self.orders = Orders(node, self.reloader, self.upgrader, self.keeper, self.farewell, self.end)
        self.control = ControlServer(start.control_fd, node.loop, node.journal, self.orders.take)
        self.ending: Ending | None = None
        self.leaving = False
        """It is going to end, when registries have heard of it."""
        self.was_ready = False
        self.told_live = False
        self.lenient = node.idle
        """This process still gives way to others."""
        self.scale.begin(start.lanes)
        self.warming = Warming(node, self.keeper, start.cold)
        self.watchdog_due_s = 0.0

    def run(self) -> int:
        """Until the end."""
        node = self.node
        self.signals.open()
        node.loop.watch(self.signals, self._take_signals)
        if self.former is not None:
            node.retirement.predecessor = True
            node.loop.watch(self.former, self._hear_former)
        else:
            self.control.open()
        while self.ending is None or self.crew.workers or node.agent.pid:
            try:
                self.tick(monotonic_s())
                node.loop.turn(self._patience_s())
            except Exception:
                # Workers serve on whatever happens here, and somebody must go on supervising them.
                node.journal.error("an exception of the master: a bug to report", report=traceback.format_exc(), build=deaths.build())
                time.sleep(BUSY_S)
        return self._close()

    # ---- each turn ----

    def tick(self, now_s: float) -> None:
        self._follow_lift()
        if self.warming.is_over(now_s):
            self.crew.start_due(now_s)
        self.keeper.start_due(now_s)
        self.crew.end_hung(now_s)
        self.keeper.end_hung(now_s)
        self.crew.rescue(now_s)
        self.scale.tick(now_s)
        self.reloader.tick(now_s)
        self.orders.tick(now_s)
        self.farewell.tick(now_s)
        self.upgrader.tick(now_s)
        self._tell_liveness()
        self._end_agent_last()
        self._pet_watchdog(now_s)

    def _patience_s(self) -> float:
        workers = self.node.workers
        moving = workers.in_state(State.GONE, State.STARTING, State.DRAINING) or self.reloader.busy or self.upgrader.busy or self.scale.busy
        moving = moving or self.farewell.busy or self.orders.busy
        waiting = BUSY_S if moving or self.ending is not None else QUIET_S
        return min(waiting, self.node.notifier.watchdog_interval_s / 2) if self.node.notifier.watchdog_interval_s else waiting

    def _tell_liveness(self) -> None:
        """A worker that hangs is no event; the admin API's /ready must know of it all the same."""
        if self.node.is_live() != self.told_live:
            self.told_live = not self.told_live
            self.keeper.tell_state()

    def _pet_watchdog(self, now_s: float) -> None:
        """systemd is told that all is well only while workers answer (or the node ends, which takes as long as it takes)."""
        node, interval_s = self.node, self.node.notifier.watchdog_interval_s
        all_well = node.is_live() or self.ending is not None or not self.was_ready
        if interval_s and node.owner and now_s >= self.watchdog_due_s and all_well:
            node.notifier.alive()
            self.watchdog_due_s = now_s + interval_s

    def _take_signals(self) -> None:
        actions = {
            "reload": self.orders.reload, "upgrade": self.orders.upgrade, "reopen_logs": self.orders.reopen_logs, "reap": self._reap,
            "more": lambda: self._rescale(self.scale.more), "fewer": lambda: self._rescale(self.scale.fewer),
            "drain": lambda: self.end(0.0, True), "stop": lambda: self.end(0.0, False),
        }
        for order in self.signals.take():
            actions[order]()

    def _rescale(self, change: Callable[[], str]) -> None:
        if self.node.draining or self.upgrader.busy or not self.node.owner:
            self.node.journal.warning("the number of workers stays", why="the node is ending or upgrading")
        elif error := change():
            self.node.journal.error("the number of workers stays", error=error)
        self.keeper.tell_state()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            # Whoever knows the pid takes it; a loader's belongs to nobody, its result has come by its pipe.
            known = self.crew.bury(pid, code) or self.keeper.bury(pid, code) or self.upgrader.bury(pid, code)
            if known:
                self.keeper.tell_state()

    def _follow_lift(self) -> None:
        """A former master had no patience with one that gives way to others: then its workers do so no longer, too."""
        if self.lenient and not priority.is_idle():
            self.lenient = False
            self.crew.lift()

    def _come_back(self) -> None:
        """Before something depends on this process."""
        if self.lenient:
            priority.come_back()
            self._follow_lift()

    # ---- what the workers do ----

    def _on_ready(self, worker: Worker) -> None:
        node = self.node
        self.crew.steer()
        if node.owner and node.agent.due_s is None and not node.agent.pid and self.ending is None:
            node.agent.due_s = monotonic_s()
            self.keeper.start_due(monotonic_s())
        if not self.was_ready and all(slot.state is State.READY for slot in node.workers):
            self.was_ready = True
            self._come_back()
            if self.former is not None and not node.owner:
                self.former.send(Ready(version=node.configuration.version))
            else:
                self._say_ready()
        self.keeper.tell_state()

    def _say_ready(self) -> None:
        node = self.node
        addresses = " ".join(address for row in node.bindings.rows(node.configuration.listeners()) for address in row.addresses)
        text = f"{len(node.workers.slots)} workers, listening on {addresses or 'nothing'}"
        node.notifier.ready(text)
        node.journal.info("ready", pid=node.pid, version=meshproxy.__version__, workers=len(node.workers.slots), listening=addresses,
                          admin=node.admin_address or "none", control=node.control_path)

    def _on_gone(self, slot: Slot, pid: int, returncode: int) -> None:
        self.scale.on_gone(slot)
        self.reloader.on_gone(pid)
        hopeless = returncode in (ExitCode.BOOT_ERROR, ExitCode.CONFIG_REFUSED) or self.node.workers.is_tripped(slot)
        if not self.was_ready and hopeless and self.ending is None:
            # It has never worked: whoever starts it should hear so, and not find half a node.
            self.node.journal.error("cannot start", why=slot.last_death)
            if self.former is not None and not self.node.owner:
                self.former.send(Answer(ok=False, errors=[f"a worker of the new master: {slot.last_death}"]))
            self.end(0.0, graceful=False, exit_code=1)

    # ---- the end ----

    def end(self, limit_s: float, graceful: bool, exit_code: int = 0) -> None:
        """The node ends: gracefully within `limit_s` (0 = as configured), or now. Told again, it ends faster."""
        if self.ending is not None and graceful:
            return
        if not graceful:
            self.farewell.hasten()
            self._end(limit_s, graceful, exit_code)
        elif not self.leaving:
            self.leaving = True
            self.farewell.begin([], lambda: self._end(limit_s, graceful, exit_code))

    def _end(self, limit_s: float, graceful: bool, exit_code: int) -> None:
        node = self.node
        node.journal.info("ending", graceful=graceful)
        if self.ending is None:
            if node.owner:
                node.notifier.stopping("draining" if graceful else "stopping")
            self._begin_end(Ending(exit_code, unlink=node.owner))
        for worker in list(self.crew.workers.values()):
            if graceful:
                self.crew.drain(worker, limit_s or node.configuration.process.drain_timeout_s, "the node ends", close_idle=True)
            else:
                self.crew.stop(worker, "the node ends")
        # Our duplicates go last: until a worker has taken what queues, its socket lives on by its own.
        node.bindings.close_all(unlink=self.ending.unlink)

    def _begin_end(self, ending: Ending) -> None:
        self.ending = ending
        self.node.draining = True
        self.node.region.draining = self.node.owner
        for slot in [*self.node.workers, self.node.agent]:
            slot.wanted = False
        self.keeper.tell_state()

    def _end_agent_last(self) -> None:
        """It tells the last numbers after the last worker."""
        if self.ending is not None and not self.crew.workers and not self.ending.agent_told:
            self.ending.agent_told = True
            self.keeper.stop("the node ends")

    def _close(self) -> int:
        node = self.node
        assert self.ending is not None
        if self.ending.unlink:
            _unlink(node.control_path)
            _unlink(node.configuration.process.pid_file)
            admin_socket.install(node, admin_socket.NONE)
        node.journal.info("ended", exit_code=self.ending.exit_code)
        self.control.close()
        self.crew.close()
        self.keeper.close()
        self.signals.close()
        return self.ending.exit_code

    # ---- upgrade, as the old one ----

    def _inheritance(self) -> Inheritance:
        node = self.node
        resources = node.configuration.resources()
        endpoints = [each for each in resources if each.kind is ResourceKind.ENDPOINTS]
        return Inheritance(
            pid=node.pid, region_fd=node.region.fd, control_fd=self.control.fd, control_path=node.control_path, admin_fd=node.admin_fd,
            admin_address=node.admin_address, admin_asked=node.admin_asked, bindings=node.bindings.state(), lanes=node.bindings.lanes,
            workers_asked=self.start.workers_asked, pages=[slot.number for slot in node.workers],
            configuration=node.configuration.versions.configuration, restart_epoch=node.restart_epoch,
            rows=node.configuration.allocator.all_rows(), sinks=node.configuration.allocator.sinks(), endpoints=endpoints,
            brought=[each for each in resources if is_brought(each)], since_unix_s=unix_s(), ticket_root=node.ticket_root,
        )

    def _on_handed_over(self) -> None:
        self.control.hand_over()
        self.node.owner = False
        self._begin_end(Ending(0, unlink=False, agent_told=True))
        limit_s = self.node.configuration.process.drain_timeout_s
        for worker in list(self.crew.workers.values()):
            self.crew.drain(worker, limit_s, "a new master has taken over")
        self.node.bindings.close_all(unlink=False)

    # ---- upgrade, as the new one ----

    def _hear_former(self) -> None:
        assert self.former is not None
        if any(isinstance(message, Yours) for message, _ in self.former.receive()) and not self.node.owner:
            self._take_over()
        if self.former.closed:
            self.node.loop.forget(self.former)
            self.former = None
            self.scale.foreign.clear()
            self.node.retirement.predecessor_gone()
            if not self.node.owner:
                # It died before it could hand over: somebody must carry on.
                self._take_over()

    def _take_over(self) -> None:
        node = self.node
        self._come_back()
        node.owner = True
        node.region.draining = False
        self.control.open()
        write_pid_file(node)
        self.crew.steer(force=True)
        if self.was_ready:
            node.agent.due_s = monotonic_s()
            self._say_ready()
        node.bindings.close(node.bindings.unwanted(node.configuration.listeners()))
        for _ in range(len(node.workers.slots) - self.start.workers_wanted):
            self._rescale(self.scale.fewer)


def _unlink(path: str) -> None:
    try:
        if path:
            os.unlink(path)
    except OSError:
        pass
