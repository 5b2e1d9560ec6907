"""Work in slices leaves the loop a turn between two of them."""

from __future__ import annotations

import os

import pytest
from gevent import get_hub, spawn

from meshproxy.workers.slices import REST_S, SLICE_NS, Slices


class Clock:
    """Each look is a slice later, or not."""

    def __init__(self, step_ns: int) -> None:
        self.step_ns = step_ns
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns


@pytest.fixture
def readable():
    """A watcher of a pipe that always has something to read, and the end of it."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")
    watcher = get_hub().loop.io(read_end, 1)
    yield watcher
    watcher.close()
    os.close(read_end)
    os.close(write_end)


def turns_of(readable, step_ns: int) -> list[int]:
    """Work of 100 steps, each `step_ns` long: how many were done at each turn that sockets had meanwhile."""
    done, turns = [], []

    def work() -> None:
        slices = Slices(lambda: 0, Clock(step_ns))
        for number in range(100):
            done.append(number)
            slices.breathe()

    readable.start(lambda: turns.append(len(done)))
    spawn(work).join()
    return [at for at in turns if 0 < at < 100]


def test_sockets_have_a_turn_after_each_slice(readable) -> None:
    turns = turns_of(readable, SLICE_NS)

    assert turns == list(range(turns[0], 100))
    assert turns[0] <= 2, "the first look at the socket may come with the second slice"


def test_a_slice_that_is_not_used_up_goes_on(readable) -> None:
    assert turns_of(readable, SLICE_NS // 1000) == []


def test_a_slice_begins_anew() -> None:
    looks = iter([0, SLICE_NS, SLICE_NS + 1])
    turns = []
    slices = Slices(lambda: 0, lambda: next(looks))
    get_hub().loop.run_callback(turns.append, 1)
    slices.begin()
    slices.breathe()

    assert turns == [], "one nanosecond of the new slice is used"


def test_where_there_is_traffic_a_slice_is_followed_by_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([7, 7, 7, 9])
    waits: list[float] = []
    monkeypatch.setattr(Slices, "_wait", lambda self, seconds: waits.append(seconds))
    slices = Slices(lambda: next(turns), Clock(SLICE_NS))
    slices.breathe()
    slices.breathe()

    assert waits == [0, 0, REST_S]
