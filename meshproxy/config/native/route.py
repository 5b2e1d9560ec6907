"""Routes, virtual hosts and route tables in native YAML."""

from __future__ import annotations

from typing import Any

import msgspec

from meshproxy.config import rules
from meshproxy.config.native.actions import DIRECT, REDIRECT, RETRY, Rewrite, Targets, TextPath
from meshproxy.config.native.catalog import CATALOG
from meshproxy.config.native.headers import (
    HEADER_CONDITION,
    METHOD,
    MUTATION_ROWS,
    QUERY_CONDITION,
    Conditions,
    give_mutations,
    method_match,
    take_mutations,
)
from meshproxy.config.native.kinds import Duration, Flag, ListOf, Named, Size, Status, Switches, Text, Word
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.tracing import DECORATOR, ROUTE_TRACING
from meshproxy.config.problems import Path, Problems
from meshproxy.model import (
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    PathMatch,
    Redirect,
    Route,
    RouteTable,
    VirtualHost,
)

_FORWARD_ROWS = (
    Row("prefix_rewrite", Text("path", rules.header_value), "Takes the place of the matched prefix or path."),
    Row("regex_rewrite", Rewrite(), "Rewrites the path, without the query."),
    Row("host_rewrite", Text("host", rules.header_value), "The Host that the cluster gets."),
    Row("auto_host_rewrite", Flag(), "The Host is the endpoint's `hostname`, or its name in DNS."),
    Row("append_x_forwarded_host", Flag(), "Tell the cluster the original Host in x-forwarded-host."),
    Row("timeout", Duration(), "From the end of the request to the end of the response.", "timeout_s"),
    Row("idle_timeout", Duration(), "Without a byte in either direction.", "idle_timeout_s", shown_default="the listener's"),
    Row("retry", RETRY, "How a failed request is tried again."),
    Row("max_stream_duration", Duration(), "From the request's first byte; then it ends.", "max_stream_duration_s",
        shown_default="the listener's"),
    Row("grpc_timeout_max", Duration(zero="as it stands"), "A request's `grpc-timeout`, at most this, is its longest duration.",
        "grpc_timeout_max_s", shown_default="not looked at"),
    Row("grpc_timeout_offset", Duration(zero="none"), "Taken off a `grpc-timeout`.", "grpc_timeout_offset_s"),
    Row("cluster_not_found_status", Status(503, 404, 500), "The answer when the cluster is not there."),
    Row("priority", Word(values={"default": False, "high": True}), "Which of the cluster's breakers count.", "high_priority"),
    Row("upgrades", Switches(), "Upgrade protocols by name, true or false, over the listener's."),
)
_ACTIONS = {"to": ForwardAction, "redirect": Redirect, "respond": DirectResponse}
_FORWARD_FIELDS = {row.name: row.field for row in _FORWARD_ROWS}
_PATH_KINDS = ("prefix", "segment_prefix", "path", "regex", "connect")
_ANY_PATH = PathMatch("prefix", "/")


def _make_route(values: Values, path: Path, problems: Problems) -> Any:
    action = _take_action(values, path, problems)
    match = _take_path(values, path, problems)
    headers = values.pop("match_headers", ())
    if methods := values.pop("methods", ()):
        headers = (HeaderMatch(name=":method", string=method_match(methods)), *headers)
    if action is None or match is None:
        return WRONG
    if isinstance(action, ForwardAction) and action.prefix_rewrite and match.kind == "regex":
        problems.error((path, "prefix_rewrite"), "a regex route has no prefix to rewrite. Use regex_rewrite.")
    return Route(
        path=match,
        action=action,
        name=values.get("name", ""),
        headers=headers,
        query=values.get("match_query", ()),
        mutations=take_mutations(values),
        decorator=values.get("decorator"),
        tracing=values.get("tracing"),
    )


def _take_action(values: Values, path: Path, problems: Problems) -> Any:
    given = [word for word in _ACTIONS if word in values]
    forward = {field: values.pop(field) for field in _FORWARD_FIELDS.values() if field in values}
    if len(given) != 1:
        wrong = 'it goes nowhere. Add "to", "redirect" or "respond".'
        if given:
            wrong = f'"{given[0]}" and "{given[1]}" are both given. Keep one.'
        problems.error(path, f"route: {wrong}")
        return None
    action = values.pop(given[0])
    if given[0] != "to":
        for name, field in _FORWARD_FIELDS.items():
            if field in forward:
                problems.error((path, name), f'"{name}" has no meaning with "{given[0]}". Remove it.')
        return action
    if forward.get("host_rewrite") and forward.get("auto_host_rewrite"):
        problems.error((path, "auto_host_rewrite"), '"host_rewrite" and "auto_host_rewrite" are both given. Keep one.')
    if forward.get("prefix_rewrite") and forward.get("regex_rewrite"):
        problems.error((path, "regex_rewrite"), '"prefix_rewrite" and "regex_rewrite" are both given. Keep one.')
    return ForwardAction(clusters=action, **forward)


def _take_path(values: Values, path: Path, problems: Problems) -> PathMatch | None:
    given = [kind for kind in _PATH_KINDS if kind in values]
    if len(given) > 1:
        problems.error((path, given[1]), f'"{given[0]}" and "{given[1]}" are both given. Keep one.')
        return None
    ignore_case = values.pop("ignore_case", False)
    if not given:
        return PathMatch("prefix", "/", not ignore_case)
    if ignore_case and given[0] == "regex":
        problems.error((path, "ignore_case"), 'a regex says it itself. Write "(?i)" in front of the pattern.')
    kind = "exact" if given[0] == "path" else given[0]
    if kind == "connect":
        if not values.pop(kind):
            problems.error((path, kind), "false has no meaning here. Remove it.")
        return PathMatch(kind, "")
    return PathMatch(kind, values.pop(given[0]), not ignore_case)


def _split_route(route: Route) -> Values:
    values: Values = {"name": route.name, "match_headers": route.headers, "match_query": route.query, **give_mutations(route.mutations)}
    kind = "path" if route.path.kind == "exact" else route.path.kind
    values[kind] = True if kind == "connect" else route.path.value
    values.update(decorator=route.decorator, tracing=route.tracing)
    values["ignore_case"] = not route.path.case_sensitive
    word = next(word for word, struct in _ACTIONS.items() if type(route.action) is struct)
    if word != "to":
        return {**values, word: route.action}
    values["to"] = route.action.clusters
    return {**values, **{field: getattr(route.action, field) for field in _FORWARD_FIELDS.values()}}


def _segments(text: str) -> str:
    if not text.startswith("/") or (text.endswith("/") and len(text) > 1) or "?" in text or "#" in text or text == "/":
        return f'"{text}" is no run of path segments. Write it like "/api/v1", without "/" at the end.'
    return ""


_ROUTE_DEFAULTS: Values = {
    field.name: field.default for field in msgspec.structs.fields(ForwardAction) if field.default is not msgspec.NODEFAULT
}

ROUTE = Section(
    "route",
    (
        Row("name", Text(), "For logs.", default=""),
        Row("prefix", TextPath(), "The beginning of path and query.", shown_default="/"),
        Row("segment_prefix", Text("path", _segments), "The first segments of the path: /api takes /api and /api/x but not /apis."),
        Row("path", TextPath(), "The whole path, without the query."),
        Row("regex", Text("regex", rules.regex), "RE2, for the whole path without the query."),
        Row("connect", Flag(), "CONNECT requests, which have no path."),
        Row("ignore_case", Flag(), "Compare paths without regard to case.", default=False),
        Row("methods", ListOf(METHOD),
            "HTTP methods.", shown_default="all"),
        Row("match_headers", Conditions(HEADER_CONDITION, rules.header_name,
                                        lambda item, name: msgspec.structs.replace(item, name=name.lower())),
            "Conditions on headers, all to be met.", default=()),
        Row("match_query", Conditions(QUERY_CONDITION, lambda name: "", lambda item, name: msgspec.structs.replace(item, name=name)),
            "Conditions on query parameters, all to be met.", default=()),
        Row("to", Targets(), "The cluster that gets the request, or several with weights."),
        Row("redirect", REDIRECT, "Answer with a redirect."),
        Row("respond", DIRECT, "Answer from here."),
        *(row._replace(default=_ROUTE_DEFAULTS[row.field]) for row in _FORWARD_ROWS),
        Row("decorator", DECORATOR, "What its spans are called.", default=None, shown_default="the host's name"),
        Row("tracing", ROUTE_TRACING, "Which of its requests are traced.", default=None, shown_default="the listener's"),
        *MUTATION_ROWS,
    ),
    help="A condition and what is done when it is met. The first route that matches wins.",
    make=_make_route,
    split=_split_route,
)


def _make_virtual_host(values: Values, path: Path, problems: Problems) -> Any:
    domains = values.setdefault("domains", ("*",))
    values.setdefault("name", domains[0] if domains else "")
    return VirtualHost(mutations=take_mutations(values), **values)


def _split_virtual_host(host: VirtualHost) -> Values:
    values = {field: getattr(host, field) for field in host.__struct_fields__ if field != "mutations"}
    if host.domains and host.name == host.domains[0]:
        del values["name"]
    return {**values, **give_mutations(host.mutations)}


VIRTUAL_HOST = Section(
    "virtual_host",
    (
        Row("name", Text(), "For metrics and logs.", default=DERIVED, shown_default="the first domain"),
        Row("domains", ListOf(Text("domain", rules.domain), least=1), "Host names: exact, `*.suffix`, `prefix.*` or `*`.", default=("*",),
            shown_default="*"),
        Row("routes", ListOf(ROUTE, single=False), "Tried in order.", shown_default="none"),
        Row("retry", RETRY, "For routes without their own."),
        Row("require_tls", Word("none", "external", "all"), "Redirect what came without TLS."),
        Row("include_request_attempt_count", Flag(), "Tell the cluster the try's number in x-envoy-attempt-count."),
        Row("include_attempt_count_in_response", Flag(), "Tell the client."),
        Row("retry_buffer_limit", Size(0, 1 << 32), "Most bytes kept of one request for a retry.", "per_request_buffer_limit_bytes",
            shown_default="the listener's buffer_limit"),
        Row("stats", Flag(), "Keep metrics for this virtual host."),
        *MUTATION_ROWS,
    ),
    VirtualHost,
    help="Routes for some host names.",
    make=_make_virtual_host,
    split=_split_virtual_host,
)

ROUTE_TABLE = Section(
    "route_table",
    (
        Row("virtual_hosts", ListOf(VIRTUAL_HOST, single=False), "By host name.", shown_default="none"),
        Row("routes", ListOf(ROUTE, single=False), "Short for one virtual host for all names."),
        Row("catalog", CATALOG, "Routes to every service of Consul's catalogue, behind those given here.", shown_default="none"),
        Row("most_specific_mutations_win", Flag(), "Header changes of a route come last, and so win over the table's."),
        Row("internal_only_headers", ListOf(Text("header name", rules.header_name)), "Headers that are removed from outside requests."),
        Row("ignore_port_in_host", Flag(), "Domains are compared without the port."),
        *MUTATION_ROWS,
    ),
    RouteTable,
    help="Routes under a name, for several listeners.",
    make=lambda values, path, problems: _make_table(values, path, problems),
    split=lambda table: {
        **{field: getattr(table, field) for field in table.__struct_fields__ if field not in ("mutations", "name")},
        **give_mutations(table.mutations),
    },
)
TABLES = Named(ROUTE_TABLE, "route table", lambda table, name: msgspec.structs.replace(table, name=name))


def hosts_of(values: Values, path: Path, problems: Problems) -> tuple[VirtualHost, ...]:
    """The virtual hosts of `virtual_hosts` or `routes`, both taken out of `values`."""
    hosts, routes = values.pop("virtual_hosts", None), values.pop("routes", None)
    if hosts is not None and routes is not None:
        problems.error((path, "routes"), '"virtual_hosts" and "routes" are both given. Move the routes into a virtual host.')
    if routes is not None and hosts is None:
        hosts = (VirtualHost(name="*", domains=("*",), routes=routes),)
    return hosts or ()


def check_hosts(hosts: tuple[VirtualHost, ...], path: Path, problems: Problems) -> None:
    """Names and domains are there once (domains without regard to case)."""
    names: set[str] = set()
    domains: dict[str, int] = {}
    for index, host in enumerate(hosts):
        place = ((path, "virtual_hosts"), index)
        if host.name in names:
            problems.error(place, f'virtual host "{host.name}" is there twice. Give each a name of its own.')
        names.add(host.name)
        for number, domain in enumerate(host.domains):
            other = domains.setdefault(domain.lower(), index)
            if other != index or domain in host.domains[:number]:
                problems.error(
                    (place, "domains"), f'domain "{domain}" is also a domain of virtual host "{hosts[other].name}". Keep one.'
                )


def _make_table(values: Values, path: Path, problems: Problems) -> Any:
    hosts = hosts_of(values, path, problems)
    check_hosts(hosts, path, problems)
    return RouteTable(name="", virtual_hosts=hosts, mutations=take_mutations(values), **values)
