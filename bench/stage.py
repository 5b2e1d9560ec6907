"""The stage: one origin, and every proxy on it with the same scene, pinned to its processors."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.loads import Load
from tests.peers import bootstrap
from tests.peers.collector import Collector
from tests.peers.envoy import Envoy
from tests.peers.haproxy import Haproxy
from tests.peers.nginx import Nginx
from tests.peers.origin import Origin
from tests.peers.process import Peer, free_ports
from tests.peers.scene import Scene
from tests.support.processes import Node

PEERS = ["meshproxy", "nginx", "haproxy", "envoy"]


class Processors:
    """Who runs where: the proxy on the first processor, load generator and origin on the second; with two workers, all on both."""

    def __init__(self, load: Load | None = None) -> None:
        usable = sorted(os.sched_getaffinity(0))
        shared = len(usable) == 1 or (load is not None and load.workers > 1)
        self.proxy = set(usable[:2]) if shared else {usable[0]}
        self.driver = set(usable[:2]) if shared else {usable[1]}


def node_of_scene(directory: Path, scene: Scene, cpus: set[int]) -> Node:
    """meshproxy on the very bootstrap that Envoy runs on."""
    port, admin_port = free_ports(2)
    node = Node(directory, bootstrap.of_scene(scene, port, admin_port), workers=scene.workers, cpus=cpus)
    node.port = port
    return node


@contextlib.contextmanager
def filter_stage(directory: Path, load: Load) -> Iterator[dict[str, Peer]]:
    """Two nodes that differ in one filter."""
    with _variants(directory, load, {"meshproxy": {}, "+ filter": {"filters": [{"python": "bench.empty_filter:Empty"}]}}) as peers:
        yield peers


@contextlib.contextmanager
def tracing_stage(directory: Path, load: Load) -> Iterator[dict[str, Peer]]:
    """Two nodes, of which one sends spans to a collector that forgets them; its agent's work counts too."""
    with Collector("forget", Processors(load).driver) as collector:
        traced = {"http": {"tracing": {"zipkin": collector.url}}}
        with _variants(directory, load, {"meshproxy": {}, "+ tracing": traced}) as peers:
            yield peers


@contextlib.contextmanager
def _variants(directory: Path, load: Load, variants: dict[str, dict[str, Any]]) -> Iterator[dict[str, Peer]]:
    """A node for each label, with more settings of its listener, and one origin."""
    processors = Processors(load)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(directory / "origin", processors.driver))
        peers: dict[str, Peer] = {}
        for label, settings in variants.items():
            (port,) = free_ports(1)
            listener = {"name": "in", "address": f"127.0.0.1:{port}", "routes": [{"prefix": "/", "to": "origin"}], **settings}
            config = {"listeners": [listener], "clusters": {"origin": [f"127.0.0.1:{origin.port}"]}}
            node = Node(directory / label.strip("+ "), config, cpus=processors.proxy)
            node.port = port
            peers[label] = stack.enter_context(node)
            verify(node, load)
        yield peers


MAKERS = {"meshproxy": node_of_scene, "nginx": Nginx, "haproxy": Haproxy, "envoy": Envoy.of_scene}


def verify(peer: Peer, load: Load) -> None:
    """Refuse to time what does not answer as asked: status and body length, on the first and the last route."""
    paths = [load.path] if load.routes == 1 else ["/service-000/x", f"/service-{load.routes - 1:03d}/x"]
    for path in paths:
        connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=10)
        connection.request("GET", path, headers=dict(header.split(": ", 1) for header in load.headers))
        answer = connection.getresponse()
        found = (answer.status, len(answer.read()))
        connection.close()
        if found != (200, load.body_bytes):
            raise RuntimeError(f"{peer.name} answers {path} with {found}, not {(200, load.body_bytes)}:\n{peer.output()[-1000:]}")


@contextlib.contextmanager
def stage(directory: Path, load: Load, names: list[str], workers: int | None = None) -> Iterator[dict[str, Peer]]:
    """All proxies of `names`, started and verified; ended with the block."""
    processors = Processors(load)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(directory / "origin", processors.driver))
        sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sink.bind(("127.0.0.1", 0))  # a statsd server that nobody reads: datagrams are taken and dropped
        peers = {}
        for name in names:
            scene = Scene(
                origin.port,
                routes=load.routes,
                access_log=directory / f"{name}-access.log" if load.realistic else None,
                statsd_port=sink.getsockname()[1] if load.realistic else None,
                forwarded_headers=load.realistic,
                workers=workers or load.workers,
            )
            peers[name] = stack.enter_context(MAKERS[name](directory / name, scene, processors.proxy))
            verify(peers[name], load)
        yield peers
