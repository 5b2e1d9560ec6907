"""Envoy's stats sinks."""

from __future__ import annotations

from typing import Any

from meshproxy.config import rules
from meshproxy.config.envoy.address import address
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import PipeAddress, StatsSink, StatsTag

_METRICS = "envoy.config.metrics.v3."
_STATSD = _METRICS + "StatsdSink"
_DOGSTATSD = _METRICS + "DogStatsdSink"

TAKES: Table = {
    _METRICS + "StatsSink": takes("typed_config", name="is a label only"),
    _STATSD: takes("address tcp_cluster_name prefix"),
    _DOGSTATSD: takes("address prefix max_bytes_per_datagram"),
    _METRICS + "StatsConfig": takes("stats_tags", only={"use_all_default_tags": (True,)}),
    _METRICS + "TagSpecifier": takes("tag_name regex fixed_value"),
}
ENVOY_TAGS = frozenset("envoy." + name for name in """
    clientssl_prefix cluster_name connection_limit_prefix dns_filter_prefix dynamo_operation dynamo_partition_id dynamo_table
    ext_authz_prefix fault_downstream_cluster google_grpc_client_prefix grpc_bridge_method grpc_bridge_service health_check_name
    http_conn_manager_prefix http_user_agent listener_address local_http_ratelimit_prefix local_listener_ratelimit_prefix
    local_network_ratelimit_prefix mongo_callsite mongo_cmd mongo_collection mongo_prefix proxy_protocol_prefix
    proxy_protocol_version ratelimit_prefix rbac_http_prefix rbac_policy_name rbac_prefix rds_route_config redis_prefix
    response_code response_code_class route scoped_rds_config ssl_cipher ssl_curve ssl_sigalg ssl_version tcp_prefix thrift_prefix
    tls_certificate udp_prefix virtual_cluster virtual_host worker_id xds_resource_name
    """.split())
"""As Envoy 1.40 knows them: what it takes without a regex."""
_PREFIX = "envoy"
"""Envoy's default prefix of names."""


def stats_sink(message: Any, path: Path, translation: Translation) -> StatsSink | None:
    """A StatsdSink or DogStatsdSink; None after another was refused."""
    given = translation.fields(message, path)
    if "typed_config" not in given:
        translation.error(path, 'stats sink: "typed_config" is missing. Add it.')
        return None
    place = (path, "typed_config")
    sink = translation.unpack(given["typed_config"], place, (_STATSD, _DOGSTATSD), "stats sink")
    if sink is None:
        return None
    settings = translation.fields(sink, place)
    made: dict[str, Any] = {
        "dialect": "dogstatsd" if sink.DESCRIPTOR.full_name == _DOGSTATSD else "statsd",
        "prefix": settings.get("prefix") or _PREFIX,
    }
    if "max_bytes_per_datagram" in settings:
        made["max_datagram_bytes"] = settings["max_bytes_per_datagram"].value
    if "tcp_cluster_name" in settings:
        translation.problems.refer("cluster", settings["tcp_cluster_name"], (place, "tcp_cluster_name"))
        return StatsSink(transport="tcp", tcp_cluster=settings["tcp_cluster_name"], **made)
    if "address" not in settings:
        return None
    target = address(settings["address"], (place, "address"), translation, udp=True)
    if isinstance(target, PipeAddress):
        translation.refuse(((place, "address"), "pipe"), "a UNIX socket of a statsd server", "Use UDP.")
        return None
    return StatsSink(address=target, **made) if target is not None else None


def stats_tags(message: Any, path: Path, translation: Translation) -> tuple[StatsTag, ...]:
    """A StatsConfig's tags. One that has only a name is Envoy's own of that name, which is there anyway."""
    made = []
    for index, item in enumerate(translation.fields(message, path).get("stats_tags", ())):
        place = ((path, "stats_tags"), index)
        given = translation.fields(item, place)
        if not given.get("tag_name"):
            translation.error(place, 'stats tag: "tag_name" is missing. Add it.')
        elif "fixed_value" in given:
            made.append(StatsTag(name=given["tag_name"], value=given["fixed_value"]))
        elif given.get("regex"):
            if wrong := rules.tag_regex(given["regex"]):
                translation.error((place, "regex"), wrong)
            made.append(StatsTag(name=given["tag_name"], regex=given["regex"]))
        elif given["tag_name"] not in ENVOY_TAGS:
            translation.error(place, f'"{given["tag_name"]}" is no tag of Envoy\'s own. Add a regex or a fixed_value.')
    return tuple(made)
