"""Clusters in Envoy's form."""

from __future__ import annotations

from meshproxy.config.envoy.write_filters import http2_options
from meshproxy.config.envoy.write_messages import Data, address, changed, put, typed
from meshproxy.config.envoy.write_route import duration
from meshproxy.config.envoy.write_source import config_source
from meshproxy.config.envoy.write_tls import Secrets, upstream
from meshproxy.model import Breakers, Cluster, EdsSource, Endpoint
from meshproxy.model.discovery import source_name

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PLAIN_CLUSTER = Cluster(name="")
_BREAKERS = {"max_connections": "max_connections", "max_pending": "max_pending_requests", "max_requests": "max_requests",
             "max_retries": "max_retries"}


def cluster(cluster: Cluster, secrets: Secrets, lost: list[str]) -> Data:
    """A Cluster; what cannot be said in it goes to `lost`."""
    different = set(changed(cluster, _PLAIN_CLUSTER))
    eds = cluster.sources[0] if len(cluster.sources) == 1 and isinstance(cluster.sources[0], EdsSource) else None
    kind = "EDS" if eds is not None else "STATIC" if cluster.discovery == "found" else cluster.discovery.upper()
    data: Data = {"name": cluster.name, "type": kind}
    if eds is not None:
        data["eds_cluster_config"] = {"eds_config": config_source(eds.source)}
        put(data["eds_cluster_config"], "service_name", eds.service)
        kept = [field for field in ("keep_last_s", "debounce_s") if getattr(cluster, field)]
        lost += [f'cluster "{cluster.name}" {field[:-2]}: Envoy takes what a control plane says at once' for field in kept]
    else:
        lost += [f'cluster "{cluster.name}" discovery: Envoy has no source "{source_name(each)}"' for each in cluster.sources]
    put(data, "alt_stat_name", cluster.alt_stat_name)
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
    if not cluster.wait_for_warm:
        data["wait_for_warm_on_init"] = False
    if cluster.tcp_keepalive:
        data["upstream_connection_options"] = {"tcp_keepalive": {}}
    thresholds = [_threshold(cluster.breakers, {})] if "breakers" in different else []
    thresholds += [_threshold(cluster.high_breakers, {"priority": "HIGH"})] if "high_breakers" in different else []
    put(data, "circuit_breakers", {"thresholds": thresholds} if thresholds else {})
    put(data, "typed_extension_protocol_options", _protocol(cluster, different, lost))
    put(data, "transport_socket", upstream(cluster, secrets, lost))
    endpoints = [_endpoint(item) for item in cluster.endpoints]
    if eds is None:
        data["load_assignment"] = {"cluster_name": cluster.name, **({"endpoints": [{"lb_endpoints": endpoints}]} if endpoints else {})}
    return data


def _threshold(breakers: Breakers, data: Data) -> Data:
    data.update({theirs: getattr(breakers, ours) for ours, theirs in _BREAKERS.items() if ours in changed(breakers, Breakers())})
    if breakers.retry_budget is not None:
        budget = breakers.retry_budget
        data["retry_budget"] = {"budget_percent": {"value": budget.percent}, "min_retry_concurrency": budget.min_concurrency}
    return data


def _protocol(cluster: Cluster, different: set[str], lost: list[str]) -> Data:
    """HttpProtocolOptions, when they say something."""
    names = ("idle_timeout", "max_connection_duration")
    shared: Data = {name: duration(getattr(cluster, f"{name}_s")) for name in names if f"{name}_s" in different}
    put(shared, "max_requests_per_connection", cluster.max_requests_per_connection)
    if "max_response_headers" in different:
        shared["max_headers_count"] = cluster.max_response_headers
    options: Data = {}
    put(options, "common_http_protocol_options", shared)
    if cluster.tls is not None and cluster.tls.auto_sni:
        options["upstream_http_protocol_options"] = {"auto_sni": True}
    http2 = http2_options(cluster.http2, _PLAIN_CLUSTER.http2, f'cluster "{cluster.name}"', lost)
    if cluster.protocol == "http1":
        if http2:
            lost.append(f'cluster "{cluster.name}" http2: Envoy has it where HTTP/2 is spoken')
        if not options:
            return {}
        options["explicit_http_config"] = {"http_protocol_options": {}}
    elif cluster.protocol == "http2":
        options["explicit_http_config"] = {"http2_protocol_options": http2}
    else:
        field = "auto_config" if cluster.protocol == "auto" else "use_downstream_protocol_config"
        options[field] = {"http_protocol_options": {}, "http2_protocol_options": http2}
    return {_OPTIONS: typed(_OPTIONS, options)}


def _endpoint(endpoint: Endpoint) -> Data:
    inner: Data = {"address": address(endpoint.address)}
    put(inner, "hostname", endpoint.hostname)
    data: Data = {"endpoint": inner}
    if endpoint.weight != 1:
        data["load_balancing_weight"] = endpoint.weight
    if not endpoint.healthy:
        data["health_status"] = "UNHEALTHY"
    return data
