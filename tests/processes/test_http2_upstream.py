"""HTTP/2 to endpoints through a running node: HTTP/1 clients on one side, endpoints scripted frame by frame on the other."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.processes.http2_mesh import LIMIT_S, Mesh, Script, Seen, answering, echo_on, running, together
from tests.support.http2_wire import (
    DATA,
    END_STREAM,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    PING,
    SETTINGS,
    Http2Client,
    Http2Server,
    Message,
    frame,
)
from tests.support.wire import Client, ask


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("http2")) as standing:
        yield standing


# -- requests


def test_a_request_is_said_in_http2s_words(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    place.runs(answering(seen, body=b"hello", headers=[("x-answer", "1")]))
    answer = place.ask("path?q=1", "X-Mixed-Case: Kept", "Connection: x-hop, keep-alive", "X-Hop: 1", "Keep-Alive: 5", "TE: gzip, trailers",
                       "Proxy-Connection: x", "Cookie: a=b; c=d")
    message: Message = seen.get()
    path = f"/{place.name}/path?q=1"
    assert message.headers[:4] == [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "mesh.test")]
    fields = dict(message.headers[4:])
    assert fields["x-mixed-case"] == "Kept"
    assert fields["te"] == "trailers"
    assert fields["cookie"] == "a=b; c=d"
    assert not {"host", "connection", "x-hop", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"} & set(fields)
    assert (answer.status, answer.reason, answer.body, answer.header("x-answer")) == (200, "OK", b"hello", "1")


def test_the_scheme_is_how_the_client_came(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    place.runs(answering(seen))
    place.ask("", "X-Forwarded-Proto: https")
    assert seen.get().header(":scheme") == "https"
    place.ask("")
    assert seen.get().header(":scheme") == "http"


def test_bodies_of_both_framings_and_trailers(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    place.runs(answering(seen, body=b"done", trailers=[("x-sum", "42")]))
    answer = place.ask(method="POST", body=b"sized")
    message = seen.get()
    assert (message.body, message.header("content-length"), message.trailers) == (b"sized", "5", [])
    assert (answer.body, answer.trailers) == (b"done", [("x-sum", "42")])
    chunked = place.request("", "Transfer-Encoding: chunked", method="POST") + b"5\r\nchunk\r\n3\r\nked\r\n0\r\nX-Tail: t\r\n\r\n"
    assert ask(place.port, chunked).body == b"done"
    message = seen.get()
    assert (message.body, message.header("content-length"), message.trailers) == (b"chunked"[:5] + b"ked", None, [("x-tail", "t")])


def test_large_bodies_both_ways(mesh: Mesh) -> None:
    place = mesh.take()
    body = bytes(range(256)) * 16384
    assert place.ask(method="PUT", body=body).body == body


@pytest.mark.parametrize(("method", "status", "headers", "expected"), [
    ("HEAD", "200", [("content-length", "1234")], ("1234", None)),
    ("HEAD", "200", [], (None, None)),
    ("GET", "204", [], (None, None)),
    ("GET", "304", [("content-length", "77")], ("77", None)),
    ("GET", "200", [], ("0", None)),
    ("GET", "500", [], ("0", None)),
    ("GET", "200", [("content-length", "0")], ("0", None)),
])
def test_answers_without_a_body(mesh: Mesh, method: str, status: str, headers: list, expected: tuple) -> None:
    place = mesh.take()
    place.runs(answering(Seen(), status=status, headers=headers))
    with Client(place.port) as client:
        for _ in range(2):
            answer = client.ask(place.request(method=method))
            assert (answer.status, answer.body) == (int(status), b"")
            assert (answer.header("content-length"), answer.header("transfer-encoding")) == expected


def test_interim_answers_pass(mesh: Mesh) -> None:
    place = mesh.take()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        peer.send(peer.headers(message.stream, [(":status", "103"), ("link", "</a>")]))
        peer.respond(message.stream, b"late")
        peer.wire.rest()

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request())
        early = client.answer()
        assert (early.status, early.header("link")) == (103, "</a>")
        assert client.answer().body == b"late"


def test_one_connection_carries_many(mesh: Mesh) -> None:
    """Together and one after the other, by clients of their own."""
    place = mesh.take()
    both = threading.Barrier(30)

    def script(peer: Http2Server) -> None:
        peer.accept()
        messages = [peer.message() for _ in range(30)]
        for message in reversed(messages):
            peer.respond(message.stream, message.header(":path").encode())
        echo_on(peer)

    place.runs(script)

    def one(number: int) -> None:
        both.wait(LIMIT_S)
        assert place.ask(str(number)).body == f"/{place.name}/{number}".encode()

    together([lambda number=number: one(number) for number in range(30)])
    assert place.ask().body == b"ok"
    assert place.origin.connections == 1


# -- how many streams


def test_streams_over_the_clusters_limit_go_to_another_connection(mesh: Mesh) -> None:
    place, both = mesh.take("few"), threading.Barrier(2)

    def script(peer: Http2Server) -> None:
        peer.accept()
        messages = [peer.message(), peer.message()]
        both.wait(LIMIT_S)
        for message in messages:
            peer.respond(message.stream, b"ok")
        peer.wire.rest()

    place.runs(script)
    assert [answer.status for answer in together([place.ask] * 4)] == [200] * 4
    assert place.origin.connections == 2


def test_streams_over_the_peers_limit_go_to_another_connection(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept({MAX_CONCURRENT_STREAMS: 1})
        peer.of_type(SETTINGS)
        while True:
            message = peer.message()
            if message.header(":path").endswith("first"):
                seen.put("first")
                release.get()
            peer.respond(message.stream, str(peer.number).encode())

    release = Seen()
    place.runs(script)
    place.ask("warm")                            # from here on the peer's SETTINGS are known
    with Client(place.port) as client:
        client.send(place.request("first"))
        seen.get()
        assert place.ask("second").body == b"2"
        release.put(None)
        assert client.answer().body == b"1"


def test_breakers_count_connections_and_streams(mesh: Mesh) -> None:
    place, seen, release = mesh.take("lone"), Seen(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        messages = []
        for _ in range(3):
            messages.append(peer.message())
            seen.put(None)
        release.get()
        for message in messages:
            peer.respond(message.stream, b"ok")
        peer.wire.rest()

    place.runs(script)
    clients = []
    for _ in range(3):
        client = Client(place.port)
        client.send(place.request())
        seen.get()
        clients.append(client)
    refused = place.ask("over")
    assert (refused.status, refused.header("x-envoy-overloaded")) == (503, "true")
    assert place.logged("over")[:2] == ["503", "UO"]
    release.put(None)
    for client in clients:
        with client:
            assert client.answer().status == 200
    assert place.origin.connections == 1


def test_a_thousand_streams_at_once(mesh: Mesh) -> None:
    """Of one client connection by HTTP/2 on the other side, so that no thousand sockets are needed."""
    place = mesh.take()
    count = 1000

    def script(peer: Http2Server) -> None:
        peer.accept({MAX_CONCURRENT_STREAMS: count})
        messages = [peer.message() for _ in range(count)]
        for message in messages:
            peer.respond(message.stream, message.header("x-number").encode())
        peer.wire.rest()

    place.runs(script)
    with Http2Client(place.port) as client:
        for number in range(count):
            client.request(2 * number + 1, [("x-number", str(number))], path=f"/{place.name}/")
        bodies = {(message := client.message()).stream: message.body for _ in range(count)}
    assert bodies == {2 * number + 1: str(number).encode() for number in range(count)}
    assert place.origin.connections == 1


# -- flow control


def test_an_upload_waits_for_its_window(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    body = b"w" * 300_000

    def script(peer: Http2Server) -> None:
        peer.accept({INITIAL_WINDOW_SIZE: 1000})
        peer.of_type(SETTINGS)
        while True:
            stream, _, ends = peer.head()
            got, room = 0, 1000
            while not ends:
                piece = peer.of_type(DATA, stream)
                got += len(piece.payload)
                room -= len(piece.payload)
                assert room >= 0
                ends = piece.ends
                if room == 0:
                    room = 20_000
                    peer.send(peer.open_windows(0, room) + peer.open_windows(stream, room))
            seen.put(got)
            peer.respond(stream, b"all")

    place.runs(script)
    place.ask("warm")                            # from here on the peer's SETTINGS are known
    seen.get()
    assert place.ask(method="POST", body=body).body == b"all"
    assert seen.get() == len(body)


def test_a_client_that_does_not_read_closes_the_window_of_its_stream_only(mesh: Mesh) -> None:
    """The endpoint may send so much as the cluster's window allows; another stream of the connection goes on."""
    place, seen, opened = mesh.take("narrow"), Seen(), Seen()
    size = 30_000_000

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        peer.send(peer.headers(message.stream, [(":status", "200"), ("content-length", str(size))]))
        stream_room = connection_room = 65535
        left = size
        stalled = False
        while left:
            part = min(16384, stream_room, connection_room, left)
            if part:
                peer.send(frame(DATA, END_STREAM if part == left else 0, message.stream, b"r" * part))
                left, stream_room, connection_room = left - part, stream_room - part, connection_room - part
                continue
            if not stalled:
                peer.wire.sock.settimeout(0.3)
            try:
                update = peer.until(lambda each: each.type == 8)
            except TimeoutError:
                stalled = True
                peer.wire.sock.settimeout(LIMIT_S)
                seen.put(size - left)
                opened.get()
                continue
            added = struct.unpack(">I", update.payload)[0]
            if update.stream:
                stream_room += added
            else:
                connection_room += added
        peer.wire.rest()

    place.runs(script)
    with Client(place.port, receive_buffer=4096) as client:
        client.send(place.request())
        assert seen.get() < size // 2            # it stalled: nobody took more
        opened.put(None)
        head = client.until(b"\r\n\r\n")
        assert b"content-length: " + str(size).encode() in head
        left = size
        while left:
            left -= len(client.exactly(min(left, 1 << 20)))


# -- upgrades


def test_a_websocket_is_an_extended_connect(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept({8: 1})
        stream, headers, ends = peer.head()
        seen.put((headers, ends))
        peer.send(peer.headers(stream, [(":status", "200")]))
        seen.put(peer.of_type(DATA, stream).payload)
        peer.send(frame(DATA, 0, stream, b"from the endpoint"))
        seen.put(peer.until(lambda each: each.stream == stream and each.ends).payload)
        peer.send(frame(DATA, END_STREAM, stream, b"bye"))
        peer.wire.rest()

    place.runs(script)
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    with Client(place.port) as client:
        client.send(place.request("chat", "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}"))
        answer = client.answer()
        headers, ends = seen.get()
        assert headers[:5] == [
            (":method", "CONNECT"), (":scheme", "http"), (":path", f"/{place.name}/chat"), (":authority", "mesh.test"),
            (":protocol", "websocket"),
        ]
        assert not ends
        assert not {"upgrade", "connection"} & set(dict(headers))
        assert (answer.status, answer.header("upgrade"), answer.header("connection")) == (101, "websocket", "Upgrade")
        assert answer.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="        # RFC 6455 1.3
        client.send(b"from the client")
        assert seen.get() == b"from the client"
        assert client.exactly(17) == b"from the endpoint"
        client.sock.shutdown(socket.SHUT_WR)
        assert seen.get() == b""
        assert client.rest() == b"bye"


def test_a_websocket_may_be_refused(mesh: Mesh) -> None:
    place = mesh.take()
    place.runs(answering_heads("403", b"no"))
    answer = place.ask("chat", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    assert (answer.status, answer.body) == (403, b"no")


def answering_heads(status: str, body: bytes) -> Script:
    """A script that answers as soon as it has a head."""
    def script(peer: Http2Server) -> None:
        peer.accept()
        while True:
            stream, _, _ = peer.head()
            peer.respond(stream, body, status=status)

    return script


# -- time


def test_a_silent_endpoint_is_found_by_pings(mesh: Mesh) -> None:
    place = mesh.take("alive")

    def script(peer: Http2Server) -> None:
        peer.accept()
        peer.message()
        while peer.wire.exactly(1):              # reads, and never answers
            pass

    place.runs(script)
    assert place.ask("silent").status == 503
    assert place.logged("silent")[1] == "UC"


def test_an_endpoint_that_answers_pings_is_kept(mesh: Mesh) -> None:
    place = mesh.take("alive")

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        for _ in range(3):
            peer.of_type(PING)
        peer.respond(message.stream, b"alive")
        peer.wire.rest()

    place.runs(script)
    assert place.ask().body == b"alive"


@pytest.mark.parametrize("kind", ["idle", "brief"])
def test_a_connection_whose_time_is_over_says_goodbye(mesh: Mesh, kind: str) -> None:
    place, seen = mesh.take(kind), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        peer.respond(peer.message().stream, b"ok")
        seen.put(peer.of_type(GOAWAY))
        seen.put(peer.wire.rest())

    place.runs(script)
    assert place.ask().body == b"ok"
    assert seen.get().code == NO_ERROR
    assert seen.get() == b""


def test_a_connection_serves_as_many_as_it_may(mesh: Mesh) -> None:
    place, seen = mesh.take("once"), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        for _ in range(2):
            peer.respond(peer.message().stream, str(peer.number).encode())
        seen.put(peer.of_type(GOAWAY).code)

    place.runs(script)
    assert [place.ask().body for _ in range(3)] == [b"1", b"1", b"2"]
    assert seen.get() == NO_ERROR
