"""HTTP/1.1 through a running proxy, as conversations over bytes: client on one side, scripted origin on the other."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.peers import bootstrap
from tests.peers.process import Peer, free_ports
from tests.support.origin import OK, Connection, Origin, Request, answer
from tests.support.wire import Answer, Client, ask, get, post


@dataclasses.dataclass
class Mesh:
    """One proxy before an origin that answers requests, and one (`/raw/`) whose connections a test has from their first byte."""

    proxy: Peer
    origin: Origin
    raw: Origin

    @property
    def port(self) -> int:
        return self.proxy.port


@pytest.fixture(scope="module")
def standing(proxy_of) -> Iterator[Mesh]:
    with Origin() as origin, Origin() as raw:
        dead = free_ports(1)[0]
        routes = [
            bootstrap.route("/dead", "dead"),
            bootstrap.route("/nobody", "nobody"),
            bootstrap.route("/short", {"cluster": "origin", "timeout": "0.3s"}),
            bootstrap.route("/raw/", "raw"),
            bootstrap.route("/ws", {"cluster": "raw", "upgrade_configs": [{"upgrade_type": "websocket"}]}),
            bootstrap.route("/retried", {"cluster": "origin", "retry_policy": {"retry_on": "5xx,reset", "num_retries": 2}}),
            bootstrap.route("/limited", "limited"),
            bootstrap.route("/rewritten/", {"cluster": "origin", "prefix_rewrite": "/base/"}),
            {"match": {"path": "/teapot"}, "direct_response": {"status": 418, "body": {"inline_string": "short and stout"}}},
            {"match": {"prefix": "/old/"}, "redirect": {"prefix_rewrite": "/new/", "response_code": "PERMANENT_REDIRECT"}},
            {"match": {"path": "/tls"}, "redirect": {"https_redirect": True}},
            {"match": {"path": "/missing"}, "route": {"cluster": "origin", "retry_policy": {"retry_on": "retriable-4xx"}}},
            bootstrap.route("/open/", "origin"),
        ]
        one = {"thresholds": [{"max_connections": 1, "max_pending_requests": 1}]}
        clusters = [
            bootstrap.cluster("origin", origin.port),
            bootstrap.cluster("raw", raw.port),
            bootstrap.cluster("dead", dead),
            bootstrap.cluster("nobody"),
            bootstrap.cluster("limited", origin.port, circuit_breakers=one),
        ]
        manager = {
            "use_remote_address": True,
            "request_headers_timeout": "1s",
            "max_request_headers_kb": 60,
            "stream_idle_timeout": "30s",
        }
        yield Mesh(proxy_of([bootstrap.virtual_host(routes)], clusters, manager), origin, raw)
        assert origin.failures + raw.failures == []


@pytest.fixture
def mesh(standing: Mesh) -> Mesh:
    """The standing proxy with an origin that answers `ok` until the test says otherwise."""
    standing.origin.script = answer(OK)
    while not standing.origin.seen.empty():
        standing.origin.seen.get_nowait()
    return standing


def own_addresses() -> set[str]:
    """What may stand for a client on this machine: Envoy puts the machine's own address in the place of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; picks the address that a packet would have
        except OSError:
            return {"127.0.0.1"}
        return {"127.0.0.1", probe.getsockname()[0]}


def test_a_connection_serves_many_requests(mesh: Mesh) -> None:
    with Client(mesh.port) as client:
        for number in range(5):
            said = client.ask(get(f"/open/{number}"))

            assert (said.status, said.body) == (200, b"ok")
            assert mesh.origin.next_request().target == f"/open/{number}"


def test_upstream_connections_are_kept_for_other_clients(mesh: Mesh) -> None:
    ask(mesh.port, get("/open/"))
    before = mesh.origin.connections
    for _ in range(5):
        ask(mesh.port, get("/open/"))

    assert mesh.origin.connections == before


@pytest.mark.parametrize("cut", [1, 2, 15, 16, 17, 30, 40, -3, -2, -1])
def test_a_head_may_come_in_pieces(mesh: Mesh, cut: int) -> None:
    head = get("/open/pieces", "mesh.test", "X-Long: " + "v" * 50)
    with Client(mesh.port) as client:
        client.send_split(head, cut % len(head))

        assert client.answer().status == 200
        assert mesh.origin.next_request().header("x-long") == "v" * 50


def test_a_head_may_come_byte_by_byte(mesh: Mesh) -> None:
    head = post(b"body", "/open/bytes")
    with Client(mesh.port) as client:
        client.send_split(head, *range(1, len(head)))

        assert client.answer().status == 200
        assert mesh.origin.next_request().body == b"body"


def test_pipelined_requests_are_answered_in_order(mesh: Mesh) -> None:
    mesh.origin.script = lambda connection, request: connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.target), request.target.encode())
    )
    with Client(mesh.port) as client:
        client.send(b"".join(get(f"/open/{number}") for number in range(20)))

        assert [client.answer().body for _ in range(20)] == [b"/open/%d" % number for number in range(20)]


def test_pipelined_requests_with_bodies_keep_their_borders(mesh: Mesh) -> None:
    mesh.origin.script = lambda connection, request: connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.body), request.body)
    )
    chunked = get("/open/", "mesh.test", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with Client(mesh.port) as client:
        client.send(post(b"first", "/open/") + chunked + get("/open/") + post(b"last", "/open/"))

        assert [client.answer().body for _ in range(4)] == [b"first", b"abcde", b"", b"last"]


def test_chunked_bodies_pass_both_ways_with_their_trailers(mesh: Mesh) -> None:
    mesh.origin.script = answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 42\r\n\r\n"
    )
    upload = get("/open/up", "mesh.test", "Transfer-Encoding: chunked", "Trailer: X-Check", "TE: trailers", method="POST")
    with Client(mesh.port) as client:
        said = client.ask(upload + b"3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n")
        seen = mesh.origin.next_request()

        assert (said.body, seen.body) == (b"hello world", b"abc")
        assert client.ask(get("/open/")).status == 200, "the connection goes on after trailers"


def test_trailers_reach_the_other_side(mesh: Mesh, on_envoy: bool) -> None:
    if on_envoy:
        pytest.skip("Envoy drops HTTP/1 trailers unless enable_trailers is set")
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n")
    with Client(mesh.port) as client:
        upload = get("/open/up", "mesh.test", "Transfer-Encoding: chunked", method="POST")
        said = client.ask(upload + b"3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n")

        assert said.trailers == [("X-Sum", "42")]
        assert mesh.origin.next_request().trailers == [("X-Check", "7")]


def test_a_body_streams_before_it_is_whole(mesh: Mesh) -> None:
    """The origin sees the first piece while the client still holds the rest."""
    got_first, may_end = threading.Event(), threading.Event()

    def converse(connection: Connection) -> None:
        connection.head()
        connection.exactly(5)
        got_first.set()
        connection.exactly(5)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        may_end.wait(10)
        connection.send(b"rest!")

    mesh.raw.raw = converse
    with Client(mesh.port) as client:
        client.send(get("/raw/", "mesh.test", "Content-Length: 10", method="POST") + b"first")
        assert got_first.wait(10)
        client.send(b"later")
        client.until(b"first")
        may_end.set()

        assert client.exactly(5) == b"rest!"


def test_expect_100_continue_is_answered_before_the_body(mesh: Mesh) -> None:
    with Client(mesh.port) as client:
        client.send(get("/open/", "mesh.test", "Content-Length: 4", "Expect: 100-continue", method="POST"))

        assert client.answer().status == 100
        client.send(b"body")
        assert client.answer().status == 200
    seen = mesh.origin.next_request()
    assert seen.body == b"body"
    assert seen.header("expect") is None


def test_head_has_a_length_and_no_body(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    with Client(mesh.port) as client:
        said = client.ask(get("/open/", method="HEAD"))

        assert (said.status, said.header("content-length")) == (200, "5000")
        mesh.origin.script = answer(OK)
        assert client.ask(get("/open/")).body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_leave_the_connection_usable(mesh: Mesh, status: int) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 %d Fine\r\nETag: \"x\"\r\n\r\n" % status)
    with Client(mesh.port) as client:
        said = client.ask(get("/open/"))

        assert (said.status, said.header("etag"), said.header("transfer-encoding")) == (status, '"x"', None)
        mesh.origin.script = answer(OK)
        assert client.ask(get("/open/")).body == b"ok"


def test_a_103_does_not_end_the_exchange(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + OK)
    with Client(mesh.port) as client:
        said = client.ask(get("/open/"))
        if said.status == 103:
            assert said.header("link") == "</a.css>"
            said = client.answer()

        assert (said.status, said.body) == (200, b"ok")


def test_a_body_until_close_becomes_chunked(mesh: Mesh) -> None:
    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        connection.sock.shutdown(socket.SHUT_RDWR)

    mesh.origin.script = script
    with Client(mesh.port) as client:
        assert client.ask(get("/open/")).body == b"until the end"
        mesh.origin.script = answer(OK)
        assert client.ask(get("/open/")).body == b"ok", "the client's connection outlives the origin's"


def test_connection_close_closes_after_the_answer(mesh: Mesh) -> None:
    with Client(mesh.port) as client:
        said = client.ask(get("/open/", "mesh.test", "Connection: close"))

        assert (said.status, said.header("connection")) == (200, "close")
        assert client.is_closed()


def test_an_origin_that_closes_does_not_close_the_client(mesh: Mesh) -> None:
    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        connection.sock.shutdown(socket.SHUT_RDWR)

    mesh.origin.script = script
    with Client(mesh.port) as client:
        for _ in range(3):
            said = client.ask(get("/open/"))

            assert (said.status, said.header("connection")) == (200, None)


def test_hop_by_hop_headers_end_here(mesh: Mesh) -> None:
    mesh.origin.script = answer(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"
        b"X-Kept: yes\r\nContent-Length: 2\r\n\r\nok"
    )
    said = ask(
        mesh.port,
        get("/open/", "mesh.test", "Connection: keep-alive", "Keep-Alive: 300", "Proxy-Connection: keep-alive", "TE: gzip", "X-Kept: yes"),
    )
    seen = mesh.origin.next_request()

    for name in ("keep-alive", "proxy-connection", "te"):
        assert seen.header(name) is None, name
    for name in ("keep-alive", "proxy-connection"):
        assert said.header(name) is None, name
    assert (seen.header("x-kept"), said.header("x-kept")) == ("yes", "yes")


def test_headers_keep_their_order_and_repetition(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-Z: 1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok")
    said = ask(mesh.port, get("/open/", "mesh.test", "X-A: 1", "X-B: 2", "X-A: 3"))
    seen = mesh.origin.next_request()

    assert [value for name, value in said.headers if name.lower() == "set-cookie"] == ["a=1", "b=2"]
    assert [value for name, value in seen.headers if name.lower() == "x-a"] == ["1", "3"]


def test_header_case_and_raw_path_are_kept(mesh: Mesh, on_envoy: bool) -> None:
    if on_envoy:
        pytest.skip("Envoy lower-cases header names unless it is told to preserve them")
    path = "/open/%7Euser/a%2Fb;p=1/?q=%20%22&x=+"
    mesh.origin.script = answer(b"HTTP/1.1 200 OK\r\nX-OrIgIn: 1\r\nContent-Length: 2\r\n\r\nok")
    said = ask(mesh.port, get(path, "mesh.test", "X-ClIeNt: 1"))
    seen = mesh.origin.next_request()

    assert seen.target == path
    assert ("X-ClIeNt", "1") in seen.headers
    assert ("X-OrIgIn", "1") in said.headers


def test_the_origin_learns_who_asked(mesh: Mesh) -> None:
    ask(mesh.port, get("/open/"))
    seen = mesh.origin.next_request()

    assert seen.header("host") == "mesh.test"
    assert seen.header("x-forwarded-for") in own_addresses()
    assert seen.header("x-forwarded-proto") == "http"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", seen.header("x-request-id") or "")


def test_request_ids_differ(mesh: Mesh) -> None:
    for _ in range(20):
        ask(mesh.port, get("/open/"))

    assert len({mesh.origin.next_request().header("x-request-id") for _ in range(20)}) == 20


def test_a_clients_own_x_forwarded_for_is_appended_to(mesh: Mesh) -> None:
    ask(mesh.port, get("/open/", "mesh.test", "X-Forwarded-For: 203.0.113.7"))

    forwarded = mesh.origin.next_request().header("x-forwarded-for") or ""
    first, ours = re.split(r",\s*", forwarded)
    assert first == "203.0.113.7"
    assert ours in own_addresses()


def test_the_answer_says_how_long_the_origin_took(mesh: Mesh) -> None:
    said = ask(mesh.port, get("/open/"))

    assert (said.header("x-envoy-upstream-service-time") or "").isdigit()
    assert said.header("server") == "envoy"


def test_absolute_form_routes_by_its_authority(mesh: Mesh) -> None:
    ask(mesh.port, get("http://other.test/open/abs?x=1", "mesh.test"))
    seen = mesh.origin.next_request()

    assert (seen.target, seen.header("host")) == ("/open/abs?x=1", "other.test")


# --- answers of our own


def test_no_route_is_404(mesh: Mesh) -> None:
    said = ask(mesh.port, get("/nowhere"))

    assert (said.status, said.body) == (404, b"")


def test_direct_responses_and_redirects(mesh: Mesh) -> None:
    teapot, moved, secure = (ask(mesh.port, get(path)) for path in ("/teapot", "/old/page?x=1", "/tls"))

    assert (teapot.status, teapot.body, teapot.header("content-type")) == (418, b"short and stout", "text/plain")
    assert (moved.status, moved.header("location")) == (308, "http://mesh.test/new/page?x=1")
    assert (secure.status, secure.header("location")) == (301, "https://mesh.test/tls")


def test_prefix_rewrite_changes_the_path_and_tells_the_old_one(mesh: Mesh) -> None:
    ask(mesh.port, get("/rewritten/x?y=1"))
    seen = mesh.origin.next_request()

    assert (seen.target, seen.header("x-envoy-original-path")) == ("/base/x?y=1", "/rewritten/x?y=1")


def test_no_endpoint_is_503(mesh: Mesh) -> None:
    said = ask(mesh.port, get("/nobody"))

    assert (said.status, said.body) == (503, b"no healthy upstream")


def test_a_refused_connect_is_503(mesh: Mesh) -> None:
    said = ask(mesh.port, get("/dead"))

    assert said.status == 503
    assert said.body.startswith(b"upstream connect error or disconnect/reset before headers. ")
    assert b"remote connection failure" in said.body


def test_an_origin_that_closes_before_its_head_is_503(mesh: Mesh) -> None:
    mesh.origin.script = lambda connection, request: connection.sock.shutdown(socket.SHUT_RDWR)
    said = ask(mesh.port, post(b"x", "/open/"))

    assert said.status == 503
    assert said.body == b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"


def test_an_origin_that_talks_nonsense_is_502(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"NONSENSE\r\n\r\n")
    said = ask(mesh.port, post(b"x", "/open/"))

    assert said.status == 502
    assert said.body == b"upstream connect error or disconnect/reset before headers. reset reason: protocol error"


def test_a_slow_origin_is_504(mesh: Mesh) -> None:
    mesh.origin.script = lambda connection, request: None
    said = ask(mesh.port, get("/short"))

    assert (said.status, said.body) == (504, b"upstream request timeout")


def test_an_origin_cut_in_its_body_cuts_the_client(mesh: Mesh) -> None:
    """A truncated body must not look whole (RFC 9112 8)."""

    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        connection.sock.shutdown(socket.SHUT_RDWR)

    mesh.origin.script = script
    with Client(mesh.port) as client:
        client.send(get("/open/"))
        whole = client.rest()

    assert whole.startswith(b"HTTP/1.1 200")
    assert whole.endswith(b"half")


def test_a_chunked_answer_cut_short_has_no_last_chunk(mesh: Mesh) -> None:
    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        connection.sock.shutdown(socket.SHUT_RDWR)

    mesh.origin.script = script
    with Client(mesh.port) as client:
        client.send(get("/open/"))

        assert not client.rest().endswith(b"0\r\n\r\n")


def test_a_full_breaker_is_503_with_a_mark(mesh: Mesh) -> None:
    """One connection is busy and one request waits for it: the third is refused, and the waiting one is served."""
    release = threading.Event()

    def script(connection: Connection, request: Request) -> None:
        release.wait(10)
        connection.send(OK)

    mesh.origin.script = script
    with Client(mesh.port) as busy, Client(mesh.port) as waiting:
        busy.send(get("/limited"))
        mesh.origin.next_request()
        waiting.send(get("/limited"))
        # Nothing outside shows that the second waits, so refusals are asked for until the third comes.
        said = next(said for said in iter(lambda: _quick(mesh.port, get("/limited")), None) if said)
        release.set()

        assert (busy.answer().status, waiting.answer().status) == (200, 200)
    assert said.status == 503
    assert said.header("x-envoy-overloaded") == "true"
    assert said.body == b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
    assert ask(mesh.port, get("/limited")).status == 200, "the breaker closes again"


def _quick(port: int, data: bytes) -> Answer | None:
    """An answer that comes at once; None when there is none yet (and the request is given up)."""
    with Client(port) as client:
        client.sock.settimeout(0.5)
        try:
            return client.ask(data)
        except TimeoutError:
            return None


def test_retries_reach_a_good_answer(mesh: Mesh) -> None:
    tries = iter([b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", OK])
    mesh.origin.script = lambda connection, request: connection.send(next(tries))
    said = ask(mesh.port, post(b"again and again", "/retried"))

    assert said.status == 200
    assert [mesh.origin.next_request().body for _ in range(3)] == [b"again and again"] * 3


def test_retries_end(mesh: Mesh) -> None:
    mesh.origin.script = answer(b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad")
    said = ask(mesh.port, get("/retried"))

    assert (said.status, said.body) == (500, b"bad")
    assert mesh.origin.seen.qsize() == 3


def test_a_reset_is_retried(mesh: Mesh) -> None:
    first = iter([True])

    def script(connection: Connection, request: Request) -> None:
        if next(first, False):
            connection.sock.shutdown(socket.SHUT_RDWR)
        else:
            connection.send(OK)

    mesh.origin.script = script

    assert ask(mesh.port, get("/retried")).status == 200


# --- limits


def test_a_head_over_the_limit_is_431(mesh: Mesh) -> None:
    with Client(mesh.port) as client:
        client.send(get("/open/", "mesh.test", *(f"X-Filler-{number}: {'v' * 1000}" for number in range(70))))
        said = client.answer()

        assert said.status == 431
        assert client.is_closed()


def test_a_target_over_the_limit_is_refused_by_its_length(mesh: Mesh) -> None:
    with Client(mesh.port) as client:
        client.send(get("/open/" + "a" * 70_000))

        assert client.answer().status in (414, 431)
        assert client.is_closed()


def test_trailers_over_the_limit_are_refused(mesh: Mesh) -> None:
    upload = get("/open/", "mesh.test", "Transfer-Encoding: chunked", method="POST") + b"0\r\n"
    with Client(mesh.port) as client:
        client.send(upload + b"X-Long: " + b"v" * 70_000 + b"\r\n\r\n")

        assert client.answer().status in (400, 413, 431)
        assert client.is_closed()


def test_too_many_headers_are_431(mesh: Mesh) -> None:
    said = ask(mesh.port, get("/open/", "mesh.test", *(f"X-{number}: 1" for number in range(120))))

    assert said.status == 431


def test_a_head_that_never_ends_is_408(mesh: Mesh) -> None:
    with Client(mesh.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")

        assert client.answer().status == 408
        assert client.is_closed()


@pytest.mark.parametrize("nonsense", [b"NONSENSE\r\n\r\n", b"\x00\x01\x02\x03", b"GET / HTTP/1.1\r\nHost x\r\n\r\n"])
def test_nonsense_is_400_and_a_close(mesh: Mesh, nonsense: bytes) -> None:
    with Client(mesh.port) as client:
        client.send(nonsense)
        said = client.answer()

        assert (said.status, said.header("connection")) == (400, "close")
        assert client.is_closed()


# --- both directions at once


def test_an_early_answer_while_the_upload_runs(mesh: Mesh) -> None:
    def converse(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        connection.rest()

    mesh.raw.raw = converse
    with Client(mesh.port) as client:
        client.send(get("/raw/", "mesh.test", "Content-Length: 100000000", method="POST") + b"x" * 1000)
        said = client.answer()

        assert (said.status, said.body) == (403, b"no")


def test_a_large_body_passes_in_both_directions(mesh: Mesh) -> None:
    body = bytes(range(256)) * 16384  # 4 MiB

    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body))
        connection.send(request.body)

    mesh.origin.script = script
    with Client(mesh.port) as client:
        sending = threading.Thread(target=client.send, args=(post(body, "/open/"),))
        sending.start()
        said = client.answer()
        sending.join()

    assert said.body == body


def test_websocket_frames_pass_both_ways(mesh: Mesh) -> None:
    from websockets.sync.client import connect
    from websockets.sync.server import serve

    with serve(lambda socket: [socket.send(message) for message in socket], "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        mesh.raw.raw = _relay_to(server.socket.getsockname()[1])
        try:
            with connect(f"ws://127.0.0.1:{mesh.port}/ws/echo", proxy=None, compression=None) as client:
                for message in ("hello", b"\x00\xff" * 40000, "bye"):
                    client.send(message)
                    assert client.recv(timeout=10) == message
        finally:
            server.shutdown()
            serving.join()


def _relay_to(port: int):
    """A raw script that passes bytes to a server behind: the origin's address is in the proxy's configuration already."""

    def converse(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", port)) as behind:
            back = threading.Thread(target=_copy, args=(behind, connection.sock), daemon=True)
            back.start()
            _copy(connection.sock, behind)
            back.join(10)

    return converse


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_an_upgrade_where_none_is_allowed_is_403(mesh: Mesh) -> None:
    said = ask(mesh.port, get("/open/", "mesh.test", "Connection: Upgrade", "Upgrade: websocket"))

    assert said.status == 403
