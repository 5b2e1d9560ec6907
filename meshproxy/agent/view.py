"""What the agent knows of its node: its own copy of the resources, the directory of metrics, and the processes' state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from meshproxy.agent.certificates import CertificateFacts, facts_of
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.ipc.boot import AgentBoot
from meshproxy.ipc.messages import Configure, Directory, NodeSettings, NodeState
from meshproxy.model import Address, Breakers, Cluster, Endpoint, EndpointSet, Listener, Resource, ResourceKind, RouteTable, Secret
from meshproxy.model.snapshot import unpack
from meshproxy.scoreboard.region import Region


class ClusterFacts(msgspec.Struct, frozen=True):
    """What is said about a cluster every few seconds: kept, because decoding a thousand clusters for each export is not free."""

    stat_name: str
    members: int
    healthy: int
    breakers: Breakers
    high_breakers: Breakers


class NodeView:
    """The node as the agent sees it; changed only by `configure` and `told`.

    Resources stay packed, because a large configuration is looked at by few pages and seldom.
    """

    def __init__(
        self, region: Region, version: str, resources: list[Resource], settings: NodeSettings, directory: Directory, state: NodeState
    ) -> None:
        self.region = region
        self.version = version
        self.settings = settings
        self.state = state
        self.told_s = monotonic_s()
        """When `state` came, on this process's clock."""
        self._resources: dict[tuple[ResourceKind, str], Resource] = {(each.kind, each.name): each for each in resources}
        self._rows: dict[tuple[str, str], int] = {(kind, name): cell for kind, name, cell in directory.rows}
        self._listed: list[tuple[str, str, int]] | None = None
        self.facts: dict[str, ClusterFacts] = {}
        """By the cluster's name."""
        self.certificates: dict[str, CertificateFacts] = {}
        """By the secret's name."""
        self._learn(self._resources)

    @classmethod
    def of(cls, boot: AgentBoot) -> NodeView:
        """The view at the agent's birth."""
        return cls(boot.region, boot.version, boot.resources, boot.settings, boot.directory, boot.state)

    def configure(self, message: Configure) -> None:
        """Take what changed."""
        for key in message.removes:
            self._resources.pop(key, None)
        for resource in message.upserts:
            self._resources[resource.kind, resource.name] = resource
        self._learn([*message.removes, *((each.kind, each.name) for each in message.upserts)])
        for key in message.directory_removed:
            self._rows.pop(key, None)
        for kind, name, cell in message.directory_rows:
            self._rows[kind, name] = cell
        if message.directory_removed or message.directory_rows:
            self._listed = None
        self.settings = message.settings or self.settings
        self.version = message.version

    def _learn(self, keys: Iterable[tuple[ResourceKind, str]]) -> None:
        """Facts of the clusters and certificates that these resources are about."""
        keys = list(keys)
        for name in (name for kind, name in keys if kind is ResourceKind.SECRET):
            secret = self._resources.get((ResourceKind.SECRET, name))
            facts = facts_of(unpack(secret)) if secret is not None else None
            if facts is not None:
                self.certificates[name] = facts
            else:
                self.certificates.pop(name, None)
        for name in dict.fromkeys(name for kind, name in keys if kind in (ResourceKind.CLUSTER, ResourceKind.ENDPOINTS)):
            cluster = self.cluster(name)
            if cluster is None:
                self.facts.pop(name, None)
                continue
            endpoints = self.endpoints(cluster)
            healthy = sum(endpoint.healthy for endpoint in endpoints)
            self.facts[name] = ClusterFacts(cluster.stat_name, len(endpoints), healthy, cluster.breakers, cluster.high_breakers)

    def told(self, state: NodeState) -> None:
        """Take the master's word about processes."""
        self.state = state
        self.told_s = monotonic_s()

    @property
    def rows(self) -> list[tuple[str, str, int]]:
        """Whose block is where now, as in `ipc.messages.Directory`."""
        if self._listed is None:
            self._listed = [(kind, name, cell) for (kind, name), cell in self._rows.items()]
        return self._listed

    @property
    def uptime_s(self) -> float:
        """Of the node, now."""
        return self.state.uptime_s + monotonic_s() - self.told_s

    @property
    def days_until_first_expires(self) -> int:
        """Of all certificates and CAs, now; 0 without any, as in Envoy."""
        now_s = unix_s()
        return min((each.days_left(now_s) for each in self.certificates.values()), default=0)

    @property
    def serving(self) -> bool:
        """Workers answer, and nobody asked this node to look unhealthy or to go."""
        return self.state.live and not self.state.draining and not self.region.healthcheck_failed and not self.region.draining

    @property
    def server_state(self) -> str:
        """Envoy's word for it: LIVE, DRAINING or PRE_INITIALIZING."""
        if self.serving:
            return "LIVE"
        draining = self.state.draining or self.region.draining or self.region.healthcheck_failed
        return "DRAINING" if draining else "PRE_INITIALIZING"

    def cell(self, kind: str, name: str) -> int | None:
        """The first cell of a thing's block."""
        return self._rows.get((kind, name))

    def resources(self, kind: ResourceKind) -> list[Resource]:
        """All resources of a kind, by name, packed."""
        return sorted((each for each in self._resources.values() if each.kind is kind), key=lambda each: each.name)

    def resource(self, kind: ResourceKind, name: str) -> Resource | None:
        """One resource, packed."""
        return self._resources.get((kind, name))

    def all_resources(self) -> list[Resource]:
        """Of every kind, packed."""
        return list(self._resources.values())

    def is_brought(self, key: tuple[ResourceKind, str]) -> bool:
        """Whether it is there and a control plane brought it."""
        resource = self._resources.get(key)
        return resource is not None and resource.origin == "xds"

    def cluster(self, name: str) -> Cluster | None:
        """One cluster."""
        resource = self._resources.get((ResourceKind.CLUSTER, name))
        return unpack(resource) if resource is not None else None

    def clusters(self) -> Iterator[Cluster]:
        """All clusters, by name."""
        return (unpack(each) for each in self.resources(ResourceKind.CLUSTER))

    def listeners(self) -> Iterator[Listener]:
        """All listeners, by name."""
        return (unpack(each) for each in self.resources(ResourceKind.LISTENER))

    def route_tables(self) -> Iterator[RouteTable]:
        """All route tables, by name."""
        return (unpack(each) for each in self.resources(ResourceKind.ROUTE_TABLE))

    def secrets(self) -> Iterator[Secret]:
        """All secrets, by name; with their keys, which nobody is shown."""
        return (unpack(each) for each in self.resources(ResourceKind.SECRET))

    def endpoint_set(self, cluster: str) -> EndpointSet | None:
        """What discovery found for a cluster last."""
        resource = self._resources.get((ResourceKind.ENDPOINTS, cluster))
        return unpack(resource) if resource is not None else None

    def endpoints(self, cluster: Cluster) -> tuple[Endpoint, ...]:
        """The endpoints that workers pick from: those found, or the configured ones of a static cluster."""
        if cluster.discovery == "static":
            return cluster.endpoints
        found = self.endpoint_set(cluster.name)
        return found.endpoints if found is not None else ()

    def healthy_addresses(self, name: str) -> list[Address]:
        """Where a cluster's healthy endpoints are; [] for one that is not there."""
        cluster = self.cluster(name)
        return [each.address for each in self.endpoints(cluster) if each.healthy] if cluster is not None else []
