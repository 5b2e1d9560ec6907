"""TCP with TLS on either side of the relay: the bytes are the same, and what a certificate says may be asked for."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.process import free_ports
from tests.processes.test_tcp import MIB, PATIENCE_S, Endpoint, echo, exactly
from tests.support.certificates import Authority, Issued
from tests.support.processes import Node, wait_until

Json = dict[str, Any]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Path:
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    authority.issue("relay.test").write(tmp_path, "relay")
    authority.issue("origin.test").write(tmp_path, "origin")
    return tmp_path


@pytest.fixture
def node_on(tmp_path: Path) -> Iterator[Callable[[Json, Json], tuple[Node, int]]]:
    started: list[Node] = []

    def start(listener: Json, cluster: Json) -> tuple[Node, int]:
        (port,) = free_ports(1)
        relay = {"name": "relay", "address": f"127.0.0.1:{port}", "tcp": "origin", **listener}
        started.append(Node(tmp_path / "node", {"listeners": [relay], "clusters": {"origin": cluster}}))
        return started[-1].start(), port

    yield start
    for node in started:
        node.stop()
        assert not node.wreckage(), node.output()


def secured_echo(files: Path) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "origin.pem", files / "origin.key")

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as secured:
            while data := secured.recv(65536):
                secured.sendall(data)

    return serve


def client_context(files: Path, own: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files / "ca.pem")
    if own is not None:
        context.load_cert_chain(*own.write(files, "client"))
    return context


def bounce(connection: socket.socket, size: int) -> None:
    """So much there and back, read while it is sent. TLS sockets of Python are not for two threads, so it goes in pieces."""
    block = os.urandom(65536)
    for _ in range(size // len(block)):
        connection.sendall(block)
        assert exactly(connection, len(block)) == block


def tls_of(files: Path, **more: Any) -> Json:
    return {"cert": str(files / "relay.pem"), "key": str(files / "relay.key"), **more}


def test_terminated(files: Path, node_on: Callable[[Json, Json], tuple[Node, int]]) -> None:
    with Endpoint(echo) as origin:
        _, port = node_on({"tls": tls_of(files)}, {"endpoints": [f"127.0.0.1:{origin.port}"]})
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
            with client_context(files).wrap_socket(plain, server_hostname="relay.test") as client:
                bounce(client, 8 * MIB)


def test_originated(files: Path, node_on: Callable[[Json, Json], tuple[Node, int]]) -> None:
    with Endpoint(secured_echo(files)) as origin:
        upstream = {"ca": str(files / "ca.pem"), "sni": "origin.test", "sans": ["origin.test"]}
        log = files / "access.log"
        listener = {"access_log": [{"path": str(log), "format": "%UPSTREAM_TLS_VERSION% %UPSTREAM_PEER_DNS_SAN% %BYTES_SENT%\n"}]}
        _, port = node_on(listener, {"endpoints": [f"127.0.0.1:{origin.port}"], "tls": upstream})
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            data = os.urandom(8 * MIB)
            sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
            sender.start()
            assert exactly(client, len(data)) == data
            sender.join(PATIENCE_S)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b""
        line = f"TLSv1.2 origin.test {len(data)}\n"
        assert wait_until(lambda: log.exists() and log.read_text() == line, PATIENCE_S), log.read_text()


def test_both(files: Path, node_on: Callable[[Json, Json], tuple[Node, int]]) -> None:
    """The end of one side's TLS is the end of the other's."""
    with Endpoint(secured_echo(files)) as origin:
        upstream = {"ca": str(files / "ca.pem"), "sni": "origin.test", "sans": ["origin.test"]}
        _, port = node_on({"tls": tls_of(files)}, {"endpoints": [f"127.0.0.1:{origin.port}"], "tls": upstream})
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
            with client_context(files).wrap_socket(plain, server_hostname="relay.test", suppress_ragged_eofs=False) as client:
                bounce(client, 2 * MIB)
                client.unwrap().close()


def test_an_endpoint_that_is_somebody_else_is_not_spoken_to(files: Path, node_on: Callable[[Json, Json], tuple[Node, int]]) -> None:
    with Endpoint(secured_echo(files)) as origin:
        upstream = {"ca": str(files / "ca.pem"), "sni": "other.test", "sans": ["other.test"]}
        _, port = node_on({}, {"endpoints": [f"127.0.0.1:{origin.port}"], "tls": upstream})
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            assert client.recv(10) == b""


def test_a_certificate_opens_the_door(files: Path, authority: Authority, node_on: Callable[[Json, Json], tuple[Node, int]]) -> None:
    rules = {"policies": {"web": {"who": [{"authenticated": "spiffe://mesh/web"}]}}}
    log = files / "access.log"
    with Endpoint(echo) as origin:
        listener = {
            "tls": tls_of(files, client_ca=str(files / "ca.pem")), "connection_filters": [{"rbac": {"rules": rules}}],
            "access_log": [{"path": str(log), "format": "%REQUESTED_SERVER_NAME% %DOWNSTREAM_PEER_URI_SAN% %BYTES_SENT%\n"}],
        }
        _, port = node_on(listener, {"endpoints": [f"127.0.0.1:{origin.port}"]})
        passed = {}
        for name, own in {"web": authority.issue("spiffe://mesh/web"), "db": authority.issue("spiffe://mesh/db"), "nobody": None}.items():
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
                with client_context(files, own).wrap_socket(plain, server_hostname="relay.test") as client:
                    try:
                        client.sendall(b"x")
                        passed[name] = client.recv(10) == b"x"
                    except OSError:
                        passed[name] = False

        assert passed == {"web": True, "db": False, "nobody": False}
        assert wait_until(lambda: log.exists() and log.read_text() == "relay.test spiffe://mesh/web 1\n", PATIENCE_S)
