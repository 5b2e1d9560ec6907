"""HTTP/1 heads, bodies and trailers as a caller of the codec sees them. Byte for byte rules are in the corpus."""

from __future__ import annotations

import re
from pathlib import Path

import h11
import pytest

from meshproxy.codecs import http1
from tests.corpus.http1 import responses, smuggling, valid
from tests.corpus.http1.case import Case
from tests.oracles import http1 as oracle

MORE, BODY_DATA, BODY_END = 1, 2, 3
BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_UNTIL_CLOSE = range(4)
CONTRACT = Path(http1.__file__).with_name("http1.pxd").read_text()


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *lines, b"", b""])


def parsed(data: bytes, **limits: int) -> dict:
    said = http1.parse_request_bytes(data, **limits)
    assert isinstance(said, dict), said
    return said


def error(data: bytes, **limits: int) -> int:
    said = http1.parse_request_bytes(data, **limits)
    assert isinstance(said, tuple), "it was read"
    return said[0]


# Names and numbers

def test_header_ids_are_those_of_the_contract_in_any_case() -> None:
    names = re.findall(r"^    HEADER_(\w+)$", CONTRACT, re.MULTILINE)
    for number, name in enumerate(names[:-1], start=1):
        if name == "X_ENVOY_OTHER":
            continue
        wire = name.lower().replace("_", "-").encode()
        assert [http1.header_id_of(each) for each in (wire, wire.upper(), wire.title())] == [number] * 3, name
        assert number not in (http1.header_id_of(wire[:-1]), http1.header_id_of(wire + b"x"))
        assert http1.header_id_of(bytes([wire[0] ^ 1]) + wire[1:]) != number, "the first letter counts"
        assert http1.header_id_of(wire[:-1] + bytes([wire[-1] ^ 1])) != number, "the last letter counts"


def test_other_header_names_have_no_id() -> None:
    assert [http1.header_id_of(name) for name in (b"", b"x", b"accept", b"x-envoy", b"x-envoy-", b"content_type", b"hosts")] == [0] * 7
    assert http1.header_id_of(b"X-Envoy-Whatever") == oracle.X_ENVOY_OTHER


def test_every_error_has_a_text_and_a_status() -> None:
    numbers = [int(number) for number in re.findall(r"^    ERROR_\w+ = (-\d+)", CONTRACT, re.MULTILINE)]

    assert len({http1.text_of(number) for number in numbers}) == len(numbers)
    assert all(map(http1.text_of, numbers))
    assert {number: http1.status_of(number) for number in numbers if http1.status_of(number) != 400} == {
        -3: 505, -16: 431, -17: 431, -18: 414, -21: 431, -24: 501,
    }


@pytest.mark.parametrize(("number", "method"), list(enumerate(oracle.METHODS, start=1)))
def test_methods(number: int, method: bytes) -> None:
    target = b"a:80" if method == b"CONNECT" else b"/"

    assert parsed(request(line=method + b" " + target + b" HTTP/1.1"))["method_id"] == number
    assert parsed(request(line=method.lower() + b" / HTTP/1.1"))["method_id"] == 0, "methods have a case"


# The head in pieces

def test_a_head_is_read_when_its_last_byte_is_there() -> None:
    data = request(b"X: y")
    for length in range(len(data)):
        assert error(data[:length], scanned=max(length - 1, 0)) == MORE

    assert parsed(data + b"next", scanned=len(data) - 1)["length"] == len(data)


def test_offsets_count_the_leading_empty_line() -> None:
    said = parsed(b"\r\n" + request())

    assert (said["length"], said["method"], said["path"]) == (len(request()) + 2, b"GET", b"/")


def test_a_pipelined_second_head_is_left_alone() -> None:
    first = request(line=b"GET /1 HTTP/1.1")
    data = first + request(line=b"GET /2 HTTP/1.1")

    assert parsed(data)["path"] == b"/1"
    assert parsed(data[len(first):])["path"] == b"/2"


@pytest.mark.parametrize(("begun", "number"), [
    (b"\x00", -5), (b"\n", -9), (b" ", -5), (b"\r\n\r", -1), (b"\rG", -8), (b"GET\t", -5), (b"GET /\r\n", -1), (b"GET / HTTP/1.1\n", -9),
    (b"GET / HTTP/1.1\r\nX: y\n", -9), (b"GET / HTTP/3.0\r\n", -3), (b"GET / HTTP/1.1 xx", -1), (b"PRI * HTTP/2.0\r\n", -22),
    (b"\x16\x03", -23), (b"\x16\x04", -5), (b"GET a HTTP/1.1\r\n", -4),
])
def test_what_can_no_longer_become_a_request_is_refused_before_its_end(begun: bytes, number: int) -> None:
    assert error(begun) == number


def test_what_can_still_become_a_request_is_waited_for() -> None:
    for begun in (b"", b"\r", b"\r\n", b"\r\nG", b"G", b"GET ", b"GET /", b"GET / ", b"GET / HTTP/1.1\r", b"PRI * HTTP/2.0\r", b"\x16"):
        assert error(begun) == MORE, begun


# Limits

def test_head_limit_holds_for_the_whole_head_and_on_the_way() -> None:
    data = request(b"X: " + b"y" * 50)

    assert parsed(data, head_bytes=len(data))["length"] == len(data)
    assert error(data, head_bytes=len(data) - 1) == -16
    assert error(data[:60], head_bytes=60) == -16, "60 bytes without an end cannot be a head of 60 bytes"
    assert error(data[:59], head_bytes=60) == MORE


def test_header_limit() -> None:
    data = request(b"X: y", b"X: y")

    assert len(parsed(data, headers=3)["headers"]) == 3
    assert error(data, headers=2) == -17


def test_target_limit_holds_for_the_whole_head_and_on_the_way() -> None:
    data = request(line=b"GET /1234 HTTP/1.1")

    assert parsed(data, target_bytes=5)["target"] == b"/1234"
    assert error(data, target_bytes=4) == -18
    assert error(b"GET /1234", target_bytes=4) == -18
    assert error(b"GET /123", target_bytes=4) == MORE


def test_forms_and_versions_can_be_forbidden() -> None:
    assert error(request(line=b"GET http://a/ HTTP/1.1"), allow_absolute_form=False) == -4
    assert error(request(line=b"GET / HTTP/1.0"), allow_http_10=False) == -3


def test_a_value_of_every_length_is_found_whole() -> None:
    """Values are scanned 16 bytes at a time: every length and every alignment has its turn."""
    for length in range(70):
        value = b"v" * length
        assert parsed(request(b"X: " + value, b"Y: z"))["headers"][1:] == [(b"X", value, 0, False), (b"Y", b"z", 0, False)]
        assert error(request(b"X: " + value + b"\x01" + b"v" * 40)) == -7
        assert parsed(request(line=b"GET /" + value + b" HTTP/1.1"))["target"] == b"/" + value
        assert error(request(line=b"GET /" + value + b"\x80" + b"v" * 40 + b" HTTP/1.1")) == -4


def test_every_byte_has_its_place() -> None:
    """All 256 bytes in names, values, targets and hosts, against the twin's classes."""
    for byte in range(256):
        one = bytes([byte])
        for data in (request(b"X" + one + b": y"), request(b"X: a" + one + b"b"), request(line=b"GET /" + one + b" HTTP/1.1"),
                     b"GET / HTTP/1.1\r\nHost: a" + one + b"b\r\n\r\n", one + request()):
            said = http1.parse_request_bytes(data)
            assert (said[0] if isinstance(said, tuple) else said) == oracle.parse_request(data), data


# Connection

def test_connection_takes_only_what_is_meant_for_this_connection() -> None:
    said = parsed(request(b"Connection: close, X-Y, Cookie", b"X-Y: 1", b"x-y: 2", b"Cookie: a=b"))

    assert [(name, hop) for name, _, _, hop in said["headers"]] == [
        (b"Host", False), (b"Connection", True), (b"X-Y", True), (b"x-y", True), (b"Cookie", False),
    ]


def test_a_connection_header_nominates_at_most_32_names() -> None:
    names = [b"x%d" % number for number in range(33)]

    assert parsed(request(b"Connection: " + b",".join(names[:32])))
    assert error(request(b"Connection: " + b",".join(names))) == -7
    assert error(request(*[b"Connection: " + name for name in names])) == -7, "counted over all lines"


@pytest.mark.parametrize("name", [*oracle.END_TO_END, *oracle.NAMES, b"x-forwarded-port", b"x-envoy-other", b"content-range"])
def test_no_connection_header_takes_what_others_rely_on(name: bytes) -> None:
    lines = [b"Connection: close, " + name.title()]
    if name not in (b"host", b"transfer-encoding", b"content-length", b"connection"):
        lines.append(name + b": 1")

    gone = {field.lower() for field, _, _, hop_by_hop in parsed(request(*lines))["headers"] if hop_by_hop}

    assert gone <= {b"connection", name} & oracle.HOP_BY_HOP


@pytest.mark.parametrize("name", [b"x-y", b"x-forwarded", b"cookies", b"xcookie", b"trace-parent", b"accept"])
def test_a_connection_header_takes_any_other_field(name: bytes) -> None:
    assert (name, b"1", 0, True) in parsed(request(b"Connection: " + name.upper(), name + b": 1"))["headers"]


# Trailers

FORBIDDEN_TRAILERS = [
    *oracle.NAMES, *oracle.END_TO_END, *oracle.NO_TRAILERS, b"if-none-match", b"content-md5", b"x-forwarded-port", b"x-envoy-a",
    b"content_length", b"transfer_encoding",
]


@pytest.mark.parametrize("name", FORBIDDEN_TRAILERS)
def test_a_trailer_cannot_change_what_the_head_promised(name: bytes) -> None:
    assert http1.parse_trailers_bytes(b"X: 1\r\n" + name.title() + b": 1\r\n")[0] == -20


@pytest.mark.parametrize("name", FORBIDDEN_TRAILERS)
def test_a_body_does_not_end_with_a_forbidden_trailer(name: bytes) -> None:
    assert http1.Decoder(BODY_CHUNKED).feed(b"0\r\nX: 1\r\n" + name + b": 1\r\n\r\n")[1] == -20


def test_trailers_are_fields_like_others() -> None:
    lines = b"grpc-status: 0\r\nServer-Timing:  a \r\n"
    said = http1.parse_trailers_bytes(lines)

    assert isinstance(said, dict)
    assert said["headers"] == [(b"grpc-status", b"0", 0, False), (b"Server-Timing", b"a", 0, False)]
    assert said["length"] == len(lines + b"\r\n"), "the lines and the empty line that ends them"


# Bodies

def test_a_body_by_length_ends_where_it_says() -> None:
    decoder = http1.Decoder(BODY_LENGTH, 5)

    assert decoder.feed(b"hel") == ([b"hel"], MORE, 3, None)
    assert decoder.feed(b"loGET") == ([b"lo"], BODY_END, 2, None)
    assert decoder.feed(b"GET") == ([], BODY_END, 0, None)


def test_no_body_ends_at_once() -> None:
    assert http1.Decoder(BODY_NONE).feed(b"GET") == ([], BODY_END, 0, None)
    assert http1.Decoder(BODY_LENGTH, 0).feed(b"") == ([], BODY_END, 0, None)


def test_a_body_until_close_never_ends() -> None:
    decoder = http1.Decoder(BODY_UNTIL_CLOSE)

    assert decoder.feed(b"a") == ([b"a"], MORE, 1, None)
    assert decoder.feed(b"") == ([], MORE, 0, None)


def test_chunks_come_as_slices() -> None:
    assert http1.Decoder(BODY_CHUNKED).feed(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nGET") == ([b"abc", b"de"], BODY_END, 24, None)


def test_trailers_in_one_piece_and_in_many() -> None:
    data, trailers = b"0\r\nA: 1\r\nB: 2\r\n\r\n", b"A: 1\r\nB: 2\r\n"
    assert http1.Decoder(BODY_CHUNKED).feed(data) == ([], BODY_END, len(data), trailers)

    decoder = http1.Decoder(BODY_CHUNKED)
    for byte in data[:-1]:
        assert decoder.feed(bytes([byte])) == ([], MORE, 1, None)
    assert decoder.feed(data[-1:]) == ([], BODY_END, 1, trailers)
    decoder.release()
    decoder.release()


def test_trailer_limit_counts_lines_but_not_the_end() -> None:
    assert http1.Decoder(BODY_CHUNKED, -1, 6).feed(b"0\r\nA: 1\r\n\r\n")[1:] == (BODY_END, 11, b"A: 1\r\n")
    assert http1.Decoder(BODY_CHUNKED, -1, 5).feed(b"0\r\nA: 1\r\n\r\n")[1] == -21
    assert http1.Decoder(BODY_CHUNKED, -1, 0).feed(b"0\r\n\r\n")[1] == BODY_END


def test_a_failed_body_stays_failed() -> None:
    decoder = http1.Decoder(BODY_CHUNKED)

    assert decoder.feed(b"x")[1] == -19
    assert decoder.feed(b"0\r\n\r\n")[1] == -19


def test_extensions_of_a_whole_body_are_bounded() -> None:
    chunk = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    allowed = 16384 // 201

    assert http1.Decoder(BODY_CHUNKED).feed(chunk * allowed)[1] == MORE
    assert http1.Decoder(BODY_CHUNKED).feed(chunk * (allowed + 1))[1] == -19


def test_the_largest_chunk() -> None:
    assert http1.Decoder(BODY_CHUNKED).feed(b"4000000000000000\r\nx") == ([b"x"], MORE, 19, None)
    assert http1.Decoder(BODY_CHUNKED).feed(b"4000000000000001\r\nx")[1] == -19


# Against h11, which reads the same RFC

NOT_AS_H11 = {
    "te-case": "h11 rewrites the value of Transfer-Encoding to lower case; we keep it, and the line does not go on",
    "leading-empty-line": "h11 wants the request line first; RFC 9112 2.2 has servers pass over an empty line",
}
READ_BY_BOTH = [case for case in valid.REQUESTS + smuggling.NORMALISED if case.name not in NOT_AS_H11]


def h11_request(case: Case) -> tuple[h11.Request, bytes]:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    server.receive_data(case.data)
    head = server.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    return head, body


@pytest.mark.parametrize("case", READ_BY_BOTH, ids=lambda case: case.name)
def test_valid_requests_mean_the_same_to_h11(case: Case) -> None:
    said = parsed(case.data)
    head, body = h11_request(case)
    fed = http1.Decoder(said["body"], said["content_length"]).feed(case.data[said["length"]:])

    assert (said["method"], said["target"]) == (head.method, head.target)
    assert [(name, value) for name, value, _, _ in said["headers"]] == list(head.headers.raw_items())
    assert b"".join(fed[0]) == body


@pytest.mark.parametrize("case", responses.GOOD, ids=lambda case: case.name)
def test_good_responses_mean_the_same_to_h11(case: Case) -> None:
    said = http1.parse_response_bytes(case.data, case.method)
    assert isinstance(said, dict)
    client = h11.Connection(h11.CLIENT)
    upgrade = [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")] if said["status"] == 101 else []
    target = b"a:80" if case.method == b"CONNECT" else b"/"
    client.send(h11.Request(method=case.method, target=target, headers=[(b"Host", b"a"), *upgrade]))
    client.send(h11.EndOfMessage())
    client.receive_data(case.data)
    head = client.next_event()

    assert isinstance(head, h11.Response | h11.InformationalResponse)
    assert (said["status"], said["reason"]) == (head.status_code, head.reason)
