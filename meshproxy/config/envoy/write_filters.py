"""Listener, network and HTTP filters in Envoy's form."""

from __future__ import annotations

from typing import Any

from meshproxy.config.envoy.http2 import NUMBERS
from meshproxy.config.envoy.write_messages import Data, access_logs, changed, cidr, content, put, typed
from meshproxy.config.envoy.write_route import duration, header_match, string
from meshproxy.config.envoy.write_tls import pass_through_tlvs
from meshproxy.model import (
    ConnectionFilter,
    ConnectionLimit,
    Echo,
    GrpcHttp1Bridge,
    GrpcStats,
    GrpcWeb,
    Http2Settings,
    HttpInspector,
    HttpRbac,
    ListenerFilter,
    LocalRateLimit,
    NetworkDirectResponse,
    NetworkRbac,
    OriginalDst,
    ProxyProtocol,
    RbacRules,
    Rule,
    SniCluster,
    TcpProxy,
    TlsInspector,
)


def _filter(kind: str, name: str, fields: Data) -> Data:
    """`name` is the part of the type behind the package's beginning; the label is made of it."""
    label = f"envoy.filters.{kind}.{name.partition('.')[0]}"
    return {"name": label, "typed_config": typed(f"envoy.extensions.filters.{kind}.{name}", fields)}


def listener_filter(item: ListenerFilter) -> Data:
    if isinstance(item, TlsInspector):
        data: Data = {}
        put(data, "enable_ja3_fingerprinting", item.ja3)
        put(data, "enable_ja4_fingerprinting", item.ja4)
        return _filter("listener", "tls_inspector.v3.TlsInspector", data)
    if isinstance(item, ProxyProtocol):
        return _filter("listener", "proxy_protocol.v3.ProxyProtocol", _proxy_protocol(item))
    if isinstance(item, HttpInspector):
        return _filter("listener", "http_inspector.v3.HttpInspector", {})
    assert isinstance(item, OriginalDst)
    return _filter("listener", "original_dst.v3.OriginalDst", {})


def _proxy_protocol(item: ProxyProtocol) -> Data:
    data: Data = {}
    put(data, "allow_requests_without_proxy_protocol", item.allow_without_header)
    put(data, "disallowed_versions", [f"V{version}" for version in (1, 2) if version not in item.versions])
    if item.pass_tlvs != ():
        data["pass_through_tlvs"] = pass_through_tlvs(item.pass_tlvs)
    put(data, "stat_prefix", item.stat_prefix)
    return data


def connection_filter(item: ConnectionFilter) -> Data:
    if isinstance(item, ConnectionLimit):
        data: Data = {"stat_prefix": item.stat_prefix, "max_connections": item.max_connections}
        put(data, "delay", duration(item.delay_s) if item.delay_s else "")
        return _filter("network", "connection_limit.v3.ConnectionLimit", data)
    if isinstance(item, LocalRateLimit):
        bucket: Data = {"max_tokens": item.max_tokens, "fill_interval": duration(item.fill_interval_s)}
        put(bucket, "tokens_per_fill", item.tokens_per_fill if item.tokens_per_fill != 1 else 0)
        data = {"stat_prefix": item.stat_prefix, "token_bucket": bucket}
        put(data, "share_key", item.share_key)
        return _filter("network", "local_ratelimit.v3.LocalRateLimit", data)
    if isinstance(item, NetworkRbac):
        data = {"stat_prefix": item.stat_prefix, **_rbac(item)}
        put(data, "delay_deny", duration(item.delay_deny_s) if item.delay_deny_s else "")
        return _filter("network", "rbac.v3.RBAC", data)
    assert isinstance(item, SniCluster)
    return _filter("network", "sni_cluster.v3.SniCluster", {})


def _rbac(item: NetworkRbac | HttpRbac) -> Data:
    data: Data = {}
    if item.rules is not None:
        data["rules"] = _rules(item.rules)
    if item.shadow is not None:
        data["shadow_rules"] = _rules(item.shadow)
    put(data, "shadow_rules_stat_prefix", item.shadow_stat_prefix)
    return data


def _rules(rules: RbacRules) -> Data:
    data: Data = {"action": rules.action.upper()} if rules.action != "allow" else {}
    put(data, "policies", {
        policy.name: {
            "permissions": [_rule(rule, "rules", "rule") for rule in policy.permissions],
            "principals": [_rule(rule, "ids", "id") for rule in policy.principals],
        }
        for policy in rules.policies
    })
    return data


def _rule(rule: Rule, many: str, one: str) -> Data:
    """A Permission (`rules`, `rule`) or a Principal (`ids`, `id`)."""
    if rule.kind in ("all", "one_of"):
        word = "and" if rule.kind == "all" else "or"
        return {f"{word}_{many}": {many: [_rule(each, many, one) for each in rule.rules]}}
    if rule.kind == "not":
        return {f"not_{one}": _rule(rule.rules[0], many, one)}
    if rule.kind == "any":
        return {"any": True}
    if rule.kind == "destination_port":
        first, last = rule.ports
        return {"destination_port": first} if first == last else {"destination_port_range": {"start": first, "end": last + 1}}
    if rule.kind == "server_name":
        assert rule.match is not None
        return {"requested_server_name": string(rule.match)}
    if rule.kind == "authenticated":
        return {"authenticated": {"principal_name": string(rule.match)} if rule.match is not None else {}}
    if rule.kind == "header":
        assert rule.header is not None
        return {"header": header_match(rule.header)}
    if rule.kind == "path":
        assert rule.match is not None
        return {"url_path": {"path": string(rule.match)}}
    return {rule.kind: cidr(rule.range)}


def terminal(item: TcpProxy | Echo | NetworkDirectResponse, owner: str, lost: list[str]) -> Data:
    """What ends a chain, besides the connection manager."""
    if isinstance(item, Echo):
        return _filter("network", "echo.v3.Echo", {})
    if isinstance(item, NetworkDirectResponse):
        return _filter("network", "direct_response.v3.Config", {"response": content(item.body)} if item.body else {})
    data: Data = {"stat_prefix": item.stat_prefix}
    if len(item.clusters) == 1 and item.clusters[0].weight == 1:
        data["cluster"] = item.clusters[0].name
    else:
        data["weighted_clusters"] = {"clusters": [{"name": each.name, "weight": each.weight} for each in item.clusters]}
    if item.idle_timeout_s != 3600.0:
        data["idle_timeout"] = duration(item.idle_timeout_s)
    if item.max_connect_attempts != 1:
        data["max_connect_attempts"] = item.max_connect_attempts
    put(data, "max_downstream_connection_duration", duration(item.max_connection_duration_s) if item.max_connection_duration_s else "")
    put(data, "access_log", access_logs(item.access_logs, owner, lost))
    options: Data = {}
    put(options, "access_log_flush_interval", duration(item.access_log_flush_interval_s) if item.access_log_flush_interval_s else "")
    put(options, "flush_access_log_on_connected", item.flush_access_log_on_connected)
    put(data, "access_log_options", options)
    return _filter("network", "tcp_proxy.v3.TcpProxy", data)


def http_filter(item: Any) -> Data | None:
    """None for one that Envoy does not have."""
    if isinstance(item, GrpcWeb):
        return _filter("http", "grpc_web.v3.GrpcWeb", {})
    if isinstance(item, GrpcHttp1Bridge):
        return _filter("http", "grpc_http1_bridge.v3.Config", {"upgrade_protobuf_to_grpc": True} if item.upgrade_protobuf else {})
    if isinstance(item, HttpRbac):
        data = _rbac(item)
        put(data, "rules_stat_prefix", item.stat_prefix)
        return _filter("http", "rbac.v3.RBAC", data)
    if not isinstance(item, GrpcStats):
        return None
    data = {"stats_for_all_methods": True} if item.all_methods else {}
    services: dict[str, list[str]] = {}
    for method in item.methods:
        service, _, name = method.rpartition("/")
        services.setdefault(service, []).append(name)
    listed = [{"name": service, "method_names": names} for service, names in services.items()]
    put(data, "individual_method_stats_allowlist", {"services": listed} if listed else {})
    put(data, "enable_upstream_stats", item.upstream_stats)
    return _filter("http", "grpc_stats.v3.FilterConfig", data)


def http2_options(settings: Http2Settings, default: Http2Settings, owner: str, lost: list[str]) -> Data:
    """Http2ProtocolOptions: what differs from the default."""
    different = set(changed(settings, default))
    data: Data = {theirs: getattr(settings, ours) for theirs, ours in NUMBERS.items() if ours in different}
    put(data, "allow_connect", settings.allow_connect)
    put(data, "override_stream_error_on_invalid_http_message", settings.stream_error_on_invalid_message)
    if settings.keep_alive is not None:
        alive = settings.keep_alive
        told: Data = {"timeout": duration(alive.timeout_s)}
        put(told, "interval", duration(alive.interval_s) if alive.interval_s else "")
        put(told, "connection_idle_interval", duration(alive.idle_interval_s) if alive.idle_interval_s else "")
        if alive.interval_jitter_percent != 15.0:
            told["interval_jitter"] = {"value": alive.interval_jitter_percent}
        data["connection_keepalive"] = told
    ours = different & {"max_frame_bytes", "max_resets_per_minute"}
    lost += [f"{owner} http2 {field}: Envoy has no setting for it" for field in sorted(ours)]
    return data
