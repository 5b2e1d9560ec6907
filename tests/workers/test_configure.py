"""A change becomes live while traffic goes on between its pieces."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

import gevent
import msgspec
import pytest
from meshproxy.workers.loop import Loop

from meshproxy.model import (
    ChainMatch,
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
)
from meshproxy.model.snapshot import pack, unpack
from meshproxy.scoreboard.blocks import BlockAllocator
from meshproxy.scoreboard.region import Region
from meshproxy.workers.configure import ChangeRefused, Configuration
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


def put(node: tuple[Configuration, BlockAllocator], *resources: Resource, removes: list = []) -> None:  # noqa: B006
    configuration, allocator = node
    made = [Resource(each.kind, each.name, each.body, allocator.blocks_for(each, unpack(each)), each.origin) for each in resources]
    configuration.apply(made, removes, ())


def http_listener(name: str = "in", routes: str = "r", **match: object) -> Resource:
    chain = FilterChain(terminal=HttpConnectionManager(stat_prefix=name, route_table=routes), match=ChainMatch(**match))
    return pack(ResourceKind.LISTENER, name, Listener(name=name, addresses=(SocketAddress("127.0.0.1", 1),), chains=(chain,)))


def twice(name: str) -> Resource:
    """A listener that no worker takes: both of its chains match all."""
    listener = unpack(http_listener(name))
    return pack(ResourceKind.LISTENER, name, msgspec.structs.replace(listener, chains=listener.chains * 2))


def test_all_that_is_to_blame_is_named_and_nothing_is_live(node: tuple[Configuration, BlockAllocator]) -> None:
    configuration, _ = node

    with pytest.raises(ChangeRefused) as refused:
        put(node, pack(ResourceKind.CLUSTER, "web", Cluster(name="web")), twice("one"), http_listener("two"), twice("three"))

    assert [(each.kind, each.name) for each in refused.value.refused] == [(ResourceKind.LISTENER, "one"), (ResourceKind.LISTENER, "three")]
    assert 'listener "one": filter chain 2 matches the same connections' in refused.value.refused[0].error
    assert configuration.clusters.pools.clusters == {}
    assert configuration.listeners.states == {}


def test_a_newborn_does_without_what_a_control_plane_brought_and_it_cannot_take(node: tuple[Configuration, BlockAllocator]) -> None:
    configuration, allocator = node

    def made(resource: Resource, origin: str = "") -> Resource:
        return Resource(resource.kind, resource.name, resource.body, allocator.blocks_for(resource, unpack(resource)), origin)

    refused = configuration.boot([made(http_listener("fine")), made(twice("odd"), "xds")], ())

    assert [each.name for each in refused] == ["odd"]
    assert list(configuration.listeners.states) == ["fine"]
    with pytest.raises(ChangeRefused):
        configuration.boot([made(twice("files"))], ())


@pytest.mark.parametrize("order", list(itertools.permutations(range(5), 3)))
def test_whatever_the_order_things_are_found_once_they_are_there(
    node: tuple[Configuration, BlockAllocator], order: tuple[int, ...]
) -> None:
    """A listener before its routes, endpoints of no cluster, a cluster removed twice."""
    configuration, _ = node
    steps = [
        lambda: put(node, http_listener()),
        lambda: put(node, pack(ResourceKind.ROUTE_TABLE, "r", RouteTable(name="r"))),
        lambda: put(node, pack(ResourceKind.ENDPOINTS, "web", EndpointSet(cluster="web", endpoints=endpoints(1)))),
        lambda: put(node, pack(ResourceKind.CLUSTER, "web", Cluster(name="web", discovery="found"))),
        lambda: put(node, removes=[(ResourceKind.CLUSTER, "web"), (ResourceKind.ROUTE_TABLE, "r"), (ResourceKind.ENDPOINTS, "web")]),
    ]
    for step in order:
        steps[step]()
        steps[step]()
    for step in (0, 1, 2, 3):
        steps[step]()

    assert configuration.routes["r"].router is not None
    assert [host.address for host in configuration.clusters.pools.clusters["web"].hosts] == ["127.0.0.1:1"]
    put(node, removes=[(ResourceKind.ROUTE_TABLE, "r")])
    slot = configuration.routes["r"]
    assert slot.router is None, "the listener is there still, so it answers that there is no route"
    put(node, pack(ResourceKind.ROUTE_TABLE, "r", RouteTable(name="r")))
    assert slot.router is not None, "and finds it when it comes again"
    put(node, removes=[(ResourceKind.LISTENER, "in"), (ResourceKind.ROUTE_TABLE, "r")])
    assert configuration.routes == {}
