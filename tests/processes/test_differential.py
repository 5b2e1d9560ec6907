"""meshproxy beside a real Envoy, both on one configuration: the origin must see the same request, the client the same answer.

Allowed differences are few and named: the case of header names (we keep it, Envoy lowers it), the order of headers of different
names, a list in one line or in several, what is different by nature (ids, dates, durations); in the place of a loopback client Envoy
names the machine's address; and those of `without_quirks`.
"""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports
from tests.processes.test_http1 import own_addresses
from tests.support.origin import OK, Origin, answer
from tests.support.processes import Node
from tests.support.wire import Answer, ask, get, post

Headers = dict[str, list[str]]


def add(name: str, value: str, action: str = "APPEND_IF_EXISTS_OR_ADD") -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": action}


ROUTES = [
    bootstrap.route("/plain", "origin"),
    bootstrap.route("/rewrite/", {"cluster": "origin", "prefix_rewrite": "/x/"}),
    bootstrap.route("/host", {"cluster": "origin", "host_rewrite_literal": "inner.test"}),
    bootstrap.route("/xfh", {"cluster": "origin", "host_rewrite_literal": "inner.test", "append_x_forwarded_host": True}),
    {
        "match": {"safe_regex": {"regex": "/re/[0-9]+"}},
        "route": {"cluster": "origin", "regex_rewrite": {"pattern": {"regex": "/re/([0-9]+)"}, "substitution": r"/number/\1"}},
    },
    bootstrap.route(
        "/edited", "origin",
        request_headers_to_add=[
            add("x-append", "route"), add("x-over", "route", "OVERWRITE_IF_EXISTS_OR_ADD"), add("x-absent", "route", "ADD_IF_ABSENT"),
            add("x-exists", "route", "OVERWRITE_IF_EXISTS"),
        ],
        request_headers_to_remove=["x-gone"],
        response_headers_to_add=[add("x-answer", "route"), add("x-origin", "route", "OVERWRITE_IF_EXISTS_OR_ADD")],
        response_headers_to_remove=["x-secret"],
    ),
    bootstrap.route("/timeout", {"cluster": "origin", "timeout": "7s"}),
    bootstrap.route("/notimeout", {"cluster": "origin", "timeout": "0s"}),
    bootstrap.route("/dead", "dead"),
    bootstrap.route("/nobody", "nobody"),
    bootstrap.route("/typo", {"cluster": "typo", "cluster_not_found_response_code": "NOT_FOUND"}),
    {"match": {"prefix": "/direct"}, "direct_response": {"status": 201, "body": {"inline_string": "made here"}}},
    {"match": {"prefix": "/bare"}, "direct_response": {"status": 204}},
    {"match": {"prefix": "/move"}, "redirect": {"host_redirect": "new.test", "path_redirect": "/there", "response_code": "FOUND"}},
    {"match": {"prefix": "/scheme"}, "redirect": {"scheme_redirect": "https", "port_redirect": 8443}},
    {"match": {"prefix": "/strip"}, "redirect": {"prefix_rewrite": "/stripped", "strip_query": True}},
    {
        "match": {"prefix": "/matched", "headers": [{"name": "x-want", "string_match": {"exact": "a,b"}}]},
        "direct_response": {"status": 200, "body": {"inline_string": "both"}},
    },
    bootstrap.route("/matched", "origin"),
]  # fmt: skip
HOST = bootstrap.virtual_host(
    ROUTES,
    request_headers_to_add=[add("x-append", "host"), add("x-over", "host", "OVERWRITE_IF_EXISTS_OR_ADD")],
    response_headers_to_add=[add("x-answer", "host")],
)
MANAGERS: dict[str, dict[str, Any]] = {
    "default": {},
    "edge": {"use_remote_address": True},
    "trusted-hop": {"use_remote_address": True, "xff_num_trusted_hops": 1},
    "skip-append": {"use_remote_address": True, "skip_xff_append": True},
    "inner-hop": {"xff_num_trusted_hops": 1},
    "via": {"via": "mesh.test", "server_name": "mesh", "use_remote_address": True},
    "server-append": {"server_header_transformation": "APPEND_IF_ABSENT"},
    "server-through": {"server_header_transformation": "PASS_THROUGH"},
    "no-request-id": {"generate_request_id": False},
    "keep-request-id": {"use_remote_address": True, "preserve_external_request_id": True, "always_set_request_id_in_response": True},
    "agent": {"add_user_agent": True},
    "paths": {"normalize_path": True, "merge_slashes": True, "strip_any_host_port": True},
    "http10": {"http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "old.test"}},
}
CHATTY = b"HTTP/1.1 200 OK\r\nServer: own/1\r\nX-Origin: 1\r\nX-Secret: 1\r\nVia: 1.1 behind\r\nContent-Length: 2\r\n\r\nok"
REQUESTS: dict[str, bytes] = {
    "plain": get("/plain"),
    "query": get("/plain/a%20b?x=%2F&y"),
    "forwarded": get(
        "/plain", "mesh.test", "X-Forwarded-For: 203.0.113.7, 198.51.100.9", "X-Forwarded-Proto: https", "X-Request-Id: abc",
        "X-Envoy-External-Address: 1.2.3.4", "X-Envoy-Internal: true", "X-Forwarded-Host: a.test", "Via: 1.0 front",
    ),
    "envoy-words": get(
        "/plain", "mesh.test", "X-Envoy-Upstream-Rq-Timeout-Ms: 9000", "X-Envoy-Max-Retries: 2", "X-Envoy-Retry-On: 5xx",
        "X-Envoy-Expected-Rq-Timeout-Ms: 1", "X-Envoy-Original-Path: /lie",
    ),
    "post": post(b"body", "/plain", "Content-Type: text/plain"),
    "chunked": get("/plain", "mesh.test", "Transfer-Encoding: chunked", method="POST") + b"4\r\nbody\r\n0\r\n\r\n",
    "hop-by-hop": get("/plain", "mesh.test", "Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: 3", "TE: trailers", "Trailer: x"),
    "proxy-headers": get("/plain", "mesh.test", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic x", "User-Agent: test/1"),
    "close": get("/plain", "mesh.test", "Connection: close"),
    "cookies": get("/plain", "mesh.test", "Cookie: a=1", "Cookie: b=2", "Accept: */*"),
    "port": get("/plain", "mesh.test:8080"),
    "rewrite": get("/rewrite/page?x=1"),
    "regex": get("/re/42?x=1"),
    "host": get("/host"),
    "forwarded-host": get("/xfh"),
    "edited": get("/edited", "mesh.test", "X-Append: client", "X-Over: client", "X-Absent: client", "X-Exists: client", "X-Gone: 1"),
    "edited-bare": get("/edited"),
    "timeout": get("/timeout"),
    "no-timeout": get("/notimeout"),
    "dead": get("/dead"),
    "nobody": get("/nobody"),
    "typo": get("/typo"),
    "direct": get("/direct"),
    "bare": get("/bare"),
    "move": get("/move/x?y=1"),
    "scheme": get("/scheme/x?y=1", "mesh.test:8080"),
    "strip": get("/strip/x?y=1"),
    "two-values": get("/matched", "mesh.test", "X-Want: a", "X-Want: b"),
    "one-value": get("/matched", "mesh.test", "X-Want: a"),
    "nowhere": get("/nowhere"),
    "dots": get("/plain/../plain//x/./y"),
    "head": get("/plain", method="HEAD"),
    "options": get("/plain", method="OPTIONS"),
    "delete": get("/plain", method="DELETE"),
    "absolute": get("http://other.test/plain"),
    "old": b"GET /plain HTTP/1.0\r\nHost: mesh.test\r\n\r\n",
    "older": b"GET /plain HTTP/1.0\r\n\r\n",
}
LISTS = {"via", "x-forwarded-for"}
"""Headers that Envoy appends to within the line and we by a line of our own: the same list (RFC 9110 5.3)."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What became of a request, without what differs by nature."""

    target: str | None
    method: str | None
    request_headers: Headers
    request_body: bytes
    status: int
    answer_headers: Headers
    answer_body: bytes


def normal(headers: list[tuple[str, str]]) -> Headers:
    """Values by lower-case name, in their order; what differs by nature replaced by a word."""
    found: Headers = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(_normal_value(name.lower(), value))
    return {name: [", ".join(values)] if name in LISTS else values for name, values in found.items()}


def without_quirks(theirs: Seen) -> Seen:
    """What Envoy does and we do not, on purpose.

    A direct response of 201 gets a Location of the request's own URL, for Envoy makes it as it makes redirects. An OPTIONS without a
    body gets a Content-Length of 0, which RFC 9110 8.6 asks for only where the method foresees content.
    """
    answer_headers, request_headers = dict(theirs.answer_headers), dict(theirs.request_headers)
    if theirs.status == 201 and theirs.target is None:
        answer_headers.pop("location", None)
    if theirs.method == "OPTIONS" and request_headers.get("content-length") == ["0"]:
        request_headers.pop("content-length")
    return dataclasses.replace(theirs, answer_headers=answer_headers, request_headers=request_headers)


def _normal_value(name: str, value: str) -> str:
    if name == "x-request-id" and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        return "<uuid>"
    if name == "date":
        return "<date>"
    if name == "x-envoy-upstream-service-time":
        return "<ms>"
    if name in ("x-forwarded-for", "x-envoy-external-address"):
        return ",".join("<client>" if part.strip() in own_addresses() else part.strip() for part in value.split(","))
    if name == "user-agent" and value in ("envoy", "meshproxy", socket.gethostname()):
        return "<proxy>"
    return value


def observe(port: int, origin: Origin, request: bytes) -> Seen:
    while not origin.seen.empty():
        origin.seen.get_nowait()
    said: Answer = ask(port, request)
    seen = None if origin.seen.empty() else origin.seen.get_nowait()
    return Seen(
        seen and seen.target, seen and seen.method, normal(seen.headers) if seen else {}, seen.body if seen else b"",
        said.status, normal(said.headers), said.body,
    )  # fmt: skip


def config(ports: list[int], origin_port: int, dead: int) -> dict[str, Any]:
    listeners = [
        bootstrap.http_listener(name, port, [HOST], **manager) for (name, manager), port in zip(MANAGERS.items(), ports, strict=True)
    ]
    # A cluster that is not there is what /typo asks about; Envoy refuses it in a static table unless told otherwise.
    for listener in listeners:
        listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["validate_clusters"] = False
    clusters = [bootstrap.cluster("origin", origin_port), bootstrap.cluster("dead", dead), bootstrap.cluster("nobody")]
    return bootstrap.bootstrap(listeners, clusters, node={"id": "node-1", "cluster": "fleet"})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, on_envoy: bool) -> Iterator[tuple[dict[str, int], dict[str, int], Origin]]:
    """Ports by manager of Envoy and of meshproxy, and their origin."""
    directory = tmp_path_factory.mktemp("pair")
    with Origin(answer(CHATTY)) as origin:
        dead, *ports = free_ports(1 + len(MANAGERS))
        try:
            envoy = Envoy(directory / "envoy", config(ports, origin.port, dead), ports)
        except PeerMissingError as error:
            pytest.skip(str(error))
        with envoy:
            theirs = dict(zip(MANAGERS, ports, strict=True))
            if on_envoy:
                yield theirs, theirs, origin
                return
            with Node(directory / "node", config([0] * len(MANAGERS), origin.port, dead)) as node:
                rows = node.status()["listeners"]
                yield theirs, {row["name"]: int(row["addresses"][0].rsplit(":", 1)[1]) for row in rows}, origin


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("manager", MANAGERS)
def test_same_as_envoy(pair: tuple[dict[str, int], dict[str, int], Origin], manager: str, request_name: str) -> None:
    theirs, ours, origin = pair
    request = REQUESTS[request_name]
    expected = observe(theirs[manager], origin, request)
    actual = observe(ours[manager], origin, request)

    assert dataclasses.asdict(actual) == dataclasses.asdict(without_quirks(expected))


ORIGINS: dict[str, bytes] = {
    "ok": OK,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "created": b"HTTP/1.1 201 Created\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    "no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not-modified": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    "own-reason": b"HTTP/1.1 299 Strange\r\nContent-Length: 0\r\n\r\n",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "date": b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
    "hop-by-hop": b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=3\r\nProxy-Connection: x\r\nContent-Length: 0\r\n\r\n",
    "envoy-words": b"HTTP/1.1 200 OK\r\nX-Envoy-Upstream-Service-Time: 5\r\nX-Envoy-Overloaded: true\r\nContent-Length: 0\r\n\r\n",
    "server-error": b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad",
    "both-framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "nonsense": b"BOO\r\n\r\n",
}


@pytest.mark.parametrize("script", ORIGINS)
def test_same_answers_as_envoy(pair: tuple[dict[str, int], dict[str, int], Origin], script: str) -> None:
    theirs, ours, origin = pair
    origin.script = answer(ORIGINS[script])
    try:
        expected = observe(theirs["default"], origin, get("/plain"))
        actual = observe(ours["default"], origin, get("/plain"))
    finally:
        origin.script = answer(CHATTY)

    assert dataclasses.asdict(actual) == dataclasses.asdict(expected)
