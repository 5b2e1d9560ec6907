"""HTTP/2 from clients to a running proxy, frame by frame; the origin speaks HTTP/1."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import socket
import struct
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import bootstrap, h2spec
from tests.peers.process import Peer, PeerMissingError
from tests.processes.http2_mesh import http2
from tests.support.certificates import Authority
from tests.support.http2_wire import (
    CANCEL,
    DATA,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    RST_STREAM,
    WINDOW_UPDATE,
    Http2Client,
    Http2Server,
    Http2Wire,
    frame,
    http2_origin,
    settings,
)
from tests.support.origin import OK, Connection, Origin, Request, answer
from tests.support.processes import pss_bytes, wait_until
from tests.support.wire import Client, ClosedError, Stream, ask, get

LIMIT_S = 20.0
MIB = 1 << 20
LOG = "%PROTOCOL% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %RESP(X-SEEN)%\n"


@dataclasses.dataclass
class Mesh:
    """One proxy before an origin that answers whole requests, and one (`/raw/`) whose connections a test has from their first byte."""

    proxy: Peer
    origin: Origin
    raw: Origin
    log: Path

    def client(self, limits: dict[int, int] | None = None) -> Http2Client:
        return Http2Client(self.proxy.port, limits)

    def logged(self, path: str) -> str:
        """The log's line for that path."""
        def found() -> str:
            lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
            return next((line.rstrip() for line in lines if f" {path} " in line and line.endswith("\n")), "")

        return wait_until(found, LIMIT_S)


@pytest.fixture(scope="module")
def standing(proxy_of, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    log = tmp_path_factory.mktemp("log") / "log"
    with Origin() as origin, Origin() as raw:
        routes = [
            bootstrap.route("/raw/", {"cluster": "raw", "timeout": "0s"}),
            bootstrap.route("/short", {"cluster": "raw", "timeout": "0.3s"}),
            {"match": {"path": "/teapot"}, "direct_response": {"status": 418, "body": {"inline_string": "short and stout"}}},
            {"match": {"connect_matcher": {}}, "route": {"cluster": "raw", "upgrade_configs": [{"upgrade_type": "CONNECT"}]}},
            bootstrap.route("/", {"cluster": "origin", "timeout": "0s"}),
        ]
        manager = {
            "access_log": [bootstrap.file_log(str(log), LOG)],
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {
                "allow_connect": True, "initial_stream_window_size": 65536, "initial_connection_window_size": MIB,
                "override_stream_error_on_invalid_http_message": True,
            },
        }  # fmt: skip
        clusters = [bootstrap.cluster("origin", origin.port), bootstrap.cluster("raw", raw.port)]
        yield Mesh(proxy_of([bootstrap.virtual_host(routes)], clusters, manager), origin, raw, log)
        assert origin.failures + raw.failures == []


@pytest.fixture
def mesh(standing: Mesh) -> Mesh:
    """The standing proxy with an origin that answers `ok` until the test says otherwise."""
    standing.origin.script = answer(OK)
    while not standing.origin.seen.empty():
        standing.origin.seen.get_nowait()
    return standing


# -- requests and answers


def test_requests_of_one_connection(mesh: Mesh) -> None:
    with mesh.client() as client:
        for stream in (1, 3, 5):
            client.request(stream, path=f"/each/{stream}")
        said = [client.message(stream) for stream in (1, 3, 5)]

    assert [(dict(each.headers)[":status"], each.body) for each in said] == [("200", b"ok")] * 3
    assert sorted(mesh.origin.next_request().target for _ in said) == ["/each/1", "/each/3", "/each/5"]
    assert mesh.logged("/each/1") == "HTTP/2 GET /each/1 200 - 0 2 -"


def test_a_head_reaches_the_origin_as_http1_would_say_it(mesh: Mesh) -> None:
    with mesh.client() as client:
        client.request(1, [("cookie", "a=1"), ("x-one", "1"), ("cookie", "b=2"), ("te", "trailers")], path="/head?a=b")
        client.message(1)
    seen = mesh.origin.next_request()

    assert (seen.method, seen.target, seen.version) == ("GET", "/head?a=b", "HTTP/1.1")
    assert (seen.header("host"), seen.header("cookie"), seen.header("te")) == ("test", "a=1; b=2", "trailers")
    assert seen.header("connection") is None
    assert seen.header("transfer-encoding") is None


def test_bodies_with_and_without_a_length(mesh: Mesh) -> None:
    with mesh.client() as client:
        client.request(1, [("content-length", "5")], b"hello", method="POST")
        client.message(1)
        with_length = mesh.origin.next_request()
        client.request(3, [], b"hello", method="POST")
        client.message(3)
        without = mesh.origin.next_request()

    assert (with_length.header("content-length"), with_length.header("transfer-encoding"), with_length.body) == ("5", None, b"hello")
    assert (without.header("content-length"), without.header("transfer-encoding"), without.body) == (None, "chunked", b"hello")


def test_trailers_go_both_ways(mesh: Mesh) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
    mesh.origin.script = answer(chunks)
    with mesh.client() as client:
        client.request(1, [], b"body", method="POST", path="/trailers", ends=False)
        client.send(client.headers(1, [("x-mine", "1")], ends=True))
        said = client.message(1)

    assert (said.body, said.trailers) == (b"ok", [("x-sum", "7")])
    assert mesh.origin.next_request().trailers == [("x-mine", "1")]


def test_interim_answers_come_first(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK)
    with mesh.client() as client:
        client.request(1)
        said = client.message(1)

    assert [dict(head)[":status"] for head in said.before] == ["103"]
    assert said.body == b"ok"


@pytest.mark.parametrize(
    ("method", "raw", "expected"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", ("200", "7")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", ("204", None)),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", ("304", "7")),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ("200", "0")),
    ],
)  # fmt: skip
def test_answers_without_a_body(mesh: Mesh, method: str, raw: bytes, expected: tuple) -> None:
    mesh.origin.script = answer(raw)
    with mesh.client() as client:
        client.request(1, method=method)
        said = client.message(1)

    assert (dict(said.headers)[":status"], said.header("content-length"), said.body) == (*expected, b"")


def test_connection_fields_of_the_origin_stay_behind(mesh: Mesh) -> None:
    hops = b"Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n"
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\n" + hops + b"X-SEEN: 2\r\nContent-Length: 2\r\n\r\nok")
    with mesh.client() as client:
        client.request(1, path="/hops")
        names = {name for name, _ in client.message(1).headers}

    assert "x-seen" in names
    assert not names & {"connection", "keep-alive", "x-hop", "X-SEEN"}
    assert mesh.logged("/hops").endswith(" 2")


def test_answers_of_our_own(mesh: Mesh) -> None:
    with mesh.client() as client:
        client.request(1, path="/teapot")
        said = client.message(1)

    assert (dict(said.headers)[":status"], said.body) == ("418", b"short and stout")


def test_an_answer_before_the_request_is_over(mesh: Mesh) -> None:
    with mesh.client() as client:
        client.request(1, [], b"some", method="POST", path="/teapot", ends=False)
        client.message(1)
        assert client.of_type(RST_STREAM, 1).code == NO_ERROR
        client.send(frame(DATA, 0, 1, b"more") + frame(DATA, END_STREAM, 1))
        client.request(3)

        assert client.message(3).body == b"ok"


def test_an_answer_that_breaks_off_is_a_reset(mesh: Mesh) -> None:
    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.close()

    mesh.origin.script = script
    with mesh.client() as client:
        client.request(1)
        client.head(1)
        client.of_type(RST_STREAM, 1)
        mesh.origin.script = answer(OK)
        client.request(3)
        assert client.message(3).body == b"ok"


def test_a_request_that_is_reset_is_given_up_upstream(mesh: Mesh) -> None:
    gone = threading.Event()

    def raw(connection: Connection) -> None:
        connection.until(b"\r\n\r\n")
        connection.rest()
        gone.set()

    mesh.raw.raw = raw
    with mesh.client() as client:
        client.request(1, path="/raw/reset")
        wait_until(lambda: mesh.raw.connections, LIMIT_S)
        client.send(frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))
        assert gone.wait(LIMIT_S)
        client.request(3)
        assert client.message(3).body == b"ok"
    assert " 0 DC " in mesh.logged("/raw/reset")


def test_a_timeout_ends_its_stream_only(mesh: Mesh) -> None:
    def raw(connection: Connection) -> None:
        connection.rest()

    mesh.raw.raw = raw
    with mesh.client() as client:
        client.request(1, path="/short")
        client.request(3)
        assert client.message(3).body == b"ok"
        assert dict(client.message(1).headers)[":status"] == "504"


# -- what a head may not be


@pytest.mark.parametrize(
    "fields",
    [
        [("connection", "close")], [("transfer-encoding", "chunked")], [("x", "a\r\nx-smuggled: 1")], [("x", "a\0b")], [("X", "a")],
        [("host", "other")], [("te", "gzip")], [("upgrade", "websocket")],
    ],
)  # fmt: skip
def test_a_malformed_request_goes_no_further(mesh: Mesh, fields: list[tuple[str, str]]) -> None:
    with mesh.client() as client:
        client.request(1, fields, path="/malformed")
        got = client.until(lambda each: each.stream == 1 and each.type in (HEADERS, RST_STREAM))
        if got.type == HEADERS:
            assert dict(client.heads[1][0][0])[":status"] == "400"
        else:
            assert got.code == PROTOCOL_ERROR
        client.request(3)
        assert client.message(3).body == b"ok"

    assert mesh.origin.next_request().target == "/"
    assert mesh.origin.seen.empty()


def test_a_head_that_is_too_large_is_answered(mesh: Mesh) -> None:
    with mesh.client() as client:
        client.request(1, [(f"x-{n}", "") for n in range(101)])
        assert dict(client.message(1).headers)[":status"] == "431"
        client.request(3)
        assert client.message(3).body == b"ok"


# -- flow control


def test_large_bodies_both_ways(mesh: Mesh) -> None:
    body = bytes(range(256)) * 4096

    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)

    mesh.origin.script = script
    with mesh.client() as client:
        client.request(1, [("content-length", str(len(body)))], method="POST", ends=False)
        room, at = 65536, 0
        while at < len(body):
            part = body[at : at + min(room, 16384)]
            at += len(part)
            room -= len(part)
            client.send(frame(DATA, END_STREAM if at == len(body) else 0, 1, part))
            while room == 0 and at < len(body):
                got = client.until(lambda each: each.type == WINDOW_UPDATE and each.stream == 1)
                room += int.from_bytes(got.payload, "big")

        assert client.message(1).body == body


def test_a_client_that_gives_no_window_gets_no_more(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIB + b"x" * MIB)
    with mesh.client({INITIAL_WINDOW_SIZE: 10000}) as client:
        client.request(1)
        client.request(3, path="/teapot")
        assert client.message(3).body == b"short and stout"

        def taken() -> int:
            return sum(len(each.payload) for each in client.frames if each.type == DATA and each.stream == 1)

        while taken() < 10000:
            client.read()
        client.send(frame(PING, 0, 0, b"12345678"))
        client.of_type(PING)
        got = taken()
        assert got == 10000
        client.send(client.open_windows(0) + client.open_windows(1))
        while got < MIB:
            each = client.read()
            got += len(each.payload) if each.type == DATA else 0
        assert got == MIB


def test_an_endpoint_that_does_not_read_closes_the_window_of_its_stream_only(mesh: Mesh) -> None:
    reading = threading.Event()

    def raw(connection: Connection) -> None:
        connection.until(b"\r\n\r\n")
        reading.wait(LIMIT_S)
        connection.exactly(8 * MIB)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    mesh.raw.raw = raw
    with mesh.client() as client:
        client.request(1, [("content-length", str(8 * MIB))], method="POST", path="/raw/slow", ends=False)
        room, sent = 65535, 0
        client.wire.sock.settimeout(0.5)
        try:
            while True:
                part = min(room, 16384)
                if part:
                    client.send(frame(DATA, 0, 1, b"x" * part))
                    room, sent = room - part, sent + part
                else:
                    room += int.from_bytes(client.until(lambda each: each.type == WINDOW_UPDATE and each.stream == 1).payload, "big")
        except TimeoutError:
            client.wire.sock.settimeout(LIMIT_S)
        assert MIB // 2 < sent < 8 * MIB
        client.request(3)
        assert client.message(3).body == b"ok"
        reading.set()
        while sent < 8 * MIB:
            part = min(room, 16384, 8 * MIB - sent)
            if part:
                client.send(frame(DATA, END_STREAM if sent + part == 8 * MIB else 0, 1, b"x" * part))
                room, sent = room - part, sent + part
            else:
                room += int.from_bytes(client.until(lambda each: each.type == WINDOW_UPDATE and each.stream == 1).payload, "big")
        assert client.message(1).body == b"ok"


# -- tunnels and upgrades


def test_an_extended_connect_becomes_a_websocket(mesh: Mesh) -> None:
    heads: list[bytes] = []

    def raw(connection: Connection) -> None:
        heads.append(connection.until(b"\r\n\r\n"))
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        connection.send(connection.exactly(3))
        connection.rest()

    mesh.raw.raw = raw
    with mesh.client() as client:
        client.send(client.headers(1, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/raw/chat"), (":authority", "a"),
            ("sec-websocket-version", "13"),
        ]))  # fmt: skip
        _, head, _ = client.head(1)
        client.send(frame(DATA, 0, 1, b"abc"))
        data = b""
        while len(data) < 8:
            data += client.of_type(DATA, 1).payload
        client.send(frame(DATA, END_STREAM, 1))

    assert dict(head)[":status"] == "200"
    assert data == b"helloabc"
    lines = heads[0].lower()
    assert lines.startswith(b"get /raw/chat http/1.1\r\n")
    assert b"\r\nupgrade: websocket\r\n" in lines
    assert b"\r\nsec-websocket-key: " in lines


def test_an_extended_connect_for_h2c_is_refused(mesh: Mesh) -> None:
    """No endpoint gets to see it: without a tunnel, what the client sends next would be read there as a request that nobody routed."""
    heads: queue.Queue[bytes] = queue.Queue()
    mesh.raw.raw = lambda connection: heads.put(connection.until(b"\r\n\r\n"))
    with mesh.client() as client:
        client.send(client.headers(1, [
            (":method", "CONNECT"), (":protocol", "h2c"), (":scheme", "http"), (":path", "/raw/chat"), (":authority", "a"),
        ]) + frame(DATA, 0, 1, b"GET /raw/behind HTTP/1.1\r\nHost: a\r\n\r\n"))  # fmt: skip
        assert dict(client.head(1)[1])[":status"] == "403"
        client.request(3, path="/raw/next")
        assert heads.get(timeout=LIMIT_S).startswith(b"GET /raw/next ")


def test_a_connect_is_a_tunnel(mesh: Mesh) -> None:
    def raw(connection: Connection) -> None:
        connection.until(b"\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.send(connection.exactly(4)[::-1])
        connection.rest()

    mesh.raw.raw = raw
    with mesh.client() as client:
        client.send(client.headers(1, [(":method", "CONNECT"), (":authority", "somewhere:80")]))
        assert dict(client.head(1)[1])[":status"] == "200"
        client.send(frame(DATA, 0, 1, b"ping"))
        assert client.of_type(DATA, 1).payload == b"gnip"


def test_an_endpoint_that_ends_its_half_of_a_tunnel_still_hears_the_other(mesh: Mesh) -> None:
    heard: queue.Queue[bytes] = queue.Queue()

    def raw(connection: Connection) -> None:
        connection.until(b"\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nbye")
        connection.sock.shutdown(socket.SHUT_WR)
        heard.put(connection.exactly(5))

    mesh.raw.raw = raw
    with mesh.client() as client:
        client.send(client.headers(1, [(":method", "CONNECT"), (":authority", "somewhere:80")]))
        assert client.message(1).body == b"bye"
        client.send(frame(DATA, END_STREAM, 1, b"after"))
        assert heard.get(timeout=LIMIT_S) == b"after"


def test_a_http1_connection_may_be_upgraded(mesh: Mesh) -> None:
    with Client(mesh.proxy.port) as first:
        first.send(get("/upgraded", "mesh.test", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"))
        assert first.answer().status == 101
        client = Http2Wire(Stream(first.sock))
        client.wire.held = first.held
        client.send(PREFACE + settings({}))
        assert client.message(1).body == b"ok"
        client.request(3, path="/after")
        assert client.message(3).body == b"ok"

    assert [mesh.origin.next_request().target for _ in range(2)] == ["/upgraded", "/after"]
    assert mesh.logged("/upgraded").startswith("HTTP/2 GET")


def test_an_upgrade_with_settings_that_are_none_stays_http1(mesh: Mesh) -> None:
    with Client(mesh.proxy.port) as client:
        said = client.ask(get("/stays", "mesh.test", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: ???"))

    assert (said.status, said.body) == (200, b"ok")


@pytest.mark.parametrize("cut", [1, 10, 16, 23, 24, 33])
def test_prior_knowledge_may_come_in_pieces(mesh: Mesh, cut: int) -> None:
    with Stream(socket.create_connection(("127.0.0.1", mesh.proxy.port))) as stream:
        client = Http2Wire(stream)
        data = PREFACE + settings({})
        head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        stream.send_split(data + client.headers(1, head, ends=True), cut)

        assert client.message(1).body == b"ok"


# -- floods and ends


@pytest.mark.parametrize(
    "noise",
    [
        lambda client: b"".join(
            client.headers(n, [(":method", "GET"), (":scheme", "http"), (":path", "/raw/reset"), (":authority", "a")], ends=True)
            + frame(RST_STREAM, 0, n, struct.pack(">I", CANCEL))
            for n in range(5, 2200, 2)
        ),
        lambda client: frame(HEADERS, 0, 5, b"") + frame(9, 0, 5, b"\x00\x01x\x01y") * 20,
        lambda client: frame(DATA, 0, 3, b"") * 20,
        lambda client: frame(2, 0, 5, b"\0\0\0\0\x10") * 1000,
        lambda client: client.open_windows(0, 1) * 1000,
    ],
    ids=["rapid reset", "continuation", "empty data", "priority", "window updates"],
)  # fmt: skip
def test_a_flood_ends_its_connection_and_no_other(mesh: Mesh, noise) -> None:
    mesh.raw.raw = lambda connection: connection.rest()
    with mesh.client() as flooding, mesh.client() as other:
        flooding.request(3, method="POST", path="/raw/held", ends=False)
        try:
            flooding.send(noise(flooding))
            assert flooding.of_type(GOAWAY).code == ENHANCE_YOUR_CALM
        except (ConnectionError, ClosedError):
            assert any(each.type == GOAWAY and each.code == ENHANCE_YOUR_CALM for each in flooding.frames)
        other.request(1)
        assert other.message(1).body == b"ok"


def test_resets_that_a_client_has_us_send_count_as_its_own(mesh: Mesh) -> None:
    """CVE-2025-8671: a window that overflows is a stream error, and another request takes the stream's place."""
    mesh.raw.raw = lambda connection: connection.rest()
    head = [(":method", "GET"), (":scheme", "http"), (":path", "/raw/made"), (":authority", "a")]
    with mesh.client() as client:
        for first in range(1, 2400, 200):
            streams = range(first, first + 200, 2)
            client.send(b"".join(client.headers(n, head, ends=True) + client.open_windows(n, (1 << 31) - 1) for n in streams))
            got = client.until(lambda each, last=streams[-1]: each.type == GOAWAY or (each.type == RST_STREAM and each.stream == last))
            if got.type == GOAWAY:
                break
        assert got.type == GOAWAY
        assert got.code == ENHANCE_YOUR_CALM


def test_a_connection_that_has_served_enough_says_goodbye(proxy_of, mesh: Mesh) -> None:
    manager = {"common_http_protocol_options": {"max_requests_per_connection": 2}}
    proxy = proxy_of([bootstrap.virtual_host([bootstrap.route("/", "origin")])], [bootstrap.cluster("origin", mesh.origin.port)], manager)
    with Http2Client(proxy.port) as client:
        for stream in (1, 3):
            client.request(stream)
            assert client.message(stream).body == b"ok"
        last = [int.from_bytes(client.of_type(GOAWAY).payload[:4], "big") for _ in range(2)]

        assert last == [2**31 - 1, 3]
        client.wire.rest()                       # until it closes


def test_an_answer_that_is_not_taken_ends_while_others_are_under_way(proxy_of, mesh: Mesh) -> None:
    mesh.raw.raw = lambda connection: connection.rest()
    patient = bootstrap.route("/raw/", {"cluster": "raw", "timeout": "0s", "idle_timeout": "0s"})
    routes = [patient, bootstrap.route("/", {"cluster": "origin"})]
    clusters = [bootstrap.cluster("origin", mesh.origin.port), bootstrap.cluster("raw", mesh.raw.port)]
    proxy = proxy_of([bootstrap.virtual_host(routes)], clusters, {"stream_idle_timeout": "0.2s"})
    with Http2Client(proxy.port, {INITIAL_WINDOW_SIZE: 0}) as client:
        client.request(1, path="/raw/held")
        client.request(3)
        assert dict(client.head(3)[1])[":status"] == "200"
        client.of_type(RST_STREAM, 3)


def test_an_idle_connection_is_closed(proxy_of, mesh: Mesh) -> None:
    manager = {"common_http_protocol_options": {"idle_timeout": "0.2s"}}
    proxy = proxy_of([bootstrap.virtual_host([bootstrap.route("/", "origin")])], [bootstrap.cluster("origin", mesh.origin.port)], manager)
    with Http2Client(proxy.port) as client:
        client.request(1)
        assert client.message(1).body == b"ok"
        assert client.of_type(GOAWAY).code == NO_ERROR
        client.wire.rest()                       # until it closes


def test_a_client_that_answers_no_ping_is_dead(proxy_of, mesh: Mesh) -> None:
    manager = {"http2_protocol_options": {"connection_keepalive": {"interval": "0.1s", "timeout": "0.1s"}}}
    proxy = proxy_of([bootstrap.virtual_host([bootstrap.route("/", "origin")])], [bootstrap.cluster("origin", mesh.origin.port)], manager)
    with Stream(socket.create_connection(("127.0.0.1", proxy.port))) as silent:
        silent.send(PREFACE + settings({}))
        silent.rest()
    with Http2Client(proxy.port) as client:
        for _ in range(3):
            client.of_type(PING)
        client.request(1)
        assert client.message(1).body == b"ok"


def test_an_idle_stream_costs_little(node_of, on_envoy: bool) -> None:
    """HTTP/2 on both sides, as a gRPC stream that waits for its next message."""
    if on_envoy:
        pytest.skip("our own bound")
    count = 1000

    def hold(peer: Http2Server) -> None:
        peer.accept({MAX_CONCURRENT_STREAMS: 3 * count})
        with contextlib.suppress(ClosedError):
            while True:
                peer.send(peer.headers(peer.head()[0], [(":status", "200"), ("content-type", "application/grpc")]))

    def opened(port: int, streams: int) -> Http2Client:
        client = Http2Client(port)
        for stream in range(1, 2 * streams, 2):
            client.request(stream, [("content-type", "application/grpc"), ("te", "trailers")], method="POST", path="/a.B/C", ends=False)
        for stream in range(1, 2 * streams, 2):
            client.head(stream)
        return client

    with http2_origin(hold) as origin:
        limits = {"thresholds": [{"max_requests": 10 * count, "max_pending_requests": 10 * count}]}
        cluster = bootstrap.cluster("origin", origin.port, **http2(), circuit_breakers=limits)
        hosts = [bootstrap.virtual_host([bootstrap.route("/", {"cluster": "origin", "timeout": "0s"})])]
        node = node_of(bootstrap.bootstrap([bootstrap.http_listener("ingress", 0, hosts)], [cluster]), workers=1)
        workers = [row["pid"] for row in node.ready_workers()]
        with opened(node.port_of("ingress"), 10):
            before = pss_bytes(workers)
            with opened(node.port_of("ingress"), count):
                assert (pss_bytes(workers) - before) / count <= 6 * 1024


@pytest.mark.parametrize(
    ("action", "counted", "times"),
    [("drop", "dropped_headers_with_underscores", 2), ("reject", "requests_rejected_with_underscores_in_headers", 1)],
)
def test_underscores_are_counted(node_of, mesh: Mesh, on_envoy: bool, action: str, counted: str, times: int) -> None:
    """Each field that was dropped, each request that was refused."""
    if on_envoy:
        pytest.skip("in our own words")
    node = node_of(f"""
admin: 127.0.0.1:0
listeners:
- {{name: ingress, address: 127.0.0.1:0, http: {{underscores_in_headers: {action}}}, routes: [{{prefix: /, to: origin}}]}}
clusters: {{origin: ["127.0.0.1:{mesh.origin.port}"]}}
""", workers=1)
    with Http2Client(node.port_of("ingress")) as client:
        client.request(1, [("x_a", "1"), ("_", "2"), ("x-b", "3")])
        assert dict(client.message(1).headers)[":status"] == {"drop": "200", "reject": "400"}[action]

    assert ask(node.port_of("ingress"), get("/", "mesh.test", "x_a: 1", "_: 2", "x-b: 3")).status == {"drop": 200, "reject": 400}[action]

    with urllib.request.urlopen(f"http://{node.status()['admin']}/stats?filter=underscores", timeout=LIMIT_S) as answer:
        counts = dict(line.split(": ") for line in answer.read().decode().splitlines())
    assert {name: int(count) for name, count in counts.items() if count != "0"} == {f"http1.{counted}": times, f"http2.{counted}": times}


def test_a_target_that_is_none_is_counted(node_of, mesh: Mesh, on_envoy: bool) -> None:
    """Of either version, and never passed on."""
    if on_envoy:
        pytest.skip("in our own words")
    node = node_of(f"""
admin: 127.0.0.1:0
listeners:
- {{name: ingress, address: 127.0.0.1:0, routes: [{{prefix: /, to: origin}}]}}
clusters: {{origin: ["127.0.0.1:{mesh.origin.port}"]}}
""", workers=1)
    port = node.port_of("ingress")

    def counted() -> int:
        with urllib.request.urlopen(f"http://{node.status()['admin']}/stats?filter=rq_non_relative_path", timeout=LIMIT_S) as answer:
            return int(answer.read().partition(b": ")[2])

    assert ask(port, get("b")).status == 400
    assert counted() == 1
    with Http2Client(port) as client:
        client.send(client.headers(1, [(":method", "GET"), (":scheme", "other"), (":path", "b"), (":authority", "test")]))
        assert dict(client.message(1).headers)[":status"] == "400"
    assert counted() == 2
    assert mesh.origin.seen.empty()


# -- others' clients


def test_curl_asks_in_each_way(mesh: Mesh) -> None:
    for how in ("--http2-prior-knowledge", "--http2"):
        done = subprocess.run(
            ["curl", "-sS", how, "-d", "hello", "-w", "%{http_version} %{http_code}", f"http://127.0.0.1:{mesh.proxy.port}/curl"],
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.stdout in ("ok2 200", "ok1.1 200"), done  # a request with a body is not upgraded


@pytest.mark.parametrize("tls", [False, True], ids=["h2c", "TLS"])
def test_the_conformance_suite(node_of, mesh: Mesh, tmp_path: Path, on_envoy: bool, tls: bool) -> None:
    if on_envoy:
        pytest.skip("Envoy passes 133 of them")
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
    hosts = [bootstrap.virtual_host([bootstrap.route("/", "origin")])]
    listener = bootstrap.http_listener("ingress", 0, hosts, **({} if tls else {"codec_type": "HTTP2"}))
    if tls:
        chain, key = (str(path) for path in Authority().issue("localhost", "127.0.0.1").write(tmp_path, "server"))
        common = {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}],
        }
        context = {"@type": f"{bootstrap.TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": common}
        listener["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": context}
    node = node_of(bootstrap.bootstrap([listener], [bootstrap.cluster("origin", mesh.origin.port)]))
    try:
        found = h2spec.run(node.port_of("ingress"), tmp_path, tls=tls)
    except PeerMissingError as error:
        pytest.skip(str(error))

    assert {case: trouble for case, trouble in found.items() if trouble} == {}
    assert len(found) == 146
