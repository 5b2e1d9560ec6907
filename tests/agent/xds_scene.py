"""A control plane over real gRPC and our client of it in this process, on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket

from meshproxy.agent.xds.client import Subscription, XdsClient
from meshproxy.discovery.dns import system_lookup
from meshproxy.discovery.xds.watch import Update
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, ConfigSource, Endpoint, Node, Secret, SocketAddress
from meshproxy.model.xds import Dynamic, GrpcService
from tests.peers.xds_server import TYPES, Said, XdsServer

PATIENCE_S = 30.0
ADS = ConfigSource(kind="ads")


class View:
    """The node's clusters and secrets."""

    def __init__(self, *clusters: Cluster) -> None:
        self.by_name = {cluster.name: cluster for cluster in clusters}
        self.of_files: list[Secret] = []

    def cluster(self, name: str) -> Cluster | None:
        return self.by_name.get(name)

    def endpoints(self, cluster: Cluster) -> tuple[Endpoint, ...]:
        return cluster.endpoints

    def secrets(self) -> list[Secret]:
        return self.of_files


def until(holds: Callable[[], Any]) -> Any:
    """Let the hub run until it holds; gives what it gave."""
    with gevent.Timeout(PATIENCE_S, AssertionError("it never came to hold")):
        while not (found := holds()):
            gevent.sleep(0.002)
    return found


def control_plane(*ports: int, **settings: Any) -> Cluster:
    endpoints = tuple(Endpoint(address=SocketAddress("127.0.0.1", port)) for port in ports)
    return Cluster(name="control_plane", endpoints=endpoints, **settings)


def grpc(kind: str = "grpc", *services: GrpcService, **settings: Any) -> ConfigSource:
    return ConfigSource(kind=kind, services=services or (GrpcService(cluster="control_plane"),), **settings)


class Asked:
    """A subscription, and what was told of it."""

    def __init__(self, client: XdsClient, kind: str, source: ConfigSource, names: set[str] | None, known: dict[str, str] | None) -> None:
        self.updates: list[Update] = []
        self.missing: list[str] = []
        self.failures: list[str] = []
        self.errors: dict[str, str] = {}
        """What the handler says."""
        self.subscription: Subscription = client.subscribe(
            TYPES[kind], source, names, self._take, on_missing=self.missing.append, on_failed=self.failures.append, known=known
        )

    def _take(self, update: Update) -> dict[str, str]:
        self.updates.append(update)
        return self.errors

    def names(self) -> list[str]:
        """Of what came last."""
        until(lambda: self.updates)
        return [item.name for item in self.updates[-1].added]


class Scene:
    def __init__(self, client: XdsClient, view: View) -> None:
        self.client = client
        self.view = view

    def ask(
        self, kind: str = "CDS", source: ConfigSource = ADS, names: set[str] | None = None, known: dict[str, str] | None = None
    ) -> Asked:
        return Asked(self.client, kind, source, names, known)

    @property
    def plane(self) -> Any:
        return self.client.planes()[0]


@contextmanager
def scene(*clusters: Cluster, ads: ConfigSource | None = None) -> Iterator[Scene]:
    view = View(*clusters)
    lookup = system_lookup(socket.getaddrinfo)
    client = XdsClient(Dynamic(ads=ads or grpc()), Node(id="vm-7", cluster="web"), view, lookup, Journal("error"), lambda: 0.05)
    try:
        yield Scene(client, view)
    finally:
        client.close()
        gevent.sleep(0)


def said(server: XdsServer, line: str) -> Said:
    """Wait on the hub until a client has said it; each once."""

    def look() -> Said | None:
        while server.next_is(0):
            found = server.next()
            if found.line == line:
                return found
        return None

    return until(look)
