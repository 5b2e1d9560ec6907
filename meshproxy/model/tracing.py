"""Distributed tracing: which requests are traced, how that is told to the next hop, and where spans go."""

from __future__ import annotations

from typing import Literal

import msgspec


class CustomTag(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tag of our own. `value` is the text (`literal`), the variable's name (`environment`) or the header's (`request_header`)."""

    name: str
    kind: Literal["literal", "environment", "request_header"]
    value: str
    default: str = ""
    """When variable or header is not there; without it there is no tag then."""


class Tracing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a connection manager. Exactly one of `url` and `cluster` is set, but for `exporter` none, which only decides and marks the
    `x-request-id`. Percentages are of 100 and Envoy's: `client` of what bears x-client-trace-id, `random` of all the others, `overall`
    the most of all.
    """

    exporter: Literal["none", "zipkin_json", "zipkin_proto", "otlp"]
    url: str = ""
    """`http://host:port/path` of a collector."""
    cluster: str = ""
    """A cluster whose endpoints are collectors; plaintext HTTP/1.1."""
    path: str = ""
    """Of the cluster's collectors."""
    hostname: str = ""
    """The Host header; "" = the cluster's name, or the URL's host."""
    timeout_s: float = 5.0
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with each report."""
    service_name: str = ""
    """"" = the node's cluster."""
    propagation: tuple[Literal["b3", "b3_single", "w3c"], ...] = ("b3",)
    """Which headers are read and written."""
    trace_id_128bit: bool = False
    shared_span_context: bool = True
    """A server's span is the client's (B3's way); false: a child of it."""
    spawn_upstream_span: bool = False
    """A span for what goes upstream besides that of what came."""
    client_percent: float = 100.0
    random_percent: float = 100.0
    overall_percent: float = 100.0
    custom_tags: tuple[CustomTag, ...] = ()
    max_path_tag_length: int = 256
    egress: bool = False
    """The listener takes what this service sends: spans are a client's, and the route's operation is told to the next hop."""
    node_id: str = ""
    node_cluster: str = ""
    node_zone: str = ""
    """The Node's, filled in when a snapshot is taken apart (`snapshot.resources_of`)."""


class RouteTracing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a route, in place of the connection manager's percentages and besides its tags; a tag of the same name wins."""

    client_percent: float = 100.0
    random_percent: float = 100.0
    overall_percent: float = 100.0
    custom_tags: tuple[CustomTag, ...] = ()


class Decorator(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The name of what a route does, for its spans. `propagate`: the other side is told it (x-envoy-decorator-operation)."""

    operation: str
    propagate: bool = True
