"""The node's metrics for the admin API and for export: the scoreboard's pages added up, and what no worker counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import gevent

from meshproxy.admin.node import StatsQuery
from meshproxy.admin.traffic import Traffic, TrafficMeter
from meshproxy.agent.gauges import node_gauges, start_new_turns
from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.scoreboard.catalogue import BlockKind
from meshproxy.telemetry.stats import Flush, MetricReader, Reading, extras_of, open_breakers
from meshproxy.telemetry.tags import TagRules

if TYPE_CHECKING:
    from meshproxy.telemetry.stats_text import Query

BLOCKS_PER_TURN = 32
"""Read in one go, a ms or so; then others get their turn, because the rings of busy workers fill in some tens of ms."""


class AgentMetrics:
    """One for the agent. `own_counters` and `own_gauges` are the agent's, by whole name."""

    def __init__(self, view: NodeView, own_counters: Callable[[], dict[str, int]] = dict,
                 own_gauges: Callable[[], dict[str, int]] = dict) -> None:
        self._view = view
        self._own_counters = own_counters
        self._own_gauges = own_gauges
        self._shown = MetricReader(view.region)
        self._watched = False
        self._rules = TagRules()
        # Of its own, so that /reset_counters, which changes what is shown, takes nothing from what is exported.
        self._exported = MetricReader(view.region)
        self._meter = TrafficMeter(view.region)

    def reading(self) -> Reading:
        """All metrics as they are shown, now."""
        self._watched = True
        return self._read(self._shown, every_breaker=True)

    def flush(self) -> Flush:
        """What is to be exported: once in each interval, for all servers together."""
        flush = self._exported.flush(self._read(self._exported, every_breaker=False))
        start_new_turns(self._view)
        return flush

    def end_interval(self) -> None:
        """For the interval columns of what is shown; costs nothing while nobody looks."""
        if self._watched:
            self._watched = False
            self._shown.flush(self._read(self._shown, every_breaker=False))

    def text(self, request: StatsQuery) -> Iterable[str]:
        """Raises ValueError for a type that is none."""
        from meshproxy.telemetry import stats_text

        return stats_text.text(self.reading(), self._query(request))

    def json(self, request: StatsQuery) -> Iterable[str]:
        """Raises ValueError for a type that is none."""
        from meshproxy.telemetry import stats_text

        return stats_text.json_text(self.reading(), self._query(request))

    def prometheus(self, request: StatsQuery) -> Iterable[str]:
        """Raises ValueError for a type that is none."""
        from meshproxy.telemetry import prometheus

        stats = self._view.settings.stats
        if self._rules.rows != stats.tags:
            self._rules = TagRules(stats.tags)
        return prometheus.text(self.reading(), self._query(request), stats.histogram_buckets_ms, self._rules)

    def traffic(self) -> Traffic:
        """Rates and latencies of the last second or two; the first time, since the node's start."""
        return self._meter.read(self._view.rows, monotonic_s(), self._view.uptime_s)

    def reset_counters(self) -> None:
        """In what is shown; workers go on counting."""
        self._shown.reset_counters(self._view.rows)

    def _read(self, reader: MetricReader, every_breaker: bool) -> Reading:
        """Clusters are what there may be thousands of: they are read with pauses, all else at once. `every_breaker` also of clusters
        where none was ever held, which need not be exported."""
        rows = self._view.rows
        rest = reader.read(
            [row for row in rows if row[0] != BlockKind.CLUSTER.name],
            extras_of({**node_gauges(self._view), **self._own_gauges()}, self._own_counters()),
        )
        blocks, extras = rest.blocks, rest.extras
        limits = {facts.stat_name: (facts.breakers, facts.high_breakers) for facts in self._view.facts.values()}
        for number, block in enumerate(reader.blocks(row for row in rows if row[0] == BlockKind.CLUSTER.name), 1):
            blocks.append(block)
            if block.thing in limits and (every_breaker or block.used):
                extras += open_breakers(block, limits[block.thing])
            if number % BLOCKS_PER_TURN == 0:
                gevent.sleep(0)
        return Reading(blocks, extras)

    def _query(self, request: StatsQuery) -> Query:
        # Late, like the pages' modules: they bring RE2 along, some megabytes that an agent nobody asks does not need.
        from meshproxy.telemetry.stats_text import make_query

        return make_query(request.used_only, request.pattern, request.type_name)
