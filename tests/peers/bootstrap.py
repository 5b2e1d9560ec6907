"""Envoy v3 bootstraps as dicts: one text that both Envoy and meshproxy run on."""

from __future__ import annotations

from typing import Any

from tests.peers.scene import Scene

TYPES = "type.googleapis.com/envoy"
HTTP_MANAGER = f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TCP_PROXY = f"{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy"
ROUTER = f"{TYPES}.extensions.filters.http.router.v3.Router"
FILE_LOG = f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog"
STATSD = f"{TYPES}.config.metrics.v3.StatsdSink"

Json = dict[str, Any]


def address(port: int, host: str = "127.0.0.1") -> Json:
    """A core.v3.Address."""
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(name: str, *ports: int, **settings: Any) -> Json:
    """A static cluster on loopback; `settings` are more fields."""
    endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
    return {
        "name": name,
        "connect_timeout": "5s",
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **settings,
    }


def route(prefix: str, target: str | Json, **settings: Any) -> Json:
    """A route by prefix: to the cluster of that name, or with a route action's fields. `settings` go beside match and action."""
    action = {"cluster": target} if isinstance(target, str) else target
    return {"match": {"prefix": prefix}, "route": action, **settings}


def virtual_host(routes: list[Json], **settings: Any) -> Json:
    """The virtual host for every name."""
    return {"name": "all", "domains": ["*"], "routes": routes, **settings}


def http_listener(name: str, port: int, virtual_hosts: list[Json], **manager: Any) -> Json:
    """A listener with one connection manager; `manager` are more of its fields."""
    config = {
        "@type": HTTP_MANAGER,
        "stat_prefix": name,
        "route_config": {"name": f"{name}_routes", "virtual_hosts": virtual_hosts},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        **manager,
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": config}]}
    return {"name": name, "address": address(port), "filter_chains": [chain]}


def tcp_listener(name: str, port: int, cluster: str | Json, filters: list[Json] | None = None, **proxy: Any) -> Json:
    """A listener that relays to the cluster of that name, or to what a TCP proxy's fields say; `filters` come before the relay."""
    target = {"cluster": cluster} if isinstance(cluster, str) else cluster
    config = {"@type": TCP_PROXY, "stat_prefix": name, **target, **proxy}
    chain = {"filters": [*(filters or []), {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}]}
    return {"name": name, "address": address(port), "filter_chains": [chain]}


def bootstrap(listeners: list[Json], clusters: list[Json], admin_port: int | None = None, **settings: Any) -> Json:
    """A whole bootstrap."""
    whole: Json = {"static_resources": {"listeners": listeners, "clusters": clusters}, **settings}
    if admin_port is not None:
        whole["admin"] = {"address": address(admin_port)}
    return whole


def file_log(path: str, text: str | None = None) -> Json:
    """An access logger that writes a file, in Envoy's default format unless `text` gives another."""
    config: Json = {"@type": FILE_LOG, "path": path}
    if text is not None:
        config["log_format"] = {"text_format_source": {"inline_string": text}}
    return {"name": "envoy.access_loggers.file", "typed_config": config}


def of_scene(scene: Scene, port: int, admin_port: int | None) -> Json:
    """The bootstrap that does what `scene` says."""
    routes = [
        route(prefix, scene.cluster_of(index), **_route_header(scene, index)) for index, prefix in enumerate(scene.prefixes)
    ]
    manager: Json = {}
    settings: Json = {}
    if scene.access_log is not None:
        manager["access_log"] = [file_log(str(scene.access_log))]
    if scene.statsd_port is not None:
        sink = {"@type": STATSD, "address": address(scene.statsd_port)}
        settings["stats_sinks"] = [{"name": "envoy.stat_sinks.statsd", "typed_config": sink}]
    if scene.forwarded_headers:
        manager["use_remote_address"] = True
    return bootstrap(
        [http_listener("ingress", port, [virtual_host(routes)], **manager)],
        [cluster(name, scene.origin_port) for name in scene.clusters],
        admin_port,
        **settings,
    )


def _route_header(scene: Scene, index: int) -> Json:
    if scene.routes == 1:
        return {}
    return {
        "request_headers_to_add": [
            {"header": {"key": "x-route", "value": f"route-{index}"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ]
    }
