"""Envoy's Cluster and ClusterLoadAssignment to a Cluster."""

from __future__ import annotations

from typing import Any

from meshproxy.config import rules
from meshproxy.config.envoy import upstream
from meshproxy.config.envoy.address import address
from meshproxy.config.envoy.config_source import config_source
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.messages import name_in
from meshproxy.config.envoy.told_filters import is_told
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import Breakers, Cluster, EdsSource, Endpoint, PipeAddress, RetryBudget, SocketAddress

_CLUSTER = "envoy.config.cluster.v3."
_ENDPOINT = "envoy.config.endpoint.v3."
_POLICIES = "envoy.extensions.load_balancing_policies."
_DNS_CLUSTER = "envoy.extensions.clusters.dns.v3.DnsCluster"
_NO_CHECKS = "concerns health checks, which are refused where they would be turned on"
_NO_LOCALITIES = "concerns locality aware balancing, which is refused where it would be turned on"

TAKES: Table = {
    _CLUSTER + "Cluster": takes(
        "name type alt_stat_name connect_timeout per_connection_buffer_limit_bytes lb_policy load_assignment "
        "max_requests_per_connection circuit_breakers common_http_protocol_options http_protocol_options http2_protocol_options "
        "upstream_http_protocol_options "
        "typed_extension_protocol_options dns_refresh_rate respect_dns_ttl dns_lookup_family common_lb_config "
        "least_request_lb_config round_robin_lb_config upstream_connection_options load_balancing_policy transport_socket "
        "wait_for_warm_on_init eds_cluster_config cluster_type filters",
        only={"protocol_selection": ("USE_CONFIGURED_PROTOCOL", "USE_DOWNSTREAM_PROTOCOL")},
        metadata="is read by nothing that is supported",
        cleanup_interval="concerns original destination clusters",
        close_connections_on_host_health_failure=_NO_CHECKS,
        ignore_health_on_host_removal=_NO_CHECKS,
        later="health_checks dns_jitter dns_failure_refresh_rate dns_resolvers use_tcp_for_dns_lookups dns_resolution_config "
        "typed_dns_resolver_config outlier_detection upstream_bind_config ring_hash_lb_config maglev_lb_config "
        "lrs_server lrs_report_endpoint_metrics track_timeout_budgets track_cluster_stats preconnect_policy "
        "connection_pool_per_downstream_connection",
    ),
    _CLUSTER + "Cluster.CustomClusterType": takes("name typed_config"),
    _DNS_CLUSTER: takes(
        "dns_refresh_rate dns_lookup_family respect_dns_ttl",
        only={"all_addresses_in_single_endpoint": (False,)},
        later="dns_failure_refresh_rate dns_jitter typed_dns_resolver_config",
    ),
    _CLUSTER + "Filter": takes("name typed_config"),
    _CLUSTER + "Cluster.EdsClusterConfig": takes("eds_config service_name"),
    _CLUSTER + "Cluster.CommonLbConfig": takes(
        "healthy_panic_threshold", update_merge_window="concerns endpoints that a control plane sends",
        later="zone_aware_lb_config locality_weighted_lb_config ignore_new_hosts_until_first_hc "
        "close_connections_on_host_set_change consistent_hashing_lb_config override_host_status",
    ),
    _CLUSTER + "Cluster.LeastRequestLbConfig": takes(
        "choice_count",
        later="active_request_bias slow_start_config",
    ),
    _CLUSTER + "Cluster.RoundRobinLbConfig": takes(later="slow_start_config"),
    _CLUSTER + "LoadBalancingPolicy": takes("policies"),
    _CLUSTER + "LoadBalancingPolicy.Policy": takes("typed_extension_config"),
    "envoy.config.core.v3.TypedExtensionConfig": takes("name typed_config"),
    _POLICIES + "round_robin.v3.RoundRobin": takes(later="slow_start_config locality_lb_config"),
    _POLICIES + "random.v3.Random": takes(later="locality_lb_config"),
    _POLICIES + "least_request.v3.LeastRequest": takes(
        "choice_count", only={"enable_full_scan": (False,), "selection_method": ("N_CHOICES",)},
        later="active_request_bias slow_start_config locality_lb_config enable_full_scan selection_method",
    ),
    "envoy.type.v3.Percent": takes("value"),
    _CLUSTER + "CircuitBreakers": takes(
        "thresholds",
        later="per_host_thresholds",
    ),
    _CLUSTER + "CircuitBreakers.Thresholds": takes(
        "priority max_connections max_pending_requests max_requests max_retries retry_budget",
        track_remaining="!is not taken: the gauges `remaining_*` are not kept.",
        later="max_connection_pools",
    ),
    _CLUSTER + "CircuitBreakers.Thresholds.RetryBudget": takes("budget_percent min_retry_concurrency"),
    _CLUSTER + "UpstreamConnectionOptions": takes(
        "tcp_keepalive",
        later="set_local_interface_name_on_upstream_connections happy_eyeballs_config",
    ),
    "envoy.config.core.v3.TcpKeepalive": takes(later="keepalive_probes keepalive_time keepalive_interval"),
    _ENDPOINT + "ClusterLoadAssignment": takes(
        "cluster_name endpoints",
        later="policy",
    ),
    _ENDPOINT + "LocalityLbEndpoints": takes(
        "lb_endpoints", only={"priority": (0,)}, locality=_NO_LOCALITIES, load_balancing_weight=_NO_LOCALITIES, proximity=_NO_LOCALITIES,
        metadata="is read by nothing that is supported",
        later="priority",
    ),
    _ENDPOINT + "LbEndpoint": takes(
        "endpoint load_balancing_weight", only={"health_status": ("UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT")},
        metadata="is read by nothing that is supported",
        later="health_status",
    ),
    _ENDPOINT + "Endpoint": takes(
        "address hostname", health_check_config=_NO_CHECKS,
        later="additional_addresses",
    ),
}
_TYPES = {"STATIC": "static", "STRICT_DNS": "strict_dns", "EDS": "found"}
_BALANCE = {"ROUND_ROBIN": "round_robin", "LEAST_REQUEST": "least_request", "RANDOM": "random"}
_BALANCE_TYPES = {
    _POLICIES + "round_robin.v3.RoundRobin": "round_robin",
    _POLICIES + "least_request.v3.LeastRequest": "least_request",
    _POLICIES + "random.v3.Random": "random",
}
_LOOKUP = {"AUTO": "auto", "V4_ONLY": "v4_only", "V6_ONLY": "v6_only", "V4_PREFERRED": "v4_preferred", "ALL": "all"}
_HEALTHY = (0, 1)
"""HealthStatus UNKNOWN and HEALTHY."""
_MOST_PLAIN_HEALTH = 4
"""TIMEOUT; above it is DEGRADED."""


def cluster(message: Any, path: Path, translation: Translation) -> Cluster:
    """A Cluster of type STATIC, STRICT_DNS or EDS, or of the extension for DNS."""
    given = translation.fields(message, path)
    settings: dict[str, Any] = {}
    word = "STRICT_DNS" if "cluster_type" in given else enum_name(message, "type")
    # A type that was refused most likely had names among its endpoints.
    discovery = _TYPES.get(word, "strict_dns")
    if word == "LOGICAL_DNS":
        translation.later((path, "type"), "type: LOGICAL_DNS")
    elif word not in _TYPES:
        translation.refuse((path, "type"), f"type: {word}")
    for index, item in enumerate(given.get("filters", ())):
        _filter(item, ((path, "filters"), index), translation)
    if discovery == "found":
        settings.update(_eds(given, path, translation))
    elif "eds_cluster_config" in given:
        translation.error((path, "eds_cluster_config"), "the cluster does not have type EDS. Set type: EDS, or remove it.")
    elif "load_assignment" in given:
        settings["endpoints"] = endpoints(given["load_assignment"], (path, "load_assignment"), translation, discovery)
    if word == "LOGICAL_DNS" and len(settings.get("endpoints", ())) != 1 and not translation.problems.refused:
        wrong = f"a LOGICAL_DNS cluster has one endpoint, and {len(settings.get('endpoints', ()))} are given. Give one, or use STRICT_DNS."
        translation.error((path, "load_assignment"), wrong)
    if "connect_timeout" in given:
        settings["connect_timeout_s"] = seconds(given["connect_timeout"])
    if "per_connection_buffer_limit_bytes" in given:
        settings["buffer_limit_bytes"] = given["per_connection_buffer_limit_bytes"].value
    if "circuit_breakers" in given:
        settings.update(_breakers(given["circuit_breakers"], (path, "circuit_breakers"), translation))
    settings.update(_balance(message, given, path, translation))
    settings.update(upstream.settings(message, given, path, translation))
    settings.update(_dns(message, given))
    if "cluster_type" in given:
        settings.update(_cluster_type(given["cluster_type"], (path, "cluster_type"), translation))
    if "upstream_connection_options" in given:
        settings["tcp_keepalive"] = _keepalive(given["upstream_connection_options"], (path, "upstream_connection_options"), translation)
    return Cluster(name=given.get("name", ""), discovery=discovery, alt_stat_name=given.get("alt_stat_name", ""), **settings)


def _cluster_type(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    """The extension that takes the place of `type`."""
    given = translation.fields(message, path)
    if "typed_config" not in given:
        translation.refuse(path, f'cluster_type "{given.get("name", "")}"', "Use type, or the cluster type of DNS.")
        return {}
    inner = translation.unpack(given["typed_config"], (path, "typed_config"), (_DNS_CLUSTER,), "cluster type")
    if inner is None:
        return {}
    fields = translation.fields(inner, (path, "typed_config"))
    # Its default is another than the enum's: AUTO in both.
    word = enum_name(inner, "dns_lookup_family")
    made: dict[str, Any] = {"dns_lookup_family": _LOOKUP.get(word, "auto"), "respect_dns_ttl": fields.get("respect_dns_ttl", False)}
    if "dns_refresh_rate" in fields:
        made["dns_refresh_s"] = seconds(fields["dns_refresh_rate"])
    return made


def _filter(message: Any, path: Path, translation: Translation) -> None:
    """A network filter of connections to endpoints: none is built, and some may be left out."""
    given = translation.fields(message, path)
    packed = given.get("typed_config")
    if packed is None or not is_told(packed, (path, "typed_config"), translation):
        translation.refuse(path, f'filter "{given.get("name", "")}"')


def _eds(given: dict[str, Any], path: Path, translation: Translation) -> dict[str, Any]:
    """What an EDS cluster has in place of endpoints. What a control plane says is taken as it is, and at once."""
    translation.problems.sourced.append(((path, "type"), "type: EDS"))
    if "load_assignment" in given:
        translation.problems.warning((path, "load_assignment"), "it has no effect: the endpoints of an EDS cluster are asked for.")
    if "eds_cluster_config" not in given:
        translation.error(path, 'an EDS cluster needs "eds_cluster_config", with an eds_config. Add it.')
        return {}
    place = (path, "eds_cluster_config")
    config = translation.fields(given["eds_cluster_config"], place)
    if "eds_config" not in config:
        translation.error(place, '"eds_config" is missing. Add it, like eds_config: {ads: {}, resource_api_version: V3}.')
        return {}
    service = config.get("service_name", "")
    if service.startswith("xdstp:"):
        translation.refuse((place, "service_name"), "an xdstp name", "Write a plain name.")
    source = config_source(config["eds_config"], (place, "eds_config"), translation, translation.owner)
    if source is None:
        return {}
    return {"sources": (EdsSource(service=service, source=source),), "keep_last_s": 0.0, "debounce_s": 0.0}


def endpoints(message: Any, path: Path, translation: Translation, discovery: str = "static") -> tuple[Endpoint, ...]:
    """A ClusterLoadAssignment's endpoints, of all localities."""
    given = translation.fields(message, path)
    by_priority: dict[int, list[Endpoint]] = {}
    for index, locality in enumerate(given.get("endpoints", ())):
        place = ((path, "endpoints"), index)
        listed = (place, "lb_endpoints")
        made = by_priority.setdefault(locality.priority, [])
        for number, item in enumerate(translation.fields(locality, place).get("lb_endpoints", ())):
            endpoint = (_plain(item) if discovery == "found" else None) or _endpoint(item, (listed, number), translation, discovery)
            if endpoint is not None:
                made.append(endpoint)
    # What else a priority does is not in force: the first with somebody healthy has all.
    for priority in sorted(by_priority):
        if any(endpoint.healthy for endpoint in by_priority[priority]):
            return tuple(by_priority[priority])
    return tuple(endpoint for priority in sorted(by_priority) for endpoint in by_priority[priority])


def _plain(message: Any) -> Endpoint | None:
    """An endpoint that has nothing but an IP address, a weight and its health, as nearly all have, in a third of the time. None = it has
    more, or is wrong."""
    inner = message.endpoint
    place = inner.address.socket_address
    host, port = place.address, place.port_value
    if not port or place.protocol or place.resolver_name or inner.additional_addresses or message.health_status > _MOST_PLAIN_HEALTH:
        return None
    if not rules.ip(host):
        return None
    weight = message.load_balancing_weight.value or 1
    return Endpoint(
        address=SocketAddress(host, port), weight=weight, hostname=inner.hostname, healthy=message.health_status in _HEALTHY
    )


def _endpoint(message: Any, path: Path, translation: Translation, discovery: str) -> Endpoint | None:
    given = translation.fields(message, path)
    if "endpoint" not in given:
        translation.error(path, '"endpoint" is missing. Add it.')
        return None
    inside = (path, "endpoint")
    endpoint = translation.fields(given["endpoint"], inside)
    if "address" not in endpoint:
        translation.error(inside, '"address" is missing. Add it.')
        return None
    place = address(endpoint["address"], (inside, "address"), translation, names=True)
    if place is None or not _fits(place, ((inside, "address"), "socket_address"), translation, discovery):
        return None
    weight = given["load_balancing_weight"].value if "load_balancing_weight" in given else 1
    return Endpoint(address=place, weight=weight, hostname=endpoint.get("hostname", ""), healthy=message.health_status in _HEALTHY)


def _fits(place: SocketAddress | PipeAddress, path: Path, translation: Translation, discovery: str) -> bool:
    """Names need DNS, UNIX sockets have none, and port 0 cannot be connected to."""
    if isinstance(place, PipeAddress):
        if discovery == "strict_dns":
            translation.error((path[0], "pipe"), "a STRICT_DNS cluster cannot have a UNIX socket. Use type STATIC.")
        return discovery != "strict_dns"
    if discovery == "found" and not rules.ip(place.host):
        translation.error((path, "address"), f'"{place.host}" is a name, and endpoints that are asked for have IP addresses. Send one.')
        return False
    if discovery == "static" and not rules.ip(place.host):
        wrong = f'"{place.host}" is a name and the cluster is STATIC. Set type: STRICT_DNS, or give the IP address.'
        translation.error((path, "address"), wrong)
        return False
    return True


def _breakers(message: Any, path: Path, translation: Translation) -> dict[str, Breakers]:
    made: dict[str, Breakers] = {}
    for index, item in enumerate(translation.fields(message, path).get("thresholds", ())):
        place = ((path, "thresholds"), index)
        given = translation.fields(item, place)
        name = "high_breakers" if enum_name(item, "priority") == "HIGH" else "breakers"
        if name in made:
            # Envoy takes the first of a priority in silence.
            translation.problems.warning((place, "priority"), "a threshold of this priority is there already; this one has no effect.")
            continue
        limits = {
            ours: given[theirs].value
            for theirs, ours in (("max_connections", "max_connections"), ("max_pending_requests", "max_pending"),
                                 ("max_requests", "max_requests"), ("max_retries", "max_retries"))
            if theirs in given
        }
        if "retry_budget" in given:
            budget = translation.fields(given["retry_budget"], (place, "retry_budget"))
            limits["retry_budget"] = RetryBudget(
                percent=budget["budget_percent"].value if "budget_percent" in budget else 20.0,
                min_concurrency=budget["min_retry_concurrency"].value if "min_retry_concurrency" in budget else 3,
            )
        made[name] = Breakers(**limits)
    return made


def _balance(message: Any, given: dict[str, Any], path: Path, translation: Translation) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "common_lb_config" in given:
        shared = translation.fields(given["common_lb_config"], (path, "common_lb_config"))
        if "healthy_panic_threshold" in shared:
            settings["panic_threshold_percent"] = translation.fields(shared["healthy_panic_threshold"], path).get("value", 0.0)
    if "load_balancing_policy" in given:
        return settings | _policy(given["load_balancing_policy"], (path, "load_balancing_policy"), translation)
    word = enum_name(message, "lb_policy")
    if word not in _BALANCE:
        translation.refuse((path, "lb_policy"), f"lb_policy {word}", f"Use one of {', '.join(_BALANCE)}.")
    if "least_request_lb_config" in given:
        settings.update(_choices(given["least_request_lb_config"], (path, "least_request_lb_config"), translation))
    if "round_robin_lb_config" in given:
        translation.fields(given["round_robin_lb_config"], (path, "round_robin_lb_config"))
    return {"balance": _BALANCE.get(word, "round_robin"), **settings}


def _policy(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    """The first policy of the list that is supported, as Envoy does it."""
    listed = translation.fields(message, path).get("policies", ())
    for index, item in enumerate(listed):
        place = (((path, "policies"), index), "typed_extension_config")
        packed = translation.resolved(item.typed_extension_config.typed_config, (place, "typed_config"))
        kind = _BALANCE_TYPES.get(name_in(packed.type_url))
        if kind is None and index + 1 < len(listed):
            continue
        inner = translation.unpack(packed, (place, "typed_config"), _BALANCE_TYPES, "load balancing policy")
        if inner is None:
            return {}
        if kind == "least_request":
            return {"balance": kind, **_choices(inner, (place, "typed_config"), translation)}
        translation.fields(inner, (place, "typed_config"))
        return {"balance": kind}
    translation.error(path, '"policies" is empty. Add a policy, or use lb_policy.')
    return {}


def _choices(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    given = translation.fields(message, path)
    return {"least_request_choices": given["choice_count"].value} if "choice_count" in given else {}


def _dns(message: Any, given: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "dns_lookup_family": _LOOKUP[enum_name(message, "dns_lookup_family")], "respect_dns_ttl": given.get("respect_dns_ttl", False),
    }
    if "dns_refresh_rate" in given:
        settings["dns_refresh_s"] = seconds(given["dns_refresh_rate"])
    if "wait_for_warm_on_init" in given:
        settings["wait_for_warm"] = given["wait_for_warm_on_init"].value
    return settings


def _keepalive(message: Any, path: Path, translation: Translation) -> bool:
    given = translation.fields(message, path)
    if "tcp_keepalive" in given:
        translation.fields(given["tcp_keepalive"], (path, "tcp_keepalive"))
    return "tcp_keepalive" in given
