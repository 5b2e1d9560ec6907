"""Which version of HTTP a cluster speaks where it is not said outright: as the client does, or as the TLS handshake has it."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.http2_mesh import LIMIT_S, Kinds, Mesh, Seen, options, running, together
from tests.support.certificates import Authority
from tests.support.http2_wire import PREFACE, Http2Client, Http2Server
from tests.support.origin import OK, Connection
from tests.support.wire import ClosedError, ask, get

TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
Json = dict[str, Any]
Made = Callable[..., ssl.SSLContext]


def converse(connection: Connection, seen: Seen, held: Callable[[str], None] = lambda version: None) -> None:
    """Answer in the version that the other side speaks; tell which that was. `held` may hold an answer back."""
    while len(connection.held) < 3:
        connection.more()
    http2 = connection.held.startswith(PREFACE[:3])
    version = "HTTP/2" if http2 else "HTTP/1.1"
    with contextlib.suppress(ClosedError):
        if http2:
            peer = Http2Server(connection).accept()
            while True:
                message = peer.message()
                seen.put((version, message.header(":authority"), connection.number))
                held(version)
                peer.respond(message.stream, b"ok")
        while True:
            request = connection.request()
            seen.put((version, request.header("host"), connection.number))
            held(version)
            connection.send(OK)


def secured(connection: Connection, issued: ssl.SSLContext, names: list[str]) -> str | None:
    """Do the server's side of the handshake; what ALPN agreed on. The client's server name is added to `names`."""
    issued.sni_callback = lambda sock, name, context: names.append(name)
    connection.sock = issued.wrap_socket(connection.sock, server_side=True)
    return connection.sock.selected_alpn_protocol()


@pytest.fixture
def server_context(tmp_path: Path) -> Made:
    chain, key = Authority().issue("mesh.test", "other.test").write(tmp_path, "server")

    def made(*alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    return made


def tls(**context: Any) -> Json:
    return {"transport_socket": {"name": "tls", "typed_config": {"@type": f"type.googleapis.com/{TLS}", **context}}}


HTTP2 = {"explicit_http_config": {"http2_protocol_options": {}}}
KINDS: Kinds = {
    "downstream": (1, options({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}})),
    "auto": (4, options({"auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}) | tls()),
    "http2": (1, options(HTTP2) | tls()),
    "named": (1, options(HTTP2 | {"upstream_http_protocol_options": {"auto_sni": True}}) | tls()),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("protocols"), KINDS, "%REQ(:PATH)% %UPSTREAM_TLS_VERSION%\n") as standing:
        yield standing


def test_as_the_client_speaks(mesh: Mesh) -> None:
    place, seen = mesh.take("downstream"), Seen()
    place.origin.raw = lambda connection: converse(connection, seen)
    for _ in range(2):
        assert place.ask().status == 200
        with Http2Client(place.port) as client:
            client.request(1, path=f"/{place.name}/")
            assert client.message(1).body == b"ok"
    assert [seen.get()[0] for _ in range(4)] == ["HTTP/1.1", "HTTP/2"] * 2
    assert place.origin.connections == 2


@pytest.mark.parametrize(("alpn", "version", "connections"), [
    pytest.param(("h2", "http/1.1"), "HTTP/2", 1, id="both"),
    pytest.param(("h2",), "HTTP/2", 1, id="h2"),
    pytest.param(("http/1.1",), "HTTP/1.1", 5, id="http/1.1"),
    pytest.param((), "HTTP/1.1", 5, id="no ALPN"),
])
def test_as_the_handshake_says(mesh: Mesh, server_context: Made, alpn: tuple, version: str, connections: int) -> None:
    """Five clients at once: one connection is made, and it tells how many more are needed."""
    place, seen, release = mesh.take("auto"), Seen(), threading.Event()
    agreed: list[str | None] = []

    def raw(connection: Connection) -> None:
        agreed.append(secured(connection, server_context(*alpn), []))
        converse(connection, seen, lambda version: release.wait(LIMIT_S) or None)

    def free() -> None:
        for _ in range(connections if version == "HTTP/1.1" else 1):
            seen.get()
        release.set()

    place.origin.raw = raw
    answers = together([free, *[place.ask] * 5])[1:]
    assert {answer.status for answer in answers} == {200}
    assert place.ask("last").status == 200
    assert seen.get()[0] == version
    assert place.logged("last") == ["TLSv1.2"]
    assert place.origin.connections == connections
    assert set(agreed) == {alpn[0] if alpn else None}


def test_http2_over_tls_offers_nothing_else(mesh: Mesh, server_context: Made) -> None:
    place, seen = mesh.take("http2"), Seen()
    agreed: list[str | None] = []

    def raw(connection: Connection) -> None:
        agreed.append(secured(connection, server_context("http/1.1", "h2"), []))
        converse(connection, seen)

    place.origin.raw = raw
    assert place.ask().status == 200
    assert (agreed, seen.get()[0]) == (["h2"], "HTTP/2")


def test_a_connection_serves_the_name_it_was_made_for(mesh: Mesh, server_context: Made) -> None:
    """With `auto_sni`, a request for another host goes to a connection of its own."""
    place, seen = mesh.take("named"), Seen()
    names: list[str] = []

    def raw(connection: Connection) -> None:
        secured(connection, server_context("h2"), names)
        converse(connection, seen)

    place.origin.raw = raw
    for host in ("mesh.test", "other.test", "mesh.test:80", "other.test"):
        assert ask(place.port, get(f"/{place.name}/", host)).status == 200
    found = [seen.get() for _ in range(4)]
    assert names == ["mesh.test", "other.test"]
    assert [(host, number) for _, host, number in found] == [("mesh.test", 1), ("other.test", 2), ("mesh.test:80", 1), ("other.test", 2)]


