"""HTTP/2 sessions as conversations: PyPI's h2 speaks on the other side, or frames are written by hand where h2 would not send them."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from hpack import Encoder

from meshproxy.codecs.http1 import status_of
from meshproxy.codecs.http2 import COUNT_NAMES, Connection
from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind
from tests.fuzz import fuzz_http2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PROTOCOL_ERROR, INTERNAL_ERROR, STREAM_CLOSED, CANCEL, ENHANCE_YOUR_CALM = 1, 2, 5, 8, 11
NO_BODY, LENGTH, CHUNKED = 0, 1, 2
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "mesh.test")]
POST = [(":method", "POST"), *GET[1:]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of what a session sent."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def error_of(data: bytes) -> int | None:
    """The code of the last GOAWAY that was sent."""
    return next((int.from_bytes(payload[4:8], "big") for kind, _, _, payload in reversed(frames(data)) if kind == GOAWAY), None)


class Talk:
    """A server's session, with a client that writes frames by hand."""

    def __init__(self, **options: int) -> None:
        self.encoder = Encoder()
        self.session = Connection(True, **options)
        self.session.feed(PREFACE + frame(SETTINGS, 0, 0))
        self.session.take()

    def head(self, stream: int, fields: list[tuple[str, str]], *, ends: bool = True) -> bytes:
        return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, self.encoder.encode(fields, huffman=False))

    def feed(self, *data: bytes) -> list[tuple]:
        return self.session.feed(b"".join(data))

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        return frames(self.session.take())


def text(events: list[tuple]) -> bytes:
    """The head of the one event."""
    assert [event[0] for event in events] == ["head"], events
    return events[0][2]


def client() -> H2Connection:
    made = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    made.initiate_connection()
    return made


# -- heads


def test_a_request_reads_as_http1() -> None:
    talk = Talk()
    events = talk.feed(talk.head(1, [*GET[:2], (":path", "/a?b=c"), GET[3], ("accept", "*/*"), ("te", "trailers")]))

    assert events == [("head", 1, b"GET /a?b=c HTTP/1.1\r\nhost: mesh.test\r\naccept: */*\r\nte: trailers\r\n\r\n", NO_BODY, -1, True)]


def test_a_body_without_a_length_is_like_chunks() -> None:
    talk = Talk()

    assert talk.feed(talk.head(1, POST, ends=False))[0][3:] == (CHUNKED, -1, False)
    assert talk.feed(talk.head(3, [*POST, ("content-length", "2")], ends=False))[0][3:] == (LENGTH, 2, False)


def test_a_cookie_in_pieces_is_one_again() -> None:
    talk = Talk()
    together = text(talk.feed(talk.head(1, [*GET, ("cookie", "a=1"), ("cookie", "b=2"), ("x", "y")])))
    apart = text(talk.feed(talk.head(3, [*GET, ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("z", "w"), ("cookie", "c=3")])))

    assert b"\r\ncookie: a=1; b=2\r\nx: y\r\n" in together
    assert b"\r\ncookie: a=1; b=2; c=3\r\nx: y\r\nz: w\r\n" in apart


def test_host_stands_in_for_authority_and_may_repeat_it() -> None:
    talk = Talk()

    assert b"\r\nhost: other\r\n" in text(talk.feed(talk.head(1, [*GET[:3], ("host", "other")])))
    assert text(talk.feed(talk.head(3, [*GET, ("host", "MESH.test")]))).count(b"host:") == 1


def test_an_extended_connect_is_an_upgrade() -> None:
    talk = Talk(allow_connect=True)
    fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/chat"), (":authority", "h")]
    events = talk.feed(talk.head(1, fields, ends=False))

    assert events[0][2] == b"GET /chat HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert events[0][3] == NO_BODY


def test_a_plain_connect_names_its_authority() -> None:
    talk = Talk()

    assert text(talk.feed(talk.head(1, [(":method", "CONNECT"), (":authority", "h:443")], ends=False))).startswith(b"CONNECT h:443 HTTP")


SMUGGLED = {
    "path with a space": [*GET[:2], (":path", "/a HTTP/1.1"), GET[3]],
    "path with a fragment": [*GET[:2], (":path", "/a#b"), GET[3]],
    "path of another host": [*GET[:2], (":path", "http://other/"), GET[3]],
    "path of a strange scheme": [GET[0], (":scheme", "ftp"), (":path", "http://other/"), GET[3]],
    "method with a space": [(":method", "GET /x"), *GET[1:]],
    "authority with a user": [*GET[:3], (":authority", "user@host")],
    "another host": [*GET, ("host", "other")],
    "line end in a value": [*GET, ("x", "a\r\nb: c")],
    "zero byte in a value": [*GET, ("x", "a\0b")],
    "space before a value": [*GET, ("x", " a")],
    "upper case": [*GET, ("X-Upper", "a")],
    "connection": [*GET, ("connection", "close")],
    "transfer-encoding": [*GET, ("transfer-encoding", "chunked")],
    "te": [*GET, ("te", "gzip")],
    "two lengths": [*GET, ("content-length", "0"), ("content-length", "0")],
    "length that is none": [*GET, ("content-length", "+1")],
    "pseudo field of a response": [*GET, (":status", "200")],
    "unknown pseudo field": [*GET, (":other", "x")],
    "pseudo field too late": [*GET[:3], ("x", "y"), GET[3]],
    "no path": [GET[0], GET[1], GET[3]],
    "empty path": [*GET[:2], (":path", ""), GET[3]],
    "no method": GET[1:],
    "no authority": GET[:3],
    "protocol that was not offered": [*GET, (":protocol", "websocket")],
    "name with a space": [*GET, ("a b", "c")],
    "name with a colon": [*GET, ("a:b", "c")],
}


@pytest.mark.parametrize("fields", SMUGGLED.values(), ids=SMUGGLED)
def test_what_http1_would_read_otherwise_is_refused(fields: list[tuple[str, str]]) -> None:
    talk = Talk(stream_error_on_invalid_message=True)
    events = talk.feed(talk.head(1, fields))
    resets = [frame for frame in talk.sent() if frame[0] == RST_STREAM]

    assert [event[0] for event in events] in ([], ["refused"])
    assert events or resets == [(RST_STREAM, 0, 1, PROTOCOL_ERROR.to_bytes(4, "big"))]


def test_a_bad_message_ends_the_connection_unless_told_otherwise() -> None:
    talk = Talk()
    talk.feed(talk.head(1, [*GET, ("connection", "close")]))

    assert error_of(talk.session.take()) == PROTOCOL_ERROR
    assert talk.session.failure == PROTOCOL_ERROR
    assert talk.session.counts["rx_messaging_error"] == 1
    assert talk.feed(talk.head(3, GET)) == []


@pytest.mark.parametrize("body", [b"", b"a", b"abc"])
def test_a_body_is_as_long_as_its_length_says(body: bytes) -> None:
    talk = Talk(stream_error_on_invalid_message=True)
    talk.feed(talk.head(1, [*POST, ("content-length", "2")], ends=False))
    events = talk.feed(frame(DATA, END_STREAM, 1, body))
    sent = talk.sent()

    assert not any(event[0] == "data" and event[3] for event in events)
    assert (RST_STREAM, 0, 1, PROTOCOL_ERROR.to_bytes(4, "big")) in sent
    assert ("reset", 1, PROTOCOL_ERROR) in [*events, *talk.session.news()]


def test_trailers_are_lines() -> None:
    talk = Talk()
    talk.feed(talk.head(1, POST, ends=False), frame(DATA, 0, 1, b"x"))

    assert talk.feed(talk.head(1, [("x-sum", "1"), ("y", "2")])) == [("trailers", 1, b"x-sum: 1\r\ny: 2\r\n")]


@pytest.mark.parametrize("field", [("content-length", "1"), ("host", "other"), ("transfer-encoding", "chunked"), (":path", "/")])
def test_trailers_frame_and_route_nothing(field: tuple[str, str]) -> None:
    talk = Talk(stream_error_on_invalid_message=True)
    talk.feed(talk.head(1, POST, ends=False))

    assert talk.feed(talk.head(1, [field])) == []
    assert (RST_STREAM, 0, 1, PROTOCOL_ERROR.to_bytes(4, "big")) in talk.sent()


def test_too_many_fields_and_too_many_bytes_are_told_as_refusals() -> None:
    talk = Talk(headers=10, head_bytes=1000)
    many = talk.feed(talk.head(1, [*GET, *[(f"x-{n}", "") for n in range(11)]]))
    large = talk.feed(talk.head(3, [*GET, ("x", "y" * 1000)]))

    assert [status_of(event[2]) for event in many + large] == [431, 431]
    assert talk.session.counts["header_overflow"] == 2
    assert text(talk.feed(talk.head(5, [*GET, *[(f"x-{n}", "") for n in range(10)]])))


def test_a_head_far_over_the_limit_ends_the_connection() -> None:
    talk = Talk(head_bytes=1000)
    bomb = talk.head(1, [*GET, *[("x", "y" * 900)] * 6])

    assert talk.feed(bomb) == []
    assert talk.session.failure == ENHANCE_YOUR_CALM
    assert talk.session.counts["header_overflow"] == 1


# -- how bytes come


def requests() -> bytes:
    talker = client()
    talker.send_headers(1, [*POST, ("cookie", "a=1"), ("cookie", "b=2"), ("content-length", "11")])
    talker.send_data(1, b"hello ", pad_length=5)
    talker.send_headers(3, GET, end_stream=True)
    talker.send_data(1, b"world", end_stream=True)
    talker.send_headers(5, [*POST, ("x-long", "v" * 20000)])
    talker.send_headers(5, [("x-sum", "1")], end_stream=True)
    talker.ping(b"12345678")
    return talker.data_to_send()


def joined(events: list[tuple]) -> list[tuple]:
    """With the data of a stream that came in a row as one event."""
    found: list[tuple] = []
    for event in events:
        if event[0] == "data" and found and found[-1][:2] == event[:2]:
            event = ("data", event[1], found.pop()[2] + event[2], event[3])
        found.append(event)
    return found


def test_the_events_are_the_same_wherever_the_bytes_are_cut() -> None:
    data = requests()
    whole = joined(Connection(True).feed(data))
    for cut in [*range(400), *range(400, len(data), 97), *range(len(data) - 200, len(data))]:
        session = Connection(True)

        assert joined(session.feed(data[:cut]) + session.feed(data[cut:])) == whole, cut


def test_the_events_are_the_same_byte_by_byte() -> None:
    data = requests()
    session = Connection(True)
    events = [event for at in range(len(data)) for event in session.feed(data[at : at + 1])]

    assert joined(events) == joined(Connection(True).feed(data))


@pytest.mark.parametrize("cut", range(24))
def test_a_preface_that_is_none_ends_the_connection(cut: int) -> None:
    session = Connection(True)
    bad = PREFACE[:cut] + bytes([PREFACE[cut] ^ 1]) + PREFACE[cut + 1 :]

    assert session.feed(bad[:cut]) + session.feed(bad[cut:]) == []
    assert error_of(session.take()) == PROTOCOL_ERROR


# -- streams that are closed


def answered(talk: Talk, stream: int = 1) -> None:
    talk.feed(talk.head(stream, GET))
    talk.session.respond(stream, 200, ends=True)
    talk.session.take()
    talk.session.let_go(stream)


@pytest.mark.parametrize("late", ["data", "head"])
def test_frames_for_a_stream_that_both_have_ended_are_an_error(late: str) -> None:
    talk = Talk()
    answered(talk)
    talk.feed(frame(DATA, 0, 1, b"x") if late == "data" else talk.head(1, GET))

    assert error_of(talk.session.take()) == STREAM_CLOSED


def test_a_smaller_stream_id_is_an_error() -> None:
    talk = Talk()
    talk.feed(talk.head(5, GET))
    talk.feed(talk.head(3, GET))

    assert error_of(talk.session.take()) == PROTOCOL_ERROR


def test_what_was_under_way_when_we_reset_is_no_error() -> None:
    talk = Talk()
    talk.feed(talk.head(1, POST, ends=False))
    talk.session.cancel(1, CANCEL)
    talk.session.take()
    talk.session.news()

    assert talk.feed(frame(DATA, 0, 1, b"x" * 100), talk.head(1, [("x", "trailer")]), talk.head(3, GET))[0][:2] == ("head", 3)
    assert talk.session.failure is None


def test_after_the_peer_has_ended_it_too_nothing_is_under_way() -> None:
    talk = Talk()
    talk.feed(talk.head(1, POST, ends=False))
    talk.session.cancel(1, CANCEL)
    talk.session.take()
    talk.feed(frame(RST_STREAM, 0, 1, bytes(4)))
    talk.feed(frame(DATA, 0, 1, b"x"))

    assert error_of(talk.session.take()) == STREAM_CLOSED


def test_an_answer_before_the_request_is_over_ends_it_without_an_error() -> None:
    talk = Talk()
    talk.feed(talk.head(1, POST, ends=False))
    talk.session.respond(1, 200, ends=True)
    sent = [(kind, payload) for kind, _, stream, payload in talk.sent() if stream == 1]

    assert [kind for kind, _ in sent] == [HEADERS, RST_STREAM]
    assert sent[1][1] == bytes(4)


# -- what goes out


def exchange(*pieces: bytes, **how: object) -> list[object]:
    """What h2 makes of an answer."""
    talker = client()
    session = Connection(True)
    talker.send_headers(1, GET, end_stream=True)
    session.feed(talker.data_to_send())
    head = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\nConnection: x\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    session.respond(1, 200, head=head, lines=b"Via: mesh\r\nKeep-Alive: 5\r\n")
    return talker.receive_data(session.send(1, *pieces, **how))


def test_an_answer_in_one_go() -> None:
    events = exchange(b"abc", b"def", ends=True)
    kinds = [type(event) for event in events if isinstance(event, (ResponseReceived, DataReceived, StreamEnded))]

    assert kinds == [ResponseReceived, DataReceived, StreamEnded]
    assert next(event.headers for event in events if isinstance(event, ResponseReceived)) == [
        (b":status", b"200"), (b"content-type", b"a"), (b"via", b"mesh"),
    ]  # fmt: skip


def test_trailers_go_out_behind_the_body() -> None:
    events = exchange(b"abc", trailers=b"Grpc-Status: 0\r\nx: y\r\n")

    assert [event.headers for event in events if isinstance(event, TrailersReceived)] == [[(b"grpc-status", b"0"), (b"x", b"y")]]


def test_a_window_holds_data_back_until_it_opens() -> None:
    talk = Talk()
    talk.feed(talk.head(1, GET))
    talk.session.respond(1, 200)
    first = sum(len(payload) for kind, _, _, payload in frames(talk.session.send(1, b"x" * 100000, ends=True)) if kind == DATA)

    assert (first, talk.session.unsent(1)) == (65535, 100000 - 65535)
    assert talk.session.is_above(1, 30000)
    assert talk.session.counts["pending_send_bytes"] == 100000 - 65535
    talk.feed(frame(WINDOW_UPDATE, 0, 0, (50000).to_bytes(4, "big")), frame(WINDOW_UPDATE, 0, 1, (50000).to_bytes(4, "big")))
    sent = talk.sent()
    assert sum(len(payload) for kind, _, _, payload in sent if kind == DATA) == 100000 - 65535
    assert sent[-1][1] & END_STREAM
    assert talk.session.news() == []
    assert talk.session.counts.get("pending_send_bytes", 0) == 0


def test_a_stream_that_was_above_is_told_when_it_has_room() -> None:
    talk = Talk()
    talk.feed(talk.head(1, GET))
    talk.session.respond(1, 200)
    talk.session.send(1, b"x" * 100000)
    assert talk.session.is_above(1, 30000)
    talk.feed(frame(WINDOW_UPDATE, 0, 0, (20000).to_bytes(4, "big")), frame(WINDOW_UPDATE, 0, 1, (18000).to_bytes(4, "big")))
    talk.session.take()
    assert talk.session.news() == []
    talk.feed(frame(WINDOW_UPDATE, 0, 1, (2000).to_bytes(4, "big")))
    talk.session.take()
    assert talk.session.news() == [("drained", 1)]
    assert not talk.session.is_above(1, 30000)


def wider(stream: int, by: int) -> bytes:
    """A client's windows, open for so much more."""
    return b"".join(frame(WINDOW_UPDATE, 0, at, by.to_bytes(4, "big")) for at in (0, stream))


def filled(talk: Talk) -> int:
    """How many KiB stream 1 holds when it has enough."""
    while not talk.session.is_above(1, 1 << 20, tight=True):
        talk.session.send(1, b"x" * 1024)
    return talk.session.unsent(1) // 1024


def test_room_is_for_those_who_empty_it_in_time() -> None:
    talk = Talk()
    talk.feed(talk.head(1, GET))
    talk.session.respond(1, 200)
    talk.session.now_ms = 1
    talk.session.send(1, b"x" * 65535)
    assert filled(talk) == 33
    assert talk.session.is_above(1, 1 << 20)     # until it is drained

    for waited_ms, room in ((900, 65), (1000, 129), (1100, 129), (0, 257)):
        talk.session.now_ms += waited_ms
        talk.feed(wider(1, talk.session.unsent(1)))
        talk.session.take()
        assert talk.session.unsent(1) == 0
        assert filled(talk) == room

    talk.feed(wider(1, 200 * 1024))              # not all of it
    talk.session.take()
    assert filled(talk) == 257


def test_small_frames_leave_as_one_piece() -> None:
    talk = Talk()
    streams = range(1, 101, 2)
    for stream in streams:
        talk.feed(talk.head(stream, GET))
        talk.session.respond(stream, 200)
    talk.session.take()
    for stream in streams:
        talk.session.lend(stream, b"%03d" % stream)
    assert {stream: payload for _, _, stream, payload in talk.sent()} == {stream: b"%03d" % stream for stream in streams}
    assert talk.session.pieces == 1


def test_a_transport_that_is_full_holds_data_back_but_not_heads() -> None:
    talk = Talk()
    talk.feed(talk.head(1, GET))
    talk.session.respond(1, 200)
    talk.session.end(1, b"")
    blocked = frames(talk.session.take(blocked=True))

    assert [kind for kind, *_ in blocked] == [HEADERS, DATA]
    talk.feed(talk.head(3, GET))
    talk.session.respond(3, 200)
    assert [kind for kind, *_ in frames(talk.session.take(blocked=True))] == [HEADERS]
    assert [kind for kind, *_ in frames(talk.session.send(3, b"x"))] == [DATA]


def test_what_was_kept_before_a_pump_goes_out_with_it() -> None:
    talk = Talk()
    talk.feed(talk.head(1, POST, ends=False))
    talk.session.respond(1, 200)
    talk.session.take()
    talk.session.lend(1, b"abc")
    talk.session.settle()
    talk.session.lend(1, b"def")
    talk.session.settle()

    assert [payload for kind, _, _, payload in talk.sent() if kind == DATA] == [b"abcdef"]
    talk.session.end(1)
    talk.session.settle()
    assert next((kind, flags) for kind, flags, stream, _ in talk.sent() if stream == 1) == (DATA, END_STREAM)


def test_streams_take_turns() -> None:
    talk = Talk()
    talk.feed(frame(SETTINGS, 0, 0, b"\0\4" + (1 << 20).to_bytes(4, "big")), frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
    for stream in (1, 3):
        talk.feed(talk.head(stream, GET))
        talk.session.respond(stream, 200)
    for stream in (1, 3):
        talk.session.lend(stream, b"x" * 100000)
    order = [stream for kind, _, stream, _ in talk.sent() if kind == DATA]

    assert set(order[:4]) == {1, 3}, order


def test_what_is_consumed_opens_the_window_again() -> None:
    talk = Talk(eager=False, stream_window=65535, connection_window=65535)
    talk.feed(talk.head(1, POST, ends=False), *[frame(DATA, 0, 1, b"x" * 16000)] * 4)

    assert [kind for kind, *_ in talk.sent() if kind == WINDOW_UPDATE] == []
    talk.session.consume(1)
    opened = {(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in talk.sent() if kind == WINDOW_UPDATE}
    assert opened == {(0, 64000), (1, 64000)}


def opened(talk: Talk, stream: int = 1) -> int:
    """By how much the stream's window was opened."""
    return sum(int.from_bytes(payload, "big") for kind, _, at, payload in talk.sent() if (kind, at) == (WINDOW_UPDATE, stream))


def test_a_window_grows_as_it_is_taken_and_shrinks_when_it_is_not() -> None:
    talk = Talk(eager=False, stream_window=200_000)
    assert b"\0\4" + (65535).to_bytes(4, "big") in Connection(True, stream_window=200_000).take()
    talk.feed(talk.head(1, POST, ends=False))

    def come(count: int) -> None:
        """So many bytes that are taken at once."""
        while count:
            part = min(count, 16384)
            talk.feed(frame(DATA, 0, 1, b"x" * part))
            talk.session.consume(1)
            count -= part

    come(65535)
    assert talk.session.window(1) == 131_070
    assert opened(talk) > 65535                  # more than what was taken
    come(131_070)
    assert talk.session.window(1) == 200_000
    come(200_000)
    assert talk.session.window(1) == 200_000     # the largest that it may be

    talk.feed(*[frame(DATA, 0, 1, b"x" * 10_000)] * 10)
    for window in (100_000, 65535, 65535):
        talk.session.hold(1)
        assert talk.session.window(1) == window
        talk.sent()
        talk.session.consume(1)
    assert opened(talk) < 65535                  # all that it had before was used up, and it gets no more than it takes


def test_data_for_nobody_opens_the_connections_window() -> None:
    talk = Talk(eager=False, connection_window=65535)
    talk.feed(talk.head(1, POST, ends=False))
    talk.session.let_go(1)
    talk.feed(*[frame(DATA, 0, 1, b"x" * 16000)] * 3)

    assert (WINDOW_UPDATE, 0, 0, (48000).to_bytes(4, "big")) in talk.sent()


def test_goaway_in_two_steps() -> None:
    talk = Talk()
    answered(talk)
    talk.session.announce_goaway()
    first = talk.sent()
    assert [kind for kind, *_ in first] == [GOAWAY, PING]
    assert talk.feed(talk.head(3, GET))[0][:2] == ("head", 3)
    talk.session.finish_goaway()
    second = talk.sent()

    assert [int.from_bytes(payload[:4], "big") for kind, _, _, payload in first + second if kind == GOAWAY] == [2**31 - 1, 3]
    assert talk.feed(talk.head(5, POST, ends=False), frame(DATA, 0, 5, b"x")) == []
    assert talk.session.failure is None


def test_a_ping_is_answered_and_our_own_is_told() -> None:
    talk = Talk()
    talk.feed(frame(PING, 0, 0, b"abcdefgh"))
    assert talk.sent() == [(PING, ACK, 0, b"abcdefgh")]
    talk.session.ping()
    assert talk.sent() == [(PING, 0, 0, bytes(8))]
    assert talk.feed(frame(PING, ACK, 0, bytes(8))) == [("pong",)]


def test_the_answer_to_a_drains_ping_is_told_from_that_to_another() -> None:
    talk = Talk()
    talk.session.ping()
    talk.session.announce_goaway()
    pings = [payload for kind, _, _, payload in talk.sent() if kind == PING]

    assert pings[0] == bytes(8) != pings[1]
    assert talk.feed(frame(PING, ACK, 0, pings[0])) == [("pong",)]
    assert talk.feed(frame(PING, ACK, 0, pings[1])) == [("drain_pong",)]


def test_an_upgrade_begins_with_stream_1() -> None:
    session = Connection(True)

    assert session.upgrade(b"AAMAAABkAAQAAP__")
    session.respond(1, 200)
    sent = frames(session.send(1, b"hello", ends=True))
    assert [(kind, stream) for kind, _, stream, _ in sent if stream] == [(HEADERS, 1), (DATA, 1)]


@pytest.mark.parametrize("settings", [b"AAMA", b"AAMAAABk=", b"A", b"\xff" * 8])
def test_settings_of_an_upgrade_are_looked_at(settings: bytes) -> None:
    assert not Connection(True).upgrade(settings)


# -- floods


def flood(talk: Talk, data: bytes, count: int) -> str:
    """Feed it so often; the counter that names what ended the connection."""
    for _ in range(count):
        talk.feed(data)
    assert error_of(talk.session.take()) == ENHANCE_YOUR_CALM
    (name,) = [name for name in talk.session.counts if "flood" in name]
    return name


def test_rapid_resets_are_bounded() -> None:
    talk = Talk(max_resets_per_minute=50)
    for n in range(50):
        talk.feed(talk.head(2 * n + 1, GET), frame(RST_STREAM, 0, 2 * n + 1, CANCEL.to_bytes(4, "big")))
    assert talk.session.failure is None
    talk.session.now_ms += 60000
    talk.feed(talk.head(101, GET), frame(RST_STREAM, 0, 101, CANCEL.to_bytes(4, "big")))
    assert talk.session.failure is None
    for n in range(60, 110):
        talk.feed(talk.head(2 * n + 1, GET), frame(RST_STREAM, 0, 2 * n + 1, CANCEL.to_bytes(4, "big")))
    assert talk.session.failure == ENHANCE_YOUR_CALM
    assert talk.session.counts["inbound_reset_frames_flood"] == 1


def test_resets_that_the_peer_makes_us_send_count_as_well() -> None:
    talk = Talk(max_resets_per_minute=50, stream_error_on_invalid_message=True)
    for n in range(51):
        talk.feed(talk.head(2 * n + 1, [*GET, ("connection", "x")]))

    assert talk.session.counts["inbound_reset_frames_flood"] == 1


def test_resets_of_answered_streams_do_not_count() -> None:
    talk = Talk(max_resets_per_minute=5)
    for n in range(50):
        talk.feed(talk.head(2 * n + 1, GET))
        talk.session.respond(2 * n + 1, 200)
        talk.session.take()
        talk.feed(frame(RST_STREAM, 0, 2 * n + 1, CANCEL.to_bytes(4, "big")))

    assert talk.session.failure is None


def test_continuations_are_bounded() -> None:
    talk = Talk()
    talk.feed(frame(HEADERS, 0, 1, talk.encoder.encode(GET)))

    assert flood(talk, frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y"), 9) == "inbound_continuation_frames_flood"


def test_empty_frames_are_bounded() -> None:
    talk = Talk(max_empty_frames=3)
    talk.feed(talk.head(1, POST, ends=False))

    assert flood(talk, frame(DATA, 0, 1), 4) == "inbound_empty_frames_flood"


def test_priority_frames_are_bounded() -> None:
    assert flood(Talk(max_priority_frames=20), frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"), 21) == "inbound_priority_frames_flood"


def test_window_updates_are_bounded() -> None:
    talk = Talk()

    assert flood(talk, frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), 6) == "inbound_window_update_frames_flood"


@pytest.mark.parametrize("data", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0)], ids=["ping", "settings"])
def test_answers_that_nobody_reads_are_bounded(data: bytes) -> None:
    talk = Talk(max_control_frames=100)
    for _ in range(300):
        talk.feed(data)
        talk.session.take()
    assert talk.session.failure is None
    talk.session.backlog = True

    assert flood(talk, data, 102) == "outbound_control_flood"


def test_frames_that_nobody_reads_are_bounded() -> None:
    talk = Talk(max_outbound_frames=50)
    for n in range(60):
        talk.feed(talk.head(2 * n + 1, GET))
        if talk.session.failure is None:
            talk.session.respond(2 * n + 1, 200, ends=True)
            talk.session.take(backlog=True)
            talk.session.let_go(2 * n + 1)

    assert talk.session.counts["outbound_flood"] == 1


# -- the client's side


def test_both_sides_of_the_codec_understand_each_other() -> None:
    near, far = Connection(False), Connection(True)
    stream = near.request(b"POST", b"/up", b"host", b"x: y\r\nHost: no\r\nConnection: z\r\n", ends=False)

    assert far.feed(near.send(stream, b"abc", trailers=b"t: 1\r\n"))[1:] == [
        ("head", stream, b"POST /up HTTP/1.1\r\nhost: host\r\nx: y\r\n\r\n", CHUNKED, -1, False),
        ("data", stream, b"abc", False),
        ("trailers", stream, b"t: 1\r\n"),
    ]
    far.respond(stream, 200, head=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert near.feed(far.send(stream, b"ok", ends=True))[1:] == [
        ("head", stream, b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\n", LENGTH, 2, False),
        ("data", stream, b"ok", True),
    ]
    assert (near.streams, far.streams) == (0, 0)


def test_a_client_session_reads_answers() -> None:
    near = Connection(False)
    talker = H2Connection(H2Configuration(client_side=False))
    talker.initiate_connection()
    stream = near.request(b"GET", b"/", b"h", ends=True)
    talker.receive_data(near.take())
    near.feed(talker.data_to_send())
    talker.receive_data(near.take())
    talker.send_headers(stream, [(":status", "103"), ("link", "a")])
    talker.send_headers(stream, [(":status", "200"), ("content-length", "2")])
    talker.send_data(stream, b"ok")
    talker.send_headers(stream, [("x-sum", "1")], end_stream=True)

    assert near.feed(talker.data_to_send()) == [
        ("head", stream, b"HTTP/1.1 103 \r\nlink: a\r\n\r\n", NO_BODY, -1, False),
        ("head", stream, b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\n", LENGTH, 2, False),
        ("data", stream, b"ok", False),
        ("trailers", stream, b"x-sum: 1\r\n"),
    ]


def test_goaway_tells_which_requests_were_not_begun() -> None:
    near, far = Connection(False), Talk()
    first, second = near.request(b"GET", b"/", b"h"), near.request(b"GET", b"/", b"h")
    near.take()

    assert near.feed(frame(SETTINGS, 0, 0) + frame(GOAWAY, 0, 0, first.to_bytes(4, "big") + bytes(4)))[1:] == [
        ("goaway", first, 0),
        ("reset", second, 7),
    ]
    assert far.session.failure is None


def test_counters_are_in_the_catalogues_order() -> None:
    assert [row.name for row in CATALOGUE[BlockKind.HTTP2]] == list(COUNT_NAMES)


def test_gauges_fall_back_when_the_connection_goes() -> None:
    talk = Talk()
    talk.feed(talk.head(1, GET))
    talk.session.respond(1, 200)
    talk.session.send(1, b"x" * 100000)
    talk.session.abandon()

    assert talk.session.counts.get("streams_active", 0) == talk.session.counts.get("pending_send_bytes", 0) == 0


def test_a_reset_by_the_peer_is_told_with_its_code() -> None:
    talk = Talk()
    talk.feed(talk.head(1, POST, ends=False))

    assert talk.feed(frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))) == [("reset", 1, CANCEL)]
    assert talk.session.counts["rx_reset"] == 1


def test_h2_sees_our_resets() -> None:
    talker, session = client(), Connection(True)
    talker.send_headers(1, POST)
    session.feed(talker.data_to_send())
    session.cancel(1, INTERNAL_ERROR)

    assert [event.error_code for event in talker.receive_data(session.take()) if isinstance(event, StreamReset)] == [INTERNAL_ERROR]


def test_mutations(request: pytest.FixtureRequest) -> None:
    """The fuzz target, briefly; with --long for as long as it takes to be convincing."""
    iterations = 500_000 if request.config.getoption("--long") else 1500

    assert 0 < fuzz_http2.run(1, iterations) < iterations
