"""Keeping the agent: started after the workers, or before them when they wait for what it finds; restarted with a back-off of its own.

Workers serve on without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from meshproxy import priority
from meshproxy.clock import monotonic_s
from meshproxy.errors import FrameError
from meshproxy.ipc.boot import AgentBoot
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.frames import close_all
from meshproxy.ipc.messages import Applied, Left, Message, Order, PutResource, PutResources, Ready, Report, Stop, Warm
from meshproxy.ipc.state_path import VARIABLE as STATE
from meshproxy.master import deaths
from meshproxy.master.node import Node
from meshproxy.master.slots import Kill, State
from meshproxy.master.spawn import fork


@dataclass
class AgentKeeper:
    """`on_*` are the master's: the agent was born, orders something, has found something, hears a control plane, says how it stands, has
    told registries that the node goes."""

    node: Node
    on_born: Callable[[], None]
    on_order: Callable[[Order, Channel], None]
    on_resource: Callable[[PutResource], None]
    on_report: Callable[[Report], None]
    on_left: Callable[[], None]
    on_resources: Callable[[PutResources], None]
    channel: Channel | None = None
    _crash_fd: int = -1
    _ours: str = ""
    _warm: str = ""
    _idle: bool = False
    """The present one gives way to others until it is ready."""

    def start_due(self, now_s: float) -> None:
        for _ in self.node.agents.due(now_s):
            self._start(now_s)
        slot = self.node.agent
        if self._idle and now_s - slot.started_s >= self.node.command.patience.idle_agent_s:
            self._idle = False
            priority.lift(slot.pid)

    def is_warm(self, version: str) -> bool:
        """Whether what DNS says of a version's clusters has been told once."""
        order = self.node.configuration.versions.order
        return bool(self._warm) and order(self._warm) >= order(version)

    def tell(self, message: Message) -> None:
        """Nothing while there is none: a newborn one starts from what is then."""
        if self.channel is None:
            return
        try:
            self.channel.send(message)
        except FrameError as error:
            self._kill(f"does not read what the master says: {error}")

    def tell_state(self) -> None:
        self.tell(self.node.state())

    def stop(self, why: str) -> None:
        """It ends within a second, or is ended."""
        if self.node.agent.pid:
            self._ours = why
            self.node.agents.drain(self.node.agent, monotonic_s(), 1.0)
            self.tell(Stop())

    def end_hung(self, now_s: float) -> None:
        """Only one that does not start or stop in time: it has no heartbeat, because nothing on a request's way waits for it."""
        for overdue in self.node.agents.overdue(now_s, lambda _: 0.0):
            if overdue.kill is Kill.REPORT:
                self.node.journal.error("agent is ended", pid=overdue.slot.pid, why=overdue.why)
            self._ours = self._ours or overdue.why
            overdue.slot.killed_s = overdue.slot.killed_s or now_s
            os.kill(overdue.slot.pid, overdue.kill.value)

    def bury(self, pid: int, returncode: int) -> bool:
        slot = self.node.agent
        if pid != slot.pid:
            return False
        if self.channel is not None:
            self.node.loop.forget(self.channel)
            self.channel.close()
            self.channel = None
        self._idle = False
        expected = returncode == 0 and slot.state is State.DRAINING
        slot.last_death = "" if expected else deaths.explain(returncode, self._ours)
        self.node.agents.died(slot, monotonic_s(), returncode)
        report = deaths.read_report(self._crash_fd)
        if not expected:
            fields = {"report": report, "build": deaths.build()} if report else {}
            self.node.journal.error("agent died", pid=pid, why=slot.last_death, **fields)
        return True

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
        close_all([self._crash_fd] if self._crash_fd >= 0 else [])

    def _start(self, now_s: float) -> None:
        node = self.node
        if self._crash_fd < 0:
            self._crash_fd = os.memfd_create("meshproxy-crash-agent")
        ours, theirs = Channel.pair()
        channel_fd = theirs.detach()
        boot = AgentBoot(
            channel_fd=channel_fd, region=node.region, version=node.configuration.version, resources=node.configuration.resources(),
            settings=node.configuration.settings, directory=node.configuration.directory(), admin_fd=node.admin_fd, state=node.state(),
            crash_fd=self._crash_fd, state_directory=node.command.env.get(STATE, ""),
        )
        keep = [channel_fd, node.region.fd] + ([node.admin_fd] if node.admin_fd >= 0 else [])
        self._ours = ""
        self._idle, node.idle = node.idle, False
        boot.idle = self._idle
        try:
            pid = fork("meshproxy: agent", node.command.entries.agent, boot, keep, self._crash_fd, idle=self._idle)
        finally:
            os.close(channel_fd)
        node.agents.started(node.agent, pid, now_s)
        self.channel = ours
        node.loop.watch(ours, self._hear)
        self.on_born()

    def _hear(self) -> None:
        channel = self.channel
        if channel is None:
            return
        try:
            messages = channel.receive()
        except FrameError as error:
            messages = []
            self._kill(f"said what is no message: {error}")
        for message, fds in messages:
            close_all(fds)
            self._on_message(message, channel)
        if channel.closed:
            self.node.loop.forget(channel)

    def _on_message(self, message: Message, channel: Channel) -> None:
        if isinstance(message, Ready) and self.node.agent.state is State.STARTING:
            self._idle = False
            self.node.agents.ready(self.node.agent, monotonic_s())
            self.tell_state()
        elif isinstance(message, Order):
            self.on_order(message, channel)
        elif isinstance(message, PutResource):
            self.on_resource(message)
        elif isinstance(message, Report):
            self.on_report(message)
        elif isinstance(message, Left):
            self.on_left()
        elif isinstance(message, PutResources):
            self.on_resources(message)
        elif isinstance(message, Warm):
            self._warm = message.version
        elif isinstance(message, Applied) and message.error:
            self.node.journal.error("agent refuses a change", version=message.version, error=message.error)

    def _kill(self, why: str) -> None:
        self._ours = why
        self.node.agent.killed_s = monotonic_s()
        os.kill(self.node.agent.pid, 9)
