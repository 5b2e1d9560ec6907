"""Nodes for tests, ended and looked at when the test is over.

The conversations are written in Envoy's configuration, so what they claim of Envoy can be checked: with MESHPROXY_TESTS_ON=envoy the
modules that use `proxy_of` run on Envoy instead, and fail where the claim is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.support.processes import Node

ON_ENVOY = os.environ.get("MESHPROXY_TESTS_ON") == "envoy"
LISTENER = "ingress"

Json = dict[str, Any]
StartProxy = Callable[..., Peer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture(scope="session")
def on_envoy() -> bool:
    """Whether the conversations run on Envoy this time."""
    return ON_ENVOY


def _start(directory: Path, virtual_hosts: list[Json], clusters: list[Json], manager: Json, settings: Json, node: Json) -> Peer:
    if ON_ENVOY:
        ports = free_ports(2)
        listener = bootstrap.http_listener(LISTENER, ports[0], virtual_hosts, **manager)
        return Envoy(directory, bootstrap.bootstrap([listener], clusters, ports[1], **settings), ports).start()
    listener = bootstrap.http_listener(LISTENER, 0, virtual_hosts, **manager)
    started = Node(directory, bootstrap.bootstrap([listener], clusters, **settings), **node).start()
    try:
        started.port = started.port_of(LISTENER)
    except BaseException:
        started.stop()
        raise
    return started


@pytest.fixture(scope="module")
def proxy_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProxy]:
    """Starts proxies that live as long as the module: `proxy_of(virtual_hosts, clusters, manager={}, settings={}, **node)`."""
    started: list[Peer] = []

    def start(
        virtual_hosts: list[Json], clusters: list[Json], manager: Json | None = None, settings: Json | None = None, **node: Any
    ) -> Peer:
        directory = tmp_path_factory.mktemp("proxy")
        try:
            started.append(_start(directory, virtual_hosts, clusters, manager or {}, settings or {}, node))
        except PeerMissingError as error:
            pytest.skip(str(error))
        return started[-1]

    yield start
    ends = [_end(peer) for peer in started]
    assert all(not complaint for complaint in ends), "\n".join(filter(None, ends))


@pytest.fixture
def node_of(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts nodes for one test: `node_of(config, **node)`. At its end each must stop when told and have left no wreckage."""
    started: list[Node] = []

    def start(config: Json | str, **node: Any) -> Node:
        directory = tmp_path / f"node-{len(started)}"
        started.append(Node(directory, config, **node))
        return started[-1].start()

    yield start
    ends = [_end(node) for node in started]
    assert all(not complaint for complaint in ends), "\n".join(filter(None, ends))


def _end(peer: Peer) -> str:
    """Stop a proxy; what is wrong with how it lived and ended."""
    process = peer.process
    died = process is not None and process.poll() is not None
    code = process.poll() if process is not None else None
    peer.stop()
    if died and not getattr(peer, "expected_end", False):
        return f"{peer.name} ended by itself with {code}:\n{peer.output()[-3000:]}"
    wreckage = peer.wreckage() if isinstance(peer, Node) else []
    return f"{peer.name} left wreckage: {wreckage}\n{peer.output()[-3000:]}" if wreckage else ""
