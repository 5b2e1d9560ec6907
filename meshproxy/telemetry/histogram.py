"""What a histogram's buckets say: quantiles, counts below a bound, samples that stand for all.

A histogram is `HISTOGRAM_BUCKETS` counts and, in the last cell, the sum of all values (`scoreboard/shared.h` has the bucketing). Two are
merged by adding them cell by cell. Values are microseconds, or whatever the metric's name says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from meshproxy.scoreboard.catalogue import HISTOGRAM_BUCKETS, HISTOGRAM_SUB_BUCKETS

SUPPORTED_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)
"""Envoy's."""


def _lower_bound(bucket: int) -> int:
    octave, step = divmod(bucket, HISTOGRAM_SUB_BUCKETS)
    return step if octave == 0 else (HISTOGRAM_SUB_BUCKETS + step) << (octave - 1)


LOWER_BOUNDS = tuple(_lower_bound(bucket) for bucket in range(HISTOGRAM_BUCKETS + 1))
"""Bucket i counts values from LOWER_BOUNDS[i] up to, not with, LOWER_BOUNDS[i + 1]; the last bucket has all that are longer too."""


def count(cells: Sequence[int]) -> int:
    """How many values were recorded."""
    return sum(cells) - cells[HISTOGRAM_BUCKETS]


def quantile(cells: Sequence[int], wanted: Sequence[float]) -> list[float]:
    """The values at these quantiles (0 to 1, rising), each known to its bucket and put in the middle of it; [] when nothing was recorded.

    0 is the lower bound of the first bucket in use and 1 the upper bound of the last, so all others are between.
    """
    running = list(accumulate(cells[:HISTOGRAM_BUCKETS]))
    total = running[-1]
    if not total:
        return []
    first = next(at for at, reached in enumerate(running) if reached)
    last = next(at for at, reached in enumerate(running) if reached == total)
    found, at = [], first
    for share in wanted:
        while running[at] < share * total:
            at += 1
        found.append(LOWER_BOUNDS[first] if share <= 0 else _highest(last) if share >= 1 else middle(at))
    return [float(value) for value in found]


def middle(bucket: int) -> float:
    """What a value in the bucket is taken for: it is exact below HISTOGRAM_SUB_BUCKETS, where a bucket is one value wide."""
    return (LOWER_BOUNDS[bucket] + _highest(bucket)) / 2


def _highest(bucket: int) -> int:
    return LOWER_BOUNDS[bucket + 1] - 1


def cumulative(cells: Sequence[int], bounds: Iterable[float]) -> list[int]:
    """How many values are at most each bound (rising). A bound inside a bucket takes the part of it that lies below, evenly spread."""
    counts, at, below = [], 0, 0
    for bound in bounds:
        while at < HISTOGRAM_BUCKETS and _highest(at) <= bound:
            below += cells[at]
            at += 1
        part = 0
        if at < HISTOGRAM_BUCKETS and cells[at] and bound >= LOWER_BOUNDS[at]:
            width = LOWER_BOUNDS[at + 1] - LOWER_BOUNDS[at]
            part = int(cells[at] * (bound + 1 - LOWER_BOUNDS[at]) / width)
        counts.append(below + min(part, cells[at] if at < HISTOGRAM_BUCKETS else 0))
    return counts


def representatives(cells: Sequence[int], most: int) -> list[float]:
    """At most `most` values that are spread like all recorded ones: evenly over the ranks, and the highest is among them."""
    running = list(accumulate(cells[:HISTOGRAM_BUCKETS]))
    total = running[-1]
    number = min(total, most)
    values, at = [], 0
    for place in range(number):
        rank = total if place == number - 1 else (place + 0.5) * total / number
        while running[at] < rank:
            at += 1
        values.append(middle(at))
    return values
