"""HTTP/2 to servers of other makes, and gRPC from one end to the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.peers import bootstrap
from tests.peers.http2_servers import HaproxyHttp2, NginxHttp2, NodeHttp2
from tests.peers.process import Peer, PeerMissingError
from tests.processes.http2_mesh import LIMIT_S, http2, together
from tests.support.http2_wire import INITIAL_WINDOW_SIZE, Http2Client
from tests.support.processes import Node
from tests.support.wire import Client, ask, get, post

SERVERS = (NodeHttp2, NginxHttp2, HaproxyHttp2)


def node_before(directory: Path, ports: dict[str, int]) -> Node:
    """A node with a route `/<name>/` to each; the origin does not see the prefix."""
    routes = [bootstrap.route(f"/{name}/", {"cluster": name, "timeout": "0s", "prefix_rewrite": "/"}) for name in ports]
    listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host(routes)])
    return Node(directory, bootstrap.bootstrap([listener], [bootstrap.cluster(name, port, **http2()) for name, port in ports.items()]))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, Peer]]]:
    with contextlib.ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for kind in SERVERS:
            with contextlib.suppress(PeerMissingError):
                peers[kind.__name__] = stack.enter_context(kind(tmp_path_factory.mktemp(kind.name)))
        node = stack.enter_context(node_before(tmp_path_factory.mktemp("node"), {name: peer.port for name, peer in peers.items()}))
        yield node.port_of("ingress"), peers


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, standing: tuple[int, dict[str, Peer]]) -> tuple[int, str, Any]:
    port, peers = standing
    name = request.param.__name__
    if name not in peers:
        pytest.skip(f"{request.param.name} is not installed")
    return port, name, request.param


def test_small_and_large_answers(server: tuple[int, str, Any]) -> None:
    port, name, _kind = server
    with Client(port) as client:
        client.send(get(f"/{name}/"))
        answer = client.answer()
        while answer.status < 200:               # Node sends a 103 first
            answer = client.answer()
        assert (answer.status, answer.body) == (200, b"hello")
        large = client.ask(get(f"/{name}/large"))
        assert (large.status, set(large.body)) == (200, {ord("x")})
        assert len(large.body) == int(large.header("content-length") or -1)


def test_many_at_once(server: tuple[int, str, Any]) -> None:
    """By HTTP/2 on both sides, over a hundred streams."""
    port, name, _ = server
    with Http2Client(port, {INITIAL_WINDOW_SIZE: 1 << 30}) as client:
        client.send(client.open_windows())
        for number in range(120):
            client.request(2 * number + 1, path=f"/{name}/{'large' if number % 40 == 0 else ''}")
        sizes = {len(client.message(2 * number + 1).body) for number in range(120)}
    assert 5 in sizes
    assert len(sizes) == 2


def test_bodies_are_echoed_with_trailers(server: tuple[int, str, Any]) -> None:
    port, name, kind = server
    if not kind.echoes:
        pytest.skip(f"{kind.name} echoes nothing")
    body = bytes(range(256)) * 4000
    answers = together([lambda: ask(port, post(body, f"/{name}/"))] * 4)
    assert [(answer.status, answer.body, answer.trailers) for answer in answers] == [(200, body, [("x-end", "reached")])] * 4


# -- gRPC


class Methods(grpc.GenericRpcHandler):
    """A service without a schema: messages are bytes."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.began = threading.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.NOT_FOUND, "not here")

        return {
            "/test/Twice": grpc.unary_unary_rpc_method_handler(lambda request, context: request * 2),
            "/test/Fail": grpc.unary_unary_rpc_method_handler(fail),
            "/test/Down": grpc.unary_stream_rpc_method_handler(lambda request, context: (request for _ in range(100))),
            "/test/Up": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
            "/test/Both": grpc.stream_stream_rpc_method_handler(lambda requests, context: (request + b"!" for request in requests)),
            "/test/Wait": grpc.unary_unary_rpc_method_handler(self.wait),
        }[call.method]

    def wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        self.began.set()
        self.cancelled.wait(LIMIT_S)
        return b""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[grpc.Channel, Methods]]:
    methods = Methods()
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=(methods,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    routes = [bootstrap.route("/", {"cluster": "grpc", "timeout": "0s"})]
    listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host(routes)])
    config = bootstrap.bootstrap([listener], [bootstrap.cluster("grpc", port, **http2())])
    with Node(tmp_path_factory.mktemp("grpc"), config) as node, grpc.insecure_channel(f"127.0.0.1:{node.port_of('ingress')}") as channel:
        yield channel, methods
    server.stop(0)


def test_unary_calls(service: tuple[grpc.Channel, Methods]) -> None:
    twice = service[0].unary_unary("/test/Twice")
    assert twice(b"ab", timeout=LIMIT_S) == b"abab"
    assert twice(b"x" * 1_000_000, timeout=LIMIT_S) == b"x" * 2_000_000
    calls = [twice.future(b"%d" % number, timeout=LIMIT_S) for number in range(300)]
    assert [call.result() for call in calls] == [b"%d" % number * 2 for number in range(300)]


def test_a_status_without_a_message(service: tuple[grpc.Channel, Methods]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service[0].unary_unary("/test/Fail")(b"", timeout=LIMIT_S)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "not here")


def test_streams(service: tuple[grpc.Channel, Methods]) -> None:
    channel = service[0]
    assert list(channel.unary_stream("/test/Down")(b"d" * 10_000, timeout=LIMIT_S)) == [b"d" * 10_000] * 100
    assert channel.stream_unary("/test/Up")(iter([b"u" * 5000] * 100), timeout=LIMIT_S) == b"u" * 500_000
    both = channel.stream_stream("/test/Both")((b"%d" % number for number in range(200)), timeout=LIMIT_S)
    assert list(both) == [b"%d!" % number for number in range(200)]


def test_a_cancelled_call_is_cancelled_at_the_server(service: tuple[grpc.Channel, Methods]) -> None:
    channel, methods = service
    call = channel.unary_unary("/test/Wait").future(b"")
    assert methods.began.wait(LIMIT_S)
    call.cancel()
    assert methods.cancelled.wait(LIMIT_S)
