"""Blocks are shared by name, live on while somebody names them, and are handed to another thing only when they are clean."""

from __future__ import annotations

from itertools import pairwise

import pytest

from meshproxy.errors import TableFullError
from meshproxy.model import (
    AccessLog,
    Cluster,
    Endpoint,
    EndpointSet,
    FilterChain,
    HttpConnectionManager,
    Listener,
    Resource,
    ResourceKind,
    RouteTable,
    SocketAddress,
    VirtualHost,
)
from meshproxy.scoreboard.blocks import MAX_SINKS, PREDECESSOR, BlockAllocator
from meshproxy.scoreboard.catalogue import BlockKind, block_cells
from meshproxy.scoreboard.region import Region

KINDS = {
    Cluster: ResourceKind.CLUSTER,
    EndpointSet: ResourceKind.ENDPOINTS,
    RouteTable: ResourceKind.ROUTE_TABLE,
    Listener: ResourceKind.LISTENER,
}


@pytest.fixture
def region() -> Region:
    return Region.create(2)


def endpoint(port: int) -> Endpoint:
    return Endpoint(address=SocketAddress("10.0.0.1", port))


def listener(name: str, port: int, prefixes: list[str], *logs: AccessLog) -> Listener:
    chains = tuple(FilterChain(terminal=HttpConnectionManager(stat_prefix=p, route_table="r", access_logs=logs)) for p in prefixes)
    return Listener(name=name, addresses=(SocketAddress("127.0.0.1", port),), chains=chains)


def grant(allocator: BlockAllocator, value: Cluster | EndpointSet | RouteTable | Listener) -> Resource:
    name = value.cluster if isinstance(value, EndpointSet) else value.name
    bare = Resource(KINDS[type(value)], name, b"")
    return Resource(bare.kind, name, b"", allocator.blocks_for(bare, value))


def test_server_block_is_the_first(region: Region) -> None:
    assert BlockAllocator(region).rows() == [("SERVER", "", 0)]


def test_labels_of_each_kind_of_resource(region: Region) -> None:
    allocator = BlockAllocator(region)
    cluster = grant(allocator, Cluster(name="a", alt_stat_name="alt", endpoints=(endpoint(1), endpoint(2))))
    dns = grant(allocator, Cluster(name="d", discovery="strict_dns", endpoints=(Endpoint(address=SocketAddress("host.test", 1)),)))
    answer = grant(allocator, EndpointSet(cluster="d", endpoints=(endpoint(3),)))
    hosts = (VirtualHost(name="v", domains=("*",), stats=True), VirtualHost(name="w", domains=("w",)))
    table = grant(allocator, RouteTable(name="t", virtual_hosts=hosts))
    front = grant(allocator, listener("l", 80, ["in", "in2"], AccessLog(sink="stdout", text="x")))

    assert list(cluster.blocks) == ["cluster", "host:10.0.0.1:1", "host:10.0.0.1:2"]
    assert list(dns.blocks) == ["cluster"]
    assert list(answer.blocks) == ["host:10.0.0.1:3"]
    assert list(table.blocks) == ["vhost:v"]
    assert list(front.blocks) == ["listener", "http1", "http2", "http:in", "http:in2", "log:0:0", "log:1:0"]
    assert [row[:2] for row in allocator.rows()] == [
        ("SERVER", ""), ("CLUSTER", "alt"), ("HOST", "a/10.0.0.1:1"), ("HOST", "a/10.0.0.1:2"), ("CLUSTER", "d"), ("HOST", "d/10.0.0.1:3"),
        ("VHOST", "v"), ("LISTENER", "127.0.0.1_80"), ("HTTP1", ""), ("HTTP2", ""), ("HTTP", "in"), ("HTTP", "in2"),
    ]


def test_blocks_do_not_overlap(region: Region) -> None:
    allocator = BlockAllocator(region)
    grant(allocator, Cluster(name="a", endpoints=tuple(endpoint(port) for port in range(1, 20))))
    grant(allocator, listener("l", 80, ["in"]))
    rows = allocator.rows()

    for (kind, _, cell), (_, _, following) in pairwise(rows):
        assert cell + block_cells(BlockKind[kind]) <= following


def test_two_connection_managers_with_one_prefix_count_together(region: Region) -> None:
    allocator = BlockAllocator(region)
    one, two = grant(allocator, listener("l", 80, ["in"])), grant(allocator, listener("m", 81, ["in"]))

    assert one.blocks["http:in"] == two.blocks["http:in"]
    assert one.blocks["listener"] != two.blocks["listener"]

    allocator.reclaim(allocator.release(one))
    assert ("HTTP", "in", two.blocks["http:in"]) in allocator.rows()


def test_two_logs_to_one_file_share_a_sink(region: Region) -> None:
    allocator = BlockAllocator(region)
    file, other = AccessLog(sink="file", path="/a", text="1"), AccessLog(sink="file", path="/b", text="1")
    blocks = grant(allocator, listener("l", 80, ["in"], file, AccessLog(sink="file", path="/a", json={}), other)).blocks

    assert blocks["log:0:0"] == blocks["log:0:1"] != blocks["log:0:2"]
    assert allocator.sinks() == {blocks["log:0:0"]: "file /a", blocks["log:0:2"]: "file /b"}


def test_a_replaced_cluster_counts_on(region: Region) -> None:
    allocator = BlockAllocator(region)
    old = grant(allocator, Cluster(name="a"))
    region.add_cell(0, old.blocks["cluster"], 5)
    new = grant(allocator, Cluster(name="a", connect_timeout_s=1.0))
    allocator.reclaim(allocator.release(old))

    assert new.blocks == old.blocks
    assert list(region.read_cells(new.blocks["cluster"], 1)) == [5]


def test_a_released_block_is_used_again_only_after_reclaim_and_is_zero(region: Region) -> None:
    allocator = BlockAllocator(region)
    old = grant(allocator, Cluster(name="a"))
    cell = old.blocks["cluster"]
    region.add_cell(0, cell, 5)
    region.add_cell(1, cell + 900, 5)
    token = allocator.release(old)

    assert grant(allocator, Cluster(name="b")).blocks["cluster"] != cell
    assert [row[1] for row in allocator.rows()] == ["", "b"]
    assert [row[1] for row in allocator.all_rows()] == ["", "a", "b"]

    allocator.reclaim(token)
    assert grant(allocator, Cluster(name="c")).blocks["cluster"] == cell
    assert not any(region.read_cells(cell, block_cells(BlockKind.CLUSTER)))


def test_a_name_that_comes_back_before_reclaim_keeps_its_block(region: Region) -> None:
    allocator = BlockAllocator(region)
    first = grant(allocator, Cluster(name="a"))
    region.add_cell(0, first.blocks["cluster"], 5)
    token = allocator.release(first)
    second = grant(allocator, Cluster(name="a"))
    allocator.reclaim(token)

    assert second.blocks == first.blocks
    assert list(region.read_cells(first.blocks["cluster"], 1)) == [5]


def test_released_twice_waits_for_the_later_token(region: Region) -> None:
    allocator = BlockAllocator(region)
    first = grant(allocator, Cluster(name="a"))
    early = allocator.release(first)
    late = allocator.release(grant(allocator, Cluster(name="a")))
    region.add_cell(0, first.blocks["cluster"], 5)

    allocator.reclaim(early)
    assert list(region.read_cells(first.blocks["cluster"], 1)) == [5]
    allocator.reclaim(late)
    assert list(region.read_cells(first.blocks["cluster"], 1)) == [0]
    assert allocator.all_rows() == [("SERVER", "", 0)]


def test_a_full_table_is_refused_by_name_and_takes_nothing(region: Region) -> None:
    room = -(-block_cells(BlockKind.SERVER) // 8) * 8 + -(-block_cells(BlockKind.CLUSTER) // 8) * 8 + 8
    allocator = BlockAllocator(region, page_cells=room)

    with pytest.raises(TableFullError, match=rf"host 'a/10\.0\.0\.1:2' needs 8 metric cells, and 0 of {room} are free"):
        grant(allocator, Cluster(name="a", endpoints=(endpoint(1), endpoint(2))))
    assert allocator.all_rows() == [("SERVER", "", 0)]
    assert grant(allocator, Cluster(name="b", endpoints=(endpoint(1),))).blocks


def test_sinks_are_bounded(region: Region) -> None:
    allocator = BlockAllocator(region)
    logs = [AccessLog(sink="file", path=f"/{number}", text="x") for number in range(MAX_SINKS + 1)]
    with pytest.raises(TableFullError, match="access log 'file /4096' is one more than 4096"):
        grant(allocator, listener("l", 80, ["in"], *logs))

    assert allocator.sinks() == {}


def test_a_successor_goes_on_where_its_predecessor_was(region: Region) -> None:
    before = BlockAllocator(region)
    kept = grant(before, Cluster(name="a"))
    gone = grant(before, Cluster(name="b"))
    log = grant(before, listener("l", 80, ["in"], AccessLog(sink="stdout", text="x")))
    region.add_cell(0, kept.blocks["cluster"], 5)
    region.add_cell(0, gone.blocks["cluster"], 6)

    after = BlockAllocator.inherit(region, before.all_rows(), before.sinks())
    new = grant(after, Cluster(name="c"))
    again = grant(after, Cluster(name="a"))
    assert again.blocks == kept.blocks
    assert new.blocks["cluster"] > log.blocks["http:in"]

    after.reclaim(PREDECESSOR)
    assert [row[1] for row in after.all_rows()] == ["", "a", "c"]
    assert list(region.read_cells(kept.blocks["cluster"], 1)) == [5]
    assert list(region.read_cells(gone.blocks["cluster"], 1)) == [0]
    assert after.sinks() == {}
