"""Hostile clients of a TLS port: what the tools find, handshakes that never end, and that others are served meanwhile."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import bootstrap
from tests.peers.process import free_ports
from tests.processes.test_tls import HELLO, TLS, Certificates, common
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, get

HALF_OPEN = 300


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class TlsNode:
    """A node with one TLS listener that answers by itself, and waits 2 s for a handshake."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.port, self.admin_port = free_ports(2)
        listener = bootstrap.http_listener("tls", self.port, [bootstrap.virtual_host([HELLO])])
        context = {"@type": f"{TLS}.DownstreamTlsContext", "common_tls_context": common(certificates)}
        listener["filter_chains"][0] |= {
            "transport_socket": {"name": "tls", "typed_config": context}, "transport_socket_connect_timeout": "2s",
        }
        self.client = certificates.client()
        self.node = Node(directory, bootstrap.bootstrap([listener], [], self.admin_port)).start()

    def connect(self) -> Client:
        stream = Client(self.port)
        stream.sock = self.client.wrap_socket(stream.sock, server_hostname="mesh.test")
        return stream

    def counter(self, name: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/stats?format=json&filter={name}", timeout=20) as answer:
            return sum(row["value"] for row in json.load(answer)["stats"] if row.get("name", "").endswith(name))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[TlsNode]:
    started = TlsNode(tmp_path_factory.mktemp("node"), certificates)
    yield started
    started.node.stop()
    assert started.node.wreckage() == []


def test_what_sslyze_finds(tls: TlsNode, tmp_path: Path) -> None:
    """The scanner's own verdicts: old versions, compression, renegotiation, the old bugs."""
    pytest.importorskip("sslyze")
    report = tmp_path / "report.json"
    scans = ["--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--heartbleed", "--openssl_ccs", "--reneg", "--robot",
             "--compression", "--fallback", "--elliptic_curves", "--resum"]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "sslyze", *scans, "--json_out", str(report), f"127.0.0.1:{tls.port}"],
        check=False, capture_output=True, timeout=100,
    )  # fmt: skip
    (server,) = json.loads(report.read_text())["server_scan_results"]
    found = {name: scan["result"] for name, scan in server["scan_result"].items() if scan["status"] == "COMPLETED"}

    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert found[f"{version}_cipher_suites"]["accepted_cipher_suites"] == []
    for version in ("tls_1_2", "tls_1_3"):
        accepted = [suite["cipher_suite"]["name"] for suite in found[f"{version}_cipher_suites"]["accepted_cipher_suites"]]
        assert accepted
        assert all("GCM" in name or "CHACHA20" in name for name in accepted)
    assert not found["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert found["robot"]["robot_result"].startswith("NOT_VULNERABLE")
    assert not found["tls_compression"]["supports_compression"]
    assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert found["session_renegotiation"]["supports_secure_renegotiation"]


def test_connections_over_tls_are_counted(tls: TlsNode) -> None:
    before = tls.counter("http.tls.downstream_cx_ssl_total")
    with tls.connect() as client:
        assert client.ask(get()).status == 200
        assert tls.counter("http.tls.downstream_cx_ssl_active") == 1
        assert tls.counter("http.tls.downstream_cx_ssl_total") == before + 1
    assert wait_until(lambda: tls.counter("http.tls.downstream_cx_ssl_active") == 0, 20, tls.node.pid)


def test_handshakes_that_never_end_do_not_hold_up_others(tls: TlsNode) -> None:
    """Half-open connections, some with half a hello, are closed after the time limit; who comes meanwhile is served."""
    before = tls.counter("ssl.error_timeout")
    hanging = [socket.create_connection(("127.0.0.1", tls.port), 20) for _ in range(HALF_OPEN)]
    for place, sock in enumerate(hanging):
        sock.sendall(b"\x16\x03\x01\x02\x00\x01"[: place % 7])
    for _ in range(20):
        with tls.connect() as client:
            assert client.ask(get()).status == 200
    for sock in hanging:
        sock.settimeout(20)
        assert sock.recv(1) == b""
        sock.close()
    assert wait_until(lambda: tls.counter("ssl.error_timeout") == before + HALF_OPEN, 20, tls.node.pid)


def test_garbage_at_every_place_of_a_handshake(tls: TlsNode) -> None:
    chance = random.Random(7)
    for _ in range(200):
        with Client(tls.port) as client:
            try:
                for _ in range(chance.randrange(1, 5)):
                    client.send(b"\x16\x03" + chance.randbytes(chance.randrange(1, 700)))
                client.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            client.rest()
    with tls.connect() as client:
        assert client.ask(get()).status == 200
    assert tls.counter("server.exceptions") == 0


def test_memory_does_not_grow_with_handshakes(tls: TlsNode, long_run: bool) -> None:
    """Full and resumed ones, after a warm-up; what is left over for each of them is nothing."""
    count = 100_000 if long_run else 1500
    (worker,) = (row["pid"] for row in tls.node.ready_workers())
    shake_hands(tls, 1000)
    before = resident_bytes(worker)
    shake_hands(tls, count)
    assert resident_bytes(worker) - before < max(2 << 20, count * 100)


def shake_hands(tls: TlsNode, count: int) -> None:
    session = None
    for place in range(count):
        with socket.create_connection(("127.0.0.1", tls.port), 20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with tls.client.wrap_socket(sock, server_hostname="mesh.test", session=session if place % 2 else None) as secured:
                session = secured.session or session


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
