"""Clusters in native YAML."""

from __future__ import annotations

from typing import Any

import msgspec

from meshproxy.config import rules
from meshproxy.config.native.address import Place
from meshproxy.config.native.discovery import Discovery
from meshproxy.config.native.http import HTTP2
from meshproxy.config.native.kinds import Duration, Flag, Fraction, ListOf, Named, Size, Text, Whole, Word
from meshproxy.config.native.listener_filter import Tlvs
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.secrets import Secured
from meshproxy.config.native.tls import UPSTREAM_TLS, Draft
from meshproxy.config.problems import Path, Problems, told
from meshproxy.config.tls_rules import UPSTREAM_ALPN
from meshproxy.model import Breakers, Cluster, EdsSource, Endpoint, RetryBudget, SocketAddress, Source, UpstreamTls

_NO_NAME = ""
_PLAIN = Cluster(name="")


def _shorten_endpoint(written: dict[str, Any]) -> Any:
    return written["address"] if written.keys() == {"address"} and isinstance(written["address"], str) else written


ENDPOINT = Section(
    "endpoint",
    (
        Row("address", Place(names=True, zero_port=False), "Where it listens. A name makes the cluster a DNS cluster.", required=True),
        Row("weight", Whole(1), "Its share among the endpoints."),
        Row("hostname", Text(), "The Host that `auto_host_rewrite` sends."),
        Row("healthy", Flag(), "false: it gets no new requests."),
    ),
    Endpoint,
    help="One place of a service: an address, or a mapping.",
    short=lambda value: {"address": value} if isinstance(value, str) else None,
    shorten=_shorten_endpoint,
    short_schemas=({"type": "string", "pattern": ":"},),
    short_label="an address",
)

RETRY_BUDGET = Section(
    "retry_budget",
    (
        Row("percent", Fraction(0, 100, "percentage"), "Retries in flight, of the active requests."),
        Row("min_concurrency", Whole(), "So many retries are always allowed."),
    ),
    RetryBudget,
    help="A bound on retries that grows with the load.",
    short=lambda value: {"percent": value} if type(value) in (int, float) else None,
    short_schemas=({"type": "number"},),
    short_label="a percentage",
)

BREAKERS = Section(
    "breakers",
    (
        Row("max_connections", Whole(), "Connections to the cluster."),
        Row("max_pending", Whole(), "Requests that wait for a connection."),
        Row("max_requests", Whole(), "Requests in flight."),
        Row("max_retries", Whole(), "Retries in flight."),
        Row("retry_budget", RETRY_BUDGET, "Takes the place of `max_retries`."),
    ),
    Breakers,
    help="Limits, counted for all workers together; at a limit requests get 503.",
)

_HTTP2_DEFAULTS = Cluster(name="").http2
UPSTREAM_HTTP2 = Section(
    "upstream_http2",
    tuple(row._replace(default=getattr(_HTTP2_DEFAULTS, row.field)) for row in HTTP2.rows),
    help="What is announced to endpoints by HTTP/2, and how much of each kind of frame they may send.",
    make=lambda values, path, problems: msgspec.structs.replace(_HTTP2_DEFAULTS, **values),
    title="http2",
)


def _short_cluster(value: Any) -> dict[str, Any] | None:
    return {"endpoints": value} if isinstance(value, (list, str)) else None


def _make_cluster(values: Values, path: Path, problems: Problems) -> Any:
    endpoints = values.get("endpoints", ())
    named = [endpoint for endpoint in endpoints if _is_name(endpoint)]
    if isinstance(sources := values.get("discovery"), tuple):
        values["discovery"], values["sources"] = "found", sources
        for field, value in _derived(sources).items():
            values.setdefault(field, value)
        if endpoints:
            problems.error((path, "endpoints"), "the endpoints are found by discovery. Remove one of the two settings.")
            return WRONG
    discovery = values.setdefault("discovery", "strict_dns" if named else "static")
    if discovery == "static" and named:
        problems.error(
            (path, "discovery"), f"static, but endpoint {told(str(named[0].address))} is a name. Remove the setting or give IP addresses."
        )
        return WRONG
    if discovery == "strict_dns" and any(not isinstance(endpoint.address, SocketAddress) for endpoint in endpoints):
        problems.error((path, "endpoints"), "a DNS cluster has a UNIX socket among its endpoints. Put it in a cluster of its own.")
        return WRONG
    protocol = values.get("protocol", "http1")
    if (draft := values.get("tls")) is not None:
        values["tls"] = _tls(draft, protocol, endpoints, path, problems)
    elif protocol == "auto":
        problems.error((path, "protocol"), "auto: the protocol is agreed on by TLS. Add tls, or write http1 or http2.")
    return Cluster(name=_NO_NAME, **values)


def _derived(sources: tuple[Source, ...]) -> Values:
    """What a control plane says is taken as it is, and at once; registries may be wrong for a while."""
    asked = any(isinstance(source, EdsSource) for source in sources)
    return {field: 0.0 if asked else getattr(_PLAIN, field) for field in ("keep_last_s", "debounce_s")}


def _tls(draft: Draft, protocol: str, endpoints: tuple[Endpoint, ...], path: Path, problems: Problems) -> UpstreamTls:
    tls: UpstreamTls = draft.tls if draft.alpn_given else msgspec.structs.replace(draft.tls, alpn=UPSTREAM_ALPN.get(protocol, ()))
    nameless = [item for item in endpoints if not (item.hostname or _is_name(item))]
    if tls.auto_host_sni and tls.auto_san_validation and nameless:
        wrong = f"endpoint {nameless[0].address} has no host name that its certificate could be compared with"
        problems.warning((path, "tls"), f"{wrong}: any that the CA signed is taken. Add sni, sans, or the endpoint's hostname.")
    return tls


def _is_name(endpoint: Endpoint) -> bool:
    return isinstance(endpoint.address, SocketAddress) and not rules.ip(endpoint.address.host)


def _split_cluster(written: Secured) -> Values:
    cluster: Cluster = written.thing
    values = {field: getattr(cluster, field) for field in cluster.__struct_fields__}
    if cluster.tls is not None:
        values["tls"] = (Draft(cluster.tls, cluster.tls.alpn != UPSTREAM_ALPN.get(cluster.protocol, ())), written)
    named = any(map(_is_name, cluster.endpoints))
    for field, value in _derived(cluster.sources).items():
        if values[field] == value:
            del values[field]
    if cluster.sources:
        values["discovery"] = cluster.sources
    elif (cluster.discovery == "strict_dns") == named:
        del values["discovery"]
    else:
        values["discovery"] = cluster.discovery
    return values


CLUSTER = Section(
    "cluster",
    (
        Row("endpoints", ListOf(ENDPOINT), "Where the service is.", shown_default="none"),
        Row("balance", Word("round_robin", "least_request", "random"), "How an endpoint is picked."),
        Row("least_request_choices", Whole(2, 100), "Endpoints that `least_request` compares."),
        Row("connect_timeout", Duration(zero=""), "For a connection to an endpoint.", "connect_timeout_s"),
        Row("idle_timeout", Duration(), "A pooled connection without a request is closed.", "idle_timeout_s"),
        Row("max_requests_per_connection", Whole(), "Then the connection is closed; 0 = unlimited."),
        Row("max_connection_duration", Duration(), "Then the connection is closed.", "max_connection_duration_s"),
        Row("buffer_limit", Size(1024, 1 << 30), "Held for one upstream connection before reading pauses.", "buffer_limit_bytes"),
        Row("breakers", BREAKERS, "Limits for the cluster."),
        Row("high_breakers", BREAKERS, "Limits for routes with `priority: high`."),
        Row("discovery", Discovery(), "Where endpoints come from.", default=DERIVED,
            shown_default="strict_dns when an endpoint has a name"),
        Row("keep_last", Duration(zero="not at all"), "How long the last endpoints of a source stay when it fails or has none any more.",
            "keep_last_s", default=DERIVED, shown_default="1h, or 0s with eds"),
        Row("debounce", Duration(zero="off"), "The least time between two changes; the first after a quiet time is taken at once.",
            "debounce_s", default=DERIVED, shown_default="100ms, or 0s with eds"),
        Row("dns_refresh", Duration(zero=""), "Time between DNS lookups.", "dns_refresh_s"),
        Row("respect_dns_ttl", Flag(), "Ask again when an answer's TTL is over; `dns_refresh` is for answers without one."),
        Row("dns_lookup_family", Word("auto", "v4_only", "v6_only", "v4_preferred", "all"), "Which addresses are asked for."),
        Row("wait_for_warm", Flag(), "A start and a reload wait until its names and sources were answered or failed once, 5 s at most."),
        Row("stat_name", Text(), "The name in metrics.", "alt_stat_name", shown_default="the cluster's name"),
        Row("panic_threshold", Fraction(0, 100, "percentage"), "With fewer healthy endpoints than this all are used.",
            "panic_threshold_percent"),
        Row("tcp_keepalive", Flag(), "Probe idle connections."),
        Row("protocol", Word("http1", "http2", "downstream", "auto"),
            "What is spoken: `downstream` = what the client speaks, `auto` = what the endpoint agrees to by TLS."),
        Row("http2", UPSTREAM_HTTP2, "Settings of HTTP/2."),
        Row("max_response_headers", Whole(1, 10000), "502 for more headers."),
        Row("tls", UPSTREAM_TLS, "TLS with endpoints.", shown_default="none"),
        Row("proxy_protocol", Word("v1", "v2"), "Begin connections with a PROXY header.", shown_default="none"),
        Row("proxy_protocol_tlvs", Tlvs(), "Types of the client's TLVs that it passes on.", shown_default="none"),
    ),
    Cluster,
    help="An upstream service: a list of endpoints, or a mapping.",
    make=_make_cluster,
    split=_split_cluster,
    short=_short_cluster,
    shorten=lambda written: written["endpoints"] if written.keys() == {"endpoints"} else written,
    short_schemas=({"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/endpoint"}]}}, {"type": "string"}),
    short_label="a list of endpoints",
)

CLUSTERS = Named(CLUSTER, "cluster", lambda cluster, name: msgspec.structs.replace(cluster, name=name))
