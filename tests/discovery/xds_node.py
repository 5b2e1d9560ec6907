"""What a node does with resources, in little: it subscribes, warms and refuses as Envoy does, so that the protocol alone can be tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpConnectionManager

from meshproxy.discovery.xds.kinds import CDS, EDS, LDS, RDS
from meshproxy.discovery.xds.watch import Update

NOPE = "Didn't find a registered implementation for 'nope'"


class Asked(Protocol):
    """A subscription."""

    on_missing: Callable[[str], None]

    def set_names(self, names: set[str]) -> None: ...
    def cancel(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


Subscribe = Callable[..., Asked]
"""(type URL, names or None, handler, fetch timeout in seconds)"""


class ModelNode:
    """Starts with CDS; LDS follows when the clusters are warm or do not come."""

    def __init__(self, subscribe: Subscribe, fetch_timeout_s: float = 15.0) -> None:
        self._subscribe = subscribe
        self._fetch_timeout_s = fetch_timeout_s
        self.clusters: dict[str, bytes] = {}
        self.warming: set[str] = set()
        self._eds: dict[str, Asked] = {}
        self._started = self._paused = False
        self._listeners: Asked | None = None
        self.listeners: dict[str, bytes] = {}
        self._rds: dict[str, Asked] = {}
        self.endpoints: dict[str, bytes] = {}
        self.routes: dict[str, bytes] = {}
        self._cds = subscribe(CDS.type_url, None, self._take_clusters, fetch_timeout_s)
        self._cds.on_missing = lambda name: self._begin()

    def _take_clusters(self, update: Update) -> dict[str, str]:
        errors = {}
        for name in update.removed:
            self._drop_cluster(name)
        for item in update.added:
            cluster = Cluster.FromString(item.resource.value)
            if cluster.HasField("transport_socket"):
                errors[item.name] = NOPE
                continue
            if self.clusters.get(item.name) == item.resource.value:
                continue
            self.clusters[item.name] = item.resource.value
            old = self._eds.pop(item.name, None)
            if cluster.type == Cluster.EDS:
                service = cluster.eds_cluster_config.service_name or item.name
                timeout = cluster.eds_cluster_config.eds_config.initial_fetch_timeout
                seconds = timeout.ToNanoseconds() / 1e9 if timeout.ByteSize() else 15.0
                self.warming.add(item.name)
                asked = self._subscribe(EDS.type_url, {service}, self._endpoints_of(item.name), seconds)
                asked.on_missing = lambda missing, name=item.name: self._warm(name)
                self._eds[item.name] = asked
            if old is not None:
                old.cancel()
        self._look()
        return errors

    def _drop_cluster(self, name: str) -> None:
        self.clusters.pop(name, None)
        self.warming.discard(name)
        asked = self._eds.pop(name, None)
        if asked is not None:
            asked.cancel()

    def _endpoints_of(self, cluster: str) -> Callable[[Update], dict[str, str]]:
        def take(update: Update) -> dict[str, str]:
            for item in update.added:
                assignment = ClusterLoadAssignment.FromString(item.resource.value)
                if any(each.priority > 128 for each in assignment.endpoints):
                    self._warm(cluster)
                    return {item.name: "priority: at most 128"}
                self.endpoints[cluster] = item.resource.value
            self._warm(cluster)
            return {}

        return take

    def _warm(self, cluster: str) -> None:
        self.warming.discard(cluster)
        self._look()

    def _look(self) -> None:
        """Clusters of the first response that are warm let listeners begin; later ones hold back CDS while they are not."""
        if not self._started:
            if (self.clusters.keys() and not self.warming) or not self.clusters:
                self._begin()
        elif self.warming and not self._paused:
            self._paused = True
            self._cds.pause()
        if not self.warming and self._paused:
            self._paused = False
            self._cds.resume()

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            self._listeners = self._subscribe(LDS.type_url, None, self._take_listeners, self._fetch_timeout_s)

    def _take_listeners(self, update: Update) -> dict[str, str]:
        errors = {}
        for name in update.removed:
            self.listeners.pop(name, None)
        for item in update.added:
            listener = Listener.FromString(item.resource.value)
            config = listener.filter_chains[0].filters[0]
            manager = HttpConnectionManager()
            if not config.typed_config.Unpack(manager):
                errors[item.name] = NOPE
                continue
            self.listeners[item.name] = item.resource.value
            # An old listener drains for minutes and keeps its routes meanwhile, so names are only added here.
            if manager.HasField("rds") and manager.rds.route_config_name not in self._rds:
                name = manager.rds.route_config_name
                self._rds[name] = self._subscribe(RDS.type_url, {name}, self._take_routes, 15.0)
        return errors

    def _take_routes(self, update: Update) -> dict[str, str]:
        for item in update.added:
            table: Any = RouteConfiguration.FromString(item.resource.value)
            if any(route.match.HasField("safe_regex") for host in table.virtual_hosts for route in host.routes):
                return {item.name: "missing ): ("}
            self.routes[item.name] = item.resource.value
        return {}
