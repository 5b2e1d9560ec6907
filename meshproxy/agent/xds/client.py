"""The agent's interest in what control planes have: subscriptions, and the links that serve them. Made only when a node has such sources.

Handlers run in the greenlet of `XdsClient`, one after the other. What they ask for leaves before the response that they handle is answered.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from gevent.event import Event

from meshproxy import __version__
from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.dial import Dialler
from meshproxy.agent.xds.links import Context, FileLink, GrpcLink, Link, RestLink
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.discovery.dns import Resolve
from meshproxy.discovery.xds.delta import DeltaStream
from meshproxy.discovery.xds.hash import xxh64
from meshproxy.discovery.xds.kinds import ADS, CDS, KINDS, LDS
from meshproxy.discovery.xds.sotw import SotwStream
from meshproxy.discovery.xds.stream import XdsStream
from meshproxy.discovery.xds.watch import Errors, Update, Watch
from meshproxy.errors import ConfigError, Problem
from meshproxy.master.journal import Journal
from meshproxy.model import ConfigSource, Dynamic, Node

NUMBERED = {CDS.type_url: "cluster_manager.cds", LDS.type_url: "listener_manager.lds"}
"""Whose watches have metrics of their own, and under which name."""


class PlaneState(msgspec.Struct, frozen=True, kw_only=True):
    """A source for pages. `since_unix_s`: of being connected or not; 0 = it was never tried."""

    name: str
    connected: bool
    since_unix_s: float
    failures: int
    identifier: str = ""
    error: str = ""
    refused: str = ""
    """The last response that was refused, until one of its kind is accepted."""


class Subscription:
    """An interest in one kind of one source."""

    def __init__(self, link: Link, type_url: str, watch: Watch, ended: Callable[[Subscription], None]) -> None:
        self.link = link
        self._type_url = type_url
        self._ended = ended
        self.watch = watch

    def set_names(self, names: set[str]) -> None:
        """These from now on."""
        self.link.stream.set_names(self._type_url, self.watch, names, monotonic_s())
        self.link.flush()

    def cancel(self) -> None:
        """Nothing is told any more."""
        self.link.stream.cancel(self._type_url, self.watch)
        self.link.flush()
        self._ended(self)

    def pause(self) -> None:
        """Hold back requests of this kind, answers too: the control plane sends no more of it meanwhile. Each needs its `resume`."""
        self.link.stream.pause(self._type_url)

    def resume(self) -> None:
        self.link.stream.resume(self._type_url)
        self.link.flush()


class XdsClient:
    """`lookup` resolves names of control planes' hosts; `view` has their clusters and secrets."""

    def __init__(
        self, dynamic: Dynamic, node: Node, view: NodeView, lookup: Resolve, journal: Journal, chance: Callable[[], float] = random.random
    ) -> None:
        self._dynamic = dynamic
        self._subscriptions: set[Subscription] = set()
        self._node = node_message(node)
        self._journal = journal
        self._links: dict[tuple[str, ConfigSource], Link] = {}
        """By (type URL, source); the type is "" for an aggregated stream."""
        self._inbox: deque[tuple[Any, Any]] = deque()
        self._wake = Event()
        # Threads may only touch the loop by this.
        self._bell = gevent.get_hub().loop.async_()
        self._bell.start(self._wake.set)
        self._closing = threading.Lock()
        self._closed = False
        self._context = Context(Dialler(view, lookup), journal, chance, self._post, self._wake.set)
        self._running = gevent.spawn(self._run)

    def subscribe(
        self, type_url: str, source: ConfigSource, names: set[str] | None, handler: Callable[[Update], Errors], *,
        on_missing: Callable[[str], None] = lambda name: None, on_failed: Callable[[str], None] = lambda error: None,
        known: dict[str, str] | None = None,
    ) -> Subscription:
        """Ask for resources; `names` None = all there is. `known`: versions that are in force here, so that they need not come again.

        Raises ConfigError for a source that cannot be asked for this kind.
        """
        link = self._link(type_url, source)
        watch = Watch(names, handler, source.initial_fetch_timeout_s)
        watch.on_missing, watch.on_failed = on_missing, on_failed
        link.stream.watch(type_url, watch, monotonic_s(), known or {})
        link.flush()
        made = Subscription(link, type_url, watch, self._left)
        self._subscriptions.add(made)
        return made

    @property
    def dynamic(self) -> Dynamic:
        """What `ads` means. When another stream is set here, what is subscribed by `ads` is asked of that from then on."""
        return self._dynamic

    @dynamic.setter
    def dynamic(self, dynamic: Dynamic) -> None:
        before, self._dynamic = self._dynamic.ads, dynamic
        if dynamic.ads == before or before is None:
            return
        old = self._links.pop(("", before), None)
        if old is None:
            return
        old.close()
        if dynamic.ads is None:
            return  # what was subscribed there is cancelled by those who knew it
        new = self._links[("", dynamic.ads)] = self._made("", dynamic.ads)
        for subscription in self._subscriptions:
            if subscription.link is old:
                subscription.link = new
        for type_url, watch in old.stream.watches():
            new.stream.watch(type_url, watch, monotonic_s())
        new.starting = gevent.spawn(new.start)

    def close(self) -> None:
        """All of it ends."""
        self._running.kill(block=False)
        for link in self._links.values():
            link.close()
        self._links.clear()
        with self._closing:
            self._closed = True
            self._bell.close()

    # ---- what is told of it ----

    def planes(self) -> list[PlaneState]:
        """The sources, in the order in which they were asked first."""
        return [
            PlaneState(
                name=link.name, connected=link.connected, since_unix_s=link.since_s, failures=link.failures, identifier=link.identifier,
                error=link.error, refused=link.refused,
            )
            for link in self._links.values()
        ]

    def counters(self) -> dict[str, int]:
        """By metric name."""
        counted: dict[str, int] = {}
        for prefix, watch in self._numbered():
            counts = watch.counts
            counted |= {
                f"{prefix}.update_attempt": counts.attempts,
                f"{prefix}.update_success": counts.successes,
                f"{prefix}.update_failure": counts.failures,
                f"{prefix}.update_rejected": counts.rejections,
                f"{prefix}.init_fetch_timeout": counts.fetch_timeouts,
            }
        for prefix, _ in self._grpc():
            counted[f"{prefix}.rate_limit_enforced"] = 0
        return counted

    def gauges(self) -> dict[str, int]:
        """By metric name."""
        told: dict[str, int] = {}
        for prefix, watch in self._numbered():
            told[f"{prefix}.update_time"] = int(watch.counts.updated_s * 1000)
            told[f"{prefix}.version"] = xxh64(watch.counts.version.encode()) if watch.counts.version else 0
        for prefix, link in self._grpc():
            told[f"{prefix}.connected_state"] = int(link.connected)
            told[f"{prefix}.pending_requests"] = 0
        return told

    def version_texts(self) -> dict[str, str]:
        """The versions in words, by metric name, as Envoy's text readouts."""
        told = {f"{prefix}.version_text": watch.counts.version for prefix, watch in self._numbered()}
        return told | {f"{prefix}.identifier": link.identifier for prefix, link in self._grpc()}

    def _numbered(self) -> list[tuple[str, Watch]]:
        every = [each for link in self._links.values() for each in link.stream.watches()]
        return [(NUMBERED[type_url], watch) for type_url, watch in every if type_url in NUMBERED]

    def _grpc(self) -> list[tuple[str, Link]]:
        """(metric prefix, link): the aggregated stream's name is bare, the others' stands behind their kind's."""
        named = []
        for (type_url, _), link in self._links.items():
            if isinstance(link, GrpcLink) and (not type_url or type_url in NUMBERED):
                named.append((f"{NUMBERED[type_url]}.control_plane" if type_url else "control_plane", link))
        return named

    # ---- links ----

    def _link(self, type_url: str, source: ConfigSource) -> Link:
        aggregated = source.kind == "ads"
        if aggregated:
            if self._dynamic.ads is None:
                raise ConfigError([Problem('"ads" is asked and there is no aggregated stream. Add dynamic_resources.ads_config.')])
            source = self._dynamic.ads
        key = ("" if aggregated else type_url, source)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = self._made("" if aggregated else type_url, source)
            # Later, so that nobody hears of a failure before having the subscription.
            link.starting = gevent.spawn(link.start)
        return link

    def _made(self, type_url: str, source: ConfigSource) -> Link:
        delta = source.kind == "delta_grpc"
        kind = KINDS.get(type_url)
        stream = self._stream(delta, source)
        if source.kind in ("grpc", "delta_grpc"):
            if not type_url:
                method = f"{ADS}{'Delta' if delta else 'Stream'}AggregatedResources"
            else:
                method = "" if kind is None else kind.delta if delta else kind.stream
            if not method:
                raise ConfigError([Problem(f"{type_url} cannot be asked for by {source.kind}. Use ads, or another api_type.")])
            parse = (DeltaDiscoveryResponse if delta else DiscoveryResponse).FromString
            return GrpcLink(self._context, source, stream, method, parse)
        if kind is None or (source.kind == "rest" and not kind.rest):
            raise ConfigError([Problem(f"{type_url} cannot be asked for by {source.kind}. Use ads, or another api_type.")])
        return (RestLink if source.kind == "rest" else FileLink)(self._context, source, stream, kind)

    def _stream(self, delta: bool, source: ConfigSource) -> XdsStream:
        return (DeltaStream if delta else SotwStream)(self._node, source.first_node_only, self._journal.warning)

    def _left(self, subscription: Subscription) -> None:
        """It ended. A stream of one kind ends with its last; the aggregated one stays."""
        self._subscriptions.discard(subscription)
        link = subscription.link
        for key, each in list(self._links.items()):
            if each is link and link.stream.is_idle and key[0]:
                del self._links[key]
                link.close()

    # ---- the greenlet ----

    def _post(self, link: Any, event: Any) -> None:
        """From a thread."""
        with self._closing:
            if not self._closed:
                self._inbox.append((link, event))
                self._bell.send()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            while self._inbox:
                link, event = self._inbox.popleft()
                link.happened(event)
            now_s = monotonic_s()
            for link in list(self._links.values()):
                if link.stream.due_s() <= now_s:
                    link.stream.tick(now_s, unix_s())
                    link.flush()
            due_s = min((link.stream.due_s() for link in self._links.values()), default=float("inf"))
            if self._inbox:
                continue
            # `moved` was set by what was done here; what is due now is known.
            self._wake.wait(None if due_s == float("inf") else max(due_s - monotonic_s(), 0.0))


def node_message(node: Node) -> Any:
    """Who this is, in the protocol's words."""
    made = NodeMessage(
        id=node.id, cluster=node.cluster, user_agent_name="meshproxy", user_agent_version=__version__,
        client_features=["xds.config.supports-resource-ttl"],
    )
    made.locality.region, made.locality.zone, made.locality.sub_zone = node.region, node.zone, node.sub_zone
    if not (node.region or node.zone or node.sub_zone):
        made.ClearField("locality")
    if node.metadata:
        made.metadata.update(node.metadata)
    return made
