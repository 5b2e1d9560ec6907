"""How exchanges over HTTP/2 to endpoints end when the endpoint goes away, resets, or breaks the protocol."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.processes.http2_mesh import Mesh, Place, Script, Seen, echo_on, running, together
from tests.support.http2_wire import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    Http2Client,
    Http2Server,
    frame,
)
from tests.support.wire import Client, ClosedError


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("http2")) as standing:
        yield standing


# -- GOAWAY and resets


def test_a_connection_that_goes_away_gets_no_more(mesh: Mesh) -> None:
    """What runs ends there, what comes begins elsewhere."""
    place, seen, release = mesh.take(), Seen(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        if peer.number == 1:
            peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", message.stream, NO_ERROR)))
            seen.put(None)
            release.get()
        peer.respond(message.stream, str(peer.number).encode())
        seen.put(peer.wire.rest())

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request("first"))
        seen.get()
        assert place.ask("second").body == b"2"
        release.put(None)
        assert client.answer().body == b"1"
        seen.get()                               # the old connection is closed, without a second request


def test_what_a_goaway_leaves_out_is_asked_for_elsewhere(mesh: Mesh) -> None:
    """A POST too, where its bytes are kept: it was not begun (RFC 9113 8.7)."""
    place = mesh.take("retried")

    def script(peer: Http2Server) -> None:
        peer.accept()
        if peer.number == 1:
            first, _second = peer.message(), peer.message()
            peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first.stream, NO_ERROR)))
            peer.respond(first.stream, b"1 " + first.body)
            peer.wire.rest()
        else:
            message = peer.message()
            peer.respond(message.stream, b"2 " + message.body)
            peer.wire.rest()

    place.runs(script)
    answers = together([lambda: place.ask(method="POST", body=b"a"), lambda: place.ask(method="POST", body=b"b")])
    assert sorted(answer.body[:1] for answer in answers) == [b"1", b"2"]
    assert {answer.body[2:] for answer in answers} == {b"a", b"b"}


def refusing(times: int, code: int, seen: Seen) -> Script:
    """An origin that resets the first streams it gets."""
    left = [times]

    def script(peer: Http2Server) -> None:
        peer.accept()
        while True:
            message = peer.message()
            seen.put(message)
            if left[0]:
                left[0] -= 1
                peer.send(frame(RST_STREAM, 0, message.stream, struct.pack(">I", code)))
            else:
                peer.respond(message.stream, b"ok")

    return script


def test_a_refused_stream_is_asked_for_again(mesh: Mesh) -> None:
    """Whatever its method: it was not begun (RFC 9113 8.7)."""
    place, seen = mesh.take(), Seen()
    place.runs(refusing(1, REFUSED_STREAM, seen))
    assert place.ask(method="POST", body=b"").body == b"ok"
    assert [seen.get().header(":method"), seen.get().header(":method")] == ["POST", "POST"]


def test_a_short_body_goes_again_with_its_request(mesh: Mesh) -> None:
    """Nobody configured retries, and the endpoint had all of it."""
    place, seen = mesh.take(), Seen()
    place.runs(refusing(1, REFUSED_STREAM, seen))
    assert place.ask(method="POST", body=b"short").body == b"ok"
    assert [seen.get().body, seen.get().body] == [b"short", b"short"]


def test_a_short_body_that_is_still_coming_goes_again(mesh: Mesh) -> None:
    place, pieces = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        stream = peer.of_type(HEADERS).stream
        pieces.put(peer.of_type(DATA, stream).payload)
        peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", REFUSED_STREAM)))
        stream = peer.of_type(HEADERS).stream
        pieces.put(peer.of_type(DATA, stream).payload)
        pieces.put(peer.of_type(DATA, stream).payload)
        peer.respond(stream, b"ok")

    place.runs(script)
    with Http2Client(place.port) as client:
        client.request(1, method="POST", path=f"/{place.name}/", body=b"first,", ends=False)
        assert [pieces.get(), pieces.get()] == [b"first,", b"first,"]
        client.send(frame(DATA, END_STREAM, 1, b"last"))
        assert client.message(1).body == b"ok"
    assert pieces.get() == b"last"


def test_what_a_goaway_leaves_out_is_asked_for_on_another_connection(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    leaving = [True]

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        seen.put(message)
        if leaving.pop():
            leaving.append(False)
            peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, NO_ERROR)))
            with contextlib.suppress(ClosedError):
                peer.message()
        else:
            peer.respond(message.stream, b"ok")

    place.runs(script)
    assert place.ask(method="POST", body=b"short").body == b"ok"
    assert [seen.get().body, seen.get().body] == [b"short", b"short"]


def test_a_long_body_that_went_does_not_go_again(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    place.runs(refusing(1, REFUSED_STREAM, seen))
    assert place.ask("long", method="POST", body=b"x" * 20000).status == 503
    assert place.logged("long") == ["503", "UR", "upstream_reset_before_response_started{remote_refused_stream_reset}"]


def test_but_not_for_ever(mesh: Mesh) -> None:
    place = mesh.take()
    place.runs(refusing(2, REFUSED_STREAM, Seen()))
    assert place.ask("twice").status == 503
    assert place.logged("twice") == ["503", "UR", "upstream_reset_before_response_started{remote_refused_stream_reset}"]


def test_a_policy_may_ask_oftener(mesh: Mesh) -> None:
    place, seen = mesh.take("retried"), Seen()
    place.runs(refusing(2, REFUSED_STREAM, seen))
    assert place.ask(method="POST", body=b"kept").body == b"ok"
    assert {seen.get().body for _ in range(3)} == {b"kept"}


def test_another_reset_is_final(mesh: Mesh) -> None:
    place, seen = mesh.take("retried"), Seen()
    place.runs(refusing(1, INTERNAL_ERROR, seen))
    answer = place.ask("reset")
    assert (answer.status, answer.body) == (503, b"upstream connect error or disconnect/reset before headers. reset reason: remote reset")
    assert place.logged("reset") == ["503", "UR", "upstream_reset_before_response_started{remote_reset}"]
    seen.get()
    assert seen.queue.empty()
    assert place.ask().body == b"ok"
    assert place.origin.connections == 1


def test_a_reset_within_the_answer_cuts_it(mesh: Mesh) -> None:
    place = mesh.take()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        peer.send(peer.headers(message.stream, [(":status", "200")]) + frame(DATA, 0, message.stream, b"half"))
        peer.send(frame(RST_STREAM, 0, message.stream, struct.pack(">I", INTERNAL_ERROR)))
        peer.wire.rest()

    place.runs(script)
    with Client(place.port) as client, pytest.raises(ClosedError):
        client.ask(place.request("cut"))
    assert place.logged("cut") == ["200", "UR", "upstream_reset_after_response_started{remote_reset}"]


def test_a_connection_that_closes_loses_its_streams(mesh: Mesh) -> None:
    place = mesh.take()

    def script(peer: Http2Server) -> None:
        peer.accept()
        peer.message()

    place.runs(script)
    assert place.ask("lost").status == 503
    assert place.logged("lost") == ["503", "UC", "upstream_reset_before_response_started{connection_termination}"]


def test_a_stale_connection_costs_nothing(mesh: Mesh) -> None:
    """It served before and closes on the next request: what may be repeated is."""
    place = mesh.take()

    def script(peer: Http2Server) -> None:
        peer.accept()
        peer.respond(peer.message().stream, b"ok")
        if peer.number > 1:
            echo_on(peer)
        peer.message()

    place.runs(script)
    assert place.ask().body == b"ok"
    assert place.ask().body == b"ok"
    assert place.origin.connections == 2


def test_a_client_that_goes_resets_its_stream_only(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        seen.put(None)
        seen.put(peer.of_type(RST_STREAM, message.stream).code)
        echo_on(peer)

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request())
        seen.get()
    assert seen.get() == CANCEL
    assert place.ask().body == b"ok"
    assert place.origin.connections == 1


def test_a_timeout_resets_its_stream_only(mesh: Mesh) -> None:
    place, seen = mesh.take("slow"), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        seen.put(peer.of_type(RST_STREAM, message.stream).code)
        echo_on(peer)

    place.runs(script)
    assert place.ask().status == 504
    assert seen.get() == CANCEL
    assert place.ask().body == b"ok"
    assert place.origin.connections == 1


def test_an_early_answer_ends_the_upload(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        stream, _, _ = peer.head()
        peer.respond(stream, b"enough", status="413")
        seen.put(peer.of_type(RST_STREAM, stream).code)
        echo_on(peer)

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request("", "Content-Length: 100000", method="POST") + b"x" * 1000)
        answer = client.answer()
    assert (answer.status, answer.body) == (413, b"enough")
    assert seen.get() == NO_ERROR
    assert place.ask().body == b"ok"
    assert place.origin.connections == 1


# -- what is no HTTP/2


def malformed(name: str, *blocks: Callable[[Http2Server, int], bytes]) -> Any:
    return pytest.param(blocks, id=name)


def fields(*headers: tuple[str, str], ends: bool = True) -> Callable[[Http2Server, int], bytes]:
    return lambda peer, stream: peer.headers(stream, headers, ends=ends)


def data(body: bytes, flags: int = END_STREAM) -> Callable[[Http2Server, int], bytes]:
    return lambda peer, stream: frame(DATA, flags, stream, body)


MALFORMED = [
    malformed("no status", fields(("x-a", "b"))),
    malformed("a status that is no number", fields((":status", "2oo"))),
    malformed("switching protocols", fields((":status", "101"), ends=False)),
    malformed("two statuses", fields((":status", "200"), (":status", "200"))),
    malformed("a request's field", fields((":status", "200"), (":path", "/"))),
    malformed("a status behind a field", fields(("x-a", "b"), (":status", "200"))),
    malformed("an upper-case name", fields((":status", "200"), ("X-A", "b"))),
    malformed("a connection's field", fields((":status", "200"), ("connection", "close"))),
    malformed("transfer-encoding", fields((":status", "200"), ("transfer-encoding", "chunked"))),
    malformed("a line end in a value", fields((":status", "200"), ("x-a", "b\r\nx-c: d"))),
    malformed("a space around a value", fields((":status", "200"), ("x-a", " b"))),
    malformed("a colon in a name", fields((":status", "200"), ("x:a", "b"))),
    malformed("two lengths", fields((":status", "200"), ("content-length", "1"), ("content-length", "2"), ends=False), data(b"1")),
    malformed("a length that is no number", fields((":status", "200"), ("content-length", "+1"), ends=False), data(b"1")),
    malformed("an end in a 1xx", fields((":status", "103"))),
    malformed("data before a head", data(b"early")),
    malformed("a length and no data", fields((":status", "200"), ("content-length", "5"))),
]


@pytest.mark.parametrize("blocks", MALFORMED)
@pytest.mark.parametrize("kind", ["plain", "lenient"])
def test_a_malformed_answer_is_a_bad_gateway(malformed_places: dict[str, Place], kind: str, blocks: tuple) -> None:
    """`lenient` loses the stream, `plain` the connection (Envoy's setting, and its default)."""
    place = malformed_places[kind]
    before = place.origin.connections

    def script(peer: Http2Server) -> None:
        peer.accept()
        with contextlib.suppress(ClosedError):
            while True:
                message = peer.message()
                if message.header(":path").endswith("/well"):
                    peer.respond(message.stream, b"ok")
                else:
                    for block in blocks:
                        peer.send(block(peer, message.stream))

    place.runs(script)
    place.ask("well")
    mark = hashlib.sha1(repr((kind, blocks)).encode()).hexdigest()
    answer = place.ask(mark)
    assert (answer.status, answer.body) == (502, b"upstream connect error or disconnect/reset before headers. reset reason: protocol error")
    assert place.logged(mark) == ["502", "UPE", "upstream_reset_before_response_started{protocol_error}"]
    assert before <= place.origin.connections


@pytest.fixture(scope="module")
def malformed_places(mesh: Mesh) -> dict[str, Place]:
    """One cluster for all of one kind: a broken connection is not used again."""
    return {"plain": mesh.take(), "lenient": mesh.take("lenient")}


@pytest.mark.parametrize("blocks", [
    pytest.param((fields((":status", "200"), ("content-length", "5"), ends=False), data(b"four")), id="less"),
    pytest.param((fields((":status", "200"), ("content-length", "3"), ends=False), data(b"four")), id="more"),
    pytest.param((fields((":status", "200"), ends=False), fields((":status", "200"))), id="trailers with a pseudo-header field"),
])
def test_a_malformed_end_cuts_the_answer(mesh: Mesh, blocks: tuple) -> None:
    place = mesh.take()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        for block in blocks:
            peer.send(block(peer, message.stream))
        peer.wire.rest()

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request("end"))
        assert not whole(client.rest())
    assert place.logged("end")[1:] == ["UPE", "upstream_reset_after_response_started{protocol_error}"]


def whole(answer: bytes) -> bool:
    """Whether a client would take it for a whole answer of HTTP/1."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in lines:
        return len(body) == int(lines[b"content-length"])
    return body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("noise", [
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP/1"),
    pytest.param(frame(DATA, 0, 0, b"x"), id="data on stream 0"),
    pytest.param(frame(SETTINGS, 0, 1), id="settings on a stream"),
    pytest.param(frame(HEADERS, END_HEADERS, 2, b"\x88"), id="a stream of the server"),
    pytest.param(frame(HEADERS, END_HEADERS, 1, b"\xff" * 8), id="no HPACK"),
    pytest.param(frame(5, END_HEADERS, 1, struct.pack(">I", 2) + b"\x82"), id="a push"),
    pytest.param(frame(9, 0, 1), id="a continuation of nothing"),
    pytest.param(frame(8, 0, 0, bytes(4)), id="a window of nothing"),
    pytest.param(b"\xff\xff\xff" + bytes(6), id="a frame too large"),
])
def test_noise_closes_the_connection_and_says_why(mesh: Mesh, noise: bytes) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        peer.message()
        peer.send(noise)
        with contextlib.suppress(ClosedError):
            seen.put(peer.of_type(GOAWAY))

    place.runs(script)
    assert place.ask("noise").status == 502
    assert place.logged("noise")[1] == "UPE"
    assert seen.get().code != NO_ERROR


def test_what_ends_a_connection_behind_an_answer_goes_to_the_endpoint_alone(mesh: Mesh) -> None:
    """Both connections have frames to send at once: each gets its own."""
    place, said = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        stream = peer.message().stream
        answer = peer.headers(stream, [(":status", "200")]) + frame(DATA, 0, stream, b"x" * 8000)
        peer.send(answer + frame(DATA, 0, 2))            # of a stream that never was
        said.put(peer.of_type(GOAWAY).code)

    place.runs(script)
    with Http2Client(place.port) as client:
        client.request(1, path=f"/{place.name}/")
        assert dict(client.head(1)[1])[":status"] == "200"
        assert client.of_type(DATA, 1).payload == b"x" * 8000
        client.of_type(RST_STREAM, 1)
    assert said.get() == STREAM_CLOSED


def test_answers_at_every_split(mesh: Mesh) -> None:
    place = mesh.take()
    cuts = Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        while True:
            message = peer.message()
            answer = peer.headers(message.stream, [(":status", "200"), ("content-length", "4")]) + frame(DATA, 0, message.stream, b"spl")
            answer += frame(DATA, END_STREAM, message.stream, b"t")
            cut = cuts.get()
            peer.wire.send_split(answer, min(cut, len(answer)))

    place.runs(script)
    with Client(place.port) as client:
        for cut in range(1, 40):
            cuts.put(cut)
            assert client.ask(place.request()).body == b"splt"


# -- floods


@pytest.mark.parametrize("noise", [
    pytest.param(frame(DATA, 0, 1, b"") * 3, id="empty data"),
    pytest.param(frame(9, 0, 1, b"") * 20, id="empty continuations"),
    pytest.param(frame(8, 0, 0, struct.pack(">I", 1)) * 200, id="windows"),
])
def test_floods_are_cut(mesh: Mesh, noise: bytes) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        stream, _, _ = peer.head()
        head = peer.headers(stream, [(":status", "200")])
        if noise[3] == 9:
            head = head[:4] + b"\0" + head[5:]   # not END_HEADERS
        peer.send(head + noise)
        seen.put(peer.of_type(GOAWAY).code)

    place.runs(script)
    with contextlib.suppress(ClosedError):
        place.ask("flood")
    assert seen.get() == ENHANCE_YOUR_CALM
    assert place.logged("flood")[1] == "UPE"
