"""Picking hosts, and breakers that count for the whole node."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from meshproxy.balance.cluster import Cluster, Host

from meshproxy.model import Breakers, Endpoint, RetryBudget, SocketAddress
from meshproxy.model import Cluster as ClusterModel
from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind, offsets
from meshproxy.scoreboard.region import Region

BLOCK = 1000
HOSTS = 5000
CONNECTIONS, PENDING, REQUESTS, RETRIES = range(4)
DEFAULT, HIGH = 0, 1
HELD = {row.name: at for at, row in offsets(BlockKind.CLUSTER)}


@pytest.fixture
def region() -> Region:
    made = Region.create(4)
    for slot in range(4):
        made.add_cell(slot, 0, 0)
    return made


def a_cluster(
    region: Region, *, weights: tuple[int, ...] = (1, 1, 1), unhealthy: tuple[int, ...] = (), slot: int = 0, **settings: object
) -> Cluster:
    """A cluster with a host for each weight, ports counting from 1."""
    cluster = Cluster(ClusterModel(name="c", **settings), region, slot, BLOCK)
    hosts = []
    for number, weight in enumerate(weights):
        endpoint = Endpoint(address=SocketAddress("10.0.0.1", number + 1), weight=weight, healthy=number not in unhealthy)
        hosts.append(Host(endpoint.address, endpoint, region, slot, HOSTS + 8 * number))
    cluster.set_hosts(hosts)
    return cluster


def picks(cluster: Cluster, count: int, seed: int = 1) -> Counter[str]:
    draw = random.Random(seed)
    return Counter(cluster.choose(draw.getrandbits(64)).address for _ in range(count))


def test_round_robin_takes_turns(region: Region) -> None:
    cluster = a_cluster(region)

    assert [cluster.choose(0).address[-1] for _ in range(6)] == ["2", "3", "1", "2", "3", "1"]


def test_round_robin_by_weight_spreads_within_a_round(region: Region) -> None:
    cluster = a_cluster(region, weights=(5, 1, 1))
    order = "".join(cluster.choose(0).address[-1] for _ in range(7))

    assert Counter(order) == {"1": 5, "2": 1, "3": 1}
    assert "1111" not in order


@pytest.mark.parametrize("balance", ["random", "least_request"])
def test_random_kinds_reach_every_host(region: Region, balance: str) -> None:
    found = picks(a_cluster(region, balance=balance), 3000)

    assert set(found) == {"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"}
    assert all(800 < count < 1200 for count in found.values())


def test_random_by_weight(region: Region) -> None:
    found = picks(a_cluster(region, balance="random", weights=(8, 1, 1)), 5000)

    assert 3800 < found["10.0.0.1:1"] < 4200
    assert 350 < found["10.0.0.1:3"] < 650


def test_an_unhealthy_host_gets_nothing(region: Region) -> None:
    assert picks(a_cluster(region, unhealthy=(1,)), 100).keys() == {"10.0.0.1:1", "10.0.0.1:3"}


def test_when_most_are_unhealthy_all_are_asked_and_counted(region: Region) -> None:
    cluster = a_cluster(region, unhealthy=(0, 1))

    assert cluster.in_panic
    assert len(picks(cluster, 90)) == 3
    assert region.read_cells(BLOCK + HELD["lb_healthy_panic"], 1)[0] == 90


def test_nobody_is_picked_where_nobody_is(region: Region) -> None:
    assert a_cluster(region, weights=()).choose(7) is None


def test_a_tried_host_is_avoided_while_attempts_last(region: Region) -> None:
    cluster = a_cluster(region, weights=(1, 1))
    tried = [cluster.hosts[0]]

    assert all(cluster.choose(0, tried, 3) is cluster.hosts[1] for _ in range(20))
    assert cluster.choose(0, list(cluster.hosts), 3) is not None


def test_a_breaker_counts_every_worker(region: Region) -> None:
    cluster = a_cluster(region, breakers=Breakers(max_requests=5))
    held = BLOCK + HELD["circuit_breakers.default.rq_held"]
    region.add_cell(2, held, 3)

    assert [cluster.take(DEFAULT, REQUESTS, 1) for _ in range(3)] == [True, True, False]
    region.add_cell(2, held, -3)
    assert not cluster.take(DEFAULT, REQUESTS, 1)    # the others are read once in a turn
    assert cluster.take(DEFAULT, REQUESTS, 2)
    cluster.give(DEFAULT, REQUESTS)
    assert region.read_cells(held, 1)[0] == 2


def test_high_priority_has_breakers_of_its_own(region: Region) -> None:
    cluster = a_cluster(region, breakers=Breakers(max_connections=1), high_breakers=Breakers(max_connections=2))

    assert [cluster.take(DEFAULT, CONNECTIONS, 1) for _ in range(2)] == [True, False]
    assert [cluster.take(HIGH, CONNECTIONS, 1) for _ in range(3)] == [True, True, False]


def test_retries_are_limited(region: Region) -> None:
    cluster = a_cluster(region, breakers=Breakers(max_retries=2))

    assert [cluster.take_for_retry(DEFAULT, 1) for _ in range(3)] == [True, True, False]


def test_a_retry_budget_is_a_share_of_what_is_active(region: Region) -> None:
    cluster = a_cluster(region, breakers=Breakers(max_retries=0, retry_budget=RetryBudget(percent=20.0, min_concurrency=1)))
    region.add_cell(3, BLOCK + HELD["circuit_breakers.default.rq_held"], 10)
    region.add_cell(3, BLOCK + HELD["circuit_breakers.default.rq_pending_held"], 5)

    assert [cluster.take_for_retry(DEFAULT, 1) for _ in range(4)] == [True, True, True, False]


def test_the_budget_always_allows_its_minimum(region: Region) -> None:
    cluster = a_cluster(region, breakers=Breakers(retry_budget=RetryBudget(percent=20.0, min_concurrency=2)))

    assert [cluster.take_for_retry(DEFAULT, 1) for _ in range(3)] == [True, True, False]


def test_the_shares_stand_where_the_catalogue_says() -> None:
    names = [row.name for row in CATALOGUE[BlockKind.CLUSTER] if row.name.startswith("circuit_breakers.")]

    assert names == [
        f"circuit_breakers.{priority}.{share}_held" for priority in ("default", "high") for share in ("cx", "rq_pending", "rq", "rq_retry")
    ]
