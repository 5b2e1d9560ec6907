"""Spans: the records that workers leave (`proxy/trace.pyx`), and what Envoy's tracers say of a request."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from meshproxy.model import Tracing
from meshproxy.telemetry.operators import FLAGS

_FIXED = struct.Struct("<IBbbxHHH5Q6qQQ")
_LENGTH = struct.Struct("<I")
_TEXT = struct.Struct("<BH")
_HAS_PARENT, _SHARED, _CLIENT, _UPSTREAM, _DEBUG, _TRY, _CANCELED = 1, 2, 4, 8, 16, 32, 64
_TEXTS = (
    "operation", "request_id", "url", "method", "downstream_cluster", "user_agent", "peer", "cluster", "upstream_address", "client_trace_id", "reason",
    "grpc_path", "grpc_authority", "grpc_content_type", "grpc_timeout", "grpc_status", "grpc_message",
)
_TAG = 255
_GRPC_TAGS = {name: name.replace("_", ".", 1) for name in _TEXTS if name.startswith("grpc_")} | {"grpc_status": "grpc.status_code"}
_GRPC_REQUEST = ("grpc_path", "grpc_authority", "grpc_content_type", "grpc_timeout")
_GRPC_FAILURES = frozenset({"2", "4", "8", "12", "13", "14", "15"})
"""Statuses that are an endpoint's fault: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS."""
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


def records_of(data: bytes | bytearray) -> Iterator[bytes]:
    """The records of a run of whole ones, unread. Bytes that are no record end it."""
    at = 0
    while at + _FIXED.size <= len(data):
        end = at + _LENGTH.unpack_from(data, at)[0]
        if end < at + _FIXED.size or end > len(data):
            return
        yield bytes(data[at:end])
        at = end


def span_count(record: bytes) -> int:
    """How many spans a record makes: 1 or 2."""
    return 2 if record[_LENGTH.size] & (_UPSTREAM | _TRY) == _UPSTREAM else 1


def spans_of(record: bytes, tracing: Tracing) -> Iterator[Span]:
    """The spans of one record of `records_of`: the request's, what went upstream, or both."""
    fixed = _FIXED.unpack_from(record, 0)
    texts, tags = _read_texts(memoryview(record)[_FIXED.size :])
    return _spans(fixed, texts, tags, tracing)


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
    (_, flags, minor_version, upstream_version, status, upstream_status, tries, high, low, identity, parent, upstream_id,
     start_us, duration_us, upstream_start_us, upstream_end_us, received, sent, response_flags, upstream_flags) = fixed  # fmt: skip
    service = tracing.service_name or tracing.node_cluster or "meshproxy"
    grpc_failed = texts.get("grpc_status", "") in _GRPC_FAILURES
    common = {"component": "proxy"}
    if "cluster" in texts:
        common["upstream_cluster"] = common["upstream_cluster.name"] = texts["cluster"]
    for name in ("status", "message"):
        if f"grpc_{name}" in texts:
            common[_GRPC_TAGS[f"grpc_{name}"]] = texts[f"grpc_{name}"]
    common.update(zip(own[::2], own[1::2], strict=False))
    if not flags & _TRY:
        error = status == 0 or status >= 500 or grpc_failed
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
        for name in _GRPC_REQUEST:
            if name in texts:
                tags[_GRPC_TAGS[name]] = texts[name]
        tags |= _outcome(status, response_flags, error) | common
        yield Span(
            trace_high=high, trace_low=low, id=identity, parent=parent if flags & _HAS_PARENT else 0, name=texts.get("operation", ""),
            client=bool(flags & _CLIENT), shared=bool(flags & _SHARED), debug=bool(flags & _DEBUG), start_us=start_us,
            duration_us=max(duration_us, 1), service=service, error=error, tags=tags,
        )  # fmt: skip
    if flags & _UPSTREAM:
        address = texts.get("upstream_address", "")
        error = upstream_status == 0 or upstream_status >= 500 or "reason" in texts or grpc_failed
        tags = {"upstream_address": address, "peer.address": address, "http.protocol": _PROTOCOLS.get(upstream_version, "-")}
        tags |= _outcome(upstream_status, upstream_flags, error) | common
        if "reason" in texts:
            tags["error.reason"] = texts["reason"]
        if flags & _CANCELED:
            tags["canceled"] = "true"
        if tries > 1:
            tags["retry.count"] = str(tries - 1)
        yield Span(
            trace_high=high, trace_low=low, id=upstream_id, parent=identity, name=f"router {texts.get('cluster', '-')} egress",
            client=True, shared=False, debug=bool(flags & _DEBUG), start_us=start_us + upstream_start_us,
            duration_us=max(upstream_end_us - upstream_start_us, 1), service=service, error=error, tags=tags,
        )  # fmt: skip


def _outcome(status: int, flags: int, error: bool) -> dict[str, str]:
    told = {"http.status_code": str(status), "response_flags": _flags(flags)}
    return {**told, "error": "true"} if error else told


def _flags(bits: int) -> str:
    return ",".join(short for bit, (short, _) in enumerate(FLAGS) if bits >> bit & 1) or "-"
