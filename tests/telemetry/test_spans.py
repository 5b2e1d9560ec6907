"""What the agent makes of the records that workers leave: spans, and never an exception."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.model import Tracing
from meshproxy.telemetry.spans import Span, records_of, span_count, spans_of

FIXED = struct.Struct("<IBbbxHHH5Q6qQQ")
"""`Fixed` of proxy/trace.pyx."""
KEYS = {
    "operation": 0, "request_id": 1, "url": 2, "method": 3, "downstream_cluster": 4, "user_agent": 5, "peer": 6, "cluster": 7, "address": 8,
    "reason": 10, "grpc_path": 11, "grpc_status": 15, "tag": 255,
}
HAS_PARENT, SHARED, CLIENT, UPSTREAM, DEBUG, TRY, CANCELED = 1, 2, 4, 8, 16, 32, 64
TRACING = Tracing(exporter="zipkin_json", node_id="n1", node_cluster="web", node_zone="z")


def record(flags: int, texts: list[tuple[str, bytes]], status: int = 200, upstream: int = 200, tries: int = 1, bits: int = 0) -> bytes:
    body = b"".join(struct.pack("<BH", KEYS[name], len(text)) + text for name, text in texts)
    fixed = FIXED.pack(
        FIXED.size + len(body), flags, 1, 2, status, upstream, tries, 1, 2, 3, 4, 5, 1_000_000, 900, 100, 700, 10, 20, bits, bits
    )
    return fixed + body


def spans(data: bytes) -> list[Span]:
    return [span for each in records_of(data) for span in spans_of(each, TRACING)]


def test_a_requests_span() -> None:
    texts = [("operation", b"get"), ("url", b"http://h/"), ("method", b"GET"), ("peer", b"10.0.0.1"), ("tag", b"own"), ("tag", b"v")]
    (span,) = spans(record(HAS_PARENT | SHARED, texts))

    assert (span.trace_high, span.trace_low, span.id, span.parent, span.name, span.service) == (1, 2, 3, 4, "get", "web")
    assert (span.client, span.shared, span.debug, span.error, span.start_us, span.duration_us) == (False, True, False, False, 1_000_000, 900)
    assert span.tags == {
        "node_id": "n1", "zone": "z", "http.url": "http://h/", "http.method": "GET", "downstream_cluster": "-", "user_agent": "-",
        "http.protocol": "HTTP/1.1", "peer.address": "10.0.0.1", "request_size": "10", "response_size": "20", "http.status_code": "200",
        "response_flags": "-", "component": "proxy", "own": "v",
    }


def test_what_went_upstream_is_its_child() -> None:
    server, client = spans(record(UPSTREAM, [("cluster", b"shop"), ("address", b"10.0.0.2:80")], status=504, upstream=0, tries=2, bits=4))

    assert (client.parent, client.id, client.name, client.client) == (server.id, 5, "router shop egress", True)
    assert (client.start_us, client.duration_us) == (1_000_100, 600)
    assert client.tags == {
        "upstream_address": "10.0.0.2:80", "peer.address": "10.0.0.2:80", "http.protocol": "HTTP/2", "http.status_code": "0",
        "response_flags": "UT", "error": "true", "component": "proxy", "upstream_cluster": "shop", "upstream_cluster.name": "shop",
        "retry.count": "1",
    }
    assert server.tags["error"] == "true"


def test_a_try_that_failed_is_one_span() -> None:
    failed = record(UPSTREAM | TRY | CANCELED, [("cluster", b"shop"), ("reason", b"remote reset")], status=0, upstream=200)
    (span,) = spans(failed)

    assert span_count(failed) == 1
    assert (span.client, span.error) == (True, True)
    assert (span.tags["error.reason"], span.tags["canceled"]) == ("remote reset", "true")
    assert "retry.count" not in span.tags


def test_a_grpc_status_can_be_an_error() -> None:
    for status, error in {b"0": False, b"5": False, b"14": True, b"x": False}.items():
        made = spans(record(UPSTREAM, [("grpc_path", b"/s/m"), ("grpc_status", status)]))
        assert [span.error for span in made] == [error, error]
        assert [span.tags["grpc.status_code"] for span in made] == [status.decode()] * 2
        assert ["grpc.path" in span.tags for span in made] == [True, False]


def test_records_are_cut_apart_and_counted() -> None:
    data = record(0, [("url", b"a")]) + record(UPSTREAM, [("url", b"b")])

    assert [span_count(each) for each in records_of(data)] == [1, 2]
    assert [span.tags.get("http.url") for span in spans(data)] == ["a", "b", None]
    assert len(spans(data[:-1])) == 1


def test_text_that_is_no_utf_8_is_marked() -> None:
    (span,) = spans(record(0, [("url", b"/\xff")]))

    assert span.tags["http.url"] == "/\ufffd"


@given(st.binary(max_size=400))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    for each in spans(struct.pack("<I", FIXED.size + len(data)) + bytes(FIXED.size - 4) + data):
        assert each.duration_us > 0
    spans(data)
