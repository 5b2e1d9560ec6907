"""Spans on the wire, read by protobuf's own decoders and a JSON parser. A real Zipkin reads them in tests/processes/test_tracing.py."""

from __future__ import annotations

import json

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from meshproxy.model import Tracing
from meshproxy.telemetry.span_formats import FORMATS, otlp, zipkin_json, zipkin_proto
from meshproxy.telemetry.spans import Span

TRACING = Tracing(exporter="otlp", node_cluster="web")
SPAN = Span(
    trace_high=0x0102030405060708, trace_low=0x090A0B0C0D0E0F10, id=0xA0, parent=0xB0, name="get", client=False, shared=True, debug=True,
    start_us=1_700_000_000_000_001, duration_us=250, service="web", error=True, tags={"http.url": "http://h/ä", "empty": ""},
)  # fmt: skip
ROOT = Span(
    trace_high=0, trace_low=0x10, id=0x10, parent=0, name="", client=True, shared=False, debug=False, start_us=1, duration_us=1, service="w",
    error=False, tags={},
)  # fmt: skip

_FIELD = descriptor_pb2.FieldDescriptorProto


def zipkin_list() -> type:
    """`zipkin.proto3.ListOfSpans`, as far as we write it: the fields, numbers and types of openzipkin/zipkin-api's zipkin.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="zipkin.proto", package="zipkin.proto3", syntax="proto3")
    endpoint = file.message_type.add(name="Endpoint")
    endpoint.field.add(name="service_name", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    span = file.message_type.add(name="Span")
    kinds = span.enum_type.add(name="Kind")
    for number, name in enumerate(("SPAN_KIND_UNSPECIFIED", "CLIENT", "SERVER", "PRODUCER", "CONSUMER")):
        kinds.value.add(name=name, number=number)
    entry = span.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    fields = {
        "trace_id": (1, _FIELD.TYPE_BYTES), "parent_id": (2, _FIELD.TYPE_BYTES), "id": (3, _FIELD.TYPE_BYTES), "kind": (4, _FIELD.TYPE_ENUM),
        "name": (5, _FIELD.TYPE_STRING), "timestamp": (6, _FIELD.TYPE_FIXED64), "duration": (7, _FIELD.TYPE_UINT64),
        "local_endpoint": (8, _FIELD.TYPE_MESSAGE), "tags": (11, _FIELD.TYPE_MESSAGE), "debug": (12, _FIELD.TYPE_BOOL),
        "shared": (13, _FIELD.TYPE_BOOL),
    }  # fmt: skip
    types = {"kind": "Span.Kind", "local_endpoint": "Endpoint", "tags": "Span.TagsEntry"}
    for name, (number, kind) in fields.items():
        made = span.field.add(name=name, number=number, type=kind, label=_FIELD.LABEL_REPEATED if name == "tags" else _FIELD.LABEL_OPTIONAL)
        if name in types:
            made.type_name = f".zipkin.proto3.{types[name]}"
    whole = file.message_type.add(name="ListOfSpans")
    whole.field.add(name="spans", number=1, type=_FIELD.TYPE_MESSAGE, type_name=".zipkin.proto3.Span", label=_FIELD.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("zipkin.proto3.ListOfSpans"))


ListOfSpans = zipkin_list()


def test_zipkin_json() -> None:
    whole, root = json.loads(zipkin_json([SPAN, ROOT], TRACING))

    assert whole == {
        "traceId": "0102030405060708090a0b0c0d0e0f10", "id": "00000000000000a0", "parentId": "00000000000000b0", "name": "get",
        "kind": "SERVER", "timestamp": 1_700_000_000_000_001, "duration": 250, "localEndpoint": {"serviceName": "web"},
        "tags": {"http.url": "http://h/ä"}, "shared": True, "debug": True,
    }
    assert root == {
        "traceId": "0000000000000010", "id": "0000000000000010", "name": "", "kind": "CLIENT", "timestamp": 1, "duration": 1,
        "localEndpoint": {"serviceName": "w"}, "tags": {},
    }


def test_zipkin_protobuf() -> None:
    whole, root = ListOfSpans.FromString(zipkin_proto([SPAN, ROOT], TRACING)).spans

    assert (whole.trace_id.hex(), whole.id.hex(), whole.parent_id.hex()) == (
        "0102030405060708090a0b0c0d0e0f10", "00000000000000a0", "00000000000000b0"
    )
    assert (whole.kind, whole.name, whole.timestamp, whole.duration) == (2, "get", 1_700_000_000_000_001, 250)
    assert (whole.local_endpoint.service_name, dict(whole.tags)) == ("web", {"http.url": "http://h/ä"})
    assert (whole.shared, whole.debug) == (True, True)
    assert (root.trace_id.hex(), root.parent_id, root.kind, root.shared, root.debug) == ("0000000000000010", b"", 1, False, False)


def test_otlp() -> None:
    (resource,) = ExportTraceServiceRequest.FromString(otlp([SPAN, ROOT], TRACING)).resource_spans
    (scope,) = scopes_of(resource)
    whole, root = scope.spans

    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {"service.name": "web"}
    assert (whole.trace_id.hex(), whole.span_id.hex(), whole.parent_span_id.hex()) == (
        "0102030405060708090a0b0c0d0e0f10", "00000000000000a0", "00000000000000b0"
    )
    assert (whole.name, whole.kind, whole.status.code) == ("get", 2, 2)
    assert (whole.start_time_unix_nano, whole.end_time_unix_nano) == (1_700_000_000_000_001_000, 1_700_000_000_000_251_000)
    assert {each.key: each.value.string_value for each in whole.attributes} == {"http.url": "http://h/ä"}
    assert (len(root.trace_id), root.parent_span_id, root.kind, root.status.code) == (16, b"", 3, 0)


def test_otlp_names_the_service_that_is_set() -> None:
    (resource,) = ExportTraceServiceRequest.FromString(otlp([ROOT], Tracing(exporter="otlp", service_name="shop"))).resource_spans

    assert resource.resource.attributes[0].value.string_value == "shop"


words = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
numbers = st.integers(0, 2**64 - 1)
any_span = st.builds(
    Span, trace_high=numbers, trace_low=numbers, id=numbers, parent=numbers, name=words, client=st.booleans(), shared=st.booleans(),
    debug=st.booleans(), start_us=st.integers(0, 2**53), duration_us=st.integers(1, 2**40), service=words, error=st.booleans(),
    tags=st.dictionaries(words, words.filter(bool), max_size=5),
)  # fmt: skip


@pytest.mark.parametrize("exporter", FORMATS)
@given(listed=st.lists(any_span, max_size=3))
def test_whatever_a_span_says_is_read_again(exporter: str, listed: list[Span]) -> None:
    body = FORMATS[exporter][0](listed, TRACING)
    if exporter == "otlp":
        (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
        read = [
            ({each.key: each.value.string_value for each in span.attributes}, span.name, span.start_time_unix_nano // 1000)
            for scope in scopes_of(resource) for span in scope.spans
        ]
    elif exporter == "zipkin_proto":
        read = [(dict(span.tags), span.name, span.timestamp) for span in ListOfSpans.FromString(body).spans]
    else:
        read = [(span["tags"], span["name"], span["timestamp"]) for span in json.loads(body)]

    assert read == [(span.tags, span.name, span.start_us) for span in listed]


def scopes_of(resource: object) -> list:
    """The messages at hand may be of a time when a scope was called an instrumentation library; the wire is the same."""
    return list(getattr(resource, "scope_spans", None) or resource.instrumentation_library_spans)
