"""HTTP/2 to endpoints through a running node: HTTP/1 clients on one side, endpoints scripted frame by frame on the other."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import queue
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.support.http2_wire import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    PING,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    Http2Client,
    Http2Server,
    Message,
    ResetError,
    frame,
    http2_origin,
    settings,
)
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Answer, Client, ClosedError, ask

LIMIT_S = 20.0
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
EXPLICIT = {"explicit_http_config": {"http2_protocol_options": {}}}
LOG = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"

Script = Callable[[Http2Server], None]


def options(how: dict[str, Any]) -> dict[str, Any]:
    """A cluster's field."""
    return {"typed_extension_protocol_options": {OPTIONS: {"@type": f"{bootstrap.TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions", **how}}}


def http2(**settings: Any) -> dict[str, Any]:
    return options({"explicit_http_config": {"http2_protocol_options": settings}})


# Each test takes a cluster of its own, so that no connection of another is in its pool.
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (64, http2()),
    "few": (4, http2(max_concurrent_streams=2)),
    "lone": (2, http2() | {"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 1, "max_requests": 3}]}}),
    "alive": (2, http2(connection_keepalive={"interval": "0.1s", "timeout": "0.1s"})),
    "once": (1, http2() | {"max_requests_per_connection": 2}),
    "idle": (1, options(EXPLICIT | {"common_http_protocol_options": {"idle_timeout": "0.1s"}})),
    "brief": (1, options(EXPLICIT | {"common_http_protocol_options": {"max_connection_duration": "0.2s"}})),
    "lenient": (2, http2(override_stream_error_on_invalid_http_message=True)),
    "narrow": (2, http2(initial_stream_window_size=65535, initial_connection_window_size=65535) | {"per_connection_buffer_limit_bytes": 32768}),
    "retried": (3, http2()),
    "slow": (1, http2()),
}


@dataclasses.dataclass
class Place:
    """A cluster of the node with its origin."""

    port: int
    name: str
    origin: Origin
    log: Path

    def runs(self, script: Script) -> None:
        self.origin.raw = lambda connection: script(Http2Server(connection))

    def request(self, path: str = "", *lines: str, method: str = "GET", body: bytes | None = None) -> bytes:
        more = [f"Content-Length: {len(body)}"] if body is not None else []
        head = "\r\n".join([f"{method} /{self.name}/{path} HTTP/1.1", "Host: mesh.test", *lines, *more, "", ""])
        return head.encode("latin-1") + (body or b"")

    def ask(self, path: str = "", *lines: str, method: str = "GET", body: bytes | None = None) -> Answer:
        return ask(self.port, self.request(path, *lines, method=method, body=body))

    def logged(self, path: str = "") -> list[str]:
        """Status, flags and details of the one request for that path."""
        start = f"/{self.name}/{path} "

        def found() -> list[str] | None:
            lines = [line for line in self.log.read_text().splitlines() if line.startswith(start)]
            return lines[0].split(" ")[1:] if lines else None

        return wait_until(found, LIMIT_S)


@dataclasses.dataclass
class Mesh:
    """A node and what no test has taken yet."""

    node: Node
    places: dict[str, list[Place]]

    def take(self, kind: str = "plain") -> Place:
        return self.places[kind].pop()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    directory = tmp_path_factory.mktemp("http2")
    log = directory / "log"
    with contextlib.ExitStack() as stack:
        origins = {f"{kind}-{n}": stack.enter_context(http2_origin(_echo)) for kind, (count, _) in KINDS.items() for n in range(count)}
        clusters = [bootstrap.cluster(name, origin.port, **KINDS[name.split("-")[0]][1]) for name, origin in origins.items()]
        routes = [bootstrap.route(f"/{name}/", _action(name)) for name in origins]
        manager = {
            "access_log": [bootstrap.file_log(str(log), LOG)],
            "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
            "http2_protocol_options": {"allow_connect": True},
        }
        listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host(routes)], **manager)
        node = Node(directory, bootstrap.bootstrap([listener], clusters)).start()
        try:
            port = node.port_of("ingress")
            places: dict[str, list[Place]] = {}
            for name, origin in origins.items():
                places.setdefault(name.split("-")[0], []).append(Place(port, name, origin, log))
            yield Mesh(node, places)
            assert [failure for origin in origins.values() for failure in origin.failures] == []
        finally:
            node.stop()
        assert node.wreckage() == []


def _action(name: str) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": name, "timeout": "0.5s" if name.startswith("slow") else "0s"}
    if name.startswith("retried"):
        action["retry_policy"] = {"retry_on": "refused-stream", "num_retries": 2}
    return action


def _echo(peer: Http2Server) -> None:
    """The origin that answers with what it was asked for."""
    peer.accept()
    with contextlib.suppress(ClosedError):
        while True:
            message = peer.message()
            body = b"" if message.header(":method") == "HEAD" else message.body or b"ok"
            peer.respond(message.stream, body)


class Seen:
    """What an origin got, for the test that owns it."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()

    def put(self, thing: Any) -> None:
        self.queue.put(thing)

    def get(self) -> Any:
        return self.queue.get(timeout=LIMIT_S)


def answering(seen: Seen, **response: Any) -> Script:
    """A script that keeps each request and answers all alike."""
    def script(peer: Http2Server) -> None:
        peer.accept()
        while True:
            message = peer.message()
            seen.put(message)
            peer.respond(message.stream, **response)

    return script


# -- requests


def test_a_request_is_said_in_http2s_words(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()
    place.runs(answering(seen, body=b"hello", headers=[("x-answer", "1")]))
    answer = place.ask("path?q=1", "X-Mixed-Case: Kept", "Connection: x-hop, keep-alive", "X-Hop: 1", "Keep-Alive: 5", "TE: gzip, trailers",
                       "Proxy-Connection: x", "Cookie: a=b; c=d")
    message: Message = seen.get()
    assert message.headers[:4] == [(":method", "GET"), (":scheme", "http"), (":path", f"/{place.name}/path?q=1"), (":authority", "mesh.test")]
    fields = dict(message.headers[4:])
    assert fields["x-mixed-case"] == "Kept" and fields["te"] == "trailers" and fields["cookie"] == "a=b; c=d"
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
        _echo_on(peer)

    place.runs(script)

    def one(number: int) -> None:
        both.wait(LIMIT_S)
        assert place.ask(str(number)).body == f"/{place.name}/{number}".encode()

    together([lambda number=number: one(number) for number in range(30)])
    assert place.ask().body == b"ok"
    assert place.origin.connections == 1


def _echo_on(peer: Http2Server) -> None:
    while True:
        message = peer.message()
        peer.respond(message.stream, message.body or b"ok")


def together(things: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once; what they return. The first that fails is raised."""
    results: list[Any] = [None] * len(things)
    failures: list[BaseException] = []

    def run(place: int) -> None:
        try:
            results[place] = things[place]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(things))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    if failures:
        raise failures[0]
    return results


# -- how many streams


def test_streams_over_the_clusters_limit_go_to_another_connection(mesh: Mesh) -> None:
    place, seen = mesh.take("few"), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        first, second = peer.message(), peer.message()
        seen.put(peer.number)
        for message in (first, second):
            peer.respond(message.stream, b"ok")
        peer.wire.rest()

    place.runs(script)
    together([place.ask] * 4)
    assert {seen.get(), seen.get()} == {1, 2}


def test_streams_over_the_peers_limit_go_to_another_connection(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept({MAX_CONCURRENT_STREAMS: 1})
        peer.of_type(SETTINGS)
        while True:
            message = peer.message()
            if message.header(":path").endswith("first"):
                seen.put("first")
                seen_release.get()
            peer.respond(message.stream, str(peer.number).encode())

    seen_release = Seen()
    place.runs(script)
    place.ask("warm")                            # from here on the peer's SETTINGS are known
    with Client(place.port) as client:
        client.send(place.request("first"))
        seen.get()
        assert place.ask("second").body == b"2"
        seen_release.put(None)
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
            first, second = peer.message(), peer.message()
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


def test_but_not_for_ever(mesh: Mesh) -> None:
    place = mesh.take()
    place.runs(refusing(2, REFUSED_STREAM, Seen()))
    assert place.ask("twice").status == 503
    assert place.logged("twice") == ["503", "UR", "upstream_reset_before_response_started{remote_refused_stream_reset}"]


def test_a_policy_may_ask_oftener(mesh: Mesh) -> None:
    place, seen = mesh.take("retried"), Seen()
    place.runs(refusing(3, REFUSED_STREAM, seen))
    assert place.ask(method="POST", body=b"kept").body == b"ok"
    assert {seen.get().body for _ in range(4)} == {b"kept"}


def test_another_reset_is_final(mesh: Mesh) -> None:
    place, seen = mesh.take("retried"), Seen()
    place.runs(refusing(1, INTERNAL_ERROR, seen))
    answer = place.ask("reset")
    assert (answer.status, answer.body) == (503, b"upstream connect error or disconnect/reset before headers. reset reason: remote reset")
    assert place.logged("reset") == ["503", "UR", "upstream_reset_before_response_started{remote_reset}"]
    seen.get()
    assert seen.queue.empty()
    assert place.ask().body == b"ok" and place.origin.connections == 1


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
            _echo_on(peer)
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
        _echo_on(peer)

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request())
        seen.get()
    assert seen.get() == CANCEL
    assert place.ask().body == b"ok" and place.origin.connections == 1


def test_a_timeout_resets_its_stream_only(mesh: Mesh) -> None:
    place, seen = mesh.take("slow"), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        message = peer.message()
        seen.put(peer.of_type(RST_STREAM, message.stream).code)
        _echo_on(peer)

    place.runs(script)
    assert place.ask().status == 504
    assert seen.get() == CANCEL
    assert place.ask().body == b"ok" and place.origin.connections == 1


def test_an_early_answer_ends_the_upload(mesh: Mesh) -> None:
    place, seen = mesh.take(), Seen()

    def script(peer: Http2Server) -> None:
        peer.accept()
        stream, _, _ = peer.head()
        peer.respond(stream, b"enough", status="413")
        seen.put(peer.of_type(RST_STREAM, stream).code)
        _echo_on(peer)

    place.runs(script)
    with Client(place.port) as client:
        client.send(place.request("", "Content-Length: 100000", method="POST") + b"x" * 1000)
        answer = client.answer()
    assert (answer.status, answer.body) == (413, b"enough")
    assert seen.get() == NO_ERROR
    assert place.ask().body == b"ok" and place.origin.connections == 1


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
