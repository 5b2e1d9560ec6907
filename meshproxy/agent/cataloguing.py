"""Keeps clusters and routes for every service of Consul's catalogue: watches it and puts what is new, changed or gone into force.

One greenlet watches for each route table with a catalogue; one more puts what they know together, so that a change is put when the one
before is in force, and what came meanwhile goes with the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import gevent
from gevent import Greenlet
from gevent.event import Event

from meshproxy.agent.finding import AGAIN_S, AgentClock
from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.config.rules import domain as wrong_domain
from meshproxy.discovery.catalogue import cluster_for, of_services, protocol_of, selected, table_for
from meshproxy.discovery.consul import BACKOFF_S, WAIT_S, Pace, next_index
from meshproxy.discovery.consul_client import ConsulClient
from meshproxy.discovery.source import Backoff, SourceError
from meshproxy.ipc.messages import PutAnswer, PutResources, SourceRow
from meshproxy.master.journal import Journal
from meshproxy.model import ConsulCatalog, ConsulServer, ConsulService, Resource, ResourceKind, RouteTable
from meshproxy.model.snapshot import pack, unpack

DEBOUNCE_S = 0.1
"""Services mostly come several at once."""
SOURCE = "consul catalogue"


class _Watched:
    """One route table's catalogue."""

    def __init__(self, catalog: ConsulCatalog, services: dict[str, str]) -> None:
        self.catalog = catalog
        self.services = services
        """Name -> protocol; what counts."""
        self.is_told = False
        """What `services` has is not only what a former agent found."""
        self.is_known = False
        """It was answered or failed once."""
        self.empty_since_s: float | None = None
        self.answered_s = monotonic_s()
        self.error = ""
        self.attempts = self.failures = self.empties = 0
        self.greenlet: Greenlet | None = None


class Cataloguing:
    """`put` has resources put into force and waits; `ended` hears when something may be warm now."""

    def __init__(
        self, view: NodeView, put: Callable[[PutResources], PutAnswer | None], journal: Journal, ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._view = view
        self._put = put
        self._journal = journal
        self._ended = ended
        self._clock = AgentClock()
        self._watched: dict[str, _Watched] = {}
        self._due = Event()
        self._is_put = True
        self._refused: set[tuple[ResourceKind, str, bytes]] = set()
        """What the master or a worker did not take: it is not put again as it is."""

    def configure(self) -> None:
        """The view has changed."""
        tables = {table.name: table for table in self._tables()}
        for name in [name for name in self._watched if name not in tables]:
            self._stop(self._watched.pop(name))
        for name, table in tables.items():
            assert table.catalog is not None
            watched = self._watched.get(name)
            if watched is not None and watched.catalog == table.catalog:
                continue
            if watched is not None:
                self._stop(watched)
            self._watched[name] = watched = _Watched(table.catalog, {name: self._protocol_now(name) for name in of_services(table)})
            watched.greenlet = gevent.spawn(self._watch, watched)
            self._is_put = False
        self._due.set()

    def run(self) -> None:
        """For ever, in a greenlet of its own: puts what differs. Costs nothing without a catalogue."""
        while True:
            self._due.wait(self._next_s())
            self._due.clear()
            self._believe_empty()
            if all(each.is_known for each in self._watched.values()):
                self._put_difference()
            self._ended()
            self._clock.sleep(DEBOUNCE_S)

    def is_warm(self) -> bool:
        """Whether every catalogue was answered and is in force, or failed, once."""
        return self._is_put and all(each.is_known for each in self._watched.values())

    def heard(self, source: ConsulService, body: Any) -> None:
        """An answer about a service's instances: they may say that they speak something else now."""
        if isinstance(body, list) and body:
            protocol = protocol_of(body)
            for watched in self._watched.values():
                if source.service in watched.services and watched.services[source.service] != protocol and _asks(watched.catalog, source):
                    watched.services[source.service] = protocol
                    self._due.set()

    def rows(self) -> list[SourceRow]:
        """For pages: the catalogue of each route table; services are counted as endpoints."""
        now_s = monotonic_s()
        rows = []
        for name, each in sorted(self._watched.items()):
            age_s = round(now_s - each.answered_s, 1)
            rows.append(SourceRow(cluster=f"({name})", source=SOURCE, endpoints=len(each.services), age_s=age_s, error=each.error))
        return rows

    def counters(self) -> dict[str, int]:
        """By metric name; none without a catalogue."""
        every = self._watched.values()
        if not every:
            return {}
        return {
            "consul.catalogue.update_attempt": sum(each.attempts for each in every),
            "consul.catalogue.update_failure": sum(each.failures for each in every),
            "consul.catalogue.update_empty": sum(each.empties for each in every),
        }

    def gauges(self) -> dict[str, int]:
        """By metric name."""
        if not self._watched:
            return {}
        services = {service for each in self._watched.values() for service in each.services}
        age_s = max(monotonic_s() - each.answered_s for each in self._watched.values())
        return {"consul.catalogue.services": len(services), "consul.catalogue.update_age": int(age_s)}

    # ---- watching ----

    def _watch(self, watched: _Watched) -> None:
        while True:
            try:
                self._follow(watched)
            except Exception as error:
                # A mistake of ours here must not end the agent, which all others need.
                self._failed(watched, f"{type(error).__name__}: {error}")
            self._clock.sleep(AGAIN_S)

    def _follow(self, watched: _Watched) -> None:
        catalog = watched.catalog
        client = ConsulClient(catalog.server or ConsulServer())
        backoff, pace, index = Backoff(*BACKOFF_S), Pace(self._clock.now_s()), 0
        try:
            while True:
                watched.attempts += 1
                try:
                    waiting = [("index", str(index)), ("wait", f"{WAIT_S}s")] if index else []
                    told = client.get("/v1/catalog/services", [*_query(catalog), *waiting], WAIT_S * 17 / 16 if index else 0.0)
                    names = self._names(told.body, catalog)
                    if not names and told.headers.get("X-Consul-Results-Filtered-By-ACLs", "") == "true":
                        raise SourceError("all services are hidden by ACLs: the token needs service:read and node:read")
                    new = [name for name in names if name not in watched.services or not watched.is_told]
                    fresh = {name: self._protocol(client, name, catalog) for name in new}
                    index = next_index(index, told.headers.get("X-Consul-Index", ""))
                except SourceError as error:
                    index = 0
                    self._failed(watched, str(error))
                    self._clock.sleep(backoff.wait_s(self._clock.random()))
                    continue
                backoff.good()
                self._answered(watched, names, fresh)
                if (wait_s := pace.wait_s(self._clock.now_s())) > 0:
                    self._clock.sleep(wait_s)
        finally:
            client.close()

    def _names(self, body: Any, catalog: ConsulCatalog) -> list[str]:
        if not isinstance(body, dict):
            raise SourceError("the answer is not a mapping of services")
        try:
            return [name for name in selected(body, catalog) if not wrong_domain(name) and "*" not in name]
        except ValueError as error:
            raise SourceError(str(error)) from error

    def _protocol(self, client: ConsulClient, service: str, catalog: ConsulCatalog) -> str:
        told = client.get(f"/v1/health/service/{quote(service, safe='')}", _query(catalog))
        return protocol_of(told.body) if isinstance(told.body, list) else ""

    def _answered(self, watched: _Watched, names: list[str], fresh: dict[str, str]) -> None:
        watched.answered_s, watched.is_known = monotonic_s(), True
        if watched.error:
            self._journal.info("catalogue is good again")
        watched.error = ""
        if not names and watched.services:
            watched.empties += 1
            if watched.empty_since_s is None:
                watched.empty_since_s = monotonic_s()
                kept = f"last services for {watched.catalog.keep_last_s:g} s"
                self._journal.warning("catalogue has no services any more", services=len(watched.services), kept=kept)
        else:
            watched.empty_since_s = None
            watched.services = {name: fresh.get(name, watched.services.get(name, "")) for name in names}
            watched.is_told = True
        self._due.set()

    def _failed(self, watched: _Watched, error: str) -> None:
        watched.failures += 1
        if not watched.error:
            self._journal.warning("catalogue failed", error=error, kept=f"{len(watched.services)} services")
        watched.error, watched.is_known = error, True
        self._due.set()

    def _stop(self, watched: _Watched) -> None:
        if watched.greenlet is not None:
            watched.greenlet.kill(block=False)

    # ---- putting ----

    def _next_s(self) -> float | None:
        dues = [each.empty_since_s + each.catalog.keep_last_s for each in self._watched.values() if each.empty_since_s is not None]
        return max(min(dues) - monotonic_s(), 0.0) if dues else None

    def _believe_empty(self) -> None:
        for each in self._watched.values():
            if each.empty_since_s is not None and monotonic_s() >= each.empty_since_s + each.catalog.keep_last_s:
                each.services, each.empty_since_s, each.is_told = {}, None, True

    def _put_difference(self) -> None:
        upserts, removes = self._difference()
        if not upserts and not removes:
            self._is_put = True
            return
        answer = self._put(PutResources(id=0, upserts=upserts, removes=removes, origin="consul"))
        if answer is None:
            self._due.set()
            return
        bodies = {(each.kind, each.name): each.body for each in upserts}
        for each in answer.refused:
            self._refused.add((each.kind, each.name, bodies.get((each.kind, each.name), b"")))
        come = sorted(each.name for each in upserts if each.kind is ResourceKind.CLUSTER)
        gone = sorted(name for kind, name in removes if kind is ResourceKind.CLUSTER)
        self._journal.info("catalogue changed", put=_some(come), removed=_some(gone), refused=len(answer.refused))
        self._is_put = True

    def _difference(self) -> tuple[list[Resource], list[tuple[ResourceKind, str]]]:
        """From what is in force to what should be. What the file has of a service's name is left alone, and routed to."""
        wanted: dict[tuple[ResourceKind, str], Resource] = {}
        for table in self._tables():
            watched = self._watched.get(table.name)
            if watched is None or table.catalog is None:
                continue
            like = self._view.cluster(table.catalog.like) if table.catalog.like else None
            for service, protocol in watched.services.items():
                key = ResourceKind.CLUSTER, service
                there = self._view.resource(*key)
                if (there is None or there.origin == "consul") and key not in wanted:
                    wanted[key] = pack(*key, cluster_for(service, table.catalog, like, protocol))
            whole = table_for(table, watched.services)
            if whole != table:
                wanted[ResourceKind.ROUTE_TABLE, table.name] = pack(ResourceKind.ROUTE_TABLE, table.name, whole)
        upserts = [
            each for key, each in wanted.items()
            if ((there := self._view.resource(*key)) is None or there.body != each.body) and (*key, each.body) not in self._refused
        ]
        if not all(each.is_told for each in self._watched.values()):
            return upserts, []  # who knows which of them is whose
        here = (each.name for each in self._view.resources(ResourceKind.CLUSTER) if each.origin == "consul")
        return upserts, [(ResourceKind.CLUSTER, name) for name in here if (ResourceKind.CLUSTER, name) not in wanted]

    def _protocol_now(self, service: str) -> str:
        cluster = self._view.cluster(service)
        return cluster.protocol if cluster is not None and cluster.protocol in ("http1", "http2") else ""

    def _tables(self) -> list[RouteTable]:
        # A large table without one is not decoded for nothing.
        tables = (unpack(each) for each in self._view.resources(ResourceKind.ROUTE_TABLE) if b"catalog" in each.body)
        return [each for each in tables if isinstance(each, RouteTable) and each.catalog is not None]


def _asks(catalog: ConsulCatalog, source: ConsulService) -> bool:
    return (catalog.server, catalog.datacenter, catalog.tags) == (source.server, source.datacenter, source.tags)


def _query(catalog: ConsulCatalog) -> list[tuple[str, str]]:
    query = [("dc", catalog.datacenter)] if catalog.datacenter else []
    return query + ([(catalog.consistency, "")] if catalog.consistency != "default" else [])


def _some(names: list[str]) -> str:
    return " ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
