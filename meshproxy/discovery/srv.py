"""An SRV name: the targets of its lowest priority group, each with its port and weight, spread over the target's addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshproxy.discovery.dns import MAX_ADDRESSES, Found, Resolve, resolve
from meshproxy.discovery.source import Backoff, Clock, Sink, Teller, in_order
from meshproxy.discovery.threads import in_thread
from meshproxy.model import DnsSrv, Endpoint, SocketAddress

LEAST_WAIT_S = 1.0
"""Whatever a TTL says; `refresh_s` may be less."""
LONGEST_WAIT = 10
"""After failures, in `refresh_s`."""
MAX_TARGETS = 1000


class Target(NamedTuple):
    """One SRV record. `host` without the last dot; "" = the service is not there at all (RFC 2782)."""

    priority: int
    weight: int
    port: int
    host: str


class Targets(NamedTuple):
    """An answer. `ttl_s` 0: none was told."""

    targets: list[Target]
    ttl_s: int


Ask = Callable[[str], Targets]
"""Raises OSError for "could not find out"."""


class Lookups(NamedTuple):
    """How names are looked up; both may wait, and are called in a thread."""

    srv: Ask
    address: Resolve


def name_servers() -> Lookups:
    """The machine's. The library costs some MB: it is loaded when there is an SRV name to ask for."""
    from meshproxy.discovery.name_servers import NameServers

    servers = NameServers()
    return Lookups(servers.srv, servers)


class SrvSource:
    """Watches one name."""

    def __init__(self, wanted: DnsSrv, lookups: Callable[[], Lookups] = name_servers) -> None:
        self._wanted = wanted
        self._lookups = lookups
        self._known: dict[str, Found] = {}
        """Of targets, by host: a target whose lookup fails has the addresses that it had."""

    def watch(self, sink: Sink, clock: Clock) -> None:
        wanted, teller = self._wanted, Teller(sink)
        backoff = Backoff(wanted.refresh_s, wanted.refresh_s * LONGEST_WAIT)
        lookups = self._lookups()
        while True:
            try:
                endpoints, ttl_s = in_thread(self._look, lookups)
            except OSError as error:
                teller.failed(f"{wanted.name}: {error}")
                clock.sleep(backoff.wait_s(clock.random()))
                continue
            backoff.good()
            teller.answered(endpoints)
            clock.sleep(max(ttl_s, LEAST_WAIT_S) if ttl_s else wanted.refresh_s)

    def _look(self, lookups: Lookups) -> tuple[tuple[Endpoint, ...], int]:
        told = lookups.srv(self._wanted.name)
        ttls_s, known, failure = [told.ttl_s], {}, None
        targets = first_group(told.targets)
        for host in dict.fromkeys(target.host for target in targets):
            try:
                found = resolve(lookups.address, host, self._wanted.lookup_family)
            except OSError as error:
                failure = error
                if host not in self._known:
                    continue
                found = self._known[host]
            known[host] = found
            ttls_s.append(found.ttl_s)
        if failure is not None and not known:
            raise failure
        self._known = known
        return spread(targets, known), min((ttl_s for ttl_s in ttls_s if ttl_s), default=0)


def first_group(targets: Iterable[Target]) -> list[Target]:
    """Those of the lowest priority; a target "." is none."""
    there = [target for target in targets if target.host and target.port]
    lowest = min((target.priority for target in there), default=0)
    return sorted(target for target in there if target.priority == lowest)[:MAX_TARGETS]


def spread(targets: Iterable[Target], known: dict[str, Found]) -> tuple[Endpoint, ...]:
    """An endpoint for each address of each target. Weight 0, "hardly ever" in RFC 2782, is the least that there is."""
    made: dict[str, Endpoint] = {}
    for target in targets:
        for address in known[target.host].addresses[:MAX_ADDRESSES] if target.host in known else ():
            endpoint = Endpoint(address=SocketAddress(address, target.port), weight=max(target.weight, 1), hostname=target.host)
            made.setdefault(str(endpoint.address), endpoint)
    return in_order(made)
