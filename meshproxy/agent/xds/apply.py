"""What control planes say, put into force in Envoy's order: clusters, their endpoints, listeners, their routes.

    CDS -> translate -> warm (endpoints, secrets) -> put, with endpoints -> when all of the first response are: LDS
    LDS -> translate -> warm (route tables, secrets) -> put, with route tables

Whatever is replaced serves until the new one is warm, and nobody waits for another's warming. A name that does not come in time is gone
without. One put is on its way to the master at a time; what becomes ready meanwhile is the next. What is in force is the node's view, so
a newborn agent goes on where the former one ended, and removes nothing before a control plane said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent

from meshproxy.agent.finding import Finding
from meshproxy.agent.resolving import Resolving
from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.assignments import Assignments
from meshproxy.agent.xds.last_good import Kept, LastGood
from meshproxy.agent.xds.putting import Putting
from meshproxy.agent.xds.wanted import Came, Key, Named, Standing, Subscription, Thing, Translated, Translator, Wanted, Xds, rds_of
from meshproxy.clock import unix_s
from meshproxy.discovery.xds.kinds import CDS, EDS, LDS, RDS, SDS, short
from meshproxy.discovery.xds.watch import Errors, Item, Update
from meshproxy.errors import ConfigError
from meshproxy.ipc.messages import ControlPlaneRow, PutAnswer
from meshproxy.master.journal import Journal
from meshproxy.master.puts import secrets_of
from meshproxy.model import Cluster, ConfigSource, EdsSource, EndpointSet, ResourceKind
from meshproxy.model.snapshot import pack, unpack
from meshproxy.model.xds import config_source_name

Take = Callable[[ConfigSource, Update], Errors]
"""Takes what a source says; gives what is wrong with it."""


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
        self.wanted = Wanted(view)
        self.things = self.wanted.things
        self._warming, self._named = self.wanted.warming, self.wanted.named
        self._putting = Putting(view, self.wanted, send, journal, self.look_soon)
        self._wild: dict[str, tuple[ConfigSource, Subscription]] = {}
        self._standings: dict[tuple[str, ConfigSource], Standing] = {}
        self._heard: set[str] = set()
        """Type URLs of what was said, or will not be, about all there is."""
        self._entrances_begun = False
        self._looking = False
        self._spoken = False
        """A control plane said something since this agent was born: what it does not have then, it does not have any more."""
        self._reborn = any(each.origin == "xds" for each in view.all_resources())
        """A newborn agent after another, or under a new master: what is known on disk is in force."""
        self.from_disk: set[str] = set()
        """Kinds whose last known good is in force in the place of a control plane's word."""
        for resource in (each for each in view.all_resources() if each.origin == "xds"):
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
        self._spoken = True
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
        clusters = self.wanted.clusters()
        for cluster in clusters.values():
            for eds in cluster.sources:
                if isinstance(eds, EdsSource):
                    wanted.setdefault((EDS.type_url, eds.source), set()).add(eds.service or cluster.name)
        listeners = self.wanted.listeners() if self._entrances_begun else {}
        for _, manager in rds_of(listeners.values()):
            assert manager.rds is not None
            wanted.setdefault((RDS.type_url, manager.rds), set()).add(manager.route_table)
        secrets = self.wanted.secrets()
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
        known = self._spoken or (self._reborn and type_url == EDS.type_url)
        kept = {} if known else self._last_good.load(type_url)
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
        before, clusters = dict(self.things), self.wanted.clusters()
        errors = self._take_things(ResourceKind.LISTENER, update, lambda packed: self._translator.listener(packed, source, clusters))
        fresh = [key for key in self._warming if key[0] is ResourceKind.LISTENER and self.things[key] is not before.get(key)]
        asking = [self.things[key].resources[-1] for key in fresh if self._putting.wants_sockets(key)]
        for name, error in self._putting.check(asking).items():
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
                self._putting.gone.add((kind, name))
                self._forget((kind, name))
        return errors

    def _want(self, key: Key, translated: Translated, raw: bytes, version: str) -> None:
        inner = [pack(ResourceKind.SECRET, each.name, each) for each in translated.secrets]
        inner += [pack(ResourceKind.ROUTE_TABLE, each.name, each) for each in translated.tables]
        thing = Thing(translated.resource, [*inner, pack(*key, translated.resource)], raw, version, translated.notes)
        self.things[key] = thing
        self._putting.gone.discard(key)
        there = self._view.resource(*key)
        if there is not None and there.origin != "xds":
            thing.state = "the file's"
            self._journal.warning("a control plane cannot change what the file has", kind=key[0].name, name=key[1])
        elif there is not None and all(self.wanted.is_in_force(each) for each in thing.resources):
            thing.state = "active"
            self._warming.discard(key)
        else:
            self._warming.add(key)

    def _forget(self, key: Key) -> None:
        thing = self.things.pop(key, None)
        self._warming.discard(key)
        if thing is not None and key[0] is ResourceKind.CLUSTER:
            self._putting.found.pop(key[1], None)
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
        clusters = self.wanted.clusters()
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
                self._putting.fresh.add((ResourceKind.ROUTE_TABLE, item.name))
            else:
                self._putting.fresh |= {
                    (ResourceKind.SECRET, secret.name) for secret in self.wanted.secrets().values()
                    if secret.source == source and (secret.sds_name or secret.name) == item.name
                }
        return errors

    # ---- what is there ----

    def _compare(self) -> None:
        """The node's view may have lost something, or the file may have let go of a name."""
        if self._putting.is_busy:
            return
        for key, thing in self.things.items():
            there = self._view.resource(*key)
            if thing.state == "active" and there is None and thing.raw:
                thing.state = "warming"
                self._warming.add(key)
            elif thing.state == "active" and there is not None and there.origin != "xds":
                thing.state = "the file's"
            elif thing.state == "the file's" and (there is None or there.origin == "xds"):
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
        self._putting.put()
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
            if secret is None or secret.source is None:
                continue
            if not self.wanted.is_here(SDS.type_url, secret.source, secret.sds_name or name):
                return False
        if key[0] is ResourceKind.CLUSTER:
            return self._finding.is_warm_of(key[1]) and self._resolving.is_warm_of(key[1])
        return all(self.wanted.is_here(RDS.type_url, manager.rds, name) for name, manager in rds_of(listeners))  # type: ignore[arg-type]

    def _are_clusters_there(self) -> bool:
        warming = any(kind is ResourceKind.CLUSTER for kind, _ in self._warming)
        if CDS.type_url not in self._heard or warming or self._putting.is_busy:
            return False
        return self._finding.is_warm() and self._resolving.is_warm()

    def is_warm(self) -> bool:
        """All that a start waits for came, or will not."""
        if not self._entrances_begun or LDS.type_url not in self._heard or self._warming or self._putting.is_busy or self._putting.fresh:
            return False
        return all(named.is_here(name) for (type_url, _), named in self._named.items() if type_url != EDS.type_url for name in named.names)

    def takes(self, found: EndpointSet) -> bool:
        """Endpoints of a cluster that is not in force as it is wanted: they are put with it."""
        return self._putting.takes(found)

    def answered(self, answer: PutAnswer) -> None:
        """The master's word."""
        if self._putting.answered(answer):
            self._compare()
            self.look_soon()

    def not_in_force(self) -> list[str]:
        """Parts that this proxy does without, and what was refused; at most some."""
        return self.wanted.not_in_force()

    def version_of(self, key: Key) -> tuple[str, float, tuple[str, ...], str] | None:
        """As `Wanted` says."""
        return self.wanted.version_of(key)

    def is_warming(self, cluster: str) -> bool:
        """It is to become another than it is in force: whoever watches its sources watches those of the new form."""
        return (ResourceKind.CLUSTER, cluster) in self._warming

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
        kinds = [kind for kind, _ in self.things]
        counted = {(type_url, asked[0]): kinds.count(_WILD[type_url]) for type_url, asked in self._wild.items()}
        counted |= {key: len(named.came) for key, named in self._named.items()}
        rows = []
        for (type_url, source), resources in counted.items():
            standing = self._standings.get((type_url, source), Standing())
            rows.append(ControlPlaneRow(
                kind=short(type_url), source=config_source_name(source), resources=resources, version=standing.version,
                updated_unix_s=standing.updated_s, error=standing.failed or standing.refused, last_known_good=type_url in self.from_disk,
            ))
        return rows

    def warming(self) -> list[tuple[Key, Thing]]:
        """What is not in force yet as it is wanted."""
        return [(key, self.things[key]) for key in sorted(self._warming)]

    def all_counters(self) -> dict[str, int]:
        """By metric name."""
        return {**self._putting.counters, **self._xds.counters()}

    def end(self) -> None:
        """What is to be on disk is."""
        self._xds.close()
        self._last_good.write()


_WILD = {CDS.type_url: ResourceKind.CLUSTER, LDS.type_url: ResourceKind.LISTENER}
