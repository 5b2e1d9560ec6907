"""The admin server against raw bytes: bounds, kept connections, broken pages."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket as gsocket

from meshproxy.admin import server as admin_server
from meshproxy.admin.http import Request, Response, text
from meshproxy.admin.server import AdminServer
from meshproxy.master.journal import Journal
from tests.admin.node import AdminSite, admin_site


@pytest.fixture
def site() -> Iterator[AdminSite]:
    with admin_site() as running:
        yield running


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


def test_a_connection_is_kept_and_requests_may_be_pipelined(site: AdminSite) -> None:
    answer = site.raw(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)

    assert statuses(answer) == [200, 200, 200]


def test_a_request_in_single_bytes_is_read(site: AdminSite) -> None:
    peer = gsocket.create_connection(("127.0.0.1", site.port), timeout=20)
    for byte in b"GET /ready HTTP/1.0\r\n\r\n":
        peer.sendall(bytes([byte]))
        gevent.sleep(0)

    assert peer.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    peer.close()


def test_a_body_is_thrown_away_and_the_next_request_is_read(site: AdminSite) -> None:
    hidden = b"POST /quitquitquit HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    answer = site.raw(head + hidden + b"GET /listeners HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert statuses(answer) == [200, 200]
    assert site.orders == [], "what is in a body is no request"


def test_http_10_gets_a_long_page_without_chunks(site: AdminSite) -> None:
    head, _, body = site.raw(b"GET /stats HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head
    assert f"content-length: {len(body)}".encode() in head
    assert b"server.live: 1\n" in body


def test_expect_is_answered(site: AdminSite) -> None:
    answer = site.raw(b"POST /logging HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab")

    assert statuses(answer) == [100, 200]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000, 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    ],
)
def test_what_is_refused_gets_its_status_and_the_connection_ends(site: AdminSite, data: bytes, status: int) -> None:
    assert statuses(site.raw(data)) == [status]


def test_half_a_request_is_no_request(site: AdminSite) -> None:
    assert site.raw(b"GET /ready HTTP/1.1\r\nHost: loc") == b""


def test_a_client_that_says_nothing_is_let_go(site: AdminSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "REQUEST_S", 0.05)
    peer = gsocket.create_connection(("127.0.0.1", site.port), timeout=20)
    peer.sendall(b"GET /")

    assert peer.recv(100) == b""
    peer.close()


class Silent(Journal):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(f"{event} {fields}")


def serving(answering, listener: socket.socket, journal: Journal) -> AdminServer:
    server = AdminServer(listener.detach(), answering, journal)
    server.start()
    return server


def ask(address: object, family: int = socket.AF_INET, host: bytes = b"localhost") -> bytes:
    peer = gsocket.socket(family)
    peer.settimeout(20)
    peer.connect(address)
    peer.sendall(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    answer = b""
    while chunk := peer.recv(65536):
        answer += chunk
    peer.close()
    return answer


def test_a_broken_page_is_a_500_and_a_line_in_the_log() -> None:
    def broken(request: Request) -> Response:
        raise RuntimeError("as scripted")

    listener, journal = socket.create_server(("127.0.0.1", 0)), Silent()
    address = listener.getsockname()
    server = serving(broken, listener, journal)

    assert statuses(ask(address)) == [500]
    assert "as scripted" not in ask(address).decode()
    assert "as scripted" in journal.lines[0]
    server.stop()


def test_a_unix_socket_takes_any_host(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "admin.sock"))
    listener.listen()
    server = serving(lambda request: text("hello"), listener, Journal("error"))

    assert statuses(ask(str(tmp_path / "admin.sock"), socket.AF_UNIX, host=b"whatever")) == [200]
    server.stop()


def test_more_connections_than_the_bound_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "MAX_CONNECTIONS", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = serving(lambda request: text("hello"), listener, Journal("error"))
    first = gsocket.create_connection(address, timeout=20)
    second = gevent.spawn(ask, address)
    gevent.sleep(0)
    first.close()

    assert statuses(second.get(timeout=20)) == [200]
    server.stop()
