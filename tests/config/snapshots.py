"""Snapshots out of Hypothesis: any that a front door could have made, so that writing and reading again has to give an equal one."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from meshproxy.model import (
    AccessLog,
    Admin,
    Breakers,
    ChainMatch,
    Cluster,
    ConsulServer,
    ConsulService,
    CustomTag,
    Decorator,
    DirectResponse,
    DnsSrv,
    Endpoint,
    EndpointFiles,
    FilterChain,
    ForwardAction,
    HeaderMatch,
    HeaderMutations,
    HeaderValue,
    Http2Settings,
    HttpConnectionManager,
    Listener,
    Node,
    PathMatch,
    PipeAddress,
    Process,
    PythonFilter,
    Redirect,
    RetryBudget,
    RetryPolicy,
    Route,
    RouteTable,
    RouteTracing,
    Snapshot,
    SocketAddress,
    Source,
    Stats,
    StatsSink,
    StatsTag,
    StringMatch,
    Tracing,
    VirtualHost,
    WeightedCluster,
)
from meshproxy.model.route import NO_MUTATIONS, QueryMatch
from tests.config import transports

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=8)
odd_names = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters="\x7f", exclude_categories=("Cs", "Cc", "Zl", "Zp")),
    min_size=1,
    max_size=10,
)
header_names = st.sampled_from(["x-a", "X-Forwarded-Client", "cache-control", "set-cookie", "x-b", "on", "123"])
header_values = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x17F, exclude_characters="\x7f", exclude_categories=("Cc",)), max_size=12
)
regexes = st.sampled_from(["a.*", "(a|b)+", "/x/[0-9]+", "", "(?i)y"])
durations = st.one_of(
    st.sampled_from([0.001, 0.025, 0.1, 1.5, 5.0, 60.0, 90.0, 3600.0, 86400.0]), st.integers(1, 10**9).map(lambda n: n / 10**6)
)
off_or_durations = st.one_of(st.just(0.0), durations)
sizes = st.sampled_from([1024, 4096, 5000, 1 << 20, 3 << 20])
ips = st.sampled_from(["127.0.0.1", "10.0.0.1", "0.0.0.0", "::1", "::", "fe80::2"])
ports = st.integers(1, 65535)
pipes = st.one_of(
    st.builds(PipeAddress, st.sampled_from(["/run/a.sock", "/tmp/on"]), st.sampled_from([0, 0o660, 0o600])),
    st.just(PipeAddress("@abstract")),
)
statuses = st.integers(200, 599)
bodies = st.one_of(st.just(b""), st.binary(max_size=20), st.text(max_size=20).map(lambda text: text.encode("utf-8", "ignore")))
rewrites = st.one_of(st.none(), st.sampled_from([("^/a/(.*)$", "/b/\\1"), ("x", ""), ("(a)(b)", "\\2\\1\\0")]))

string_matches = st.one_of(
    st.builds(StringMatch, st.just("exact"), st.text("abc:$% \"'", max_size=5), st.booleans()),
    st.builds(StringMatch, st.sampled_from(["prefix", "suffix", "contains"]), words, st.booleans()),
    st.builds(StringMatch, st.just("regex"), regexes.filter(bool)),
)
budgets = st.builds(RetryBudget, percent=st.sampled_from([0.0, 12.5, 20.0, 100.0]), min_concurrency=st.integers(0, 9))


def mutations() -> st.SearchStrategy[HeaderMutations]:
    value = st.builds(
        HeaderValue,
        header_names,
        header_values,
        st.sampled_from(["append", "add_if_absent", "overwrite", "overwrite_if_exists"]),
        st.booleans(),
    )
    added, removed = st.lists(value, max_size=4).map(tuple), st.lists(header_names, max_size=2).map(tuple)
    return st.one_of(
        st.just(NO_MUTATIONS),
        st.builds(HeaderMutations, request_add=added, request_remove=removed, response_add=added, response_remove=removed),
    )


@st.composite
def retries(draw: st.DrawFn) -> RetryPolicy:
    base = draw(st.sampled_from([0.001, 0.025, 0.5]))
    return RetryPolicy(
        on=draw(st.sampled_from([(), ("5xx",), ("reset", "connect-failure"), ("retriable-status-codes", "refused-stream", "unavailable")])),
        num_retries=draw(st.integers(0, 5)),
        per_try_timeout_s=draw(off_or_durations),
        retriable_status_codes=tuple(draw(st.lists(statuses, max_size=2))),
        backoff_base_s=base,
        backoff_max_s=draw(st.sampled_from([base, base * 10, 20.0])),
        avoid_previous_hosts=draw(st.booleans()),
        host_selection_attempts=draw(st.integers(1, 5)),
    )


def paths() -> st.SearchStrategy[PathMatch]:
    text = words.map(lambda word: f"/{word}")
    return st.one_of(
        st.builds(PathMatch, st.sampled_from(["prefix", "exact", "segment_prefix"]), text, st.booleans()),
        st.builds(PathMatch, st.just("regex"), regexes.filter(bool)),
        st.just(PathMatch("prefix", "/")),
        st.just(PathMatch("connect", "")),
    )


@st.composite
def forwards(draw: st.DrawFn, clusters: list[str], prefix: bool) -> ForwardAction:
    names = draw(st.lists(st.sampled_from(clusters), min_size=1, max_size=3, unique=draw(st.booleans())))
    targets = [WeightedCluster(name=names[0])]
    if draw(st.booleans()):
        targets = [
            WeightedCluster(
                name=name, weight=draw(st.integers(1, 100)), mutations=draw(mutations()), host_rewrite=draw(st.sampled_from(["", "h"]))
            )
            for name in names
        ]
    rewrite = draw(st.sampled_from(["none", "prefix", "regex"] if prefix else ["none", "regex"]))
    host = draw(st.sampled_from([("", False), ("other.example", False), ("", True)]))
    return ForwardAction(
        clusters=tuple(targets),
        prefix_rewrite="/new" if rewrite == "prefix" else "",
        regex_rewrite=draw(rewrites) if rewrite == "regex" else None,
        host_rewrite=host[0],
        auto_host_rewrite=host[1],
        append_x_forwarded_host=draw(st.booleans()),
        timeout_s=draw(off_or_durations),
        idle_timeout_s=draw(st.one_of(st.none(), off_or_durations)),
        retry=draw(st.one_of(st.none(), retries())),
        cluster_not_found_status=draw(st.sampled_from([503, 404, 500])),
        high_priority=draw(st.booleans()),
        upgrades=tuple(draw(st.dictionaries(st.sampled_from(["websocket", "h2c"]), st.booleans())).items()),
        max_stream_duration_s=draw(st.one_of(st.none(), off_or_durations)),
        grpc_timeout_max_s=draw(st.one_of(st.none(), off_or_durations)),
        grpc_timeout_offset_s=draw(off_or_durations),
    )


@st.composite
def redirects(draw: st.DrawFn) -> Redirect:
    how = draw(st.sampled_from(["none", "path", "prefix", "regex"]))
    scheme = draw(st.sampled_from([("", False), ("ftp", False), ("", True)]))
    return Redirect(
        status=draw(st.sampled_from([301, 302, 303, 307, 308])),
        scheme=scheme[0],
        https=scheme[1],
        host=draw(st.sampled_from(["", "example.com"])),
        port=draw(st.sampled_from([0, 8443])),
        path="/p?q=1" if how == "path" else "",
        prefix_rewrite="/x" if how == "prefix" else "",
        regex_rewrite=draw(rewrites.filter(bool)) if how == "regex" else None,
        strip_query=draw(st.booleans()),
    )


@st.composite
def routes(draw: st.DrawFn, clusters: list[str], envoy: bool) -> Route:
    path = draw(paths())
    kinds = st.just("text/plain") if envoy else st.sampled_from(["text/plain", "text/html; charset=utf-8"])
    action = draw(
        st.one_of(
            forwards(clusters, path.kind != "regex"),
            redirects(),
            st.builds(DirectResponse, status=statuses, body=bodies, content_type=kinds),
        )
    )
    header = st.one_of(
        st.builds(
            HeaderMatch, name=header_names.map(str.lower), string=string_matches, invert=st.booleans(), treat_missing_as_empty=st.booleans()
        ),
        st.builds(HeaderMatch, name=header_names.map(str.lower), range=st.sampled_from([(0, 1), (-5, 200)])),
        st.builds(HeaderMatch, name=st.just(":method"), present=st.booleans(), invert=st.booleans()),
    )
    query = st.builds(QueryMatch, name=odd_names, string=st.one_of(st.none(), string_matches))
    by_name = {item.name: [] for item in draw(st.lists(header, max_size=3))}
    headers = [item for name in by_name for item in draw(st.lists(header, min_size=1, max_size=2)) if item.name == name]
    queries = draw(st.lists(query, max_size=2, unique_by=lambda item: item.name))
    return Route(
        path=path,
        action=action,
        name=draw(st.sampled_from(["", "a route", "on"])),
        headers=tuple(headers),
        query=tuple(queries),
        mutations=draw(mutations()),
        decorator=draw(st.one_of(st.none(), st.builds(Decorator, operation=words, propagate=st.booleans()))),
        tracing=draw(st.one_of(st.none(), st.builds(RouteTracing, **_SAMPLING))),
    )


_CUSTOM_TAGS = st.one_of(
    st.builds(CustomTag, name=odd_names, kind=st.just("literal"), value=words),
    st.builds(CustomTag, name=odd_names, kind=st.just("environment"), value=words, default=st.sampled_from(["", "none"])),
    st.builds(CustomTag, name=odd_names, kind=st.just("request_header"), value=header_names.map(str.lower), default=st.sampled_from(["", "x"])),
)
_SHARES = st.sampled_from([0.0, 0.01, 12.5, 100.0])
_SAMPLING: dict[str, st.SearchStrategy] = {
    **{f"{name}_percent": _SHARES for name in ("client", "random", "overall")}, "custom_tags": st.lists(_CUSTOM_TAGS, max_size=2).map(tuple),
}  # fmt: skip


@st.composite
def tracings(draw: st.DrawFn, clusters: list[str], envoy: bool) -> Tracing:
    exporter = draw(st.sampled_from(["none", "zipkin_json", "zipkin_proto", "otlp"]))
    settings = {
        **{name: draw(strategy) for name, strategy in _SAMPLING.items()},
        "spawn_upstream_span": draw(st.booleans()),
        "max_path_tag_length": draw(st.sampled_from([1, 256, 4096])),
    }
    if exporter == "none":
        return Tracing(exporter=exporter, **settings)
    zipkin = exporter != "otlp"
    propagations = [("b3",), ("b3", "w3c")] if envoy else [("b3",), ("b3_single", "w3c"), ("w3c",)]
    settings["propagation"] = draw(st.sampled_from(propagations)) if zipkin else ("w3c",)
    settings["hostname"] = draw(st.sampled_from(["", "c.example"] if zipkin or not envoy else ["c.example:9411"]))
    if zipkin:
        settings |= {"trace_id_128bit": draw(st.booleans()), "shared_span_context": draw(st.booleans())}
    if not zipkin or not envoy:
        settings |= {"service_name": draw(words), "timeout_s": draw(durations.filter(lambda value: value >= 0.01))}
        settings["headers"] = draw(st.sampled_from([(), (("x-key", "k"),), (("x-a", "1"), ("x-b", "on"))]))
    if envoy or draw(st.booleans()):
        return Tracing(exporter=exporter, cluster=draw(st.sampled_from(clusters)), path="/api?a=1", **settings)
    return Tracing(exporter=exporter, url="http://[::1]:9411/spans", egress=draw(st.booleans()), **settings)


@st.composite
def tables(draw: st.DrawFn, name: str, clusters: list[str], envoy: bool) -> RouteTable:
    hosts = []
    for index, host in enumerate(draw(st.lists(odd_names, max_size=2, unique_by=lambda text: text))):
        hosts.append(
            VirtualHost(
                name=host,
                domains=draw(
                    st.sampled_from([(f"h{index}.example",), (f"*.h{index}", f"h{index}.*"), ("*",) if index == 0 else (f"z{index}",)])
                ),
                routes=tuple(draw(st.lists(routes(clusters, envoy), max_size=3))),
                mutations=draw(mutations()),
                retry=draw(st.one_of(st.none(), retries())),
                require_tls=draw(st.sampled_from(["none", "external", "all"])),
                include_request_attempt_count=draw(st.booleans()),
                include_attempt_count_in_response=draw(st.booleans()),
                per_request_buffer_limit_bytes=draw(st.one_of(st.none(), st.integers(0, 1 << 20))),
                stats=not envoy and draw(st.booleans()),
            )
        )
    if draw(st.booleans()):
        hosts = [VirtualHost(name="*", domains=("*",), routes=tuple(draw(st.lists(routes(clusters, envoy), max_size=2))))]
    return RouteTable(
        name=name,
        virtual_hosts=tuple(hosts),
        mutations=draw(mutations()),
        most_specific_mutations_win=draw(st.booleans()),
        internal_only_headers=tuple(draw(st.lists(header_names, max_size=2))),
        ignore_port_in_host=draw(st.booleans()),
    )


def access_logs(envoy: bool) -> st.SearchStrategy[tuple[AccessLog, ...]]:
    texts = st.sampled_from(["%RESPONSE_CODE%\n", "plain ${HOME}\n", "%REQ(:PATH)% 100%%\n"])
    formats = st.one_of(texts.map(lambda text: {"text": text}), st.just({"json": {"a": "%PROTOCOL%", "n": {"b": 1, "c": [True, "x"]}}}))
    sinks = st.sampled_from(["stdout", "stderr", "file"] if envoy else ["stdout", "stderr", "file", "syslog"])

    def make(sink: str, form: dict, empty: bool, status: int, facility: str) -> AccessLog:
        path = {"file": "/dev/null", "syslog": "/dev/log"}.get(sink, "")
        extra = {"syslog_facility": facility, "syslog_tag": "tag"} if not envoy else {}
        return AccessLog(sink=sink, path=path, omit_empty_values=empty, min_status=status, **form, **extra)

    made = st.builds(make, sinks, formats, st.booleans(), st.sampled_from([0, 500]), st.sampled_from(["local0", "daemon"]))
    return st.lists(made, max_size=2).map(tuple)


@st.composite
def managers(draw: st.DrawFn, table: str, clusters: list[str], envoy: bool) -> HttpConnectionManager:
    python = st.builds(PythonFilter, name=words, target=st.just("a.b:C"), settings=st.sampled_from([{}, {"x": [1, {"y": None}]}]))
    return HttpConnectionManager(
        stat_prefix=draw(words),
        route_table=table,
        codec=draw(st.sampled_from(["auto", "http1", "http2"])),
        http2=draw(transports.http2_settings(envoy, Http2Settings())),
        client_cert_header=draw(transports.client_cert_headers),
        filters=tuple(draw(st.lists(transports.http_filters if envoy else st.one_of(python, transports.http_filters), max_size=2))),
        access_logs=draw(access_logs(envoy)),
        tracing=draw(st.one_of(st.none(), tracings(clusters, envoy))),
        server_name=draw(st.sampled_from(["envoy", "meshproxy", "x"])),
        server_header=draw(st.sampled_from(["overwrite", "append_if_absent", "pass_through"])),
        via=draw(st.sampled_from(["", "me"])),
        **{
            name: draw(st.booleans())
            for name in (
                "use_remote_address",
                "skip_xff_append",
                "generate_request_id",
                "preserve_external_request_id",
                "suppress_envoy_headers",
                "always_set_request_id_in_response",
                "accept_http_10",
                "allow_absolute_url",
                "proxy_100_continue",
                "normalize_path",
                "merge_slashes",
                "add_user_agent",
            )
        },
        **{
            f"{name}_s": draw(off_or_durations)
            for name in (
                "idle_timeout",
                "request_timeout",
                "request_headers_timeout",
                "stream_idle_timeout",
                "drain_timeout",
                "delayed_close_timeout",
            )
        },
        **{
            name: draw(st.one_of(st.just(0.0), st.sampled_from([1.0, 60.0])))
            for name in ("max_connection_duration_s", "max_stream_duration_s")
        },
        xff_trusted_hops=draw(st.integers(0, 3)),
        max_head_bytes=draw(st.integers(1, 96)) * 1024,
        max_headers=draw(st.integers(1, 1000)),
        max_body_bytes=0 if envoy else draw(sizes),
        max_requests_per_connection=draw(st.integers(0, 9)),
        upgrades=draw(st.sampled_from([(), ("websocket",), ("websocket", "foo"), ("connect",)])),
        strip_port=draw(st.sampled_from(["none", "matching", "any"])),
        underscores_in_headers=draw(st.sampled_from(["allow", "reject", "drop"])),
    )


_CONSUL = ConsulServer(address=SocketAddress("consul.example", 8501), scheme="https", token="t", ca_file="/ca.pem")
SOURCES: list[list[Source]] = [
    [], [], [],
    [ConsulService(service="web")],
    [ConsulService(service="a b", tags=("x", "y"), checks="any", server=_CONSUL), EndpointFiles(globs=("/e/*.yaml",))],
    [ConsulService(prepared_query="q", poll_s=0.5, consistency="stale", server=ConsulServer(address=PipeAddress("/run/c.sock")))],
    [DnsSrv(name="_a._tcp.example", refresh_s=9.0, lookup_family="v6_only"), EndpointFiles(globs=("/a/*", "/b"))],
]


@st.composite
def clusters_of(draw: st.DrawFn, name: str, envoy: bool) -> Cluster:
    named = draw(st.booleans())
    protocol = draw(st.sampled_from(["http1", "http2", "downstream", "auto"]))
    tls = draw(st.one_of(st.none(), transports.upstream_tls(protocol)) if protocol != "auto" else transports.upstream_tls(protocol))
    plain = Cluster(name="").http2
    hosts = st.sampled_from(["web.example", "a_b", "10.0.0.9"]) if named else ips
    places: st.SearchStrategy = st.builds(SocketAddress, hosts, ports)
    if not named:
        places = st.one_of(places, st.builds(PipeAddress, st.just("/run/up.sock")))
    endpoint = st.builds(
        Endpoint, address=places, weight=st.integers(1, 9), hostname=st.sampled_from(["", "h.example"]), healthy=st.booleans()
    )
    breakers = st.builds(
        Breakers,
        max_connections=st.integers(0, 5000),
        max_pending=st.integers(0, 5000),
        max_requests=st.integers(0, 5000),
        max_retries=st.integers(0, 9),
        retry_budget=st.one_of(st.none(), budgets),
    )
    sources = () if envoy else tuple(draw(st.sampled_from(SOURCES)))
    return Cluster(
        name=name,
        discovery="found" if sources else "strict_dns" if named else "static",
        endpoints=() if sources else tuple(draw(st.lists(endpoint, max_size=3))),
        sources=sources,
        **({} if envoy else {"keep_last_s": draw(off_or_durations), "debounce_s": draw(off_or_durations)}),
        balance=draw(st.sampled_from(["round_robin", "random"])),
        connect_timeout_s=draw(durations),
        idle_timeout_s=draw(off_or_durations),
        max_requests_per_connection=draw(st.integers(0, 9)),
        max_connection_duration_s=draw(st.sampled_from([0.0, 7.5])),
        buffer_limit_bytes=draw(sizes),
        breakers=draw(breakers),
        high_breakers=draw(breakers),
        respect_dns_ttl=draw(st.booleans()),
        wait_for_warm=draw(st.booleans()),
        dns_refresh_s=draw(st.sampled_from([0.5, 5.0, 60.0])),
        dns_lookup_family=draw(st.sampled_from(["auto", "v4_only", "v6_only", "v4_preferred", "all"])),
        alt_stat_name=draw(st.sampled_from(["", "other"])),
        panic_threshold_percent=draw(st.sampled_from([0.0, 33.3, 50.0])),
        tcp_keepalive=draw(st.booleans()),
        protocol=protocol,
        http2=plain if envoy and protocol == "http1" else draw(transports.http2_settings(envoy, plain)),
        max_response_headers=draw(st.sampled_from([1, 100])),
        tls=tls,
        **draw(st.sampled_from([{}, {"proxy_protocol": "v1"}, {"proxy_protocol": "v2", "proxy_protocol_tlvs": None}])),
    )


@st.composite
def chains_of(
    draw: st.DrawFn, listener: str, table: str, clusters: list[str], envoy: bool
) -> tuple[tuple[FilterChain, ...], FilterChain | None]:
    """One chain for all, the two of a permissive port, or several and one for the rest."""

    def terminal(table: str) -> object:
        other = transports.other_terminals(listener, clusters, access_logs(envoy))
        return draw(managers(table, clusters, envoy) if draw(st.booleans()) else other)

    kind = draw(st.sampled_from(["one", "permissive", "several", "default"]))
    one = draw(transports.chain(terminal(table), listener, ChainMatch(), draw(st.sampled_from(["", "c"]))))
    if kind == "one":
        return (one,), None
    if kind == "permissive":
        secured = msgspec.structs.replace(one, name="", match=ChainMatch(transport_protocol="tls"), tls=draw(transports.downstream_tls()))
        return (secured, msgspec.structs.replace(secured, match=ChainMatch(transport_protocol="raw_buffer"), tls=None)), None
    if kind == "default":
        return (), one
    several = tuple(
        draw(transports.chain(terminal(f"{table}/{index}"), listener, draw(transports.matches(index)), name))
        for index, name in enumerate(draw(st.sampled_from([("", ""), ("c0", ""), ("c0", "c1")])))
    )
    return several, draw(st.one_of(st.none(), st.just(msgspec.structs.replace(one, name=""))))


@st.composite
def snapshots(draw: st.DrawFn, envoy: bool = False) -> Snapshot:
    """`envoy`: only what Envoy's API can say."""
    clusters = draw(st.lists(odd_names, min_size=1, max_size=3, unique=True))
    names = draw(st.lists(odd_names, max_size=3, unique=True))
    listeners = []
    for index, name in enumerate(names):
        addresses = draw(st.lists(st.one_of(st.builds(SocketAddress, ips, st.just(8000 + index))), min_size=1, max_size=2, unique=True))
        if draw(st.booleans()):
            addresses = [PipeAddress(f"/run/l{index}.sock", draw(st.sampled_from([0, 0o660])))]
        v6 = any(isinstance(place, SocketAddress) and place.host == "::" for place in addresses)
        shared = not envoy and index > 0 and draw(st.booleans())
        chains, default = draw(chains_of(name, names[0] if shared else name, clusters, envoy))
        use_original_dst = draw(st.booleans())
        listeners.append(
            Listener(
                name=name,
                addresses=tuple(addresses),
                chains=chains,
                default_chain=default,
                filters=draw(transports.filters_of(chains, use_original_dst)),
                filters_timeout_s=draw(st.sampled_from([0.0, 15.0, 1.5])),
                continue_on_filters_timeout=draw(st.booleans()),
                use_original_dst=use_original_dst,
                bind_to_port=draw(st.booleans()),
                transparent=draw(st.booleans()),
                access_logs=draw(access_logs(envoy)),
                buffer_limit_bytes=draw(sizes),
                backlog=draw(st.integers(1, 65535)),
                max_connections=0 if envoy else draw(st.integers(0, 9)),
                ipv6_only=not (v6 and draw(st.booleans())),
                freebind=draw(st.booleans()),
                stat_prefix=draw(st.sampled_from(["", "p"])),
            )
        )
    terminals = [chain.terminal for listener in listeners for chain in listener.all_chains]
    used = list(dict.fromkeys(terminal.route_table for terminal in terminals if isinstance(terminal, HttpConnectionManager)))
    made = [draw(clusters_of(name, envoy)) for name in clusters]
    sinks = [StatsSink(address=SocketAddress("10.1.1.1", 8125), prefix=draw(words))]
    if not envoy:
        sinks.append(StatsSink(address=SocketAddress("::1", 8125), transport="tcp", dialect="dogstatsd", max_datagram_bytes=9000))
        sinks.append(StatsSink(transport="tcp", tcp_cluster=clusters[0]))
    process = (
        Process()
        if envoy
        else Process(workers=draw(st.integers(0, 4)), user=draw(words), worker_hung_s=2.5, max_worker_buffer_bytes=1 << 21)
    )
    return Snapshot(
        listeners=tuple(listeners),
        route_tables=tuple(draw(tables(name, clusters, envoy)) for name in used),
        clusters=tuple(made),
        secrets=transports.used_secrets(listeners, made),
        admin=draw(
            st.one_of(
                st.none(),
                st.builds(Admin, address=st.one_of(pipes, st.just(SocketAddress("::1", 9901))), access_logs=access_logs(envoy)),
            )
        ),
        node=draw(st.builds(Node, id=words, zone=words, metadata=st.sampled_from([{}, {"a": {"b": [1, "x", True]}}]))),
        stats=Stats(
            sinks=tuple(draw(st.lists(st.sampled_from(sinks), max_size=2, unique_by=str))),
            flush_interval_s=draw(st.sampled_from([5.0, 0.5])),
            tags=draw(st.sampled_from([(), (StatsTag(name="dc", value="east"), StatsTag(name="svc", regex=r"^cluster\.(([a-z]+)\.)"))])),
        ),
        process=process,
        log_level="info" if envoy else draw(st.sampled_from(["debug", "info"])),
    )
