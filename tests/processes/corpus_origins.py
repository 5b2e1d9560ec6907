"""What stands behind Envoy's examples in tests: an origin for each host that they name, which says who it is."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.config.envoy.test_corpus import CORPUS
from tests.support.http2_wire import Http2Server, http2_origin
from tests.support.origin import Connection, Origin

CERTS = CORPUS / "certs"
AUTHORITY = str(CERTS / "cacert.pem")
GRPC = ("content-type", "application/grpc")


def server_context(*, alpn: tuple[str, ...] = (), asks: bool = False) -> ssl.SSLContext:
    """The corpus' server certificate. `asks`: clients have to show one of the same authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=AUTHORITY)
    context.load_cert_chain(CERTS / "servercert.pem", CERTS / "serverkey.pem")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def client_context(*, certificate: str = "", alpn: tuple[str, ...] = (), verify: bool = True) -> ssl.SSLContext:
    """A client that trusts the corpus' authority. `certificate`: client or server, shown when it is asked for."""
    context = ssl.create_default_context(cafile=AUTHORITY)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(CERTS / f"{certificate}cert.pem", CERTS / f"{certificate}key.pem")
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def talk(connection: Connection, name: str) -> None:
    """Answer each request with the origin's name, method and target."""
    while True:
        request = connection.request()
        said = f"{name} {request.method} {request.target}".encode()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def mirror(connection: Connection) -> None:
    """Send back lines, each with a mark before it."""
    while True:
        connection.send(b"said " + connection.until(b"\n"))


def secured(connection: Connection, context: ssl.SSLContext) -> tuple[Connection, str, str]:
    """The connection after the handshake; the server name and the protocol that the client asked for."""
    seen: list[str] = []
    context.sni_callback = lambda sock, name, used: seen.append(name or "")
    connection.sock = context.wrap_socket(connection.sock, server_side=True)
    return connection, (seen or [""])[0], connection.sock.version() or ""


@contextmanager
def running(raw: Callable[[Connection], None]) -> Iterator[int]:
    with Origin(raw=raw) as origin:
        yield origin.port


def plain(name: str) -> AbstractContextManager[int]:
    return running(lambda connection: talk(connection, name))


def https(name: str) -> AbstractContextManager[int]:
    """It also says which server name was asked for, and which TLS was spoken."""

    def converse(connection: Connection) -> None:
        opened, server_name, version = secured(connection, server_context(alpn=("h2", "http/1.1")))
        talk(opened, f"{name} {server_name or '-'} {version}")

    return running(converse)


def tcp(name: str) -> AbstractContextManager[int]:
    return running(mirror)


def mutual_tls(name: str) -> AbstractContextManager[int]:
    return running(lambda connection: mirror(secured(connection, server_context(asks=True))[0]))


@contextmanager
def grpc(name: str) -> Iterator[int]:
    """Answers each call with its own message and status 0."""

    def serve(server: Http2Server) -> None:
        server.accept()
        while True:
            message = server.message()
            headers = (GRPC, ("x-asked", f"{name} {message.header(':path')}"))
            server.respond(message.stream, message.body, headers=headers, trailers=(("grpc-status", "0"),))

    with http2_origin(serve) as origin:
        yield origin.port


@contextmanager
def websocket(name: str, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Sends back what it gets."""
    from websockets.sync.server import serve

    with serve(lambda socket: [socket.send(message) for message in socket], "127.0.0.1", 0, ssl=context) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            serving.join()


def secure_websocket(name: str) -> AbstractContextManager[int]:
    return websocket(name, server_context())


SPEAKS: dict[str, Callable[[str], AbstractContextManager[int]]] = {
    "service-ws": websocket,
    "service-wss": secure_websocket,
    "service-https": https,
    "service-https0": https,
    "service-https1": https,
    "proxy": https,
    "postgres": tcp,
    "proxy-postgres-backend.example.com": mutual_tls,
    "grpc-server": grpc,
}
"""Who is no plain HTTP server, by the host's name in the examples."""


def origin_of(host: str) -> AbstractContextManager[int]:
    """Starts the origin for a host; gives its port."""
    return SPEAKS.get(host, plain)(host)
