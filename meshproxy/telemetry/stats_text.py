"""The answers to `/stats` as Envoy writes them: text and JSON, filtered. Made in pieces, one thing at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import re2

from meshproxy.scoreboard.catalogue import MetricType
from meshproxy.telemetry.histogram import SUPPORTED_QUANTILES, quantile
from meshproxy.telemetry.stats import HISTOGRAMS, LAYOUT, Block, Reading, histogram_of, scale_of
from meshproxy.telemetry.tags import prefix_of

StatsType = Literal["All", "Counters", "Gauges", "Histograms", "TextReadouts"]
_TYPES: dict[str, tuple[MetricType, ...]] = {
    "All": tuple(MetricType), "Counters": (MetricType.COUNTER,), "Gauges": (MetricType.GAUGE,), "Histograms": (MetricType.HISTOGRAM,),
    "TextReadouts": (),
}


class Query(NamedTuple):
    """What `/stats` was asked for. `filter` is a compiled pattern, searched in full names; `used_only` leaves out what never counted."""

    used_only: bool = False
    filter: re2._Regexp | None = None
    types: tuple[MetricType, ...] = tuple(MetricType)


def make_query(used_only: bool = False, filter_text: str = "", type_name: str = "All") -> Query:
    """A query from request parameters; raises ValueError, for a 400, with what to write instead."""
    types = {name.lower(): wanted for name, wanted in _TYPES.items()}.get((type_name or "All").lower())
    if types is None:
        raise ValueError(f"usage: /stats?type={'|'.join(_TYPES)}: {type_name!r} is none of them")
    try:
        pattern = re2.compile(filter_text) if filter_text else None
    except re2.error as error:
        raise ValueError(f"Invalid re2 regex: {filter_text!r}: {error}") from None
    return Query(used_only, pattern, types)


_NOTHING = [None] * len(SUPPORTED_QUANTILES)


class Number(NamedTuple):
    name: str
    value: int


class Distribution(NamedTuple):
    """`interval` and `cumulative` are values at SUPPORTED_QUANTILES, in the metric's unit; [] = nothing recorded."""

    name: str
    interval: list[float]
    cumulative: list[float]


def numbers(reading: Reading, query: Query) -> Iterator[Number]:
    """Counters and gauges in order of things and then of names."""
    extras: dict[str, list[tuple[str, int, MetricType]]] = {}
    for extra in reading.extras:
        extras.setdefault(prefix_of(extra.kind, extra.thing), []).append((extra.name, extra.value, extra.type))
    blocks: dict[str, list[Block]] = {}          # RBAC's rules and their shadow may have one prefix
    for block in reading.blocks:
        blocks.setdefault(prefix_of(block.kind, block.thing), []).append(block)
    for prefix in sorted(blocks.keys() | extras.keys()):
        rows = [(name, value) for name, value, kind in extras.get(prefix, ()) if kind in query.types]
        for block in blocks.get(prefix, ()):
            rows += _cells(block, query)
        for name, value in sorted(rows):
            if query.filter is None or query.filter.search(prefix + name):
                yield Number(prefix + name, value)


def _cells(block: Block, query: Query) -> Iterator[tuple[str, int]]:
    for slot in LAYOUT[block.kind]:
        if slot.type is MetricType.HISTOGRAM or slot.type not in query.types:
            continue
        if query.used_only and not block.cells[slot.at] and slot.at not in block.used:
            continue
        yield slot.name, block.cells[slot.at]


def distributions(reading: Reading, query: Query) -> Iterator[Distribution]:
    """Histograms in order of their names."""
    if MetricType.HISTOGRAM not in query.types:
        return
    for block in sorted(reading.blocks, key=lambda block: prefix_of(block.kind, block.thing)):
        for slot in HISTOGRAMS[block.kind]:
            name = prefix_of(block.kind, block.thing) + slot.name
            if query.filter is not None and not query.filter.search(name):
                continue
            total = _summary(slot.name, histogram_of(block.cells, slot.at))
            if total or not query.used_only:
                since = histogram_of(block.interval, slot.at) if block.interval is not None else None
                yield Distribution(name, _summary(slot.name, since) if since is not None else [], total)


def _summary(name: str, cells: Sequence[int]) -> list[float]:
    return [value / scale_of(name) for value in quantile(cells, SUPPORTED_QUANTILES)]


def text(reading: Reading, query: Query) -> Iterator[str]:
    """`/stats`: a line for each metric."""
    for number in numbers(reading, query):
        yield f"{number.name}: {number.value}\n"
    for distribution in distributions(reading, query):
        yield f"{distribution.name}: {_quantiles_text(distribution)}\n"


def _quantiles_text(distribution: Distribution) -> str:
    if not distribution.cumulative:
        return "No recorded values"
    since = [_short(value) for value in distribution.interval] or ["nan"] * len(SUPPORTED_QUANTILES)
    ever = [_short(value) for value in distribution.cumulative]
    return " ".join(f"P{_short(100 * q)}({one},{other})" for q, one, other in zip(SUPPORTED_QUANTILES, since, ever, strict=True))


def _short(value: float) -> str:
    return f"{value:.10g}"


def json_text(reading: Reading, query: Query) -> Iterator[str]:
    """`/stats?format=json`, in Envoy's shape: numbers, then one object with all histograms."""
    separator = '{"stats":['
    for number in numbers(reading, query):
        yield f'{separator}{{"name":{json.dumps(number.name)},"value":{number.value}}}'
        separator = ","
    if MetricType.HISTOGRAM in query.types:
        yield separator + '{"histograms":' + json.dumps(_histograms_json(list(distributions(reading, query)))) + "}"
        separator = ","
    yield separator + "]}" if separator != "," else "]}"


def _histograms_json(listed: list[Distribution]) -> dict:
    return {
        "supported_quantiles": [100 * q for q in SUPPORTED_QUANTILES],
        "computed_quantiles": [
            {
                "name": item.name,
                "values": [
                    {"interval": since, "cumulative": ever}
                    for since, ever in zip(item.interval or _NOTHING, item.cumulative or _NOTHING, strict=True)
                ],
            }
            for item in listed
        ],
    }
