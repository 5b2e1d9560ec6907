"""A worker's clusters: their hosts, how these are connected to, and what happens to connections when they change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec

from meshproxy.balance.cluster import Cluster, Host
from meshproxy.model import Cluster as ClusterModel
from meshproxy.model import Endpoint, EndpointSet
from meshproxy.scoreboard.region import Region
from meshproxy.workers.loop import Loop
from meshproxy.workers.pool import ClusterPools, Dialer, HostPool, SplitPool
from meshproxy.workers.security import Securities, refused
from meshproxy.workers.tls_upstream import UpstreamSecurity
from meshproxy.workers.upstream_auto import AutoDialer
from meshproxy.workers.upstream_http1 import Http1Dialer
from meshproxy.workers.upstream_http2 import Http2Dialer

Swap = Callable[[], None]

ALPN = {"http1": ("http/1.1",), "http2": ("h2",), "auto": ("h2", "http/1.1")}
"""What a handshake offers unless the cluster says."""


@dataclasses.dataclass(frozen=True)
class Approach:
    """How a cluster's endpoints are connected to: for clients of HTTP/1 and of HTTP/2, or one way for all."""

    dialers: tuple[Dialer, ...]
    securities: tuple[UpstreamSecurity | None, ...]
    by_name: bool
    """The server's name in TLS is the request's host: a connection serves that host only."""
    by_client: bool
    """Connections begin with a PROXY header: one serves the client only that it tells of."""

    def pool(self, loop: Loop, cluster: Cluster, host: Host) -> HostPool:
        by_protocol = len(self.dialers) > 1
        if by_protocol or self.by_name or self.by_client:
            return SplitPool(loop, cluster, host, self.dialers, self.securities, by_protocol, self.by_name, self.by_client)
        return HostPool(loop, cluster, host, self.dialers[0], self.securities[0])


class Clusters:
    """All clusters of this worker by name."""

    def __init__(self, loop: Loop, region: Region, slot: int, securities: Securities, retire: Callable[[object], None]) -> None:
        self.loop = loop
        self.region = region
        self.slot = slot
        self.securities = securities
        self.retire = retire
        self.pools = ClusterPools(loop)
        self.http1 = Http1Dialer()
        self.endpoint_sets: dict[str, tuple[EndpointSet, dict[str, int]]] = {}
        self.blocks: dict[str, dict[str, int]] = {}
        self.approaches: dict[str, Approach] = {}

    def compile(self, model: ClusterModel, blocks: dict[str, int]) -> Swap:
        """All that can fail is done here; the swap cannot."""
        before = self.pools.clusters.get(model.name)
        keeps_hosts = before is not None and _wire(before.model, self.blocks[model.name]) == _wire(model, blocks)
        approach = self.approaches[model.name] if keeps_hosts else self._approach(model, blocks)

        def swap() -> None:
            old = self.pools.clusters.get(model.name)
            same_place = old is not None and self.blocks[model.name]["cluster"] == blocks["cluster"]
            cluster = old if same_place else Cluster(model, self.region, self.slot, blocks["cluster"])
            if same_place:
                cluster.renew(model)
            elif old is not None:
                self.retire(old)
            self.blocks[model.name] = blocks
            self.pools.clusters[model.name] = cluster
            self.approaches[model.name] = approach
            if model.discovery == "static":
                self._set_hosts(cluster, model.endpoints, blocks, old, keeps_hosts)
            else:
                found, found_blocks = self.endpoint_sets.get(model.name, (EndpointSet(cluster=model.name), {}))
                self._set_hosts(cluster, found.endpoints, found_blocks, old, keeps_hosts)

        return swap

    def compile_endpoints(self, found: EndpointSet, blocks: dict[str, int]) -> Swap:
        def swap() -> None:
            self.endpoint_sets[found.cluster] = (found, blocks)
            cluster = self.pools.clusters.get(found.cluster)
            if cluster is not None and cluster.model.discovery != "static":
                self._set_hosts(cluster, found.endpoints, blocks, cluster)

        return swap

    def _approach(self, model: ClusterModel, blocks: dict[str, int]) -> Approach:
        kinds = ("http1", "http2") if model.protocol == "downstream" else (model.protocol,)
        dialers = tuple(self._dialer(kind, model, blocks) for kind in kinds)
        securities = tuple(self._security(kind, model, blocks) for kind in kinds)
        return Approach(dialers, securities, model.tls is not None and model.tls.auto_sni, bool(model.proxy_protocol))

    def _dialer(self, kind: str, model: ClusterModel, blocks: dict[str, int]) -> Dialer:
        if kind == "http1":
            return self.http1
        http2 = Http2Dialer(model, self.region, self.slot, blocks["http2"])
        return http2 if kind == "http2" else AutoDialer(self.http1, http2)

    def _security(self, kind: str, model: ClusterModel, blocks: dict[str, int]) -> UpstreamSecurity | None:
        if model.tls is None:
            return None
        offers = () if model.protocol == "http1" else ALPN[kind]     # Envoy's HTTP/1 pool names nothing
        tls = model.tls if model.tls.alpn else msgspec.structs.replace(model.tls, alpn=offers)
        try:
            return self.securities.of_cluster(tls, blocks["cluster"], blocks["ssl"])
        except ValueError as error:
            raise refused("cluster", model.name, error) from error

    def _set_hosts(
        self, cluster: Cluster, endpoints: tuple[Endpoint, ...], blocks: dict[str, int], old: Cluster | None, keeps_hosts: bool = True,
    ) -> None:
        """Hosts whose address and metrics stay keep their connections; the others' close after their request."""
        known = {host.address: host for host in old.hosts} if old is cluster and keeps_hosts else {}
        hosts = []
        for address, endpoint in {str(endpoint.address): endpoint for endpoint in endpoints}.items():
            host = known.pop(address, None)
            if host is None:
                host = Host(endpoint.address, endpoint, self.region, self.slot, blocks[f"host:{address}"])
                host.pool = self.approaches[cluster.name].pool(self.loop, cluster, host)
            else:
                host.renew(endpoint)
            hosts.append(host)
        leaving = list(known.values()) if old is cluster and keeps_hosts else old.hosts if old is not None else ()
        cluster.set_hosts(hosts)
        for host in leaving:
            self._retire_host(host)

    def _retire_host(self, host: Host) -> None:
        host.remove()
        host.pool.drain()
        self.retire(host)

    def remove_endpoints(self, name: str) -> None:
        self.endpoint_sets.pop(name, None)

    def remove(self, name: str) -> None:
        cluster = self.pools.clusters.pop(name, None)
        self.approaches.pop(name, None)
        if cluster is not None:
            cluster.remove()
            for host in cluster.hosts:
                self._retire_host(host)
            cluster.set_hosts(())
            self.retire(cluster)


def _wire(model: ClusterModel, blocks: dict[str, int]) -> tuple:
    """What an open connection to an endpoint depends on: where it changes, hosts begin anew."""
    settings = (model.tls, model.protocol, model.http2, model.max_response_headers, model.proxy_protocol, model.proxy_protocol_tlvs)
    return settings, blocks.get("ssl"), blocks.get("http2")
