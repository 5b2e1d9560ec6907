"""A listener's own access log: one line for each connection at its end. Run on Envoy too (MESHPROXY_TESTS_ON=envoy)."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.processes.conftest import ON_ENVOY
from tests.processes.test_tcp import Endpoint, echo, exactly, network_filter
from tests.support.certificates import Authority
from tests.support.processes import Node, wait_until

Json = dict[str, Any]
TYPES = bootstrap.TYPES
LINE = " ".join(f"%{name}%" for name in (
    "PROTOCOL", "ACCESS_LOG_TYPE", "RESPONSE_FLAGS", "BYTES_RECEIVED", "BYTES_SENT", "UPSTREAM_CLUSTER", "RESPONSE_CODE_DETAILS",
    "CONNECTION_TERMINATION_DETAILS", "REQUESTED_SERVER_NAME", "DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
))  # fmt: skip
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Logged:
    def __init__(self, peer: Peer, ports: dict[str, int], log: Path) -> None:
        self.peer, self.ports, self.log = peer, ports, log
        self.seen = 0

    def connect(self, listener: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=20)

    def next(self, count: int = 1) -> list[str]:
        """The next lines, once they are there."""
        until = self.seen + count
        assert wait_until(lambda: self.log.exists() and self.log.read_text().count("\n") >= until, 20), self.peer.output()
        lines = self.log.read_text().splitlines()[self.seen :]
        self.seen = until
        return lines


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    directory = tmp_path_factory.mktemp("logs")
    log = directory / "access.log"
    names = ["http", "relay", "tls", "denied", "nobody", "proxied"]
    *chosen, admin = free_ports(len(names) + 1)
    ports = dict(zip(names, chosen, strict=True))
    certificate, key = Authority().issue("a.test").write(directory, "server")
    files = [{"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}]
    kind = f"{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    context = {"@type": kind, "common_tls_context": {"tls_certificates": files}}
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    denies = network_filter("rbac", "RBAC", stat_prefix="rbac", rules={"action": "DENY", "policies": {"everybody": policy}})
    elsewhere = {"source_prefix_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 24}]}
    proxied = {"name": "proxy", "typed_config": {"@type": f"{TYPES}.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}
    hosts = [bootstrap.virtual_host([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}])]
    listeners = {name: bootstrap.tcp_listener(name, ports[name], "origin") for name in names}
    listeners |= {name: bootstrap.http_listener(name, ports[name], hosts) for name in ("http", "tls")}
    listeners["denied"] = bootstrap.tcp_listener("denied", ports["denied"], "origin", [denies])
    listeners["tls"]["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": context}
    listeners["nobody"]["filter_chains"][0]["filter_chain_match"] = elsewhere
    listeners["proxied"]["listener_filters"] = [proxied]
    for name, listener in listeners.items():
        listener["access_log"] = [bootstrap.file_log(str(log), f"{name} {LINE}\n")]
    with Endpoint(echo) as origin:
        config = bootstrap.bootstrap(list(listeners.values()), [bootstrap.cluster("origin", origin.port)], admin)
        try:
            peer: Peer = Envoy(directory / "proxy", config, [admin]) if ON_ENVOY else Node(directory / "proxy", config)
        except PeerMissingError as error:
            pytest.skip(str(error))
        peer.start()
        yield Logged(peer, ports, log)
        peer.stop()
        assert not (isinstance(peer, Node) and peer.wreckage()), peer.output()


def test_http_has_one_line_for_all_its_requests(logged: Logged) -> None:
    client = http.client.HTTPConnection("127.0.0.1", logged.ports["http"], timeout=20)
    for _ in range(3):
        client.request("GET", "/")
        assert client.getresponse().read() == b"ok"
    client.close()

    protocol, kind, flags, received, sent, *rest = logged.next()[0].split()[1:]
    assert (protocol, kind, flags) == ("HTTP/1.1", "NotSet", "-")
    assert int(received) == 3 * len(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{logged.ports['http']}\r\nAccept-Encoding: identity\r\n\r\n")
    assert int(sent) > 3 * len(b"HTTP/1.1 200 OK\r\n\r\nok")
    assert rest == ["-", "-", "-", "-", "-", "127.0.0.1", "-"]


def test_who_says_nothing_has_a_line_too(logged: Logged) -> None:
    logged.connect("http").close()
    assert logged.next() == ["http - NotSet - 0 0 - - - - - 127.0.0.1 -"]


def test_of_a_relay_it_knows_what_the_relay_does(logged: Logged) -> None:
    with logged.connect("relay") as client:
        client.sendall(b"hello")
        assert exactly(client, 5) == b"hello"
    assert logged.next() == ["relay - NotSet - 5 5 origin - - - - 127.0.0.1 -"]


def test_tls_counts_what_is_inside(logged: Logged) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(logged.connect("tls"), server_hostname="a.test") as client:
        client.sendall(REQUEST)
        answer = client.recv(4096)
        while not answer.endswith(b"ok"):
            answer += client.recv(4096)
    line = logged.next()[0].split()
    assert line[1:3] + line[4:6] == ["HTTP/1.1", "NotSet", str(len(REQUEST)), str(len(answer))]
    assert line[10:] == ["TLSv1.3", "127.0.0.1", "-"]


def test_a_handshake_that_fails_says_why(logged: Logged) -> None:
    with logged.connect("tls") as client:
        client.sendall(b"\x16\x03\x01\0\x05no hello")
        while client.recv(100):
            pass
    line = logged.next()[0].split(maxsplit=12)
    assert line[:6] == ["tls", "-", "NotSet", "-", "0", "0"]
    assert line[12].startswith("TLS_error:")


def test_refused_by_a_rule(logged: Logged) -> None:
    with logged.connect("denied") as client:
        client.sendall(b"x")
        try:
            assert client.recv(10) == b""
        except ConnectionResetError:
            pass
    line = logged.next()[0].split()
    assert (line[0], line[8]) == ("denied", "rbac_access_denied_matched_policy[everybody]")


def test_no_chain_for_it(logged: Logged) -> None:
    with logged.connect("nobody") as client:
        try:
            assert client.recv(10) == b""
        except ConnectionResetError:
            pass
    assert logged.next() == ["nobody - NotSet NR 0 0 - filter_chain_not_found - - - 127.0.0.1 -"]


def test_refused_by_a_listener_filter_and_served_behind_it(logged: Logged) -> None:
    with logged.connect("proxied") as client:
        client.sendall(b"this is no header at all, and long enough to tell\r\n")
        try:
            assert client.recv(10) == b""
        except ConnectionResetError:
            pass
    assert logged.next() == ["proxied - NotSet - 0 0 - - - - - 127.0.0.1 -"]

    with logged.connect("proxied") as client:
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\nhello")
        assert exactly(client, 5) == b"hello"
    assert logged.next() == ["proxied - NotSet - 5 5 origin - - - - 192.0.2.1 -"]
