"""Envoy's own examples that are accepted are served: real requests through each of them, changed in nothing but addresses.

What a file calls `service:8080` is an origin on loopback; its listeners and its admin server keep their host and get a free port. With
MESHPROXY_TESTS_ON=envoy the same claims are made of Envoy.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.config.envoy.test_corpus import ACCEPTED, EXAMPLES, pytestmark  # noqa: F401 (the mark skips these tests too)
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

Json = dict[str, Any]
PATIENCE_S = 20.0
WEBSOCKET_HOSTS = {"service-ws"}


@dataclasses.dataclass
class Served:
    """A running example: `port` of its listener; `origins` are ports by the host that the file names, each answering with that name."""

    peer: Peer
    port: int
    admin_port: int
    origins: dict[str, int]

    def settle(self, path: str) -> None:
        """Wait until the names of the cluster behind `path` are resolved; until then its answer is 503."""
        assert wait_until(lambda: ask(self.port, get(path)).status != 503, PATIENCE_S, self.peer.pid), self.peer.output()

    def admin(self, path: str) -> str:
        answer = requests.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=PATIENCE_S)
        assert answer.status_code == 200
        return answer.text


def addresses(part: Any, field: str = "") -> Iterator[tuple[str, Json]]:
    """Every socket_address below `part`, with the top field that it is in."""
    if isinstance(part, list):
        for item in part:
            yield from addresses(item, field)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "socket_address":
                yield field, value
            else:
                yield from addresses(value, key if key in ("listeners", "clusters", "admin") else field)


def moved(document: Json, origins: dict[str, int], listener_port: int = 0, admin_port: int = 0) -> Json:
    """The document, changed in place: `localhost` and an origin's port for each upstream, these ports for what listens."""
    ports = {"listeners": listener_port, "admin": admin_port}
    for field, address in addresses(document):
        if field == "clusters":
            address.update(address="localhost", port_value=origins[address["address"]])
        else:
            address["port_value"] = ports[field]
    for cluster in document["static_resources"]["clusters"]:
        cluster["dns_lookup_family"] = "V4_ONLY"  # the origins have no IPv6
    return document


@contextmanager
def running(directory: Path, example: str, on_envoy: bool) -> Iterator[Served]:
    """The example on a node, or on Envoy."""
    document = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    hosts = {address["address"] for field, address in addresses(document) if field == "clusters"}
    with ExitStack() as held:
        origins = {host: held.enter_context(echo() if host in WEBSOCKET_HOSTS else named(host)) for host in sorted(hosts)}
        if on_envoy:
            free = free_ports(2)
            try:
                peer = held.enter_context(Envoy(directory, moved(document, origins, *free), free if "admin" in document else free[:1]))
            except PeerMissingError as error:
                pytest.skip(str(error))
            yield Served(peer, free[0], free[1], origins)
            return
        node = held.enter_context(Node(directory, yaml.safe_dump(moved(document, origins), sort_keys=False)))
        status = node.status()
        assert len(status["listeners"]) == 1
        yield Served(node, _port(status["listeners"][0]["addresses"][0]), _port(status["admin"]), origins)
        assert node.wreckage() == []


def _port(address: str) -> int:
    return int(address.rpartition(":")[2] or 0)


@contextmanager
def named(name: str) -> Iterator[int]:
    """An origin that says who it is and what it was asked; its port."""

    def script(connection: Connection, request: Request) -> None:
        said = f"{name} {request.method} {request.target}".encode()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))

    with Origin(script) as origin:
        yield origin.port


@contextmanager
def echo() -> Iterator[int]:
    """A websocket server that sends back what it gets; its port."""
    from websockets.sync.server import serve

    with serve(lambda socket: [socket.send(message) for message in socket], "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            serving.join()


def echoes(port: int, path: str) -> bool:
    """Whether messages in text and in bytes come back through a proxy."""
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as client:
        for message in ("hello", bytes(range(256)) * 300, "bye"):
            client.send(message)
            if client.recv(timeout=PATIENCE_S) != message:
                return False
    return True


def csrf_crosssite(served: Served) -> None:
    served.settle("/")
    said = ask(served.port, get("/csrf/disabled?x=1", "mesh.test", "Origin: http://elsewhere.test", "Content-Length: 0", method="POST"))
    line = '"POST /csrf/disabled?x=1 HTTP/1.1" 200 - 0 '

    assert (said.status, said.body) == (200, b"service POST /csrf/disabled?x=1")
    assert wait_until(lambda: line in served.peer.output(), PATIENCE_S), served.peer.output()


def double_proxy(served: Served) -> None:
    served.settle("/")

    assert ask(served.port, get("/any/where")).body == b"app GET /any/where"


def front_proxy_service(served: Served, number: int) -> None:
    name = f"service{number}"
    served.settle(f"/service/{number}")

    assert ask(served.port, get(f"/service/{number}/deep")).body == f"{name} GET /service/{number}/deep".encode()
    assert ask(served.port, get("/service/3")).status == 404
    assert served.admin("/ready").strip() == "LIVE"
    assert f"{name}::127.0.0.1:{served.origins[name]}::rq_success::" in served.admin("/clusters")
    assert f"http.service_envoy_{number}.downstream_rq_4xx: 1\n" in served.admin("/stats")


def websocket_by_route(served: Served) -> None:
    served.settle("/ws")
    said = ask(served.port, get("/other"))

    assert (said.status, said.body) == (200, b"NotWebSocket\n")
    assert echoes(served.port, "/ws/chat")


def websocket(served: Served) -> None:
    served.settle("/")

    assert ask(served.port, get("/")).status == 426, "the websocket server's own answer to a plain request"
    assert echoes(served.port, "/any")


SERVED: dict[str, Callable[[Served], None]] = {
    "csrf__crosssite__envoy": csrf_crosssite,
    "double-proxy__envoy": double_proxy,
    "front-proxy__service-envoy": lambda served: front_proxy_service(served, 1),
    "front-proxy__service-envoy-2": lambda served: front_proxy_service(served, 2),
    "websocket__envoy-ws-route": websocket_by_route,
    "websocket__envoy-ws": websocket,
}


@pytest.mark.parametrize("example", SERVED)
def test_an_accepted_example_is_served(example: str, tmp_path: Path, on_envoy: bool) -> None:
    with running(tmp_path, example, on_envoy) as served:
        SERVED[example](served)


def test_every_accepted_example_has_a_conversation() -> None:
    assert SERVED.keys() == ACCEPTED
