"""The table of resources and the way from one state to the next, on a real scoreboard."""

import msgspec
import pytest

from meshproxy.errors import TableFullError
from meshproxy.ipc.messages import NodeSettings
from meshproxy.master.configuration import Change, Configuration, Versions
from meshproxy.model import (
    Cluster,
    ConfigSource,
    ConsulCatalog,
    ConsulServer,
    ConsulService,
    Dynamic,
    EdsSource,
    Endpoint,
    EndpointSet,
    FilterChain,
    GrpcService,
    HttpConnectionManager,
    Listener,
    Node,
    Process,
    ResourceKind,
    RouteTable,
    Secret,
    Snapshot,
    SocketAddress,
    Stats,
)
from meshproxy.model.snapshot import pack, resources_of, unpack
from meshproxy.scoreboard.blocks import BlockAllocator
from meshproxy.scoreboard.region import Region

SETTINGS = NodeSettings(node=Node(), stats=Stats())


def cluster(name: str, *ports: int, **settings):
    endpoints = tuple(Endpoint(address=SocketAddress("127.0.0.1", port)) for port in ports)
    return pack(ResourceKind.CLUSTER, name, Cluster(**{"name": name, "endpoints": endpoints, **settings}))


def endpoints(name: str, *ports: int):
    found = EndpointSet(cluster=name, endpoints=tuple(Endpoint(address=SocketAddress("127.0.0.1", port)) for port in ports))
    return pack(ResourceKind.ENDPOINTS, name, found)


def table(*resources, page_cells: int | None = None) -> Configuration:
    region = Region.create(2)
    allocator = BlockAllocator(region, page_cells) if page_cells else BlockAllocator(region)
    configuration = Configuration(allocator, Versions())
    if resources:
        accept(configuration, *resources)
    return configuration


def accept(configuration: Configuration, *resources) -> Change:
    change = configuration.prepare_all(list(resources), SETTINGS, Process())
    configuration.note_rows(change)
    configuration.commit(change)
    return change


def keys(resources) -> list[tuple[str, str]]:
    return [(each.kind.name, each.name) for each in resources]


def test_only_what_differs_by_its_bytes_is_in_a_change() -> None:
    configuration = table(cluster("a", 1), cluster("b", 1), cluster("c", 1))

    change = configuration.prepare_all([cluster("a", 1), cluster("b", 2), cluster("d", 1)], SETTINGS, Process())

    assert keys(change.upserts) == [("CLUSTER", "b"), ("CLUSTER", "d")]
    assert change.removes == [(ResourceKind.CLUSTER, "c")]
    assert change.settings is None


def test_made_in_order_and_unmade_in_reverse() -> None:
    routes = pack(ResourceKind.ROUTE_TABLE, "r", RouteTable(name="r"))
    configuration = table()

    made = accept(configuration, routes, cluster("a", 1))
    unmade = configuration.prepare_all([], SETTINGS, Process())

    assert keys(made.upserts) == [("CLUSTER", "a"), ("ROUTE_TABLE", "r")]
    assert unmade.removes == [(ResourceKind.ROUTE_TABLE, "r"), (ResourceKind.CLUSTER, "a")]


def test_found_endpoints_stay_while_their_cluster_is_one_that_is_found() -> None:
    configuration = table(cluster("a", discovery="strict_dns"))
    configuration.commit(configuration.prepare([endpoints("a", 1)]))

    assert accept(configuration, cluster("a", discovery="strict_dns")).removes == []
    assert accept(configuration, cluster("a", 7)).removes == [(ResourceKind.ENDPOINTS, "a")]


def test_sources_that_nobody_watched_yet_are_waited_for() -> None:
    def found(*names: str, **settings):
        return cluster("a", discovery="found", sources=tuple(ConsulService(service=name) for name in names), **settings)

    def cold(*clusters) -> list[str]:
        return configuration.cold(configuration.prepare_all(list(clusters), SETTINGS, Process()).upserts)

    configuration = table()
    assert cold(found("x")) == ["a"]
    assert cold(found("x", wait_for_warm=False)) == []
    accept(configuration, found("x", "y"))
    configuration.commit(configuration.prepare([endpoints("a", 1)]))
    assert cold(found("y", balance="random")) == []
    assert cold(found("y", "z")) == ["a"]
    assert accept(configuration, found("y")).removes == [], "the endpoints stay"


def test_a_token_is_not_shown() -> None:
    source = ConsulService(service="x", server=ConsulServer(token="hush"))
    configuration = table(cluster("a", discovery="found", sources=(source,)))

    assert "hush" not in repr(configuration.snapshot())


def test_a_token_does_not_travel_to_workers() -> None:
    """Nor whom the agent asks for secrets: workers ask nobody."""
    found = cluster("a", discovery="found", sources=(ConsulService(service="x", server=ConsulServer(token="hush")),))
    asked = ConfigSource(kind="grpc", services=(GrpcService(cluster="a", initial_metadata=(("authorization", "hush"),)),))
    waited = pack(ResourceKind.SECRET, "s", Secret(name="s", source=asked, sds_name="s"))
    catalog = RouteTable(name="r", catalog=ConsulCatalog(domains=("{service}.x",), server=ConsulServer(token="hush")))
    change = table().prepare([found, waited, pack(ResourceKind.ROUTE_TABLE, "r", catalog)])
    got = {each.name: each for each in change.for_workers().upserts}

    assert not any(b"hush" in each.body for each in got.values())
    assert unpack(got["a"]) == msgspec.structs.replace(unpack(found), sources=())
    assert unpack(got["s"]) == Secret(name="s", sds_name="s")
    assert unpack(got["r"]) == RouteTable(name="r")
    assert [each.blocks for each in change.for_workers().upserts] == [each.blocks for each in change.upserts]
    assert all(b"hush" in each.body for each in change.for_agent().upserts)


def dns_cluster(*hosts: str, **settings):
    places = tuple(Endpoint(address=SocketAddress(host, 80)) for host in hosts)
    return cluster("a", discovery="strict_dns", endpoints=places, **settings)


def test_a_cluster_of_addresses_alone_has_its_endpoints_without_dns() -> None:
    configuration = table()

    assert keys(accept(configuration, dns_cluster("10.0.0.1")).upserts) == [("CLUSTER", "a"), ("ENDPOINTS", "a")]
    assert keys(accept(configuration, dns_cluster("10.0.0.1", "10.0.0.2")).upserts) == [("CLUSTER", "a"), ("ENDPOINTS", "a")]
    assert keys(accept(configuration, dns_cluster("10.0.0.1", "10.0.0.2")).upserts) == []


def test_cold_are_clusters_with_names_that_were_not_asked_for() -> None:
    configuration = table(dns_cluster("a.test", "b.test"))

    assert configuration.cold([dns_cluster("b.test")]) == []
    assert configuration.cold([dns_cluster("a.test", "c.test")]) == ["a"]
    assert configuration.cold([dns_cluster("a.test", "c.test", wait_for_warm=False)]) == []
    assert configuration.cold([dns_cluster("10.0.0.1"), cluster("b", 1), endpoints("a", 1)]) == []
    assert table(cluster("a", 1)).cold([dns_cluster("a.test")]) == ["a"]


def test_endpoints_that_were_found_since_are_part_of_a_change() -> None:
    configuration = table()
    before = configuration.allocator.rows()
    change = configuration.prepare_all([dns_cluster("a.test")], SETTINGS, Process())
    configuration.note_rows(change)

    more = configuration.extend(change, [endpoints("a", 1)])

    assert more.version == change.version
    assert [kind for kind, _, _ in more.rows] == ["HOST"]
    assert keys(change.upserts) == [("CLUSTER", "a"), ("ENDPOINTS", "a")]
    back, tokens = configuration.undo(change)
    assert back.removes == [(ResourceKind.ENDPOINTS, "a"), (ResourceKind.CLUSTER, "a")]
    for token in tokens:
        configuration.allocator.reclaim(token)
    assert configuration.allocator.rows() == before


def test_an_undone_change_goes_back_to_the_bytes_and_blocks_before() -> None:
    configuration = table(cluster("a", 1), cluster("c", 1))
    before = configuration.resources()

    change = configuration.prepare_all([cluster("a", 2), cluster("b", 1)], SETTINGS, Process())
    back, tokens = configuration.undo(change)

    assert configuration.resources() == before
    assert sorted(keys(back.upserts)) == [("CLUSTER", "a"), ("CLUSTER", "c")]
    assert back.removes == [(ResourceKind.CLUSTER, "b")]
    assert len(tokens) == 2
    assert configuration.versions.order(back.version) > configuration.versions.order(change.version)


def test_a_full_scoreboard_refuses_the_change_and_takes_nothing() -> None:
    one_cluster = table(cluster("a", 1)).allocator.rows()
    size = max(cell for _, _, cell in one_cluster) + 8
    configuration = table(cluster("a", 1), page_cells=size)

    with pytest.raises(TableFullError, match="'b'"):
        configuration.prepare_all([cluster("a", 1), cluster("b", 1)], SETTINGS, Process())

    assert configuration.allocator.rows() == one_cluster
    assert accept(configuration, cluster("a", 1)).upserts == []


def test_the_agent_hears_of_new_blocks_before_and_of_gone_ones_after() -> None:
    configuration = table(cluster("a", 1))

    change = configuration.prepare_all([cluster("b", 1)], SETTINGS, Process())
    configuration.note_rows(change)
    assert [row[:2] for row in change.rows] == [("CLUSTER", "b"), ("HOST", "b/127.0.0.1:1")]
    assert change.rows_removed == []

    configuration.commit(change)
    after = Change(change.version, [], [])
    configuration.note_rows(after)
    assert after.rows_removed == [("CLUSTER", "a"), ("HOST", "a/127.0.0.1:1")]


def test_tokens_of_control_planes_are_not_in_the_snapshot_that_is_shown() -> None:
    source = ConfigSource(kind="grpc", services=(GrpcService(cluster="xds", initial_metadata=(("x-token", "sesame"),)),))
    manager = HttpConnectionManager(stat_prefix="a", route_table="r", rds=source)
    listener = Listener(name="a", addresses=(SocketAddress("127.0.0.1", 1),), chains=(FilterChain(terminal=manager),))
    written = Snapshot(
        listeners=(listener,), secrets=(Secret(name="s", source=source, sds_name="s"),), dynamic=Dynamic(ads=source),
        clusters=(Cluster(name="web", discovery="found", sources=(EdsSource(source=source),)),),
    )
    configuration = table()
    settings = NodeSettings(node=written.node, stats=written.stats, dynamic=written.dynamic)
    configuration.commit(configuration.prepare_all(resources_of(written), settings, written.process))

    shown = str(configuration.snapshot())
    assert "sesame" not in shown
    assert shown.count("[redacted]") == 4


def test_the_snapshot_is_as_it_was_written() -> None:
    """Workers are told the node's name in each listener that sends it; a file has it in the node only."""
    manager = HttpConnectionManager(stat_prefix="a", route_table="r", add_user_agent=True)
    listener = Listener(name="a", addresses=(SocketAddress("127.0.0.1", 1),), chains=(FilterChain(terminal=manager),))
    written = Snapshot(listeners=(listener,), route_tables=(RouteTable(name="r"),), node=Node(id="n", cluster="c"))
    configuration = table()
    settings = NodeSettings(node=written.node, stats=written.stats)
    configuration.commit(configuration.prepare_all(resources_of(written), settings, written.process))

    told = unpack(configuration.get((ResourceKind.LISTENER, "a"))).chains[0].terminal
    assert (told.user_agent, told.service_node) == ("c", "n")
    assert configuration.snapshot() == written


def test_versions_are_compared_by_when_they_were_issued() -> None:
    versions = Versions()
    issued = [versions.next(True), versions.next(False), versions.next(True), versions.withdraw(), versions.next(True)]

    assert issued == ["1", "1.1", "2", "2.1", "3"]
    assert [versions.order(each) for each in issued] == [1, 2, 3, 4, 5]
    assert versions.order("unknown") == 0


def test_versions_forget_the_oldest() -> None:
    versions = Versions()
    first = versions.next(True)
    for _ in range(Versions.KEPT):
        versions.next(False)

    assert versions.order(first) == 0
