"""A service in Consul's catalogue, watched by blocking queries; a prepared query, executed again and again.

Rules of the index are those of Consul's documents: a question carries the index of the last answer and is answered when there is a
higher one or when the wait is over; an index that went back or is not above 0 is forgotten, and so is every index after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import quote

from gevent import socket

from meshproxy.discovery import dns
from meshproxy.discovery.consul_client import ConsulClient, Told
from meshproxy.discovery.consul_seats import Seats
from meshproxy.discovery.source import Backoff, Clock, Sink, SourceError, Teller, in_order
from meshproxy.model import ConsulServer, ConsulService, Endpoint, SocketAddress

WAIT_S = 60
"""How long the server may keep a question: a server that lost its peers without closing is found within that and some seconds."""
SHARED_WAIT_S = 1
"""The same while other services wait for a connection."""
BACKOFF_S = 1.0, 30.0
BURST, PER_S = 10.0, 5.0
"""Questions that are answered at once: so many, and so many a second later on. A catalogue in turmoil costs no more than that."""
Resolve = Callable[[str], Iterable[str]]
"""An instance's host, which may be a name -> its addresses."""


class ConsulSource:
    """Watches one service."""

    def __init__(
        self, wanted: ConsulService, heard: Callable[[ConsulService, Any], None] | None = None, seats: Seats | None = None,
    ) -> None:
        """`heard` gets each good answer as it came, too. `seats` are shared by all services."""
        self._wanted = wanted
        self._heard = heard
        self._seats = seats or Seats()
        self._lookup = dns.system_lookup(socket.getaddrinfo)
        self._known: dict[str, list[str]] = {}
        """Addresses of hosts that are names: one whose lookup fails has those that it had."""

    def watch(self, sink: Sink, clock: Clock) -> None:
        server = self._wanted.server or ConsulServer()
        client = ConsulClient(server)
        teller, backoff, pace, index = Teller(sink), Backoff(*BACKOFF_S), Pace(clock.now_s()), 0
        try:
            while True:
                try:
                    with self._seats.taken(server, client) as is_crowded:
                        wait_s = SHARED_WAIT_S if is_crowded else WAIT_S
                        told = client.get(self._path(), self._query(index, wait_s), wait_s * 17 / 16 if index else 0.0)
                    known: dict[str, list[str]] = {}
                    endpoints = endpoints_of(told, self._wanted, partial(self._resolve, known))
                    self._known = known
                    index = 0 if self._wanted.prepared_query else next_index(index, told.headers.get("X-Consul-Index", ""))
                except SourceError as error:
                    index = 0
                    teller.failed(str(error))
                    clock.sleep(backoff.wait_s(clock.random()))
                    continue
                backoff.good()
                if self._heard is not None:
                    self._heard(self._wanted, told.body)
                teller.answered(endpoints)
                if self._wanted.prepared_query:
                    clock.sleep(self._wanted.poll_s)
                elif (wait_s := pace.wait_s(clock.now_s())) > 0:
                    clock.sleep(wait_s)
        finally:
            client.close()

    def _path(self) -> str:
        wanted = self._wanted
        if wanted.prepared_query:
            return f"/v1/query/{quote(wanted.prepared_query, safe='')}/execute"
        return f"/v1/health/service/{quote(wanted.service, safe='')}"

    def _resolve(self, known: dict[str, list[str]], host: str) -> Iterable[str]:
        if dns.is_literal(host):
            return [host]
        try:
            known[host] = dns.resolve(self._lookup, host, "all").addresses
        except (OSError, UnicodeError):
            known[host] = self._known.get(host, [])
        return known[host]

    def _query(self, index: int, wait_s: float) -> list[tuple[str, str]]:
        wanted = self._wanted
        query = [(name, value) for name, value in (("dc", wanted.datacenter), ("near", wanted.near)) if value]
        query += [(wanted.consistency, "")] if wanted.consistency != "default" else []
        if not wanted.prepared_query:
            query += [("tag", tag) for tag in wanted.tags]
            query += [("passing", "1")] if wanted.checks == "passing" else []
        return [*query, ("index", str(index)), ("wait", f"{wait_s}s")] if index else query


class Pace:
    """A token for each answer."""

    def __init__(self, now_s: float) -> None:
        self._tokens = BURST
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Before the next question; takes its token."""
        self._tokens = min(BURST, self._tokens + (now_s - self._at_s) * PER_S) - 1
        self._at_s = now_s
        return max(-self._tokens, 0.0) / PER_S


def next_index(index: int, told: str) -> int:
    """For the next question. Raises SourceError for what is no index: without one the server would be asked in a circle."""
    if not (told.isascii() and told.isdecimal() and len(told) <= 20):
        raise SourceError(f"the answer has no X-Consul-Index ({told[:40]!r}): this is no Consul")
    found = int(told)
    # 1 is asked for where 0 is told, so that the server waits (its first real index is higher).
    return max(found, 1) if found >= index else 0


def endpoints_of(told: Told, wanted: ConsulService, resolve: Resolve) -> tuple[Endpoint, ...]:
    """The instances of an answer that count. Raises SourceError for an answer of another shape, and one that hides instances."""
    body = told.body
    if wanted.prepared_query:
        body = body.get("Nodes") if isinstance(body, dict) else None
    if not isinstance(body, list):
        raise SourceError("the answer is not a list of instances")
    if not body and told.headers.get("X-Consul-Results-Filtered-By-ACLs", "") == "true":
        raise SourceError("all instances are hidden by ACLs: the token needs service:read and node:read")
    found: dict[str, Endpoint] = {}
    try:
        for row in body:
            for endpoint in _instance(row, wanted.checks, resolve):
                found.setdefault(str(endpoint.address), endpoint)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"an instance has another shape than Consul's ({type(error).__name__}: {error})") from error
    return tuple(found.values()) if wanted.near else in_order(found)


def _instance(row: dict[str, Any], rule: str, resolve: Resolve) -> Iterable[Endpoint]:
    service, states = row["Service"], {str(check.get("Status")) for check in row.get("Checks") or ()}
    critical, warning = bool(states - {"passing", "warning"}), "warning" in states
    if (critical and rule != "any") or (warning and rule == "passing"):
        return
    host, port, weights = service.get("Address") or row["Node"]["Address"], int(service["Port"]), service.get("Weights") or {}
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port}")
    if not port:  # a service without a port, as Consul allows
        return
    weight = max(int(weights.get("Warning" if warning else "Passing", 1)), 1)
    for address in resolve(str(host)):
        hostname = "" if address == host else str(host)
        yield Endpoint(address=SocketAddress(address, port), weight=weight, hostname=hostname, healthy=not critical)
