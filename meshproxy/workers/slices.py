"""Work beside the traffic: done in slices, with a turn of the hub's loop between two of them, and a rest where there is traffic.

The rest is for whoever shares the processor: workers that all compile a large change at the same moment would leave no room for the other
side of their connections, nor for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from gevent import get_hub

SLICE_NS = 200_000
"""A change may hold the loop for so long at a time: some ten requests' worth, so that what came meanwhile is not noticed to have waited."""
REST_S = 0.001
"""So a change takes a sixth of a processor from a worker that serves, and a second for 0.2 s of work. One that does not serve rests not."""


class Slices:
    """One piece of work, in a greenlet that is not the hub's. It calls `breathe` wherever it could stop.

    `turns` tells how often the data path has had something to do so far.
    """

    def __init__(self, turns: Callable[[], int], clock_ns: Callable[[], int] = perf_counter_ns) -> None:
        self._hub = get_hub()
        self._turns = turns
        self._clock_ns = clock_ns
        self.begin()

    def begin(self) -> None:
        """A slice begins now."""
        self._started_ns = self._clock_ns()

    def breathe(self) -> None:
        """Lets sockets, timers and greenlets have their turn if the slice is used up."""
        if self._clock_ns() - self._started_ns >= SLICE_NS:
            before = self._turns()
            self._wait(0)
            if self._turns() != before:
                self._wait(REST_S)
            self.begin()

    def _wait(self, seconds: float) -> None:
        # Not sleep(0): the hub runs up to 50 greenlets that ask for it, mostly this one, before it looks at a socket again.
        with self._hub.loop.timer(seconds) as timer:
            self._hub.wait(timer)
