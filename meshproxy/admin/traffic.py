"""Rates and latencies: two looks at the scoreboard and what happened between them. For the home page and `meshproxy top`."""

from __future__ import annotations

import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from meshproxy.scoreboard.catalogue import BlockKind, block_cells, offsets
from meshproxy.scoreboard.region import SLOT_STATES, Region, added
from meshproxy.telemetry.histogram import quantile
from meshproxy.telemetry.stats import histogram_of

Rows = Iterable[tuple[str, str, int]]
QUANTILES = (0.5, 0.9, 0.99)

AT: dict[BlockKind, dict[str, int]] = {kind: {row.name: at for at, row in offsets(kind)} for kind in BlockKind}
"""Where a metric is in its block."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Requests through one thing. Rates are per second of the interval; latencies are None when nothing ended in it."""

    name: str
    requests_per_s: float
    errors_per_s: float
    """Answers with a 5xx status, our own included."""
    requests_active: int
    connections_active: int
    requests_total: int
    bytes_in_per_s: float
    bytes_out_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class WorkerFlow(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's share."""

    slot: int
    state: str
    pid: int
    flow: Flow
    buffered_bytes: int
    longest_turn_ms: float
    """Of the loop, since the last export."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in `interval_s`."""

    interval_s: float
    node: Flow
    downstream: list[Flow]
    """By the connection managers' stat prefix."""
    clusters: list[Flow]
    workers: list[WorkerFlow]


@dataclass(frozen=True)
class Sample:
    """One look. Blocks are sums over all workers; `slots` has each worker's own HTTP cells, added up."""

    at_s: float
    http: dict[str, array.array]
    clusters: dict[str, array.array]
    slots: dict[int, array.array]


def sample(region: Region, rows: Rows, now_s: float) -> Sample:
    """Look now. Cheap for things that were never used."""
    http = [(name, first) for kind, name, first in rows if kind == BlockKind.HTTP.name]
    clusters = [(name, first) for kind, name, first in rows if kind == BlockKind.CLUSTER.name]
    width = block_cells(BlockKind.HTTP)
    return Sample(
        at_s=now_s,
        http={name: region.read_cells(first, width) for name, first in http},
        clusters=_blocks(region, clusters, block_cells(BlockKind.CLUSTER)),
        slots={
            slot: summed([region.read_cells_of(slot, first, width) for _, first in http], width)
            for slot in range(region.slots_started)
        },
    )


def _blocks(region: Region, named: list[tuple[str, int]], width: int) -> dict[str, array.array]:
    """The blocks by name. All that were never written share one of zeros: there may be thousands."""
    runs = region.written(0, max((first for _, first in named), default=0) + width)
    starts = [first for first, _ in runs]
    zeros = array.array("q", bytes(8 * width))

    def used(first: int) -> bool:
        at = bisect_left(starts, first + width)
        return at > 0 and runs[at - 1][1] > first

    return {name: region.read_cells(first, width) if used(first) else zeros for name, first in named}


def summed(blocks: list[array.array], width: int) -> array.array:
    """Cell by cell."""
    if len(blocks) == 1:
        return blocks[0]
    return array.array("q", map(sum, zip(*blocks, strict=True))) if blocks else array.array("q", bytes(8 * width))


def between(old: Sample | None, new: Sample, region: Region, uptime_s: float) -> Traffic:
    """What happened from `old` to `new`; from the node's start when there is no `old`."""
    interval_s = max(new.at_s - old.at_s if old else uptime_s, 0.001)
    width = block_cells(BlockKind.HTTP)
    whole = _http_flow("", summed(list(old.http.values()), width) if old else None, summed(list(new.http.values()), width), interval_s)
    return Traffic(
        interval_s=interval_s,
        node=whole,
        downstream=[_http_flow(name, old and old.http.get(name), cells, interval_s) for name, cells in new.http.items()],
        clusters=[_cluster_flow(name, old and old.clusters.get(name), cells, interval_s) for name, cells in new.clusters.items()],
        workers=[_worker_flow(region, slot, old, new, interval_s) for slot in new.slots if region.state(slot)],
    )


def _worker_flow(region: Region, slot: int, old: Sample | None, new: Sample, interval_s: float) -> WorkerFlow:
    server = AT[BlockKind.SERVER]
    return WorkerFlow(
        slot=slot,
        state=SLOT_STATES[region.state(slot)],
        pid=region.pid(slot),
        flow=_http_flow(str(slot), old and old.slots.get(slot), new.slots[slot], interval_s),
        buffered_bytes=region.read_cells_of(slot, server["buffered_bytes"], 1)[0],
        longest_turn_ms=region.longest_turn_us(slot) / 1000,
    )


class _Change:
    """The cells of one block, before and after."""

    def __init__(self, kind: BlockKind, old: array.array | None, new: array.array, interval_s: float) -> None:
        self._at = AT[kind]
        self._old = old
        self._new = new
        self._interval_s = interval_s

    def now(self, name: str) -> int:
        return self._new[self._at[name]]

    def per_s(self, name: str) -> float:
        """Never below 0: a block that was given to another thing starts again."""
        old = self._old[self._at[name]] if self._old is not None else 0
        return max(self.now(name) - old, 0) / self._interval_s

    def latencies_ms(self, name: str) -> dict[str, float | None]:
        cells = histogram_of(self._new, self._at[name])
        before = histogram_of(self._old, self._at[name]) if self._old is not None else None
        if before == cells or self._new is self._old:
            values: list[float | None] = [None] * len(QUANTILES)
        else:
            values = quantile(added(cells, before) if before is not None else cells, QUANTILES) or [None] * len(QUANTILES)
        return {f"p{round(q * 100)}_ms": None if value is None else value / 1000 for q, value in zip(QUANTILES, values, strict=True)}


def _http_flow(name: str, old: array.array | None, new: array.array, interval_s: float) -> Flow:
    change = _Change(BlockKind.HTTP, old, new, interval_s)
    return Flow(
        name=name,
        requests_per_s=change.per_s("downstream_rq_total"),
        errors_per_s=change.per_s("downstream_rq_5xx"),
        requests_active=change.now("downstream_rq_active"),
        connections_active=change.now("downstream_cx_active"),
        requests_total=change.now("downstream_rq_total"),
        bytes_in_per_s=change.per_s("downstream_cx_rx_bytes_total"),
        bytes_out_per_s=change.per_s("downstream_cx_tx_bytes_total"),
        **change.latencies_ms("downstream_rq_time"),
    )


def _cluster_flow(name: str, old: array.array | None, new: array.array, interval_s: float) -> Flow:
    change = _Change(BlockKind.CLUSTER, old, new, interval_s)
    return Flow(
        name=name,
        requests_per_s=change.per_s("upstream_rq_total"),
        errors_per_s=change.per_s("upstream_rq_5xx"),
        requests_active=change.now("upstream_rq_active"),
        connections_active=change.now("upstream_cx_active"),
        requests_total=change.now("upstream_rq_total"),
        bytes_in_per_s=change.per_s("upstream_cx_rx_bytes_total"),
        bytes_out_per_s=change.per_s("upstream_cx_tx_bytes_total"),
        **change.latencies_ms("upstream_rq_time"),
    )


class TrafficMeter:
    """Traffic since a look that is at least `least_s` old, so that readers who ask often and at once see steady figures."""

    def __init__(self, region: Region, least_s: float = 1.0) -> None:
        self._region = region
        self._least_s = least_s
        self._older: Sample | None = None
        self._newer: Sample | None = None

    def read(self, rows: Rows, now_s: float, uptime_s: float) -> Traffic:
        """Now. The first reading is over the whole uptime."""
        new = sample(self._region, rows, now_s)
        if self._newer is None or now_s - self._newer.at_s >= self._least_s:
            self._older, self._newer = self._newer, new
        return between(self._older, new, self._region, uptime_s)
