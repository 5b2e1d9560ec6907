"""The master, composed in the order things run: read, bind, drop, fork; then wait, and supervise until the end."""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace

import setproctitle

import meshproxy
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.errors import BindError, ConfigError, ControlError, MeshproxyError
from meshproxy.ipc.boot import ExitCode
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.control_path import control_path
from meshproxy.ipc.messages import Answer, Ready
from meshproxy.master import admin_socket, deaths, privileges, systemd
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.configuration import Configuration, Versions
from meshproxy.master.control import ControlServer, open_control
from meshproxy.master.crew import Crew, Worker
from meshproxy.master.journal import Journal
from meshproxy.master.listeners import Bindings
from meshproxy.master.loader import Loaded, Refused, load_now
from meshproxy.master.node import Command, Entries, Node
from meshproxy.master.orders import Orders
from meshproxy.master.reload import Reloader
from meshproxy.master.rollout import Retirement
from meshproxy.master.scale import Scale
from meshproxy.master.signals import SignalQueue
from meshproxy.master.slots import Patience, Slot, SlotTable, State
from meshproxy.master.systemd import Notifier
from meshproxy.master.upgrade import Inheritance, Upgrader, Yours, inherited
from meshproxy.model import ResourceKind
from meshproxy.model.snapshot import unpack
from meshproxy.scoreboard.blocks import PREDECESSOR, BlockAllocator
from meshproxy.scoreboard.region import Region

QUIET_S = 0.5
"""Between looks at heartbeats when nothing is under way."""
BUSY_S = 0.05
"""The same while something is: a worker starting, draining, or a queue waiting for its heir."""


def run(
    config_path: str, workers: int | None = None, control: str = "", log_level: str | None = None, *,
    entries: Entries | None = None, patience: Patience | None = None, argv: list[str] | None = None,
    env: MutableMapping[str, str] | None = None,
) -> int:
    """Runs a node until it is told to end; gives the exit code. What is wrong at the start is told on stderr, and the code is 1.

    `workers`: None = as configured, 0 = one for each usable core. `argv` is how to start a new master at an upgrade (default: as this
    process was started).
    """
    env = os.environ if env is None else env
    journal = Journal(log_level or "info")
    setproctitle.setproctitle("meshproxy: master")
    command = Command(
        config_path, -1 if workers is None else workers, control, argv or [sys.executable, *sys.orig_argv[1:]], os.getcwd(), env,
        entries or Entries(), patience or Patience(),
    )
    former: Channel | None = None
    try:
        systemd_fds = systemd.listen_fds(env, os.getpid())
        legacy = inherited(env)
        former = legacy[1] if legacy else None
        master = Master.compose(command, journal, legacy[0] if legacy else None, former, systemd_fds, log_level)
    except (ConfigError, BindError, ControlError, MeshproxyError) as error:
        _tell_refusal(error, former)
        return 1
    return master.run()


def _tell_refusal(error: MeshproxyError, former: Channel | None) -> None:
    lines = str(error).splitlines()
    for text in lines:
        os.write(2, f"meshproxy: {text}\n".encode())
    if former is not None:
        former.send(Answer(ok=False, errors=lines))


@dataclass
class Ending:
    """How the node ends. `limit_s` is for drains; `forced` when it was told again or told to end now."""

    exit_code: int
    unlink: bool
    """Whether files of UNIX sockets go with it: not when another master has them."""
    agent_told: bool = False


class Master:
    """One object for the process. Its modules do the work; what is here is who calls whom."""

    def __init__(self, node: Node, control_fd: int, former: Channel | None, legacy: Inheritance | None, asked: int, wanted: int) -> None:
        self.node = node
        self.former = former
        self.workers_asked = asked
        self.workers_wanted = wanted
        self.signals = SignalQueue()
        self.keeper = AgentKeeper(node, on_order=lambda order, channel: self.orders.take(order, channel),
                                  on_endpoints=lambda put: self.reloader.put_endpoints(put))
        self.crew = Crew(node, on_born=lambda worker: self.reloader.on_born(worker), on_ready=self._on_ready,
                         on_applied=lambda worker, applied: self.reloader.on_applied(worker, applied), on_gone=self._on_gone)
        self.scale = Scale(node, self.crew, set(legacy.pages) if legacy else set())
        self.reloader = Reloader(node, self.crew, self.keeper)
        self.upgrader = Upgrader(node, self.keeper, self._inheritance, self._on_handed_over)
        self.orders = Orders(node, self.reloader, self.upgrader, self.keeper, self.end)
        self.control = ControlServer(control_fd, node.loop, node.journal, self.orders.take)
        self.ending: Ending | None = None
        self.was_ready = False
        self.told_live = False
        self.watchdog_due_s = 0.0

    # ---- the start ----

    @classmethod
    def compose(
        cls, command: Command, journal: Journal, legacy: Inheritance | None, former: Channel | None, systemd_fds: list[int],
        log_level: str | None,
    ) -> Master:
        """Everything that may be refused, before the first fork of a worker."""
        _raise_fd_limit()
        loaded = load_now(command.entries.loader, command.config_path, command.env)
        if isinstance(loaded, Refused):
            raise ConfigError(loaded.problems)
        process = loaded.process
        journal.level = log_level or loaded.settings.log_level
        who = privileges.identity(process.user, process.group)
        path = legacy.control_path if legacy else control_path(command.control or process.control, command.env, os.getuid())
        control_fd = legacy.control_fd if legacy else open_control(path, who)
        asked = process.workers if command.workers < 0 else command.workers
        wanted = _workers_wanted(asked, legacy)
        lanes = _lanes(wanted, legacy)
        region = Region.open(legacy.region_fd) if legacy else Region.create(_pages(len(lanes)))
        allocator = BlockAllocator.inherit(region, legacy.rows, legacy.sinks) if legacy else BlockAllocator(region)
        node = Node(
            command=command, journal=journal, region=region, bindings=Bindings(who, command.config_path),
            configuration=Configuration(allocator, Versions(legacy.configuration if legacy else 0)),
            retirement=Retirement(allocator.reclaim),
            notifier=Notifier(command.env, os.getpid()), control_path=path, who=who, owner=legacy is None,
            restart_epoch=legacy.restart_epoch + 1 if legacy else 0, pid=os.getpid(),
            workers=SlotTable(replace(command.patience, hung_s=process.worker_hung_s)), agents=SlotTable(command.patience),
        )
        node.agents.slots.append(node.agent)
        node.agent.due_s = None
        try:
            _bind(node, loaded, lanes, legacy, systemd_fds)
            _configure(node, loaded, legacy)
            if legacy is None:
                _write_pid_file(node)
            _drop(node, who)
        except MeshproxyError:
            if legacy is None:
                os.unlink(path)
                node.bindings.close_all(unlink=True)
            raise
        master = cls(node, control_fd, former, legacy, asked, wanted)
        master.scale.begin(lanes)
        return master

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
        self.crew.start_due(now_s)
        self.keeper.start_due(now_s)
        self.crew.end_hung(now_s)
        self.keeper.end_hung(now_s)
        self.crew.rescue(now_s)
        self.scale.tick(now_s)
        self.reloader.tick(now_s)
        self.upgrader.tick(now_s)
        self._tell_liveness()
        self._end_agent_last()
        self._pet_watchdog(now_s)

    def _patience_s(self) -> float:
        workers = self.node.workers
        moving = workers.in_state(State.GONE, State.STARTING, State.DRAINING) or self.reloader.busy or self.upgrader.busy or self.scale.busy
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

    # ---- what the workers do ----

    def _on_ready(self, worker: Worker) -> None:
        node = self.node
        self.crew.steer()
        if node.owner and node.agent.due_s is None and not node.agent.pid and self.ending is None:
            node.agent.due_s = monotonic_s()
        if not self.was_ready and all(slot.state is State.READY for slot in node.workers):
            self.was_ready = True
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
        node = self.node
        if self.ending is not None and graceful:
            return
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
            admin_socket.install(node, admin_socket.AdminSocket(-1, None, None))
        node.journal.info("ended", exit_code=self.ending.exit_code)
        self.control.close()
        self.crew.close()
        self.keeper.close()
        self.signals.close()
        return self.ending.exit_code

    # ---- upgrade, as the old one ----

    def _inheritance(self) -> Inheritance:
        node = self.node
        endpoints = [each for each in node.configuration.resources() if each.kind is ResourceKind.ENDPOINTS]
        return Inheritance(
            pid=node.pid, region_fd=node.region.fd, control_fd=self.control.fd, control_path=node.control_path, admin_fd=node.admin_fd,
            admin_address=node.admin_address, admin_asked=node.admin_asked, bindings=node.bindings.state(), lanes=node.bindings.lanes,
            workers_asked=self.workers_asked, pages=[slot.number for slot in node.workers],
            configuration=node.configuration.versions.configuration, restart_epoch=node.restart_epoch,
            rows=node.configuration.allocator.all_rows(), sinks=node.configuration.allocator.sinks(), endpoints=endpoints,
            since_unix_s=unix_s(),
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
        node.owner = True
        node.region.draining = False
        self.control.open()
        _write_pid_file(node)
        self.crew.steer(force=True)
        if self.was_ready:
            node.agent.due_s = monotonic_s()
            self._say_ready()
        node.bindings.close(node.bindings.unwanted(node.configuration.listeners()))
        for _ in range(len(node.workers.slots) - self.workers_wanted):
            self._rescale(self.scale.fewer)


def _bind(node: Node, loaded: Loaded, lanes: list[int], legacy: Inheritance | None, systemd_fds: list[int]) -> None:
    listeners = [unpack(each) for each in loaded.resources if each.kind is ResourceKind.LISTENER]
    node.bindings.offer(systemd_fds)
    if legacy:
        node.bindings.adopt(legacy.bindings, legacy.lanes)
        node.admin_fd, node.admin_address, node.admin_asked = legacy.admin_fd, legacy.admin_address, legacy.admin_asked
    else:
        node.bindings.lanes = list(lanes)
    node.bindings.bind(listeners)
    for lane in lanes:
        if lane not in node.bindings.lanes:
            node.bindings.add_lane(lane)
    if (admin := admin_socket.replacement(node, loaded.settings.admin)) is not None:
        node.admin_fd, node.admin_address, node.admin_asked = admin.fd, admin.address, admin.asked
    for address in node.bindings.unclaimed():
        node.journal.warning("systemd gives a socket that no listener names", address=address)


def _configure(node: Node, loaded: Loaded, legacy: Inheritance | None) -> None:
    configuration = node.configuration
    change = configuration.prepare_all(loaded.resources, loaded.settings, loaded.process)
    configuration.commit(change)
    if legacy:
        clusters = {each.name for each in loaded.resources if each.kind is ResourceKind.CLUSTER and unpack(each).discovery != "static"}
        found = configuration.prepare([each for each in legacy.endpoints if each.name in clusters])
        configuration.commit(found)
        node.retirement.add(0, [PREDECESSOR], [])
    configuration.number = change.version
    configuration.note_rows(change)


def _drop(node: Node, who: privileges.Identity) -> None:
    import importlib.util

    spec = importlib.util.find_spec("gevent")
    must_read = [os.__file__, meshproxy.__file__ or "", node.command.config_path, (spec.origin if spec else "") or ""]
    keep = [privileges.CAP_NET_BIND_SERVICE] if node.bindings.has_privileged_ports() else []
    if unreadable := privileges.drop(who, keep, [path for path in must_read if path]):
        node.journal.warning("the user cannot read what the node needs, so the master keeps CAP_DAC_READ_SEARCH",
                             user=who.name, files=" ".join(unreadable), remedy="install where every user may read")


def _workers_wanted(asked: int, legacy: Inheritance | None) -> int:
    """As asked (0 = one for each usable core); over an upgrade as many as there are, unless another number is asked for now."""
    if legacy and legacy.workers_asked == asked:
        return len(legacy.lanes)
    return asked or len(os.sched_getaffinity(0))


def _lanes(wanted: int, legacy: Inheritance | None) -> list[int]:
    """Those of a former master and as many more as are missing. Superfluous ones go after the take-over, when they can be drained."""
    lanes = list(legacy.lanes) if legacy else []
    return lanes + [number for number in range(wanted) if number not in lanes][: max(wanted - len(lanes), 0)]


def _pages(workers: int) -> int:
    """Of the scoreboard: for workers that may be added, and as many again because two generations live side by side in an upgrade."""
    return min(2 * max(workers * 2, len(os.sched_getaffinity(0)) * 2, 4), 128)


def _write_pid_file(node: Node) -> None:
    """Before the drop, because it is mostly in a directory of root's; the file itself is then the user's, for a later master to write."""
    path = node.configuration.process.pid_file
    if not path:
        return
    try:
        with open(path, "w") as file:
            file.write(f"{node.pid}\n")
            privileges.give(file.fileno(), node.who)
    except OSError as error:
        node.journal.error("pid file cannot be written", path=path, error=error.strerror)


def _raise_fd_limit() -> None:
    """As far as it is allowed without asking: a proxy has two descriptors for each connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _unlink(path: str) -> None:
    try:
        if path:
            os.unlink(path)
    except OSError:
        pass
