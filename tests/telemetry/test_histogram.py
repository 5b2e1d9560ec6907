"""What buckets say is true of the values that were recorded, to a bucket's width."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.scoreboard.catalogue import HISTOGRAM_BUCKETS, HISTOGRAM_CELLS
from meshproxy.scoreboard.region import bucket_of
from meshproxy.telemetry.histogram import LOWER_BOUNDS, SUPPORTED_QUANTILES, count, cumulative, middle, quantile, representatives

values_list = st.lists(st.integers(0, 1 << 33), min_size=1, max_size=200)
WIDTH = 0.13
"""A bucket is an eighth of its value wide, so its middle is within a sixteenth; the ends are within an eighth."""


def recorded(values: list[int]) -> list[int]:
    cells = [0] * HISTOGRAM_CELLS
    for value in values:
        cells[bucket_of(value)] += 1
        cells[HISTOGRAM_BUCKETS] += value
    return cells


def exact(values: list[int], share: float) -> int:
    """The value of this rank."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def test_bounds_are_the_compiled_buckets() -> None:
    for bucket in range(HISTOGRAM_BUCKETS):
        assert bucket_of(LOWER_BOUNDS[bucket]) == bucket
        assert bucket_of(LOWER_BOUNDS[bucket + 1] - 1) == bucket


def test_nothing_recorded() -> None:
    empty = [0] * HISTOGRAM_CELLS

    assert quantile(empty, SUPPORTED_QUANTILES) == []
    assert representatives(empty, 5) == []
    assert cumulative(empty, [1.0, 2.0]) == [0, 0]


@given(values_list)
def test_quantiles_are_near_the_true_ones_and_rise(values: list[int]) -> None:
    found = quantile(recorded(values), SUPPORTED_QUANTILES)

    assert found == sorted(found)
    for share, value in zip(SUPPORTED_QUANTILES, found, strict=True):
        true = exact(values, share)
        assert abs(value - true) <= true * WIDTH


def test_small_values_are_exact() -> None:
    assert quantile(recorded([0, 3, 5, 5, 7]), [0.0, 0.5, 1.0]) == [0.0, 5.0, 7.0]
    assert middle(bucket_of(6)) == 6.0


@given(values_list, st.lists(st.floats(0, 1e10), max_size=20))
def test_cumulative_counts_rise_and_are_near(values: list[int], bounds: list[float]) -> None:
    bounds = sorted(bounds)
    cells = recorded(values)
    found = cumulative(cells, [*bounds, 2.0**40])

    assert found == sorted(found)
    assert found[-1] == len(values)
    for bound, below in zip(bounds, found, strict=False):
        assert sum(value <= bound * (1 - WIDTH) for value in values) <= below <= sum(value <= bound * (1 + WIDTH) + 1 for value in values)


@given(values_list, st.integers(1, 40))
def test_representatives_are_spread_like_the_values(values: list[int], most: int) -> None:
    cells = recorded(values)
    chosen = representatives(cells, most)

    assert count(cells) == len(values)
    assert len(chosen) == min(most, len(values))
    assert chosen == sorted(chosen)
    assert bucket_of(int(chosen[-1])) == bucket_of(max(values))
    if len(values) <= most:
        assert [bucket_of(int(value)) for value in chosen] == sorted(bucket_of(value) for value in values)


def test_representatives_keep_the_percentiles() -> None:
    values = [1000] * 900 + [50_000] * 90 + [2_000_000] * 10
    chosen = representatives(recorded(values), 32)

    assert sum(900 < value < 1100 for value in chosen) in (28, 29)
    assert sum(44_000 < value < 57_000 for value in chosen) in (2, 3)
    assert chosen[-1] > 1_700_000
