"""Spans as collectors take them: Zipkin's API v2 (JSON and protobuf) and OTLP over HTTP (protobuf).

Both protobufs are a few fields deep, so they are written here: the agent's process has no protobuf library to load, and none to wait for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import msgspec

from meshproxy import __version__
from meshproxy.model import Tracing
from meshproxy.telemetry.spans import Span

_json = msgspec.json.Encoder()
_U64 = struct.Struct(">Q")
_FIXED64 = struct.Struct("<Q")

Encode = Callable[[Sequence[Span], Tracing], bytes]


# ---- Zipkin (zipkin-api: zipkin2-api.yaml, zipkin.proto) ----


def zipkin_json(spans: Sequence[Span], tracing: Tracing) -> bytes:
    """A JSON list of spans."""
    return _json.encode([_zipkin_object(span) for span in spans])


def _zipkin_object(span: Span) -> dict:
    made: dict = {
        "traceId": f"{span.trace_high:016x}{span.trace_low:016x}" if span.trace_high else f"{span.trace_low:016x}",
        "id": f"{span.id:016x}",
        "name": span.name,
        "kind": "CLIENT" if span.client else "SERVER",
        "timestamp": span.start_us,
        "duration": span.duration_us,
        "localEndpoint": {"serviceName": span.service},
        "tags": {name: value for name, value in span.tags.items() if value},
    }
    if span.parent:
        made["parentId"] = f"{span.parent:016x}"
    if span.shared:
        made["shared"] = True
    if span.debug:
        made["debug"] = True
    return made


def zipkin_proto(spans: Sequence[Span], tracing: Tracing) -> bytes:
    """`zipkin.proto3.ListOfSpans`."""
    return b"".join(_bytes(1, _zipkin_message(span)) for span in spans)


def _zipkin_message(span: Span) -> bytes:
    trace = (_U64.pack(span.trace_high) if span.trace_high else b"") + _U64.pack(span.trace_low)
    parts = [
        _bytes(1, trace),
        _bytes(2, _U64.pack(span.parent)) if span.parent else b"",
        _bytes(3, _U64.pack(span.id)),
        _number(4, 1 if span.client else 2),
        _text(5, span.name),
        _fixed64(6, span.start_us),
        _number(7, span.duration_us),
        _bytes(8, _text(1, span.service)),
        *(_bytes(11, _text(1, name) + _text(2, value)) for name, value in span.tags.items() if value),
        _number(12, span.debug),
        _number(13, span.shared),
    ]
    return b"".join(parts)


# ---- OTLP (opentelemetry-proto: collector/trace/v1/trace_service.proto) ----


def otlp(spans: Sequence[Span], tracing: Tracing) -> bytes:
    """An `ExportTraceServiceRequest`: one resource, one scope."""
    service = tracing.service_name or tracing.node_cluster or "meshproxy"
    resource = _bytes(1, _attribute("service.name", service))
    scope = _bytes(1, _text(1, "meshproxy") + _text(2, __version__))
    listed = b"".join(_bytes(2, _otlp_message(span)) for span in spans)
    return _bytes(1, _bytes(1, resource) + _bytes(2, scope + listed))


def _otlp_message(span: Span) -> bytes:
    parts = [
        _bytes(1, _U64.pack(span.trace_high) + _U64.pack(span.trace_low)),
        _bytes(2, _U64.pack(span.id)),
        _bytes(4, _U64.pack(span.parent)) if span.parent else b"",
        _text(5, span.name),
        _number(6, 3 if span.client else 2),
        _fixed64(7, span.start_us * 1000),
        _fixed64(8, (span.start_us + span.duration_us) * 1000),
        *(_bytes(9, _attribute(name, value)) for name, value in span.tags.items() if value),
        _bytes(15, _number(3, 2)) if span.error else b"",
    ]
    return b"".join(parts)


def _attribute(name: str, value: str) -> bytes:
    return _text(1, name) + _bytes(2, _text(1, value))


FORMATS: dict[str, tuple[Encode, str]] = {
    "zipkin_json": (zipkin_json, "application/json"),
    "zipkin_proto": (zipkin_proto, "application/x-protobuf"),
    "otlp": (otlp, "application/x-protobuf"),
}
"""By `Tracing.exporter`: the encoder and its content type."""


# ---- protobuf's wire format ----


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _fixed64(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + _FIXED64.pack(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    encoded = value.encode()
    return _bytes(field, encoded) if encoded else b""
