"""What shared memory costs who writes and who reads: counters, histograms, records, a node's whole reading, an access log line.

    python -m bench.micro.bench_scoreboard [--seconds S]

Each row is the best of five runs of `--seconds` / 5: the machine's noise only ever adds. Rows that are called from Python carry the call,
some 50 ns, which the data path does not pay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from meshproxy.model import AccessLog, Cluster, Resource, ResourceKind, Stats
from meshproxy.model.telemetry import DEFAULT_FORMAT
from meshproxy.scoreboard.blocks import BlockAllocator
from meshproxy.scoreboard.catalogue import BlockKind, offsets
from meshproxy.scoreboard.region import Region
from meshproxy.telemetry import prometheus, stats_text, statsd
from meshproxy.telemetry.accesslog import Format
from meshproxy.telemetry.stats import MetricReader

RUNS = 5
CLUSTERS = 1000
RECORD = b"x" * 250
EXCHANGE = {
    "method": b"GET", "path": b"/catalogue/42?page=3", "authority": b"www.example.com", "status": 200,
    "start_unix_us": 1_700_000_000_123_456,
    "duration_us": 1234, "bytes_sent": 512, "downstream_remote": b"127.0.0.1:4711", "upstream_host": b"10.0.0.1:80", "scheme": b"http",
    "request": [(b"Host", b"www.example.com"), (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"), (b"Accept", b"*/*")],
    "added_lines": b"x-request-id: 3f2b8c1e-7a44-4c0f-9a51-0d5b8f0e2c77\r\nx-forwarded-for: 198.51.100.17\r\n",
    "response_lines": b"server: meshproxy\r\ncontent-length: 512\r\nx-envoy-upstream-service-time: 1\r\n",
}  # fmt: skip


def best_ns(work: Callable[[int], None], seconds: float) -> float:
    """Nanoseconds of one repetition; `work` takes how many."""
    count, spent = 1, 0
    while spent < 10_000_000:
        count *= 2
        started = time.process_time_ns()
        work(count)
        spent = time.process_time_ns() - started
    count = max(1, int(count * seconds / RUNS * 1e9 / spent))
    times = []
    for _ in range(RUNS):
        started = time.process_time_ns()
        work(count)
        times.append((time.process_time_ns() - started) / count)
    return min(times)


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    def work(count: int) -> None:
        for _ in range(count):
            call()

    return work


def node(clusters: int) -> tuple[Region, list[tuple[str, str, int]]]:
    """Two workers that counted in every cluster."""
    region = Region.create(2)
    allocator = BlockAllocator(region)
    places = {row.name: at for at, row in offsets(BlockKind.CLUSTER)}
    for number in range(clusters):
        cell = allocator.blocks_for(Resource(ResourceKind.CLUSTER, f"c{number}", b""), Cluster(name=f"c{number}"))["cluster"]
        for slot in (0, 1):
            for name in ("upstream_rq_total", "upstream_rq_2xx", "upstream_rq_200", "upstream_cx_total"):
                region.add_cell(slot, cell + places[name], 7)
            for value_us in (400, 1000, 25_000):
                region.record_histogram(slot, cell + places["upstream_rq_time"], value_us)
    return region, allocator.rows()


def ring_rows(region: Region) -> dict[str, Callable[[int], None]]:
    def records(count: int) -> None:
        sinks: dict[int, bytearray] = {}
        for at in range(count):
            region.put_record(0, 1, RECORD)
            if at % 2000 == 1999:
                region.drain_ring(0, sinks)
                sinks[1].clear()
        region.drain_ring(0, sinks)

    return {"a record of 250 bytes, written and drained": records}


def node_rows() -> dict[str, Callable[[int], None]]:
    region, rows = node(CLUSTERS)
    reader = MetricReader(region)
    reading = reader.read(rows)
    flush = reader.flush(reading)
    everything, used = stats_text.make_query(), stats_text.make_query(used_only=True)
    lines = statsd.Lines("statsd", "meshproxy")
    buckets = Stats().histogram_buckets_ms
    return {
        f"reading {CLUSTERS} busy clusters": repeated(lambda: reader.read(rows)),
        f"statsd lines of {CLUSTERS} busy clusters": repeated(lambda: list(statsd.batches(lines.of(flush), 1432))),
        f"/stats of {CLUSTERS} clusters, used": repeated(lambda: list(stats_text.text(reading, used))),
        f"/stats/prometheus of {CLUSTERS} clusters, all": repeated(lambda: list(prometheus.text(reading, everything, buckets))),
    }


def table() -> dict[str, Callable[[int], None]]:
    region = Region.create(2)
    text = Format(AccessLog(sink="stdout", text=DEFAULT_FORMAT))
    values = {"code": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%", "ms": "%DURATION%", "to": "%UPSTREAM_HOST%"}
    shape = Format(AccessLog(sink="stdout", json=values))
    return {
        "a counter, called from Python": repeated(lambda: region.add_cell(0, 5, 1)),
        "a histogram, called from Python": repeated(lambda: region.record_histogram(0, 10, 1234)),
        **ring_rows(region),
        "a line in the default format": lambda count: text.measure(EXCHANGE, count),
        "a JSON line of four values": lambda count: shape.measure(EXCHANGE, count),
        **node_rows(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring for each row")
    seconds = parser.parse_args().seconds
    for name, work in table().items():
        spent_ns = best_ns(work, seconds)
        print(f"{name:50} {spent_ns / 1e6:10.2f} ms" if spent_ns > 1e6 else f"{name:50} {spent_ns:10.0f} ns")


if __name__ == "__main__":
    main()
