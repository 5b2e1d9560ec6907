"""Tracing in Envoy's form."""

from __future__ import annotations

from meshproxy.config.envoy.write_messages import Data, duration, put, typed
from meshproxy.model import CustomTag, RouteTracing, Tracing

ZIPKIN = "envoy.config.trace.v3.ZipkinConfig"
OTEL = "envoy.config.trace.v3.OpenTelemetryConfig"
_PERCENTS = {"client_percent": "client_sampling", "random_percent": "random_sampling", "overall_percent": "overall_sampling"}


def manager_tracing(tracing: Tracing, owner: str, lost: list[str]) -> Data:
    """HttpConnectionManager.Tracing; what cannot be said in it goes to `lost`."""
    data: Data = {theirs: {"value": getattr(tracing, ours)} for ours, theirs in _PERCENTS.items() if getattr(tracing, ours) != 100.0}
    if tracing.max_path_tag_length != 256:
        data["max_path_tag_length"] = tracing.max_path_tag_length
    put(data, "custom_tags", [_custom_tag(tag) for tag in tracing.custom_tags])
    if tracing.spawn_upstream_span:
        data["spawn_upstream_span"] = True
    if tracing.exporter == "none":
        return data
    if not tracing.cluster:
        lost.append(f"{owner} tracing to {tracing.url}: Envoy sends spans to clusters only")
        return data
    provider = _otel(tracing) if tracing.exporter == "otlp" else _zipkin(tracing, owner, lost)
    name = "envoy.tracers.opentelemetry" if tracing.exporter == "otlp" else "envoy.tracers.zipkin"
    data["provider"] = {"name": name, "typed_config": provider}
    return data


def _zipkin(tracing: Tracing, owner: str, lost: list[str]) -> Data:
    fields: Data = {"collector_cluster": tracing.cluster, "collector_endpoint": tracing.path}
    fields["collector_endpoint_version"] = "HTTP_PROTO" if tracing.exporter == "zipkin_proto" else "HTTP_JSON"
    put(fields, "collector_hostname", tracing.hostname)
    put(fields, "trace_id_128bit", tracing.trace_id_128bit)
    if not tracing.shared_span_context:
        fields["shared_span_context"] = False
    if tracing.propagation == ("b3", "w3c"):
        fields["trace_context_option"] = "USE_B3_WITH_W3C_PROPAGATION"
    elif tracing.propagation != ("b3",):
        lost.append(f"{owner} tracing propagation {', '.join(tracing.propagation)}: Envoy's Zipkin tracer has b3, and b3 with w3c")
    if tracing.service_name:
        lost.append(f"{owner} tracing service_name: Envoy's Zipkin tracer takes the node's cluster")
    if tracing.timeout_s != Tracing(exporter="none").timeout_s:
        lost.append(f"{owner} tracing timeout: Envoy's Zipkin tracer has 5 s")
    if tracing.headers:
        lost.append(f"{owner} tracing headers: Envoy's Zipkin tracer sends none of its own")
    return typed(ZIPKIN, fields)


def _otel(tracing: Tracing) -> Data:
    uri = {"uri": f"http://{tracing.hostname or tracing.cluster}{tracing.path}", "cluster": tracing.cluster}
    service: Data = {"http_uri": {**uri, "timeout": duration(tracing.timeout_s)}}
    put(service, "request_headers_to_add", [{"header": {"key": name, "value": value}} for name, value in tracing.headers])
    fields: Data = {"http_service": service}
    put(fields, "service_name", tracing.service_name)
    return typed(OTEL, fields)


def _custom_tag(tag: CustomTag) -> Data:
    if tag.kind == "literal":
        return {"tag": tag.name, "literal": {"value": tag.value}}
    inner: Data = {"name": tag.value}
    put(inner, "default_value", tag.default)
    return {"tag": tag.name, tag.kind: inner}


def route_tracing(tracing: RouteTracing) -> Data:
    data: Data = {
        theirs: {"numerator": round(getattr(tracing, ours) * 10_000), "denominator": "MILLION"}
        for ours, theirs in _PERCENTS.items() if getattr(tracing, ours) != 100.0
    }
    put(data, "custom_tags", [_custom_tag(tag) for tag in tracing.custom_tags])
    return data
