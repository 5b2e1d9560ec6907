"""Readings add up what workers counted; flushes tell what came since; nothing that went away haunts what took its place."""

from __future__ import annotations

import os

from meshproxy.model import Breakers, RetryBudget
from meshproxy.scoreboard.catalogue import BlockKind, MetricType
from meshproxy.telemetry.stats import Block, Extra, Flush, MetricReader, Reading, extras_of, most_retries
from tests.telemetry.mesh import PLACES, Mesh

CLUSTER, HTTP, SERVER, HOST = BlockKind.CLUSTER, BlockKind.HTTP, BlockKind.SERVER, BlockKind.HOST


def block(reading: Reading, kind: BlockKind, thing: str) -> Block:
    return next(each for each in reading.blocks if (each.kind, each.thing) == (kind, thing))


def value(reading: Reading, kind: BlockKind, thing: str, metric: str) -> int:
    return block(reading, kind, thing).cells[PLACES[kind][metric]]


def delta(flush: Flush, thing: str, metric: str) -> int:
    return next(each.cells[PLACES[each.kind][metric]] for each in flush.deltas if each.thing == thing)


def test_a_reading_sums_the_workers() -> None:
    mesh = Mesh("a", "b")
    mesh.count(CLUSTER, "a", "upstream_rq_total", 5, slot=0)
    mesh.count(CLUSTER, "a", "upstream_rq_total", 7, slot=1)
    reading = MetricReader(mesh.region).read(mesh.rows())

    assert [(each.kind, each.thing) for each in reading.blocks] == [
        (SERVER, ""), (CLUSTER, "a"), (CLUSTER, "b"), (BlockKind.LISTENER, "127.0.0.1_8080"), (BlockKind.HTTP1, ""), (BlockKind.HTTP2, ""),
        (HTTP, "in"),
    ]  # fmt: skip
    assert value(reading, CLUSTER, "a", "upstream_rq_total") == 12
    assert value(reading, CLUSTER, "b", "upstream_rq_total") == 0


def test_reading_things_that_never_counted_costs_no_memory() -> None:
    mesh = Mesh(*(f"c{number}" for number in range(50)))
    before = os.fstat(mesh.region.fd).st_blocks
    reader = MetricReader(mesh.region)
    reader.flush(reader.read(mesh.rows()))

    assert os.fstat(mesh.region.fd).st_blocks == before


def test_endpoints_are_told_apart() -> None:
    mesh = Mesh("a", "b")
    mesh.count(HOST, "a/10.0.0.1:80", "rq_total", 3)
    hosts = MetricReader(mesh.region).hosts(mesh.rows())

    assert set(hosts) == {"a/10.0.0.1:80", "b/10.0.0.1:80"}
    assert hosts["a/10.0.0.1:80"]["rq_total"] == 3
    assert hosts["b/10.0.0.1:80"]["rq_total"] == 0


def test_a_flush_tells_what_came_since_the_last() -> None:
    mesh = Mesh("a")
    reader = MetricReader(mesh.region)
    mesh.count(CLUSTER, "a", "upstream_rq_total", 5)
    mesh.count(CLUSTER, "a", "upstream_rq_active", 2)
    first = reader.flush(reader.read(mesh.rows()))
    mesh.count(CLUSTER, "a", "upstream_rq_total", 3, slot=1)
    mesh.count(CLUSTER, "a", "upstream_rq_active", -1)
    second = reader.flush(reader.read(mesh.rows()))
    third = reader.flush(reader.read(mesh.rows()))

    assert [delta(each, "a", "upstream_rq_total") for each in (first, second, third)] == [5, 3, 0]
    assert [delta(each, "a", "upstream_rq_active") for each in (first, second, third)] == [2, 1, 1]


def test_the_interval_is_what_the_last_flush_added() -> None:
    mesh = Mesh("a")
    reader = MetricReader(mesh.region)
    time_at = PLACES[CLUSTER]["upstream_rq_time"]
    mesh.record(CLUSTER, "a", "upstream_rq_time", 1, 2)
    reader.flush(reader.read(mesh.rows()))
    mesh.record(CLUSTER, "a", "upstream_rq_time", 3)
    reader.flush(reader.read(mesh.rows()))
    found = block(reader.read(mesh.rows()), CLUSTER, "a")

    assert list(found.cells[time_at : time_at + 5]) == [0, 1, 1, 1, 0]
    assert found.interval is not None
    assert list(found.interval[time_at : time_at + 5]) == [0, 0, 0, 1, 0]
    reader.flush(reader.read(mesh.rows()))
    assert block(reader.read(mesh.rows()), CLUSTER, "a").interval is None


def test_a_gauge_that_was_used_once_stays_shown() -> None:
    mesh = Mesh("a")
    reader = MetricReader(mesh.region)
    mesh.count(CLUSTER, "a", "upstream_rq_active", 1)
    reader.read(mesh.rows())
    mesh.count(CLUSTER, "a", "upstream_rq_active", -1)

    assert block(reader.read(mesh.rows()), CLUSTER, "a").used == {PLACES[CLUSTER]["upstream_rq_active"]}


def test_reset_takes_counters_off_and_leaves_the_rest() -> None:
    mesh = Mesh("a")
    reader = MetricReader(mesh.region)
    mesh.count(CLUSTER, "a", "upstream_rq_total", 5)
    mesh.count(CLUSTER, "a", "upstream_rq_active", 2)
    mesh.record(CLUSTER, "a", "upstream_rq_time", 3)
    reader.flush(reader.read(mesh.rows()))
    reader.reset_counters(mesh.rows())
    mesh.count(CLUSTER, "a", "upstream_rq_total", 1)
    reading = reader.read(mesh.rows())

    assert value(reading, CLUSTER, "a", "upstream_rq_total") == 1
    assert value(reading, CLUSTER, "a", "upstream_rq_active") == 2
    assert block(reading, CLUSTER, "a").cells[PLACES[CLUSTER]["upstream_rq_time"] + 3] == 1
    assert delta(reader.flush(reading), "a", "upstream_rq_total") == 1
    reader.reset_counters(mesh.rows())
    assert value(reader.read(mesh.rows()), CLUSTER, "a", "upstream_rq_total") == 0


def test_a_cluster_in_anothers_block_starts_from_nothing() -> None:
    mesh = Mesh("a")
    reader = MetricReader(mesh.region)
    mesh.count(CLUSTER, "a", "upstream_rq_total", 5)
    mesh.count(CLUSTER, "a", "upstream_rq_active", 5)
    reader.flush(reader.read(mesh.rows()))
    reader.reset_counters(mesh.rows())
    cell = mesh.cell(CLUSTER, "a", "upstream_rq_total")
    mesh.remove_cluster("a")
    mesh.add_cluster("b")
    mesh.count(CLUSTER, "b", "upstream_rq_total", 2)
    assert mesh.cell(CLUSTER, "b", "upstream_rq_total") == cell
    reading = reader.read(mesh.rows())

    assert value(reading, CLUSTER, "b", "upstream_rq_total") == 2
    assert block(reading, CLUSTER, "b").used == frozenset()
    assert delta(reader.flush(reading), "b", "upstream_rq_total") == 2


def test_a_cluster_that_came_back_under_its_name_is_never_negative() -> None:
    mesh = Mesh("a")
    reader = MetricReader(mesh.region)
    mesh.count(CLUSTER, "a", "upstream_rq_total", 5)
    reader.flush(reader.read(mesh.rows()))
    reader.reset_counters(mesh.rows())
    mesh.remove_cluster("a")
    mesh.add_cluster("a")
    mesh.count(CLUSTER, "a", "upstream_rq_total", 2)
    reading = reader.read(mesh.rows())

    assert value(reading, CLUSTER, "a", "upstream_rq_total") == 2
    assert delta(reader.flush(reading), "a", "upstream_rq_total") == 2


def test_open_breakers_follow_from_shares_and_limits() -> None:
    mesh = Mesh("a")
    limits = {"a": (Breakers(max_connections=2, max_pending=1, max_requests=3, max_retries=1), Breakers())}
    mesh.count(CLUSTER, "a", "circuit_breakers.default.cx_held", 1, slot=0)
    mesh.count(CLUSTER, "a", "circuit_breakers.default.cx_held", 1, slot=1)
    mesh.count(CLUSTER, "a", "circuit_breakers.default.rq_held", 2)
    reading = MetricReader(mesh.region).read(mesh.rows(), limits=limits)

    opened = {extra.name: extra.value for extra in reading.extras if extra.kind is CLUSTER}
    assert opened == {
        "circuit_breakers.default.cx_open": 1, "circuit_breakers.default.rq_open": 0, "circuit_breakers.default.rq_pending_open": 0,
        "circuit_breakers.default.rq_retry_open": 0, "circuit_breakers.high.cx_open": 0, "circuit_breakers.high.rq_open": 0,
        "circuit_breakers.high.rq_pending_open": 0, "circuit_breakers.high.rq_retry_open": 0,
    }  # fmt: skip


def test_a_retry_budget_grows_with_what_is_active() -> None:
    budget = Breakers(retry_budget=RetryBudget(percent=20.0, min_concurrency=3))

    assert [most_retries(budget, active) for active in (0, 15, 16, 100)] == [3, 3, 3, 20]
    assert most_retries(Breakers(max_retries=7), 1000) == 7


def test_each_worker_is_told_apart() -> None:
    mesh = Mesh("a")
    mesh.count(SERVER, "", "loop_turns", 10, slot=1)
    mesh.count(HTTP, "in", "downstream_rq_total", 4, slot=0)
    mesh.count(HTTP, "in", "downstream_rq_total", 6, slot=1)
    extras = {(extra.thing, extra.name): extra.value for extra in MetricReader(mesh.region).read(mesh.rows()).extras}

    assert (extras["worker_0", "downstream_rq_total"], extras["worker_1", "downstream_rq_total"]) == (4, 6)
    assert (extras["worker_0", "loop_turns"], extras["worker_1", "loop_turns"]) == (0, 10)
    assert ("worker_2", "loop_turns") not in extras


def test_extras_that_count_are_flushed_as_differences() -> None:
    mesh = Mesh()
    reader = MetricReader(mesh.region)

    def flushed(counted: int) -> list[int]:
        extras = [Extra(None, "", "agent.lines_lost", MetricType.COUNTER, counted), Extra(None, "", "g", MetricType.GAUGE, counted)]
        return [extra.value for extra in reader.flush(reader.read(mesh.rows(), extras)).extras[:2]]

    assert [flushed(counted) for counted in (5, 7, 7, 2)] == [[5, 5], [2, 7], [0, 7], [2, 2]]


def test_whole_names_find_their_owner() -> None:
    extras = extras_of({"server.uptime": 3, "cluster.a.b.membership_total": 2, "listener_manager.total_listeners_active": 1}, {"x.y": 9})

    assert extras == [
        Extra(SERVER, "", "uptime", MetricType.GAUGE, 3),
        Extra(CLUSTER, "a.b", "membership_total", MetricType.GAUGE, 2),
        Extra(None, "", "listener_manager.total_listeners_active", MetricType.GAUGE, 1),
        Extra(None, "", "x.y", MetricType.COUNTER, 9),
    ]
