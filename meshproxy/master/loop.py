"""The master's event loop: a poll set that is made anew each turn (it has tens of descriptors and some turns a second), and no threads."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """Something with a descriptor; `want_write` (a Channel's) asks to be called for writing too."""

    def fileno(self) -> int: ...


class Loop:
    """Who is called when his descriptor has something."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Source, Callable[[], None]]] = {}

    def watch(self, source: Source, on_readable: Callable[[], None]) -> None:
        self._watched[source.fileno()] = (source, on_readable)

    def forget(self, source: Source) -> None:
        """Also of a source that is closed already and has no descriptor any more."""
        self._watched = {fd: pair for fd, pair in self._watched.items() if pair[0] is not source}

    def turn(self, timeout_s: float) -> None:
        """Waits for at most `timeout_s` and calls whoever has something."""
        poll = select.poll()
        for fd, (source, _) in self._watched.items():
            poll.register(fd, select.POLLIN | (select.POLLOUT if getattr(source, "want_write", False) else 0))
        for fd, events in poll.poll(max(timeout_s, 0) * 1000):
            source, on_readable = self._watched.get(fd, (None, None))
            if source is None or source.fileno() != fd:
                continue
            if events & select.POLLOUT:
                source.flush()
            if events & ~select.POLLOUT:
                on_readable()
