"""Listeners and their filter chains in Envoy's form."""

from __future__ import annotations

from collections.abc import Mapping

from meshproxy.config.envoy.write_filters import connection_filter, http2_options, http_filter, listener_filter, terminal
from meshproxy.config.envoy.write_messages import Data, access_logs, address, changed, cidr, put, typed
from meshproxy.config.envoy.write_route import duration, route_configuration
from meshproxy.config.envoy.write_source import config_source
from meshproxy.config.envoy.write_tls import Secrets, downstream
from meshproxy.config.envoy.write_tracing import manager_tracing
from meshproxy.model import (
    ChainMatch,
    ClientCertHeader,
    FilterChain,
    Http2Settings,
    HttpConnectionManager,
    Listener,
    PythonFilter,
    RouteTable,
)

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_SECONDS = ("stream_idle_timeout", "request_timeout", "request_headers_timeout", "drain_timeout", "delayed_close_timeout")
_FLAGS = (
    "use_remote_address", "skip_xff_append", "generate_request_id", "preserve_external_request_id", "always_set_request_id_in_response",
    "proxy_100_continue", "normalize_path", "merge_slashes", "add_user_agent",
)
_SERVER_HEADER = {"append_if_absent": "APPEND_IF_ABSENT", "pass_through": "PASS_THROUGH"}
_UNDERSCORES = {"reject": "REJECT_REQUEST", "drop": "DROP_HEADER"}
_PLAIN_MANAGER = HttpConnectionManager(stat_prefix="", route_table="")
_RANGES = ("prefix_ranges", "direct_source_prefix_ranges", "source_prefix_ranges")


def listener(item: Listener, tables: Mapping[str, RouteTable], secrets: Secrets, lost: list[str]) -> Data:
    """A Listener; what cannot be said in it goes to `lost`."""
    compat = not item.ipv6_only
    first, *others = item.addresses
    data: Data = {"name": item.name, "address": address(first, compat)}
    put(data, "additional_addresses", [{"address": address(place, compat)} for place in others])
    if item.buffer_limit_bytes != 1 << 20:
        data["per_connection_buffer_limit_bytes"] = item.buffer_limit_bytes
    if item.backlog != 4096:
        data["tcp_backlog_size"] = item.backlog
    for field in ("freebind", "use_original_dst", "transparent", "stat_prefix"):
        put(data, field, getattr(item, field))
    if not item.bind_to_port:
        data["bind_to_port"] = False
    put(data, "listener_filters", [listener_filter(each) for each in item.filters])
    if item.filters_timeout_s != 15.0:
        data["listener_filters_timeout"] = duration(item.filters_timeout_s)
    put(data, "continue_on_listener_filters_timeout", item.continue_on_filters_timeout)
    put(data, "access_log", access_logs(item.access_logs, f'listener "{item.name}"', lost))
    if any(isinstance(chain.terminal, HttpConnectionManager) and chain.terminal.tracing and chain.terminal.tracing.egress
           for chain in item.all_chains):
        data["traffic_direction"] = "OUTBOUND"
    if item.max_connections:
        lost.append(f'listener "{item.name}" max_connections: Envoy has it as a runtime setting or a network filter')
    put(data, "filter_chains", [_chain(chain, item.name, tables, secrets, lost) for chain in item.chains])
    if item.default_chain is not None:
        data["default_filter_chain"] = _chain(item.default_chain, item.name, tables, secrets, lost)
    return data


def _chain(chain: FilterChain, owner: str, tables: Mapping[str, RouteTable], secrets: Secrets, lost: list[str]) -> Data:
    filters = [connection_filter(each) for each in chain.filters]
    if isinstance(chain.terminal, HttpConnectionManager):
        manager = _manager(chain.terminal, tables, owner, lost)
        filters.append({"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(_HCM, manager)})
    else:
        filters.append(terminal(chain.terminal, f'listener "{owner}"', lost))
    data: Data = {}
    put(data, "filter_chain_match", _match(chain.match))
    data["filters"] = filters
    put(data, "name", chain.name)
    if chain.tls is not None:
        data["transport_socket"] = downstream(chain.tls, secrets)
    if chain.connect_timeout_s:
        data["transport_socket_connect_timeout"] = duration(chain.connect_timeout_s)
    return data


def _match(match: ChainMatch) -> Data:
    data: Data = {}
    put(data, "destination_port", match.destination_port)
    for field in _RANGES:
        put(data, field, [cidr(text) for text in getattr(match, field)])
    for field in ("server_names", "application_protocols", "source_ports"):
        put(data, field, list(getattr(match, field)))
    put(data, "transport_protocol", match.transport_protocol)
    put(data, "source_type", match.source_type.upper() if match.source_type != "any" else "")
    return data


def _manager(manager: HttpConnectionManager, tables: Mapping[str, RouteTable], listener: str, lost: list[str]) -> Data:
    different = set(changed(manager, _PLAIN_MANAGER))
    data: Data = {"stat_prefix": manager.stat_prefix}
    if manager.codec != "auto":
        data["codec_type"] = manager.codec.upper()
    data.update({f"{name}": duration(getattr(manager, f"{name}_s")) for name in _SECONDS if f"{name}_s" in different})
    data.update({name: getattr(manager, name) for name in _FLAGS if name in different})
    if manager.server_name != "envoy":
        data["server_name"] = manager.server_name
    if manager.server_header in _SERVER_HEADER:
        data["server_header_transformation"] = _SERVER_HEADER[manager.server_header]
    put(data, "via", manager.via)
    put(data, "xff_num_trusted_hops", manager.xff_trusted_hops)
    if "max_head_bytes" in different:
        data["max_request_headers_kb"] = -(-manager.max_head_bytes // 1024)
    if manager.strip_port != "none":
        data[f"strip_{manager.strip_port}_host_port"] = True
    put(data, "upgrade_configs", [{"upgrade_type": "CONNECT" if name == "connect" else name} for name in manager.upgrades])
    put(data, "common_http_protocol_options", _shared(manager, different))
    put(data, "http_protocol_options", _http1(manager))
    put(data, "http2_protocol_options", http2_options(manager.http2, Http2Settings(), f'listener "{listener}"', lost))
    data.update(_client_cert_header(manager.client_cert_header))
    put(data, "access_log", access_logs(manager.access_logs, f'listener "{listener}"', lost))
    if manager.tracing is not None:
        data["tracing"] = manager_tracing(manager.tracing, f'listener "{listener}"', lost)
    if manager.rds is not None:
        data["rds"] = {"route_config_name": manager.route_table, "config_source": config_source(manager.rds)}
    else:
        data["route_config"] = route_configuration(tables[manager.route_table], lost)
    filters = [(item, http_filter(item)) for item in manager.filters]
    data["http_filters"] = [made for _, made in filters if made is not None]
    python = [item for item in manager.filters if isinstance(item, PythonFilter)]
    lost += [f'listener "{listener}" filter "{item.name}": Envoy has no Python filters' for item in python]
    router = {"suppress_envoy_headers": True} if manager.suppress_envoy_headers else {}
    data["http_filters"].append({"name": "envoy.filters.http.router", "typed_config": typed(_ROUTER, router)})
    if manager.max_body_bytes:
        lost.append(f'listener "{listener}" max_body: Envoy has it in the buffer filter only')
    return data


def _client_cert_header(header: ClientCertHeader) -> Data:
    data: Data = {}
    if header.mode != "sanitize":
        data["forward_client_cert_details"] = header.mode.upper()
    facts = {name: True for name in ("subject", "cert", "chain", "dns", "uri") if getattr(header, name)}
    put(data, "set_current_client_cert_details", facts)
    return data


def _shared(manager: HttpConnectionManager, different: set[str]) -> Data:
    names = ("idle_timeout", "max_connection_duration", "max_stream_duration")
    data: Data = {name: duration(getattr(manager, f"{name}_s")) for name in names if f"{name}_s" in different}
    if "max_headers" in different:
        data["max_headers_count"] = manager.max_headers
    put(data, "max_requests_per_connection", manager.max_requests_per_connection)
    put(data, "headers_with_underscores_action", _UNDERSCORES.get(manager.underscores_in_headers))
    return data


def _http1(manager: HttpConnectionManager) -> Data:
    data: Data = {} if manager.allow_absolute_url else {"allow_absolute_url": False}
    put(data, "accept_http_10", manager.accept_http_10)
    put(data, "default_host_for_http_10", manager.default_host_for_http_10)
    return data
