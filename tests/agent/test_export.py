"""statsd export over real sockets: what an interval added, sent once, to every server, across reloads and absences."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket as gsocket

from meshproxy.admin.node import StatsQuery
from meshproxy.agent.export import StatsdExport
from meshproxy.agent.metrics import AgentMetrics
from meshproxy.agent.view import NodeView
from meshproxy.discovery.dns import Found
from meshproxy.ipc.messages import NodeSettings
from meshproxy.master.journal import Journal
from meshproxy.model import Node, SocketAddress, Stats, StatsSink
from meshproxy.scoreboard.catalogue import BlockKind
from tests.admin.node import at, view_of_a_mesh


class Server:
    """A UDP statsd server that keeps lines. It only reads; a real daemon reads them in tests/telemetry."""

    def __init__(self) -> None:
        self.socket = gsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(20)

    def sink(self, host: str = "127.0.0.1", **settings: object) -> StatsSink:
        return StatsSink(address=SocketAddress(host=host, port=self.socket.getsockname()[1]), prefix="mesh", **settings)

    def until(self, *wanted: str) -> list[str]:
        """All lines until these have come."""
        lines: list[str] = []
        while not set(wanted) <= set(lines):
            lines += self.socket.recv(65536).decode().split("\n")
        return lines


@pytest.fixture
def view() -> NodeView:
    return view_of_a_mesh()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.socket.close()


def exporting(view: NodeView, *sinks: StatsSink, lookup=lambda host, family: Found([]), interval_s: float = 3600.0) -> StatsdExport:
    stats = Stats(sinks=sinks, flush_interval_s=interval_s)
    view.settings = NodeSettings(node=Node(), stats=stats)
    export = StatsdExport(view, AgentMetrics(view).flush, lookup, Journal("error"))
    export.configure(stats)
    return export


def count(view: NodeView, requests: int, slot: int = 0) -> None:
    view.region.add_cell(slot, view.cell("HTTP", "ingress") + at(BlockKind.HTTP, "downstream_rq_total"), requests)


TOTAL = "mesh.http.ingress.downstream_rq_total"


def test_what_was_added_since_the_last_flush_is_sent(view: NodeView, server: Server) -> None:
    export = exporting(view, server.sink())
    count(view, 3, slot=0)
    count(view, 4, slot=1)
    export.flush()
    server.until(f"{TOTAL}:7|c", "mesh.server.live:1|g")
    count(view, 5)
    export.flush()

    lines = server.until(f"{TOTAL}:5|c")
    assert f"{TOTAL}:7|c" not in lines
    export.close()


def test_a_reset_of_what_is_shown_takes_nothing_from_what_is_sent(view: NodeView, server: Server) -> None:
    metrics = AgentMetrics(view)
    export = StatsdExport(view, metrics.flush, lambda host, family: Found([]), Journal("error"))
    export.configure(Stats(sinks=(server.sink(),)))
    count(view, 10)
    export.flush()
    server.until(f"{TOTAL}:10|c")
    count(view, 5)
    metrics.reset_counters()
    count(view, 200)
    export.flush()

    server.until(f"{TOTAL}:205|c")
    assert "http.ingress.downstream_rq_total: 200\n" in "".join(metrics.text(StatsQuery()))
    export.close()


def test_every_server_gets_the_same(view: NodeView, server: Server) -> None:
    other = Server()
    export = exporting(view, server.sink(), other.sink(dialect="dogstatsd"))
    count(view, 9)
    export.flush()

    server.until(f"{TOTAL}:9|c")
    other.until("mesh.http.downstream_rq_total:9|c|#envoy.http_conn_manager_prefix:ingress")
    export.close()
    other.socket.close()


def test_it_flushes_by_itself_at_the_interval(view: NodeView, server: Server) -> None:
    export = exporting(view, server.sink(), interval_s=0.01)
    running = gevent.spawn(export.run)
    count(view, 2)
    server.until(f"{TOTAL}:2|c")
    count(view, 3)
    server.until(f"{TOTAL}:3|c")

    running.kill()
    export.close()


def test_a_shorter_interval_holds_at_once(view: NodeView, server: Server) -> None:
    export = exporting(view, server.sink())
    running = gevent.spawn(export.run)
    gevent.sleep(0)
    count(view, 2)
    stats = Stats(sinks=(server.sink(),), flush_interval_s=0.01)
    view.settings = NodeSettings(node=Node(), stats=stats)
    export.configure(stats)

    server.until(f"{TOTAL}:2|c")
    running.kill()
    export.close()


def test_a_reload_keeps_what_stays_and_ends_what_goes(view: NodeView, server: Server) -> None:
    other = Server()
    export = exporting(view, server.sink())
    kept = export._exporters[0]
    export.configure(Stats(sinks=(other.sink(), server.sink())))
    assert export._exporters[1] is kept
    export.configure(Stats(sinks=(other.sink(),)))
    count(view, 6)
    export.flush()

    other.until(f"{TOTAL}:6|c")
    server.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        server.socket.recv(100)
    export.close()
    other.socket.close()


def test_a_servers_name_is_resolved(view: NodeView, server: Server) -> None:
    export = exporting(view, server.sink(host="statsd.example"), lookup=lambda host, family: Found(["127.0.0.1"]))
    count(view, 8)
    export.flush()

    server.until(f"{TOTAL}:8|c")
    export.close()


def test_a_name_that_cannot_be_resolved_loses_nothing_until_it_can(view: NodeView, server: Server) -> None:
    found: list[str] = []

    def lookup(host: str, family: int) -> Found:
        if not found:
            raise OSError("as scripted")
        return Found(found)

    export = exporting(view, server.sink(host="statsd.example"), lookup=lookup)
    count(view, 8)
    export.flush()
    found.append("127.0.0.1")
    export.flush()

    server.until(f"{TOTAL}:8|c")
    assert set(export.counters()) == {"server.statsd_dropped_lines", "server.statsd_dropped_datagrams", "server.statsd_connect_failures"}
    export.close()


def test_a_clusters_endpoints_take_lines_by_tcp(view: NodeView) -> None:
    listener = gsocket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(20)
    export = exporting(view, StatsSink(tcp_cluster="statsd", transport="tcp", prefix="mesh"))
    view.healthy_addresses = lambda name: [SocketAddress(host="127.0.0.1", port=listener.getsockname()[1])]
    running = gevent.spawn(export.run)
    count(view, 4)
    export.flush()
    export.configure(view.settings.stats)
    peer, _ = listener.accept()
    peer.settimeout(20)
    got = b""
    while f"{TOTAL}:4|c\n".encode() not in got:
        got += peer.recv(65536)

    running.kill()
    export.close()
    peer.close()
    listener.close()
