"""Fuzz target of HTTP/2 sessions: mutations of good and bad conversations, fed whole and in pieces, to both sides.

    python -m tests.fuzz.fuzz_http2 [--seed N] [--iterations N]

The same seed and number give the same inputs. What a session tells may not depend on where its bytes were cut, every head that it tells
has to be one that HTTP/1's parser takes, and when it ends its gauges have to be back at 0. The first disagreement ends the run with its
bytes; a crash of the process is one as well, best looked for on a sanitizer build.
"""

from __future__ import annotations

import argparse
import random
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection

from meshproxy.codecs.http1 import parse_request_bytes, parse_response_bytes
from meshproxy.codecs.http2 import Connection

GET = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "mesh.test")]
POST = [(":method", "POST"), *GET[1:]]
CONNECT = [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:]]
WORDS = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0",
    b"\0\0\4\x08\0\0\0\0\0\0\0\0\1", b"\0\0\4\3\0\0\0\0\1\0\0\0\x08",
    b"\0\0\x08\6\0\0\0\0\0abcdefgh", b"\0\0\5\2\0\0\0\0\1\0\0\0\1\x10", b"\0\0\0\x09\4\0\0\0\1", b"\0\0\3\1\5\0\0\0\7\x82\x84\x86",
    b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\0", b"\0\0\1\0\1\0\0\0\1x",
    b"\0\0\0\0\1\0\0\0\1", b"\x3f\xe1\x1f", b"\x40\1a\1b", b"\xff", b"\0", b"\x80",
]  # fmt: skip


def conversations() -> list[tuple[bool, bytes]]:
    """(who reads is a server, bytes)."""
    found = []
    for padded in (0, 7):
        client = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        client.initiate_connection()
        client.send_headers(1, [*POST, ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("content-length", "11")])
        client.send_data(1, b"hello ", pad_length=padded or None)
        client.send_headers(3, GET, end_stream=True)
        client.send_data(1, b"world", end_stream=True)
        client.send_headers(5, [*POST, ("x-long", "v" * 300)])
        client.send_headers(5, [("x-sum", "1")], end_stream=True)
        client.send_headers(7, CONNECT)
        client.send_data(7, b"frame")
        client.reset_stream(7)
        client.ping(b"12345678")
        client.send_headers(9, [*GET, ("connection", "close")], end_stream=True)
        client.close_connection()
        found.append((True, client.data_to_send()))
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    for stream in (1, 3, 5):
        client.send_headers(stream, GET, end_stream=True)
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", "103"), ("link", "a")])
    server.send_headers(1, [(":status", "200"), ("content-length", "2")])
    server.send_data(1, b"ok")
    server.send_headers(1, [("x-sum", "1")], end_stream=True)
    server.send_headers(3, [(":status", "204")], end_stream=True)
    server.send_headers(5, [(":status", "200")])
    server.send_data(5, b"some", pad_length=3)
    server.reset_stream(5)
    found.append((False, server.data_to_send()))
    return found


def mutate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    end = min(at + chance.choice((1, 1, 2, 4, 9, 16)), len(data))
    match chance.randrange(6):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[end:]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:at] + chance.choice(WORDS) + data[at:]
        case 3:
            return data[:at] + chance.choice(WORDS) + data[end:]
        case 4:
            return data[:at] + other[chance.randrange(len(other)) :]
        case _:
            return data[:at] + data[at:end] * 3 + data[end:]


def session(is_server: bool, lenient: bool) -> Connection:
    made = Connection(is_server, allow_connect=True, stream_error_on_invalid_message=lenient, headers=20, head_bytes=2000)
    if not is_server:
        for _ in range(3):
            made.request(b"GET", b"/", b"h")
    made.take()
    return made


def told(made: Connection, pieces: list[bytes]) -> list[tuple]:
    """All that the session says of the bytes, data that came in a row as one; it answers nothing meanwhile."""
    events: list[tuple] = []
    for piece in pieces:
        for event in made.feed(piece):
            if event[0] == "data" and events and events[-1][:2] == event[:2]:
                event = ("data", event[1], events.pop()[2] + event[2], event[3])
            events.append(event)
    return events


def finished(events: list[tuple]) -> list[tuple]:
    """Without the data of streams that did not end: a frame with more than content-length allows is refused whole, or from there on."""
    ended = {event[1] for event in events if event[0] == "trailers" or (event[0] == "data" and event[3])}
    return [event for event in events if event[0] != "data" or event[1] in ended]


def judge(is_server: bool, lenient: bool, data: bytes, cuts: list[int]) -> str:
    """What is wrong with how these bytes were read; "" = nothing."""
    whole, cut = session(is_server, lenient), session(is_server, lenient)
    events = told(whole, [data])
    again = told(cut, [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)])
    if (finished(events), whole.failure) != (finished(again), cut.failure):
        return f"whole: {events} {whole.failure}\n cut at {cuts}: {again} {cut.failure}"
    for event in events:
        if event[0] == "head":
            parsed = parse_request_bytes(event[2]) if is_server else parse_response_bytes(event[2])
            if not isinstance(parsed, dict):
                return f"HTTP/1 does not read {event[2]!r}: {parsed}"
    for each in (whole, cut):
        for id in [event[1] for event in events if event[0] == "head"][:2]:
            try:
                each.respond(id, 200, b"x: y\r\n") if is_server else None
                each.send(id, b"answer", ends=True)
            except KeyError:
                pass                             # it was reset
        each.take()
        each.news()
        each.abandon()
        left = {name: count for name, count in each.counts.items() if name in ("streams_active", "pending_send_bytes")}
        if left:
            return f"left behind: {left}"
    return ""


def run(seed: int, iterations: int) -> int:
    """How many inputs ended their connection."""
    chance = random.Random(seed)
    seeds = conversations()
    failed = 0
    for _ in range(iterations):
        is_server, data = chance.choice(seeds)
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            data = mutate(data, chance.choice(seeds)[1], chance)
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((1, 2, 8))))
        lenient = chance.random() < 0.5
        trouble = judge(is_server, lenient, data, cuts)
        if trouble:
            raise AssertionError(f"server={is_server} lenient={lenient} {data!r}\n {trouble}")
        failed += session_failed(is_server, lenient, data)
    return failed


def session_failed(is_server: bool, lenient: bool, data: bytes) -> bool:
    made = session(is_server, lenient)
    made.feed(data)
    return made.failure is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=20000)
    options = parser.parse_args()
    failed = run(options.seed, options.iterations)
    print(f"{options.iterations} inputs, {failed} ended their connection")
    return 0


if __name__ == "__main__":
    sys.exit(main())
