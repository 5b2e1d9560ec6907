"""Envoy's RouteConfiguration to a RouteTable."""

from __future__ import annotations

from typing import Any

from meshproxy.config import rules
from meshproxy.config.envoy.address import data_source, regex, rewrite
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.headers import MUTATION_FIELDS, header_match, mutations, query_match
from meshproxy.config.envoy.messages import name_in
from meshproxy.config.envoy.tracing import decorator, route_tracing
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.native.route import check_hosts
from meshproxy.config.problems import Path
from meshproxy.model import (
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    PathMatch,
    Redirect,
    RetryPolicy,
    Route,
    RouteTable,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)

_ROUTE = "envoy.config.route.v3."
_NO_READER = "is read by nothing that is supported"
MOST_BODY_BYTES = 4096
"""Envoy's default for `max_direct_response_body_size_bytes`."""

TAKES: Table = {
    _ROUTE + "RouteConfiguration": takes(
        f"name virtual_hosts internal_only_headers most_specific_header_mutations_wins validate_clusters "
        f"max_direct_response_body_size_bytes ignore_port_in_host_matching typed_per_filter_config {MUTATION_FIELDS}",
        metadata=_NO_READER,
        later="request_mirror_policies",
    ),
    _ROUTE + "VirtualHost": takes(
        f"name domains routes require_tls include_request_attempt_count include_attempt_count_in_response retry_policy "
        f"per_request_buffer_limit_bytes request_body_buffer_limit typed_per_filter_config {MUTATION_FIELDS}",
        metadata=_NO_READER,
        later="virtual_clusters rate_limits cors retry_policy_typed_config hedge_policy include_is_timeout_retry_header "
        "request_mirror_policies",
    ),
    _ROUTE + "Route": takes(
        f"name match route redirect direct_response decorator tracing typed_per_filter_config {MUTATION_FIELDS}", metadata=_NO_READER,
        later="per_request_buffer_limit_bytes request_body_buffer_limit stat_prefix",
    ),
    _ROUTE + "RouteMatch": takes(
        "prefix path safe_regex path_separated_prefix connect_matcher case_sensitive headers query_parameters grpc"
    ),
    _ROUTE + "RouteMatch.ConnectMatcher": takes(),
    _ROUTE + "RouteMatch.GrpcRouteMatchOptions": takes(),
    _ROUTE + "RouteAction": takes(
        "cluster weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite host_rewrite_literal auto_host_rewrite "
        "append_x_forwarded_host timeout idle_timeout retry_policy priority upgrade_configs max_stream_duration",
        later="flush_timeout early_data_policy retry_policy_typed_config request_mirror_policies rate_limits "
        "include_vh_rate_limits hash_policy cors max_grpc_timeout grpc_timeout_offset internal_redirect_policy "
        "internal_redirect_action max_internal_redirects hedge_policy",
    ),
    _ROUTE + "RouteAction.MaxStreamDuration": takes("max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset"),
    _ROUTE + "RouteAction.UpgradeConfig": takes("upgrade_type enabled"),
    _ROUTE + "WeightedCluster": takes("clusters total_weight", runtime_key_prefix="!has no effect: there is no runtime."),
    _ROUTE + "WeightedCluster.ClusterWeight": takes(f"name weight host_rewrite_literal typed_per_filter_config {MUTATION_FIELDS}"),
    _ROUTE + "FilterConfig": takes("config is_optional disabled"),
    _ROUTE + "RetryPolicy": takes(
        "retry_on num_retries per_try_timeout retry_host_predicate host_selection_retry_max_attempts retriable_status_codes retry_back_off",
        later="per_try_idle_timeout retry_priority retry_options_predicates rate_limited_retry_back_off retriable_headers "
        "retriable_request_headers",
    ),
    _ROUTE + "RetryPolicy.RetryBackOff": takes("base_interval max_interval"),
    _ROUTE + "RetryPolicy.RetryHostPredicate": takes("name typed_config"),
    _ROUTE + "RedirectAction": takes(
        "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite response_code strip_query"
    ),
    _ROUTE + "DirectResponseAction": takes(
        "status body",
        later="body_format",
    ),
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate": takes(),
}

_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_RETRY_ON = {
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream", "retriable-4xx", "retriable-status-codes",
    "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}
_RETRY_ON_LATER = {"envoy-ratelimited", "retriable-headers", "http3-post-connect-failure"}
_GRPC = HeaderMatch(name="content-type", string=StringMatch("regex", r"application/grpc(\+.*)?"))
"""What Envoy takes for a gRPC request."""
_TOLD_PER_FILTER = frozenset(f"envoy.extensions.filters.http.{name}" for name in (
    "cors.v3.CorsPolicy", "compressor.v3.CompressorPerRoute", "buffer.v3.BufferPerRoute", "tap.v3.Tap",
))
"""Without them fewer requests are answered here, and none goes elsewhere."""
_TLS = {"NONE": "none", "EXTERNAL_ONLY": "external", "ALL": "all"}
_NOT_FOUND = {"SERVICE_UNAVAILABLE": 503, "NOT_FOUND": 404, "INTERNAL_SERVER_ERROR": 500}
_REDIRECTS = {"MOVED_PERMANENTLY": 301, "FOUND": 302, "SEE_OTHER": 303, "TEMPORARY_REDIRECT": 307, "PERMANENT_REDIRECT": 308}


def route_table(message: Any, path: Path, translation: Translation, default_name: str = "", static: bool = True) -> RouteTable:
    """A RouteConfiguration. `static`: unknown clusters are refused unless `validate_clusters` is false (by RDS it is the other way)."""
    given = translation.fields(message, path)
    _per_filter(given, path, translation)
    validate = given["validate_clusters"].value if "validate_clusters" in given else static
    most = given["max_direct_response_body_size_bytes"].value if "max_direct_response_body_size_bytes" in given else MOST_BODY_BYTES
    reading = _Routes(translation, validate, most)
    place = (path, "virtual_hosts")
    hosts = tuple(reading.virtual_host(host, (place, index)) for index, host in enumerate(given.get("virtual_hosts", ())))
    check_hosts(hosts, path, translation.problems)
    return RouteTable(
        name=given.get("name", default_name),
        virtual_hosts=hosts,
        mutations=mutations(given, path, translation),
        most_specific_mutations_win=given.get("most_specific_header_mutations_wins", False),
        internal_only_headers=tuple(given.get("internal_only_headers", ())),
        ignore_port_in_host=given.get("ignore_port_in_host_matching", False),
    )


def _per_filter(given: dict[str, Any], path: Path, translation: Translation) -> None:
    """Settings of filters below the connection manager. Of a control plane's those are told that decide nothing about a request's way."""
    if "typed_per_filter_config" not in given:
        return
    place = (path, "typed_per_filter_config")
    if not translation.dynamic:
        translation.refuse(place, '"typed_per_filter_config"')
        return
    for name, packed in given["typed_per_filter_config"].items():
        inside, optional = (place, name), False
        if name_in(packed.type_url) == _ROUTE + "FilterConfig":
            outer = translation.unpack(packed, inside, (_ROUTE + "FilterConfig",), "filter settings")
            fields = translation.fields(outer, inside) if outer is not None else {}
            if "config" not in fields:
                continue  # switches a filter off or on; those that decide are not there to be switched
            packed, optional = fields["config"], fields.get("is_optional", False)
        kind = name_in(translation.resolved(packed, inside).type_url)
        if kind in _TOLD_PER_FILTER or optional:
            translation.later(inside, kind)
        else:
            translation.refuse(inside, f"filter settings {kind}")


class _Routes:
    """Translates what is below one route configuration."""

    def __init__(self, translation: Translation, validate_clusters: bool, most_body_bytes: int) -> None:
        self._t = translation
        self._fields = translation.fields
        self._validate = validate_clusters
        self._most_body_bytes = most_body_bytes

    def virtual_host(self, message: Any, path: Path) -> VirtualHost:
        given = self._fields(message, path)
        _per_filter(given, path, self._t)
        kept: list[str] = []
        for index, domain in enumerate(given.get("domains", ())):
            if wrong := rules.domain(domain):
                if self._t.dynamic and "*" in domain:
                    # Envoy takes such a one to the letter, and no Host has a star.
                    self._t.later(((path, "domains"), index), f'domain "{domain}"')
                    continue
                self._t.error(((path, "domains"), index), wrong)
            kept.append(domain)
        place = (path, "routes")
        routes = [self.route(route, (place, index)) for index, route in enumerate(given.get("routes", ()))]
        limits = [given[name].value for name in ("request_body_buffer_limit", "per_request_buffer_limit_bytes") if name in given]
        return VirtualHost(
            name=given.get("name", ""),
            domains=tuple(kept),
            routes=tuple(route for route in routes if route is not None),
            mutations=mutations(given, path, self._t),
            retry=self.retry(given["retry_policy"], (path, "retry_policy")) if "retry_policy" in given else None,
            require_tls=_TLS[enum_name(message, "require_tls")],
            include_request_attempt_count=given.get("include_request_attempt_count", False),
            include_attempt_count_in_response=given.get("include_attempt_count_in_response", False),
            per_request_buffer_limit_bytes=limits[0] if limits else None,
        )

    def route(self, message: Any, path: Path) -> Route | None:
        given = self._fields(message, path)
        match = self._fields(given["match"], (path, "match")) if "match" in given else {}
        where = self._path(match, (path, "match"))
        action = self._action(given, path)
        if where is None or action is None:
            return None
        if isinstance(action, ForwardAction) and action.prefix_rewrite and where.kind == "regex":
            self._t.error(((path, "route"), "prefix_rewrite"), "a safe_regex match has no prefix to rewrite. Use regex_rewrite.")
        _per_filter(given, path, self._t)
        if len(match) == 1 and given.keys() <= {"match", "route"}:
            return Route(path=where, action=action)
        place = (path, "match")
        headers = [header_match(item, ((place, "headers"), index), self._t) for index, item in enumerate(match.get("headers", ()))]
        if "grpc" in match:
            self._fields(match["grpc"], (place, "grpc"))
            headers.insert(0, _GRPC)
        queries = match.get("query_parameters", ())
        return Route(
            path=where,
            action=action,
            name=given.get("name", ""),
            headers=tuple(header for header in headers if header is not None),
            query=tuple(query_match(item, ((place, "query_parameters"), index), self._t) for index, item in enumerate(queries)),
            mutations=mutations(given, path, self._t),
            decorator=decorator(given["decorator"], (path, "decorator"), self._t) if "decorator" in given else None,
            tracing=route_tracing(given["tracing"], (path, "tracing"), self._t) if "tracing" in given else None,
        )

    def _path(self, match: dict[str, Any], path: Path) -> PathMatch | None:
        case_sensitive = match["case_sensitive"].value if "case_sensitive" in match else True
        for field, kind in (("prefix", "prefix"), ("path", "exact"), ("path_separated_prefix", "segment_prefix")):
            if field in match:
                if match[field] and not match[field].startswith("/") and field != "path_separated_prefix":
                    wrong = f'"{match[field]}" matches nothing: a path begins with "/". Write "/{match[field]}".'
                    self._t.problems.warning((path, field), wrong)
                return PathMatch(kind, match[field], case_sensitive)
        if "connect_matcher" in match:
            self._fields(match["connect_matcher"], (path, "connect_matcher"))
            return PathMatch("connect", "")
        if "safe_regex" in match:
            # Envoy: case_sensitive has no effect on regexes.
            return PathMatch("regex", regex(match["safe_regex"], (path, "safe_regex"), self._t))
        return None

    def _action(self, given: dict[str, Any], path: Path) -> ForwardAction | Redirect | DirectResponse | None:
        if "route" in given:
            return self._forward(given["route"], (path, "route"))
        if "redirect" in given:
            return self._redirect(given["redirect"], (path, "redirect"))
        if "direct_response" in given:
            return self._direct(given["direct_response"], (path, "direct_response"))
        return None

    def _forward(self, message: Any, path: Path) -> ForwardAction | None:
        given = self._fields(message, path)
        settings: dict[str, Any] = {}
        if "cluster" in given:
            clusters: tuple[WeightedCluster, ...] = (WeightedCluster(name=given.pop("cluster")),)
            self._refer(clusters[0].name, (path, "cluster"))
        elif "weighted_clusters" in given:
            clusters = self._weighted(given.pop("weighted_clusters"), (path, "weighted_clusters"))
        else:
            return None
        if "timeout" in given:
            settings["timeout_s"] = seconds(given.pop("timeout"))
        if given:
            settings.update(self._forward_settings(message, given, path))
        return ForwardAction(clusters=clusters, **settings)

    def _forward_settings(self, message: Any, given: dict[str, Any], path: Path) -> dict[str, Any]:
        """The less frequent ones."""
        if "prefix_rewrite" in given and "regex_rewrite" in given:
            self._t.error((path, "regex_rewrite"), '"prefix_rewrite" and "regex_rewrite" are both given. Keep one.')
        upgrades = [self._fields(item, ((path, "upgrade_configs"), index)) for index, item in enumerate(given.get("upgrade_configs", ()))]
        enabled = [(item.get("upgrade_type", "").lower(), item["enabled"].value if "enabled" in item else True) for item in upgrades]
        return {
            "prefix_rewrite": given.get("prefix_rewrite", ""),
            "regex_rewrite": rewrite(given["regex_rewrite"], (path, "regex_rewrite"), self._t) if "regex_rewrite" in given else None,
            "host_rewrite": given.get("host_rewrite_literal", ""),
            "auto_host_rewrite": given["auto_host_rewrite"].value if "auto_host_rewrite" in given else False,
            "append_x_forwarded_host": given.get("append_x_forwarded_host", False),
            "idle_timeout_s": seconds(given["idle_timeout"]) if "idle_timeout" in given else None,
            "retry": self.retry(given["retry_policy"], (path, "retry_policy")) if "retry_policy" in given else None,
            "cluster_not_found_status": _NOT_FOUND[enum_name(message, "cluster_not_found_response_code")],
            "high_priority": enum_name(message, "priority") == "HIGH",
            "upgrades": tuple(enabled),
            **(self._durations(given["max_stream_duration"], (path, "max_stream_duration")) if "max_stream_duration" in given else {}),
        }

    def _durations(self, message: Any, path: Path) -> dict[str, float]:
        given = self._fields(message, path)
        names = {
            "max_stream_duration": "max_stream_duration_s",
            "grpc_timeout_header_max": "grpc_timeout_max_s",
            "grpc_timeout_header_offset": "grpc_timeout_offset_s",
        }
        return {ours: seconds(given[theirs]) for theirs, ours in names.items() if theirs in given}

    def _refer(self, name: str, path: Path) -> None:
        if self._validate:
            self._t.problems.refer("cluster", name, path)

    def _weighted(self, message: Any, path: Path) -> tuple[WeightedCluster, ...]:
        given = self._fields(message, path)
        made = []
        for index, item in enumerate(given.get("clusters", ())):
            place = ((path, "clusters"), index)
            target = self._fields(item, place)
            _per_filter(target, place, self._t)
            name = target.get("name", "")
            if name:
                self._refer(name, (place, "name"))
            else:
                self._t.error(place, '"name" is missing. Add the cluster\'s name.')
            weight = target["weight"].value if "weight" in target else 0
            host = target.get("host_rewrite_literal", "")
            made.append(WeightedCluster(name=name, weight=weight, mutations=mutations(target, place, self._t), host_rewrite=host))
        total = sum(target.weight for target in made)
        if made and total == 0:
            self._t.error(path, "the weights sum up to 0. Give one cluster a weight.")
        if "total_weight" in given and given["total_weight"].value != total:
            wrong = f"the weights sum up to {total} and not {given['total_weight'].value}. Remove total_weight."
            self._t.error((path, "total_weight"), wrong)
        return tuple(made)

    def retry(self, message: Any, path: Path) -> RetryPolicy:
        given = self._fields(message, path)
        words = [word.strip() for word in given.get("retry_on", "").split(",") if word.strip()]
        for word in words:
            if word in _RETRY_ON_LATER:
                self._t.later((path, "retry_on"), f'retry_on "{word}"', "Leave the word out.")
            elif word not in _RETRY_ON:
                self._t.error((path, "retry_on"), f'"{word}" is no condition of retry_on. Use: {", ".join(sorted(_RETRY_ON))}.')
        base, longest = self._back_off(given, path)
        return RetryPolicy(
            on=tuple(word for word in words if word in _RETRY_ON),
            num_retries=given["num_retries"].value if "num_retries" in given else 1,
            per_try_timeout_s=seconds(given["per_try_timeout"]) if "per_try_timeout" in given else 0.0,
            retriable_status_codes=tuple(given.get("retriable_status_codes", ())),
            backoff_base_s=base,
            backoff_max_s=longest,
            avoid_previous_hosts=self._avoids(given, path),
            host_selection_attempts=max(1, given.get("host_selection_retry_max_attempts", 1)),
        )

    def _back_off(self, given: dict[str, Any], path: Path) -> tuple[float, float]:
        """Base and longest wait; the longest is ten times the base when not given (Envoy)."""
        if "retry_back_off" not in given:
            return 0.025, 0.250
        place = (path, "retry_back_off")
        waits = self._fields(given["retry_back_off"], place)
        base = seconds(waits["base_interval"]) if "base_interval" in waits else 0.025
        longest = seconds(waits["max_interval"]) if "max_interval" in waits else base * 10
        if longest < base:
            self._t.error((place, "max_interval"), f"{longest:g}s is less than base_interval, {base:g}s. Raise it.")
        return base, longest

    def _avoids(self, given: dict[str, Any], path: Path) -> bool:
        found = False
        for index, item in enumerate(given.get("retry_host_predicate", ())):
            place = ((path, "retry_host_predicate"), index)
            predicate = self._fields(item, place)
            if "typed_config" in predicate:
                packed, inside = predicate["typed_config"], (place, "typed_config")
                found |= self._t.unpack(packed, inside, (_PREVIOUS_HOSTS,), "host predicate", later=True) is not None
            elif predicate.get("name") == "envoy.retry_host_predicates.previous_hosts":
                found = True
            else:
                self._t.later((place, "name"), f'host predicate "{predicate.get("name", "")}"')
        return found

    def _redirect(self, message: Any, path: Path) -> Redirect:
        given = self._fields(message, path)
        return Redirect(
            status=_REDIRECTS[enum_name(message, "response_code")],
            scheme=given.get("scheme_redirect", ""),
            https=given.get("https_redirect", False),
            host=given.get("host_redirect", ""),
            port=given.get("port_redirect", 0),
            path=given.get("path_redirect", ""),
            prefix_rewrite=given.get("prefix_rewrite", ""),
            regex_rewrite=rewrite(given["regex_rewrite"], (path, "regex_rewrite"), self._t) if "regex_rewrite" in given else None,
            strip_query=given.get("strip_query", False),
        )

    def _direct(self, message: Any, path: Path) -> DirectResponse:
        given = self._fields(message, path)
        body = data_source(given["body"], (path, "body"), self._t) if "body" in given else b""
        if len(body) > self._most_body_bytes:
            limit = f"max_direct_response_body_size_bytes ({self._most_body_bytes})"
            self._t.error((path, "body"), f"the body has {len(body)} bytes, more than {limit}. Raise that limit.")
        return DirectResponse(status=given.get("status", 200), body=body)
