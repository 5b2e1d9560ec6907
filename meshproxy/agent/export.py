"""Sends metrics to statsd servers, all of them the same differences at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gevent.event import Event

from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.discovery.dns import Resolve, is_literal, resolve
from meshproxy.master.journal import Journal
from meshproxy.model import Address, SocketAddress, Stats, StatsSink
from meshproxy.telemetry.stats import Flush
from meshproxy.telemetry.statsd import StatsdExporter
from meshproxy.telemetry.tags import TagRules

STEP_S = 0.02
"""Between datagrams of one flush that did not go at once, so that a burst does not fill the receiver's buffer."""


class StatsdExport:
    """Runs in one greenlet. `flush` gives what an interval added; `end_interval` is told of each interval's end, server or none."""

    def __init__(
        self, view: NodeView, flush: Callable[[], Flush], lookup: Resolve, journal: Journal, end_interval: Callable[[], None] | None = None,
    ) -> None:
        self._view = view
        self._flush = flush
        self._end_interval = end_interval
        self._lookup = lookup
        self._journal = journal
        self._changed = Event()
        self._sinks: tuple[StatsSink, ...] = ()
        self._exporters: list[StatsdExporter] = []
        self._resolved: dict[str, tuple[Address, ...]] = {}
        self._ended = {"dropped_lines": 0, "dropped_datagrams": 0, "connect_failures": 0}

    def configure(self, stats: Stats) -> None:
        """Take the sinks of a configuration; those that are there already stay as they are."""
        if stats.sinks != self._sinks:
            kept = dict(zip(self._sinks, self._exporters, strict=True))
            self._exporters = [kept.pop(sink, None) or StatsdExporter(sink, self._addresses_of(sink)) for sink in stats.sinks]
            self._sinks = stats.sinks
            for exporter in kept.values():
                self._end(exporter)
        rules = TagRules(stats.tags)
        for exporter in self._exporters:
            exporter.use(rules)
        self._changed.set()

    def run(self) -> None:
        """For ever: a flush each interval, and between them whatever did not go at once."""
        next_s = monotonic_s() + self._view.settings.stats.flush_interval_s
        while True:
            self._changed.clear()
            pending = any(exporter.pending for exporter in self._exporters)
            left_s = max(next_s - monotonic_s(), 0.0)
            if self._changed.wait(min(left_s, STEP_S) if pending else left_s):
                next_s = min(next_s, monotonic_s() + self._view.settings.stats.flush_interval_s)
            if monotonic_s() >= next_s:
                self.flush()
                next_s = max(next_s + self._view.settings.stats.flush_interval_s, monotonic_s())
            else:
                self._step()

    def flush(self) -> None:
        """Now. Also the last thing before the agent ends, so that the last seconds are counted somewhere."""
        if self._end_interval is not None:
            self._end_interval()
        if not self._exporters:
            return
        self._resolve_names()
        flush = self._flush()
        for exporter in self._exporters:
            exporter.send(flush, monotonic_s())

    def close(self) -> None:
        """What is pending is lost."""
        for exporter in self._exporters:
            exporter.close()

    def counters(self) -> dict[str, int]:
        """What did not arrive, by metric name."""
        counted = dict(self._ended)
        for exporter in self._exporters:
            _count(counted, exporter)
        return {f"server.statsd_{name}": value for name, value in counted.items()}

    def _end(self, exporter: StatsdExporter) -> None:
        exporter.close()
        _count(self._ended, exporter)

    def _step(self) -> None:
        for exporter in self._exporters:
            exporter.step(monotonic_s())

    def _addresses_of(self, sink: StatsSink) -> Callable[[], Sequence[Address]]:
        """Literals, at the moment of a connect: a server's name was resolved before the flush, a cluster's endpoints are at hand."""
        if sink.tcp_cluster:
            return lambda: self._view.healthy_addresses(sink.tcp_cluster)
        address = sink.address
        if isinstance(address, SocketAddress) and not is_literal(address.host):
            return lambda: self._resolved.get(str(address), ())
        return lambda: (address,) if address is not None else ()

    def _resolve_names(self) -> None:
        """Only for who has no socket yet would be enough; but a name is asked for seldom, and a server that moved is found at once."""
        for sink in self._sinks:
            address = sink.address
            if not isinstance(address, SocketAddress) or is_literal(address.host):
                continue
            try:
                found = resolve(self._lookup, address.host, "v4_preferred").addresses
            except OSError as error:
                if str(address) not in self._resolved:
                    self._journal.warning("statsd server's name cannot be resolved", server=address, error=error)
                continue
            self._resolved[str(address)] = tuple(SocketAddress(host=host, port=address.port) for host in found)


def _count(counted: dict[str, int], exporter: StatsdExporter) -> None:
    for name in counted:
        counted[name] += getattr(exporter, name)
