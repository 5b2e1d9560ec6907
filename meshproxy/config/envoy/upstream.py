"""How a cluster's endpoints are spoken to: Envoy's HttpProtocolOptions and transport socket."""

from __future__ import annotations

from typing import Any

import msgspec

from meshproxy.config.envoy import tls
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.http2 import http2_settings
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import Cluster

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECTION_FIELDS = frozenset(("idle_timeout", "max_connection_duration", "max_requests_per_connection", "max_headers_count"))
"""What of core's HttpProtocolOptions is supported for upstream connections; connection managers take more of the same message."""
_HTTP2 = Cluster(name="").http2

TAKES: Table = {
    HTTP_OPTIONS: takes(
        "common_http_protocol_options upstream_http_protocol_options explicit_http_config use_downstream_protocol_config auto_config",
        later="header_validation_config outlier_detection request_mirror_policies hash_policy retry_policy",
    ),
    HTTP_OPTIONS + ".ExplicitHttpConfig": takes("http_protocol_options http2_protocol_options"),
    HTTP_OPTIONS + ".UseDownstreamHttpConfig": takes("http_protocol_options http2_protocol_options"),
    HTTP_OPTIONS + ".AutoHttpConfig": takes("http_protocol_options http2_protocol_options"),
    "envoy.config.core.v3.UpstreamHttpProtocolOptions": takes("auto_sni auto_san_validation"),
}
_PROTOCOLS = {"use_downstream_protocol_config": "downstream", "auto_config": "auto"}


def settings(message: Any, given: dict[str, Any], path: Path, translation: Translation) -> dict[str, Any]:
    """The model's fields; HTTP settings come from the extension or from the older fields of the cluster itself."""
    made: dict[str, Any] = {}
    if "max_requests_per_connection" in given:
        made["max_requests_per_connection"] = given["max_requests_per_connection"].value
    _http(given, path, translation, made)
    if enum_name(message, "protocol_selection") == "USE_DOWNSTREAM_PROTOCOL":
        made["protocol"] = "downstream"
    elif "http2_protocol_options" in given:
        made["protocol"] = "http2"
    for key, packed in given.get("typed_extension_protocol_options", {}).items():
        place = ((path, "typed_extension_protocol_options"), key)
        options = translation.unpack(packed, place, (HTTP_OPTIONS,), "protocol options")
        if options is not None:
            _options(options, place, translation, made)
    _transport(given, path, translation, made)
    return made


def _options(message: Any, path: Path, translation: Translation, made: dict[str, Any]) -> None:
    given = translation.fields(message, path)
    _http({field: given[field] for field in ("common_http_protocol_options", "upstream_http_protocol_options") if field in given},
          path, translation, made)
    if "explicit_http_config" in given:
        place = (path, "explicit_http_config")
        explicit = translation.fields(given["explicit_http_config"], place)
        _http(explicit, place, translation, made)
        made["protocol"] = "http2" if "http2_protocol_options" in explicit else "http1"
    for field, protocol in _PROTOCOLS.items():
        if field in given:
            place = (path, field)
            _http(translation.fields(given[field], place), place, translation, made)
            made["protocol"] = protocol


def _http(given: dict[str, Any], path: Path, translation: Translation, made: dict[str, Any]) -> None:
    """The messages that a cluster has itself and that HttpProtocolOptions has."""
    if "common_http_protocol_options" in given:
        _connection(given["common_http_protocol_options"], (path, "common_http_protocol_options"), translation, made)
    if "http_protocol_options" in given:
        translation.fields(given["http_protocol_options"], (path, "http_protocol_options"))
    if "http2_protocol_options" in given:
        made["http2"] = http2_settings(given["http2_protocol_options"], (path, "http2_protocol_options"), translation, _HTTP2)
    if "upstream_http_protocol_options" in given:
        asked = translation.fields(given["upstream_http_protocol_options"], (path, "upstream_http_protocol_options"))
        made["_asked"] = (asked, (path, "upstream_http_protocol_options"))


def _connection(message: Any, path: Path, translation: Translation, made: dict[str, Any]) -> None:
    given = translation.fields(message, path)
    for name in given.keys() - _CONNECTION_FIELDS:
        translation.refuse((path, name), f'"{name}" of upstream connections')
    for theirs, ours in (("idle_timeout", "idle_timeout_s"), ("max_connection_duration", "max_connection_duration_s")):
        if theirs in given:
            made[ours] = seconds(given[theirs])
    for theirs, ours in (("max_requests_per_connection", "max_requests_per_connection"), ("max_headers_count", "max_response_headers")):
        if theirs in given:
            made[ours] = given[theirs].value


def _transport(given: dict[str, Any], path: Path, translation: Translation, made: dict[str, Any]) -> None:
    asked, asked_at = made.pop("_asked", ({}, path))
    protocol = made.get("protocol", "http1")
    found = tls.Upstream()
    if "transport_socket" in given:
        found = tls.upstream(given["transport_socket"], (path, "transport_socket"), translation)
    made.update(found.settings)
    secured = found.tls
    if secured is None:
        if protocol == "auto" and not translation.problems.refused:
            translation.error(path, "auto_config: the protocol is agreed on by TLS. Add a transport_socket with an UpstreamTlsContext.")
        if asked and not translation.problems.refused:
            translation.problems.warning(asked_at, "it has no effect: the cluster is reached without TLS.")
        return
    secured = msgspec.structs.replace(
        secured,
        auto_sni=asked.get("auto_sni", False),
        auto_san_validation=secured.auto_san_validation or asked.get("auto_san_validation", False),
    )
    made["tls"] = tls.with_alpn(secured, protocol)
