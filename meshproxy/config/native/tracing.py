"""Distributed tracing in native YAML."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from meshproxy.config import rules
from meshproxy.config.native.kinds import Definitions, Duration, Flag, ListOf, Text, Whole, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import CustomTag, Decorator, RouteTracing, Tracing

_OF_THE_REPORT = ("host", "content-type", "content-length", "transfer-encoding", "connection")
_SPANS_PATH = {"zipkin": "/api/v2/spans", "otlp": "/v1/traces"}


class Percent:
    """`10%`, or the number alone."""

    label = "a percentage"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and (found := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%?", value)):
            value = float(found[1])
        if type(value) not in (int, float):
            problems.error(path, f'{told(value)} is given where a percentage is needed. Write it like "10%".')
            return WRONG
        if not 0 <= value <= 100:
            problems.error(path, f"{value} is out of range. Use 0% to 100%.")
            return WRONG
        return float(value)

    def write(self, value: float) -> str:
        return f"{value:.6f}".rstrip("0").rstrip(".") + "%"

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": "^[0-9.]+ ?%?$"}, {"type": "number", "minimum": 0, "maximum": 100}]}


class Headers:
    """A mapping of header names to values, as pairs."""

    label = "a mapping of names to values"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f"{told(value)} is given where {self.label} is needed. Write names and values indented below.")
            return WRONG
        for name, text in value.items():
            wrong = rules.header_name(name) or _framing(name) or (rules.header_value(text) if type(text) is str else f"{told(text)} is no text. Put it in quotes.")
            if wrong:
                problems.error((path, name), wrong)
                return WRONG
        return tuple(value.items())

    def write(self, value: tuple) -> dict[str, str]:
        return dict(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": "string"}}


def _framing(name: str) -> str:
    return f'"{name}" is written by the report itself. Remove it.' if name.lower() in _OF_THE_REPORT else ""


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme == "http" and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        good = False
    return rules.header_value(text) if good and " " not in text else f'"{text}" is no address of a collector. Write it like "http://127.0.0.1:9411".'


def _path(text: str) -> str:
    return rules.header_value(text) if text.startswith("/") and " " not in text else f'"{text}" is no path. Begin it with "/".'


def _collector(kind: str, more: tuple[Row, ...], help: str) -> Section:
    def make(values: Values, path: Path, problems: Problems) -> Any:
        if ("url" in values) == ("cluster" in values):
            problems.error(path, f'{kind}: give one of "url" and "cluster".')
            return WRONG
        if "cluster" in values:
            problems.refer("cluster", values["cluster"], (path, "cluster"))
            return {"path": _SPANS_PATH[kind], **values}
        if "path" in values:
            problems.error((path, "path"), f'{kind}: "path" is for "cluster". Write it into the url.')
            return WRONG
        if urlsplit(values["url"]).path in ("", "/"):
            values["url"] = values["url"].rstrip("/") + _SPANS_PATH[kind]
        return values

    return Section(
        kind,
        (
            Row("url", Text("url", _url), f"A collector, `http://host:port`; without a path, {_SPANS_PATH[kind]}."),
            Row("cluster", Text(), "A cluster whose endpoints are collectors, instead of a url."),
            Row("path", Text("path", _path), "Where the cluster's collectors take spans.", default=_SPANS_PATH[kind]),
            Row("hostname", Text("host", rules.header_value), "The Host header.", default="", shown_default="the url's host, or the cluster's name"),
            Row("timeout", Duration(zero="", least_s=0.01), "For a report.", "timeout_s", default=5.0),
            Row("headers", Headers(), "Sent with each report.", default=(), shown_default="none"),
            *more,
        ),
        help=help,
        make=make,
        split=lambda values: values,
        short=lambda value: {"url": value} if isinstance(value, str) else None,
        shorten=lambda written: written["url"] if written.keys() == {"url"} else written,
        short_schemas=({"type": "string", "pattern": "^http://"},),
        short_label="a url",
    )


ZIPKIN = _collector(
    "zipkin", (Row("encoding", Word("json", "proto"), "Zipkin's API v2 in JSON or protobuf.", default="json"),),
    "A Zipkin collector: a url, or a mapping.",
)
OTLP = _collector("otlp", (), "An OpenTelemetry collector that takes protobuf by HTTP: a url, or a mapping.")

CUSTOM_TAG = Section(
    "custom_tag",
    (
        Row("name", Text(), "The tag.", required=True),
        Row("literal", Text(), "Its value."),
        Row("environment", Text(), "The environment variable with its value."),
        Row("request_header", Text("header", rules.header_name, lower=True), "The request header with its value."),
        Row("default", Text(), "Where variable or header is not there.", default="", shown_default="no tag"),
    ),
    help="A tag of spans.",
    make=lambda values, path, problems: _make_tag(values, path, problems),
    split=lambda tag: {"name": tag.name, tag.kind: tag.value, "default": tag.default},
    title="custom tag",
)


def _make_tag(values: Values, path: Path, problems: Problems) -> Any:
    given = [kind for kind in ("literal", "environment", "request_header") if kind in values]
    if len(given) != 1:
        problems.error(path, 'custom tag: give one of "literal", "environment" and "request_header".')
        return WRONG
    return CustomTag(name=values["name"], kind=given[0], value=values[given[0]], default=values.get("default", ""))


_SAMPLE_ROWS = (
    Row("sample", Percent(), "Share of requests that are traced.", "random_percent", default=100.0),
    Row("client_sample", Percent(), "Share of those that bear x-client-trace-id.", "client_percent", default=100.0),
    Row("overall_sample", Percent(), "The most of all of these.", "overall_percent", default=100.0),
    Row("custom_tags", ListOf(CUSTOM_TAG, single=False), "More tags.", default=(), shown_default="none"),
)


def _make_tracing(values: Values, path: Path, problems: Problems) -> Any:
    marks_only = values.pop("marks_only", False)
    given = [word for word in ("zipkin", "otlp") if word in values]
    if len(given) + marks_only != 1:
        problems.error(path, 'tracing: give one of "zipkin", "otlp" and "marks_only".')
        return WRONG
    if marks_only:
        return Tracing(exporter="none", **values)
    collector = dict(values.pop(given[0]))
    encoding = collector.pop("encoding", "json")
    exporter = "otlp" if given[0] == "otlp" else f"zipkin_{encoding}"
    if given[0] == "otlp":
        values.setdefault("propagation", ("w3c",))
    return Tracing(exporter=exporter, **collector, **values)


def _split_tracing(tracing: Tracing) -> Values:
    values = {field: getattr(tracing, field) for field in tracing.__struct_fields__}
    if tracing.exporter == "none":
        return {**values, "marks_only": True}
    kind = "otlp" if tracing.exporter == "otlp" else "zipkin"
    collector: Values = {field: getattr(tracing, field) for field in ("hostname", "timeout_s", "headers")}
    if tracing.cluster:
        collector.update(cluster=tracing.cluster, path=tracing.path)
    else:
        collector["url"] = tracing.url
    if kind == "zipkin":
        collector["encoding"] = "proto" if tracing.exporter == "zipkin_proto" else "json"
    if kind == "otlp" and tracing.propagation == ("w3c",):
        del values["propagation"]
    return {**values, kind: collector}


TRACING = Section(
    "tracing",
    (
        Row("zipkin", ZIPKIN, "Send spans to Zipkin."),
        Row("otlp", OTLP, "Send spans to an OpenTelemetry collector, instead."),
        Row("marks_only", Flag(), "Send nothing: only decide, and mark the decision in x-request-id.", default=False),
        *_SAMPLE_ROWS,
        Row("service_name", Text(), "Whose spans these are.", default="", shown_default="node.cluster"),
        Row("direction", Word(values={"inbound": False, "outbound": True}),
            "outbound: the listener takes what this service sends, and spans are a client's.", "egress"),
        Row("propagation", ListOf(Word("b3", "b3_single", "w3c")), "Headers that are read and written.", shown_default="b3; with otlp, w3c"),
        Row("trace_id_128bit", Flag(), "New traces have ids of 128 bits; with otlp they always have."),
        Row("shared_span_context", Flag(), "A server's span is the client's (B3); false: a child of it."),
        Row("spawn_upstream_span", Flag(), "A span for what goes upstream, besides that of what came."),
        Row("max_path_tag_length", Whole(1, 8192), "Of the path in `http.url`."),
    ),
    Tracing,
    help="Spans of requests, and where they are sent.",
    make=_make_tracing,
    split=_split_tracing,
)
ROUTE_TRACING = Section(
    "route_tracing",
    _SAMPLE_ROWS,
    RouteTracing,
    help="In place of the listener's percentages, and besides its tags.",
    title="tracing of a route",
)
DECORATOR = Section(
    "decorator",
    (
        Row("operation", Text("operation", rules.header_value), "The name of the span.", required=True),
        Row("propagate", Flag(), "Tell the other side in x-envoy-decorator-operation."),
    ),
    Decorator,
    help="What a route's spans are called: a name, or a mapping.",
    short=lambda value: {"operation": value} if isinstance(value, str) else None,
    shorten=lambda written: written["operation"] if written.keys() == {"operation"} else written,
    short_schemas=({"type": "string"},),
    short_label="a name",
)
