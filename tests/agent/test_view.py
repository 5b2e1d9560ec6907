"""The agent's picture of its node, as messages change it."""

from __future__ import annotations

import pytest

from meshproxy.agent.gauges import node_gauges, start_new_turns
from meshproxy.agent.view import NodeView
from meshproxy.ipc.messages import Configure, Directory, NodeSettings
from meshproxy.model import Cluster, Endpoint, EndpointSet, Node, ResourceKind, SocketAddress, Stats
from meshproxy.model.snapshot import pack
from meshproxy.scoreboard.region import Region
from tests.cli.node import node_state


def endpoint(port: int, healthy: bool = True) -> Endpoint:
    return Endpoint(address=SocketAddress(host="127.0.0.1", port=port), healthy=healthy)


def cluster(name: str, *endpoints: Endpoint, **settings: object):
    return pack(ResourceKind.CLUSTER, name, Cluster(name=name, endpoints=endpoints, **settings))


@pytest.fixture
def view() -> NodeView:
    web = cluster("web", endpoint(1), endpoint(2, healthy=False))
    settings = NodeSettings(node=Node(id="vm-7"), stats=Stats())
    return NodeView(Region.create(2), "1", [web], settings, Directory([("CLUSTER", "web", 400)]), node_state())


def test_what_is_configured_is_seen(view: NodeView) -> None:
    view.configure(Configure(version="2", upserts=[cluster("db", endpoint(3))], directory_rows=[("CLUSTER", "db", 800)]))

    assert [each.name for each in view.clusters()] == ["db", "web"]
    assert (view.cell("CLUSTER", "web"), view.cell("CLUSTER", "db")) == (400, 800)
    assert view.version == "2"
    assert view.settings.node.id == "vm-7", "settings that do not come stay"


def test_what_is_removed_is_gone(view: NodeView) -> None:
    view.configure(Configure(version="2", removes=[(ResourceKind.CLUSTER, "web")], directory_removed=[("CLUSTER", "web")]))

    assert list(view.clusters()) == []
    assert view.cell("CLUSTER", "web") is None
    assert view.facts == {}


def test_a_block_that_changes_its_owner(view: NodeView) -> None:
    view.configure(Configure(version="2", directory_removed=[("CLUSTER", "web")], directory_rows=[("CLUSTER", "new", 400)]))

    assert view.rows == [("CLUSTER", "new", 400)]


def test_found_endpoints_count_for_dns_clusters_only(view: NodeView) -> None:
    found = pack(ResourceKind.ENDPOINTS, "dns", EndpointSet(cluster="dns", endpoints=(endpoint(5), endpoint(6))))
    stray = pack(ResourceKind.ENDPOINTS, "web", EndpointSet(cluster="web", endpoints=()))
    view.configure(Configure(version="2", upserts=[cluster("dns", endpoint(4), discovery="strict_dns"), found, stray]))

    assert (view.facts["dns"].members, view.facts["web"].members) == (2, 2)


@pytest.mark.parametrize(
    ("state", "fails", "serving", "word"),
    [
        ({"live": True}, False, True, "LIVE"),
        ({"live": False}, False, False, "PRE_INITIALIZING"),
        ({"live": True, "draining": True}, False, False, "DRAINING"),
        ({"live": True}, True, False, "DRAINING"),
    ],
)
def test_when_the_node_serves(view: NodeView, state: dict, fails: bool, serving: bool, word: str) -> None:
    view.told(node_state(**state))
    view.region.healthcheck_failed = fails

    assert (view.serving, view.server_state) == (serving, word)


def test_gauges_of_the_node(view: NodeView) -> None:
    gauges = node_gauges(view)

    assert gauges["server.live"] == 1
    assert gauges["server.concurrency"] == 2
    assert gauges["server.worker_restarts"] == 1
    assert gauges["cluster.web.membership_total"] == 2
    assert gauges["cluster.web.membership_healthy"] == 1
    assert gauges["cluster_manager.active_clusters"] == 1


def test_the_longest_turn_starts_anew_after_an_export(view: NodeView) -> None:
    start_new_turns(view)

    assert node_gauges(view)["server.longest_turn_us"] == 0


