"""Native YAML: what short forms mean, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.load import load, load_text
from meshproxy.errors import ConfigError
from meshproxy.model import (
    AccessLog,
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    HeaderValue,
    PathMatch,
    PipeAddress,
    Redirect,
    RetryPolicy,
    Route,
    Snapshot,
    SocketAddress,
    StringMatch,
    WeightedCluster,
)


def read(text: str) -> Snapshot:
    return load_text(text, {}).snapshot


def route(text: str) -> Route:
    """The one route `text` is, with clusters a and b."""
    whole = f"listeners: [{{address: '127.0.0.1:1', routes: [{text}]}}]\nclusters: {{a: [], b: []}}"
    return read(whole).route_tables[0].virtual_hosts[0].routes[0]


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_text(text, {}, "f.yaml")
    return [str(problem) for problem in refused.value.problems]


def test_the_shortest_proxy() -> None:
    snapshot = read("listeners:\n- address: 0.0.0.0:8080\n  to: web\nclusters:\n  web: [10.0.0.1:80]\n")

    listener, table = snapshot.listeners[0], snapshot.route_tables[0]
    assert listener.name == table.name == listener.chains[0].terminal.route_table == "0.0.0.0:8080"
    assert table.virtual_hosts[0].domains == ("*",)
    assert table.virtual_hosts[0].routes == (
        Route(path=PathMatch("prefix", "/"), action=ForwardAction(clusters=(WeightedCluster(name="web"),))),
    )
    assert snapshot.clusters[0].endpoints[0].address == SocketAddress("10.0.0.1", 80)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("'[::]:80'", SocketAddress("::", 80)),
        ("unix:/run/x.sock", PipeAddress("/run/x.sock")),
        ("{unix: /run/x.sock, mode: 0660}", PipeAddress("/run/x.sock", 0o660)),
        ("{unix: /run/x.sock, mode: '660'}", PipeAddress("/run/x.sock", 0o660)),
        ("unix:@abstract", PipeAddress("@abstract")),
        ("127.0.0.1:0", SocketAddress("127.0.0.1", 0)),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert read(f"listeners: [{{address: {text}, respond: 200}}]").listeners[0].addresses == (address,)


def test_a_name_makes_a_dns_cluster() -> None:
    clusters = read("clusters: {a: web.example:80, b: [10.0.0.1:80], c: {endpoints: 10.0.0.1:80, discovery: strict_dns}}").clusters

    assert [cluster.discovery for cluster in clusters] == ["strict_dns", "static", "strict_dns"]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("{to: a}", ForwardAction(clusters=(WeightedCluster(name="a"),))),
        ("{to: {a: 90, b: 10}}", ForwardAction(clusters=(WeightedCluster(name="a", weight=90), WeightedCluster(name="b", weight=10)))),
        (
            "{to: [{cluster: a, weight: 2, host_rewrite: h}]}",
            ForwardAction(clusters=(WeightedCluster(name="a", weight=2, host_rewrite="h"),)),
        ),
        ("{to: a, timeout: 0, idle_timeout: 1m}", ForwardAction(clusters=(WeightedCluster(name="a"),), timeout_s=0.0, idle_timeout_s=60.0)),
        ("{to: a, upgrades: {WebSocket: false}}", ForwardAction(clusters=(WeightedCluster(name="a"),), upgrades=(("websocket", False),))),
        ("{redirect: https}", Redirect(https=True)),
        ("{redirect: /x}", Redirect(path="/x")),
        ("{redirect: {host: h, status: 308}}", Redirect(host="h", status=308)),
        ("{respond: 404}", DirectResponse(status=404)),
        ("{respond: {body: hi}}", DirectResponse(status=200, body=b"hi")),
        ("{respond: {body_base64: AP8=}}", DirectResponse(status=200, body=b"\x00\xff")),
    ],
)
def test_actions(text: str, action: object) -> None:
    assert route(text).action == action


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("3", RetryPolicy(on=("connect-failure", "reset-before-request"), num_retries=3)),
        ("{on: 5xx}", RetryPolicy(on=("5xx",))),
        (
            "{on: [5xx, reset], times: 2, backoff: 1s}",
            RetryPolicy(on=("5xx", "reset"), num_retries=2, backoff_base_s=1.0, backoff_max_s=1.0),
        ),
    ],
)
def test_retries(text: str, policy: RetryPolicy) -> None:
    assert route(f"{{to: a, retry: {text}}}").action.retry == policy


def test_conditions() -> None:
    made = route(
        "{to: a, path: /x, ignore_case: true, methods: [GET, HEAD], match_headers: "
        "{X-A: 'yes', b: true, c: false, d: {regex: 'x+', invert: true}, e: [{prefix: a}, {suffix: b}], f: {range: [1, 5]}}}"
    )

    assert made.path == PathMatch("exact", "/x", False)
    assert made.headers == (
        HeaderMatch(name=":method", string=StringMatch("regex", "GET|HEAD")),
        HeaderMatch(name="x-a", string=StringMatch("exact", "yes")),
        HeaderMatch(name="b", present=True),
        HeaderMatch(name="c", present=False),
        HeaderMatch(name="d", string=StringMatch("regex", "x+"), invert=True),
        HeaderMatch(name="e", string=StringMatch("prefix", "a")),
        HeaderMatch(name="e", string=StringMatch("suffix", "b")),
        HeaderMatch(name="f", range=(1, 5)),
    )


def test_header_changes_keep_their_order() -> None:
    made = route("{to: a, response_headers: {remove: server, add: {set-cookie: [a=1, b=2]}, set: {x: 5}}}").mutations

    assert made.response_remove == ("server",)
    assert made.response_add == (HeaderValue("set-cookie", "a=1"), HeaderValue("set-cookie", "b=2"), HeaderValue("x", "5", "overwrite"))


def test_the_nodes_access_log_is_for_listeners_without_one() -> None:
    snapshot = read(
        "access_log: stdout\nlisteners:\n- {name: a, address: '127.0.0.1:1', respond: 200}\n"
        "- {name: b, address: '127.0.0.1:2', respond: 200, access_log: []}\n"
        "- {name: c, address: '127.0.0.1:3', respond: 200, access_log: /c.log}\n"
    )

    logs = [listener.chains[0].terminal.access_logs for listener in snapshot.listeners]
    assert [[(log.sink, log.path) for log in some] for some in logs] == [[("stdout", "")], [], [("file", "/c.log")]]


def test_a_format_gets_its_line_end() -> None:
    snapshot = read("listeners: [{address: '127.0.0.1:1', respond: 200, access_log: {to: stdout, format: '%RESPONSE_CODE%'}}]")

    assert snapshot.listeners[0].chains[0].terminal.access_logs == (AccessLog(sink="stdout", text="%RESPONSE_CODE%\n"),)


def test_shared_route_tables() -> None:
    snapshot = read(
        "route_tables: {t: {routes: [{respond: 200}]}}\n"
        "listeners: [{name: a, address: '127.0.0.1:1', route_table: t}, {name: b, address: '127.0.0.1:2', route_table: t}]"
    )

    assert [table.name for table in snapshot.route_tables] == ["t"]
    assert {listener.chains[0].terminal.route_table for listener in snapshot.listeners} == {"t"}


def test_keys_for_anchors() -> None:
    snapshot = read("x-c: &c {connect_timeout: 1s}\nclusters: {a: {<<: *c, endpoints: []}}\n")

    assert snapshot.clusters[0].connect_timeout_s == 1.0


REFUSED = {
    "typo": (
        "listners: []",
        'f.yaml:1: listners: the configuration has no setting "listners" (did you mean "listeners"?). Correct or remove it.',
    ),
    "no address": ("listeners: [{to: a}]\nclusters: {a: []}", 'f.yaml:1: listeners[0]: listener: "address" is missing. Add it.'),
    "no routes": (
        "listeners: [{address: '127.0.0.1:1'}]",
        'f.yaml:1: listeners[0]: listener "127.0.0.1:1" has no routes. '
        'Add "routes", "virtual_hosts", "to", "respond", "catalog", "route_table", "rds" or "tcp".',
    ),
    "port alone": (
        "admin: 8080",
        "f.yaml:1: admin: 8080 is given where admin needs an address or a mapping. Write an address, or settings indented below.",
    ),
    "host name": (
        "listeners: [{address: 'localhost:80', respond: 200}]",
        'f.yaml:1: listeners[0].address: "localhost:80": "localhost" is no IP address ("localhost" is 127.0.0.1). '
        "Write the address in numbers.",
    ),
    "v6 without brackets": (
        "admin: '::1:80'",
        'f.yaml:1: admin.address: "::1:80": an IPv6 address needs brackets. Write "[::1:80]:80" or "[::1]:80".',
    ),
    "port": (
        "admin: '127.0.0.1:99999'",
        'f.yaml:1: admin.address: "127.0.0.1:99999": port "99999" is no number from 0 to 65535. Correct it.',
    ),
    "remote admin": (
        "admin: '0.0.0.0:1'",
        "f.yaml:1: admin.address: admin: 0.0.0.0:1 can be reached from other machines, and whoever reaches it can stop the node. "
        "Use 127.0.0.1 or a UNIX socket, or set allow_remote: true.",
    ),
    "no unit": (
        "clusters:\n  a:\n    connect_timeout: 5",
        'f.yaml:3: clusters.a.connect_timeout: 5 is no duration. Write a number and a unit, like "250ms", "5s", "1h" or "1h30m".',
    ),
    "size": (
        "overload: {max_worker_buffer: 5 furlongs}",
        'f.yaml:1: overload.max_worker_buffer: "5 furlongs" is no size. Write a number and a unit, like "64KiB" or "1MiB".',
    ),
    "word": (
        "log_level: wanring",
        'f.yaml:1: log_level: "wanring" is none of: debug, info, warning, error (did you mean "warning"?). Use one of them.',
    ),
    "number": ("workers: many", 'f.yaml:1: workers: "many" is given where auto or a number 0 to 1024 is needed. Write digits only.'),
    "range": ("workers: 5000", "f.yaml:1: workers: 5000 is out of range. Use 0 to 1024."),
    "flag": (
        "clusters: {a: {tcp_keepalive: yes}}",
        'f.yaml:1: clusters.a.tcp_keepalive: "yes" is given where true or false is needed. Write true or false.',
    ),
    "unknown cluster": (
        "listeners: [{address: '127.0.0.1:1', to: wbe}]\nclusters: {web: []}",
        'f.yaml:1: listeners[0].to: cluster "wbe" is not defined (did you mean "web"?). Add it under "clusters" or correct the name.',
    ),
    "unknown table": (
        "listeners: [{address: '127.0.0.1:1', route_table: t}]",
        'f.yaml:1: listeners[0].route_table: route table "t" is not defined. Add it under "route_tables" or correct the name.',
    ),
    "listener twice": (
        "listeners:\n- {name: a, address: '127.0.0.1:1', respond: 200}\n- {name: a, address: '127.0.0.1:2', respond: 200}",
        'f.yaml:3: listeners[1]: listener "a" is defined twice. Rename or remove one.',
    ),
    "address twice": (
        "listeners:\n- {name: a, address: '127.0.0.1:1', respond: 200}\n- {name: b, address: '127.0.0.1:1', respond: 200}",
        'f.yaml:3: listeners[1]: listener "b": address 127.0.0.1:1 is taken by listener "a". Use another port.',
    ),
    "name in a static cluster": (
        "clusters:\n  a:\n    endpoints: web:80\n    discovery: static",
        'f.yaml:4: clusters.a.discovery: static, but endpoint "web:80" is a name. Remove the setting or give IP addresses.',
    ),
    "statsd by UNIX socket": ("statsd: {transport: tcp}", 'f.yaml:1: statsd: statsd: give one of "address" and "tcp_cluster".'),
    "log format": ("access_log: {to: stdout, format: '%NOPE%'}", "f.yaml:1: access_log.format: Not supported field in StreamInfo: NOPE"),
    "log without a path": ("access_log: {to: syslog}", 'f.yaml:1: access_log: access log: to: syslog needs "path". Add it.'),
}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("route_tables: {t: {retry_budget: 20}}", "route_tables.t.retry_budget"),
        ("listeners: [{address: '127.0.0.1:1', respond: 200, http: {user_agent: x}}]", "listeners[0].http.user_agent"),
        ("listeners: [{address: '127.0.0.1:1', respond: 200, http: {service_node: x}}]", "listeners[0].http.service_node"),
    ],
)
def test_no_setting_that_nothing_honours(text: str, place: str) -> None:
    found = problems(text)

    assert len(found) == 1, found
    assert found[0].startswith(f"f.yaml:1: {place}: ")
    assert "has no setting" in found[0]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, told = REFUSED[name]

    assert problems(text) == [told]


REFUSED_ROUTES = {
    "nowhere": ("{prefix: /}", '"to", "redirect" or "respond"'),
    "two actions": ("{to: a, respond: 200}", '"to" and "respond" are both given'),
    "two paths": ("{prefix: /, path: /, to: a}", '"prefix" and "path" are both given'),
    "no slash": ("{prefix: x, to: a}", 'Write "/x"'),
    "segments": ("{segment_prefix: /x/, to: a}", "no run of path segments"),
    "regex": ("{regex: '(?=x)', to: a}", "not valid RE2"),
    "group": ("{to: a, regex_rewrite: {pattern: x, substitution: '\\1'}}", "group 1"),
    "forward settings of a redirect": ("{redirect: https, timeout: 5s}", '"timeout" has no meaning with "redirect"'),
    "regex and prefix": ("{regex: x, to: a, prefix_rewrite: /}", "no prefix to rewrite"),
    "weights": ("{to: {a: 0, b: 0}}", "sum up to 0"),
    "retry word": ("{to: a, retry: {on: 5xy}}", 'did you mean "5xx"'),
    "header name": ("{to: a, request_headers: {set: {'a b': x}}}", "no header name"),
    "header value": ('{to: a, request_headers: {set: {a: "x\\ny"}}}', "control character"),
    "host": ("{to: a, request_headers: {set: {host: x}}}", "host_rewrite"),
    "framing": ("{to: a, request_headers: {set: {content-length: 5}}}", "frames the message"),
    "status": ("{respond: 42}", "Use 200 to 599"),
    "base64": ("{respond: {body_base64: '?'}}", "no base64"),
    "method": ("{to: a, methods: 'GET,HEAD'}", "no method"),
    "condition": ("{to: a, match_headers: {x: {exact: a, range: [1, 2]}}}", "Keep one"),
    "empty range": ("{to: a, match_headers: {x: {range: [5, 5]}}}", "[200, 300]"),
}


@pytest.mark.parametrize("name", REFUSED_ROUTES)
def test_refused_routes(name: str) -> None:
    text, words = REFUSED_ROUTES[name]
    found = problems(f"listeners:\n- address: 127.0.0.1:1\n  routes:\n  - {text}\nclusters: {{a: [], b: []}}")

    assert len(found) == 1, found
    assert words in found[0]
    assert found[0].startswith("f.yaml:4: listeners[0].routes[0]"), found


def test_virtual_hosts_may_not_share() -> None:
    found = problems(
        "listeners:\n- address: 127.0.0.1:1\n  virtual_hosts:\n  - {name: a, domains: [x.com, 'y.com']}\n  - {name: a, domains: X.com}\n"
    )

    assert found == [
        'f.yaml:5: listeners[0].virtual_hosts[1]: virtual host "a" is there twice. Give each a name of its own.',
        'f.yaml:5: listeners[0].virtual_hosts[1].domains: domain "X.com" is also a domain of virtual host "a". Keep one.',
    ]


def test_all_problems_in_the_order_of_lines() -> None:
    found = problems("workers: x\nlog_level: y\nclusters:\n  a: {endpoints: 'x'}\n  b: {balance: z}\n")

    assert [line.split(": ")[0] for line in found] == ["f.yaml:1", "f.yaml:2", "f.yaml:4", "f.yaml:5"]


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder / "main.yaml")


def test_includes_are_gathered(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.yaml").write_text("clusters: {b: [10.0.0.2:80]}\nlog_level: debug\n")
    (tmp_path / "conf.d" / "a.yaml").write_text("clusters: {a: [10.0.0.1:80]}\ninclude: ../more.yaml\n")
    main = write(
        tmp_path,
        main="include: [conf.d/*.yaml]\nlisteners: [{address: '127.0.0.1:1', to: {a: 1, b: 1, c: 1}}]\n",
        more="clusters: {c: []}\n",
    )

    snapshot = load(main, {})

    assert [cluster.name for cluster in snapshot.clusters] == ["a", "c", "b"]
    assert snapshot.log_level == "debug"


def test_problems_name_the_included_file(tmp_path: Path) -> None:
    main = write(tmp_path, main="include: part.yaml\nclusters: {a: []}\nworkers: 2\n", part="\nclusters:\n  a: []\nworkers: 3\nbad: 1\n")

    with pytest.raises(ConfigError) as refused:
        load(main, {})

    part = tmp_path / "part.yaml"
    assert [(problem.file, problem.line, problem.path) for problem in refused.value.problems] == [
        (str(part), 3, "clusters.a"),
        (str(part), 4, "workers"),
        (str(part), 5, "bad"),
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"main": "include: main.yaml"}, "is included by itself"),
        ({"main": "include: b.yaml", "b": "include: main.yaml"}, "is included by itself"),
        ({"main": "include: nope.yaml"}, "is not there"),
        ({"main": "include: [b.yaml, 'b*.yaml']", "b": ""}, "is included twice"),
        ({"main": "include: b.yaml", "b": "a: ["}, "not valid YAML"),
    ],
)
def test_includes_that_are_refused(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(write(tmp_path, **files), {})


def test_a_pattern_may_match_nothing(tmp_path: Path) -> None:
    assert load(write(tmp_path, main="include: conf.d/*.yaml\n"), {}).clusters == ()
