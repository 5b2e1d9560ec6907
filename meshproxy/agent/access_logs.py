"""Which number in a record means which file or server: kept in step with the listeners, whose resources carry the numbers."""

from __future__ import annotations

from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.model import AccessLog, Listener, ResourceKind
from meshproxy.model.snapshot import unpack
from meshproxy.scoreboard.blocks import logs_of
from meshproxy.telemetry.logs import LogSinks

LINGER_S = 900.0
"""A sink that no listener names stays open so long: connections of a removed listener may drain for 600 s by default, and log."""


class AccessLogs:
    """Opens what listeners name and closes what none has named for a while."""

    def __init__(self, view: NodeView, sinks: LogSinks) -> None:
        self._view = view
        self._sinks = sinks
        self._named: dict[int, AccessLog] = {}
        self._left_s: dict[int, float] = {}

    @property
    def any_named(self) -> bool:
        """Whether somebody may write records."""
        return bool(self._named or self._left_s)

    def configure(self) -> None:
        """After a change of listeners."""
        named: dict[int, AccessLog] = {}
        for resource in self._view.resources(ResourceKind.LISTENER):
            if any(label.startswith("log:") for label in resource.blocks):
                named.update(_sinks_of(unpack(resource), resource.blocks))
        for sink in self._named.keys() - named.keys():
            self._left_s[sink] = monotonic_s()
        for sink, log in named.items():
            self._left_s.pop(sink, None)
            self._sinks.open(sink, log)
        self._named = named

    def sweep(self, now_s: float) -> None:
        """Close what was left long ago, and send on what a slow reader did not take."""
        for sink in [sink for sink, left_s in self._left_s.items() if now_s - left_s >= LINGER_S]:
            del self._left_s[sink]
            self._sinks.close(sink)
        self._sinks.step()


def _sinks_of(listener: Listener, blocks: dict[str, int]) -> dict[int, AccessLog]:
    return {blocks[label]: log for label, log in logs_of(listener) if label in blocks}
