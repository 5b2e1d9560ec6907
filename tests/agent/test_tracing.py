"""Records of spans reach the collectors that their numbers stand for; a collector that is not well costs spans, which are counted."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

import gevent
import msgspec
import pytest
from gevent.server import StreamServer

from meshproxy.agent import tracing as agent_tracing
from meshproxy.agent.tracing import Collectors, RecordSinks, Reporter
from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.ipc.messages import Configure, Directory, NodeSettings
from meshproxy.model import (
    Cluster,
    Endpoint,
    FilterChain,
    HttpConnectionManager,
    Listener,
    Node,
    Resource,
    ResourceKind,
    SocketAddress,
    Stats,
    Tracing,
)
from meshproxy.model.snapshot import pack
from meshproxy.scoreboard.region import Region
from tests.cli.node import node_state
from tests.peers.collector import Collector
from tests.peers.process import free_ports
from tests.telemetry.test_spans import record

LIMIT_S = 15.0
OF_CLUSTER = Tracing(exporter="zipkin_json", cluster="zipkin", path="/api/v2/spans", timeout_s=5.0)


class Journal:
    def __init__(self) -> None:
        self.warnings: list[dict] = []

    def warning(self, event: str, **fields: object) -> None:
        self.warnings.append(fields)


class Lines:
    """Access logs that keep what they get."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes]] = []

    def write(self, sink: int, data: bytes | bytearray) -> None:
        self.written.append((sink, bytes(data)))


def listener(tracing: Tracing | None, **blocks: int) -> Resource:
    chain = FilterChain(terminal=HttpConnectionManager(stat_prefix="in", route_table="r", tracing=tracing))
    made = pack(ResourceKind.LISTENER, "in", Listener(name="in", addresses=(SocketAddress(host="127.0.0.1", port=1),), chains=(chain,)))
    return msgspec.structs.replace(made, blocks={name.replace("_", ":"): number for name, number in blocks.items()})


def cluster(*ports: int) -> Resource:
    endpoints = tuple(Endpoint(address=SocketAddress("127.0.0.1", port)) for port in ports)
    return pack(ResourceKind.CLUSTER, "zipkin", Cluster(name="zipkin", endpoints=endpoints))


@pytest.fixture
def view() -> NodeView:
    return NodeView(Region.create(1), "1", [], NodeSettings(node=Node(), stats=Stats()), Directory([]), node_state())


@pytest.fixture
def collectors(view: NodeView) -> Iterator[Collectors]:
    made = Collectors(view, lambda host, family: pytest.fail("nothing is to be looked up"), Journal())
    yield made
    made.stop()


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(LIMIT_S):
        while not condition():
            gevent.sleep(0.01)


def test_spans_go_to_an_endpoint_of_the_cluster(view: NodeView, collectors: Collectors) -> None:
    with Collector() as zipkin:
        view.configure(Configure(version="2", upserts=[cluster(zipkin.port), listener(OF_CLUSTER, log_trace_0=7)]))
        collectors.configure()
        assert collectors.any_named
        collectors.write(7, record(0, [("url", b"/a")]) + record(8, [("url", b"/b")]))
        until(lambda: collectors.counters()["tracing.zipkin.spans_sent"] == 3)

        assert [span["tags"].get("http.url") for span in zipkin.zipkin_spans()] == ["/a", "/b", None]
        assert zipkin.heads[0][0] == "/api/v2/spans"
    assert collectors.counters() == {
        "tracing.zipkin.spans_sent": 3, "tracing.zipkin.spans_dropped": 0, "tracing.zipkin.timer_flushed": 1, "tracing.zipkin.reports_sent": 1,
        "tracing.zipkin.reports_dropped": 0, "tracing.zipkin.reports_failed": 0, "tracing.zipkin.reports_skipped_no_cluster": 0,
    }


def test_an_endpoint_that_is_gone_gets_no_more(view: NodeView, collectors: Collectors) -> None:
    with Collector() as first, Collector() as second:
        view.configure(Configure(version="2", upserts=[cluster(first.port), listener(OF_CLUSTER, log_trace_0=7)]))
        collectors.configure()
        collectors.write(7, record(0, []))
        until(lambda: first.bodies)
        view.configure(Configure(version="3", upserts=[cluster(second.port)]))
        collectors.write(7, record(0, []))
        until(lambda: second.bodies)

        assert len(first.bodies) == 1


def test_a_number_that_went_to_an_access_log_is_no_spans(view: NodeView, collectors: Collectors) -> None:
    lines = Lines()
    sinks = RecordSinks(lines, collectors)
    view.configure(Configure(version="2", upserts=[listener(OF_CLUSTER, log_trace_0=7)]))
    collectors.configure()
    view.configure(Configure(version="3", upserts=[listener(None)]))
    collectors.configure()
    sinks.write(7, record(0, []))
    assert lines.written == []
    view.configure(Configure(version="4", upserts=[listener(None, log_0_0=7)]))
    collectors.configure()
    sinks.write(7, b"a line\n")

    assert lines.written == [(7, b"a line\n")]
    assert collectors.counters()["tracing.zipkin.spans_dropped"] == 1
    assert not collectors.any_named


def test_what_nobody_names_is_let_go_after_a_while(view: NodeView, collectors: Collectors) -> None:
    view.configure(Configure(version="2", upserts=[listener(OF_CLUSTER, log_trace_0=7)]))
    collectors.configure()
    view.configure(Configure(version="3", removes=[(ResourceKind.LISTENER, "in")]))
    collectors.configure()
    collectors.sweep(monotonic_s())
    assert collectors.takes(7)
    collectors.sweep(monotonic_s() + agent_tracing.LINGER_S)

    assert not collectors.takes(7)
    assert collectors.counters()["tracing.zipkin.spans_sent"] == 0


def test_what_a_collector_does_not_take_in_time_is_dropped_unread(
    view: NodeView, collectors: Collectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_tracing, "MOST_QUEUED", 3)
    monkeypatch.setattr(agent_tracing, "BATCH_RECORDS", 1)
    with Collector("hang") as zipkin:
        view.configure(Configure(version="2", upserts=[cluster(zipkin.port), listener(OF_CLUSTER, log_trace_0=7)]))
        collectors.configure()
        collectors.write(7, record(0, []))
        until(zipkin.came.is_set)
        collectors.write(7, record(0, []) * 4 + record(8, []))
        assert collectors.counters()["tracing.zipkin.spans_dropped"] == 1 + 2
        monkeypatch.setattr(agent_tracing, "MOST_QUEUED", 100)
        monkeypatch.setattr(agent_tracing, "MOST_QUEUED_BYTES", 1)
        collectors.write(7, record(0, []))

        assert collectors.counters()["tracing.zipkin.spans_dropped"] == 1 + 2 + 1


ANSWERS = {
    b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n": ("reports_sent", 1),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n": ("reports_sent", 1),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": ("reports_sent", 1),
    b"HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n": ("reports_sent", 2),
    b"HTTP/1.0 200 OK\r\n\r\n": ("reports_sent", 2),
    b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n": ("reports_dropped", 1),
    b"SSH-2.0-x\r\n": ("reports_failed", 2),
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n": ("reports_failed", 2),
    b"": ("reports_failed", 2),
}


def head_of(file: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return b""
        head += line
    return head


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_a_collector_says(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_tracing, "FIRST_PAUSE_S", 0.001)
    counted, connections = ANSWERS[answer]
    seen: list[int] = []

    def serve(sock: gevent.socket.socket, _: object) -> None:
        seen.append(1)
        file = sock.makefile("rb")
        while head := head_of(file):
            file.read(int(head.lower().partition(b"content-length: ")[2].split()[0]))
            if not answer:
                return
            sock.sendall(answer)

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    made = Tracing(exporter="zipkin_json", url=f"http://127.0.0.1:{server.server_port}/")
    reporter = Reporter(made, lambda tracing: [SocketAddress("127.0.0.1", server.server_port)], Journal())
    try:
        for times in (1, 2):
            reporter.put(record(0, []))
            until(lambda times=times: reporter.counted[counted] == times)
        assert len(seen) == connections
    finally:
        reporter.close()
        server.stop()


def test_nobody_at_home() -> None:
    journal = Journal()
    (port,) = free_ports(1)
    reporter = Reporter(Tracing(exporter="otlp", url=f"http://127.0.0.1:{port}"), lambda tracing: [SocketAddress("127.0.0.1", port)], journal)
    reporter.put(record(0, []))
    until(lambda: reporter.counted["reports_failed"])
    reporter.close()

    assert reporter.counted["spans_dropped"] == 1
    assert reporter.kind == "opentelemetry"
    assert len(journal.warnings) == 1


def test_a_records_size_is_checked() -> None:
    reporter = Reporter(OF_CLUSTER, lambda tracing: [], Journal())
    reporter.put(struct.pack("<I", 1 << 30) + bytes(200))
    reporter.finish()
    reporter.close()

    assert set(reporter.counted.values()) == {0}
