"""Generated route tables and requests: few letters and few names, so that what is generated meets."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from meshproxy.model import (
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    HeaderMutations,
    HeaderValue,
    PathMatch,
    Redirect,
    Route,
    RouteTable,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshproxy.model.route import QueryMatch
from tests.oracles import router as oracle

SEGMENTS = ["a", "A", "ab", "b", "abcdefgh", "abcdefgi", "ABCDEFGH"]
PATTERNS = ["/a.*", "/(a|b)/?.*", "(?i)/ab.*", "/[a-c]+", ".*b", "/a/b|/b", "/ab?c*", "/abcdefg[hi]/.+", "", "x", "/"]
HOSTS = ["a.com", "A.com", "b.a.com", "c.b.a.com", "a.org", "a.com.org", "com", ".a.com", "a.com:80", "b.a.com:8080", "[::1]", "[::1]:80"]
DOMAINS = ["a.com", "b.a.com", "A.ORG", "*.a.com", "*.b.a.com", "*a.com", "a.*", "a.com.*", "a*", "[::1]", "b.a.com:8080", "*:80", "*"]
NAMES = ["x-a", "x-b", "referer", "accept", "date", "x-envoy-else"]
VALUES = ["", "a", "ab", "AB", "abab", "1", "12", "-3", "+2"]

FORWARD_REGEX = {"regex_rewrite": ("/(a+)", r"/\1\1-")}
ALL_SET = {"host": "h", "port": 81, "scheme": "ftp"}

segments = st.lists(st.sampled_from(SEGMENTS), max_size=4)
paths = st.builds(lambda parts, end: "/" + "/".join(parts) + end, segments, st.sampled_from(["", "/"]))
queries = st.sampled_from(["", "?", "?a", "?a=1&b=ab", "?b&a=2&a=1", "?A=1", "?a=a?b", "?&a=", "?%61=1"])
texts = st.one_of(
    st.builds(StringMatch, st.sampled_from(["exact", "prefix", "suffix", "contains"]), st.sampled_from(VALUES), st.booleans()),
    st.builds(StringMatch, st.just("regex"), st.sampled_from(["a.*", "[0-9]+", "", "(?i)ab", "a?b?", ".*b"])),
)
header_matches = st.builds(
    lambda name, condition, invert, missing: HeaderMatch(name=name, invert=invert, treat_missing_as_empty=missing, **condition),
    st.sampled_from([*NAMES, ":method", ":path", ":authority", ":scheme", "host"]),
    st.one_of(
        texts.map(lambda text: {"string": text}), st.booleans().map(lambda present: {"present": present}),
        st.tuples(st.integers(-4, 3), st.integers(1, 15)).map(lambda ends: {"range": ends}), st.just({}),
    ),
    st.booleans(), st.booleans(),
)
query_matches = st.builds(
    lambda name, text: QueryMatch(name=name, string=text), st.sampled_from(["a", "b", "%61"]), st.one_of(st.none(), texts),
)
path_matches = st.one_of(
    st.builds(PathMatch, st.sampled_from(["prefix", "segment_prefix", "exact"]), paths, st.booleans()),
    st.builds(PathMatch, st.just("regex"), st.sampled_from(PATTERNS)),
)
actions = st.one_of(
    st.just(DirectResponse(status=200)),
    st.builds(
        lambda rewrite: ForwardAction(clusters=(WeightedCluster(name="c"),), **rewrite),
        st.sampled_from([{}, {"prefix_rewrite": "/new"}, {"prefix_rewrite": "/"}, FORWARD_REGEX, {"regex_rewrite": ("b", "")}]),
    ),
    st.builds(
        lambda where, what, strip: Redirect(**where, **what, strip_query=strip),
        st.sampled_from([{}, {"https": True}, {"scheme": "http"}, {"host": "h.org"}, {"port": 81}, ALL_SET]),
        st.sampled_from([{}, {"path": "/p"}, {"path": "/p?own"}, {"prefix_rewrite": "/new"}, {"regex_rewrite": ("/(a+)", r"/\1\1-")}]),
        st.booleans(),
    ),
)
routes = st.builds(
    lambda path, action, headers, query: Route(path=path, action=action, headers=tuple(headers), query=tuple(query)),
    path_matches,
    actions,
    st.one_of(st.just([]), st.lists(header_matches, max_size=2)),
    st.one_of(st.just([]), st.lists(query_matches, max_size=2)),
)
requests = st.builds(
    oracle.Request, st.sampled_from(["GET", "POST"]), st.sampled_from(HOSTS), st.builds(str.__add__, paths, queries),
    st.lists(st.tuples(st.sampled_from([*NAMES, "X-A", "Referer"]), st.sampled_from(VALUES)), max_size=4).map(tuple), st.booleans(),
)
PADDING = tuple(Route(path=PathMatch("exact", f"/padding/{number}"), action=DirectResponse(status=200)) for number in range(30))


@st.composite
def tables(draw: st.DrawFn) -> RouteTable:
    """Virtual hosts over disjoint domains; some with so many routes that they are indexed."""
    domains = draw(st.lists(st.sampled_from(DOMAINS), unique_by=str.lower, min_size=1))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(domains) - 1)), max_size=3)) - {len(domains)})
    groups = [domains[start:end] for start, end in zip([0, *cuts], [*cuts, len(domains)], strict=True)]
    hosts = []
    for number, group in enumerate(groups):
        padding = draw(st.sampled_from([(), PADDING]))
        own = tuple(draw(st.lists(routes, max_size=8)))
        cut = draw(st.integers(0, len(padding)))
        hosts.append(VirtualHost(name=str(number), domains=tuple(group), routes=(*padding[:cut], *own, *padding[cut:])))
    return RouteTable(name="t", virtual_hosts=tuple(hosts), ignore_port_in_host=draw(st.booleans()))


edit_values = st.builds(
    HeaderValue, st.sampled_from(["x-a", "X-A", "x-b", "x-c"]), st.sampled_from(["", "1", "2"]),
    st.sampled_from(["append", "add_if_absent", "overwrite", "overwrite_if_exists"]), st.booleans(),
)
removals = st.lists(st.sampled_from(["x-a", "X-B"]), max_size=1)


def _level(add: list[HeaderValue], remove: list[str]) -> HeaderMutations:
    return HeaderMutations(request_add=tuple(add), request_remove=tuple(remove))


levels = st.builds(_level, st.lists(edit_values, max_size=3), removals)
plain_levels = st.builds(_level, st.lists(edit_values, max_size=3, unique_by=lambda value: value.name.lower()), removals)
"""Each name once a level: of a repeated one Envoy looks at what was there before the level, we at what is there by then."""
header_lists = st.lists(st.tuples(st.sampled_from(["x-a", "x-b", "X-C"]), st.just("0")), max_size=3)


def levels_table(four: Sequence[HeaderMutations], most_specific: bool) -> RouteTable:
    """One route with the mutations of weighted cluster, route, virtual host and table."""
    cluster, route, host, table = four
    forward = ForwardAction(clusters=(WeightedCluster(name="c", mutations=cluster),))
    routes = (Route(path=PathMatch("prefix", "/"), action=forward, mutations=route),)
    hosts = (VirtualHost(name="v", domains=("*",), routes=routes, mutations=host),)
    return RouteTable(name="t", virtual_hosts=hosts, mutations=table, most_specific_mutations_win=most_specific)
