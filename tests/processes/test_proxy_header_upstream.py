"""A cluster that tells its endpoints whose connection it is: a PROXY header before everything else, TLS included."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.peers.proxied_servers import ProxiedHaproxy, ProxiedNginx, ProxiedServer
from tests.processes.conftest import ON_ENVOY
from tests.processes.test_tcp import Endpoint, exactly
from tests.support.certificates import Authority
from tests.support.processes import Node, wait_until

Json = dict[str, Any]
SOCKETS = f"{bootstrap.TYPES}.extensions.transport_sockets"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
TLS = {"name": "tls", "typed_config": {"@type": f"{SOCKETS}.tls.v3.UpstreamTlsContext"}}
RAW = {"name": "raw", "typed_config": {"@type": f"{SOCKETS}.raw_buffer.v3.RawBuffer"}}
HTTP2 = {"explicit_http_config": {"http2_protocol_options": {}}}
AUTO = {"auto_config": {}}


def telling(name: str, port: int, version: str, inner: Json = RAW, protocol: Json | None = None, **config: Any) -> Json:
    """A cluster that sends a header of this version."""
    told = {"@type": f"{SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport", "config": {"version": version, **config}}
    made = bootstrap.cluster(name, port, transport_socket={"name": "proxy", "typed_config": told | {"transport_socket": inner}})
    if protocol is not None:
        options = {"@type": f"{bootstrap.TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions", **protocol}
        made["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    return made


class Mesh:
    """An HTTP listener on which `/<cluster>` leads to the cluster."""

    def __init__(self, directory: Path, clusters: list[Json], listener_filters: list[Json] | None = None) -> None:
        self.port, self.admin = free_ports(2)
        routes = [bootstrap.route(f"/{cluster['name']}", cluster["name"]) for cluster in clusters]
        listener = bootstrap.http_listener("http", self.port, [bootstrap.virtual_host(routes)])
        listener["listener_filters"] = listener_filters or []
        config = bootstrap.bootstrap([listener], clusters, self.admin)
        self.peer: Peer = Envoy(directory, config, [self.port, self.admin]) if ON_ENVOY else Node(directory, config)

    def client(self) -> http.client.HTTPConnection:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        client.connect()
        return client

    def counter(self, name: str) -> int:
        client = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        client.request("GET", f"/stats?filter=^{name}$")
        return int(client.getresponse().read().decode().partition(": ")[2] or 0)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    started: list[Peer] = []

    def start(*clusters: Json, **settings: Any) -> Mesh:
        try:
            made = Mesh(tmp_path / "proxy", list(clusters), **settings)
        except PeerMissingError as error:
            pytest.skip(str(error))
        started.append(made.peer)
        made.peer.start()
        return made

    yield start
    for peer in started:
        peer.stop()
        assert not (isinstance(peer, Node) and peer.wreckage()), peer.output()


def said(client: http.client.HTTPConnection, path: str) -> str:
    client.request("GET", path)
    return client.getresponse().read().decode()


def place(client: http.client.HTTPConnection) -> str:
    return "{}:{}".format(*client.sock.getsockname())


def header(version: str, client: http.client.HTTPConnection) -> bytes:
    own, there = client.sock.getsockname()[1], client.sock.getpeername()[1]
    if version == "V1":
        return f"PROXY TCP4 127.0.0.1 127.0.0.1 {own} {there}\r\n".encode()
    return b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + bytes([127, 0, 0, 1]) * 2 + struct.pack("!HH", own, there)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_the_header_comes_once_and_first(mesh: Any, version: str) -> None:
    with Endpoint() as origin:
        proxy = mesh(telling("a", origin.port, version))
        client = proxy.client()
        client.request("GET", "/a")
        with origin.next() as server:
            expected = header(version, client) + b"GET /a HTTP/1.1\r\n"
            assert exactly(server, len(expected)) == expected
            server.recv(4096)
            server.sendall(OK)
            assert client.getresponse().read() == b"ok"

            client.request("GET", "/a/again")
            assert exactly(server, 16) == b"GET /a/again HTT"
            server.recv(4096)
            server.sendall(OK)
            assert client.getresponse().read() == b"ok"
        client.close()


def test_no_client_gets_anothers_connection(mesh: Any) -> None:
    with Endpoint() as origin:
        proxy = mesh(telling("a", origin.port, "V1"))
        clients = [proxy.client() for _ in range(3)]
        servers: list[socket.socket] = []
        for turn in range(3):
            for at, client in enumerate(clients):
                client.request("GET", "/a")
                if turn == 0:
                    servers.append(origin.next())
                    expected = header("V1", client)
                    assert exactly(servers[at], len(expected)) == expected
                assert servers[at].recv(4096).startswith(b"GET /a HTTP/1.1\r\n")
                servers[at].sendall(OK)
                assert client.getresponse().read() == b"ok"
        assert origin.count == 3
        for client in clients:
            client.close()
        for server in servers:
            server.close()


@pytest.mark.skipif(ON_ENVOY, reason="Envoy keeps them until they are idle for too long")
def test_what_is_a_clients_own_goes_with_it(mesh: Any) -> None:
    with Endpoint() as origin:
        proxy = mesh(telling("a", origin.port, "V2"))
        client, other = proxy.client(), proxy.client()
        servers = []
        for each in (client, other):
            each.request("GET", "/a")
            servers.append(origin.next())
            assert servers[-1].recv(28) == header("V2", each)
            servers[-1].recv(4096)
            servers[-1].sendall(OK)
            each.getresponse().read()

        client.close()
        assert servers[0].recv(100) == b""
        assert wait_until(lambda: proxy.counter("cluster.a.upstream_cx_active") == 1, 20)
        other.request("GET", "/a")
        assert servers[1].recv(4096).startswith(b"GET /a ")
        other.close()
        for server in servers:
            server.close()


def test_what_the_clients_own_header_said_is_passed_on(mesh: Any) -> None:
    accepts = {
        "name": "proxy",
        "typed_config": {
            "@type": f"{bootstrap.TYPES}.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            "pass_through_tlvs": {"match_type": "INCLUDE_ALL"},
        },
    }
    with Endpoint() as origin:
        cluster = telling("a", origin.port, "V2", pass_through_tlvs={"match_type": "INCLUDE", "tlv_type": [0xE1]})
        proxy = mesh(cluster, listener_filters=[accepts])
        addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 1000, 2000)
        wanted, other = b"\xe1\0\3abc", b"\xe2\0\3def"
        start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
            client.sendall(start + struct.pack("!H", 24) + addresses + wanted + other + b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
            with origin.next() as server:
                expected = start + struct.pack("!H", 18) + addresses + wanted + b"GET /a "
                assert exactly(server, len(expected)) == expected


@pytest.fixture(params=[ProxiedNginx, ProxiedHaproxy])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProxiedServer]:
    try:
        made = request.param(tmp_path / "server", *Authority().issue("server.test").write(tmp_path, "server"))
        made.start()
    except PeerMissingError as error:
        pytest.skip(str(error))
    yield made
    made.stop()


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_real_servers_know_the_client(mesh: Any, server: ProxiedServer, version: str) -> None:
    by_alpn = {"common_tls_context": {"alpn_protocols": ["h2"]}}
    proxy = mesh(
        telling("plain", server.port, version), telling("tls", server.tls_port, version, TLS),
        telling("h2", server.tls_port, version, TLS | {"typed_config": TLS["typed_config"] | by_alpn}, HTTP2),
        telling("auto", server.tls_port, version, TLS, AUTO),
    )  # fmt: skip
    clients = [proxy.client() for _ in range(3)]
    for _ in range(2):
        for client in clients:
            for name, protocol in (("plain", "1.1"), ("tls", "1.1"), ("h2", "2.0"), ("auto", "2.0")):
                who, spoken, *_ = said(client, f"/{name}").split()
                assert (who, spoken) == (place(client), f"HTTP/{protocol}"), name
    for client in clients:
        client.close()


def test_bytes_before_a_handshake_are_the_header_and_no_more(mesh: Any, tmp_path: Path) -> None:
    """A server that reads exactly the header and only then speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().issue("server.test").write(tmp_path, "server"))
    with Endpoint() as origin:
        proxy = mesh(telling("a", origin.port, "V1", TLS))
        client = proxy.client()
        client.request("GET", "/a")
        with origin.next() as server:
            expected = header("V1", client)
            assert exactly(server, len(expected)) == expected
            with context.wrap_socket(server, server_side=True) as secured:
                assert secured.recv(4096).startswith(b"GET /a HTTP/1.1\r\n")
                secured.sendall(OK)
                assert client.getresponse().read() == b"ok"
        client.close()
