"""The admin API's HTTP as bytes: what is read, what is refused, what is written."""

from __future__ import annotations

import h11
import pytest

from meshproxy.admin.http import LAST_CHUNK, MAX_HEAD_BYTES, BadRequest, chunk, gathered, head_length, parse_head, render, streamed, text


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_request_is_read() -> None:
    request = parse_head(head("GET /stats?usedonly&filter=a%2Bb&type= HTTP/1.1", "Host: localhost:9901", "X-Odd:   v \t "))

    assert (request.method, request.path) == ("GET", "/stats")
    assert request.query == {"usedonly": "true", "filter": "a+b", "type": ""}
    assert request.headers == {"host": "localhost:9901", "x-odd": "v"}
    assert request.keep_alive


@pytest.mark.parametrize(
    ("query", "on"),
    [("graceful", True), ("graceful=", True), ("graceful=1", True), ("graceful=false", False), ("graceful=0", False), ("x", False)],
)
def test_switches(query: str, on: bool) -> None:
    assert parse_head(head(f"POST /drain_listeners?{query} HTTP/1.1", "Host: x")).flag("graceful") is on


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "Keep-Alive", True)],
)
def test_when_a_connection_is_kept(version: str, connection: str, kept: bool) -> None:
    lines = [f"GET / HTTP/{version}", "Host: x", *([f"Connection: {connection}"] if connection else [])]

    assert parse_head(head(*lines)).keep_alive is kept


def test_absolute_form_is_read_as_its_path() -> None:
    assert parse_head(head("GET http://localhost:9901/ready?x HTTP/1.1", "Host: localhost")).path == "/ready"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("GET / HTTP/1.1",), 400),
        (("GET / HTTP/2.0", "Host: x"), 400),
        (("GET  / HTTP/1.1", "Host: x"), 400),
        (("get / HTTP/1.1", "Host: x"), 400),
        (("GET nothing HTTP/1.1", "Host: x"), 400),
        (("GET /\x00 HTTP/1.1", "Host: x"), 400),
        (("GET / HTTP/1.1", "Host: x", "Host: y"), 400),
        (("GET / HTTP/1.1", "Host : x"), 400),
        (("GET / HTTP/1.1", "Host: x", " folded: y"), 400),
        (("GET / HTTP/1.1", "Host: x\ny: z"), 400),
        (("POST / HTTP/1.1", "Host: x", "Content-Length: -1"), 400),
        (("POST / HTTP/1.1", "Host: x", "Content-Length: 1", "Content-Length: 2"), 400),
        (("POST / HTTP/1.1", "Host: x", "Content-Length: 99999999"), 413),
        (("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"), 411),
        (("GET /?" + "&".join(f"a{n}=1" for n in range(200)) + " HTTP/1.1", "Host: x"), 400),
    ],
)
def test_what_is_refused(lines: tuple[str, ...], status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_head(head(*lines))

    assert refused.value.status == status


def test_a_head_is_found_at_every_split_and_bounded() -> None:
    whole = head("GET / HTTP/1.1", "Host: x")

    assert [head_length(whole[:end]) for end in range(len(whole))] == [0] * len(whole)
    assert head_length(whole + b"next") == len(whole)
    with pytest.raises(BadRequest) as refused:
        head_length(b"x" * MAX_HEAD_BYTES)
    assert refused.value.status == 431


def test_a_strict_client_reads_the_response() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.receive_data(render(text("hello", 503, headers=(("allow", "POST"),)), keep_alive=True))

    response = client.next_event()
    assert response.status_code == 503
    assert (b"allow", b"POST") in response.headers
    assert (b"x-content-type-options", b"nosniff") in response.headers
    assert bytes(client.next_event().data) == b"hello\n"
    assert isinstance(client.next_event(), h11.EndOfMessage)


def test_head_has_the_length_and_no_body() -> None:
    assert render(text("hello"), keep_alive=False, head_only=True).endswith(b"\r\n\r\n")
    assert b"content-length: 6\r\n" in render(text("hello"), keep_alive=False, head_only=True)


def test_a_streamed_response_is_read_whole() -> None:
    pieces = ["", "é" * 20_000, "b" * 20_000, "", "c"]
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    sent = [chunk(piece) for piece in gathered(pieces)]
    client.receive_data(render(streamed(pieces), keep_alive=True) + b"".join(sent) + LAST_CHUNK)
    client.next_event()
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)

    assert isinstance(event, h11.EndOfMessage)
    assert body.decode() == "".join(pieces)
    assert len(sent) == 2, "pieces are gathered"


def test_an_empty_stream_is_an_empty_body() -> None:
    assert list(gathered([])) == []
    assert list(gathered(["", ""])) == []
