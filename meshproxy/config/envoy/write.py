"""A Snapshot as Envoy's bootstrap, for `config convert`. What Envoy's API cannot say is listed, not left out in silence."""

from __future__ import annotations

from typing import Any

import msgspec

from meshproxy.config.envoy.write_route import duration, route_configuration
from meshproxy.model import (
    AccessLog,
    Address,
    Admin,
    Breakers,
    Cluster,
    Endpoint,
    HttpConnectionManager,
    Listener,
    Node,
    PipeAddress,
    Process,
    RouteTable,
    Snapshot,
    Stats,
    StatsSink,
)
from meshproxy.model.telemetry import DEFAULT_FORMAT

_URL = "type.googleapis.com/"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
Data = dict[str, Any]


def to_data(snapshot: Snapshot) -> tuple[Data, list[str]]:
    """The bootstrap as plain data, and what of the snapshot it does not say."""
    lost: list[str] = []
    tables = {table.name: table for table in snapshot.route_tables}
    data: Data = {}
    if snapshot.node != Node():
        data["node"] = _node(snapshot.node)
    if snapshot.admin is not None:
        data["admin"] = _admin(snapshot.admin, lost)
    data["static_resources"] = {
        "listeners": [_listener(item, tables, lost) for item in snapshot.listeners],
        "clusters": [_cluster(item) for item in snapshot.clusters],
    }
    stats = snapshot.stats
    if any(sink.tcp_cluster for sink in stats.sinks) and not (snapshot.node.id and snapshot.node.cluster):
        lost.append("node id and cluster: Envoy wants both for statsd by TCP; set them")
    if stats.sinks:
        data["stats_sinks"] = [sink for item in stats.sinks if (sink := _sink(item, lost)) is not None]
    if stats.flush_interval_s != Stats().flush_interval_s:
        data["stats_flush_interval"] = duration(stats.flush_interval_s)
    if stats.histogram_buckets_ms != Stats().histogram_buckets_ms:
        lost.append("histogram_buckets_ms: Envoy has no setting for all histograms")
    lost += [f"{field}: Envoy has it on the command line or not at all" for field in changed(snapshot.process, Process())]
    if snapshot.log_level != "info":
        lost.append("log_level: Envoy has it on the command line")
    used = {item.chains[0].terminal.route_table for item in snapshot.listeners}
    lost += [f'route table "{name}": no listener uses it' for name in tables if name not in used]
    return data, lost


def changed(value: msgspec.Struct, default: msgspec.Struct) -> list[str]:
    """Fields that differ from the default."""
    return [field for field in value.__struct_fields__ if getattr(value, field) != getattr(default, field)]


def typed(name: str, fields: Data) -> Data:
    return {"@type": _URL + name, **fields}


def address(place: Address, ipv4_compat: bool = False) -> Data:
    if isinstance(place, PipeAddress):
        return {"pipe": {"path": place.path, **({"mode": place.mode} if place.mode else {})}}
    compat = {"ipv4_compat": True} if ipv4_compat and place.host == "::" else {}
    return {"socket_address": {"address": place.host, "port_value": place.port, **compat}}


def _node(node: Node) -> Data:
    locality = {field: getattr(node, field) for field in ("region", "zone", "sub_zone") if getattr(node, field)}
    plain = {field: getattr(node, field) for field in ("id", "cluster", "metadata") if getattr(node, field)}
    return {**plain, **({"locality": locality} if locality else {})}


def _admin(admin: Admin, lost: list[str]) -> Data:
    data: Data = {"address": address(admin.address)}
    _put(data, "access_log", _access_logs(admin.access_logs, "admin", lost))
    return data


def _sink(sink: StatsSink, lost: list[str]) -> Data | None:
    if sink.transport == "tcp" and sink.address is not None:
        lost.append(f"statsd {sink.address}: Envoy reaches statsd by TCP through a cluster only; add one and use tcp_cluster")
        return None
    dog = sink.dialect == "dogstatsd"
    if dog and sink.tcp_cluster:
        lost.append(f'statsd: Envoy sends DogStatsD by UDP only, not to cluster "{sink.tcp_cluster}"')
        return None
    fields: Data = {"tcp_cluster_name": sink.tcp_cluster} if sink.tcp_cluster else {"address": address(sink.address)}
    if sink.prefix != "envoy":
        fields["prefix"] = sink.prefix
    if dog:
        fields["max_bytes_per_datagram"] = sink.max_datagram_bytes
    elif sink.max_datagram_bytes != StatsSink().max_datagram_bytes:
        lost.append("statsd max_datagram: Envoy has it for dog_statsd only")
    kind = "DogStatsdSink" if dog else "StatsdSink"
    name = f"envoy.stat_sinks.{'dog_statsd' if dog else 'statsd'}"
    return {"name": name, "typed_config": typed(f"envoy.config.metrics.v3.{kind}", fields)}


def _listener(listener: Listener, tables: dict[str, RouteTable], lost: list[str]) -> Data:
    compat = not listener.ipv6_only
    first, *others = listener.addresses
    chain = listener.chains[0]
    manager = _manager(chain.terminal, tables, listener.name, lost)
    chain_data: Data = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(_HCM, manager)}]}
    if chain.name:
        chain_data["name"] = chain.name
    if chain.connect_timeout_s:
        chain_data["transport_socket_connect_timeout"] = duration(chain.connect_timeout_s)
    data: Data = {"name": listener.name, "address": address(first, compat)}
    if others:
        data["additional_addresses"] = [{"address": address(place, compat)} for place in others]
    if listener.buffer_limit_bytes != 1 << 20:
        data["per_connection_buffer_limit_bytes"] = listener.buffer_limit_bytes
    if listener.backlog != 4096:
        data["tcp_backlog_size"] = listener.backlog
    if listener.freebind:
        data["freebind"] = True
    if listener.stat_prefix:
        data["stat_prefix"] = listener.stat_prefix
    if listener.max_connections:
        lost.append(f'listener "{listener.name}" max_connections: Envoy has it as a runtime setting or a network filter')
    return {**data, "filter_chains": [chain_data]}


_SECONDS = ("stream_idle_timeout", "request_timeout", "request_headers_timeout", "drain_timeout", "delayed_close_timeout")
_FLAGS = (
    "use_remote_address", "skip_xff_append", "generate_request_id", "preserve_external_request_id", "always_set_request_id_in_response",
    "proxy_100_continue", "normalize_path", "merge_slashes", "add_user_agent",
)
_SERVER_HEADER = {"append_if_absent": "APPEND_IF_ABSENT", "pass_through": "PASS_THROUGH"}
_UNDERSCORES = {"reject": "REJECT_REQUEST", "drop": "DROP_HEADER"}
_PLAIN_MANAGER = HttpConnectionManager(stat_prefix="", route_table="")


def _manager(manager: HttpConnectionManager, tables: dict[str, RouteTable], listener: str, lost: list[str]) -> Data:
    different = set(changed(manager, _PLAIN_MANAGER))
    data: Data = {"stat_prefix": manager.stat_prefix}
    if manager.codec == "http1":
        data["codec_type"] = "HTTP1"
    data.update({f"{name}": duration(getattr(manager, f"{name}_s")) for name in _SECONDS if f"{name}_s" in different})
    data.update({name: getattr(manager, name) for name in _FLAGS if name in different})
    if manager.server_name != "envoy":
        data["server_name"] = manager.server_name
    if manager.server_header in _SERVER_HEADER:
        data["server_header_transformation"] = _SERVER_HEADER[manager.server_header]
    if manager.via:
        data["via"] = manager.via
    if manager.xff_trusted_hops:
        data["xff_num_trusted_hops"] = manager.xff_trusted_hops
    if "max_head_bytes" in different:
        data["max_request_headers_kb"] = -(-manager.max_head_bytes // 1024)
    if manager.strip_port != "none":
        data[f"strip_{manager.strip_port}_host_port"] = True
    if manager.upgrades:
        data["upgrade_configs"] = [{"upgrade_type": name} for name in manager.upgrades]
    _put(data, "common_http_protocol_options", _shared(manager, different))
    _put(data, "http_protocol_options", _http1(manager))
    _put(data, "access_log", _access_logs(manager.access_logs, f'listener "{listener}"', lost))
    data["route_config"] = route_configuration(tables[manager.route_table], lost)
    router = {"suppress_envoy_headers": True} if manager.suppress_envoy_headers else {}
    data["http_filters"] = [{"name": "envoy.filters.http.router", "typed_config": typed(_ROUTER, router)}]
    lost += [f'listener "{listener}" filter "{item.name}": Envoy has no Python filters' for item in manager.filters]
    if manager.max_body_bytes:
        lost.append(f'listener "{listener}" max_body: Envoy has it in the buffer filter only')
    return data


def _put(data: Data, name: str, value: Any) -> None:
    if value:
        data[name] = value


def _shared(manager: HttpConnectionManager, different: set[str]) -> Data:
    names = ("idle_timeout", "max_connection_duration", "max_stream_duration")
    data: Data = {name: duration(getattr(manager, f"{name}_s")) for name in names if f"{name}_s" in different}
    if "max_headers" in different:
        data["max_headers_count"] = manager.max_headers
    if manager.max_requests_per_connection:
        data["max_requests_per_connection"] = manager.max_requests_per_connection
    if manager.underscores_in_headers in _UNDERSCORES:
        data["headers_with_underscores_action"] = _UNDERSCORES[manager.underscores_in_headers]
    return data


def _http1(manager: HttpConnectionManager) -> Data:
    data: Data = {} if manager.allow_absolute_url else {"allow_absolute_url": False}
    if manager.accept_http_10:
        data["accept_http_10"] = True
    _put(data, "default_host_for_http_10", manager.default_host_for_http_10)
    return data


_LOGGERS = {"file": "file.v3.FileAccessLog", "stdout": "stream.v3.StdoutAccessLog", "stderr": "stream.v3.StderrAccessLog"}


def _access_logs(logs: tuple[AccessLog, ...], owner: str, lost: list[str]) -> list[Data]:
    lost += [f"{owner} access_log to syslog {log.path}: Envoy has no syslog" for log in logs if log.sink == "syslog"]
    return [_access_log(log) for log in logs if log.sink != "syslog"]


def _access_log(log: AccessLog) -> Data:
    fields: Data = {"path": log.path} if log.sink == "file" else {}
    if log.json is not None:
        fields["log_format"] = {"json_format": log.json}
    elif log.text != DEFAULT_FORMAT or log.omit_empty_values:
        fields["log_format"] = {"text_format_source": {"inline_string": log.text}}
    if log.omit_empty_values:
        fields["log_format"]["omit_empty_values"] = True
    data: Data = {"name": f"envoy.access_loggers.{log.sink}"}
    if log.min_status:
        # RuntimeUInt32 needs a key; without runtime its default value holds.
        value = {"default_value": log.min_status, "runtime_key": "access_log.min_status"}
        data["filter"] = {"status_code_filter": {"comparison": {"op": "GE", "value": value}}}
    return {**data, "typed_config": typed(f"envoy.extensions.access_loggers.{_LOGGERS[log.sink]}", fields)}


_PLAIN_CLUSTER = Cluster(name="")
_BREAKERS = {"max_connections": "max_connections", "max_pending": "max_pending_requests", "max_requests": "max_requests",
             "max_retries": "max_retries"}


def _cluster(cluster: Cluster) -> Data:
    different = set(changed(cluster, _PLAIN_CLUSTER))
    data: Data = {"name": cluster.name, "type": cluster.discovery.upper()}
    _put(data, "alt_stat_name", cluster.alt_stat_name)
    if "connect_timeout_s" in different:
        data["connect_timeout"] = duration(cluster.connect_timeout_s)
    if "buffer_limit_bytes" in different:
        data["per_connection_buffer_limit_bytes"] = cluster.buffer_limit_bytes
    if "balance" in different:
        data["lb_policy"] = cluster.balance.upper()
    if "least_request_choices" in different:
        data["least_request_lb_config"] = {"choice_count": cluster.least_request_choices}
    if "panic_threshold_percent" in different:
        data["common_lb_config"] = {"healthy_panic_threshold": {"value": cluster.panic_threshold_percent}}
    if cluster.respect_dns_ttl:
        data["respect_dns_ttl"] = True
    if "dns_refresh_s" in different:
        data["dns_refresh_rate"] = duration(cluster.dns_refresh_s)
    if "dns_lookup_family" in different:
        data["dns_lookup_family"] = cluster.dns_lookup_family.upper()
    if cluster.tcp_keepalive:
        data["upstream_connection_options"] = {"tcp_keepalive": {}}
    thresholds = [_threshold(cluster.breakers, {})] if "breakers" in different else []
    thresholds += [_threshold(cluster.high_breakers, {"priority": "HIGH"})] if "high_breakers" in different else []
    _put(data, "circuit_breakers", {"thresholds": thresholds} if thresholds else {})
    _put(data, "typed_extension_protocol_options", _upstream(cluster, different))
    endpoints = [_endpoint(item) for item in cluster.endpoints]
    data["load_assignment"] = {"cluster_name": cluster.name, **({"endpoints": [{"lb_endpoints": endpoints}]} if endpoints else {})}
    return data


def _threshold(breakers: Breakers, data: Data) -> Data:
    data.update({theirs: getattr(breakers, ours) for ours, theirs in _BREAKERS.items() if ours in changed(breakers, Breakers())})
    if breakers.retry_budget is not None:
        budget = breakers.retry_budget
        data["retry_budget"] = {"budget_percent": {"value": budget.percent}, "min_retry_concurrency": budget.min_concurrency}
    return data


def _upstream(cluster: Cluster, different: set[str]) -> Data:
    names = ("idle_timeout", "max_connection_duration")
    shared: Data = {name: duration(getattr(cluster, f"{name}_s")) for name in names if f"{name}_s" in different}
    if cluster.max_requests_per_connection:
        shared["max_requests_per_connection"] = cluster.max_requests_per_connection
    if not shared:
        return {}
    options = {"common_http_protocol_options": shared, "explicit_http_config": {"http_protocol_options": {}}}
    return {_UPSTREAM: typed(_UPSTREAM, options)}


def _endpoint(endpoint: Endpoint) -> Data:
    inner: Data = {"address": address(endpoint.address)}
    _put(inner, "hostname", endpoint.hostname)
    data: Data = {"endpoint": inner}
    if endpoint.weight != 1:
        data["load_balancing_weight"] = endpoint.weight
    if not endpoint.healthy:
        data["health_status"] = "UNHEALTHY"
    return data
