"""The node's metrics for the admin API and for export: the scoreboard's pages added up, and what no worker counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshproxy.admin.node import StatsQuery
from meshproxy.admin.traffic import Traffic, TrafficMeter
from meshproxy.agent.gauges import node_gauges, start_new_turns
from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.telemetry.stats import Flush, MetricReader, Reading, extras_of

if TYPE_CHECKING:
    from meshproxy.telemetry.stats_text import Query


class AgentMetrics:
    """One for the agent. `own_counters` are the agent's, by whole name."""

    def __init__(self, view: NodeView, own_counters: Callable[[], dict[str, int]] = dict) -> None:
        self._view = view
        self._own_counters = own_counters
        self._reader = MetricReader(view.region)
        self._meter = TrafficMeter(view.region)

    def reading(self) -> Reading:
        """All metrics, now."""
        limits = {facts.stat_name: (facts.breakers, facts.high_breakers) for facts in self._view.facts.values()}
        return self._reader.read(self._view.rows, extras_of(node_gauges(self._view), self._own_counters()), limits)

    def flush(self) -> Flush:
        """What is to be exported: once in each interval, for all servers together."""
        flush = self._reader.flush(self.reading())
        start_new_turns(self._view)
        return flush

    def text(self, request: StatsQuery) -> str:
        """Raises ValueError for a type that is none."""
        from meshproxy.telemetry import stats_text

        return "".join(stats_text.text(self.reading(), self._query(request)))

    def json(self, request: StatsQuery) -> str:
        """Raises ValueError for a type that is none."""
        from meshproxy.telemetry import stats_text

        return "".join(stats_text.json_text(self.reading(), self._query(request)))

    def prometheus(self, request: StatsQuery) -> str:
        """Raises ValueError for a type that is none."""
        from meshproxy.telemetry import prometheus

        return "".join(prometheus.text(self.reading(), self._query(request), self._view.settings.stats.histogram_buckets_ms))

    def traffic(self) -> Traffic:
        """Rates and latencies of the last second or two; the first time, since the node's start."""
        return self._meter.read(self._view.rows, monotonic_s(), self._view.uptime_s)

    def reset_counters(self) -> None:
        """In what is shown; workers go on counting."""
        self._reader.reset_counters(self._view.rows)

    def _query(self, request: StatsQuery) -> Query:
        # Late, like the pages' modules: they bring RE2 along, some megabytes that an agent nobody asks does not need.
        from meshproxy.telemetry.stats_text import make_query

        return make_query(request.used_only, request.pattern, request.type_name)
