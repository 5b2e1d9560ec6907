"""A RouteTable as Envoy's RouteConfiguration."""

from __future__ import annotations

import base64
from typing import Any

from meshproxy.config.envoy import write_tracing
from meshproxy.config.envoy.write_messages import duration
from meshproxy.model import (
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    HeaderMutations,
    HeaderValue,
    PathMatch,
    Redirect,
    RetryPolicy,
    Route,
    RouteTable,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshproxy.model.route import QueryMatch

Data = dict[str, Any]
_APPEND = {
    "append": "APPEND_IF_EXISTS_OR_ADD",
    "add_if_absent": "ADD_IF_ABSENT",
    "overwrite": "OVERWRITE_IF_EXISTS_OR_ADD",
    "overwrite_if_exists": "OVERWRITE_IF_EXISTS",
}
_TLS = {"external": "EXTERNAL_ONLY", "all": "ALL"}
_NOT_FOUND = {404: "NOT_FOUND", 500: "INTERNAL_SERVER_ERROR"}
_REDIRECTS = {302: "FOUND", 303: "SEE_OTHER", 307: "TEMPORARY_REDIRECT", 308: "PERMANENT_REDIRECT"}
_PATHS = {"prefix": "prefix", "exact": "path", "segment_prefix": "path_separated_prefix"}
_ENVOYS_BODY_BYTES = 4096


def route_configuration(table: RouteTable, lost: list[str]) -> Data:
    """The table; what cannot be said in it goes to `lost`."""
    data: Data = {"name": table.name}
    if table.virtual_hosts:
        data["virtual_hosts"] = [_virtual_host(host, lost) for host in table.virtual_hosts]
    if table.internal_only_headers:
        data["internal_only_headers"] = list(table.internal_only_headers)
    if table.most_specific_mutations_win:
        data["most_specific_header_mutations_wins"] = True
    if table.ignore_port_in_host:
        data["ignore_port_in_host_matching"] = True
    largest = max((_body_bytes(route) for host in table.virtual_hosts for route in host.routes), default=0)
    if largest > _ENVOYS_BODY_BYTES:
        data["max_direct_response_body_size_bytes"] = largest
    return {**data, **_mutations(table.mutations)}


def _body_bytes(route: Route) -> int:
    return len(route.action.body) if isinstance(route.action, DirectResponse) else 0


def _virtual_host(host: VirtualHost, lost: list[str]) -> Data:
    data: Data = {"name": host.name, "domains": list(host.domains)}
    if host.routes:
        data["routes"] = [_route(route, lost) for route in host.routes]
    if host.retry is not None:
        data["retry_policy"] = _retry(host.retry)
    if host.require_tls in _TLS:
        data["require_tls"] = _TLS[host.require_tls]
    for field in ("include_request_attempt_count", "include_attempt_count_in_response"):
        if getattr(host, field):
            data[field] = True
    if host.per_request_buffer_limit_bytes is not None:
        data["request_body_buffer_limit"] = host.per_request_buffer_limit_bytes
    if host.stats:
        lost.append(f'virtual host "{host.name}" stats: Envoy has them in virtual clusters only')
    return {**data, **_mutations(host.mutations)}


def _route(route: Route, lost: list[str]) -> Data:
    path = route.path
    match = _path(path)
    if route.headers:
        match["headers"] = [header_match(header) for header in route.headers]
    if route.query:
        match["query_parameters"] = [_query_match(query) for query in route.query]
    data: Data = {"match": match, **({"name": route.name} if route.name else {})}
    action = route.action
    if isinstance(action, ForwardAction):
        data["route"] = _forward(action)
    elif isinstance(action, Redirect):
        data["redirect"] = _redirect(action)
    else:
        data["direct_response"] = _direct(action, lost)
    if route.decorator is not None:
        propagate = {} if route.decorator.propagate else {"propagate": False}
        data["decorator"] = {"operation": route.decorator.operation, **propagate}
    if route.tracing is not None:
        data["tracing"] = write_tracing.route_tracing(route.tracing)
    return {**data, **_mutations(route.mutations)}


def _path(path: PathMatch) -> Data:
    if path.kind == "connect":
        return {"connect_matcher": {}}
    if path.kind == "regex":
        return {"safe_regex": {"regex": path.value}}
    return {_PATHS[path.kind]: path.value, **({} if path.case_sensitive else {"case_sensitive": False})}


def string(match: StringMatch) -> Data:
    if match.kind == "regex":
        return {"safe_regex": {"regex": match.value}}
    return {match.kind: match.value, **({"ignore_case": True} if match.ignore_case else {})}


def header_match(header: HeaderMatch) -> Data:
    data: Data = {"name": header.name}
    if header.string is not None:
        data["string_match"] = string(header.string)
    elif header.range is not None:
        data["range_match"] = {"start": header.range[0], "end": header.range[1]}
    else:
        data["present_match"] = header.present
    if header.invert:
        data["invert_match"] = True
    if header.treat_missing_as_empty:
        data["treat_missing_header_as_empty"] = True
    return data


def _query_match(query: QueryMatch) -> Data:
    return {"name": query.name, **({"string_match": string(query.string)} if query.string is not None else {"present_match": True})}


def _rewrite(rewrite: tuple[str, str]) -> Data:
    return {"pattern": {"regex": rewrite[0]}, "substitution": rewrite[1]}


def _forward(action: ForwardAction) -> Data:
    first = action.clusters[0]
    if len(action.clusters) == 1 and first == WeightedCluster(name=first.name):
        data: Data = {"cluster": first.name}
    else:
        data = {"weighted_clusters": {"clusters": [_weighted(target) for target in action.clusters]}}
    if action.prefix_rewrite:
        data["prefix_rewrite"] = action.prefix_rewrite
    if action.regex_rewrite is not None:
        data["regex_rewrite"] = _rewrite(action.regex_rewrite)
    if action.host_rewrite:
        data["host_rewrite_literal"] = action.host_rewrite
    for field in ("auto_host_rewrite", "append_x_forwarded_host"):
        if getattr(action, field):
            data[field] = True
    if action.timeout_s != 15.0:
        data["timeout"] = duration(action.timeout_s)
    if action.idle_timeout_s is not None:
        data["idle_timeout"] = duration(action.idle_timeout_s)
    durations = {
        "max_stream_duration": action.max_stream_duration_s,
        "grpc_timeout_header_max": action.grpc_timeout_max_s,
        "grpc_timeout_header_offset": action.grpc_timeout_offset_s or None,
    }
    if told := {name: duration(value) for name, value in durations.items() if value is not None}:
        data["max_stream_duration"] = told
    if action.retry is not None:
        data["retry_policy"] = _retry(action.retry)
    if action.cluster_not_found_status in _NOT_FOUND:
        data["cluster_not_found_response_code"] = _NOT_FOUND[action.cluster_not_found_status]
    if action.high_priority:
        data["priority"] = "HIGH"
    if action.upgrades:
        data["upgrade_configs"] = [{"upgrade_type": name, "enabled": enabled} for name, enabled in action.upgrades]
    return data


def _weighted(target: WeightedCluster) -> Data:
    data: Data = {"name": target.name, "weight": target.weight}
    if target.host_rewrite:
        data["host_rewrite_literal"] = target.host_rewrite
    return {**data, **_mutations(target.mutations)}


def _retry(retry: RetryPolicy) -> Data:
    data: Data = {"retry_on": ",".join(retry.on)}
    if retry.num_retries != 1:
        data["num_retries"] = retry.num_retries
    if retry.per_try_timeout_s:
        data["per_try_timeout"] = duration(retry.per_try_timeout_s)
    if retry.retriable_status_codes:
        data["retriable_status_codes"] = list(retry.retriable_status_codes)
    if (retry.backoff_base_s, retry.backoff_max_s) != (0.025, 0.250):
        data["retry_back_off"] = {"base_interval": duration(retry.backoff_base_s), "max_interval": duration(retry.backoff_max_s)}
    if retry.avoid_previous_hosts:
        kind = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        data["retry_host_predicate"] = [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": f"type.googleapis.com/{kind}"}}
        ]
    if retry.host_selection_attempts != 1:
        data["host_selection_retry_max_attempts"] = retry.host_selection_attempts
    return data


def _redirect(redirect: Redirect) -> Data:
    names = {
        "https": "https_redirect", "scheme": "scheme_redirect", "host": "host_redirect", "port": "port_redirect", "path": "path_redirect",
        "prefix_rewrite": "prefix_rewrite", "strip_query": "strip_query",
    }
    data: Data = {theirs: getattr(redirect, ours) for ours, theirs in names.items() if getattr(redirect, ours)}
    if redirect.regex_rewrite is not None:
        data["regex_rewrite"] = _rewrite(redirect.regex_rewrite)
    if redirect.status in _REDIRECTS:
        data["response_code"] = _REDIRECTS[redirect.status]
    return data


def _direct(direct: DirectResponse, lost: list[str]) -> Data:
    data: Data = {"status": direct.status}
    if direct.body:
        try:
            data["body"] = {"inline_string": direct.body.decode()}
        except UnicodeDecodeError:
            data["body"] = {"inline_bytes": base64.b64encode(direct.body).decode()}
    if direct.content_type != "text/plain":
        lost.append(f"content type {direct.content_type} of a direct response: Envoy has it as a response header to add")
    return data


def _mutations(mutations: HeaderMutations) -> Data:
    data: Data = {}
    for field, removed, added in (
        ("request", mutations.request_remove, mutations.request_add),
        ("response", mutations.response_remove, mutations.response_add),
    ):
        if added:
            data[f"{field}_headers_to_add"] = [_header(header) for header in added]
        if removed:
            data[f"{field}_headers_to_remove"] = list(removed)
    return data


def _header(header: HeaderValue) -> Data:
    data: Data = {"header": {"key": header.name, "value": header.value.replace("%", "%%")}}
    if header.append != "append":
        data["append_action"] = _APPEND[header.append]
    if header.keep_empty:
        data["keep_empty_value"] = True
    return data
