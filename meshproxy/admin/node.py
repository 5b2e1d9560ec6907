"""What a page may use: the node as the agent sees it, its metrics, and the master, which carries out orders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from meshproxy.admin.traffic import Traffic
from meshproxy.agent.finding import SourceState
from meshproxy.agent.view import NodeView
from meshproxy.ipc.messages import Answer, Order
from meshproxy.model import ResourceKind


@dataclass(frozen=True)
class StatsQuery:
    """What the query of `/stats` asks for."""

    used_only: bool = False
    pattern: str = ""
    type_name: str = "All"
    """Envoy's words: All, Counters, Gauges, Histograms, TextReadouts; any case."""


class Brought(NamedTuple):
    """What is known of a resource that a control plane brought. `updated_s`: UNIX time, 0 = before this agent was born."""

    version: str
    updated_s: float
    error: str = ""
    """Why a newer one is refused."""


class Metrics(Protocol):
    """The node's metrics; the agent's are over the scoreboard."""

    def text(self, request: StatsQuery) -> Iterable[str]:
        """Envoy's `/stats`, in pieces. All of these raise ValueError, before the first piece, for what is no query."""

    def json(self, request: StatsQuery) -> Iterable[str]:
        """Envoy's `/stats?format=json`."""

    def prometheus(self, request: StatsQuery) -> Iterable[str]:
        """Prometheus text."""

    def traffic(self) -> Traffic:
        """Rates and latencies of the last second or two."""

    def reset_counters(self) -> None:
        """Count from 0 again in what is shown."""


@dataclass(frozen=True)
class AdminNode:
    """The node, for pages."""

    view: NodeView
    metrics: Metrics
    give_order: Callable[[Order], Answer]
    """Has the master do it, and waits; at the end of patience the answer is not ok."""
    set_log_level: Callable[[str], None]
    """Of the agent itself; the master's goes by order."""
    brought: Callable[[tuple[ResourceKind, str]], Brought | None] = lambda key: None
    """Of a resource that a control plane brought."""
    warming: Callable[[], Sequence[tuple[tuple[ResourceKind, str], Brought, msgspec.Struct]]] = lambda: ()
    """Clusters and listeners of control planes that are not in force yet, or not as they are wanted."""
    sources: Callable[[str], Sequence[SourceState]] = lambda cluster: ()
    """Of a cluster whose endpoints are found, by its name."""
