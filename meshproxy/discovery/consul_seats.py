"""How many questions wait at one Consul at once: its agents take 200 connections from an address (`http_max_conns_per_client`).

With more services than seats they take turns: a question waits for a short while only, and its connection is closed for the next one's. A
change is then seen with that delay, and none is lost, because a question carries the index of the answer before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from gevent.event import Event

from meshproxy.discovery.consul_client import ConsulClient
from meshproxy.model import Address, ConsulServer

SEATS = 160
"""The rest of 200 is for the catalogue, configuration, registration, and for commands."""


class Seats:
    """Of all services of a node; counted for each server. First come, first served: who leaves gives the seat to the next himself, because
    one that was free for a moment would be his again."""

    def __init__(self, each: int = SEATS) -> None:
        self._each = each
        self._taken: dict[Address, int] = {}
        self._waiting: dict[Address, deque[Event]] = {}

    @contextmanager
    def taken(self, server: ConsulServer, client: ConsulClient) -> Iterator[bool]:
        """Waits for a seat; gives whether others wait for one. The connection is closed whenever somebody else needs its place."""
        waiting = self._waiting.setdefault(server.address, deque())
        self._wait(server.address, waiting, client)
        try:
            yield bool(waiting)
        finally:
            if waiting:
                client.close()
            self._leave(server.address, waiting)

    def _wait(self, place: Address, waiting: deque[Event], client: ConsulClient) -> None:
        if self._taken.get(place, 0) < self._each:
            self._taken[place] = self._taken.get(place, 0) + 1
            return
        client.close()
        mine = Event()
        waiting.append(mine)
        try:
            mine.wait()
        except BaseException:
            if mine.is_set():
                self._leave(place, waiting)
            else:
                waiting.remove(mine)
            raise

    def _leave(self, place: Address, waiting: deque[Event]) -> None:
        if waiting:
            waiting.popleft().set()
        else:
            self._taken[place] -= 1
