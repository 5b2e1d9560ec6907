"""Envoy's tracing: the connection manager's part, the routes', and the tracers' configurations."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from meshproxy.config import rules
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.headers import request_headers
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.envoy.write_tracing import OTEL, ZIPKIN
from meshproxy.config.problems import Path
from meshproxy.model import CustomTag, Decorator, RouteTracing, Tracing

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing"
_TAG = "envoy.type.tracing.v3.CustomTag"
_PERCENTS = {"client_sampling": "client_percent", "random_sampling": "random_percent", "overall_sampling": "overall_percent"}
_ENCODINGS = {"HTTP_JSON": "zipkin_json", "HTTP_PROTO": "zipkin_proto"}
_PROPAGATION: dict[str, tuple] = {"USE_B3": ("b3",), "USE_B3_WITH_W3C_PROPAGATION": ("b3", "w3c")}
_DENOMINATORS = {"HUNDRED": 1, "TEN_THOUSAND": 100, "MILLION": 10_000}
DEFAULT_SERVICE = "unknown_service:envoy"

TAKES: Table = {
    _MANAGER: takes(
        "client_sampling random_sampling overall_sampling max_path_tag_length custom_tags provider spawn_upstream_span",
        only={"verbose": (False,)}, later="verbose",
    ),
    "envoy.config.trace.v3.Tracing.Http": takes("typed_config", name="is a label only"),
    ZIPKIN: takes(
        "collector_cluster collector_endpoint trace_id_128bit shared_span_context collector_endpoint_version collector_hostname "
        "split_spans_for_request trace_context_option"
    ),
    OTEL: takes(
        "http_service service_name", max_cache_size="is of Envoy's own queue; ours has a bound too",
        later="grpc_service resource_detectors sampler",
    ),
    "envoy.config.core.v3.HttpService": takes("http_uri request_headers_to_add"),
    "envoy.config.core.v3.HttpUri": takes("uri cluster timeout"),
    _TAG: takes("tag literal environment request_header", later="metadata value"),
    _TAG + ".Literal": takes("value"),
    _TAG + ".Environment": takes("name default_value"),
    _TAG + ".Header": takes("name default_value"),
    "envoy.config.route.v3.Tracing": takes("client_sampling random_sampling overall_sampling custom_tags"),
    "envoy.config.route.v3.Decorator": takes("operation propagate"),
    "envoy.type.v3.Percent": takes("value"),
    "envoy.type.v3.FractionalPercent": takes("numerator denominator"),
    "envoy.config.core.v3.RuntimeFractionalPercent": takes("default_value", runtime_key="!has no effect: there is no runtime."),
}


def manager_tracing(message: Any, path: Path, translation: Translation) -> Tracing | None:
    """HttpConnectionManager.Tracing; None after its provider was refused. Without one, or with one that a control plane sent and we have not,
    it only decides and marks the x-request-id."""
    given = translation.fields(message, path)
    settings: dict[str, Any] = {
        ours: translation.fields(given[theirs], (path, theirs)).get("value", 0.0) for theirs, ours in _PERCENTS.items() if theirs in given
    }
    settings["custom_tags"] = _custom_tags(given.get("custom_tags", ()), (path, "custom_tags"), translation)
    if "max_path_tag_length" in given:
        settings["max_path_tag_length"] = given["max_path_tag_length"].value
    if "spawn_upstream_span" in given:
        settings["spawn_upstream_span"] = given["spawn_upstream_span"].value
    if "provider" not in given:
        return Tracing(exporter="none", **settings)
    place = (path, "provider")
    provider = translation.fields(given["provider"], place)
    if "typed_config" not in provider:
        translation.error(place, 'tracing: "typed_config" is missing. Add it.')
        return None
    inside = (place, "typed_config")
    config = translation.unpack(provider["typed_config"], inside, (ZIPKIN, OTEL), "tracer", later=True)
    if config is None:
        return Tracing(exporter="none", **settings)
    made = (_zipkin if config.DESCRIPTOR.full_name == ZIPKIN else _otel)(config, inside, translation)
    return Tracing(**{**made, **settings, "spawn_upstream_span": settings.get("spawn_upstream_span", made.get("spawn_upstream_span", False))})


def _zipkin(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    given = translation.fields(message, path)
    for field in ("collector_cluster", "collector_endpoint"):
        if field not in given:
            translation.error(path, f'ZipkinConfig: "{field}" is missing. Add it.')
    version = enum_name(message, "collector_endpoint_version")
    if version not in _ENCODINGS:
        place = (path, "collector_endpoint_version")
        translation.refuse(place, f"collector_endpoint_version {version}", "Use HTTP_JSON or HTTP_PROTO.")
    if "collector_cluster" in given:
        translation.problems.refer("cluster", given["collector_cluster"], (path, "collector_cluster"))
    return {
        "exporter": _ENCODINGS.get(version, "zipkin_json"),
        "cluster": given.get("collector_cluster", ""),
        "path": given.get("collector_endpoint", ""),
        "hostname": _header_text(given.get("collector_hostname", ""), (path, "collector_hostname"), translation),
        "trace_id_128bit": given.get("trace_id_128bit", False),
        "shared_span_context": given["shared_span_context"].value if "shared_span_context" in given else True,
        "spawn_upstream_span": given.get("split_spans_for_request", False),
        "propagation": _PROPAGATION.get(enum_name(message, "trace_context_option"), ("b3",)),
    }


def _otel(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    given = translation.fields(message, path)
    made: dict[str, Any] = {"exporter": "otlp", "propagation": ("w3c",), "service_name": given.get("service_name", DEFAULT_SERVICE)}
    if "http_service" not in given:
        return {**made, "exporter": "none"}
    place = (path, "http_service")
    service = translation.fields(given["http_service"], place)
    made["headers"] = request_headers(service.get("request_headers_to_add", ()), (place, "request_headers_to_add"), translation)
    if "http_uri" in service:
        inside = (place, "http_uri")
        uri = translation.fields(service["http_uri"], inside)
        parts = urlsplit(uri.get("uri", ""))
        made.update(cluster=uri.get("cluster", ""), path=parts.path + (f"?{parts.query}" if parts.query else ""), hostname=parts.netloc)
        if "timeout" in uri:
            made["timeout_s"] = seconds(uri["timeout"])
        if parts.scheme == "https":
            translation.refuse((inside, "uri"), "an https URI", "Use http.")
        if made["cluster"]:
            translation.problems.refer("cluster", made["cluster"], (inside, "cluster"))
    return made


def _header_text(text: str, path: Path, translation: Translation) -> str:
    if wrong := rules.header_value(text):
        translation.error(path, wrong)
    return text


def _custom_tags(messages: Any, path: Path, translation: Translation) -> tuple[CustomTag, ...]:
    made = []
    for index, message in enumerate(messages):
        place = (path, index)
        given = translation.fields(message, place)
        for kind in ("literal", "environment", "request_header"):
            if kind in given:
                inner = translation.fields(given[kind], (place, kind))
                value = inner.get("value" if kind == "literal" else "name", "")
                made.append(CustomTag(name=given.get("tag", ""), kind=kind, value=value, default=inner.get("default_value", "")))
    return tuple(made)


def route_tracing(message: Any, path: Path, translation: Translation) -> RouteTracing:
    given = translation.fields(message, path)
    settings: dict[str, Any] = {}
    for theirs, ours in _PERCENTS.items():
        if theirs in given:
            fraction = translation.fields(given[theirs], (path, theirs))
            settings[ours] = min(fraction.get("numerator", 0) / _DENOMINATORS[enum_name(given[theirs], "denominator")], 100.0)
    return RouteTracing(custom_tags=_custom_tags(given.get("custom_tags", ()), (path, "custom_tags"), translation), **settings)


def decorator(message: Any, path: Path, translation: Translation) -> Decorator:
    given = translation.fields(message, path)
    operation = _header_text(given.get("operation", ""), (path, "operation"), translation)
    return Decorator(operation=operation, propagate=given["propagate"].value if "propagate" in given else True)
