"""Routes, virtual hosts and route tables in native YAML."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from meshproxy.config import rules
from meshproxy.config.native.cluster import RETRY_BUDGET
from meshproxy.config.native.headers import (
    HEADER_CONDITION,
    MUTATION_ROWS,
    QUERY_CONDITION,
    Conditions,
    give_mutations,
    take_mutations,
)
from meshproxy.config.native.kinds import Definitions, Duration, Flag, ListOf, Named, Size, Status, Text, Whole, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, told
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

MOST_BODY_BYTES = 1 << 20
"""A direct response lives in every worker's memory; larger answers belong to a server."""
DEFAULT_RETRY_ON = ("connect-failure", "reset-before-request")
"""Nothing of the request was worked on yet, so it may be sent again whatever its method."""


class TextPath(Text):
    """Something that begins with "/"."""

    def __init__(self) -> None:
        super().__init__("path", lambda text: "" if text.startswith("/") else f'"{text}" does not begin with "/". Write "/{text}".')


class Rewrite:
    """`{pattern, substitution}`: RE2 and what takes its place."""

    label = "pattern and substitution"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict or value.keys() != {"pattern", "substitution"} or not all(type(text) is str for text in value.values()):
            problems.error(path, f'{told(value)} is given where "pattern" and "substitution" are needed. Write both below.')
            return WRONG
        if wrong := rules.substitution(value["pattern"], value["substitution"]):
            problems.error(path, wrong)
            return WRONG
        return value["pattern"], value["substitution"]

    def write(self, value: tuple[str, str]) -> dict[str, str]:
        return {"pattern": value[0], "substitution": value[1]}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        text = {"type": "string"}
        return {"type": "object", "required": ["pattern", "substitution"], "additionalProperties": False,
                "properties": {"pattern": text, "substitution": text}}


RETRY = Section(
    "retry",
    (
        Row("on", ListOf(Word("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx",
                              "retriable-status-codes")), "When a request is tried again; Envoy's words.", default=DEFAULT_RETRY_ON,
            shown_default=", ".join(DEFAULT_RETRY_ON)),
        Row("times", Whole(0, 100), "How often at most.", "num_retries"),
        Row("per_try_timeout", Duration(zero="the route's timeout"), "For each try.", "per_try_timeout_s"),
        Row("status_codes", ListOf(Whole(100, 599)), "For `retriable-status-codes`.", "retriable_status_codes"),
        Row("backoff", Duration(zero="", least_s=0.001), "Wait before the first retry, at most; it grows.", "backoff_base_s"),
        Row("backoff_max", Duration(zero="", least_s=0.001), "The longest wait.", "backoff_max_s"),
        Row("avoid_previous_hosts", Flag(), "Try another endpoint."),
        Row("host_selection_attempts", Whole(1, 100), "How often one is looked for."),
    ),
    RetryPolicy,
    help="How a failed request is tried again: how often, or a mapping.",
    make=lambda values, path, problems: _make_retry(values, path, problems),
    short=lambda value: {"times": value} if type(value) is int else None,
    shorten=lambda written: written["times"] if written.keys() == {"times"} else written,
    short_schemas=({"type": "integer"},),
    short_label="a number of times",
)


def _make_retry(values: Values, path: Path, problems: Problems) -> Any:
    values.setdefault("on", DEFAULT_RETRY_ON)
    base = values.get("backoff_base_s", 0.025)
    longest = values.setdefault("backoff_max_s", max(0.250, base))
    if longest < base:
        problems.error((path, "backoff_max"), "the longest wait is shorter than the first. Raise it or lower backoff.")
        return WRONG
    return RetryPolicy(**values)


WEIGHTED = Section(
    "weighted_cluster",
    (
        Row("cluster", Text(), "The cluster.", "name", required=True),
        Row("weight", Whole(0), "Its share."),
        Row("host_rewrite", Text("host", rules.header_value), "The Host that it gets."),
        *MUTATION_ROWS,
    ),
    WeightedCluster,
    help="One share of a route's requests.",
    make=lambda values, path, problems: WeightedCluster(mutations=take_mutations(values), **values),
    split=lambda item: {"name": item.name, "weight": item.weight, "host_rewrite": item.host_rewrite, **give_mutations(item.mutations)},
    title="weighted cluster",
)


class Targets:
    """A cluster, `{cluster: weight}`, or a list of weighted clusters."""

    label = f"cluster, clusters with weights, or list of {WEIGHTED.label}"
    _weights = Whole(0)
    _list = ListOf(WEIGHTED, least=1, single=False)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and value:
            problems.refer("cluster", value, path)
            return (WeightedCluster(name=value),)
        if type(value) is list:
            made = self._list.read(value, path, problems)
            self._refer(value, path, problems)
        elif type(value) is dict and value:
            weights = {name: self._weights.read(weight, (path, name), problems) for name, weight in value.items()}
            made = tuple(WeightedCluster(name=name, weight=weight) for name, weight in weights.items() if weight is not WRONG)
            for name in weights:
                problems.refer("cluster", name, (path, name))
        else:
            problems.error(path, f"{told(value)} is no cluster. Write a cluster's name, or names with weights below.")
            return WRONG
        if made and not any(target.weight for target in made):
            problems.error(path, "the weights sum up to 0. Give one cluster a weight.")
        return made or WRONG

    def _refer(self, value: list, path: Path, problems: Problems) -> None:
        for index, item in enumerate(value):
            if type(item) is dict and type(name := item.get("cluster")) is str:
                problems.refer("cluster", name, ((path, index), "cluster"))

    def write(self, value: tuple[WeightedCluster, ...]) -> Any:
        if len(value) == 1 and value[0] == WeightedCluster(name=value[0].name):
            return value[0].name
        names = {target.name for target in value}
        if len(names) == len(value) and all(target == WeightedCluster(name=target.name, weight=target.weight) for target in value):
            return {target.name: target.weight for target in value}
        return self._list.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        weights = {"type": "object", "additionalProperties": self._weights.schema(definitions), "minProperties": 1}
        return {"anyOf": [{"type": "string", "minLength": 1}, weights, self._list.schema(definitions)]}


def _short_redirect(value: Any) -> dict[str, Any] | None:
    return {"https": True} if value == "https" else {"path": value} if isinstance(value, str) and value.startswith("/") else None


def _make_redirect(values: Values, path: Path, problems: Problems) -> Any:
    for one, other in (("scheme", "https"), ("path", "prefix_rewrite"), ("path", "regex_rewrite"), ("prefix_rewrite", "regex_rewrite")):
        if values.get(one) and values.get(other):
            problems.error((path, other), f'redirect: "{one}" and "{other}" are both given. Keep one.')
            return WRONG
    return Redirect(**values)


REDIRECT = Section(
    "redirect",
    (
        Row("status", Status(301, 302, 303, 307, 308), "The answer's status."),
        Row("https", Flag(), "To https."),
        Row("scheme", Text("scheme", rules.header_value), "To this scheme."),
        Row("host", Text("host", rules.header_value), "To this host."),
        Row("port", Whole(0, 65535), "To this port; 0 = as it was."),
        Row("path", Text("path", rules.header_value), "To this path; a query in it takes the place of the request's."),
        Row("prefix_rewrite", Text("path", rules.header_value), "Takes the place of the matched beginning of the path."),
        Row("regex_rewrite", Rewrite(), "Rewrites the path."),
        Row("strip_query", Flag(), "Without the request's query."),
    ),
    Redirect,
    help="Answer with a Location; what is not given stays: `https`, a path, or a mapping.",
    make=_make_redirect,
    short=_short_redirect,
    shorten=lambda written: "https" if written == {"https": True} else written,
    short_schemas=({"type": "string", "pattern": "^(https$|/)"},),
    short_label="https, a path",
)


def _make_direct(values: Values, path: Path, problems: Problems) -> Any:
    body, encoded = values.pop("body", None), values.pop("body_base64", None)
    if body is not None and encoded is not None:
        problems.error((path, "body_base64"), '"body" and "body_base64" are both given. Keep one.')
    made = (body or "").encode()
    if encoded is not None:
        try:
            made = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            problems.error((path, "body_base64"), "this is no base64. Encode the bytes with `base64 -w0`.")
    if len(made) > MOST_BODY_BYTES:
        problems.error((path, "body"), f"the body has {len(made)} bytes, more than {MOST_BODY_BYTES}. Serve it from a cluster.")
    return DirectResponse(body=made, **values)


def _split_direct(direct: DirectResponse) -> Values:
    values: Values = {"status": direct.status, "content_type": direct.content_type}
    if direct.body:
        try:
            text = direct.body.decode()
            # YAML has no way to write most control characters in a plain text.
            values["body"] = text if text.replace("\n", "").replace("\t", "").isprintable() else None
        except UnicodeDecodeError:
            values["body"] = None
        if values["body"] is None:
            del values["body"]
            values["body_base64"] = base64.b64encode(direct.body).decode()
    return values


DIRECT = Section(
    "respond",
    (
        Row("status", Whole(200, 599), "The answer's status.", default=200),
        Row("body", Text(empty=True), "The answer's body."),
        Row("body_base64", Text(), "A body of bytes that are no text."),
        Row("content_type", Text("content type", rules.header_value), "Of the body."),
    ),
    DirectResponse,
    help="Answer from here: a status, or a mapping.",
    make=lambda values, path, problems: _make_direct({"status": 200, **values}, path, problems),
    split=_split_direct,
    short=lambda value: {"status": value} if type(value) is int else None,
    shorten=lambda written: written["status"] if written.keys() == {"status"} else written,
    short_schemas=({"type": "integer"},),
    short_label="a status",
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
    Row("cluster_not_found_status", Status(503, 404, 500), "The answer when the cluster is not there."),
    Row("priority", Word(values={"default": False, "high": True}), "Which of the cluster's breakers count.", "high_priority"),
    Row("upgrades", Named(Flag(), "upgrade", lambda item, name: (name.lower(), item)), "Protocols by name, true or false, over the listener's."),
)
_ACTIONS = {"to": ForwardAction, "redirect": Redirect, "respond": DirectResponse}
_FORWARD_FIELDS = {row.name: row.field for row in _FORWARD_ROWS}
_PATH_KINDS = ("prefix", "segment_prefix", "path", "regex")
_ANY_PATH = PathMatch("prefix", "/")


def _make_route(values: Values, path: Path, problems: Problems) -> Any:
    action = _take_action(values, path, problems)
    match = _take_path(values, path, problems)
    headers = values.pop("match_headers", ())
    if methods := values.pop("methods", ()):
        headers = (HeaderMatch(name=":method", string=_method_match(methods)), *headers)
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
    )


def _method_match(methods: tuple[str, ...]) -> StringMatch:
    return StringMatch("exact", methods[0]) if len(methods) == 1 else StringMatch("regex", "|".join(methods))


def _take_action(values: Values, path: Path, problems: Problems) -> Any:
    given = [word for word in _ACTIONS if word in values]
    forward = {field: values.pop(field) for field in _FORWARD_FIELDS.values() if field in values}
    if len(given) != 1:
        wrong = f'"{given[0]}" and "{given[1]}" are both given. Keep one.' if given else 'it goes nowhere. Add "to", "redirect" or "respond".'
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
    return PathMatch(kind, values.pop(given[0]), not ignore_case)


def _split_route(route: Route) -> Values:
    values: Values = {"name": route.name, "match_headers": route.headers, "match_query": route.query, **give_mutations(route.mutations)}
    kind = "path" if route.path.kind == "exact" else route.path.kind
    values[kind] = route.path.value
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
        Row("ignore_case", Flag(), "Compare paths without regard to case.", default=False),
        Row("methods", ListOf(Text("method", lambda text: "" if text.isalpha() else f'"{text}" is no method. Write it like "GET".')),
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
        Row("name", Text(), "For metrics and logs.", default=object(), shown_default="the first domain"),
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
        Row("most_specific_mutations_win", Flag(), "Header changes of a route come last, and so win over the table's."),
        Row("internal_only_headers", ListOf(Text("header name", rules.header_name)), "Headers that are removed from outside requests."),
        Row("ignore_port_in_host", Flag(), "Domains are compared without the port."),
        Row("retry_budget", RETRY_BUDGET, "A bound on retries over all of the table's routes."),
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
    domains: dict[str, str] = {}
    for index, host in enumerate(hosts):
        place = ((path, "virtual_hosts"), index)
        if host.name in names:
            problems.error(place, f'virtual host "{host.name}" is there twice. Give each a name of its own.')
        names.add(host.name)
        for domain in host.domains:
            other = domains.setdefault(domain.lower(), host.name)
            if other is not host.name or host.domains.count(domain) > 1:
                problems.error((place, "domains"), f'domain "{domain}" is also a domain of virtual host "{other}". Keep one.')


def _make_table(values: Values, path: Path, problems: Problems) -> Any:
    hosts = hosts_of(values, path, problems)
    check_hosts(hosts, path, problems)
    return RouteTable(name="", virtual_hosts=hosts, mutations=take_mutations(values), **values)
