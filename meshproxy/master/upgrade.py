"""A new master in the place of this one: new code on the same sockets, the same scoreboard and the same control socket.

    old: fork + exec with what is to be inherited  ->  new: load, bind, start workers
    new: Ready                                     ->  old: stop the agent (only one may read the rings), MAINPID to systemd
    old: Yours                                     ->  new: start the agent, answer orders; old: drain, exit

A start costs a second of a processor, and the old workers serve meanwhile: so the new master and its children take only what nobody else
wants of the processors until they are ready, or until that has taken too long. Where they could not come back from there (`priority`), they
start as equals.

A new master that ends, refuses or is not ready in time is dropped, and the old one goes on as if nothing had been. What is inherited is
described in a memfd, with the descriptors' numbers; the variable MESHPROXY_UPGRADE has the numbers of that memfd and of the line between
the two.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

import msgspec

from meshproxy import priority
from meshproxy.clock import monotonic_s
from meshproxy.errors import FrameError, MeshproxyError
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.frames import close_all
from meshproxy.ipc.messages import Answer, Message, Ready
from meshproxy.master import deaths
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.listeners import BoundState
from meshproxy.master.node import Node
from meshproxy.master.slots import State
from meshproxy.model import Address, Resource

VARIABLE = "MESHPROXY_UPGRADE"
LIMIT_S = 60.0
"""From exec to Ready: a start takes a second; a large configuration on a busy host some more."""
END_S = 5.0
"""What a new master gets to end its workers before it is killed."""

Done = Callable[[list[str]], None]


class Yours(Message, kw_only=True):
    """old -> new: the node is yours."""


class Inheritance(msgspec.Struct, kw_only=True):
    """What a master hands on. All descriptors are inherited under these numbers."""

    pid: int
    region_fd: int
    control_fd: int
    control_path: str
    admin_fd: int
    admin_address: Address | None
    admin_asked: Address | None
    bindings: list[BoundState]
    lanes: list[int]
    workers_asked: int
    """What configuration or command line said; another number now changes how many there are."""
    pages: list[int]
    """Pages of the scoreboard that its workers write."""
    configuration: int
    restart_epoch: int
    rows: list[tuple[str, str, int]]
    sinks: dict[int, str]
    endpoints: list[Resource]
    """What the agent has found, so that no cluster is empty until it is found again."""
    since_unix_s: float
    brought: list[Resource] = []
    """What control planes brought, so that a new master has it at once."""
    ticket_root: bytes = b""
    idle: bool = False
    """The new master and its children give way to all others until they are ready."""


_decoder = msgspec.msgpack.Decoder(Ready | Answer | Yours)


def inherited(env: MutableMapping[str, str]) -> tuple[Inheritance, Channel] | None:
    """What a former master left for this one, and the line to it; None at an ordinary start."""
    text = env.pop(VARIABLE, "")
    if not text:
        return None
    try:
        state_fd, channel_fd = (int(part) for part in text.split(","))
        with open(state_fd, "rb") as file:
            inheritance = msgspec.msgpack.decode(file.read(), type=Inheritance)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise MeshproxyError(
            f"{VARIABLE}={text}: the former master's state cannot be read ({error}). Is it another version? Restart instead."
        ) from None
    for fd in _fds_of(inheritance):
        os.set_inheritable(fd, False)
    os.set_inheritable(channel_fd, False)
    return inheritance, line(channel_fd)


def line(fd: int) -> Channel:
    """An end of what the two masters speak through."""
    return Channel(socket.socket(fileno=fd), decoder=_decoder)


@dataclass
class Upgrader:
    """The old master's side. `on_handed_over` is the master's: drain and go."""

    node: Node
    keeper: AgentKeeper
    inheritance: Callable[[], Inheritance]
    on_handed_over: Callable[[], None]
    pid: int = 0
    _channel: Channel | None = None
    _deadline_s: float = 0.0
    _lift_s: float = 0.0
    """When the new master has waited long enough for idle processors."""
    _failed: list[str] = field(default_factory=list)
    _ready: bool = False
    _killed: bool = False
    _asked: list[Done] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return self.pid != 0

    def ask(self, done: Done) -> None:
        self._asked.append(done)
        self._failed, self._ready, self._killed = [], False, False
        self.node.journal.info("upgrade begins", pid=os.getpid())
        self._start()

    def tick(self, now_s: float) -> None:
        if not self.busy:
            return
        if self._ready:
            if self.node.agent.state is State.GONE:
                self._hand_over()
        elif now_s >= self._deadline_s:
            self._drop(f"it was not ready within {LIMIT_S:g} s", now_s)
        elif now_s >= self._lift_s:
            # It lifts its children.
            priority.lift(self.pid)

    def bury(self, pid: int, returncode: int) -> bool:
        """A child has ended; False if it is not the new master."""
        if pid != self.pid:
            return False
        self._hear()
        self._failed = self._failed or [f"the new master: {deaths.explain(returncode)}; its own words are above"]
        self._forget_it()
        self.node.journal.error("upgrade failed, the old processes go on", error="; ".join(self._failed))
        self._revive_agent()
        self._finish(self._failed)
        return True

    # ---- beginning ----

    def _start(self) -> None:
        node = self.node
        state = self.inheritance()
        state.idle = priority.may_give_way()
        state_fd = os.memfd_create("meshproxy-upgrade")
        os.write(state_fd, msgspec.msgpack.encode(state))
        os.lseek(state_fd, 0, os.SEEK_SET)
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours, decoder=_decoder)
        self._deadline_s = monotonic_s() + LIMIT_S
        self._lift_s = monotonic_s() + node.command.patience.idle_start_s
        inherit = [state_fd, theirs.fileno(), *_fds_of(state)]
        env = _environment(node.command.env, f"{state_fd},{theirs.fileno()}")
        self.pid = os.fork()
        if self.pid == 0:
            _become(node.command.argv, env, node.command.directory, inherit, state.idle)
        os.close(state_fd)
        theirs.close()
        node.loop.watch(self._channel, self._hear)

    def _hear(self) -> None:
        if self._channel is None:
            return
        try:
            messages = self._channel.receive()
        except FrameError as error:
            self._failed.append(f"the new master speaks another language ({error}): restart instead")
            messages = []
        for message, fds in messages:
            close_all(fds)
            if isinstance(message, Answer):
                self._failed += message.errors
            elif isinstance(message, Ready) and not self._ready:
                self._ready = True
                self.node.agent.wanted = False
                self.keeper.stop("a new master takes over")
        if self._channel.closed:
            self.node.loop.forget(self._channel)

    # ---- ends ----

    def _hand_over(self) -> None:
        node = self.node
        node.notifier.main_pid(self.pid)
        assert self._channel is not None
        self._channel.send(Yours())
        node.journal.info("upgraded", new_master=self.pid, old_master=os.getpid())
        # Kept open until we are gone: its end tells the new master that no worker of ours is left.
        self.node.loop.forget(self._channel)
        self.pid = 0
        self._finish([])
        self.on_handed_over()

    def _drop(self, why: str, now_s: float) -> None:
        if not self._killed:
            self._failed.append(f"the new master was dropped: {why}")
        os.kill(self.pid, signal.SIGKILL if self._killed else signal.SIGTERM)
        self._killed, self._deadline_s = True, now_s + END_S

    def _forget_it(self) -> None:
        node = self.node
        if self._channel is not None:
            node.loop.forget(self._channel)
            self._channel.close()
        self._channel, self.pid = None, 0
        ours = {slot.number for slot in node.workers}
        for page in set(range(node.region.slots)) - ours:
            node.region.set_state(page, State.GONE)
            node.region.zero_gauges(page, node.configuration.allocator.all_rows())

    def _revive_agent(self) -> None:
        """It was stopped for a new master that died at the last moment."""
        self.node.agent.wanted = True

    def _finish(self, errors: list[str]) -> None:
        asked, self._asked = self._asked, []
        for done in asked:
            done(errors)


def _fds_of(state: Inheritance) -> list[int]:
    fds = [state.region_fd, state.control_fd, *(fd for bound in state.bindings for fd in bound.fds.values())]
    return fds + ([state.admin_fd] if state.admin_fd >= 0 else [])


def _environment(env: Mapping[str, str], handed: str) -> dict[str, str]:
    # WATCHDOG_PID names this process; without it the interval holds for whoever is the main process.
    return {**{name: value for name, value in env.items() if name != "WATCHDOG_PID"}, VARIABLE: handed}


def _become(argv: list[str], env: dict[str, str], directory: str, inherit: list[int], idle: bool) -> None:
    """The new master, in the forked child. Never returns."""
    try:
        if idle:
            priority.give_way()
        os.chdir(directory)
        for fd in inherit:
            os.set_inheritable(fd, True)
        os.execve(sys.executable, argv, env)
    except OSError as error:
        os.write(2, f"meshproxy: cannot start {sys.executable}: {error.strerror}\n".encode())
    finally:
        os._exit(1)
