"""Metrics in Prometheus' text format 0.0.4, named and labelled as Envoy does it: `envoy_cluster_upstream_rq_total{envoy_cluster_name="x"}`.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from meshproxy.scoreboard.catalogue import HISTOGRAM_BUCKETS, BlockKind, MetricType
from meshproxy.telemetry.histogram import count, cumulative
from meshproxy.telemetry.stats import LAYOUT, Block, Extra, Reading, Slot, histogram_of, scale_of
from meshproxy.telemetry.stats_text import Query
from meshproxy.telemetry.tags import TagRules, joined, prefix_of, tagged

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")


LINES_PER_PIECE = 2000
"""Some ms of work: whoever writes the page out can do other things between pieces."""

Value = int | Sequence[int]
"""A number or a histogram's cells."""


def text(reading: Reading, query: Query, buckets_ms: Sequence[float], rules: TagRules | None = None) -> Iterator[str]:
    """The page in pieces of some hundred KB at most. All series of a name stand together, as the format wants. `buckets_ms` are
    histograms' upper bounds; `rules` make labels besides Envoy's."""
    rules = rules or TagRules()
    for kind in BlockKind:
        blocks = [(block, _labels(kind, block.thing, rules)) for block in reading.blocks if block.kind is kind]
        families: dict[str, list[Slot]] = {}
        for slot in LAYOUT[kind]:
            if slot.type in query.types:
                families.setdefault(_family(tagged(kind, "", slot.name).name), []).append(slot)
        for name, slots in families.items():
            series = (one for slot in slots for one in _series(kind, slot, blocks, query))
            # "responses with status 100" is one of many in its family, whose labels say which.
            first = slots[0]._replace(help=slots[0].help.split(" with ")[0]) if len(slots) > 1 else slots[0]
            yield from _family_text(name, first, series, buckets_ms)
    yield from _extras_text(reading, query, rules)


def _series(kind: BlockKind, slot: Slot, blocks: list[tuple[Block, str]], query: Query) -> Iterator[tuple[str, Value]]:
    """Labels and value of one metric of each thing that is asked for."""
    row_labels = _labels_text(tagged(kind, "", slot.name).tags)
    for block, thing_labels in blocks:
        value = histogram_of(block.cells, slot.at) if slot.type is MetricType.HISTOGRAM else block.cells[slot.at]
        if query.used_only and not (value or slot.at in block.used if isinstance(value, int) else any(value)):
            continue
        if query.filter is None or query.filter.search(prefix_of(kind, block.thing) + slot.name):
            yield ",".join(part for part in (row_labels, thing_labels) if part), value


def _extras_text(reading: Reading, query: Query, rules: TagRules) -> Iterator[str]:
    families: dict[str, list[Extra]] = {}
    for extra in reading.extras:
        if extra.type in query.types and (query.filter is None or query.filter.search(prefix_of(extra.kind, extra.thing) + extra.name)):
            families.setdefault(_family(tagged(extra.kind, extra.thing, extra.name).name), []).append(extra)
    for name, extras in families.items():
        first = Slot(0, extras[0].name, extras[0].type, extras[0].help)
        series = ((_labels(extra.kind, extra.thing, rules, extra.name), extra.value) for extra in extras)
        yield from _family_text(name, first, series, ())


def _family_text(name: str, first: Slot, series: Iterator[tuple[str, Value]], buckets_ms: Sequence[float]) -> Iterator[str]:
    lines = [f"# HELP {name} {_escape_help(first.help)}\n# TYPE {name} {first.type.value}\n"]
    started = False
    for labels, value in series:
        started = True
        if isinstance(value, int):
            lines.append(f"{name}{{{labels}}} {value}\n")
        else:
            lines += _histogram(name, first.name, labels, value, buckets_ms)
        if len(lines) >= LINES_PER_PIECE:
            yield "".join(lines)
            lines = []
    if started and lines:
        yield "".join(lines)


def _family(name: str) -> str:
    return "envoy_" + _NOT_IN_NAMES.sub("_", name)


def _labels(kind: BlockKind | None, thing: str, rules: TagRules, row: str = "") -> str:
    """The labels that say whose metric it is."""
    return _labels_text(joined(tagged(kind, thing, row).tags, rules.of(kind, thing)))


def _labels_text(tags: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f'{_NOT_IN_NAMES.sub("_", tag)}="{_escape_label(value)}"' for tag, value in tags)


def _histogram(name: str, row: str, labels: str, cells: Sequence[int], buckets_ms: Sequence[float]) -> Iterator[str]:
    scale = scale_of(row)
    before = labels + "," if labels else ""
    total = count(cells)
    counts = cumulative(cells, [bound * scale for bound in buckets_ms]) if total else [0] * len(buckets_ms)
    for bound, below in zip(buckets_ms, counts, strict=True):
        yield f'{name}_bucket{{{before}le="{bound:.10g}"}} {below}\n'
    yield f'{name}_bucket{{{before}le="+Inf"}} {total}\n'
    yield f"{name}_sum{{{labels}}} {cells[HISTOGRAM_BUCKETS] / scale:.10g}\n"
    yield f"{name}_count{{{labels}}} {total}\n"


def _escape_label(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
