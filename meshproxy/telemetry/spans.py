"""Spans: the records that workers leave (`proxy/trace.pyx`), and what Envoy's tracers say of a request."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from meshproxy.model import Tracing
from meshproxy.telemetry.operators import FLAGS

_FIXED = struct.Struct("<IBbbxHH5Q6qQ")
_TEXT = struct.Struct("<BH")
_HAS_PARENT, _SHARED, _CLIENT, _UPSTREAM, _DEBUG = 1, 2, 4, 8, 16
_TEXTS = (
    "operation", "request_id", "url", "method", "downstream_cluster", "user_agent", "peer", "cluster", "upstream_address", "client_trace_id",
)
_TAG = 255
_PROTOCOLS = {0: "HTTP/1.0", 1: "HTTP/1.1", 2: "HTTP/2"}


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span, as all encoders take it. Ids are numbers; times are unix microseconds."""

    trace_high: int
    trace_low: int
    id: int
    parent: int
    """0 = none."""
    name: str
    client: bool
    shared: bool
    debug: bool
    start_us: int
    duration_us: int
    service: str
    error: bool
    tags: dict[str, str]


def spans_of(data: bytes | bytearray, tracing: Tracing) -> Iterator[Span]:
    """The spans of a run of whole records. Bytes that are no record end it."""
    at = 0
    while at + _FIXED.size <= len(data):
        fixed = _FIXED.unpack_from(data, at)
        end = at + fixed[0]
        if fixed[0] < _FIXED.size or end > len(data):
            return
        texts, tags = _read_texts(memoryview(data)[at + _FIXED.size : end])
        yield from _spans(fixed, texts, tags, tracing)
        at = end


def _read_texts(data: memoryview) -> tuple[dict[str, str], list[str]]:
    texts: dict[str, str] = {}
    tags: list[str] = []
    at = 0
    while at + _TEXT.size <= len(data):
        key, length = _TEXT.unpack_from(data, at)
        at += _TEXT.size
        text = str(data[at : at + length], "utf-8", "replace")
        at += length
        if key == _TAG:
            tags.append(text)
        elif key < len(_TEXTS):
            texts[_TEXTS[key]] = text
    return texts, tags


def _spans(fixed: tuple, texts: dict[str, str], own: list[str], tracing: Tracing) -> Iterator[Span]:
    (_, flags, minor_version, upstream_version, status, attempts, high, low, identity, parent, upstream_id,
     start_us, duration_us, upstream_start_us, upstream_end_us, received, sent, response_flags) = fixed  # fmt: skip
    service = tracing.service_name or tracing.node_cluster or "meshproxy"
    error = status == 0 or status >= 500
    common = {"component": "proxy"}
    if "cluster" in texts:
        common["upstream_cluster"] = common["upstream_cluster.name"] = texts["cluster"]
    common["http.status_code"] = str(status)
    common["response_flags"] = ",".join(short for bit, (short, _) in enumerate(FLAGS) if response_flags >> bit & 1) or "-"
    common.update(zip(own[::2], own[1::2], strict=False))
    if error:
        common["error"] = "true"
    tags = {"node_id": tracing.node_id, "zone": tracing.node_zone}
    if "request_id" in texts:
        tags["guid:x-request-id"] = texts["request_id"]
    tags["http.url"] = texts.get("url", "")
    tags["http.method"] = texts.get("method", "")
    tags["downstream_cluster"] = texts.get("downstream_cluster") or "-"
    tags["user_agent"] = texts.get("user_agent") or "-"
    tags["http.protocol"] = _PROTOCOLS.get(minor_version, "-")
    tags["peer.address"] = texts.get("peer", "")
    if "client_trace_id" in texts:
        tags["guid:x-client-trace-id"] = texts["client_trace_id"]
    tags["request_size"] = str(received)
    tags["response_size"] = str(sent)
    tags.update(common)
    yield Span(
        trace_high=high, trace_low=low, id=identity, parent=parent if flags & _HAS_PARENT else 0, name=texts.get("operation", ""),
        client=bool(flags & _CLIENT), shared=bool(flags & _SHARED), debug=bool(flags & _DEBUG), start_us=start_us,
        duration_us=max(duration_us, 1), service=service, error=error, tags=tags,
    )  # fmt: skip
    if flags & _UPSTREAM:
        address = texts.get("upstream_address", "")
        tags = {"upstream_address": address, "peer.address": address, "http.protocol": _PROTOCOLS.get(upstream_version, "-"), **common}
        if attempts > 1:
            tags["retry.count"] = str(attempts - 1)
        yield Span(
            trace_high=high, trace_low=low, id=upstream_id, parent=identity, name=f"router {texts.get('cluster', '-')} egress",
            client=True, shared=False, debug=bool(flags & _DEBUG), start_us=start_us + upstream_start_us,
            duration_us=max(upstream_end_us - upstream_start_us, 1), service=service, error=error, tags=tags,
        )  # fmt: skip
