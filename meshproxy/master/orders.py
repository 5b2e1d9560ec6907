"""What may be ordered, by a command or through the admin API, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from meshproxy.clock import monotonic_s
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import AgentReport, Answer, AskReport, Order, ReopenLogs, Report
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.farewell import Farewell
from meshproxy.master.journal import LEVELS
from meshproxy.master.node import Node
from meshproxy.master.reload import Reloader
from meshproxy.master.slots import State
from meshproxy.master.upgrade import Upgrader

REPORT_LIMIT_S = 1.0
"""An agent that says nothing for so long is left out of an answer."""
_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


@dataclass
class Orders:
    """All answer at once, but reload and upgrade, which answer when they are over, and status, for which the agent is asked. `on_end` is
    the master's: (limit_s, graceful)."""

    node: Node
    reloader: Reloader
    upgrader: Upgrader
    keeper: AgentKeeper
    farewell: Farewell
    on_end: Callable[[float, bool], None]
    _asking: dict[int, tuple[float, Order, Channel]] = field(default_factory=dict)
    """Who waits for the agent's report, by its number, and until when."""
    _asked: int = 0

    @property
    def busy(self) -> bool:
        return bool(self._asking)

    def tick(self, now_s: float) -> None:
        for number in [number for number, (due_s, *_) in self._asking.items() if now_s >= due_s]:
            self.reported(Report(id=number, report=AgentReport()))

    def take(self, order: Order, channel: Channel) -> None:
        verbs: dict[str, Callable[[Order, Channel], None]] = {
            "reload": self._reload,
            "upgrade": self._upgrade,
            "drain": self._end,
            "stop": self._end,
            "quit": self._end,
            "drain_listeners": self._drain_listeners,
            "status": self._status,
            "loglevel": self._loglevel,
            "reopen_logs": self._reopen_logs,
            "scoreboard": self._scoreboard,
            "dump": self._dump,
        }
        self.node.journal.debug("order", verb=order.verb)
        verbs[order.verb](order, channel)

    def reload(self) -> None:
        """By a signal: nobody waits for the answer."""
        if self._is_leaving():
            self.node.journal.warning("reload refused", error=self._why_not())
        else:
            self.reloader.ask(lambda errors, body: None)

    def upgrade(self) -> None:
        if self._is_leaving() or self.reloader.reloading:
            self.node.journal.warning("upgrade refused", error=self._why_not())
        else:
            self.upgrader.ask(lambda errors: None)

    def reopen_logs(self) -> None:
        self.keeper.tell(ReopenLogs())

    def _reload(self, order: Order, channel: Channel) -> None:
        if self._is_leaving():
            _refuse(order, channel, self._why_not())
            return
        self.reloader.ask(lambda errors, body: channel.send(Answer(id=order.id, ok=not errors, errors=errors, body=body)))

    def _upgrade(self, order: Order, channel: Channel) -> None:
        if self._is_leaving() or self.reloader.reloading:
            _refuse(order, channel, self._why_not())
            return
        self.upgrader.ask(lambda errors: channel.send(Answer(id=order.id, ok=not errors, errors=errors)))

    def _is_leaving(self) -> bool:
        return self.node.draining or self.upgrader.busy or not self.node.owner

    def _why_not(self) -> str:
        if self.node.draining:
            return "the node is ending"
        if not self.node.owner:
            return "this new master has not taken over yet"
        return "an upgrade is under way" if self.upgrader.busy else "a reload is under way: try again when it is over"

    def _end(self, order: Order, channel: Channel) -> None:
        channel.send(Answer(id=order.id))
        graceful = order.verb == "drain" or (order.verb == "stop" and order.graceful)
        self.on_end(order.limit_s, graceful)

    def _drain_listeners(self, order: Order, channel: Channel) -> None:
        if self.reloader.busy:
            _refuse(order, channel, "a change is under way: try again when it is over")
            return
        there = [each.name for each in self.node.configuration.listeners()]
        if unknown := sorted(set(order.listeners) - set(there)):
            _refuse(order, channel, f"no such listener: {', '.join(unknown)}. There are: {', '.join(there) or 'none'}")
        else:
            names = order.listeners or there
            self.farewell.begin(names, lambda: self._stop_listening(names, order, channel))

    def _stop_listening(self, names: list[str], order: Order, channel: Channel) -> None:
        """When registries have heard of it."""
        if self.reloader.busy:
            _refuse(order, channel, "a change is under way: try again when it is over")
            return
        self.reloader.stop_listening(names)
        self.keeper.tell_state()
        channel.send(Answer(id=order.id))

    def _status(self, order: Order, channel: Channel) -> None:
        self._asked += 1
        self._asking[self._asked] = monotonic_s() + REPORT_LIMIT_S, order, channel
        if self.node.agent.state is State.READY:
            self.keeper.tell(AskReport(id=self._asked))
        else:
            self.reported(Report(id=self._asked, report=AgentReport()))

    def reported(self, report: Report) -> None:
        """What the agent says of itself, for whom that waits."""
        _, order, channel = self._asking.pop(report.id, (0.0, None, None))
        if order is None or channel is None:
            return
        state = msgspec.to_builtins(self.node.state()) | msgspec.to_builtins(report.report)
        state.pop("type")
        channel.send(Answer(id=order.id, body=_json.encode(state)))

    def _loglevel(self, order: Order, channel: Channel) -> None:
        if order.argument not in LEVELS:
            _refuse(order, channel, f'log level "{order.argument}": use one of {", ".join(LEVELS)}')
            return
        self.node.journal.level = order.argument
        self.reloader.set_log_level(order.argument)
        channel.send(Answer(id=order.id))

    def _reopen_logs(self, order: Order, channel: Channel) -> None:
        self.reopen_logs()
        channel.send(Answer(id=order.id))

    def _scoreboard(self, order: Order, channel: Channel) -> None:
        directory = _json.encode(self.node.configuration.directory())
        channel.send(Answer(id=order.id, body=directory), [self.node.region.fd])

    def _dump(self, order: Order, channel: Channel) -> None:
        channel.send(Answer(id=order.id, body=_msgpack.encode(self.node.configuration.snapshot(order.argument != "file"))))


def _refuse(order: Order, channel: Channel, why: str) -> None:
    channel.send(Answer(id=order.id, ok=False, errors=[f"{order.verb}: {why}"]))
