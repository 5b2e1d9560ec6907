"""How resources become what the data path runs on: compiled in slices beside the traffic, then swapped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from time import perf_counter_ns

from gevent import sleep

from meshproxy.balance.cluster import Cluster, Host
from meshproxy.ipc.messages import ListenerSocket
from meshproxy.model import Cluster as ClusterModel
from meshproxy.model import Endpoint, EndpointSet, Process, Resource, ResourceKind, RouteTable
from meshproxy.model.snapshot import unpack
from meshproxy.proxy.exchange import RouterSlot
from meshproxy.proxy.router import Router, compile_slices
from meshproxy.scoreboard.region import Region
from meshproxy.workers.listener_config import Listeners
from meshproxy.workers.loop import Loop
from meshproxy.workers.pool import ClusterPools, HostPool
from meshproxy.workers.security import Securities, refused
from meshproxy.workers.tls_upstream import UpstreamSecurity
from meshproxy.workers.upstream_http1 import Http1Dialer

SLICE_NS = 1_000_000
"""A change may hold the loop for so long at a time (design: slices of at most 1 ms)."""

Sockets = Iterable[tuple[ListenerSocket, int]]
Swap = Callable[[], None]


class Configuration:
    """Everything by name that this worker runs on."""

    def __init__(
        self, loop: Loop, region: Region, slot: int, max_worker_connections: int, ticket_root: bytes, log: logging.Logger,
    ) -> None:
        self.loop = loop
        self.region = region
        self.slot = slot
        self.securities = Securities(region, slot, ticket_root, log)
        self.pools = ClusterPools(loop)
        self.http1 = Http1Dialer()
        self.endpoint_sets: dict[str, tuple[EndpointSet, dict[str, int]]] = {}
        self.blocks: dict[str, dict[str, int]] = {}
        self.routes: dict[str, RouterSlot] = {}
        self.cluster_tls: dict[str, UpstreamSecurity] = {}
        self.retired: list[object] = []
        """What the present change took out of use: its metrics' places are free once nothing refers to it."""
        self.listeners = Listeners(
            loop, region, slot, max_worker_connections, self.pools, self.securities, self._route_slot, lambda thing: self.retired.append(thing), log,
        )
        self._slice_started_ns = 0

    # -- a change

    def apply(self, upserts: list[Resource], removes: list[tuple[ResourceKind, str]], sockets: Sockets) -> list[object]:
        """Make resources live; what went out of use. All is compiled before the first thing is swapped: an exception leaves all as it was."""
        sockets = list(sockets)
        self.retired = []
        self._slice_started_ns = perf_counter_ns()
        swaps: list[Swap] = []
        self.securities.begin([unpack(resource) for resource in upserts if resource.kind is ResourceKind.SECRET])
        try:
            for resource in upserts:
                swaps += self._compile(resource, sockets)
                self._breathe()
        except BaseException:
            self._close(sockets)
            raise
        self.securities.take([name for kind, name in removes if kind == ResourceKind.SECRET])
        for swap in swaps:
            swap()
            self._breathe()
        for kind, name in sorted(removes, reverse=True):
            self._remove(ResourceKind(kind), name)
            self._breathe()
        self.listeners.forget_ended()
        self.loop.settle()
        retired, self.retired = self.retired, []
        return retired

    def limit(self, process: Process) -> None:
        """What the worker may hold from now on."""
        self.loop.buffered_limit = process.max_worker_buffer_bytes
        self.listeners.limit(process.max_worker_connections)

    def _breathe(self) -> None:
        if perf_counter_ns() - self._slice_started_ns > SLICE_NS:
            sleep(0)
            self._slice_started_ns = perf_counter_ns()

    @staticmethod
    def _close(sockets: Sockets) -> None:
        for _socket, fd in sockets:
            os.close(fd)

    def _compile(self, resource: Resource, sockets: list) -> list[Swap]:
        if resource.kind is ResourceKind.SECRET:
            return []                            # staged before
        value = unpack(resource)
        if isinstance(value, ClusterModel):
            return [self._cluster(value, resource.blocks)]
        if isinstance(value, EndpointSet):
            return [self._endpoint_set(value, resource.blocks)]
        if isinstance(value, RouteTable):
            return [self._route_table(value, resource.blocks)]
        return [self.listeners.compile(value, resource.blocks, sockets)]

    # -- clusters

    def _cluster(self, model: ClusterModel, blocks: dict[str, int]) -> Swap:
        tls = self._cluster_tls(model, blocks)

        def swap() -> None:
            old = self.pools.clusters.get(model.name)
            keeps_hosts = old is not None and _wire(old.model) == _wire(model)
            same_place = old is not None and self.blocks[model.name]["cluster"] == blocks["cluster"]
            cluster = old if same_place else Cluster(model, self.region, self.slot, blocks["cluster"])
            if same_place:
                cluster.renew(model)
            elif old is not None:
                self.retired.append(old)
            self.blocks[model.name] = blocks
            self.pools.clusters[model.name] = cluster
            self.cluster_tls[model.name] = tls
            if model.discovery == "static":
                self._set_hosts(cluster, model.endpoints, blocks, old, keeps_hosts)
            else:
                found, found_blocks = self.endpoint_sets.get(model.name, (EndpointSet(cluster=model.name), {}))
                self._set_hosts(cluster, found.endpoints, found_blocks, old, keeps_hosts)

        return swap

    def _endpoint_set(self, found: EndpointSet, blocks: dict[str, int]) -> Swap:
        def swap() -> None:
            self.endpoint_sets[found.cluster] = (found, blocks)
            cluster = self.pools.clusters.get(found.cluster)
            if cluster is not None and cluster.model.discovery != "static":
                self._set_hosts(cluster, found.endpoints, blocks, cluster)

        return swap

    def _cluster_tls(self, model: ClusterModel, blocks: dict[str, int]) -> UpstreamSecurity | None:
        """The one that it has, with its sessions, while its settings stay."""
        old = self.pools.clusters.get(model.name)
        if model.tls is None:
            return None
        if old is not None and old.model.tls == model.tls and self.blocks[model.name]["ssl"] == blocks["ssl"]:
            return self.cluster_tls[model.name]
        try:
            return self.securities.of_cluster(model.tls, blocks["cluster"], blocks["ssl"])
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
                host.pool = HostPool(self.loop, cluster, host, self.http1, self.cluster_tls.get(cluster.name))
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
        self.retired.append(host)

    # -- route tables

    def _route_table(self, table: RouteTable, blocks: dict[str, int]) -> Swap:
        router = None
        for router in compile_slices(table, SLICE_NS, perf_counter_ns):
            self._breathe()
        for virtual_host in router.virtual_hosts:
            virtual_host.block = blocks.get(f"vhost:{virtual_host.name}", -1)

        def swap() -> None:
            slot = self._route_slot(table.name)
            self._retire_router(slot.router)
            slot.swap(router)

        return swap

    def _retire_router(self, router: Router | None) -> None:
        if router is not None:
            self.retired += [virtual_host for virtual_host in router.virtual_hosts if virtual_host.block >= 0]

    def _route_slot(self, name: str) -> RouterSlot:
        return self.routes.setdefault(name, RouterSlot(None))

    # -- removal and the end

    def _remove(self, kind: ResourceKind, name: str) -> None:
        if kind is ResourceKind.LISTENER:
            self.listeners.remove(name)
        elif kind is ResourceKind.ROUTE_TABLE:
            if name in self.routes:
                # Connections that are still open on a listener removed with it have their slot, and their routes, until they end.
                self._retire_router(self.routes.pop(name).router)
        elif kind is ResourceKind.ENDPOINTS:
            self.endpoint_sets.pop(name, None)
        else:
            self._remove_cluster(name)

    def _remove_cluster(self, name: str) -> None:
        cluster = self.pools.clusters.pop(name, None)
        self.cluster_tls.pop(name, None)
        if cluster is not None:
            cluster.remove()
            for host in cluster.hosts:
                self._retire_host(host)
            cluster.set_hosts(())
            self.retired.append(cluster)

    def adopt(self, listener: str, fds: list[int]) -> None:
        """Connections that waited for a slot without a worker."""
        self.listeners.adopt(listener, fds)
        self.loop.settle()

    def drain(self, close_idle: bool) -> None:
        """The process ends."""
        self.listeners.drain(close_idle)
        self.loop.settle()

    @property
    def open_connections(self) -> int:
        return self.listeners.open_connections


def _wire(model: ClusterModel) -> tuple:
    """What an open connection to an endpoint depends on: where it changes, hosts begin anew."""
    return model.tls, model.protocol, model.http2, model.proxy_protocol, model.proxy_protocol_tlvs
