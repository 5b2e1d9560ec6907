"""Bidirectional streams, many and open together: no message is lost, none comes before another's time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tests.peers import bootstrap
from tests.processes.http2_mesh import http2
from tests.support.http2_wire import (
    DATA,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    Http2Client,
    Http2Server,
    frame,
    http2_origin,
)
from tests.support.processes import Node
from tests.support.wire import ClosedError

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
LONG_S = 60.0


def echo(peer: Http2Server) -> None:
    """Each piece goes back on its stream as it comes; the end is a status."""
    peer.accept({MAX_CONCURRENT_STREAMS: 5000, INITIAL_WINDOW_SIZE: 1 << 30})
    peer.send(peer.open_windows())
    with contextlib.suppress(ClosedError):
        while True:
            got = peer.read()
            if got.type == HEADERS:
                peer.heads.clear()
                peer.send(peer.headers(got.stream, [(":status", "200"), *GRPC]))
            elif got.type == DATA:
                peer.send(frame(DATA, 0, got.stream, got.payload) if got.payload else b"")
                if got.ends:
                    peer.send(peer.headers(got.stream, [("grpc-status", "0")], ends=True))
            peer.frames.clear()


def rounds(count: int | None) -> Iterator[int]:
    """So many, or for as long as the long form takes."""
    limit_s = time.monotonic() + LONG_S
    number = 0
    while number < count if count is not None else time.monotonic() < limit_s:
        yield number
        number += 1


def message(stream: int, number: int) -> bytes:
    text = b"%d of %d" % (number, stream)
    return b"\0" + len(text).to_bytes(4, "big") + text


def test_no_message_is_lost_or_early(node_of, long_run: bool) -> None:
    streams = range(1, 2 * (1000 if long_run else 200), 2)
    with http2_origin(echo) as origin:
        limits = {"thresholds": [{"max_requests": 5000, "max_pending_requests": 5000}]}
        cluster = bootstrap.cluster("origin", origin.port, **http2(), circuit_breakers=limits)
        hosts = [bootstrap.virtual_host([bootstrap.route("/", {"cluster": "origin", "timeout": "0s"})])]
        node: Node = node_of(bootstrap.bootstrap([bootstrap.http_listener("ingress", 0, hosts)], [cluster]))
        with Http2Client(node.port_of("ingress"), {INITIAL_WINDOW_SIZE: 1 << 30}) as client:
            client.send(client.open_windows())
            for stream in streams:
                client.request(stream, GRPC, method="POST", path="/test.Echo/Both", ends=False)
            for stream in streams:
                client.head(stream)
            sent = 0
            for number in rounds(None if long_run else 5):
                client.send(b"".join(frame(DATA, 0, stream, message(stream, number)) for stream in streams))
                sent += 1
                expect(client, {stream: message(stream, number) for stream in streams})
            client.send(b"".join(frame(DATA, 1, stream, message(stream, sent)) for stream in streams))
            expect(client, {stream: message(stream, sent) for stream in streams})
            for stream in streams:
                assert client.head(stream)[1:] == ([("grpc-status", "0")], True)
        assert origin.failures == []


def expect(client: Http2Client, wanted: dict[int, bytes]) -> None:
    """Exactly these bytes on these streams, in whatever pieces and in whatever order of streams."""
    waiting = dict(wanted)
    while waiting:
        got = client.until(lambda each: each.type == DATA and bool(each.payload))
        assert waiting[got.stream].startswith(got.payload)
        waiting[got.stream] = waiting[got.stream][len(got.payload):]
        if not waiting[got.stream]:
            del waiting[got.stream]
    client.frames.clear()
