"""Envoy's own examples that are accepted are served: real conversations through each of them, changed in nothing but addresses.

What a file calls `service:8080` is an origin on loopback; its listeners and its admin server keep their host and get a free port. With
MESHPROXY_TESTS_ON=envoy the same claims are made of Envoy.
"""

from __future__ import annotations

import dataclasses
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.config.envoy.test_corpus import ACCEPTED, CORPUS, EXAMPLES, pytestmark  # noqa: F401 (the mark skips these tests too)
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.processes.corpus_origins import CERTS, GRPC, client_context, origin_of
from tests.support.http2_wire import Http2Client
from tests.support.processes import Node, wait_until
from tests.support.wire import LIMIT_S, Client, ClosedError, Stream, ask, get

Json = dict[str, Any]
PATIENCE_S = 20.0


@dataclasses.dataclass
class Served:
    """A running example: `ports` of its listeners in order; `origins` are ports by the host that the file names."""

    peer: Peer
    ports: list[int]
    admin_port: int
    origins: dict[str, int]

    @property
    def port(self) -> int:
        return self.ports[0]

    def settle(self, probe: Callable[[], bool]) -> None:
        """Wait until the names behind a listener are resolved: until then it answers 503 or closes."""

        def works() -> bool:
            try:
                return probe()
            except (ClosedError, OSError, EOFError):
                return False

        assert wait_until(works, PATIENCE_S, self.peer.pid), self.peer.output()

    def settle_http(self, path: str = "/") -> None:
        self.settle(lambda: ask(self.port, get(path)).status != 503)

    def settle_https(self, path: str = "/", server_name: str = "localhost") -> None:
        def answers() -> bool:
            with self.secure(server_name) as client:
                return client.ask(get(path)).status != 503

        self.settle(answers)

    def secure(self, server_name: str = "localhost", context: ssl.SSLContext | None = None, listener: int = 0) -> Client:
        """A client of a TLS listener. Without a context it takes any certificate: those in the examples are signed by themselves."""
        plain = socket.create_connection(("127.0.0.1", self.ports[listener]), LIMIT_S)
        client = Client.__new__(Client)
        context = context or client_context(verify=False)
        try:
            Stream.__init__(client, context.wrap_socket(plain, server_hostname=server_name))
        except BaseException:
            plain.close()
            raise
        return client

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


def moved(document: Json, origins: dict[str, int], listener_ports: list[int], admin_port: int = 0) -> Json:
    """The document, changed in place: `localhost` and an origin's port for each upstream, these ports for what listens.

    Listeners without a name get one: until now the port told them apart.
    """
    for number, listener in enumerate(document["static_resources"]["listeners"]):
        listener.setdefault("name", f"listener_{number}")
    left = iter(listener_ports)
    for field, address in addresses(document):
        if field == "clusters":
            address.update(address="localhost", port_value=origins[address["address"]])
        else:
            address["port_value"] = admin_port if field == "admin" else next(left)
    for cluster in document["static_resources"]["clusters"]:
        cluster["dns_lookup_family"] = "V4_ONLY"  # the origins have no IPv6
    return document


@contextmanager
def running(directory: Path, example: str, on_envoy: bool) -> Iterator[Served]:
    """The example on a node, or on Envoy, beside the certificates that it names."""
    (directory / "certs").symlink_to(CORPUS / "certs")
    document = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    hosts = {address["address"] for field, address in addresses(document) if field == "clusters"}
    count = len(document["static_resources"]["listeners"])
    with ExitStack() as held:
        origins = {host: held.enter_context(origin_of(host)) for host in sorted(hosts)}
        if on_envoy:
            admin_port, *ports = free_ports(1 + count)
            try:
                peer = held.enter_context(Envoy(directory, moved(document, origins, ports, admin_port), ports))
            except PeerMissingError as error:
                pytest.skip(str(error))
            yield Served(peer, ports, admin_port, origins)
            return
        text = yaml.safe_dump(moved(document, origins, [0] * count), sort_keys=False)
        node = held.enter_context(Node(directory, text))
        status = node.status()
        ports = [_port(row["addresses"][0]) for row in status["listeners"]]
        assert len(ports) == count
        yield Served(node, ports, _port(status["admin"]), origins)
        assert node.wreckage() == []


def _port(address: str) -> int:
    return int(address.rpartition(":")[2] or 0)


def echoes(url: str, port: int, context: ssl.SSLContext | None = None) -> bool:
    """Whether websocket messages in text and in bytes come back through a proxy."""
    from websockets.sync.client import connect

    secure = {"ssl": context, "server_hostname": "localhost"} if context else {}
    with connect(url, proxy=None, sock=socket.create_connection(("127.0.0.1", port)), **secure) as client:
        for message in ("hello", bytes(range(256)) * 300, "bye"):
            client.send(message)
            if client.recv(timeout=PATIENCE_S) != message:
                return False
    return True


def says_back(client: Stream, line: bytes) -> bool:
    client.send(line)
    return client.until(b"\n") == b"said " + line


# ---- HTTP ----


def csrf_crosssite(served: Served) -> None:
    served.settle_http()
    said = ask(served.port, get("/csrf/disabled?x=1", "mesh.test", "Origin: http://elsewhere.test", "Content-Length: 0", method="POST"))
    line = '"POST /csrf/disabled?x=1 HTTP/1.1" 200 - 0 '

    assert (said.status, said.body) == (200, b"service POST /csrf/disabled?x=1")
    assert wait_until(lambda: line in served.peer.output(), PATIENCE_S), served.peer.output()


def double_proxy(served: Served) -> None:
    served.settle_http()

    assert ask(served.port, get("/any/where")).body == b"app GET /any/where"


def front_proxy_service(served: Served, number: int) -> None:
    name = f"service{number}"
    served.settle_http(f"/service/{number}")

    assert ask(served.port, get(f"/service/{number}/deep")).body == f"{name} GET /service/{number}/deep".encode()
    assert ask(served.port, get("/service/3")).status == 404
    assert served.admin("/ready").strip() == "LIVE"
    assert f"{name}::127.0.0.1:{served.origins[name]}::rq_success::" in served.admin("/clusters")
    assert f"http.service_envoy_{number}.downstream_rq_4xx: 1\n" in served.admin("/stats")


def front_proxy(served: Served) -> None:
    served.settle_http("/service/1")
    served.settle_http("/service/2")

    assert ask(served.port, get("/service/1/a")).body == b"service-envoy-1 GET /service/1/a"
    assert ask(served.port, get("/other")).status == 404
    with served.secure(listener=1) as client:
        assert client.ask(get("/service/2/b")).body == b"service-envoy-2 GET /service/2/b"
        assert client.ask(get("/service/1/c")).body == b"service-envoy-1 GET /service/1/c"
    assert served.admin("/ready").strip() == "LIVE"


def traced(served: Served, *hops: tuple[str, str, str]) -> None:
    """Each listener passes on what it traces: (path, origin, the operation that the client is told; "" on the way out)."""
    for port, (path, origin, operation) in zip(served.ports, hops, strict=True):
        served.settle(lambda port=port, path=path: ask(port, get(path)).status != 503)
        said = ask(port, get(path))

        assert said.body == f"{origin} GET {path}".encode()
        assert (said.header("x-envoy-decorator-operation") or "") == operation


def grpc_bridge(served: Served) -> None:
    def answered() -> bool:
        with Http2Client(served.port) as client:
            client.request(1, (GRPC, ("te", "trailers")), b"\0\0\0\0\2hi", method="POST", path="/kv.KV/Get")
            message = client.message(1)
        return (
            message.header("x-asked") == "grpc-server /kv.KV/Get"
            and message.body == b"\0\0\0\0\2hi"
            and ("grpc-status", "0") in message.trailers
        )

    served.settle(answered)
    assert ask(served.port, get("/kv.KV/Get")).status == 404, "the route is for gRPC only"


def websocket_by_route(served: Served) -> None:
    served.settle_http("/ws")
    said = ask(served.port, get("/other"))

    assert (said.status, said.body) == (200, b"NotWebSocket\n")
    assert echoes("ws://localhost/ws/chat", served.port)


def websocket(served: Served) -> None:
    served.settle_http()

    assert ask(served.port, get("/")).status == 426, "the websocket server's own answer to a plain request"
    assert echoes("ws://localhost/any", served.port)


# ---- TLS, and what only passes it on ----


def websocket_secure(served: Served) -> None:
    served.settle_https()

    assert echoes("wss://localhost/any", served.port, client_context(verify=False))


def websocket_passed_on(served: Served) -> None:
    served.settle(lambda: echoes("wss://localhost/any", served.port, client_context()))


def to_https(served: Served) -> None:
    served.settle_http()

    assert ask(served.port, get("/x")).body == b"service-https - TLSv1.3 GET /x"


def https_to_http(served: Served) -> None:
    served.settle_https()
    with served.secure() as client:
        assert client.ask(get("/x")).body == b"service-http GET /x"


def https_to_https(served: Served) -> None:
    served.settle_https()
    with served.secure() as client:
        assert client.ask(get("/x")).body == b"service-https - TLSv1.3 GET /x"


def https_passed_on(served: Served) -> None:
    def answered() -> bool:
        with served.secure(context=client_context()) as client:
            return client.ask(get("/x")).body == b"service-https localhost TLSv1.3 GET /x"

    served.settle(answered)


def by_server_name(served: Served) -> None:
    """Two names end here with a certificate each, the third is passed on by its name."""
    for domain, origin, certificate in (
        ("domain1.example.com", "service-http0", "servercert"),
        ("domain2.example.com", "service-http1", "clientcert"),
        ("domain3.example.com", "service-https domain3.example.com TLSv1.3", "servercert"),
    ):
        served.settle_https(server_name=domain)
        with served.secure(domain) as client:
            assert client.ask(get("/x")).body == f"{origin} GET /x".encode()
            shown = ssl.DER_cert_to_PEM_cert(client.sock.getpeercert(binary_form=True))
        assert shown.strip() in (CERTS / f"{certificate}.pem").read_text()
    with pytest.raises((OSError, ClosedError)), served.secure("domain4.example.com") as client:
        client.ask(get("/"))


def with_server_names(served: Served) -> None:
    # Without a word about it Envoy speaks TLS 1.2 at most to endpoints.
    for name, version in (("domain1", "TLSv1.2"), ("domain2", "TLSv1.2"), ("domain3", "TLSv1.3")):
        served.settle_http(f"/{name}")
        assert ask(served.port, get(f"/{name}")).body == f"proxy {name}.example.com {version} GET /{name}".encode()


def by_protocol(served: Served) -> None:
    """TLS is told from plain bytes, and by ALPN from its kind; all of it is passed on."""
    for protocol, origin in (("h2", "service-https1"), ("http/1.1", "service-https0")):

        def answered(protocol: str = protocol, origin: str = origin) -> bool:
            with served.secure(context=client_context(alpn=(protocol,))) as client:
                assert client.sock.selected_alpn_protocol() == protocol
                return client.ask(get("/x")).body == f"{origin} localhost TLSv1.3 GET /x".encode()

        served.settle(answered)
    served.settle(lambda: ask(served.port, get("/x")).body == b"service-http GET /x")
    assert served.admin("/ready").strip() == "LIVE"


def backend_of_two(served: Served) -> None:
    """TCP out of TLS, for who shows the frontend's certificate."""

    def passes() -> bool:
        with served.secure(context=client_context(certificate="client")) as client:
            return says_back(client, b"select 1\n") and says_back(client, b"select 2\n")

    served.settle(passes)
    for certificate in ("", "server"):
        with pytest.raises((OSError, ClosedError)), served.secure(context=client_context(certificate=certificate)) as client:
            says_back(client, b"select 1\n")


def frontend_of_two(served: Served) -> None:
    """TCP into TLS; the backend asks for the certificate."""

    def passes() -> bool:
        with Client(served.port) as client:
            return says_back(client, b"select 1\n") and says_back(client, b"select 2\n")

    served.settle(passes)


SERVED: dict[str, Callable[[Served], None]] = {
    "csrf__crosssite__envoy": csrf_crosssite,
    "double-proxy__envoy": double_proxy,
    "double-proxy__envoy-backend": backend_of_two,
    "double-proxy__envoy-frontend": frontend_of_two,
    "front-proxy__envoy": front_proxy,
    "front-proxy__service-envoy": lambda served: front_proxy_service(served, 1),
    "front-proxy__service-envoy-2": lambda served: front_proxy_service(served, 2),
    "grpc-bridge__server__envoy-proxy": grpc_bridge,
    "tls-inspector__envoy": by_protocol,
    "tls-sni__envoy": by_server_name,
    "tls-sni__envoy-client": with_server_names,
    "tls__envoy-http-https": to_https,
    "tls__envoy-https-http": https_to_http,
    "tls__envoy-https-https": https_to_https,
    "tls__envoy-https-passthrough": https_passed_on,
    "websocket__envoy-ws": websocket,
    "websocket__envoy-ws-route": websocket_by_route,
    "websocket__envoy-wss": websocket_secure,
    "websocket__envoy-wss-passthrough": websocket_passed_on,
    "jaeger-tracing__envoy": lambda served: traced(served, ("/trace/1", "service1", "")),
    "jaeger-tracing__service1-envoy-jaeger": lambda served: traced(
        served, ("/x", "127.0.0.1", "checkAvailability"), ("/trace/2", "service2", "")
    ),
    "jaeger-tracing__service2-envoy-jaeger": lambda served: traced(served, ("/x", "127.0.0.1", "checkStock")),
    "zipkin__envoy-1": lambda served: traced(served, ("/x", "service-1", "routeToService1"), ("/y", "envoy-2", "")),
    "zipkin__envoy-2": lambda served: traced(served, ("/x", "service-2", "routeToService2")),
}


DRIVEN = {"dynamic-config-cp__envoy", "dynamic-config-fs__envoy"}
"""They serve what a control plane says; `test_xds` has that."""


@pytest.mark.parametrize("example", SERVED)
def test_an_accepted_example_is_served(example: str, tmp_path: Path, on_envoy: bool) -> None:
    with running(tmp_path, example, on_envoy) as served:
        SERVED[example](served)


def test_every_accepted_example_has_a_conversation() -> None:
    assert SERVED.keys() == ACCEPTED - DRIVEN
