"""Control planes in Envoy's form."""

from __future__ import annotations

from meshproxy.config.envoy.write_messages import Data, put
from meshproxy.config.envoy.write_route import duration
from meshproxy.model import ConfigSource, Dynamic, GrpcService, Node

DEFAULT_RATE_PER_S = 10.0
"""Envoy's, when `rate_limit_settings` is there and says nothing."""

_TYPES = {"grpc": "GRPC", "delta_grpc": "DELTA_GRPC", "rest": "REST"}


def dynamic_resources(dynamic: Dynamic) -> Data:
    """Bootstrap.DynamicResources; empty when nothing is asked for as a whole."""
    data: Data = {}
    if dynamic.ads is not None:
        data["ads_config"] = _api(dynamic.ads)
    for field, source in (("cds_config", dynamic.cds), ("lds_config", dynamic.lds)):
        if source is not None:
            data[field] = config_source(source)
    return data


def config_source(source: ConfigSource) -> Data:
    """A ConfigSource."""
    data: Data = {"resource_api_version": "V3"}
    if source.kind == "ads":
        data["ads"] = {}
    elif source.kind == "path":
        data["path_config_source"] = {"path": source.path}
        if source.watched_directory:
            data["path_config_source"]["watched_directory"] = {"path": source.watched_directory}
    else:
        data["api_config_source"] = _api(source)
    if source.initial_fetch_timeout_s != ConfigSource().initial_fetch_timeout_s:
        data["initial_fetch_timeout"] = duration(source.initial_fetch_timeout_s)
    return data


def _api(source: ConfigSource) -> Data:
    data: Data = {"api_type": _TYPES[source.kind], "transport_api_version": "V3"}
    put(data, "grpc_services", [_service(service) for service in source.services])
    put(data, "cluster_names", list(source.clusters))
    if source.kind == "rest":
        data["refresh_delay"] = duration(source.refresh_s)
        if source.request_timeout_s != ConfigSource().request_timeout_s:
            data["request_timeout"] = duration(source.request_timeout_s)
    put(data, "set_node_on_first_message_only", source.first_node_only)
    if source.rate_limit_tokens:
        data["rate_limit_settings"] = {"max_tokens": source.rate_limit_tokens}
        if source.rate_limit_per_s != DEFAULT_RATE_PER_S:
            data["rate_limit_settings"]["fill_rate"] = source.rate_limit_per_s
    return data


def _service(service: GrpcService) -> Data:
    data: Data = {}
    if service.target_uri:
        data["google_grpc"] = {"target_uri": service.target_uri, "stat_prefix": "control_plane"}
    else:
        data["envoy_grpc"] = {"cluster_name": service.cluster}
        put(data["envoy_grpc"], "authority", service.authority)
    if service.timeout_s:
        data["timeout"] = duration(service.timeout_s)
    put(data, "initial_metadata", [{"key": key, "value": value} for key, value in service.initial_metadata])
    return data


def node(node: Node) -> Data:
    """A Node."""
    data: Data = {field: getattr(node, field) for field in ("id", "cluster", "metadata") if getattr(node, field)}
    put(data, "locality", {field: getattr(node, field) for field in ("region", "zone", "sub_zone") if getattr(node, field)})
    put(data, "user_agent_name", node.user_agent_name)
    put(data, "user_agent_version", node.user_agent_version)
    if node.user_agent_build_version:
        numbers = map(int, node.user_agent_build_version.split("."))
        data["user_agent_build_version"] = {"version": dict(zip(("major_number", "minor_number", "patch"), numbers, strict=True))}
    put(data, "client_features", list(node.client_features))
    return data
