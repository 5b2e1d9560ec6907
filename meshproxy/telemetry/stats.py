"""Metrics as the agent reads them: blocks of cells summed over all workers, what changed since the last flush, what follows from limits.

Whoever shows or sends metrics gets a `Reading` (`stats_text`, `prometheus`) or the `Delta`s of a flush (`statsd`).
"""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from meshproxy.model import Breakers
from meshproxy.scoreboard.catalogue import HISTOGRAM_CELLS, BlockKind, MetricType, block_cells, offsets
from meshproxy.scoreboard.region import Region, added

DirectoryRow = tuple[str, str, int]


class Slot(NamedTuple):
    """A metric's place in its block."""

    at: int
    name: str
    type: MetricType
    help: str


LAYOUT: dict[BlockKind, tuple[Slot, ...]] = {kind: tuple(Slot(at, *row) for at, row in offsets(kind)) for kind in BlockKind}
COUNTERS = {kind: tuple(slot for slot in LAYOUT[kind] if slot.type is MetricType.COUNTER) for kind in BlockKind}
GAUGES = {kind: tuple(slot for slot in LAYOUT[kind] if slot.type is MetricType.GAUGE) for kind in BlockKind}
HISTOGRAMS = {kind: tuple(slot for slot in LAYOUT[kind] if slot.type is MetricType.HISTOGRAM) for kind in BlockKind}
_CELLS = {kind: block_cells(kind) for kind in BlockKind}
_ZEROS = {kind: array.array("q", bytes(8 * _CELLS[kind])) for kind in BlockKind}
_RQ_TOTAL = next(slot.at for slot in LAYOUT[BlockKind.HTTP] if slot.name == "downstream_rq_total")


class Extra(NamedTuple):
    """A metric that is no cell: the agent's own (`server.uptime`, membership of clusters) or derived (an open breaker).

    `kind` None: `name` is the whole name (`listener_manager.total_listeners_active`).
    """

    kind: BlockKind | None
    thing: str
    name: str
    type: MetricType
    value: int
    help: str = ""


def extras_of(gauges: Mapping[str, int], counters: Mapping[str, int] | None = None) -> list[Extra]:
    """Extras from whole names: `server.*` and `cluster.<name>.*` (the last part is the metric) are known as such and get their tags."""
    named = [*((name, MetricType.GAUGE, value) for name, value in gauges.items())]
    named += [(name, MetricType.COUNTER, value) for name, value in (counters or {}).items()]
    return [Extra(*_owner(name), kind, value) for name, kind, value in named]


def _owner(name: str) -> tuple[BlockKind | None, str, str]:
    first, _, rest = name.partition(".")
    if first == "server":
        return BlockKind.SERVER, "", rest
    if first == "cluster" and "." in rest:
        thing, _, metric = rest.rpartition(".")
        return BlockKind.CLUSTER, thing, metric
    return None, "", name


class Block(NamedTuple):
    """One thing's cells. `used` are the gauges (places) that were ever seen other than 0."""

    kind: BlockKind
    thing: str
    first: int
    cells: Sequence[int]
    interval: Sequence[int] | None
    """What was added between the last two flushes; None = nothing."""
    used: frozenset[int]


class Reading(NamedTuple):
    """All metrics of one moment. Things that never counted anything have a block of zeros."""

    blocks: list[Block]
    extras: list[Extra]


class Delta(NamedTuple):
    """What one block adds at a flush: `cells` are differences for counters and histograms, and the present value for gauges."""

    kind: BlockKind
    thing: str
    cells: Sequence[int]
    used: frozenset[int]


class Flush(NamedTuple):
    """All that a flush sends. Counters among the extras are differences too."""

    deltas: list[Delta]
    extras: list[Extra]


class _Memory:
    """What is remembered of a block between readings. `owner` tells a block from one that was at the same place before."""

    __slots__ = ("baseline", "flushed", "interval", "owner", "used")

    def __init__(self, owner: tuple[str, str], kind: BlockKind) -> None:
        self.owner = owner
        self.flushed: Sequence[int] = _ZEROS[kind]
        self.baseline: dict[int, int] = {}
        self.interval: Sequence[int] | None = None
        self.used: frozenset[int] = frozenset()


class MetricReader:
    """Reads the region by a directory; keeps what a flush and `/reset_counters` need. Owned by the agent."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._memory: dict[int, _Memory] = {}
        self._flushed_extras: dict[tuple[BlockKind | None, str, str], int] = {}

    def read(
        self, rows: Sequence[DirectoryRow], extras: Iterable[Extra] = (), limits: Mapping[str, tuple[Breakers, Breakers]] | None = None,
    ) -> Reading:
        """All blocks of the directory, but endpoints' (`hosts`). `limits` are a cluster's default and high priority breakers, by its name
        in metrics; they add the gauges that say which breaker is open."""
        blocks = list(self.blocks(row for row in rows if row[0] != BlockKind.HOST.name))
        derived = [*extras, *self._workers(rows)]
        for block in blocks:
            if limits and block.kind is BlockKind.CLUSTER and block.thing in limits:
                derived += open_breakers(block, limits[block.thing])
        return Reading(blocks, derived)

    def blocks(self, rows: Iterable[DirectoryRow]) -> Iterator[Block]:
        """Blocks one by one, so that a caller with thousands of clusters can do other things between them."""
        named = list(rows)
        end = max((first + _CELLS[BlockKind[kind]] for kind, _, first in named), default=0)
        written = _Runs(self._region.written(0, end))
        for kind_name, thing, first in named:
            kind = BlockKind[kind_name]
            if written.touch(first, _CELLS[kind]):
                yield self._block(kind, thing, first)
            else:
                yield Block(kind, thing, first, _ZEROS[kind], None, frozenset())

    def _block(self, kind: BlockKind, thing: str, first: int) -> Block:
        cells = self._region.read_cells(first, _CELLS[kind])
        memory = self._memory.get(first)
        if memory is not None and memory.owner != (kind.name, thing):
            del self._memory[first]
            memory = None
        if memory is None:
            if not any(cells):
                return Block(kind, thing, first, _ZEROS[kind], None, frozenset())
            memory = self._memory[first] = _Memory((kind.name, thing), kind)
        fresh = [slot.at for slot in GAUGES[kind] if cells[slot.at] and slot.at not in memory.used]
        if fresh:
            memory.used = memory.used.union(fresh)
        if any(cells[at] < before for at, before in memory.baseline.items()):
            memory.baseline = {}         # the block was zeroed and given to the same name again
        for at, before in memory.baseline.items():
            cells[at] -= before
        return Block(kind, thing, first, cells, memory.interval, memory.used)

    def hosts(self, rows: Iterable[DirectoryRow]) -> dict[str, dict[str, int]]:
        """Endpoints' metrics by `cluster/address`, as `/clusters` shows them."""
        blocks = self.blocks(row for row in rows if row[0] == BlockKind.HOST.name)
        return {block.thing: {slot.name: block.cells[slot.at] for slot in LAYOUT[BlockKind.HOST]} for block in blocks}

    def flush(self, reading: Reading) -> Flush:
        """What changed since the last flush, for every block that is used. Once in each flush interval, for all sinks together."""
        known = [(block, self._memory.get(block.first)) for block in reading.blocks]
        deltas = [self._flush_block(block, memory) for block, memory in known if memory is not None]
        for first in self._memory.keys() - {block.first for block in reading.blocks}:
            if self._memory[first].owner[0] != BlockKind.HOST.name:
                del self._memory[first]
        before, self._flushed_extras = self._flushed_extras, {}
        return Flush(deltas, [self._flush_extra(extra, before) for extra in reading.extras])

    def _flush_extra(self, extra: Extra, before: dict[tuple[BlockKind | None, str, str], int]) -> Extra:
        if extra.type is not MetricType.COUNTER:
            return extra
        key = (extra.kind, extra.thing, extra.name)
        self._flushed_extras[key] = extra.value
        last = before.get(key, 0)
        return extra._replace(value=extra.value - last if extra.value >= last else extra.value)

    def _flush_block(self, block: Block, memory: _Memory) -> Delta:
        if memory.flushed == block.cells:
            memory.interval = None
            unchanged = array.array("q", bytes(8 * len(block.cells)))
            for slot in GAUGES[block.kind]:
                unchanged[slot.at] = block.cells[slot.at]
            return Delta(block.kind, block.thing, unchanged, block.used)
        difference = added(block.cells, memory.flushed)
        memory.flushed, memory.interval = block.cells, difference
        shown = array.array("q", difference)
        for slot in GAUGES[block.kind]:
            shown[slot.at] = block.cells[slot.at]
        return Delta(block.kind, block.thing, shown, block.used)

    def reset_counters(self, rows: Iterable[DirectoryRow]) -> None:
        """Counters begin at 0 again (`/reset_counters`). Workers go on counting: what they counted so far is taken off what is shown."""
        for block in self.blocks(rows):
            memory = self._memory.get(block.first)
            if memory is not None:
                for slot in COUNTERS[block.kind]:
                    if block.cells[slot.at]:
                        memory.baseline[slot.at] = memory.baseline.get(slot.at, 0) + block.cells[slot.at]

    def _workers(self, rows: Sequence[DirectoryRow]) -> Iterator[Extra]:
        """What is worth knowing of each worker alone."""
        managers = [first for kind, _, first in rows if kind == BlockKind.HTTP.name]
        for slot in range(self._region.slots_started):
            cells = self._region.read_cells_of(slot, 0, _CELLS[BlockKind.SERVER])
            requests = sum(self._region.read_cells_of(slot, first + _RQ_TOTAL, 1)[0] for first in managers)
            thing = f"worker_{slot}"
            yield Extra(BlockKind.SERVER, thing, "downstream_rq_total", MetricType.COUNTER, requests, "requests of this worker")
            for place in LAYOUT[BlockKind.SERVER]:
                if place.type is not MetricType.HISTOGRAM:
                    yield Extra(BlockKind.SERVER, thing, place.name, place.type, cells[place.at], place.help)


class _Runs:
    """Sorted runs of cells, asked in rising order mostly."""

    def __init__(self, runs: list[tuple[int, int]]) -> None:
        self._runs = runs
        self._at = 0

    def touch(self, first: int, count: int) -> bool:
        if self._at and self._runs[self._at - 1][1] > first:
            self._at = 0
        while self._at < len(self._runs) and self._runs[self._at][1] <= first:
            self._at += 1
        return self._at < len(self._runs) and self._runs[self._at][0] < first + count


_HELD = {slot.name: slot.at for slot in GAUGES[BlockKind.CLUSTER] if slot.name.endswith("_held")}


def open_breakers(block: Block, limits: tuple[Breakers, Breakers]) -> Iterator[Extra]:
    """The gauges `circuit_breakers.<priority>.*_open` of a cluster: 1 when as much is held as the limit allows."""
    for priority, breakers in zip(("default", "high"), limits, strict=True):
        held = {share: block.cells[_HELD[f"circuit_breakers.{priority}.{share}_held"]] for share in ("cx", "rq_pending", "rq", "rq_retry")}
        allowed = {
            "cx": breakers.max_connections,
            "rq_pending": breakers.max_pending,
            "rq": breakers.max_requests,
            "rq_retry": most_retries(breakers, held["rq"] + held["rq_pending"]),
        }
        for share, value in held.items():
            name = f"circuit_breakers.{priority}.{share}_open"
            is_open = int(value >= allowed[share])
            yield Extra(BlockKind.CLUSTER, block.thing, name, MetricType.GAUGE, is_open, f"1: the {share} breaker is open")


def most_retries(breakers: Breakers, active: int) -> int:
    """Retries that may be in flight: the budget's share of what is active, or the plain limit."""
    budget = breakers.retry_budget
    return max(budget.min_concurrency, int(active * budget.percent / 100)) if budget else breakers.max_retries


def histogram_of(cells: Sequence[int], at: int) -> Sequence[int]:
    """The cells of the histogram that starts at a place in a block."""
    return cells[at : at + HISTOGRAM_CELLS]


def scale_of(name: str) -> float:
    """What recorded values are divided by when shown: microseconds as ms, unless the name says us."""
    return 1.0 if name.endswith("_us") else 1000.0
