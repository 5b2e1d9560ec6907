"""What a statsd server gets: the lines, the datagrams, and what happens when it is slow, gone and back."""

from __future__ import annotations

import math
import random
import re
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.model import PipeAddress, SocketAddress, StatsSink, StatsTag
from meshproxy.scoreboard.catalogue import BlockKind, MetricType
from meshproxy.telemetry import statsd
from meshproxy.telemetry.stats import Extra, Flush, MetricReader
from meshproxy.telemetry.statsd import FIRST_RETRY_S, LONGEST_RETRY_S, MOST_SAMPLES, Lines, StatsdExporter, batches
from meshproxy.telemetry.tags import TagRules
from tests.peers.process import PeerMissingError
from tests.peers.statsd import Statsd
from tests.telemetry.mesh import Mesh

CLUSTER = BlockKind.CLUSTER
LINE = re.compile(rb"[^:|@#,\s]+:\d+(\.\d+)?\|(c|g|ms)(\|@0\.\d{1,9})?(\|#[^\s|]+)?")


def flush_of(mesh: Mesh, reader: MetricReader | None = None) -> Flush:
    reader = reader or MetricReader(mesh.region)
    return reader.flush(reader.read(mesh.rows()))


def lines(flush: Flush, dialect: str = "statsd", prefix: str = "mp") -> list[str]:
    return [line.decode() for line in Lines(dialect, prefix).of(flush) if b".worker" not in line]


def busy_mesh(*values_us: int) -> Mesh:
    mesh = Mesh("a")
    mesh.count(CLUSTER, "a", "upstream_rq_503", 2)
    mesh.count(CLUSTER, "a", "upstream_rq_active", 1)
    mesh.record(CLUSTER, "a", "upstream_rq_time", *values_us)
    return mesh


def many(count: int) -> Flush:
    """A flush of that many different lines."""
    return Flush([], [Extra(None, "", f"metric.number.{number:06}", MetricType.COUNTER, 1) for number in range(count)])


# ---- lines ----


def test_plain_lines() -> None:
    assert lines(flush_of(busy_mesh(1500))) == [
        "mp.cluster.a.upstream_rq_503:2|c", "mp.cluster.a.upstream_rq_active:1|g", "mp.cluster.a.upstream_rq_time:1.4715|ms",
    ]  # fmt: skip


def test_dogstatsd_lines_have_tags_of_the_configuration() -> None:
    made = Lines("dogstatsd", "mp", TagRules((StatsTag(name="dc", value="e|st"), StatsTag(name="svc", regex=r"cluster\.((a)\.)"))))

    lines = [line.decode() for line in made.of(flush_of(busy_mesh(1500)))]
    assert lines[1] == "mp.cluster.upstream_rq_active:1|g|#envoy.cluster_name:a,dc:e_st,svc:a"


def test_dogstatsd_lines_have_envoys_tags() -> None:
    assert lines(flush_of(busy_mesh(1500)), "dogstatsd", "envoy") == [
        "envoy.cluster.upstream_rq:2|c|#envoy.response_code:503,envoy.cluster_name:a",
        "envoy.cluster.upstream_rq_active:1|g|#envoy.cluster_name:a",
        "envoy.cluster.upstream_rq_time:1.4715|ms|#envoy.cluster_name:a",
    ]


def test_what_did_not_change_is_not_sent_but_gauges_are() -> None:
    mesh = busy_mesh(1500)
    reader = MetricReader(mesh.region)
    flush_of(mesh, reader)
    mesh.count(CLUSTER, "a", "upstream_rq_active", -1)

    assert lines(flush_of(mesh, reader)) == ["mp.cluster.a.upstream_rq_active:0|g"]


def test_a_sum_of_shares_below_zero_is_sent_as_zero() -> None:
    """A signed gauge means "so much more or less" in statsd."""
    mesh = Mesh("a")
    mesh.count(CLUSTER, "a", "upstream_rq_active", -1)

    assert lines(flush_of(mesh)) == ["mp.cluster.a.upstream_rq_active:0|g"]


@pytest.mark.parametrize("prefix", ["", "a", "a.b."])
def test_prefixes(prefix: str) -> None:
    (first, *_) = lines(flush_of(busy_mesh()), "statsd", prefix)

    assert first == f"{prefix.rstrip('.')}{'.' if prefix else ''}cluster.a.upstream_rq_503:2|c"


def test_names_cannot_break_a_line() -> None:
    mesh = Mesh("a b|c\n:1@#,é")
    mesh.count(CLUSTER, "a b|c\n:1@#,é", "upstream_rq_total", 1)

    assert lines(flush_of(mesh)) == ["mp.cluster.a_b_c__1___é.upstream_rq_total:1|c"]
    assert lines(flush_of(mesh), "dogstatsd") == ["mp.cluster.upstream_rq_total:1|c|#envoy.cluster_name:a_b_c__1___é"]


def test_many_values_become_few_samples_with_a_rate() -> None:
    random.seed(7)
    values = [int(random.lognormvariate(8, 1)) for _ in range(10_000)]
    sent = [line for line in lines(flush_of(busy_mesh(*values))) if "|ms" in line]
    parsed = [re.fullmatch(r"mp\.cluster\.a\.upstream_rq_time:([\d.]+)\|ms\|@([\d.]+)", line) for line in sent]
    samples = [float(found[1]) for found in parsed if found]

    assert len(samples) == len(sent) == MOST_SAMPLES
    assert {found[2] for found in parsed if found} == {"0.0032"}
    true = sorted(values)
    for share in (0.25, 0.5, 0.9):
        sampled = samples[math.ceil(share * len(samples)) - 1]
        low, high = (true[int(len(true) * min(share + step, 1)) - 1] / 1000 for step in (-0.04, 0.04))
        assert low * 0.93 <= sampled <= high * 1.07
    assert samples[-1] == pytest.approx(true[-1] / 1000, rel=0.07)


def test_a_rate_has_no_exponent() -> None:
    mesh = Mesh("a")
    mesh.region.add_cell(0, mesh.cell(CLUSTER, "a", "upstream_rq_time") + 5, 100_000_000)

    assert {line.split("|@")[1] for line in lines(flush_of(mesh)) if "|ms" in line} == {"0.00000032"}


@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\n", b"_")), max_size=60), st.integers(1, 100))
def test_batches_keep_every_line_in_order_and_the_bound(given_lines: list[bytes], most: int) -> None:
    made = list(batches(iter(given_lines), most))

    assert [line for batch in made for line in batch.split(b"\n")] == given_lines
    assert all(len(batch) <= most or b"\n" not in batch for batch in made)


# ---- UDP ----


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        yield server


def exporter(port: int, transport: str = "udp", **settings: int) -> StatsdExporter:
    address = SocketAddress("127.0.0.1", port)
    sink = StatsSink(transport=transport, address=address, **settings)  # type: ignore[arg-type]
    return StatsdExporter(sink, lambda: [address])


def test_datagrams_are_full_of_whole_lines(udp: socket.socket) -> None:
    sending = exporter(udp.getsockname()[1])
    sending.send(many(200), 0.0)
    got = []
    while sum(datagram.count(b"\n") + 1 for datagram in got) < 200:
        got.append(udp.recv(65536))
    sending.close()

    assert all(len(datagram) <= 1432 for datagram in got)
    assert len(got) == 5
    assert all(LINE.fullmatch(line) for datagram in got for line in datagram.split(b"\n"))


def test_a_large_flush_goes_in_steps(udp: socket.socket) -> None:
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sending = exporter(udp.getsockname()[1], max_datagram_bytes=100)
    sending.send(many(200), 0.0)
    steps = 1
    got = 0
    while sending.pending:
        sending.step(0.0)
        steps += 1
    udp.settimeout(0.2)
    while got < 200:
        got += udp.recv(65536).count(b"\n") + 1
    sending.close()

    assert steps == 2


def test_an_absent_server_costs_datagrams_only(udp: socket.socket) -> None:
    port = udp.getsockname()[1]
    udp.close()
    sending = exporter(port)
    for _ in range(3):
        sending.send(many(5), 0.0)
    assert not sending.pending
    assert sending.dropped_datagrams >= 1

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", port))
        back.settimeout(5)
        sending.send(many(1), 0.0)
        sending.send(many(1), 0.0)
        assert back.recv(65536).startswith(b"meshproxy.metric.number.000000:1|c")
    sending.close()


def test_a_datagram_socket_by_path(tmp_path: Path) -> None:
    address = PipeAddress(str(tmp_path / "dsd.socket"))
    sending = StatsdExporter(StatsSink(dialect="dogstatsd", address=address), lambda: [address])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address.path)
        server.settimeout(5)
        sending.send(many(1), 0.0)
        assert server.recv(65536) == b"meshproxy.metric.number.000000:1|c"
    sending.close()


# ---- TCP ----


def received(connection: socket.socket, sending: StatsdExporter, count: int, now_s: float = 0.0) -> bytes:
    """Until so many lines have come."""
    connection.settimeout(0.05)
    data = b""
    while data.count(b"\n") < count:
        sending.step(now_s)
        try:
            more = connection.recv(1 << 20)
        except TimeoutError:
            continue
        assert more
        data += more
    return data


def names(data: bytes) -> list[int]:
    return [int(line.split(b":")[0].rsplit(b".", 1)[1]) for line in data.splitlines()]


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def test_a_stream_has_every_line_ended(tcp: socket.socket) -> None:
    sending = exporter(tcp.getsockname()[1], "tcp")
    sending.send(many(500), 0.0)
    connection, _ = tcp.accept()
    with connection:
        data = received(connection, sending, 500)
    sending.close()

    assert data.endswith(b"\n")
    assert names(data) == list(range(500))


def test_a_slow_server_holds_nobody_up_and_gets_whole_lines(tcp: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "MOST_PENDING_BYTES", 200_000)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sending = exporter(tcp.getsockname()[1], "tcp")
    rounds = 0
    while not sending.dropped_lines:
        sending.send(many(2000), 0.0)
        rounds += 1
        assert rounds < 1000
    sent = rounds * 2000
    connection, _ = tcp.accept()
    with connection:
        data = received(connection, sending, sent - sending.dropped_lines)
    sending.close()

    assert data.count(b"\n") == sent - sending.dropped_lines
    assert all(re.fullmatch(rb"meshproxy\.metric\.number\.\d{6}:1\|c", line) for line in data.splitlines())


def test_an_absent_server_is_tried_less_and_less_and_gets_what_waited(tcp: socket.socket) -> None:
    port = tcp.getsockname()[1]
    tcp.close()
    sending = exporter(port, "tcp")
    tried, now_s, last_tries = [], 0.0, 0
    sending.send(many(3), now_s)
    while now_s < 200:
        sending.step(now_s)
        if sending.connect_failures > last_tries:
            last_tries = sending.connect_failures
            tried.append(now_s)
        now_s += 0.25
    gaps = [later - earlier for earlier, later in pairwise(tried)]

    assert gaps == sorted(gaps)
    assert gaps[0] <= 4 * FIRST_RETRY_S
    assert LONGEST_RETRY_S <= gaps[-1] <= LONGEST_RETRY_S + 0.5

    with socket.create_server(("127.0.0.1", port)) as back:
        back.settimeout(5)
        now_s += LONGEST_RETRY_S
        sending.step(now_s)
        connection, _ = back.accept()
        with connection:
            assert names(received(connection, sending, 3, now_s)) == [0, 1, 2]
    sending.close()


def test_a_server_that_goes_is_found_again(tcp: socket.socket) -> None:
    sending = exporter(tcp.getsockname()[1], "tcp")
    sending.send(many(2), 0.0)
    connection, _ = tcp.accept()
    received(connection, sending, 2)
    connection.close()

    sending.send(many(4), 10.0)
    sending.step(10.0 + FIRST_RETRY_S)
    connection, _ = tcp.accept()
    with connection:
        assert names(received(connection, sending, 4, 20.0)) == [0, 1, 2, 3]
    sending.close()


def test_addresses_take_turns(tcp: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        absent = SocketAddress("127.0.0.1", gone.getsockname()[1])
    there = SocketAddress("127.0.0.1", tcp.getsockname()[1])
    sending = StatsdExporter(StatsSink(transport="tcp", address=absent), lambda: [absent, there])
    sending.send(many(1), 0.0)
    sending.step(0.0)
    sending.step(100.0)
    connection, _ = tcp.accept()
    with connection:
        assert names(received(connection, sending, 1, 100.0)) == [0]
    sending.close()


def test_no_address_yet() -> None:
    sending = StatsdExporter(StatsSink(transport="tcp", tcp_cluster="x"), list)
    sending.send(many(1), 0.0)

    assert sending.pending


# ---- the daemon itself ----


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Statsd]:
    try:
        server = Statsd(tmp_path_factory.mktemp("statsd"))
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_statsd_understands_what_we_send(daemon: Statsd, transport: str) -> None:
    mesh = busy_mesh(*[1000] * 900, *[50_000] * 100)
    mesh.count(CLUSTER, "a", "upstream_rq_total", 123)
    sending = exporter(daemon.port, transport, prefix=transport)  # type: ignore[arg-type]
    sending.send(flush_of(mesh), 0.0)
    last = f"{transport}.cluster.a.upstream_rq_503"
    counters = daemon.wait("counters", lambda found: last in found, lambda: sending.step(0.0))
    timers = daemon.wait("timers", lambda found: len(found.get(f"{transport}.cluster.a.upstream_rq_time", ())) == MOST_SAMPLES)
    sending.close()

    assert counters["statsd.bad_lines_seen"] == 0
    assert counters[f"{transport}.cluster.a.upstream_rq_total"] == 123
    assert counters[last] == 2
    assert daemon.ask("gauges")[f"{transport}.cluster.a.upstream_rq_active"] == 1
    samples = sorted(timers[f"{transport}.cluster.a.upstream_rq_time"])
    assert (samples[0], samples[-1]) == (pytest.approx(1, rel=0.07), pytest.approx(50, rel=0.07))
    assert sum(sample < 2 for sample in samples) in (28, 29)


@pytest.mark.slow
def test_statsd_loses_nothing_of_a_large_flush(daemon: Statsd) -> None:
    """The daemon lost half of 20,000 datagrams of one line; in batches and steps none of 20,000 lines is lost."""
    sending = exporter(daemon.port, prefix="large")  # type: ignore[arg-type]
    sending.send(many(20_000), 0.0)
    got = daemon.wait("counters", lambda found: sum(name.startswith("large.") for name in found) == 20_000, lambda: sending.step(0.0))
    sending.close()

    assert sum(name.startswith("large.") for name in got) == 20_000
