"""What a source of endpoints is: a class over its model struct that watches for ever and tells a sink.

A further kind of source is a struct in `model.discovery`, a class in a file of its own here, and a row in `discovery.sources`; it has to
pass `tests/discovery/test_sources.py`.
"""

from __future__ import annotations

from typing import Protocol

from meshproxy.model import Endpoint


class Sink(Protocol):
    """Hears of one source."""

    def found(self, endpoints: tuple[Endpoint, ...]) -> None:
        """All the endpoints that there are now, () for none; told first, after a failure, and when they are others than before."""

    def unchanged(self) -> None:
        """The source was asked, and says what it said before."""

    def failed(self, error: str) -> None:
        """It could not be asked, or what it says cannot be used. It is asked again in a while."""


class Clock(Protocol):
    """Time and chance, given to a source so that tests may have their own."""

    def now_s(self) -> float:
        """Monotonic."""

    def sleep(self, seconds: float) -> None:
        """Let others run meanwhile."""

    def random(self) -> float:
        """In [0, 1)."""


class Source(Protocol):
    """Made of its model struct."""

    def watch(self, sink: Sink, clock: Clock) -> None:
        """For ever, in a greenlet of its own, which is killed to end it: what is open is closed then."""


class SourceError(Exception):
    """A source cannot be asked or says nonsense; the text is for operators."""


class Teller:
    """Between a source and its sink: tells whole sets only when they are others than before."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._last: tuple[Endpoint, ...] | None = None

    def answered(self, endpoints: tuple[Endpoint, ...]) -> bool:
        """An answer came; gives whether it is another than the last."""
        if endpoints == self._last:
            self._sink.unchanged()
            return False
        self._last = endpoints
        self._sink.found(endpoints)
        return True

    def failed(self, error: str) -> None:
        """None came. The next is told whatever it is."""
        self._last = None
        self._sink.failed(error)


class Backoff:
    """Waits after failures: doubled each time, with chance, so that a fleet does not ask a sick server in step."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def good(self) -> None:
        self._failures = 0

    def wait_s(self, random: float) -> float:
        """After one more failure. `random` in [0, 1) spreads it over the upper half."""
        longest_s = min(self._first_s * 2**self._failures, self._longest_s)
        self._failures = min(self._failures + 1, 30)
        return longest_s * (0.5 + random / 2)


def in_order(endpoints: dict[str, Endpoint]) -> tuple[Endpoint, ...]:
    """By address, so that an answer in another order is no change."""
    return tuple(endpoints[address] for address in sorted(endpoints))
