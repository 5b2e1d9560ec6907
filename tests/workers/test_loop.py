"""The wheel of timers, beside the obvious rule: a timer fires at the first look at or after its time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from meshproxy.workers.loop import try_wheel

START_MS = 1_000_000
HOUR_MS = 3_600_000


def first_look(deadline_ms: int, looks_ms: list[int]) -> int:
    """When a timer fires: at the first look that is not before it; 0 = at none."""
    return next((look for look in looks_ms if look >= deadline_ms), 0)


@given(
    st.lists(st.integers(START_MS + 1, START_MS + 30 * HOUR_MS), max_size=40),
    st.lists(st.integers(START_MS, START_MS + 40 * HOUR_MS), min_size=1, max_size=40).map(sorted),
)
def test_fires_at_the_first_look_after_its_time(deadlines_ms: list[int], looks_ms: list[int]) -> None:
    fired, _said, left = try_wheel(START_MS, deadlines_ms, looks_ms)

    for deadline_ms, at_ms in zip(deadlines_ms, fired, strict=True):
        expected = first_look(deadline_ms, looks_ms)
        # Within a tick of 4 ms a look may come too early for the wheel; the next one finds it.
        assert at_ms == expected or (expected and expected - deadline_ms < 4 and at_ms in (0, first_look(deadline_ms + 4, looks_ms)))
    assert left == 0


@given(st.lists(st.integers(START_MS + 1, START_MS + 2 * HOUR_MS), min_size=1, max_size=40))
def test_who_sleeps_until_it_says_so_misses_nothing(deadlines_ms: list[int]) -> None:
    looks_ms: list[int] = []
    while True:
        fired, said, _left = try_wheel(START_MS, deadlines_ms, [*looks_ms, START_MS + 10 * HOUR_MS])
        if said[-1] == 0:
            break
        looks_ms.append(said[-1])

    for deadline_ms, at_ms in zip(deadlines_ms, fired, strict=True):
        assert deadline_ms <= at_ms < deadline_ms + 8


def test_every_distance_is_reached() -> None:
    """Each power of two of ticks and its neighbours, from a time that is aligned to all levels and from one that is to none."""
    for start_ms in (4 * (1 << 24), 4 * (1 << 24) + 4 * 65_537):
        near = (-257, -256, -255, -1, 0, 1, 255, 256)
        distances = [4 * ((1 << power) + off) for power in range(1, 24) for off in near if (1 << power) + off > 0]
        for distance_ms in distances:
            deadline_ms = start_ms + distance_ms
            looks_ms = [start_ms + part * distance_ms // 8 for part in range(8)] + [deadline_ms]

            assert try_wheel(start_ms, [deadline_ms], looks_ms)[0] == [deadline_ms]


def test_an_empty_wheel_asks_for_no_look() -> None:
    assert try_wheel(START_MS, [], [START_MS + 5]) == ([], [0], 0)
