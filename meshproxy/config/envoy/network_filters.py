"""Envoy's network filters besides the connection manager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshproxy.config.envoy.access_log import access_logs
from meshproxy.config.envoy.address import data_source
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.rbac import rbac_rules
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import (
    ConnectionFilter,
    ConnectionLimit,
    Echo,
    LocalRateLimit,
    NetworkDirectResponse,
    NetworkRbac,
    SniCluster,
    TcpCluster,
    TcpProxy,
)

_NETWORK = "envoy.extensions.filters.network."
TCP_PROXY = _NETWORK + "tcp_proxy.v3.TcpProxy"
CONNECTION_LIMIT = _NETWORK + "connection_limit.v3.ConnectionLimit"
LOCAL_RATE_LIMIT = _NETWORK + "local_ratelimit.v3.LocalRateLimit"
RBAC = _NETWORK + "rbac.v3.RBAC"
SNI_CLUSTER = _NETWORK + "sni_cluster.v3.SniCluster"
ECHO = _NETWORK + "echo.v3.Echo"
DIRECT_RESPONSE = _NETWORK + "direct_response.v3.Config"
_LEAST_FILL_S = 0.05

TAKES: Table = {
    TCP_PROXY: takes(
        "stat_prefix cluster weighted_clusters idle_timeout access_log max_connect_attempts max_downstream_connection_duration "
        "access_log_flush_interval flush_access_log_on_connected access_log_options",
        only={"upstream_connect_mode": ("IMMEDIATE",)},
        later="downstream_idle_timeout upstream_idle_timeout backoff_options hash_policy "
        "max_downstream_connection_duration_jitter_percentage proxy_protocol_tlvs max_early_data_bytes "
        "upstream_connect_mode",
    ),
    TCP_PROXY + ".WeightedCluster": takes("clusters"),
    TCP_PROXY + ".WeightedCluster.ClusterWeight": takes("name weight"),
    TCP_PROXY + ".TcpAccessLogOptions": takes("access_log_flush_interval flush_access_log_on_connected"),
    CONNECTION_LIMIT: takes("stat_prefix max_connections delay runtime_enabled"),
    LOCAL_RATE_LIMIT: takes("stat_prefix token_bucket runtime_enabled share_key"),
    "envoy.type.v3.TokenBucket": takes("max_tokens tokens_per_fill fill_interval"),
    "envoy.config.core.v3.RuntimeFeatureFlag": takes(
        "default_value", runtime_key="!has no effect: there is no runtime, the default is used."
    ),
    RBAC: takes(
        "rules shadow_rules shadow_rules_stat_prefix stat_prefix delay_deny", only={"enforcement_type": ("ONE_TIME_ON_FIRST_BYTE",)}
    ),
    SNI_CLUSTER: takes(),
    ECHO: takes(),
    DIRECT_RESPONSE: takes("response"),
}


def tcp_proxy(message: Any, path: Path, translation: Translation, any_cluster: bool = False) -> TcpProxy:
    """A TcpProxy. `any_cluster`: a filter before it picks another cluster, so this one need not be there."""
    given = translation.fields(message, path)
    settings: dict[str, Any] = {}
    options = given
    if "access_log_options" in given:
        options = translation.fields(given["access_log_options"], (path, "access_log_options"))
        for field in ("access_log_flush_interval", "flush_access_log_on_connected"):
            if field in given:
                translation.error((path, field), f'"access_log_options" says it too. Remove "{field}".')
    if "access_log_flush_interval" in options:
        settings["access_log_flush_interval_s"] = seconds(options["access_log_flush_interval"])
    if "idle_timeout" in given:
        settings["idle_timeout_s"] = seconds(given["idle_timeout"])
    if "max_downstream_connection_duration" in given:
        settings["max_connection_duration_s"] = seconds(given["max_downstream_connection_duration"])
    if "max_connect_attempts" in given:
        settings["max_connect_attempts"] = given["max_connect_attempts"].value
    return TcpProxy(
        stat_prefix=given.get("stat_prefix", ""),
        clusters=_clusters(given, path, translation, any_cluster),
        access_logs=access_logs(given.get("access_log", ()), (path, "access_log"), translation),
        flush_access_log_on_connected=options.get("flush_access_log_on_connected", False),
        **settings,
    )


def _clusters(given: dict[str, Any], path: Path, translation: Translation, any_cluster: bool) -> tuple[TcpCluster, ...]:
    made: list[TcpCluster] = []
    places: list[Path] = []
    if "weighted_clusters" in given:
        place = (path, "weighted_clusters")
        for index, item in enumerate(translation.fields(given["weighted_clusters"], place).get("clusters", ())):
            inside = ((place, "clusters"), index)
            target = translation.fields(item, inside)
            made.append(TcpCluster(name=target.get("name", ""), weight=target.get("weight", 1)))
            places.append((inside, "name"))
    elif given.get("cluster"):
        made, places = [TcpCluster(name=given["cluster"])], [(path, "cluster")]
    elif "cluster" in given and not any_cluster:
        translation.error((path, "cluster"), "it is empty. Give it a value.")
    for one, place in zip(made, places, strict=True):
        # A control plane may send the cluster later: until then connections are closed.
        if one.name and not any_cluster and not translation.dynamic:
            translation.problems.refer("cluster", one.name, place)
    return tuple(made)


def _is_on(given: dict[str, Any], path: Path, translation: Translation) -> bool:
    if "runtime_enabled" not in given:
        return True
    flag = translation.fields(given["runtime_enabled"], (path, "runtime_enabled"))
    return flag["default_value"].value if "default_value" in flag else True


def _connection_limit(message: Any, path: Path, translation: Translation) -> ConnectionLimit | None:
    given = translation.fields(message, path)
    if not _is_on(given, path, translation):
        return None
    if "max_connections" not in given:
        translation.error(path, '"max_connections" is missing. Add it.')
        return None
    delay_s = seconds(given["delay"]) if "delay" in given else 0.0
    return ConnectionLimit(stat_prefix=given.get("stat_prefix", ""), max_connections=given["max_connections"].value, delay_s=delay_s)


def _local_rate_limit(message: Any, path: Path, translation: Translation) -> LocalRateLimit | None:
    given = translation.fields(message, path)
    if "token_bucket" not in given:
        return None
    place = (path, "token_bucket")
    bucket = translation.fields(given["token_bucket"], place)
    fill_s = seconds(bucket["fill_interval"]) if "fill_interval" in bucket else 1.0
    if fill_s < _LEAST_FILL_S:
        translation.error((place, "fill_interval"), f"{fill_s:g}s is out of range. Use at least 50ms.")
    if not _is_on(given, path, translation):
        return None
    return LocalRateLimit(
        stat_prefix=given.get("stat_prefix", ""),
        max_tokens=bucket.get("max_tokens", 1),
        tokens_per_fill=bucket["tokens_per_fill"].value if "tokens_per_fill" in bucket else 1,
        fill_interval_s=fill_s,
        share_key=given.get("share_key", ""),
    )


def _rbac(message: Any, path: Path, translation: Translation) -> NetworkRbac:
    given = translation.fields(message, path)
    return NetworkRbac(
        stat_prefix=given.get("stat_prefix", ""),
        rules=rbac_rules(given["rules"], (path, "rules"), translation) if "rules" in given else None,
        shadow=rbac_rules(given["shadow_rules"], (path, "shadow_rules"), translation) if "shadow_rules" in given else None,
        shadow_stat_prefix=given.get("shadow_rules_stat_prefix", ""),
        delay_deny_s=seconds(given["delay_deny"]) if "delay_deny" in given else 0.0,
    )


def _sni_cluster(message: Any, path: Path, translation: Translation) -> SniCluster:
    translation.fields(message, path)
    return SniCluster()


def echo(message: Any, path: Path, translation: Translation) -> Echo:
    translation.fields(message, path)
    return Echo()


def direct_response(message: Any, path: Path, translation: Translation) -> NetworkDirectResponse:
    given = translation.fields(message, path)
    return NetworkDirectResponse(body=data_source(given["response"], (path, "response"), translation) if "response" in given else b"")


FILTERS: dict[str, Callable[[Any, Path, Translation], ConnectionFilter | None]] = {
    CONNECTION_LIMIT: _connection_limit, LOCAL_RATE_LIMIT: _local_rate_limit, RBAC: _rbac, SNI_CLUSTER: _sni_cluster,
}
"""Those that another filter follows."""
TERMINALS: dict[str, Callable[..., TcpProxy | Echo | NetworkDirectResponse]] = {
    TCP_PROXY: tcp_proxy, ECHO: echo, DIRECT_RESPONSE: direct_response,
}
"""Those that end a chain, besides the connection manager."""
