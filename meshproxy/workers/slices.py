"""Work beside the traffic: done in slices, with a turn of the hub's loop between two of them."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from gevent import get_hub

SLICE_NS = 200_000
"""A change may hold the loop for so long at a time: some ten requests' worth, so that what came meanwhile is not noticed to have waited."""


class Slices:
    """One piece of work, in a greenlet that is not the hub's. It calls `breathe` wherever it could stop."""

    def __init__(self, clock_ns: Callable[[], int] = perf_counter_ns) -> None:
        self._hub = get_hub()
        self._clock_ns = clock_ns
        self.begin()

    def begin(self) -> None:
        """A slice begins now."""
        self._started_ns = self._clock_ns()

    def breathe(self) -> None:
        """Lets sockets, timers and greenlets have their turn if the slice is used up."""
        if self._clock_ns() - self._started_ns >= SLICE_NS:
            # Not sleep(0): the hub runs up to 50 greenlets that ask for it, mostly this one, before it looks at a socket again.
            with self._hub.loop.timer(0) as timer:
                self._hub.wait(timer)
            self.begin()
