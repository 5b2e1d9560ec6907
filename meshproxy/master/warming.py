"""The wait at a start for endpoints that only DNS knows: a worker that served before would answer 503.

The agent is started first then, and workers when it has asked for every name once, or after `Patience.warm_s`. Clients that come meanwhile
queue: the sockets listen already. A reload waits in the same way (`reload`), while workers serve what is before.
"""

from __future__ import annotations

from meshproxy.clock import monotonic_s
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.node import Node


class Warming:
    """Over at once, and nothing is started early, when no cluster is `cold`."""

    def __init__(self, node: Node, keeper: AgentKeeper, cold: list[str]) -> None:
        self._node = node
        self._keeper = keeper
        self._cold = cold
        self._version = node.configuration.version
        self._due_s = monotonic_s() + node.command.patience.warm_s
        if cold:
            node.agent.due_s = monotonic_s()

    def is_over(self, now_s: float) -> bool:
        """Whether workers may start."""
        if self._cold and now_s >= self._due_s:
            clusters, self._cold = " ".join(self._cold), []
            self._node.journal.warning("names are not resolved yet", clusters=clusters, waited_s=self._node.command.patience.warm_s)
        elif self._cold and self._keeper.is_warm(self._version):
            self._cold = []
        return not self._cold
