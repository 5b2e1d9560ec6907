"""A process with meshproxy's xDS client and a little node on it: what a control plane sees of meshproxy without the rest of it.

Run as a module. Each line of its input is a conversation to have, and ends the one before:
`{"port": N, "delta": bool, "node_once": bool, "per_type": bool, "fetch_timeout_s": N}`.
"""

from __future__ import annotations

import json
import sys

from gevent import socket
from gevent.fileobject import FileObjectThread

from meshproxy.agent.xds.client import Subscription, XdsClient
from meshproxy.discovery.dns import system_lookup
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, Endpoint, Node, SocketAddress
from meshproxy.model.xds import ConfigSource, Dynamic, GrpcService
from tests.discovery.xds_node import ModelNode


class View:
    """The file's clusters and secrets."""

    def __init__(self, *clusters: Cluster) -> None:
        self._clusters = {cluster.name: cluster for cluster in clusters}

    def cluster(self, name: str) -> Cluster | None:
        return self._clusters.get(name)

    def endpoints(self, cluster: Cluster) -> tuple[Endpoint, ...]:
        return cluster.endpoints

    def secrets(self) -> tuple:
        return ()


class _Asked:
    """A subscription whose `on_missing` may be set later."""

    def __init__(self, client: XdsClient, type_url: str, source: ConfigSource, names: set[str] | None, handler: object) -> None:
        self.on_missing = lambda name: None
        asked: Subscription = client.subscribe(type_url, source, names, handler, on_missing=lambda name: self.on_missing(name))
        self.set_names, self.cancel, self.pause, self.resume = asked.set_names, asked.cancel, asked.pause, asked.resume


def begin(told: dict) -> XdsClient:
    services = (GrpcService(cluster="control_plane"),)
    kind = "delta_grpc" if told["delta"] else "grpc"
    ads = ConfigSource(kind=kind, services=services, first_node_only=told["node_once"])
    view = View(Cluster(name="control_plane", endpoints=(Endpoint(address=SocketAddress("127.0.0.1", told["port"])),)))
    dynamic = Dynamic(ads=ads)
    client = XdsClient(dynamic, Node(id="n1", cluster="c"), view, system_lookup(socket.getaddrinfo), Journal("info"))

    def subscribe(type_url: str, names: set[str] | None, handler: object, seconds: float) -> _Asked:
        source = ConfigSource(kind="ads", initial_fetch_timeout_s=seconds)
        if told["per_type"]:
            source = ConfigSource(kind=kind, services=services, initial_fetch_timeout_s=seconds)
        return _Asked(client, type_url, source, names, handler)

    ModelNode(subscribe, told["fetch_timeout_s"])
    return client


def main() -> None:
    client: XdsClient | None = None
    for line in FileObjectThread(sys.stdin.fileno(), "r"):
        if client is not None:
            client.close()
        client = begin(json.loads(line))


if __name__ == "__main__":
    main()
