"""How resources become what the data path runs on: compiled in slices beside the traffic, then swapped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from time import perf_counter_ns

from meshproxy.errors import ConfigError, MeshproxyError
from meshproxy.ipc.messages import ListenerSocket, Refusal
from meshproxy.model import Cluster as ClusterModel
from meshproxy.model import EndpointSet, Process, Resource, ResourceKind, RouteTable
from meshproxy.model.snapshot import unpack, unpack_table
from meshproxy.proxy.exchange import RouterSlot
from meshproxy.proxy.router import Router, compile_slices
from meshproxy.scoreboard.region import Region
from meshproxy.workers.cluster_config import Clusters
from meshproxy.workers.late_blocks import LateBlocks
from meshproxy.workers.listener_config import Listeners
from meshproxy.workers.loop import Loop
from meshproxy.workers.security import Securities
from meshproxy.workers.slices import SLICE_NS, Slices

SCRAPS_A_LOOK = 100
"""Freed between two looks at the clock: some 30 us."""

Sockets = Iterable[tuple[ListenerSocket, int]]
Swap = Callable[[], None]


class ChangeRefused(MeshproxyError):
    """Nothing of a change is live, because of these resources."""

    def __init__(self, refused: list[Refusal]) -> None:
        super().__init__("; ".join(each.error for each in refused))
        self.refused = refused


class Configuration:
    """Everything by name that this worker runs on."""

    def __init__(
        self, loop: Loop, region: Region, slot: int, max_worker_connections: int, ticket_root: bytes, late_blocks: LateBlocks,
        log: logging.Logger,
    ) -> None:
        self.log = log
        self.loop = loop
        self.region = region
        self.slot = slot
        self.securities = Securities(region, slot, ticket_root, log)
        self.routes: dict[str, RouterSlot] = {}
        self.retired: list[object] = []
        """What the present change took out of use: its metrics' places are free once nothing refers to it."""
        self.clusters = Clusters(loop, region, slot, self.securities, self._retire)
        self.listeners = Listeners(
            loop, region, slot, max_worker_connections, self.clusters.pools, self.securities, self._route_slot, self._retire, late_blocks,
            log,
        )
        self.slices = Slices(lambda: loop.turn)
        self.scraps: list[object] = []
        """What the present change replaced and takes long to free."""

    # -- a change

    def boot(self, resources: list[Resource], sockets: Sockets) -> list[Refusal]:
        """The first of all. What a control plane brought and cannot be taken is left out: the worker is to serve the rest.
        Raises ChangeRefused when something of the file is refused."""
        sockets = list(sockets)
        swaps, refused = self._compile_all(resources, sockets)
        brought = {(each.kind, each.name) for each in resources if each.origin == "xds"}
        if blamed := [each for each in refused if (each.kind, each.name) not in brought]:
            self._close(sockets)
            raise ChangeRefused(blamed)
        out = {each.name for each in refused if each.kind is ResourceKind.LISTENER}
        self._close([each for each in sockets if each[0].listener in out])
        self._make_live(swaps, [])
        return refused

    def apply(self, upserts: list[Resource], removes: list[tuple[ResourceKind, str]], sockets: Sockets) -> list[object]:
        """Make resources live; what went out of use. All is compiled before the first thing is swapped: a ChangeRefused changes nothing."""
        sockets = list(sockets)
        try:
            swaps, refused = self._compile_all(upserts, sockets)
        except BaseException:
            self._close(sockets)
            raise
        if refused:
            self._close(sockets)
            raise ChangeRefused(refused)
        return self._make_live(swaps, removes)

    def _compile_all(self, upserts: list[Resource], sockets: list) -> tuple[list[Swap], list[Refusal]]:
        self.retired = []
        self.slices.begin()
        swaps: list[Swap] = []
        refused: list[Refusal] = []
        self.securities.begin([unpack(resource) for resource in upserts if resource.kind is ResourceKind.SECRET])
        # Endpoints before clusters: traffic goes on between two swaps, and a cluster must find there what it has from now on.
        for resource in sorted(upserts, key=lambda each: each.kind is not ResourceKind.ENDPOINTS):
            try:
                swaps += self._compile(resource, sockets)
            except ConfigError as error:
                refused.append(Refusal(resource.kind, resource.name, str(error)))
            except Exception as error:
                self.log.exception("event=resource_refused kind=%s name=%s", resource.kind.name, resource.name)
                refused.append(Refusal(resource.kind, resource.name, f"{type(error).__name__}: {error}"))
            self.slices.breathe()
        return swaps, refused

    def _make_live(self, swaps: list[Swap], removes: list[tuple[ResourceKind, str]]) -> list[object]:
        self.securities.take([name for kind, name in removes if kind == ResourceKind.SECRET])
        for swap in swaps:
            swap()
            self.slices.breathe()
        for kind, name in sorted(removes, reverse=True):
            self._remove(ResourceKind(kind), name)
            self.slices.breathe()
        while self.scraps:
            del self.scraps[-SCRAPS_A_LOOK:]
            self.slices.breathe()
        self.listeners.forget_ended()
        self.loop.settle()
        retired, self.retired = self.retired, []
        return retired

    def _retire(self, thing: object) -> None:
        self.retired.append(thing)

    def limit(self, process: Process) -> None:
        """What the worker may hold from now on."""
        self.loop.buffered_limit = process.max_worker_buffer_bytes
        self.listeners.limit(process.max_worker_connections)

    @staticmethod
    def _close(sockets: Sockets) -> None:
        for _socket, fd in sockets:
            os.close(fd)

    def _compile(self, resource: Resource, sockets: list) -> list[Swap]:
        if resource.kind is ResourceKind.SECRET:
            return []                            # staged before
        if resource.kind is ResourceKind.ROUTE_TABLE:
            return [self._route_table(unpack_table(resource), resource.blocks)]
        value = unpack(resource)
        if isinstance(value, ClusterModel):
            return [self.clusters.compile(value, resource.blocks)]
        if isinstance(value, EndpointSet):
            return [self.clusters.compile_endpoints(value, resource.blocks)]
        return [self.listeners.compile(value, resource.blocks, sockets)]

    # -- route tables

    def _route_table(self, table: RouteTable, blocks: dict[str, int]) -> Swap:
        router = None
        for made in compile_slices(table, SLICE_NS, perf_counter_ns):
            router = made
            self.slices.breathe()
        for virtual_host in router.virtual_hosts:
            virtual_host.block = blocks.get(f"vhost:{virtual_host.name}", -1)

        def swap() -> None:
            slot = self._route_slot(table.name)
            if slot.router is not None:
                self.scraps += slot.router.pieces()
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
                slot = self.routes[name]
                self._retire_router(slot.router)
                if self.listeners.names_routes(name):
                    # It may come again, and the listener must see it then.
                    slot.swap(None)
                else:
                    # Connections that are still open on a listener removed with it have their slot, and their routes, until they end.
                    del self.routes[name]
        elif kind is ResourceKind.ENDPOINTS:
            self.clusters.remove_endpoints(name)
        else:
            self.clusters.remove(name)

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
