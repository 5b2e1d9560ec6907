"""Bootstraps and what is said about them: the good one with a change, and what has to be in the problem ("" = accepted).

Those that are accepted are given to stock Envoy too (`test_envoys_verdict`).
"""

from __future__ import annotations

from typing import Any

from meshproxy.config.envoy.stats import ENVOY_TAGS
from tests.config.envoy import transport_verdicts
from tests.config.envoy.bootstraps import CLUSTER, ENDPOINT, HOST, LISTENER, MANAGER, REMOVE, ROUTE, ROUTER, any_of, good

_LB = "envoy.extensions.load_balancing_policies"
_LOG = "envoy.extensions.access_loggers"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _log(fields: dict[str, Any], kind: str = "stream.v3.StdoutAccessLog", **outer: Any) -> dict[str, Any]:
    return {f"{MANAGER}.access_log": [{"name": "log", "typed_config": any_of(f"{_LOG}.{kind}", **fields), **outer}]}


def _policy(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        f"{CLUSTER}.load_balancing_policy": {
            "policies": [{"typed_extension_config": {"name": "p", "typed_config": any_of(f"{_LB}.{kind}", **fields)}}]
        }
    }


def _sink(kind: str, **fields: Any) -> dict[str, Any]:
    return {"stats_sinks": [{"name": "s", "typed_config": any_of(kind, **fields)}]}


def _header(key: str, value: str, **option: Any) -> dict[str, Any]:
    return {f"{ROUTE}.request_headers_to_add": [{"header": {"key": key, "value": value}, **option}]}


_UDP = {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": 8125}}
_STATUS = {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "k"}}}}

ACCEPTED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "camelCase": {f"{LISTENER}.perConnectionBufferLimitBytes": 4096, f"{CLUSTER}.connectTimeout": "0.25s"},
    "numbers as text": {f"{LISTENER}.address.socket_address.port_value": "10001"},
    "enum words in lower case": {f"{CLUSTER}.type": "static", f"{MANAGER}.codec_type": "auto"},
    "one item for a list": {f"{HOST}.domains": "*"},
    "nothing is unset": {f"{CLUSTER}.connect_timeout": None},
    "admin": {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}, "profile_path": "/tmp/p"}},
    "admin logs": {
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}},
            "access_log": [{"name": "log", "typed_config": any_of(f"{_LOG}.file.v3.FileAccessLog", path="/dev/null")}],
        }
    },
    "admin log of old": {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}, "access_log_path": "/dev/null"}
    },
    "node": {"node": {"id": "n", "cluster": "c", "locality": {"zone": "z"}, "metadata": {"a": [1, "x", None, {"b": True}]}}},
    "nameless listener": {f"{LISTENER}.name": REMOVE},
    "unix listener": {f"{LISTENER}.address": {"pipe": {"path": "@meshproxy-test"}}},
    "both families": {f"{LISTENER}.address": {"socket_address": {"address": "::", "port_value": 0, "ipv4_compat": True}}},
    "more addresses": {
        f"{LISTENER}.additional_addresses": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": 10002}}}]
    },
    "websocket": {f"{MANAGER}.upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "other", "enabled": False}]},
    "timeouts": {f"{MANAGER}.stream_idle_timeout": "0s", f"{MANAGER}.request_timeout": "5s", f"{ROUTE}.route.timeout": "0s"},
    "shared options": {
        f"{MANAGER}.common_http_protocol_options": {
            "idle_timeout": "60s",
            "max_headers_count": 10,
            "headers_with_underscores_action": "REJECT_REQUEST",
        }
    },
    "HTTP/1.0": {f"{MANAGER}.http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "h", "enable_trailers": True}},
    "router settings": {f"{MANAGER}.http_filters.0.typed_config.suppress_envoy_headers": True},
    "weights": {f"{ROUTE}.route": {"weighted_clusters": {"clusters": [{"name": "web", "weight": 3}, {"name": "web", "weight": 1}]}}},
    "unknown cluster, not validated": {f"{MANAGER}.route_config.validate_clusters": False, f"{ROUTE}.route.cluster": "nope"},
    "regex route": {
        f"{ROUTE}.match": {"safe_regex": {"regex": "/a[0-9]+"}},
        f"{ROUTE}.route.regex_rewrite": {"pattern": {"regex": "^/a(.*)$"}, "substitution": "/b\\1"},
    },
    "segments": {f"{ROUTE}.match": {"path_separated_prefix": "/api"}},
    "header conditions": {
        f"{ROUTE}.match.headers": [
            {"name": "x", "string_match": {"exact": "a"}},
            {"name": ":method", "exact_match": "GET"},
            {"name": "n", "range_match": {"start": 1, "end": 9}},
            {"name": "y", "present_match": False},
            {"name": "z", "string_match": {"safe_regex": {"regex": "a.*"}}, "invert_match": True},
        ]
    },
    "query conditions": {
        f"{ROUTE}.match.query_parameters": [{"name": "q", "string_match": {"prefix": "a"}}, {"name": "r", "present_match": True}]
    },
    "redirect": {f"{ROUTE}.route": REMOVE, f"{ROUTE}.redirect": {"https_redirect": True, "response_code": "FOUND", "port_redirect": 8443}},
    "direct response": {f"{ROUTE}.route": REMOVE, f"{ROUTE}.direct_response": {"status": 404, "body": {"inline_string": "no"}}},
    "retry": {f"{ROUTE}.route.retry_policy": {"retry_on": "5xx,reset", "num_retries": 2, "retry_back_off": {"base_interval": "0.1s"}}},
    "header value with a percent sign": _header("x", "100%%"),
    "header option of old": _header("x", "y", append=False),
    "breakers": {
        f"{CLUSTER}.circuit_breakers": {
            "thresholds": [{"max_connections": 1}, {"priority": "HIGH", "retry_budget": {"budget_percent": {"value": 10}}}]
        }
    },
    "least request by policy": _policy("least_request.v3.LeastRequest", choice_count=3),
    "random by policy": _policy("random.v3.Random"),
    "least request": {f"{CLUSTER}.lb_policy": "LEAST_REQUEST", f"{CLUSTER}.least_request_lb_config": {"choice_count": 5}},
    "http options": {
        f"{CLUSTER}.typed_extension_protocol_options": {
            _HTTP: any_of(_HTTP, explicit_http_config={"http_protocol_options": {}}, common_http_protocol_options={"idle_timeout": "30s"})
        }
    },
    "dns cluster": {
        f"{CLUSTER}.type": "STRICT_DNS",
        f"{ENDPOINT}.endpoint.address.socket_address.address": "web.example",
        f"{CLUSTER}.dns_refresh_rate": "1s",
        f"{CLUSTER}.respect_dns_ttl": True,
        f"{CLUSTER}.wait_for_warm_on_init": False,
    },
    "sick endpoint": {f"{ENDPOINT}.health_status": "UNHEALTHY", f"{ENDPOINT}.load_balancing_weight": 3},
    "no endpoints": {f"{CLUSTER}.load_assignment": {"cluster_name": "web"}},
    "plain transport": {
        f"{CLUSTER}.transport_socket": {"name": "raw", "typed_config": any_of("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")}
    },
    "log in text": _log({"log_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE%\n"}}}, filter=_STATUS),
    "log in JSON": _log({"log_format": {"json_format": {"c": "%RESPONSE_CODE%", "n": {"x": 1}}}}, "stream.v3.StderrAccessLog"),
    "log to a file": _log({"path": "/dev/null", "log_format": {"text_format": "x\n"}}, "file.v3.FileAccessLog"),
    "statsd": _sink("envoy.config.metrics.v3.StatsdSink", address=_UDP, prefix="p"),
    "statsd by tcp": {**_sink("envoy.config.metrics.v3.StatsdSink", tcp_cluster_name="web"), "node": {"id": "n", "cluster": "c"}},
    "dogstatsd": _sink("envoy.config.metrics.v3.DogStatsdSink", address=_UDP, max_bytes_per_datagram=512),
    "empty parts": {"dynamic_resources": {}, "layered_runtime": {}, "cluster_manager": {}},
    "flush": {"stats_flush_interval": "1s"},
    "tags": {"stats_config": {"stats_tags": [
        {"tag_name": "dc", "fixed_value": "east"}, {"tag_name": "svc", "regex": r"^cluster\.((?:[^.]+~)?([^.]+)\.)"},
    ]}},
    "all of Envoy's own tags": {"stats_config": {"stats_tags": [{"tag_name": name} for name in sorted(ENVOY_TAGS)]}},
}

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a tag that is none of Envoy's": (
        {"stats_config": {"stats_tags": [{"tag_name": "envoy.cipher_suite"}]}}, "stats_config.stats_tags[0]", "no tag of Envoy's own"
    ),
    # name: (changes, path, words of the problem)
    "unknown field": ({f"{CLUSTER}.conect_timeout": "1s"}, "static_resources.clusters[0].conect_timeout", 'did you mean "connect_timeout"'),
    "unknown type": ({f"{MANAGER}.http_filters.0.typed_config.@type": "type.googleapis.com/x.Y"}, "http_filters[0]", "no type of Envoy"),
    "no type": ({f"{MANAGER}.http_filters.0.typed_config": {}}, "http_filters[0].typed_config", '"@type" is missing'),
    "text for a number": ({f"{LISTENER}.address.socket_address.port_value": "http"}, "address.socket_address.port_value", "whole number"),
    "number for a text": ({f"{CLUSTER}.name": 5}, "clusters[0].name", "Put it in quotes"),
    "bad enum": ({f"{CLUSTER}.lb_policy": "ROUND_ROBEN"}, "lb_policy", 'did you mean "ROUND_ROBIN"'),
    "bad duration": ({f"{CLUSTER}.connect_timeout": "250ms"}, "connect_timeout", "no duration. Write seconds"),
    "bad bool": ({f"{MANAGER}.generate_request_id": "maybe"}, "generate_request_id", "true or false"),
    "out of 32 bits": ({f"{CLUSTER}.per_connection_buffer_limit_bytes": 2**40}, "per_connection_buffer_limit_bytes", "out of range"),
    "two of a oneof": ({f"{ROUTE}.match.path": "/x"}, "match.path", '"prefix" and "path" are both given'),
    "list for a mapping": ({f"{CLUSTER}.load_assignment": []}, "load_assignment", "needs a mapping"),
    "no connect time": ({f"{CLUSTER}.connect_timeout": "0s"}, "connect_timeout", "more than 0"),
    "port": ({f"{LISTENER}.address.socket_address.port_value": 70000}, "port_value", "at most 65535"),
    "no port": ({f"{LISTENER}.address.socket_address.port_value": REMOVE}, "socket_address", "port_value"),
    "no name": ({f"{CLUSTER}.name": REMOVE}, "clusters[0]", '"name" is missing'),
    "no stat_prefix": ({f"{MANAGER}.stat_prefix": REMOVE}, "typed_config", '"stat_prefix" is missing'),
    "no domains": ({f"{HOST}.domains": REMOVE}, "virtual_hosts[0]", '"domains" is missing'),
    "no match": ({f"{ROUTE}.match": REMOVE}, "routes[0]", '"match" is missing'),
    "no action": ({f"{ROUTE}.route": REMOVE}, "routes[0]", "one of route, redirect, direct_response is missing"),
    "no routes at all": ({f"{MANAGER}.route_config": REMOVE}, "typed_config", "one of rds, route_config is missing"),
    "no filters": ({f"{MANAGER}.http_filters": REMOVE}, "typed_config", "no filter"),
    "router not last": (
        {f"{MANAGER}.http_filters.+": {"name": "r2", "typed_config": any_of(ROUTER)}},
        "http_filters[0]",
        "has to be the last",
    ),
    "no chain": ({f"{LISTENER}.filter_chains": REMOVE}, "listeners[0]", "no filter chain"),
    "no address": ({f"{LISTENER}.address": REMOVE}, "listeners[0]", '"address" is missing'),
    "name for an address": (
        {f"{LISTENER}.address.socket_address.address": "localhost"},
        "socket_address.address",
        '"localhost" is no address',
    ),
    "unknown cluster": ({f"{ROUTE}.route.cluster": "wob"}, "route.cluster", 'cluster "wob" is not defined (did you mean "web"?)'),
    "unknown weighted cluster": (
        {f"{ROUTE}.route": {"weighted_clusters": {"clusters": [{"name": "wob", "weight": 1}]}}},
        "clusters[0].name",
        "not defined",
    ),
    "two clusters of a name": (
        {"static_resources.clusters.+": good()["static_resources"]["clusters"][0]},
        "clusters[1].name",
        "defined twice",
    ),
    "two listeners at a place": (
        {"static_resources.listeners.+": {**good()["static_resources"]["listeners"][0], "name": "b"}},
        "listeners[1]",
        "is taken by",
    ),
    "a domain twice": (
        {f"{MANAGER}.route_config.virtual_hosts.+": {"name": "b", "domains": ["*"]}},
        "virtual_hosts[1].domains",
        'also a domain of virtual host "all"',
    ),
    "a host twice": ({f"{MANAGER}.route_config.virtual_hosts.+": {"name": "all", "domains": ["b"]}}, "virtual_hosts[1]", "there twice"),
    "star inside": ({f"{HOST}.domains": ["a.*.b"]}, "domains[0]", "at the beginning or at the end"),
    "bad regex": ({f"{ROUTE}.match": {"safe_regex": {"regex": "(?=a)"}}}, "safe_regex.regex", "not valid RE2"),
    "bad group": ({f"{ROUTE}.route.regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\\1"}}, "substitution", "group 1"),
    "header name": (_header("a b", "x"), "header.key", "no header name"),
    "header value": (_header("a", "x\ny"), "header.value", "control character"),
    "host header": (_header("Host", "x"), "header.key", "Use host_rewrite"),
    "operator in a header": (_header("a", "%START_TIME%"), "header.value", "%START_TIME%"),
    "single percent": (_header("a", "5%"), "header.value", 'Write "%%"'),
    "retry word": ({f"{ROUTE}.route.retry_policy": {"retry_on": "5xy"}}, "retry_on", '"5xy" is no condition'),
    "retry word of later": ({f"{ROUTE}.route.retry_policy": {"retry_on": "retriable-headers"}}, "retry_on", "not supported yet"),
    "backoff": (
        {f"{ROUTE}.route.retry_policy": {"retry_on": "5xx", "retry_back_off": {"base_interval": "2s", "max_interval": "1s"}}},
        "max_interval",
        "less than",
    ),
    "status": ({f"{ROUTE}.route": REMOVE, f"{ROUTE}.direct_response": {"status": 99}}, "direct_response.status", "at least"),
    "body": (
        {f"{ROUTE}.route": REMOVE, f"{ROUTE}.direct_response": {"status": 200, "body": {"inline_string": "x" * 5000}}},
        "direct_response.body",
        "4096",
    ),
    "no weights": (
        {f"{ROUTE}.route": {"weighted_clusters": {"clusters": [{"name": "web", "weight": 0}]}}},
        "weighted_clusters",
        "sum up to 0",
    ),
    "name in a static cluster": ({f"{ENDPOINT}.endpoint.address.socket_address.address": "web"}, "socket_address.address", "STRICT_DNS"),
    "log format": (_log({"log_format": {"text_format": "%NOPE%"}}), "text_format", "NOPE"),
    "log filter": (_log({}, filter={"duration_filter": _STATUS["status_code_filter"]}), "duration_filter", "not supported yet"),
    "log filter EQ": (
        _log({}, filter={"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": 1, "runtime_key": "k"}}}}),
        "comparison",
        "EQ",
    ),
    "logger": (
        _log(
            {"common_config": {"log_name": "x", "grpc_service": {"envoy_grpc": {"cluster_name": "web"}}}}, "grpc.v3.HttpGrpcAccessLogConfig"
        ),
        "access_log[0]",
        "not supported yet",
    ),
    "statsd cluster": (_sink("envoy.config.metrics.v3.StatsdSink", tcp_cluster_name="nope"), "tcp_cluster_name", "not defined"),
    "statsd without a node": (_sink("envoy.config.metrics.v3.StatsdSink", tcp_cluster_name="web"), "stats_sinks[0]", "Set node.id"),
    "sink": (_sink("envoy.config.metrics.v3.HystrixSink", num_buckets=5), "stats_sinks[0]", "HystrixSink is not supported yet"),
    "EDS": ({f"{CLUSTER}.type": "EDS", f"{CLUSTER}.load_assignment": REMOVE}, "clusters[0]", "eds"),
    "ring hash": ({f"{CLUSTER}.lb_policy": "RING_HASH"}, "lb_policy", "RING_HASH is not supported yet"),
    "ring hash by policy": (_policy("ring_hash.v3.RingHash"), "typed_config", "RingHash is not supported yet"),
    "health checks": (
        {
            f"{CLUSTER}.health_checks": [
                {"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {}}
            ]
        },
        "health_checks",
        "not supported yet",
    ),
    "rds": (
        {f"{MANAGER}.route_config": REMOVE, f"{MANAGER}.rds": {"config_source": {"ads": {}}, "route_config_name": "r"}},
        "rds",
        "Add dynamic_resources.ads_config",
    ),
    "tracing": ({f"{MANAGER}.tracing": {"verbose": True}}, "tracing.verbose", "not supported yet"),
    "mirror": ({f"{ROUTE}.route.request_mirror_policies": [{"cluster": "web"}]}, "request_mirror_policies", "not supported yet"),
    "xds": ({"dynamic_resources": {"ads_config": {"api_type": "GRPC"}}}, "dynamic_resources.ads_config", "grpc_services"),
    "compat": ({f"{LISTENER}.address.socket_address.ipv4_compat": True}, "ipv4_compat", "IPv4 too"),
}

ACCEPTED |= transport_verdicts.ACCEPTED
REFUSED |= transport_verdicts.REFUSED
