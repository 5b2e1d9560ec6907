"""Moves access log records from the workers' rings to their files and servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import gevent
from gevent.event import Event

from meshproxy.scoreboard.region import Region

IDLE_S = 0.05
"""Between looks while nothing comes. A ring takes 1 MiB, some 4,000 lines: at 60,000 requests a second it would be full after 66 ms."""
FLOWING_S = 0.02
"""While something comes: batches of 20 ms are large enough to make writing cheap, and `tail -f` looks alive."""
MUCH_BYTES = 256 << 10
"""Taken in one pass: more is there already, so go on at once."""
WITHOUT_SINKS_S = 1.0
"""Nobody writes records then; a look a second only guards against a worker that is behind a configuration."""
PASS_BYTES = 512 << 10
"""Of one ring at a time, so that admin pages and metrics get their turn."""


class Sinks(Protocol):
    """Where lines go: files, stdout, syslog."""

    def write(self, sink: int, data: bytes | bytearray) -> None:
        """Lines for one sink. Never raises for a full disk or a lost server: that is counted there."""


class LogDrain:
    """Runs in one greenlet until `stop`, which takes out the rest.

    While nothing comes a bare timer looks at the rings from the hub, because waking a greenlet twenty times a second for nothing costs
    four times as much.
    """

    def __init__(self, region: Region, sinks: Sinks, has_sinks: Callable[[], bool]) -> None:
        self._region = region
        self._sinks = sinks
        self._has_sinks = has_sinks
        self._changed = Event()
        self._stopping = False
        self._taken: dict[int, bytearray] = {}

    def run(self) -> None:
        """Take, write, wait; how long depends on what came."""
        while not self._stopping:
            moved = self.drain_once()
            if moved >= MUCH_BYTES:
                gevent.sleep(0)
            elif moved:
                self._changed.wait(FLOWING_S)
            else:
                self._wait_for_records()

    def wake(self) -> None:
        """The configuration changed: there may be sinks now."""
        self._changed.set()

    def stop(self) -> None:
        """End `run`, and take out what is there."""
        self._stopping = True
        self._changed.set()
        while self.drain_once():
            pass

    def drain_once(self) -> int:
        """Take from all rings and write; the bytes that were taken, those since the last write among them."""
        self._take()
        taken, self._taken = self._taken, {}
        for sink, data in taken.items():
            self._sinks.write(sink, data)
        return sum(map(len, taken.values()))

    def _take(self) -> bool:
        """Whether there is something to write. Never waits: it also runs in the hub."""
        for slot in range(self._region.slots_started):
            self._region.drain_ring(slot, self._taken, PASS_BYTES)
        return bool(self._taken)

    def _wait_for_records(self) -> None:
        interval_s = IDLE_S if self._has_sinks() else WITHOUT_SINKS_S
        self._changed.clear()
        if self._stopping:
            return
        timer = gevent.get_hub().loop.timer(interval_s, interval_s)
        timer.start(self._look)
        try:
            self._changed.wait()
        finally:
            timer.stop()
            timer.close()

    def _look(self) -> None:
        if self._take():
            self._changed.set()
