"""A real Envoy on generated route tables: it must choose the route, write the path and answer the Location that we do.

What a generated table cannot say to Envoy (an empty pattern, an empty suffix) is left out of it before either sees it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from meshproxy.model import DirectResponse, ForwardAction, HeaderMatch, HeaderMutations, PathMatch, Redirect, Route, RouteTable, StringMatch
from meshproxy.model.route import QueryMatch
from meshproxy.proxy.router import CompiledRoute, compile_router
from tests.oracles import router as oracle
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports
from tests.proxy.route_tables import header_lists, levels_table, plain_levels, requests, tables
from tests.support.origin import Connection, Origin, Request
from tests.support.wire import Answer, ask

Json = dict[str, Any]
APPEND = {
    "append": "APPEND_IF_EXISTS_OR_ADD", "add_if_absent": "ADD_IF_ABSENT", "overwrite": "OVERWRITE_IF_EXISTS_OR_ADD",
    "overwrite_if_exists": "OVERWRITE_IF_EXISTS",
}
Value = TypeVar("Value")
LONG = os.environ.get("MESHPROXY_LONG") == "1"
TABLES, REQUESTS = (200, 200) if LONG else (30, 60)


def pattern(text: str) -> Json:
    return {"regex": text}


def string_form(match: StringMatch) -> Json:
    if match.kind == "regex":
        return {"safe_regex": pattern(match.value)}
    return {match.kind: match.value, "ignore_case": match.ignore_case}


def header_form(match: HeaderMatch) -> Json:
    form: Json = {"name": match.name, "invert_match": match.invert, "treat_missing_header_as_empty": match.treat_missing_as_empty}
    if match.string is not None:
        form["string_match"] = string_form(match.string)
    elif match.range is not None:
        form["range_match"] = {"start": match.range[0], "end": match.range[1]}
    elif match.present is not None:
        form["present_match"] = match.present
    return form


def query_form(match: QueryMatch) -> Json:
    condition: Json = {"present_match": True} if match.string is None else {"string_match": string_form(match.string)}
    return {"name": match.name, **condition}


def path_form(match: PathMatch) -> Json:
    if match.kind == "regex":
        return {"safe_regex": pattern(match.value)}
    field = {"prefix": "prefix", "segment_prefix": "path_separated_prefix", "exact": "path"}[match.kind]
    return {field: match.value, "case_sensitive": match.case_sensitive}


def action_form(action: DirectResponse | ForwardAction | Redirect) -> Json:
    if isinstance(action, DirectResponse):
        return {"direct_response": {"status": action.status}}
    form: Json = {"prefix_rewrite": action.prefix_rewrite}
    if action.regex_rewrite is not None:
        form = {"regex_rewrite": {"pattern": pattern(action.regex_rewrite[0]), "substitution": action.regex_rewrite[1]}}
    if isinstance(action, ForwardAction):
        return {"route": {"cluster": "origin", **form}}
    if action.path:
        form = {"path_redirect": action.path}
    scheme: Json = {"https_redirect": True} if action.https else {"scheme_redirect": action.scheme}
    return {"redirect": {"host_redirect": action.host, "port_redirect": action.port, "strip_query": action.strip_query, **scheme, **form}}


def mutation_form(mutations: HeaderMutations) -> Json:
    added = [
        {"header": {"key": value.name, "value": value.value}, "append_action": APPEND[value.append], "keep_empty_value": value.keep_empty}
        for value in mutations.request_add
    ]
    return {"request_headers_to_add": added, "request_headers_to_remove": list(mutations.request_remove)}


def route_form(route: Route, host: int, number: int) -> Json:
    match = {
        **path_form(route.path), "headers": [header_form(header) for header in route.headers],
        "query_parameters": [query_form(query) for query in route.query],
    }
    mark = {"header": {"key": "x-route", "value": f"{host}/{number}"}}
    return {"match": match, **action_form(route.action), "response_headers_to_add": [mark]}


def hosts_form(table: RouteTable) -> list[Json]:
    return [
        {
            "name": host.name, "domains": list(host.domains),
            "routes": [route_form(route, index, number) for number, route in enumerate(host.routes)],
        }
        for index, host in enumerate(table.virtual_hosts)
    ]


def can_be_said(route: Route) -> bool:
    """Envoy wants a character in every pattern, prefix, suffix and part, and no slash at the end of path-separated prefixes."""
    strings = [match.string for match in (*route.headers, *route.query) if match.string is not None]
    path_is_good = route.path.value != "" and (route.path.kind != "segment_prefix" or not route.path.value.endswith("/"))
    return path_is_good and all(match.kind == "exact" or match.value for match in strings)


def sayable(table: RouteTable) -> RouteTable:
    hosts = tuple(
        msgspec.structs.replace(host, routes=tuple(route for route in host.routes if can_be_said(route))) for host in table.virtual_hosts
    )
    return msgspec.structs.replace(table, virtual_hosts=hosts)


def echo(connection: Connection, request: Request) -> None:
    """An origin that says which path it was asked for, and every x- header in order."""
    told = "".join(f"{name}: {value}\n" for name, value in request.headers if name.lower().startswith("x-")).encode()
    head = f"HTTP/1.1 200 OK\r\nx-path: {request.target}\r\ncontent-length: {len(told)}\r\n\r\n".encode()
    connection.send(head + told)


def wire(request: oracle.Request) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
    return f"{request.method} {request.path} HTTP/1.1\r\nHost: {request.authority}\r\n{fields}content-length: 0\r\n\r\n".encode()


def expected(table: RouteTable, found: CompiledRoute | None, request: oracle.Request) -> tuple[int, str | None, str | None, str | None]:
    """Status, which route, path upstream, Location."""
    if found is None:
        return 404, None, None, None
    host = next(index for index, host in enumerate(table.virtual_hosts) if host.name == found.virtual_host.name)
    mark = f"{host}/{next(number for number, route in enumerate(table.virtual_hosts[host].routes) if route is found.model)}"
    action = found.model.action
    if isinstance(action, ForwardAction):
        return 200, mark, found.rewritten(request.path).decode(), None
    if isinstance(action, Redirect):
        return action.status, mark, None, found.location_for(request.authority, request.path).decode()
    return action.status, mark, None, None


def observed(answer: Answer) -> tuple[int, str | None, str | None, str | None]:
    return answer.status, answer.header("x-route"), answer.header("x-path"), answer.header("location")


def envoy_of(directory: Path, ports: list[int], forms: list[list[Json]], origin: Origin, extra: Json) -> Envoy:
    listeners = [bootstrap.http_listener(f"l{index}", port, hosts) for index, (port, hosts) in enumerate(zip(ports, forms, strict=True))]
    for index, listener in enumerate(listeners):
        listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"].update(extra.get(f"l{index}", {}))
    try:
        return Envoy(directory, bootstrap.bootstrap(listeners, [bootstrap.cluster("origin", origin.port)]), ports)
    except PeerMissingError as why:
        pytest.skip(str(why))


def examples(strategy: SearchStrategy[Value], count: int) -> list[Value]:
    """The same values at every run."""
    collected: list[Value] = []

    @settings(deadline=None, derandomize=True, max_examples=count, phases=[Phase.generate], database=None)
    @given(strategy)
    def collect(value: Value) -> None:
        collected.append(value)

    collect()
    return collected


@pytest.mark.slow
def test_envoy_chooses_the_same_route(tmp_path: Path) -> None:
    said = [sayable(table) for table in examples(tables(), TABLES)]
    asked = [request for request in examples(requests, REQUESTS) if not request.tls]
    ports = free_ports(len(said))
    extra = {f"l{index}": {"ignore_port_in_host_matching": table.ignore_port_in_host} for index, table in enumerate(said)}
    routed = 0
    with Origin(echo) as origin, envoy_of(tmp_path, ports, [hosts_form(table) for table in said], origin, extra):
        for table, port in zip(said, ports, strict=True):
            router = compile_router(table)
            for request in asked:
                answer = ask(port, wire(request))
                if answer.status == 400:
                    continue                     # Envoy's own opinion of the request, before any route
                found = router.route_of(request.method, request.authority, request.path, request.headers)
                assert observed(answer) == expected(table, found, request), (table, request)
                routed += found is not None
    assert routed > len(said)                    # else nothing was compared


@pytest.mark.slow
def test_envoy_makes_the_same_header_mutations(tmp_path: Path) -> None:
    """Seen from what arrives upstream: the values of each name, in order."""
    generated = examples(st.tuples(plain_levels, plain_levels, plain_levels, plain_levels, st.booleans(), header_lists), TABLES)
    ports = free_ports(len(generated))
    forms, extra = [], {}
    for index, (cluster, route, host, table, most_specific, _) in enumerate(generated):
        weighted = {"weighted_clusters": {"clusters": [{"name": "origin", "weight": 1, **mutation_form(cluster)}]}}
        forms.append([bootstrap.virtual_host([bootstrap.route("/", weighted, **mutation_form(route))], **mutation_form(host))])
        extra[f"l{index}"] = {**mutation_form(table), "most_specific_header_mutations_wins": most_specific}
    with Origin(echo) as origin, envoy_of(tmp_path, ports, forms, origin, extra):
        for port, (*four, most_specific, headers) in zip(ports, generated, strict=True):
            arrived = ask(port, wire(oracle.Request("GET", "h", "/", tuple(headers)))).body.decode().splitlines()
            target = compile_router(levels_table(four, most_specific)).route_of("GET", "h", "/").targets[0]
            ours = oracle.edited(target.request_edits, headers)
            assert by_name(line.split(": ", 1) for line in arrived) == by_name(ours), (four, most_specific, headers)


def by_name(headers: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, *value in headers:
        if name.lower() in ("x-a", "x-b", "x-c"):
            values.setdefault(name.lower(), []).append("".join(value))
    return values
