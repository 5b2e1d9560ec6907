"""Envoy's HttpConnectionManager and its HTTP filters."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshproxy.config.envoy.access_log import access_logs
from meshproxy.config.envoy.config_source import config_source
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.http2 import http2_settings
from meshproxy.config.envoy.http_filters import http_filters
from meshproxy.config.envoy.route import route_table
from meshproxy.config.envoy.tracing import manager_tracing
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import ClientCertHeader, Http2Settings, HttpConnectionManager, RouteTable

HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_PACKAGE = HCM.rpartition(".")[0] + "."
_PRESERVE_CASE = "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"

TAKES: Table = {
    HCM: takes(
        "stat_prefix codec_type route_config rds http_filters add_user_agent common_http_protocol_options http_protocol_options "
        "server_name server_header_transformation max_request_headers_kb stream_idle_timeout request_timeout request_headers_timeout "
        "drain_timeout "
        "delayed_close_timeout access_log use_remote_address xff_num_trusted_hops skip_xff_append via generate_request_id "
        "preserve_external_request_id always_set_request_id_in_response proxy_100_continue upgrade_configs normalize_path merge_slashes "
        "strip_matching_host_port strip_any_host_port http2_protocol_options forward_client_cert_details set_current_client_cert_details "
        "tracing",
        only={
            "path_with_escaped_slashes_action": ("IMPLEMENTATION_SPECIFIC_DEFAULT", "KEEP_UNCHANGED"),
            "stream_error_on_invalid_http_message": (False,),
        },
        later="http1_safe_max_connection_duration http3_protocol_options scheme_header_transformation "
        "stream_flush_timeout access_log_flush_interval flush_access_log_on_new_request access_log_options "
        "internal_address_config represent_ipv4_remote_address_as_ipv4_mapped_ipv6 request_id_extension "
        "local_reply_config proxy_status_config typed_header_validation_config append_x_forwarded_port "
        "append_local_overload add_proxy_protocol_connection_state stream_error_on_invalid_http_message",
    ),
    _PACKAGE + "Rds": takes("config_source route_config_name"),
    _PACKAGE + "HttpConnectionManager.UpgradeConfig": takes("upgrade_type enabled"),
    _PACKAGE + "HttpConnectionManager.SetCurrentClientCertDetails": takes("subject cert chain dns uri"),
    "envoy.config.core.v3.HttpProtocolOptions": takes(
        "idle_timeout max_connection_duration max_headers_count max_stream_duration headers_with_underscores_action "
        "max_requests_per_connection",
        later="max_response_headers_kb",
    ),
    "envoy.config.core.v3.Http1ProtocolOptions": takes(
        "allow_absolute_url accept_http_10 default_host_for_http_10 header_key_format",
        only={"allow_chunked_length": (False,), "override_stream_error_on_invalid_http_message": (False,)},
        enable_trailers="is what is done anyway: trailers are handed on",
        allow_custom_methods="is what is done anyway: every method is handed on",
        use_balsa_parser="chooses among Envoy's own parsers",
        later="send_fully_qualified_url ignore_http_11_upgrade allow_chunked_length "
        "override_stream_error_on_invalid_http_message",
    ),
    "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat": takes(
        "stateful_formatter",
        later="proper_case_words",
    ),
    _PRESERVE_CASE: takes(forward_reason_phrase="is what is done anyway", formatter_type_on_envoy_headers="concerns Envoy's own headers"),
}
_CODECS = {"AUTO": "auto", "HTTP1": "http1", "HTTP2": "http2"}
_SERVER_HEADER = {"OVERWRITE": "overwrite", "APPEND_IF_ABSENT": "append_if_absent", "PASS_THROUGH": "pass_through"}
_UNDERSCORES = {"ALLOW": "allow", "REJECT_REQUEST": "reject", "DROP_HEADER": "drop"}
_TIMES = {
    "stream_idle_timeout": "stream_idle_timeout_s",
    "request_timeout": "request_timeout_s",
    "request_headers_timeout": "request_headers_timeout_s",
    "drain_timeout": "drain_timeout_s",
    "delayed_close_timeout": "delayed_close_timeout_s",
}
_PLAIN = {
    "xff_num_trusted_hops": "xff_trusted_hops",
    "skip_xff_append": "skip_xff_append",
    "via": "via",
    "preserve_external_request_id": "preserve_external_request_id",
    "always_set_request_id_in_response": "always_set_request_id_in_response",
    "proxy_100_continue": "proxy_100_continue",
    "merge_slashes": "merge_slashes",
}
_WRAPPED = ("add_user_agent", "use_remote_address", "generate_request_id", "normalize_path")


class Managed(NamedTuple):
    """A connection manager, with the routes that are written in it; None = they are asked for."""

    manager: HttpConnectionManager
    table: RouteTable | None


def connection_manager(message: Any, path: Path, translation: Translation, listener: str) -> Managed | None:
    """An HttpConnectionManager; an inline route configuration without a name takes the listener's."""
    given = translation.fields(message, path)
    settings: dict[str, Any] = {ours: seconds(given[theirs]) for theirs, ours in _TIMES.items() if theirs in given}
    settings.update({ours: given[theirs] for theirs, ours in _PLAIN.items() if theirs in given})
    settings.update({name: given[name].value for name in _WRAPPED if name in given})
    if "max_request_headers_kb" in given:
        settings["max_head_bytes"] = given["max_request_headers_kb"].value * 1024
    if "common_http_protocol_options" in given:
        settings.update(_shared(given["common_http_protocol_options"], (path, "common_http_protocol_options"), translation))
    if "http_protocol_options" in given:
        settings.update(http1_options(given["http_protocol_options"], (path, "http_protocol_options"), translation))
    if "http2_protocol_options" in given:
        place = (path, "http2_protocol_options")
        settings["http2"] = http2_settings(given["http2_protocol_options"], place, translation, Http2Settings())
    settings.update(http_filters(given.get("http_filters", ()), (path, "http_filters"), translation))
    settings["client_cert_header"] = _client_cert_header(message, given, path, translation)
    settings["upgrades"] = _upgrades(given.get("upgrade_configs", ()), (path, "upgrade_configs"), translation)
    if "tracing" in given:
        settings["tracing"] = manager_tracing(given["tracing"], (path, "tracing"), translation)
    settings["access_logs"] = access_logs(given.get("access_log", ()), (path, "access_log"), translation)
    codec = enum_name(message, "codec_type")
    if codec not in _CODECS:
        translation.refuse((path, "codec_type"), f"codec_type {codec}", "Use AUTO, HTTP1 or HTTP2.")
    table: RouteTable | None = None
    if "rds" in given:
        name = _rds(given["rds"], (path, "rds"), translation, settings)
        if not name:
            return None
    elif "route_config" in given:
        table = route_table(given["route_config"], (path, "route_config"), translation, listener)
        name = table.name
    else:
        return None
    manager = HttpConnectionManager(
        stat_prefix=given.get("stat_prefix", ""),
        route_table=name,
        codec=_CODECS.get(codec, "auto"),
        # Envoy's default, so that a client sees no other name than with Envoy.
        server_name=given.get("server_name") or "envoy",
        server_header=_SERVER_HEADER[enum_name(message, "server_header_transformation")],
        strip_port="any" if given.get("strip_any_host_port") else "matching" if given.get("strip_matching_host_port") else "none",
        **settings,
    )
    return Managed(manager, table)


def _rds(message: Any, path: Path, translation: Translation, settings: dict[str, Any]) -> str:
    """The name of a route configuration that is asked for, "" after a problem was told."""
    translation.problems.sourced.append((path, '"rds"'))
    given = translation.fields(message, path)
    name = given.get("route_config_name", "")
    if "config_source" not in given:
        translation.error(path, '"config_source" is missing. Add it, like config_source: {ads: {}, resource_api_version: V3}.')
        return ""
    settings["rds"] = config_source(given["config_source"], (path, "config_source"), translation, translation.owner)
    if not name:
        translation.error(path, '"route_config_name" is missing. Add the name that the routes are asked for by.')
    elif name.startswith("xdstp:"):
        translation.refuse((path, "route_config_name"), "an xdstp name", "Write a plain name.")
    return name if settings["rds"] is not None else ""


def _shared(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    given = translation.fields(message, path)
    settings: dict[str, Any] = {"underscores_in_headers": _UNDERSCORES[enum_name(message, "headers_with_underscores_action")]}
    for theirs in ("idle_timeout", "max_connection_duration", "max_stream_duration"):
        if theirs in given:
            settings[f"{theirs}_s"] = seconds(given[theirs])
    for theirs, ours in (("max_headers_count", "max_headers"), ("max_requests_per_connection", "max_requests_per_connection")):
        if theirs in given:
            settings[ours] = given[theirs].value
    return settings


def http1_options(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    """Http1ProtocolOptions. Header case is always kept, which is what `preserve_case` asks for."""
    given = translation.fields(message, path)
    if "header_key_format" in given:
        place = (path, "header_key_format")
        style = translation.fields(given["header_key_format"], place)
        if "stateful_formatter" in style:
            inside = (place, "stateful_formatter")
            formatter = translation.fields(style["stateful_formatter"], inside)
            if "typed_config" in formatter:
                translation.unpack(formatter["typed_config"], (inside, "typed_config"), (_PRESERVE_CASE,), "header formatter")
    settings = {name: given[name] for name in ("accept_http_10", "default_host_for_http_10") if name in given}
    if "allow_absolute_url" in given:
        settings["allow_absolute_url"] = given["allow_absolute_url"].value
    return settings


def _upgrades(messages: Any, path: Path, translation: Translation) -> tuple[str, ...]:
    made = []
    for index, message in enumerate(messages):
        given = translation.fields(message, (path, index))
        if "enabled" not in given or given["enabled"].value:
            made.append(given.get("upgrade_type", "").lower())
    return tuple(made)


def _client_cert_header(message: Any, given: dict[str, Any], path: Path, translation: Translation) -> ClientCertHeader:
    facts: dict[str, bool] = {}
    if "set_current_client_cert_details" in given:
        details = translation.fields(given["set_current_client_cert_details"], (path, "set_current_client_cert_details"))
        facts = {name: value if isinstance(value, bool) else value.value for name, value in details.items()}
    return ClientCertHeader(mode=enum_name(message, "forward_client_cert_details").lower(), **facts)
