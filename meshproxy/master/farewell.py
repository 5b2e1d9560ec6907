"""Registries hear that the node goes before anybody is turned away: the agent tells them, and what is to end waits a little for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshproxy.clock import monotonic_s
from meshproxy.ipc.messages import Leave
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.node import Node
from meshproxy.master.slots import State
from meshproxy.model import ConsulRegistration

LIMIT_S = 3.0
"""For a registry that does not answer; an ordinary one takes some milliseconds."""


@dataclass
class _Going:
    then: Callable[[], None]
    due_s: float
    wait_s: float
    """From the agent's answer on."""


@dataclass
class Farewell:
    """Several may be under way: listeners, and then the node."""

    node: Node
    keeper: AgentKeeper
    _going: list[_Going] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self._going)

    def begin(self, listeners: list[str], then: Callable[[], None]) -> None:
        """`then` is called when those who watch for these listeners (all, if none is named) had time to hear; at once when nobody does."""
        registered = self._registered(listeners)
        if not registered or self.node.agent.state is not State.READY:
            then()
            return
        self.node.journal.info("leaving", services=" ".join(each.service for each in registered))
        self._going.append(_Going(then, monotonic_s() + LIMIT_S, max(each.leave_wait_s for each in registered)))
        self.keeper.tell(Leave(listeners=listeners))

    def hasten(self) -> None:
        """There is no time: the agent tells what it can before its own end."""
        self._going.clear()
        if self._registered([]):
            self.keeper.tell(Leave())

    def left(self) -> None:
        """The agent has told those who had to know, in the order in which it was asked."""
        going = next((each for each in self._going if each.wait_s >= 0), None)
        if going is not None:
            going.due_s, going.wait_s = monotonic_s() + going.wait_s, -1.0

    def tick(self, now_s: float) -> None:
        due = [each for each in self._going if now_s >= each.due_s]
        self._going = [each for each in self._going if now_s < each.due_s]
        for each in due:
            each.then()

    def _registered(self, listeners: list[str]) -> tuple[ConsulRegistration, ...]:
        consul = self.node.configuration.settings.consul
        services = consul.services if consul is not None else ()
        return tuple(each for each in services if not listeners or each.listener in listeners)
