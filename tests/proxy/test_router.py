"""Route tables compiled, asked by hand-made requests. What is said of Envoy was seen at Envoy 1.40 (test_router_envoy.py asks it again)."""

from __future__ import annotations

import pytest

from meshproxy.errors import ConfigError
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
from meshproxy.model.route import NO_MUTATIONS, QueryMatch
from meshproxy.model.snapshot import ResourceKind, pack, unpack_table
from meshproxy.proxy.router import compile_router, compile_slices


def prefix(value: str, **more: object) -> Route:
    return Route(path=PathMatch("prefix", value), action=DirectResponse(status=200), **{"name": value, **more})


ROOT = PathMatch("prefix", "/")


def forward(path: PathMatch = ROOT, mutations: HeaderMutations = NO_MUTATIONS, **action: object) -> Route:
    return Route(path=path, action=ForwardAction(**{"clusters": (WeightedCluster(name="a"),), **action}), mutations=mutations)


def redirect(**action: object) -> Route:
    return Route(path=PathMatch("prefix", "/"), action=Redirect(**action))


def table(*routes: Route, **host: object) -> RouteTable:
    return RouteTable(name="t", virtual_hosts=(VirtualHost(name="v", domains=("*",), routes=routes, **host),))


def only(*routes: Route, **host: object):
    """The first route, compiled."""
    found = compile_router(table(*routes, **host)).route_of("GET", "h", "/")
    assert found is not None
    return found


def chosen(routes: tuple[Route, ...], path: str, headers: tuple[tuple[str, str], ...] = (), **request: object) -> str | None:
    found = compile_router(table(*routes)).route_of(request.pop("method", "GET"), request.pop("authority", "h"), path, headers, **request)
    return None if found is None else found.name.decode()


class TestVirtualHosts:
    DOMAINS = {
        "exact": ("api.example.com",), "suffix": ("*.example.com",), "longer": ("*.eu.example.com",), "dash": ("*-x.example.com",),
        "prefix": ("api.*",), "longer prefix": ("api.example.*",), "port": ("with.port:8080",), "any": ("*",),
    }

    @pytest.mark.parametrize(
        ("authority", "name"),
        [
            ("api.example.com", "exact"), ("API.Example.COM", "exact"), ("a.example.com", "suffix"), ("a.eu.example.com", "longer"),
            (".eu.example.com", "suffix"), ("a-x.example.com", "dash"), ("api.org", "prefix"), ("api.example.org", "longer prefix"),
            ("api.", "any"), ("with.port:8080", "port"), ("with.port", "any"), ("with.port:80", "any"),
            ("api.example.com:80", "longer prefix"),
            ("[::1]:80", "any"), ("[::1]", "any"),
        ],
    )
    def test_precedence_is_exact_suffix_prefix_any(self, authority: str, name: str) -> None:
        hosts = tuple(VirtualHost(name=name, domains=domains, routes=(prefix("/"),)) for name, domains in self.DOMAINS.items())
        found = compile_router(RouteTable(name="t", virtual_hosts=hosts)).route_of("GET", authority, "/")

        assert found.virtual_host.name == name

    @pytest.mark.parametrize(
        ("authority", "name"), [("a.com", "a"), ("a.com:1234", "a"), ("[::1]:80", "six"), ("[::1]", "six"), ("a.com:x", None)],
    )
    def test_port_is_not_looked_at_when_told_so(self, authority: str, name: str | None) -> None:
        hosts = (
            VirtualHost(name="a", domains=("a.com",), routes=(prefix("/"),)),
            VirtualHost(name="six", domains=("[::1]",), routes=(prefix("/"),)),
        )
        router = compile_router(RouteTable(name="t", virtual_hosts=hosts, ignore_port_in_host=True))

        if name is None:
            with pytest.raises(ValueError, match=r"."):
                router.route_of("GET", authority, "/")
        else:
            assert router.route_of("GET", authority, "/").virtual_host.name == name

    def test_no_virtual_host_is_no_route(self) -> None:
        hosts = (VirtualHost(name="a", domains=("a.com",), routes=(prefix("/"),)),)

        assert compile_router(RouteTable(name="t", virtual_hosts=hosts)).route_of("GET", "b.com", "/") is None
        assert compile_router(RouteTable(name="t")).route_of("GET", "b.com", "/") is None

    def test_a_host_without_a_matching_route_does_not_fall_back_to_another(self) -> None:
        hosts = (
            VirtualHost(name="a", domains=("a.com",), routes=(prefix("/x"),)),
            VirtualHost(name="any", domains=("*",), routes=(prefix("/"),)),
        )

        assert compile_router(RouteTable(name="t", virtual_hosts=hosts)).route_of("GET", "a.com", "/y") is None

    def test_virtual_host_settings(self) -> None:
        host = VirtualHost(
            name="v", domains=("*",), routes=(prefix("/"),), require_tls="external", include_request_attempt_count=True,
            per_request_buffer_limit_bytes=10, stats=True,
        )
        compiled = compile_router(RouteTable(name="t", virtual_hosts=(host,))).virtual_hosts[0]

        assert (compiled.name, compiled.name_bytes, compiled.stats, compiled.block) == ("v", b"v", True, -1)
        assert (compiled.require_tls, compiled.buffer_limit) == (1, 10)
        assert (compiled.attempt_count_request, compiled.attempt_count_response) == (True, False)


class TestPaths:
    @pytest.mark.parametrize(
        ("kind", "value", "matching", "others"),
        [
            ("prefix", "/a", ["/a", "/ab", "/a/b", "/a?q"], ["/", "/A", "/b"]),
            ("prefix", "", ["/", "/a"], []),
            ("prefix", "/a?x", [], ["/a?x", "/a?x=1"]),
            ("prefix", "/longer/than/8", ["/longer/than/8", "/longer/than/8x"], ["/longer/than/9", "/longer/", "/longer/than/"]),
            ("segment_prefix", "/a", ["/a", "/a/", "/a/b", "/a?q"], ["/ab", "/a.b"]),
            ("segment_prefix", "/a/", ["/a", "/a/", "/a/b"], ["/ab"]),
            ("exact", "/a", ["/a", "/a?q", "/a?"], ["/a/", "/ab", "/"]),
            ("exact", "/exactly/nine", ["/exactly/nine"], ["/exactly/ninf", "/exactly/nine/"]),
            ("regex", "/a[0-9]+", ["/a1", "/a12", "/a1?q"], ["/a", "/a1b", "/b1", "x/a1"]),
            ("regex", "/a|/b.*", ["/a", "/b", "/bc"], ["/ab", "/c"]),
            ("regex", "(?i)/CASE", ["/case", "/Case"], ["/casE/"]),
        ],
    )
    def test_kinds(self, kind: str, value: str, matching: list[str], others: list[str]) -> None:
        route = Route(path=PathMatch(kind, value), action=DirectResponse(status=200), name="it")

        assert [path for path in matching if chosen((route,), path) != "it"] == []
        assert [path for path in others if path.startswith("/") and chosen((route,), path) is not None] == []

    @pytest.mark.parametrize("kind", ["prefix", "segment_prefix", "exact"])
    def test_case_is_ignored_when_told_so(self, kind: str) -> None:
        route = Route(path=PathMatch(kind, "/Some/Long/Path", case_sensitive=False), action=DirectResponse(status=200), name="it")

        assert chosen((route,), "/sOME/lONG/pATH?q") == "it"
        assert chosen((route,), "/sOME/lONG/pATX") is None

    @pytest.mark.parametrize("padding", [0, 100])
    def test_the_first_that_matches_wins_however_many_there_are(self, padding: int) -> None:
        """With the padding the routes are in the hash index, without it they are searched one by one."""
        routes = (
            Route(path=PathMatch("regex", "/a/b.*"), action=DirectResponse(status=200), name="regex", headers=(HeaderMatch(name="x-r"),)),
            Route(path=PathMatch("exact", "/a/b"), action=DirectResponse(status=200), name="exact", headers=(HeaderMatch(name="x-e"),)),
            prefix("/a/b", headers=(HeaderMatch(name="x-1"),)), prefix("/a"),
            Route(path=PathMatch("exact", "/a/b"), action=DirectResponse(status=200), name="never"), prefix("/"),
            *(prefix(f"/padding/{number}") for number in range(padding)),
        )

        assert chosen(routes, "/a/b") == "/a"
        assert chosen(routes, "/a/b", (("x-1", ""),)) == "/a/b"
        assert chosen(routes, "/a/b", (("x-1", ""), ("x-e", ""))) == "exact"
        assert chosen(routes, "/a/b", (("x-r", ""), ("x-1", ""), ("x-e", ""))) == "regex"
        assert chosen(routes, "/b") == "/"
        assert chosen(routes, "/padding/5") == "/"

    def test_a_path_may_have_very_many_prefixes(self) -> None:
        routes = tuple(prefix("/" + "a" * length) for length in range(200, -1, -1))

        assert chosen(routes, "/" + "a" * 300) == "/" + "a" * 200
        assert chosen(routes, "/" + "a" * 57 + "b") == "/" + "a" * 57
        assert chosen(tuple(reversed(routes)), "/" + "a" * 300) == "/"

    def test_connect_has_no_path_and_no_route(self) -> None:
        assert compile_router(table(prefix(""), prefix("/"))).route_of("CONNECT", "h:443", "h:443") is None

    def test_absolute_form_without_a_path_means_the_root(self) -> None:
        router = compile_router(table(Route(path=PathMatch("exact", "/"), action=DirectResponse(status=200), name="root")))

        assert router.route_of("GET", "h", "http://h").name == b"root"

    def test_what_is_no_request_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"."):
            compile_router(table(prefix("/"))).route_of("GET", "h", "/ x")


# Rows: a condition; then whether it holds without the header, with "", "v", "3", "+3", and with "v" and "3" in two fields: Envoy's answers,
# plain, with missing taken as empty, inverted, and both.
HEADER_ROWS = [
    ({"string": StringMatch("exact", "v")}, "nnynny", "nnynny", "nynyyn", "yynyyn"),
    ({"string": StringMatch("exact", "")}, "nynnnn", "yynnnn", "nnyyyy", "nnyyyy"),
    ({"string": StringMatch("prefix", "v")}, "nnynny", "nnynny", "nynyyn", "yynyyn"),
    ({"string": StringMatch("regex", "v?")}, "nyynny", "yyynny", "nnnyyn", "nnnyyn"),
    ({"range": (0, 5)}, "nnnyyy", "nnnyyy", "nyynnn", "yyynnn"),
    ({"present": True}, "nyyyyy", "yyyyyy", "ynnnnn", "nnnnnn"),
    ({"present": False}, "ynnnnn", "nnnnnn", "nyyyyy", "yyyyyy"),
    ({}, "nyyyyy", "yyyyyy", "ynnnnn", "nnnnnn"),
]
HEADER_VALUES = [(), (("x-t", ""),), (("x-t", "v"),), (("x-t", "3"),), (("x-t", "+3"),), (("x-t", "v"), ("X-T", "3"))]


class TestHeaders:
    @pytest.mark.parametrize("row", HEADER_ROWS, ids=lambda row: str(row[0]))
    @pytest.mark.parametrize("name", ["x-t", "te-x", "date", "x-envoy-unheard-of"])
    def test_conditions_inverted_and_missing(self, row: tuple, name: str) -> None:
        """Names that the codec knows, one that it knows only as one of many, and others are all found."""
        condition, *verdicts = row
        for verdict, (invert, missing) in zip(verdicts, [(False, False), (False, True), (True, False), (True, True)], strict=True):
            match = HeaderMatch(name=name, invert=invert, treat_missing_as_empty=missing, **condition)
            router = compile_router(table(prefix("/", headers=(match,))))
            asked = [[(name.title() if field[0] == "X-T" else name, field[1]) for field in fields] for fields in HEADER_VALUES]
            answers = "".join("n" if router.route_of("GET", "h", "/", fields) is None else "y" for fields in asked)
            assert answers == verdict, (invert, missing)

    @pytest.mark.parametrize("name", ["referer", "accept", "x-forwarded-for", "x-envoy-retry-on"])
    def test_some_names_are_lists(self, name: str) -> None:
        fields = ((name, "a"), ("x-between", "1"), (name.title(), "b"))
        both = HeaderMatch(name=name, string=StringMatch("exact", "a,b"))
        one = HeaderMatch(name=name, string=StringMatch("exact", "b"))

        assert chosen((prefix("/", headers=(both,)),), "/", fields) == "/"
        assert chosen((prefix("/", headers=(one,)),), "/", fields) is None
        assert chosen((prefix("/", headers=(one,)),), "/", ((name, "b"),)) == "/"

    def test_a_list_may_be_long(self) -> None:
        match = HeaderMatch(name="accept", string=StringMatch("exact", ",".join(["a" * 100] * 300)))

        assert chosen((prefix("/", headers=(match,)),), "/", (("accept", "a" * 100),) * 300) == "/"

    @pytest.mark.parametrize(
        ("match", "matching", "others"),
        [
            (StringMatch("suffix", ".com"), ["a.com", ".com"], ["com", "a.COM", "a.com."]),
            (StringMatch("contains", "bc"), ["abcd", "bc"], ["aBC", "b c", "b"]),
            (StringMatch("contains", "bC", ignore_case=True), ["aBCd", "bc"], ["b"]),
            (StringMatch("contains", ""), ["", "a"], []),
            (StringMatch("prefix", "Ab", ignore_case=True), ["aB", "ABC"], ["a", "ba"]),
            (StringMatch("suffix", "Ab", ignore_case=True), ["aB", "cAB"], ["b", "abc"]),
            (StringMatch("exact", "Ab", ignore_case=True), ["aB"], ["abc", "a"]),
            (StringMatch("regex", "a.c"), ["abc"], ["abcd", "xabc", "aBCx"]),
        ],
    )
    def test_texts(self, match: StringMatch, matching: list[str], others: list[str]) -> None:
        router = compile_router(table(prefix("/", headers=(HeaderMatch(name="x-t", string=match),))))
        holds = lambda value: router.route_of("GET", "h", "/", [("x-t", value)]) is not None  # noqa: E731

        assert [value for value in matching if not holds(value)] == []
        assert [value for value in others if holds(value)] == []

    @pytest.mark.parametrize(
        ("value", "holds"),
        [
            ("-5", True), ("4", True), ("5", False), ("-6", False), ("", False), ("1x", False), ("1.0", False), ("--1", False),
            ("+", False),
            ("9223372036854775808", False), ("-9223372036854775809", False),
            ("18446744073709551617", False), ("0000000000000000000000001", True),
        ],
    )
    def test_range_is_of_64_bit_integers(self, value: str, holds: bool) -> None:
        match = HeaderMatch(name="x-n", range=(-5, 5))

        assert (chosen((prefix("/", headers=(match,)),), "/", (("x-n", value),)) is not None) == holds

    def test_range_reaches_the_ends(self) -> None:
        least, most = HeaderMatch(name="x-n", range=(-(2**63), -(2**63) + 1)), HeaderMatch(name="x-n", range=(2**63 - 2, 2**63 - 1))

        assert chosen((prefix("/", headers=(least,)),), "/", (("x-n", str(-(2**63))),)) == "/"
        assert chosen((prefix("/", headers=(most,)),), "/", (("x-n", str(2**63 - 2)),)) == "/"

    @pytest.mark.parametrize(
        ("name", "value"), [(":method", "POST"), (":path", "/p?q=1"), (":authority", "h:80"), ("host", "h:80"), (":scheme", "https")],
    )
    def test_pseudo_headers(self, name: str, value: str) -> None:
        match = HeaderMatch(name=name, string=StringMatch("exact", value))
        router = compile_router(table(prefix("/", headers=(match,))))

        assert router.route_of("POST", "h:80", "/p?q=1", tls=True) is not None
        assert router.route_of("GET", "i", "/p") is None

    def test_all_must_hold(self) -> None:
        route = prefix("/", headers=(HeaderMatch(name="x-a"), HeaderMatch(name="x-b")))

        assert chosen((route,), "/", (("x-a", "1"),)) is None
        assert chosen((route,), "/", (("x-b", "1"), ("x-a", "1"))) == "/"

    def test_fields_of_the_connection_are_not_seen(self) -> None:
        route = prefix("/", headers=(HeaderMatch(name="x-hop"),))

        assert chosen((route,), "/", (("x-hop", "1"),)) == "/"
        assert chosen((route,), "/", (("x-hop", "1"), ("connection", "x-hop"))) is None

    def test_an_upgrade_is_seen(self) -> None:
        route = prefix("/", headers=(HeaderMatch(name="upgrade", string=StringMatch("exact", "websocket")),))

        assert chosen((route,), "/", (("upgrade", "websocket"), ("connection", "upgrade"))) == "/"


class TestQuery:
    @pytest.mark.parametrize(
        ("match", "matching", "others"),
        [
            (QueryMatch(name="p"), ["?p", "?p=", "?x&p=1", "?&&p", "?p&p"], ["", "?", "??p", "?pp", "?P", "?x=p"]),
            (QueryMatch(name="a", string=StringMatch("exact", "1")), ["?a=1", "?a=1&a=2"], ["?a=2&a=1", "?a=1?", "?a", "?a=11"]),
            (QueryMatch(name="a", string=StringMatch("exact", "")), ["?a", "?a="], ["?a=1", "?b"]),
            (QueryMatch(name="d", string=StringMatch("exact", "%41+B")), ["?d=%41+B"], ["?d=A%20B", "?d=A B".replace(" ", "+")]),
            (QueryMatch(name="e", string=StringMatch("exact", "x=y")), ["?e=x=y"], ["?e=x"]),
            (QueryMatch(name="r", string=StringMatch("regex", "[0-9]+")), ["?r=12"], ["?r=1a", "?r"]),
        ],
    )
    def test_parameters_are_compared_as_they_stand(self, match: QueryMatch, matching: list[str], others: list[str]) -> None:
        router = compile_router(table(prefix("/", query=(match,))))

        assert [query for query in matching if router.route_of("GET", "h", "/" + query) is None] == []
        assert [query for query in others if router.route_of("GET", "h", "/" + query) is not None] == []


class TestForward:
    def test_settings(self) -> None:
        settings = {"upgrades": (("WebSocket", True),), "cluster_not_found_status": 404, "high_priority": True}
        route = only(forward(timeout_s=0.25, idle_timeout_s=0.0, **settings))

        assert (route.timeout_ms, route.idle_timeout_ms, route.high_priority) == (250, 0, True)
        assert (route.upgrades, route.cluster_not_found_status) == ({b"websocket": True}, 404)
        assert (only(forward()).idle_timeout_ms, only(forward()).upgrades, only(forward()).timeout_ms) == (-1, None, 15000)

    def test_a_timeout_is_never_rounded_to_none(self) -> None:
        assert only(forward(timeout_s=0.0001)).timeout_ms == 1
        assert only(forward(timeout_s=0)).timeout_ms == 0

    def test_retries_of_the_virtual_host_stand_in(self) -> None:
        own, hosts = RetryPolicy(on=("5xx", "reset"), num_retries=3), RetryPolicy(on=("connect-failure",), retriable_status_codes=(418,))

        assert (only(forward(retry=own), retry=hosts).retry_on, only(forward(retry=own), retry=hosts).num_retries) == (1 | 4, 3)
        assert (only(forward(), retry=hosts).retry_on, only(forward(), retry=hosts).retriable_status_codes) == (16, frozenset({418}))
        assert (only(forward()).retry_on, only(forward()).num_retries) == (0, 0)

    def test_weights_divide_the_draws_exactly(self) -> None:
        clusters = tuple(WeightedCluster(name=name, weight=weight) for name, weight in [("a", 1), ("none", 0), ("b", 3), ("c", 6)])
        route = only(forward(clusters=clusters))

        assert [route.target_for(draw).cluster for draw in range(10)] == ["a"] + ["b"] * 3 + ["c"] * 6
        assert route.target_for(2**64 - 1).cluster == route.target_for((2**64 - 1) % 10).cluster

    def test_host_rewrite_of_the_route_goes_before_the_clusters(self) -> None:
        cluster = WeightedCluster(name="a", host_rewrite="cluster.host")

        assert only(forward(clusters=(cluster,), host_rewrite="route.host")).targets[0].host_rewrite == b"route.host"
        assert only(forward(clusters=(cluster,))).targets[0].host_rewrite == b"cluster.host"
        assert only(forward()).targets[0].host_rewrite == b""

    @pytest.mark.parametrize(
        ("path", "action", "asked", "sent"),
        [
            (PathMatch("prefix", "/a"), {"prefix_rewrite": "/b"}, "/a/x?q=1", b"/b/x?q=1"),
            (PathMatch("prefix", "/a/"), {"prefix_rewrite": "/"}, "/a/x", b"/x"),
            (PathMatch("prefix", "/A", case_sensitive=False), {"prefix_rewrite": "/b"}, "/a/x", b"/b/x"),
            (PathMatch("segment_prefix", "/a"), {"prefix_rewrite": "/b"}, "/a?q", b"/b?q"),
            (PathMatch("exact", "/a"), {"prefix_rewrite": "/b"}, "/a?q", b"/b?q"),
            (PathMatch("regex", "/a.*"), {"prefix_rewrite": "/b"}, "/abc?q", b"/b?q"),
            (PathMatch("prefix", "/"), {"regex_rewrite": ("/([a-z]+)/([0-9]+)", r"/\2/\1\\")}, "/ab/12/cd?/x/1", b"/12/ab\\/cd?/x/1"),
            (PathMatch("prefix", "/"), {"regex_rewrite": ("o", "0")}, "/foo/boo", b"/f00/b00"),
            (PathMatch("prefix", "/"), {"regex_rewrite": ("none", "x")}, "/foo", b"/foo"),
            (PathMatch("prefix", "/"), {"regex_rewrite": (".*", "")}, "/foo?q", b"/?q"),
            (PathMatch("prefix", "/"), {"regex_rewrite": ("^/(a)?", r"/[\1]")}, "/b", b"/[]b"),
            (PathMatch("prefix", "/"), {"regex_rewrite": ("x*", "-")}, "/xxa", b"-/-a-"),
            (PathMatch("prefix", "/"), {}, "/foo?q", b"/foo?q"),
        ],
    )
    def test_rewrites(self, path: PathMatch, action: dict, asked: str, sent: bytes) -> None:
        route = compile_router(table(forward(path, **action))).route_of("GET", "h", asked)

        assert route.rewrites_path == bool(action)
        assert route.rewritten(asked) == sent


class TestRedirects:
    @pytest.mark.parametrize(
        ("action", "authority", "path", "tls", "location"),
        [
            ({}, "h", "/x?q", False, b"http://h/x?q"),
            ({"https": True}, "h:80", "/x", False, b"https://h/x"),
            ({"https": True}, "h:8080", "/x", False, b"https://h:8080/x"),
            ({"https": True}, "h:443", "/x", True, b"https://h:443/x"),
            ({"scheme": "http"}, "h:443", "/x", True, b"http://h/x"),
            ({"scheme": "http"}, "h:80", "/x", False, b"http://h:80/x"),
            ({"https": True}, "[::1]:80", "/x", False, b"https://[::1]/x"),
            ({"https": True}, "[::1]", "/x", False, b"https://[::1]/x"),
            ({"port": 8443, "https": True}, "h:8080", "/x", False, b"https://h:8443/x"),
            ({"port": 443, "https": True}, "h", "/x", False, b"https://h:443/x"),
            ({"host": "new.h"}, "h:8080", "/x", False, b"http://new.h/x"),
            ({"host": "new.h", "port": 81}, "h:8080", "/x", False, b"http://new.h:81/x"),
            ({"path": "/new"}, "h", "/x?q=1", False, b"http://h/new?q=1"),
            ({"path": "/new?own=1"}, "h", "/x?q=1", False, b"http://h/new?own=1"),
            ({"path": "/new", "strip_query": True}, "h", "/x?q=1", False, b"http://h/new"),
            ({"path": "/new?own=1", "strip_query": True}, "h", "/x?q=1", False, b"http://h/new?own=1"),
            ({"strip_query": True}, "h", "/x?q=1", False, b"http://h/x"),
            ({"prefix_rewrite": "/y"}, "h", "/x?q=1", False, b"http://h/yx?q=1"),
            ({"regex_rewrite": ("/(.)", r"/\1\1")}, "h", "/x?q=1", False, b"http://h/xx?q=1"),
            ({"regex_rewrite": ("/(.)", r"/\1\1"), "strip_query": True}, "h", "/x?q=1", False, b"http://h/xx"),
        ],
    )
    def test_location(self, action: dict, authority: str, path: str, tls: bool, location: bytes) -> None:
        assert only(redirect(**action)).location_for(authority, path, tls) == location

    def test_status_and_edits(self) -> None:
        route = only(
            Route(
                path=PathMatch("prefix", "/"), action=Redirect(status=308, https=True),
                mutations=HeaderMutations(response_add=(HeaderValue("x-a", "1"),)),
            )
        )

        assert (route.status, route.targets) == (308, [])
        assert route.response_edits.added == [(b"x-a", b"1", "append")]

    @pytest.mark.parametrize("path", ["/\r\nset-cookie: a", "/\x00", "/\x7f"])
    def test_a_control_byte_makes_no_location(self, path: str) -> None:
        assert only(redirect(https=True)).location_for("h", path) is None


class TestEdits:
    @staticmethod
    def level(name: str) -> HeaderMutations:
        return HeaderMutations(
            request_add=(HeaderValue("x-all", name), HeaderValue(f"x-{name}", "1", "overwrite")), request_remove=(f"x-not-{name}",),
            response_add=(HeaderValue("y-all", name, "add_if_absent"),),
        )

    def flattened(self, most_specific: bool):
        cluster = WeightedCluster(name="a", mutations=self.level("cluster"))
        host = VirtualHost(
            name="v", domains=("*",), mutations=self.level("host"), routes=(forward(mutations=self.level("route"), clusters=(cluster,)),),
        )
        tables = RouteTable(name="t", virtual_hosts=(host,), mutations=self.level("table"), most_specific_mutations_win=most_specific)
        return compile_router(tables).route_of("GET", "h", "/").targets[0]

    @pytest.mark.parametrize(
        ("most_specific", "order"), [(False, ["cluster", "route", "host", "table"]), (True, ["cluster", "table", "host", "route"])],
    )
    def test_levels_come_in_envoys_order(self, most_specific: bool, order: list[str]) -> None:
        target = self.flattened(most_specific)

        assert target.request_edits.removed == [f"x-not-{name}".encode() for name in order]
        assert [value.decode() for name, value, _ in target.request_edits.added if name == b"x-all"] == order
        assert target.response_edits.added == [(b"y-all", name.encode(), "add_if_absent") for name in order]

    def test_a_removal_takes_what_earlier_levels_add(self) -> None:
        route = HeaderMutations(request_add=(HeaderValue("X-A", "1"), HeaderValue("x-b", "1")))
        host = HeaderMutations(request_remove=("x-a",), request_add=(HeaderValue("x-a", "2"),))
        edits = only(forward(mutations=route), mutations=host).targets[0].request_edits

        assert edits.removed == [b"x-a"]
        assert edits.added == [(b"x-b", b"1", "append"), (b"x-a", b"2", "append")]

    def test_what_overwrites_goes_before_what_is_added(self) -> None:
        level = HeaderMutations(
            request_add=(HeaderValue("x-a", "1"), HeaderValue("x-a", "2", "overwrite"), HeaderValue("x-a", "3", "overwrite_if_exists")),
        )

        assert [value for _, value, _ in only(forward(mutations=level)).targets[0].request_edits.added] == [b"2", b"3", b"1"]

    def test_an_empty_value_is_added_only_when_kept(self) -> None:
        level = HeaderMutations(request_add=(HeaderValue("x-a", ""), HeaderValue("x-b", "", keep_empty=True)))

        assert only(forward(mutations=level)).targets[0].request_edits.added == [(b"x-b", b"", "append")]

    def test_nothing_to_do_is_none(self) -> None:
        target = only(forward(mutations=HeaderMutations(request_add=(HeaderValue("x-a", ""),)))).targets[0]

        assert (target.request_edits, target.response_edits) == (None, None)


class TestCompiling:
    def test_everything_wrong_is_told_at_once(self) -> None:
        routes = (
            Route(path=PathMatch("regex", "/(a"), action=DirectResponse(status=200), name="bad"),
            prefix("/", headers=(HeaderMatch(name="x-a", string=StringMatch("regex", "a{2,1}")),)),
            forward(regex_rewrite=("/(.*)", r"/\2")), forward(regex_rewrite=("/", "\\x")), forward(clusters=()),
            forward(prefix_rewrite="/a\r\nb"), forward(mutations=HeaderMutations(request_add=(HeaderValue("x a", "b\n"),))),
        )
        hosts = (VirtualHost(name="v", domains=("a.com", "A.COM", "a*b"), routes=routes),)
        with pytest.raises(ConfigError) as refused:
            compile_router(RouteTable(name="t", virtual_hosts=hosts))

        told = [str(problem) for problem in refused.value.problems]
        assert len(told) == 10
        assert told[0].startswith("route table 't', virtual host 'v': domain 'A.COM' is already in ")
        assert "domain 'a*b'" in told[1]
        assert told[2].startswith("route table 't', virtual host 'v', route 0 (bad).path: regular expression '/(a': missing )")
        assert told[3].startswith("route table 't', virtual host 'v', route 1 (/).headers[0]: regular expression 'a{2,1}': ")
        assert "the pattern has 1 groups" in told[4]
        assert "forwards to no cluster" in told[6]
        assert "control character" in told[7]
        assert "not a header name" in told[8]
        assert "control character" in told[9]

    def test_slices_pause_when_their_time_is_up(self) -> None:
        ticks = iter(range(0, 10**9, 400_000))
        tables = table(*(prefix(f"/{number}") for number in range(160)))
        values = list(compile_slices(tables, 1_000_000, lambda: next(ticks)))

        assert values[:-1] == [None] * 3
        assert values[-1].route_of("GET", "h", "/159").name == b"/1"

    def test_a_slice_is_never_cut_while_there_is_time(self) -> None:
        tables = table(*(prefix(f"/{number}") for number in range(1000)))

        assert len(list(compile_slices(tables, 1_000_000, lambda: 0))) == 1

    def test_internal_only_headers(self) -> None:
        assert compile_router(RouteTable(name="t", internal_only_headers=("X-User",))).internal_only_headers == (b"x-user",)


def test_routes_in_bytes_make_the_same_router() -> None:
    """What a worker compiles a table from: its routes are decoded one after the other."""
    whole = table(prefix("/a", name="first"), forward(PathMatch("exact", "/b"), HeaderMutations(request_add=(HeaderValue("x-a", "1"),))))
    packed = unpack_table(pack(ResourceKind.ROUTE_TABLE, "t", whole))
    host, expected = packed.virtual_hosts[0], whole.virtual_hosts[0]
    router = compile_router(packed)

    assert (len(host.routes), tuple(host.routes), host.domains) == (2, expected.routes, expected.domains)
    assert [router.route_of("GET", "h", path).model for path in ("/a", "/b")] == list(expected.routes)
    assert [piece.model for piece in router.pieces()[:2]] == list(expected.routes)
