"""A change becomes live while traffic goes on between its pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
import pytest
from meshproxy.workers.loop import Loop

from meshproxy.model import Cluster, Endpoint, EndpointSet, Resource, ResourceKind, SocketAddress
from meshproxy.model.snapshot import pack, unpack
from meshproxy.scoreboard.blocks import BlockAllocator
from meshproxy.scoreboard.region import Region
from meshproxy.workers.configure import Configuration
from meshproxy.workers.late_blocks import LateBlocks


class Breathing:
    """Slices that are used up at once: `look` is what traffic sees in each of its turns."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.begin = lambda: None
        self.breathe = look


@pytest.fixture
def node() -> tuple[Configuration, BlockAllocator]:
    region, log = Region.create(1), logging.getLogger("test")
    loop = Loop(gevent.get_hub(), region, 0, 1 << 30, log)
    return Configuration(loop, region, 0, 100, b"r" * 32, LateBlocks(region, 0, lambda wanted: None), log), BlockAllocator(region)


def endpoints(port: int) -> tuple[Endpoint, ...]:
    return (Endpoint(address=SocketAddress("127.0.0.1", port)),)


@pytest.mark.parametrize("discovery", ["found", "strict_dns"])
def test_a_cluster_is_never_without_the_endpoints_that_come_with_it(
    node: tuple[Configuration, BlockAllocator], discovery: str
) -> None:
    configuration, allocator = node
    seen: list[list[str]] = []

    def put(*resources: Resource) -> None:
        made = [Resource(each.kind, each.name, each.body, allocator.blocks_for(each, unpack(each))) for each in resources]
        configuration.apply(made, [], ())

    put(pack(ResourceKind.CLUSTER, "web", Cluster(name="web", endpoints=endpoints(1))))
    configuration.slices = Breathing(lambda: seen.append([host.address for host in configuration.clusters.pools.clusters["web"].hosts]))
    put(
        pack(ResourceKind.CLUSTER, "web", Cluster(name="web", discovery=discovery)),
        pack(ResourceKind.ENDPOINTS, "web", EndpointSet(cluster="web", endpoints=endpoints(2))),
    )

    assert [] not in seen
    assert (seen[0], seen[-1]) == (["127.0.0.1:1"], ["127.0.0.1:2"])
