"""Spans end to end: a real Zipkin behind two nodes in a row, Envoy beside us, an OpenTelemetry receiver, collectors that fail."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.peers import bootstrap
from tests.peers.collector import Collector
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports
from tests.peers.zipkin import Zipkin
from tests.support.certificates import Authority
from tests.support.origin import OK, Connection, Origin, Request, answer
from tests.support.processes import Node, wait_until
from tests.support.wire import Client

LIMIT_S = 15.0
TRACE = "463ac35c9f6413ad48485a3953bb6124"
SPAN = "a2fb4a1d1a96d312"
UUID = "00000000-0000-4000-8000-000000000000"
MULTI = {"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-parentspanid": "0020000000000001", "x-b3-sampled": "1"}
ZIPKIN = "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig"
OTEL = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(answer(OK)) as standing:
        yield standing


@pytest.fixture(scope="module")
def zipkin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zipkin]:
    try:
        server = Zipkin(tmp_path_factory.mktemp("zipkin"))
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    with server:
        yield server


def request(path: str = "/", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nhost: mesh.example\r\n{lines}\r\n".encode()


def ask_many(port: int, count: int, message: bytes) -> None:
    with Client(port) as client:
        for _ in range(count):
            client.send(message)
            assert client.answer().status == 200


def node_of(
    directory: Path, service: str, to: int, tracing: dict[str, Any], clusters: dict[str, Any] | None = None, **more: Any
) -> Node:
    config = {
        "node": {"id": f"{service}-1", "cluster": service},
        "clusters": clusters or {"next": f"127.0.0.1:{to}"},
        "listeners": [{"name": "in", "address": "127.0.0.1:0", "to": "next", "http": {"tracing": tracing}, **more}],
        "admin": "127.0.0.1:0",
    }
    directory.mkdir(parents=True, exist_ok=True)
    return Node(directory, yaml.safe_dump(config), workers=2)


def counters_of(node: Node) -> dict[str, int]:
    text = requests.get(f"http://{node.status()['admin']}/stats?filter=tracing", timeout=LIMIT_S).text
    return {name: int(value) for name, _, value in (line.partition(": ") for line in text.splitlines())}


@pytest.mark.parametrize("encoding", ["json", "proto"])
@pytest.mark.parametrize("spawns", [True, False])
def test_zipkin_has_each_request_of_two_nodes_as_one_trace(
    zipkin: Zipkin, origin: Origin, tmp_path: Path, long_run: bool, encoding: str, spawns: bool
) -> None:
    count = 10_000 if long_run else 200
    first, second = f"first-{encoding}-{spawns}".lower(), f"second-{encoding}-{spawns}".lower()
    tracing = {"zipkin": {"url": zipkin.url, "encoding": encoding}, "trace_id_128bit": True, "spawn_upstream_span": spawns}
    with node_of(tmp_path / "b", second, origin.port, tracing) as far, node_of(tmp_path / "a", first, far.port_of("in"), tracing) as near:
        ask_many(near.port_of("in"), count, request("/a?b=1"))
        whole = 4 if spawns else 2

        def all_there() -> bool:
            return sum(len(trace) == whole for trace in zipkin.traces(first, count * 2)) == count

        wait_until(all_there, LIMIT_S)
    traces = zipkin.traces(first, count * 2)
    assert len(traces) == count
    for trace in traces:
        mine, theirs = ([span for span in trace if span["localEndpoint"]["serviceName"] == name] for name in (first, second))
        assert {span["kind"] for span in mine} == ({"SERVER", "CLIENT"} if spawns else {"SERVER"})
        root = next(span for span in mine if span["kind"] == "SERVER")
        joined = next(span for span in theirs if span["kind"] == "SERVER")
        assert "parentId" not in root
        assert len(root["traceId"]) == 32
        sent = next(span for span in mine if span["kind"] == "CLIENT") if spawns else root
        assert joined["id"] == sent["id"]
        assert joined.get("parentId") == (root["id"] if spawns else None)
        assert joined["shared"] is True
        assert root["name"] == "mesh.example"
        assert root["tags"]["http.url"] == "http://mesh.example/a?b=1"


def test_children_when_spans_are_not_shared(zipkin: Zipkin, origin: Origin, tmp_path: Path) -> None:
    tracing = {"zipkin": zipkin.url, "shared_span_context": False}
    with node_of(tmp_path / "b", "leaf", origin.port, tracing) as far, node_of(tmp_path / "a", "stem", far.port_of("in"), tracing) as near:
        ask_many(near.port_of("in"), 1, request())
        (trace,) = wait_until(lambda: [each for each in zipkin.traces("stem", 10) if len(each) == 2], LIMIT_S)
    by_service = {span["localEndpoint"]["serviceName"]: span for span in trace}

    assert by_service["leaf"]["parentId"] == by_service["stem"]["id"]


# ---- Envoy beside us ----


RETRY = {"retry_on": "5xx,reset,connect-failure", "num_retries": 1, "per_try_timeout": "0.3s"}


def by_path(connection: Connection, request: Request) -> None:
    """Paths whose first try fails, each in its way; all else is answered."""
    first = request.header("x-envoy-attempt-count") == "1"
    if request.target == "/always" or (first and request.target == "/once"):
        connection.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno")
    elif first and request.target == "/empty":
        connection.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    elif first and request.target in ("/hang", "/long"):
        connection.rest()
    elif first and request.target == "/cut":
        connection.close()
    elif request.target.startswith("/grpc"):
        head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n"
        connection.send(f"{head}grpc-status: {request.target[5:]}\r\ngrpc-message: m\r\n\r\n".encode())
    else:
        connection.send(OK)


def scene(origin_port: int, collector_port: int, port: int, admin_port: int, log: Path | None = None, **tracing: Any) -> dict:
    provider = {
        "@type": ZIPKIN, "collector_cluster": "collector", "collector_endpoint": "/api/v2/spans", "collector_endpoint_version": "HTTP_JSON",
    }
    settings = {"provider": {"name": "envoy.tracers.zipkin", "typed_config": provider}, **tracing}
    routes = [
        bootstrap.route("/named", "origin", decorator={"operation": "getThing"}),
        bootstrap.route("/never", "origin", tracing={"random_sampling": {"numerator": 0}}),
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 503}},
        bootstrap.route("/long", {"cluster": "origin", "timeout": "0.3s"}),
        bootstrap.route("/dead", {"cluster": "dead", "retry_policy": RETRY}),
        bootstrap.route("/nobody", "nobody"),
        *(bootstrap.route(f"/{path}", {"cluster": "origin", "retry_policy": RETRY}) for path in ("once", "always", "empty", "hang", "cut")),
        bootstrap.route("/", "origin"),
    ]
    host = bootstrap.virtual_host(routes, include_request_attempt_count=True)
    logs = [] if log is None else [bootstrap.file_log(str(log), "%REQ(:PATH)% %TRACE_ID%\n")]
    listener = bootstrap.http_listener("in", port, [host], tracing=settings, access_log=logs)
    clusters = [
        bootstrap.cluster("origin", origin_port), bootstrap.cluster("collector", collector_port), bootstrap.cluster("dead", 1),
        bootstrap.cluster("nobody"),
    ]  # fmt: skip
    return bootstrap.bootstrap([listener], clusters, admin_port, node={"id": "n1", "cluster": "web"})


TAGS = [
    {"tag": "fixed", "literal": {"value": "v"}},
    {"tag": "asked", "request_header": {"name": "x-who", "default_value": "nobody"}},
]
SPAWN = {"spawn_upstream_span": True}
GRPC = {"content-type": "application/grpc"}
CASES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "root": ("/", {}, {}),
    "multi": ("/", MULTI, {}),
    "multi without parent": ("/", {name: value for name, value in MULTI.items() if "parent" not in name}, {}),
    "64 bits": ("/", {**MULTI, "x-b3-traceid": TRACE[16:]}, {}),
    "not sampled": ("/", {**MULTI, "x-b3-sampled": "0"}, {}),
    "only the decision": ("/", {"x-b3-sampled": "0"}, {}),
    "spawned": ("/", MULTI, {"spawn_upstream_span": True}),
    "sampled by nobody": ("/", {"x-request-id": UUID}, {"random_sampling": {"value": 0}}),
    "client forced": ("/", {"x-request-id": UUID, "x-client-trace-id": "c1"}, {"random_sampling": {"value": 0}}),
    "overall": ("/", {"x-request-id": UUID}, {"overall_sampling": {"value": 0}}),
    "marked before": ("/", {"x-request-id": UUID[:14] + "9" + UUID[15:]}, {"random_sampling": {"value": 0}}),
    "marked and limited": ("/", {"x-request-id": UUID[:14] + "a" + UUID[15:]}, {"overall_sampling": {"value": 0}}),
    "forced by a stranger": ("/", {"x-request-id": UUID, "x-envoy-force-trace": "1"}, {"random_sampling": {"value": 0}}),
    "no uuid": ("/", {"x-request-id": "seven"}, {}),
    "route never": ("/never", {"x-request-id": UUID}, {}),
    "decorated": ("/named", {"x-request-id": UUID}, {}),
    "told operation": ("/named", {"x-request-id": UUID, "x-envoy-decorator-operation": "told"}, {}),
    "direct": ("/direct", {"x-request-id": UUID}, {}),
    "tags": ("/x?y=1", {"x-request-id": UUID, "user-agent": "a", "x-who": "me"}, {"custom_tags": TAGS}),
    "single": ("/", {"b3": f"{TRACE}-{SPAN}-1-0020000000000001"}, {}),
    "single, spawned": ("/", {"b3": f"{TRACE[16:]}-{SPAN}-1"}, SPAWN),
    "single decision": ("/", {"b3": "0"}, {}),
    "tried again": ("/once", {}, SPAWN),
    "tried in vain": ("/always", {}, SPAWN),
    "tried again after a head alone": ("/empty", {}, SPAWN),
    "tried again after a timeout": ("/hang", {}, SPAWN),
    "tried again after a cut": ("/cut", {}, SPAWN),
    "too late": ("/long", {}, SPAWN),
    "nobody listens": ("/dead", {}, SPAWN),
    "no endpoint": ("/nobody", {}, SPAWN),
    "tried again, one span": ("/once", {}, {}),
    "grpc": ("/grpc0", GRPC, SPAWN),
    "grpc of a client's fault": ("/grpc5", GRPC, SPAWN),
    "grpc of a server's fault": ("/grpc14", {**GRPC, "grpc-timeout": "5S"}, SPAWN),
    "grpc, no endpoint": ("/nobody", GRPC, {}),
    "default tags": ("/x", {"x-request-id": UUID}, {"custom_tags": TAGS, "max_path_tag_length": 1}),
}
B3 = ("b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-request-id", "x-envoy-decorator-operation")


def shape(value: str | None, given: dict[str, str]) -> str | None:
    """What was given, or the form of what was made by chance."""
    if value is None or value in given.values() or len(value) < 16:
        return value
    kept = [each for each in given.values() if len(each) >= 16]
    return re.sub("|".join([*map(re.escape, kept), TRACE, SPAN, "[0-9a-f]"]), lambda found: found[0] if len(found[0]) > 1 else "h", value)


def seen(
    port: int, origin: Origin, collector: Collector, log: Path, path: str, headers: dict[str, str], spawned: bool
) -> dict[str, Any]:
    """Headers passed on by each try, the client's answer, the line of the access log and the spans of one request."""
    before = len(collector.zipkin_spans())
    with Client(port) as client:
        client.send(request(path, **headers))
        answered = client.answer()
        told = answered.header("x-envoy-decorator-operation")
    passed = []
    while origin.seen.qsize():
        arrived = origin.next_request()
        passed.append({name: shape(arrived.header(name), headers) for name in B3})
    # A second request that is surely traced comes after: its spans say that those of the first are all there.
    mark = {"x-b3-traceid": "00000000000000aa", "x-b3-spanid": "00000000000000bb", "x-b3-sampled": "1"}
    with Client(port) as client:
        client.send(request("/mark", **mark))
        client.answer()
    if origin.seen.qsize():
        origin.next_request()

    def marked() -> bool:
        return sum(span["traceId"].endswith("00000000000000aa") for span in collector.zipkin_spans()[before:]) >= 1 + spawned

    wait_until(marked, LIMIT_S)
    spans = [span for span in collector.zipkin_spans()[before:] if not span["traceId"].endswith("00000000000000aa")]
    shown = []
    for span in sorted(spans, key=lambda each: (each["kind"], each["tags"].get("retry.count", "")), reverse=True):
        tags = {name: shape(value, headers) for name, value in span["tags"].items()}
        for name in ("peer.address", "upstream_address"):
            tags[name] = re.sub(r":\d+$", ":port", tags.get(name) or "")
        tags["response_flags"] = ",".join(sorted(tags["response_flags"].split(",")))
        ids = {name: shape(span.get(name), headers) for name in ("traceId", "id", "parentId")}
        shown.append({"name": span["name"], "kind": span["kind"], "service": span["localEndpoint"]["serviceName"], **ids, "tags": tags})
    line = wait_until(lambda: log.read_text() if log.exists() else "", LIMIT_S).splitlines()[0]
    return {"passed": passed, "told": told, "status": answered.status, "logged": shape(line, headers), "spans": shown}


@pytest.mark.parametrize("case", CASES)
def test_as_envoy(tmp_path: Path, case: str) -> None:
    path, headers, tracing = CASES[case]
    spawned = tracing.get("spawn_upstream_span", False)
    logs = tmp_path / "ours.log", tmp_path / "envoy.log"
    with Collector() as collector, Origin(by_path) as origin:
        config = scene(origin.port, collector.port, 0, 0, logs[0], **tracing)
        with Node(tmp_path / "ours", config) as ours:
            got = seen(ours.port_of("in"), origin, collector, logs[0], path, headers, spawned)
        try:
            ports = free_ports(2)
            config = scene(origin.port, collector.port, *ports, logs[1], **tracing)
            config["layered_runtime"] = {"layers": [{"name": "at once", "static_layer": {"tracing.zipkin.min_flush_spans": 1}}]}
            (tmp_path / "envoy").mkdir()
            with Envoy(tmp_path / "envoy", config, ports) as envoy:
                wanted = seen(envoy.port, origin, collector, logs[1], path, headers, spawned)
        except PeerMissingError as missing:
            pytest.skip(str(missing))

    assert got == wanted


# ---- other forms ----


def test_w3c_and_b3_single_in_and_out(origin: Origin, tmp_path: Path) -> None:
    given = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    with Collector() as collector:
        tracing = {"zipkin": collector.url, "propagation": ["b3_single", "w3c"], "spawn_upstream_span": True}
        with node_of(tmp_path / "n", "web", origin.port, tracing) as node:
            ask_many(node.port_of("in"), 1, request(**given))
            passed = origin.next_request()
            spans = wait_until(lambda: collector.zipkin_spans(), LIMIT_S)
    client = next(span for span in spans if span["kind"] == "CLIENT")

    assert passed.header("traceparent") == f"00-{TRACE}-{client['id']}-01"
    assert passed.header("b3") == f"{TRACE}-{client['id']}-1-{SPAN}"
    assert passed.header("tracestate") == "vendor=1"
    assert passed.header("x-b3-traceid") is None
    assert client["parentId"] == SPAN


def test_opentelemetry_gets_the_spans_as_its_own_messages_say(origin: Origin, tmp_path: Path) -> None:
    with Collector() as collector:
        service = {
            "http_uri": {"uri": "http://otel.example/v1/traces", "cluster": "collector", "timeout": "1s"},
            "request_headers_to_add": [{"header": {"key": "x-key", "value": "k"}}],
        }
        provider = {"@type": OTEL, "http_service": service, "service_name": "shop"}
        tracing = {"provider": {"name": "otel", "typed_config": provider}, "spawn_upstream_span": True}
        listener = bootstrap.http_listener("in", 0, [bootstrap.virtual_host([bootstrap.route("/", "origin")])], tracing=tracing)
        clusters = [bootstrap.cluster("origin", origin.port), bootstrap.cluster("collector", collector.port)]
        with Node(tmp_path, bootstrap.bootstrap([listener], clusters)) as node:
            ask_many(node.port_of("in"), 1, request("/a", traceparent=f"00-{TRACE}-{SPAN}-01"))
            passed = origin.next_request()
            wait_until(lambda: collector.bodies, LIMIT_S)
    path, head = collector.heads[0]
    message = ExportTraceServiceRequest.FromString(collector.bodies[0])
    (resource,) = message.resource_spans
    # The messages at hand are of a time when a scope was called an instrumentation library; the wire is the same.
    scopes = getattr(resource, "scope_spans", None) or resource.instrumentation_library_spans
    server, client = scopes[0].spans

    assert (path, head["host"], head["x-key"], head["content-type"]) == ("/v1/traces", "otel.example", "k", "application/x-protobuf")
    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {"service.name": "shop"}
    assert (server.trace_id.hex(), server.parent_span_id.hex(), server.kind) == (TRACE, SPAN, 2)
    assert (client.trace_id.hex(), client.parent_span_id, client.kind) == (TRACE, server.span_id, 3)
    assert passed.header("traceparent") == f"00-{TRACE}-{client.span_id.hex()}-01"
    assert {each.key: each.value.string_value for each in server.attributes}["http.url"] == "http://mesh.example/a"
    assert server.start_time_unix_nano <= client.start_time_unix_nano < client.end_time_unix_nano <= server.end_time_unix_nano


def test_http2_clients_too(origin: Origin, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with Collector() as collector, node_of(tmp_path / "n", "web", origin.port, {"zipkin": collector.url}) as node:
        url = f"http://127.0.0.1:{node.port_of('in')}/two"
        headers = [part for name, value in MULTI.items() for part in ("-H", f"{name}: {value}")]
        done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", *headers, url], capture_output=True, text=True, timeout=LIMIT_S)
        assert done.stdout == "ok", done.stderr
        passed = origin.next_request()
        (span,) = wait_until(lambda: collector.zipkin_spans(), LIMIT_S)

    assert {name: passed.header(name) for name in MULTI} == MULTI
    assert (span["traceId"], span["id"], span["tags"]["http.protocol"], span["shared"]) == (TRACE, SPAN, "HTTP/2", True)


@pytest.mark.parametrize("mode", ["hang", "refuse", "away"])
def test_a_collector_that_fails_costs_spans_and_no_request(origin: Origin, tmp_path: Path, mode: str) -> None:
    with Collector(mode) as collector:
        port = free_ports(1)[0] if mode == "away" else collector.port
        tracing = {"zipkin": {"url": f"http://127.0.0.1:{port}", "timeout": "200ms"}}
        with node_of(tmp_path / "n", "web", origin.port, tracing) as node:
            ask_many(node.port_of("in"), 600, request())
            lost = "reports_dropped" if mode == "refuse" else "reports_failed"
            wait_until(lambda: counters_of(node).get(f"tracing.zipkin.{lost}", 0) > 0, LIMIT_S)
            ask_many(node.port_of("in"), 10, request())
            assert counters_of(node)["tracing.zipkin.spans_sent"] == 0


@pytest.mark.parametrize("name", ["collector.test", "other.test"])
def test_a_collector_over_tls_is_who_its_cluster_says(origin: Origin, tmp_path: Path, name: str) -> None:
    authority = Authority()
    cert, key = authority.issue("collector.test").write(tmp_path, "collector")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with Collector(tls=context) as collector:
        clusters = {
            "next": f"127.0.0.1:{origin.port}",
            "spans": {"endpoints": f"127.0.0.1:{collector.port}", "tls": {"ca": str(tmp_path / "ca.pem"), "sni": name, "sans": [name]}},
        }
        tracing = {"zipkin": {"cluster": "spans"}}
        with node_of(tmp_path / "n", "web", origin.port, tracing, clusters) as node:
            ask_many(node.port_of("in"), 3, request())
            if name == "collector.test":
                assert wait_until(lambda: len(collector.zipkin_spans()) == 3, LIMIT_S), node.output()[-2000:]
            else:
                assert wait_until(lambda: counters_of(node).get("tracing.zipkin.reports_failed", 0) > 0, LIMIT_S)
                assert collector.bodies == []


def test_an_unknown_endpoint_is_counted(origin: Origin, tmp_path: Path) -> None:
    config = scene(origin.port, 1, 0, 0)
    config["static_resources"]["clusters"][1] = bootstrap.cluster("collector")
    with Node(tmp_path, config) as node:
        ask_many(node.port_of("in"), 1, request())
        wait_until(lambda: counters_of(node).get("tracing.zipkin.reports_skipped_no_cluster", 0) > 0, LIMIT_S)
