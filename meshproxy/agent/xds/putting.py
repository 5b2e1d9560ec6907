"""From what is wanted to what the master has put into force: one put at a time, what becomes ready meanwhile is the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import AsyncResult

from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.assignments import is_in_hub
from meshproxy.agent.xds.wanted import Key, Wanted, clusters_of, rds_of, relayed_to
from meshproxy.clock import monotonic_s
from meshproxy.discovery.xds.watch import Errors
from meshproxy.ipc.messages import PutAnswer, PutResource, PutResources
from meshproxy.master.journal import Journal
from meshproxy.master.puts import route_tables_of, secrets_of
from meshproxy.model import EndpointSet, Listener, Resource, ResourceKind, RouteTable, Secret
from meshproxy.model.snapshot import pack, unpack

CHECK_PATIENCE_S = 2.0
"""For the master's word whether addresses can be had; it says so at once."""
HOLD_S = 1.0
"""At most, for clusters that are named before they are warm, and for routes that still name one that goes. Control planes that send a whole
snapshot at once are told to send it in an order that needs none of this, and do not."""


class Putting:
    """`send` is to the master; `look_soon` looks again at what may be put."""

    def __init__(
        self, view: NodeView, wanted: Wanted, send: Callable[[Any], None], journal: Journal, look_soon: Callable[[], None]
    ) -> None:
        self._view = view
        self._wanted = wanted
        self._send = send
        self._journal = journal
        self._look_soon = look_soon
        self.gone: set[Key] = set()
        """Clusters and listeners that nobody wants any more."""
        self.fresh: set[Key] = set()
        """Route tables and secrets that came and are to be put."""
        self.found: dict[str, EndpointSet] = {}
        """Endpoints of clusters that are not in force as they are wanted."""
        self._held: dict[Key, float] = {}
        """What could be put, were it not for clusters that are warming or still named; until when."""
        self._ids = itertools.count(1)
        self._sent: dict[int, PutResources] = {}
        self._checks: dict[int, AsyncResult] = {}
        owners = ("cluster_manager.cluster", "listener_manager.listener")
        self.counters: dict[str, int] = {f"{owner}_{what}": 0 for owner in owners for what in ("added", "modified", "removed")}

    @property
    def is_busy(self) -> bool:
        """A put is on its way."""
        return bool(self._sent)

    def takes(self, found: EndpointSet) -> bool:
        """Endpoints of a cluster that is not in force as it is wanted: they are put with it."""
        if (ResourceKind.CLUSTER, found.cluster) not in self._wanted.warming:
            return False
        self.found[found.cluster] = found
        self._look_soon()
        return True

    def put(self) -> None:
        """All that may be put, if nothing is on its way."""
        if self._sent:
            return
        upserts: dict[Key, Resource] = {}
        for key in [key for key in self._wanted.warming if self._wanted.things[key].state == "ready"]:
            thing = self._wanted.things[key]
            if isinstance(thing.value, Listener) and self._waits_for(key, self._wanted.names_of(thing)):
                continue
            thing.state = "sent"
            for resource in thing.resources:
                if resource.kind is ResourceKind.SECRET:
                    resource = pack(ResourceKind.SECRET, resource.name, self._wanted.filled(unpack(resource)))  # type: ignore[arg-type]
                upserts[resource.kind, resource.name] = resource
            if isinstance(thing.value, Listener):
                self.fresh |= {(ResourceKind.ROUTE_TABLE, name) for name, _ in rds_of([thing.value])}
            elif (found := self.found.pop(key[1], None)) is not None:
                upserts[ResourceKind.ENDPOINTS, key[1]] = pack(ResourceKind.ENDPOINTS, key[1], found)
        upserts |= self._fresh_resources()
        removes = self._removes()
        if removes or any(kind is not ResourceKind.ENDPOINTS for kind, _ in upserts):
            removes += self._orphans(upserts.keys())
        self._count(upserts, removes)
        if upserts or removes:
            put = PutResources(id=next(self._ids), upserts=list(upserts.values()), removes=removes)
            self._sent[put.id] = put
            self._send(put)

    def _fresh_resources(self) -> dict[Key, Resource]:
        fresh = set(self.fresh)
        self.fresh.clear()
        listeners, secrets = list(self._wanted.listeners().values()), self._wanted.secrets() if fresh else {}
        made: dict[Key, Resource] = {}
        for kind, name in fresh:
            value: RouteTable | Secret | None = None
            if kind is ResourceKind.ROUTE_TABLE:
                value = self._wanted.table(name, listeners)
            elif name in secrets:
                value = self._wanted.filled(secrets[name])
            if isinstance(value, RouteTable) and self._waits_for((kind, name), clusters_of(value)):
                self.fresh.add((kind, name))
            elif value is not None:
                resource = pack(kind, name, value)
                there = self._view.resource(kind, name)
                if there is None or there.body != resource.body:
                    made[kind, name] = resource
        return made

    def _removes(self) -> list[Key]:
        """What is gone; a cluster that routes still name stays for a moment, because mostly the routes are on their way."""
        gone = set(self.gone)
        self.gone.clear()
        removes = [key for key in gone if self._view.is_brought(key)]
        if not any(kind is ResourceKind.CLUSTER for kind, _ in removes):
            return removes
        named = {name for table in self._view.route_tables() for name in clusters_of(table)}
        named |= {name for listener in self._view.listeners() for name in relayed_to(listener)}
        late = {key for key in removes if key[0] is ResourceKind.CLUSTER and key[1] in named and self._hold(key)}
        self.gone |= late
        return [key for key in removes if key not in late]

    def _waits_for(self, key: Key, clusters: Iterable[str]) -> bool:
        """Whether some of these are on their way and nothing of their names is there yet. Not for long: a listener or a table of
        routes has other clusters too."""
        late = any((ResourceKind.CLUSTER, name) in self._wanted.warming and self._view.cluster(name) is None for name in clusters)
        if late and self._hold(key):
            return True
        self._held.pop(key, None)
        return False

    def _hold(self, key: Key) -> bool:
        """Whether its time is not over; when it is, somebody looks again."""
        now_s = monotonic_s()
        if key not in self._held:
            self._held[key] = now_s + HOLD_S
            gevent.spawn_later(HOLD_S, self._look_soon)
        if now_s < self._held[key]:
            return True
        del self._held[key]
        return False

    def _orphans(self, upserts: Iterable[Key]) -> list[Key]:
        """Route tables and secrets that nobody names any more."""
        listeners, clusters = self._wanted.listeners().values(), self._wanted.clusters().values()
        named = {(ResourceKind.ROUTE_TABLE, name) for name in route_tables_of(listeners)}
        named |= {(ResourceKind.SECRET, name) for name in secrets_of(listeners, clusters)} | set(upserts)
        kinds = (ResourceKind.ROUTE_TABLE, ResourceKind.SECRET)
        # What is still warming replaces something that has its own until then.
        if self._wanted.warming:
            return []
        there = [(each.kind, each.name) for kind in kinds for each in self._view.resources(kind) if each.origin == "xds"]
        return [key for key in there if key not in named]

    def _count(self, upserts: Iterable[Key], removes: Iterable[Key]) -> None:
        owners = {ResourceKind.CLUSTER: "cluster_manager.cluster", ResourceKind.LISTENER: "listener_manager.listener"}
        for key in upserts:
            if key[0] in owners:
                self.counters[f"{owners[key[0]]}_{'added' if self._view.resource(*key) is None else 'modified'}"] += 1
        for key in removes:
            if key[0] in owners:
                self.counters[f"{owners[key[0]]}_removed"] += 1

    def check(self, listeners: list[Resource]) -> Errors:
        """What is wrong with their addresses, by name; nothing where nobody may wait for the answer."""
        if not listeners or is_in_hub():
            return {}
        put = PutResources(id=next(self._ids), only_check=True, upserts=listeners)
        result = self._checks[put.id] = AsyncResult()
        self._send(put)
        try:
            answer: PutAnswer = result.get(timeout=CHECK_PATIENCE_S)
        except gevent.Timeout:
            return {}
        finally:
            self._checks.pop(put.id, None)
        return {each.name: each.error for each in answer.refused}

    def wants_sockets(self, key: Key) -> bool:
        """Whether a listener has other addresses than are its own now."""
        value, there = self._wanted.things[key].value, self._view.resource(*key)
        assert isinstance(value, Listener)
        before = unpack(there) if there is not None else None
        return value.bind_to_port and not (isinstance(before, Listener) and before.addresses == value.addresses)

    def answered(self, answer: PutAnswer) -> bool:
        """The master's word. True: a put is over."""
        if answer.id in self._checks:
            self._checks[answer.id].set(answer)
            return False
        put = self._sent.pop(answer.id, None)
        if put is None:
            return False
        refused = {(each.kind, each.name): each.error for each in answer.refused}
        for resource in put.upserts:
            key = resource.kind, resource.name
            thing = self._wanted.things.get(key)
            if key in refused:
                self._journal.error("not in force", kind=key[0].name, name=key[1], error=refused[key])
            if thing is None or thing.state != "sent":
                continue
            thing.state, thing.error = ("refused", refused[key]) if key in refused else ("active", "")
            self._wanted.warming.discard(key)
            if (found := self.found.pop(key[1], None)) is not None and key[0] is ResourceKind.CLUSTER:
                self._send(PutResource(resource=pack(ResourceKind.ENDPOINTS, key[1], found)))
        return True
