"""Envoy's HTTP filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshproxy.config.envoy.messages import name_in
from meshproxy.config.envoy.rbac import rbac_rules
from meshproxy.config.envoy.told_filters import is_told
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import GrpcHttp1Bridge, GrpcStats, GrpcWeb, HttpRbac

ROUTER = "envoy.extensions.filters.http.router.v3.Router"
GRPC_STATS = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"
GRPC_WEB = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"
GRPC_HTTP1_BRIDGE = "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_PACKAGE = "envoy.extensions.filters.network.http_connection_manager.v3."

TAKES: Table = {
    _PACKAGE + "HttpFilter": takes("typed_config is_optional", only={"disabled": (False,)}, name="is a label only"),
    ROUTER: takes(
        "suppress_envoy_headers",
        only={"dynamic_stats": (True,), "start_child_span": (False,)},
        suppress_grpc_request_failure_code_stats="concerns metrics that are not kept",
        later="upstream_log upstream_log_options strict_check_headers respect_expected_rq_timeout dynamic_stats "
        "start_child_span",
    ),
    GRPC_STATS: takes(
        "individual_method_stats_allowlist stats_for_all_methods enable_upstream_stats",
        only={"emit_filter_state": (False,), "replace_dots_in_grpc_service_name": (False,)},
    ),
    "envoy.config.core.v3.GrpcMethodList": takes("services"),
    "envoy.config.core.v3.GrpcMethodList.Service": takes("name method_names"),
    GRPC_WEB: takes(),
    RBAC: takes(
        "rules shadow_rules rules_stat_prefix shadow_rules_stat_prefix", only={"track_per_rule_stats": (False,)},
        later="track_per_rule_stats",
    ),
    GRPC_HTTP1_BRIDGE: takes("upgrade_protobuf_to_grpc", only={"ignore_query_parameters": (False,)}),
}


def http_filters(messages: Any, path: Path, translation: Translation) -> dict[str, Any]:
    """The connection manager's fields that its filters decide; the router has to be there, once and last."""
    if not len(messages):
        translation.error(path[0], f'"http_filters" has no filter. Add {ROUTER}.')
    settings: dict[str, Any] = {}
    filters = []
    for index, message in enumerate(messages):
        place = (path, index)
        given = translation.fields(message, place)
        if "typed_config" not in given:
            if not message.WhichOneof("config_type"):
                translation.error(place, f'filter "{message.name}": "typed_config" is missing. Add it.')
            continue
        inside = (place, "typed_config")
        packed = translation.resolved(given["typed_config"], inside)
        name = name_in(packed.type_url)
        supported = {ROUTER, *_MAKERS}
        if name not in supported and index + 1 < len(messages) and is_told(packed, inside, translation):
            continue
        inner = translation.unpack(packed, inside, supported, "HTTP filter", given.get("is_optional", False))
        if inner is not None:
            fields = translation.fields(inner, inside)
            if name == ROUTER:
                settings["suppress_envoy_headers"] = fields.get("suppress_envoy_headers", False)
            else:
                filters.append(_MAKERS[name](fields, inside, translation))
        if (name == ROUTER) != (index + 1 == len(messages)):
            where = "has to be the last HTTP filter and is not. Move it to the end." if name == ROUTER else (
                "is the last HTTP filter, and that has to be the router. Add it below."
            )
            translation.error(place, f'filter "{message.name}" {where}')
    return {**settings, "filters": tuple(filters)}


def _grpc_stats(given: dict[str, Any], path: Path, translation: Translation) -> GrpcStats:
    methods: list[str] = []
    if "individual_method_stats_allowlist" in given:
        place = (path, "individual_method_stats_allowlist")
        for index, item in enumerate(translation.fields(given["individual_method_stats_allowlist"], place).get("services", ())):
            service = translation.fields(item, ((place, "services"), index))
            methods += [f"{service.get('name', '')}/{method}" for method in service.get("method_names", ())]
    return GrpcStats(
        all_methods="stats_for_all_methods" in given and given["stats_for_all_methods"].value,
        methods=tuple(methods),
        upstream_stats=given.get("enable_upstream_stats", False),
    )


def _rbac(given: dict[str, Any], path: Path, translation: Translation) -> HttpRbac:
    found = {
        ours: rbac_rules(given[theirs], (path, theirs), translation, requests=True)
        for theirs, ours in (("rules", "rules"), ("shadow_rules", "shadow")) if theirs in given
    }
    return HttpRbac(stat_prefix=given.get("rules_stat_prefix", ""), shadow_stat_prefix=given.get("shadow_rules_stat_prefix", ""), **found)


_MAKERS: dict[str, Callable[[dict[str, Any], Path, Translation], GrpcStats | GrpcWeb | GrpcHttp1Bridge | HttpRbac]] = {
    RBAC: _rbac,
    GRPC_STATS: _grpc_stats,
    GRPC_WEB: lambda given, path, translation: GrpcWeb(),
    GRPC_HTTP1_BRIDGE: lambda given, path, translation: GrpcHttp1Bridge(upgrade_protobuf=given.get("upgrade_protobuf_to_grpc", False)),
}
