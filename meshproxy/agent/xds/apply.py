"""What control planes say, put into force in Envoy's order: clusters, their endpoints, listeners, their routes.

    CDS -> translate -> warm (endpoints, secrets) -> put, with endpoints -> when all of the first response are: LDS
    LDS -> translate -> warm (route tables, secrets) -> put, with route tables

Whatever is replaced serves until the new one is warm, and nobody waits for another's warming. A name that does not come in time is gone
without. One put is on its way to the master at a time; what becomes ready meanwhile is the next. What is in force is the node's view, so
a newborn agent goes on where the former one ended, and removes nothing before a control plane said so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import gevent
import msgspec
from gevent.event import AsyncResult

from meshproxy.agent.finding import Finding
from meshproxy.agent.resolving import Resolving
from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.assignments import Assignments, is_in_hub
from meshproxy.agent.xds.last_good import Kept, LastGood
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.discovery.xds.kinds import CDS, EDS, LDS, RDS, SDS, short
from meshproxy.discovery.xds.watch import Errors, Item, Update
from meshproxy.errors import ConfigError
from meshproxy.ipc.messages import ControlPlaneRow, PutAnswer, PutResource, PutResources
from meshproxy.master.journal import Journal
from meshproxy.master.puts import is_brought, route_tables_of, secrets_of
from meshproxy.model import (
    Cluster,
    ConfigSource,
    Dynamic,
    EdsSource,
    EndpointSet,
    ForwardAction,
    HttpConnectionManager,
    Listener,
    Resource,
    ResourceKind,
    RouteTable,
    Secret,
    TcpProxy,
)
from meshproxy.model.snapshot import pack, unpack
from meshproxy.model.xds import config_source_name

CHECK_PATIENCE_S = 2.0
"""For the master's word whether addresses can be had; it says so at once."""
HOLD_S = 1.0
"""At most, for clusters that are named before they are warm, and for routes that still name one that goes. Control planes that send a whole
snapshot at once are told to send it in an order that needs none of this, and do not."""
MOST_LINES = 100
"""Of what is not in force: a control plane's habits show themselves in the first."""
Key = tuple[ResourceKind, str]
Take = Callable[[ConfigSource, Update], Errors]
"""Takes what a source says; gives what is wrong with it."""


class Translated(Protocol):
    """A resource as the model has it, what came inside it, and what of it is not in force."""

    name: str
    resource: Any
    secrets: tuple[Secret, ...]
    tables: tuple[RouteTable, ...]
    notes: tuple[str, ...]


class Translator(Protocol):
    """`config.envoy.dynamic`. All raise ConfigError."""

    def cluster(self, packed: Any, source: ConfigSource | None) -> Translated: ...

    def listener(self, packed: Any, source: ConfigSource | None, clusters: Container[str] | None) -> Translated: ...

    def route_table(self, packed: Any, clusters: Container[str] | None) -> Translated: ...

    def endpoints(self, packed: Any) -> Translated: ...

    def secret(self, packed: Any, source: ConfigSource) -> Translated: ...


class Subscription(Protocol):
    """An interest in one kind."""

    def set_names(self, names: set[str]) -> None: ...

    def cancel(self) -> None: ...


class Xds(Protocol):
    """`agent.xds.client`. `names` None = all there is."""

    dynamic: Dynamic

    def subscribe(
        self, type_url: str, source: ConfigSource, names: set[str] | None, handler: Callable[[Update], Errors], *,
        on_missing: Callable[[str], None], on_failed: Callable[[str], None], known: dict[str, str],
    ) -> Subscription: ...

    def counters(self) -> dict[str, int]: ...

    def gauges(self) -> dict[str, int]: ...

    def close(self) -> None: ...


@dataclass
class Thing:
    """A cluster or listener as it is wanted. `resources` are it, packed, and what came inside it."""

    value: Cluster | Listener
    resources: list[Resource]
    raw: bytes
    version: str
    notes: tuple[str, ...]
    state: str = "warming"
    """warming, ready (to be put), sent, active, refused, or the file's (which has one of that name)."""
    error: str = ""
    updated_s: float = field(default_factory=unix_s)

    def secrets(self) -> dict[str, Secret]:
        """That came inside it, by name."""
        return {each.name: unpack(each) for each in self.resources if each.kind is ResourceKind.SECRET}  # type: ignore[misc]


class Came(NamedTuple):
    """A route table or secret."""

    value: Any
    raw: bytes
    version: str
    notes: tuple[str, ...]
    updated_s: float


@dataclass
class Standing:
    """How it goes with one kind of one source."""

    version: str = ""
    updated_s: float = 0.0
    refused: str = ""
    failed: str = ""


class Named:
    """One kind that is asked for by name, of one source."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None
        self.names: set[str] = set()
        self.came: dict[str, Came] = {}
        self.missed: set[str] = set()

    def is_here(self, name: str) -> bool:
        """It came, or is not waited for any more."""
        return name in self.came or name in self.missed


class Join:
    """One for the agent, when its node has control planes. `send` is to the master; `changed` hears when `is_warm` may have changed."""

    def __init__(
        self, view: NodeView, xds: Xds, translator: Translator, finding: Finding, resolving: Resolving, assignments: Assignments,
        send: Callable[[Any], None], journal: Journal, last_good: LastGood, changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._view = view
        self._xds = xds
        self._translator = translator
        self._finding = finding
        self._resolving = resolving
        self._assignments = assignments
        self._send = send
        self._journal = journal
        self._last_good = last_good
        self._changed = changed
        self.things: dict[Key, Thing] = {}
        """All that is wanted."""
        self._gone: set[Key] = set()
        self._fresh: set[Key] = set()
        """Route tables and secrets that came and are to be put."""
        self._held: dict[Key, float] = {}
        """What could be put, were it not for clusters that are warming or still named; until when."""
        self._found: dict[str, EndpointSet] = {}
        """Of clusters that are not in force as they are wanted."""
        self._warming: set[Key] = set()
        self._named: dict[tuple[str, ConfigSource], Named] = {}
        self._wild: dict[str, tuple[ConfigSource, Subscription]] = {}
        self._standings: dict[tuple[str, ConfigSource], Standing] = {}
        self._heard: set[str] = set()
        """Type URLs of what was said, or will not be, about all there is."""
        self._entrances_begun = False
        self._ids = itertools.count(1)
        self._sent: dict[int, PutResources] = {}
        self._checks: dict[int, AsyncResult] = {}
        self._looking = False
        self.counters: dict[str, int] = dict.fromkeys(
            (f"{owner}_{what}" for owner in ("cluster_manager.cluster", "listener_manager.listener") for what in ("added", "modified", "removed")), 0
        )
        self._reborn = any(is_brought(each) for each in view.all_resources())
        """A newborn agent after another, or under a new master: what is known on disk is in force."""
        self.from_disk: set[str] = set()
        """Kinds whose last known good is in force in the place of a control plane's word."""
        for resource in (each for each in view.all_resources() if is_brought(each)):
            if resource.kind in (ResourceKind.CLUSTER, ResourceKind.LISTENER):
                self.things[resource.kind, resource.name] = Thing(unpack(resource), [resource], b"", "", (), "active", updated_s=0.0)

    # ---- asking ----

    def start(self) -> None:
        """Ask for clusters, or go on to what comes after them."""
        self._ask_for_all(CDS.type_url, self._view.settings.dynamic.cds, self._take_clusters)
        self._ask_by_name()
        self.look_soon()

    def configured(self) -> None:
        """The master said something about clusters, listeners, secrets or settings."""
        self._xds.dynamic = self._view.settings.dynamic
        self._ask_for_all(CDS.type_url, self._view.settings.dynamic.cds, self._take_clusters)
        if self._entrances_begun:
            self._ask_for_all(LDS.type_url, self._view.settings.dynamic.lds, self._take_listeners)
        self._compare()
        self._ask_by_name()
        self.look_soon()

    def _ask_for_all(self, type_url: str, source: ConfigSource | None, handler: Take) -> None:
        asked = self._wild.get(type_url)
        if asked is not None and asked[0] != source:
            asked[1].cancel()
            del self._wild[type_url]
        if source is None:
            self._heard.add(type_url)
            kind = ResourceKind.CLUSTER if type_url == CDS.type_url else ResourceKind.LISTENER
            for key in [key for key in self.things if key[0] is kind]:
                # The master has dropped them with the file's word for it.
                self._forget(key)
        elif type_url not in self._wild:
            self._heard.discard(type_url)
            kept = self._last_good.load(type_url) if self._reborn or type_url in self.from_disk else {}
            subscription = self._xds.subscribe(
                type_url, source, None, lambda update: self._accept(type_url, source, update, handler),
                on_missing=lambda name: self._nothing_came(type_url, source, "no answer in time", handler),
                on_failed=lambda error: self._nothing_came(type_url, source, error, handler),
                known={name: each.version for name, each in kept.items()},
            )
            self._wild[type_url] = source, subscription

    def _nothing_came(self, type_url: str, source: ConfigSource, why: str, handler: Take) -> None:
        self._failed(type_url, source, why)
        if type_url in self._heard:
            return
        self._heard.add(type_url)
        kept = {} if self._reborn else self._last_good.load(type_url)
        if kept:
            self.from_disk.add(type_url)
            self._journal.warning("last known good", kind=short(type_url), resources=len(kept), why=why)
            for name, error in handler(source, self._of_disk(type_url, kept.values(), full=True)).items():
                self._journal.error("last known good is refused", kind=short(type_url), name=name, error=error)
            # Asked anew, so that the control plane hears what is in force here, and says what of it is gone.
            self._wild.pop(type_url)[1].cancel()
            self._heard.discard(type_url)
            self._ask_for_all(type_url, source, handler)
            self._heard.add(type_url)
        self.look_soon()

    def _of_disk(self, type_url: str, kept: Iterable[Kept], full: bool) -> Update:
        from google.protobuf.any_pb2 import Any as Packed

        items = [Item(each.name, Packed(type_url=type_url, value=each.value), each.version) for each in kept]
        return Update(items, [], full, items[0].version if items else "")

    def _accept(self, type_url: str, source: ConfigSource, update: Update, handler: Take) -> Errors:
        """A control plane's word: what is good of it is remembered."""
        errors = handler(source, update)
        self._said(type_url, source, update, errors)
        self._heard.add(type_url)
        self.from_disk.discard(type_url)
        removed = list(update.removed)
        if update.full:
            removed += self._last_good.load(type_url).keys() - {item.name for item in update.added}
        good = [Kept(item.name, item.version, item.resource.value) for item in update.added if item.name not in errors]
        self._last_good.put(type_url, good, removed)
        self.look_soon()
        return errors

    def _said(self, type_url: str, source: ConfigSource, update: Update, errors: Errors) -> None:
        standing = self._standings.setdefault((type_url, source), Standing())
        standing.failed = ""
        standing.refused = "; ".join(f"{name}: {error}" for name, error in errors.items())
        if not errors:
            standing.version, standing.updated_s = update.version, unix_s()

    def _failed(self, type_url: str, source: ConfigSource, why: str) -> None:
        self._standings.setdefault((type_url, source), Standing()).failed = why
        self.look_soon()

    def _ask_by_name(self) -> None:
        """Endpoints, secrets and, once clusters are there, what entrances need: the whole list of names each time it changes."""
        wanted: dict[tuple[str, ConfigSource], set[str]] = {key: set() for key in self._named}
        clusters = self._clusters()
        for cluster in clusters.values():
            for eds in cluster.sources:
                if isinstance(eds, EdsSource):
                    wanted.setdefault((EDS.type_url, eds.source), set()).add(eds.service or cluster.name)
        listeners = self._listeners() if self._entrances_begun else {}
        for _, manager in _rds(listeners.values()):
            assert manager.rds is not None
            wanted.setdefault((RDS.type_url, manager.rds), set()).add(manager.route_table)
        secrets = self._secrets()
        for name in secrets_of(listeners.values(), clusters.values()):
            secret = secrets.get(name)
            if secret is not None and secret.source is not None:
                wanted.setdefault((SDS.type_url, secret.source), set()).add(secret.sds_name or name)
        for (type_url, source), names in wanted.items():
            self._ask_for(type_url, source, names)

    def _ask_for(self, type_url: str, source: ConfigSource, names: set[str]) -> None:
        named = self._named.setdefault((type_url, source), Named())
        if names == named.names:
            return
        gone = named.names - names
        for name in gone:
            named.came.pop(name, None)
            named.missed.discard(name)
        named.names = set(names)
        if type_url == EDS.type_url:
            self._assignments.forget(source, gone)
        if named.subscription is not None and names:
            named.subscription.set_names(set(names))
        elif named.subscription is not None:
            named.subscription.cancel()
            del self._named[type_url, source]
        elif names:
            take = {EDS.type_url: self._take_endpoints, RDS.type_url: self._take_routes, SDS.type_url: self._take_secrets}[type_url]
            kept = self._last_good.load(type_url) if self._reborn else {}
            named.subscription = self._xds.subscribe(
                type_url, source, set(names), lambda update: self._accept_named(type_url, source, update, take),
                on_missing=lambda name: self._missing(type_url, source, [name], "no answer in time", take),
                on_failed=lambda error: self._missing(type_url, source, list(self._named[type_url, source].names), error, take),
                known={name: kept[name].version for name in names if name in kept and type_url != EDS.type_url},
            )

    def _accept_named(self, type_url: str, source: ConfigSource, update: Update, take: Take) -> Errors:
        errors = take(source, update)
        self._said(type_url, source, update, errors)
        good = [Kept(item.name, item.version, item.resource.value) for item in update.added if item.name not in errors]
        self._last_good.put(type_url, good)
        self.from_disk.discard(type_url)
        self.look_soon()
        return errors

    def _missing(self, type_url: str, source: ConfigSource, names: list[str], why: str, take: Take) -> None:
        named = self._named.get((type_url, source))
        if named is None:
            return
        self._failed(type_url, source, why)
        kept = {} if self._reborn and type_url == EDS.type_url else self._last_good.load(type_url)
        for name in [each for each in names if each in named.names and not named.is_here(each)]:
            named.missed.add(name)
            if name in kept:
                self.from_disk.add(type_url)
                take(source, self._of_disk(type_url, [kept[name]], full=False))
            elif type_url == EDS.type_url:
                self._assignments.missed(source, name, why)
        self.look_soon()

    # ---- what they say ----

    def _take_clusters(self, source: ConfigSource, update: Update) -> Errors:
        errors = self._take_things(ResourceKind.CLUSTER, update, lambda packed: self._translator.cluster(packed, source))
        for key in [key for key in self._warming if key[0] is ResourceKind.CLUSTER]:
            cluster = self.things[key].value
            assert isinstance(cluster, Cluster)
            watched = [(cluster, self._view.endpoint_set(cluster.name))]
            self._resolving.watch(watched)
            self._finding.watch(watched)
        self._ask_by_name()
        return errors

    def _take_listeners(self, source: ConfigSource, update: Update) -> Errors:
        before, clusters = dict(self.things), self._clusters()
        errors = self._take_things(ResourceKind.LISTENER, update, lambda packed: self._translator.listener(packed, source, clusters))
        fresh = [key for key in self._warming if key[0] is ResourceKind.LISTENER and self.things[key] is not before.get(key)]
        for name, error in self._check([self.things[key].resources[-1] for key in fresh if self._wants_sockets(key)]).items():
            errors[name] = error
            self._go_back((ResourceKind.LISTENER, name), before.get((ResourceKind.LISTENER, name)))
        self._ask_by_name()
        return errors

    def _take_things(self, kind: ResourceKind, update: Update, translate: Callable[[Any], Translated]) -> Errors:
        errors: Errors = {}
        for item in update.added:
            key, raw = (kind, item.name), item.resource.value
            known = self.things.get(key)
            if known is not None and known.raw == raw and known.state != "refused":
                known.version = item.version
                continue
            try:
                translated = translate(item.resource)
            except ConfigError as error:
                errors[item.name] = str(error)
                continue
            self._want(key, translated, raw, item.version)
        gone = set(update.removed)
        if update.full:
            gone |= {name for held, name in self.things if held is kind} - {item.name for item in update.added}
        for name in gone:
            if (kind, name) in self.things:
                self._gone.add((kind, name))
                self._forget((kind, name))
        return errors

    def _want(self, key: Key, translated: Translated, raw: bytes, version: str) -> None:
        inner = [pack(ResourceKind.SECRET, each.name, each) for each in translated.secrets]
        inner += [pack(ResourceKind.ROUTE_TABLE, each.name, each) for each in translated.tables]
        thing = Thing(translated.resource, [*inner, pack(*key, translated.resource)], raw, version, translated.notes)
        self.things[key] = thing
        self._gone.discard(key)
        there = self._view.resource(key)
        if there is not None and not is_brought(there):
            thing.state = "the file's"
            self._journal.warning("a control plane cannot change what the file has", kind=key[0].name, name=key[1])
        elif there is not None and all(self._is_in_force(each) for each in thing.resources):
            thing.state = "active"
            self._warming.discard(key)
        else:
            self._warming.add(key)

    def _is_in_force(self, resource: Resource) -> bool:
        there = self._view.resource((resource.kind, resource.name))
        if there is None:
            return False
        return there.body == resource.body or (resource.kind is ResourceKind.SECRET and unpack(resource).source is not None)

    def _forget(self, key: Key) -> None:
        thing = self.things.pop(key, None)
        self._warming.discard(key)
        if thing is not None and key[0] is ResourceKind.CLUSTER:
            self._found.pop(key[1], None)
            if self._view.cluster(key[1]) is None:
                self._resolving.forget([key[1]])
                self._finding.forget([key[1]])

    def _go_back(self, key: Key, before: Thing | None) -> None:
        """What was wanted before is wanted again; its raw form is forgotten, so that the same again is tried again."""
        self._forget(key)
        if before is not None:
            before.raw = b""
            self.things[key] = before
            if before.state in ("warming", "ready"):
                before.state = "warming"
                self._warming.add(key)

    def _take_endpoints(self, source: ConfigSource, update: Update) -> Errors:
        errors: Errors = {}
        named = self._named[EDS.type_url, source]
        for item in update.added:
            try:
                translated = self._translator.endpoints(item.resource)
            except ConfigError as error:
                errors[item.name] = str(error)
                continue
            service = translated.name
            named.missed.discard(service)
            named.came[service] = Came(None, b"", item.version, translated.notes, unix_s())
            self._assignments.said(source, service, translated.resource)
        return errors

    def _take_routes(self, source: ConfigSource, update: Update) -> Errors:
        clusters = self._clusters()
        return self._take_named(RDS.type_url, source, update, lambda packed: self._translator.route_table(packed, clusters))

    def _take_secrets(self, source: ConfigSource, update: Update) -> Errors:
        return self._take_named(SDS.type_url, source, update, lambda packed: self._translator.secret(packed, source))

    def _take_named(self, type_url: str, source: ConfigSource, update: Update, translate: Callable[[Any], Translated]) -> Errors:
        errors: Errors = {}
        named = self._named[type_url, source]
        for item in update.added:
            known, raw = named.came.get(item.name), item.resource.value
            if known is not None and known.raw == raw:
                named.came[item.name] = known._replace(version=item.version)
                continue
            try:
                translated = translate(item.resource)
            except ConfigError as error:
                errors[item.name] = str(error)
                continue
            named.missed.discard(item.name)
            named.came[item.name] = Came(translated.resource, raw, item.version, translated.notes, unix_s())
            if type_url == RDS.type_url:
                self._fresh.add((ResourceKind.ROUTE_TABLE, item.name))
            else:
                self._fresh |= {
                    (ResourceKind.SECRET, secret.name) for secret in self._secrets().values()
                    if secret.source == source and (secret.sds_name or secret.name) == item.name
                }
        return errors

    # ---- what is there ----

    def _clusters(self) -> dict[str, Cluster]:
        """As they are wanted, and the file's."""
        clusters = {each.name: each for each in self._view.clusters() if not self._view.is_brought((ResourceKind.CLUSTER, each.name))}
        return {name: thing.value for (kind, name), thing in self.things.items() if kind is ResourceKind.CLUSTER} | clusters  # type: ignore[dict-item]

    def _listeners(self) -> dict[str, Listener]:
        listeners = {each.name: each for each in self._view.listeners() if not self._view.is_brought((ResourceKind.LISTENER, each.name))}
        return {name: thing.value for (kind, name), thing in self.things.items() if kind is ResourceKind.LISTENER} | listeners  # type: ignore[dict-item]

    def _secrets(self) -> dict[str, Secret]:
        """All that are named, as they are declared."""
        secrets = {each.name: each for each in self._view.secrets()}
        for thing in self.things.values():
            secrets |= thing.secrets()
        return secrets

    def _filled(self, secret: Secret) -> Secret:
        """With what came."""
        if secret.source is None:
            return secret
        named = self._named.get((SDS.type_url, secret.source))
        came = named.came.get(secret.sds_name or secret.name) if named is not None else None
        if came is not None:
            return msgspec.structs.replace(secret, value=came.value.value)
        there = self._view.resource((ResourceKind.SECRET, secret.name))
        return unpack(there) if there is not None else secret  # type: ignore[return-value]

    def _table(self, name: str, listeners: Iterable[Listener]) -> RouteTable | None:
        for table, manager in _rds(listeners):
            if table == name and (named := self._named.get((RDS.type_url, manager.rds))) is not None and name in named.came:
                return named.came[name].value  # type: ignore[no-any-return]
        return None

    def _compare(self) -> None:
        """The node's view may have lost something, or the file may have let go of a name."""
        if self._sent:
            return
        for key, thing in self.things.items():
            there = self._view.resource(key)
            if thing.state == "active" and there is None and thing.raw:
                thing.state = "warming"
                self._warming.add(key)
            elif thing.state == "active" and there is not None and not is_brought(there):
                thing.state = "the file's"
            elif thing.state == "the file's" and (there is None or is_brought(there)):
                thing.state = "warming"
                self._warming.add(key)

    # ---- into force ----

    def look_soon(self) -> None:
        """Something may be warm: once for all that is said in one turn."""
        if not self._looking:
            self._looking = True
            gevent.spawn(self._look)

    def _look(self) -> None:
        self._looking = False
        for key in list(self._warming):
            thing = self.things[key]
            if thing.state == "warming" and self._is_warm(key, thing):
                thing.state = "ready"
        if not any(not put.only_check for put in self._sent.values()):
            self._put()
        if not self._entrances_begun and self._are_clusters_there():
            self._entrances_begun = True
            self._ask_for_all(LDS.type_url, self._view.settings.dynamic.lds, self._take_listeners)
            self._ask_by_name()
        self._changed()

    def _is_warm(self, key: Key, thing: Thing) -> bool:
        clusters, listeners = ([thing.value], []) if isinstance(thing.value, Cluster) else ([], [thing.value])
        secrets = thing.secrets()
        for name in secrets_of(listeners, clusters):  # type: ignore[arg-type]
            secret = secrets.get(name)
            if secret is not None and secret.source is not None and not self._is_here(SDS.type_url, secret.source, secret.sds_name or name):
                return False
        if key[0] is ResourceKind.CLUSTER:
            return self._finding.is_warm_of(key[1]) and self._resolving.is_warm_of(key[1])
        return all(self._is_here(RDS.type_url, manager.rds, name) for name, manager in _rds(listeners))  # type: ignore[arg-type]

    def _is_here(self, type_url: str, source: ConfigSource, name: str) -> bool:
        named = self._named.get((type_url, source))
        return named is not None and named.is_here(name)

    def _are_clusters_there(self) -> bool:
        warming = any(kind is ResourceKind.CLUSTER for kind, _ in self._warming)
        return CDS.type_url in self._heard and not warming and not self._sent and self._finding.is_warm() and self._resolving.is_warm()

    def is_warm(self) -> bool:
        """All that a start waits for came, or will not."""
        if not self._entrances_begun or LDS.type_url not in self._heard or self._warming or self._sent or self._fresh:
            return False
        return all(named.is_here(name) for (type_url, _), named in self._named.items() if type_url != EDS.type_url for name in named.names)

    def is_warming(self, cluster: str) -> bool:
        """It is to become another than it is in force: whoever watches its sources watches those of the new form."""
        return (ResourceKind.CLUSTER, cluster) in self._warming

    def takes(self, found: EndpointSet) -> bool:
        """Endpoints of a cluster that is not in force as it is wanted: they are put with it."""
        if (ResourceKind.CLUSTER, found.cluster) not in self._warming:
            return False
        self._found[found.cluster] = found
        self.look_soon()
        return True

    def _put(self) -> None:
        upserts: dict[Key, Resource] = {}
        for key in [key for key in self._warming if self.things[key].state == "ready"]:
            thing = self.things[key]
            if isinstance(thing.value, Listener) and self._waits_for(key, self._names_of(thing)):
                continue
            thing.state = "sent"
            for resource in thing.resources:
                if resource.kind is ResourceKind.SECRET:
                    resource = pack(ResourceKind.SECRET, resource.name, self._filled(unpack(resource)))  # type: ignore[arg-type]
                upserts[resource.kind, resource.name] = resource
            if isinstance(thing.value, Listener):
                self._fresh |= {(ResourceKind.ROUTE_TABLE, name) for name, _ in _rds([thing.value])}
            elif (found := self._found.pop(key[1], None)) is not None:
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
        fresh, self._fresh = self._fresh, set()
        listeners, secrets = list(self._listeners().values()), self._secrets() if fresh else {}
        made: dict[Key, Resource] = {}
        for kind, name in fresh:
            value: RouteTable | Secret | None = self._table(name, listeners) if kind is ResourceKind.ROUTE_TABLE else self._filled(secrets[name])
            if isinstance(value, RouteTable) and self._waits_for((kind, name), clusters_of(value)):
                self._fresh.add((kind, name))
            elif value is not None:
                resource = pack(kind, name, value)
                there = self._view.resource((kind, name))
                if there is None or there.body != resource.body:
                    made[kind, name] = resource
        return made

    def _removes(self) -> list[Key]:
        """What is gone; a cluster that routes still name stays for a moment, because mostly the routes are on their way."""
        gone, self._gone = self._gone, set()
        removes = [key for key in gone if self._view.is_brought(key)]
        if not any(kind is ResourceKind.CLUSTER for kind, _ in removes):
            return removes
        named = {name for table in self._view.route_tables() for name in clusters_of(table)}
        named |= {name for listener in self._view.listeners() for name in relayed_to(listener)}
        late = {key for key in removes if key[0] is ResourceKind.CLUSTER and key[1] in named and self._hold(key)}
        self._gone |= late
        return [key for key in removes if key not in late]

    def _names_of(self, thing: Thing) -> set[str]:
        """Clusters that a listener with all that is in it sends to."""
        assert isinstance(thing.value, Listener)
        tables: list[RouteTable] = [unpack(each) for each in thing.resources if each.kind is ResourceKind.ROUTE_TABLE]  # type: ignore[misc]
        return relayed_to(thing.value).union(*map(clusters_of, tables))

    def _waits_for(self, key: Key, clusters: Iterable[str]) -> bool:
        """Whether some of these are on their way and nothing of their names is there yet. Not for long: a listener or a table of
        routes has other clusters too."""
        late = any((ResourceKind.CLUSTER, name) in self._warming and self._view.cluster(name) is None for name in clusters)
        if late and self._hold(key):
            return True
        self._held.pop(key, None)
        return False

    def _hold(self, key: Key) -> bool:
        """Whether its time is not over; when it is, somebody looks again."""
        now_s = monotonic_s()
        if key not in self._held:
            self._held[key] = now_s + HOLD_S
            gevent.spawn_later(HOLD_S, self.look_soon)
        if now_s < self._held[key]:
            return True
        del self._held[key]
        return False

    def _orphans(self, upserts: Iterable[Key]) -> list[Key]:
        """Route tables and secrets that nobody names any more."""
        listeners, clusters = self._listeners().values(), self._clusters().values()
        named = {(ResourceKind.ROUTE_TABLE, name) for name in route_tables_of(listeners)}
        named |= {(ResourceKind.SECRET, name) for name in secrets_of(listeners, clusters)} | set(upserts)
        kinds = (ResourceKind.ROUTE_TABLE, ResourceKind.SECRET)
        # What is still warming replaces something that has its own until then.
        if self._warming:
            return []
        return [(each.kind, each.name) for kind in kinds for each in self._view.resources(kind) if is_brought(each) and (kind, each.name) not in named]

    def _count(self, upserts: Iterable[Key], removes: Iterable[Key]) -> None:
        owners = {ResourceKind.CLUSTER: "cluster_manager.cluster", ResourceKind.LISTENER: "listener_manager.listener"}
        for key in upserts:
            if key[0] in owners:
                self.counters[f"{owners[key[0]]}_{'added' if self._view.resource(key) is None else 'modified'}"] += 1
        for key in removes:
            if key[0] in owners:
                self.counters[f"{owners[key[0]]}_removed"] += 1

    def _check(self, listeners: list[Resource]) -> Errors:
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

    def _wants_sockets(self, key: Key) -> bool:
        value, there = self.things[key].value, self._view.resource(key)
        assert isinstance(value, Listener)
        before = unpack(there) if there is not None else None
        return value.bind_to_port and not (isinstance(before, Listener) and before.addresses == value.addresses)

    def answered(self, answer: PutAnswer) -> None:
        """The master's word."""
        if answer.id in self._checks:
            self._checks[answer.id].set(answer)
            return
        put = self._sent.pop(answer.id, None)
        if put is None:
            return
        refused = {(each.kind, each.name): each.error for each in answer.refused}
        for resource in put.upserts:
            key = resource.kind, resource.name
            thing = self.things.get(key)
            if key in refused:
                self._journal.error("not in force", kind=key[0].name, name=key[1], error=refused[key])
            if thing is None or thing.state != "sent":
                continue
            thing.state, thing.error = ("refused", refused[key]) if key in refused else ("active", "")
            self._warming.discard(key)
            if (found := self._found.pop(key[1], None)) is not None and key[0] is ResourceKind.CLUSTER:
                self._send(PutResource(resource=pack(ResourceKind.ENDPOINTS, key[1], found)))
        self._compare()
        self.look_soon()

    # ---- telling ----

    def gauges(self) -> dict[str, int]:
        """By metric name."""
        warming = [kind for kind, _ in self._warming]
        return {
            "cluster_manager.warming_clusters": warming.count(ResourceKind.CLUSTER),
            "listener_manager.total_listeners_warming": warming.count(ResourceKind.LISTENER),
            "control_plane.last_known_good": int(bool(self.from_disk)),
            **self._xds.gauges(),
        }

    def rows(self) -> list[ControlPlaneRow]:
        """What is asked of whom, and how that goes."""
        counted = {(type_url, asked[0]): sum(1 for held, _ in self.things if held is _WILD[type_url]) for type_url, asked in self._wild.items()}
        counted |= {key: len(named.came) for key, named in self._named.items()}
        rows = []
        for (type_url, source), resources in counted.items():
            standing = self._standings.get((type_url, source), Standing())
            rows.append(ControlPlaneRow(
                kind=short(type_url), source=config_source_name(source), resources=resources, version=standing.version,
                updated_unix_s=standing.updated_s, error=standing.failed or standing.refused, last_known_good=type_url in self.from_disk,
            ))
        return rows

    def not_in_force(self) -> list[str]:
        """Parts that this proxy does without, and what was refused; at most some."""
        lines = []
        for (kind, name), thing in self.things.items():
            lines += [f'{kind.name.lower()} "{name}": {note}' for note in thing.notes]
            lines += [f'{kind.name.lower()} "{name}": {thing.error}'] if thing.error else []
        for (type_url, _), named in self._named.items():
            lines += [f'{short(type_url)} "{name}": {note}' for name, came in named.came.items() for note in came.notes]
        return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]

    def warming(self) -> list[tuple[Key, Thing]]:
        """What is not in force yet as it is wanted."""
        return [(key, self.things[key]) for key in sorted(self._warming)]

    def all_counters(self) -> dict[str, int]:
        """By metric name."""
        return {**self.counters, **self._xds.counters()}

    def end(self) -> None:
        """What is to be on disk is."""
        self._xds.close()
        self._last_good.write()

    def version_of(self, key: Key) -> tuple[str, float, tuple[str, ...], str] | None:
        """Of what a control plane brought: its version, when it came (UNIX time), what of it is not in force, and why it was refused."""
        if (thing := self.things.get(key)) is not None:
            return thing.version, thing.updated_s, thing.notes, thing.error
        for (type_url, _), named in self._named.items():
            if type_url == _NAMED.get(key[0]) and (came := named.came.get(key[1])) is not None:
                return came.version, came.updated_s, came.notes, ""
        return None


def clusters_of(table: RouteTable) -> set[str]:
    """Names of the clusters that it sends to."""
    actions = (route.action for host in table.virtual_hosts for route in host.routes)
    return {cluster.name for action in actions if isinstance(action, ForwardAction) for cluster in action.clusters}


def relayed_to(listener: Listener) -> set[str]:
    """Names of the clusters that its connections go to."""
    terminals = (chain.terminal for chain in listener.all_chains)
    return {cluster.name for terminal in terminals if isinstance(terminal, TcpProxy) for cluster in terminal.clusters}


_WILD = {CDS.type_url: ResourceKind.CLUSTER, LDS.type_url: ResourceKind.LISTENER}
_NAMED = {ResourceKind.ROUTE_TABLE: RDS.type_url, ResourceKind.SECRET: SDS.type_url}


def _rds(listeners: Iterable[Listener]) -> Iterable[tuple[str, HttpConnectionManager]]:
    """Names of route tables that are asked for, each with who has it."""
    terminals = (chain.terminal for listener in listeners for chain in listener.all_chains)
    return [(each.route_table, each) for each in terminals if isinstance(each, HttpConnectionManager) and each.rds is not None]
