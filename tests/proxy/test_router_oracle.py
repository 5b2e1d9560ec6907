"""The compiled router and the plain one must agree on whatever is generated."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.model import DirectResponse, ForwardAction, HeaderMatch, PathMatch, Redirect, Route, RouteTable, StringMatch, VirtualHost
from meshproxy.proxy.router import compile_router
from tests.oracles import router as oracle
from tests.proxy.route_tables import header_lists, levels, levels_table, requests, routes, tables


@settings(deadline=None)
@given(tables(), st.lists(requests, min_size=1, max_size=8))
def test_the_same_route_path_and_location(table: RouteTable, asked: list[oracle.Request]) -> None:
    router = compile_router(table)
    for request in asked:
        expected = oracle.route(table, request)
        found = router.route_of(request.method, request.authority, request.path, request.headers, request.tls)
        chosen = None if found is None else (found.virtual_host.name, found.model)
        assert chosen == (expected and (expected[0].name, expected[1])), request
        if found is None:
            continue
        action = found.model.action
        if isinstance(action, ForwardAction):
            assert found.rewritten(request.path) == oracle.rewritten(found.model, request.path).encode()
        elif isinstance(action, Redirect):
            assert found.location_for(request.authority, request.path, request.tls) == oracle.location(found.model, request).encode()


@settings(deadline=None, max_examples=25)
@given(st.lists(routes, min_size=24, max_size=60), st.lists(requests, min_size=5, max_size=10))
def test_an_index_changes_nothing(listed: list[Route], asked: list[oracle.Request]) -> None:
    """The same routes, all of them real and indexed."""
    table = RouteTable(name="t", virtual_hosts=(VirtualHost(name="v", domains=("*",), routes=tuple(listed)),))
    router = compile_router(table)
    for request in asked:
        expected = oracle.route(table, request)
        found = router.route_of(request.method, request.authority, request.path, request.headers, request.tls)
        assert (found and found.model) == (expected and expected[1]), request


@settings(deadline=None)
@given(
    st.recursive(
        st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "/", "ab", "é", ""]),
        lambda inner: st.one_of(
            st.builds("({}|{})".format, inner, inner), st.builds("{}{}".format, inner, inner), st.builds("({})*".format, inner),
            st.builds("({})?".format, inner), st.builds("(?i:{})".format, inner), st.builds("^{}".format, inner),
        ),
        max_leaves=6,
    ),
    st.lists(st.text("abAB/", max_size=8), min_size=1, max_size=8),
)
def test_no_pattern_is_refused_by_its_range_alone(pattern: str, values: list[str]) -> None:
    """A pattern's range spares it most texts; a text that matches must never be among them."""
    match = HeaderMatch(name="x-a", string=StringMatch("regex", pattern))
    route = Route(path=PathMatch("prefix", "/"), action=DirectResponse(status=200), headers=(match,))
    router = compile_router(RouteTable(name="t", virtual_hosts=(VirtualHost(name="v", domains=("*",), routes=(route,)),)))
    for value in values:
        assert (router.route_of("GET", "h", "/", [("x-a", value)]) is not None) == (re.fullmatch(pattern, value) is not None), value


@settings(deadline=None)
@given(st.tuples(levels, levels, levels, levels), header_lists, st.booleans())
def test_flattened_edits_do_what_the_levels_do(four: tuple, headers: list[tuple[str, str]], most_specific: bool) -> None:
    cluster, route, host, table = four
    order = [cluster, table, host, route] if most_specific else [cluster, route, host, table]

    target = compile_router(levels_table(four, most_specific)).route_of("GET", "h", "/").targets[0]
    assert oracle.edited(target.request_edits, headers) == oracle.mutated(headers, order, "request")
