"""What control planes say goes into force in Envoy's order, and what is in force stays until something better is ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
import msgspec
import pytest

from meshproxy.agent.finding import Finding
from meshproxy.agent.resolving import Resolving
from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.apply import Join
from meshproxy.agent.xds.assignments import AssignedSource, Assignments
from meshproxy.agent.xds.last_good import LastGood
from meshproxy.discovery.xds.kinds import CDS, EDS, LDS, RDS, SDS
from meshproxy.discovery.xds.watch import Item, Update
from meshproxy.errors import ConfigError, Problem
from meshproxy.ipc.messages import Configure, Directory, NodeSettings, PutAnswer, PutResource, PutResources, Refusal
from meshproxy.master.journal import Journal
from meshproxy.model import (
    Cluster,
    ConfigSource,
    DownstreamTls,
    Dynamic,
    EdsSource,
    Endpoint,
    EndpointSet,
    FilterChain,
    ForwardAction,
    HttpConnectionManager,
    Listener,
    Node,
    PathMatch,
    ResourceKind,
    Route,
    RouteTable,
    Secret,
    SocketAddress,
    Stats,
    TicketKeys,
    VirtualHost,
    WeightedCluster,
)
from meshproxy.model.snapshot import pack, unpack
from meshproxy.scoreboard.region import Region
from tests.cli.node import node_state

ADS = ConfigSource(kind="ads")
CLUSTER, ENDPOINTS, ROUTES, LISTENER, SECRET = (
    ResourceKind.CLUSTER, ResourceKind.ENDPOINTS, ResourceKind.ROUTE_TABLE, ResourceKind.LISTENER, ResourceKind.SECRET
)


class Packed(NamedTuple):
    value: bytes


class Made(NamedTuple):
    name: str
    resource: Any
    secrets: tuple = ()
    tables: tuple = ()
    notes: tuple = ()


class Models:
    """A translator of resources that are the model already; what is empty is refused. `inside` are secrets that come with a cluster or
    listener, by its name."""

    def __init__(self) -> None:
        self.inside: dict[str, tuple[Secret, ...]] = {}

    def _read(self, packed: Packed, struct: type) -> Made:
        if not packed.value:
            raise ConfigError([Problem("it is empty")])
        value = msgspec.msgpack.decode(packed.value, type=struct)
        name = value.cluster if struct is EndpointSet else value.name
        return Made(name, value.endpoints if struct is EndpointSet else value, self.inside.get(name, ()) if struct in (Cluster, Listener) else ())

    def cluster(self, packed, source=None) -> Made:
        return self._read(packed, Cluster)

    def listener(self, packed, source=None, clusters=None) -> Made:
        return self._read(packed, Listener)

    def route_table(self, packed, clusters=None) -> Made:
        return self._read(packed, RouteTable)

    def endpoints(self, packed) -> Made:
        return self._read(packed, EndpointSet)

    def secret(self, packed, source) -> Made:
        return self._read(packed, Secret)


class Asked:
    """A subscription."""

    def __init__(self, names, handler: Callable[[Update], dict], on_missing, on_failed, known) -> None:
        self.names, self.handler, self.missing, self.failed, self.known = names, handler, on_missing, on_failed, known
        self.cancelled = False

    def set_names(self, names: set[str]) -> None:
        self.names = names

    def cancel(self) -> None:
        self.cancelled = True


class Scene:
    """A node's join between a scripted control plane and a scripted master."""

    def __init__(self, tmp_path, *there, dynamic=Dynamic(cds=ADS, lds=ADS)) -> None:  # noqa: B008
        settings = NodeSettings(node=Node(id="n", cluster="c"), stats=Stats(), dynamic=dynamic)
        self.view = NodeView(Region.create(1), "1", list(there), settings, Directory([]), node_state())
        self.asked: dict[str, Asked] = {}
        self.puts: list[PutResources] = []
        self.quick: list[PutResource] = []
        self.checks: list[PutResources] = []
        self.translator = Models()
        self.journal = Journal("error")
        self.assignments = Assignments()
        self.finding = Finding(self.publish, self.journal, lambda: self.join.look_soon(), lambda wanted: AssignedSource(self.assignments, wanted))
        self.resolving = Resolving(None, None, self.publish, self.journal)
        self.last_good = LastGood(str(tmp_path), "n", self.journal, lambda write: write())
        self.join = Join(
            self.view, self, self.translator, self.finding, self.resolving, self.assignments, self.send, self.journal, self.last_good
        )
        self.refused_addresses: dict[str, str] = {}
        self.finding.watch((each, self.view.endpoint_set(each.name)) for each in self.view.clusters())
        self.join.start()
        self.turn()

    def subscribe(self, type_url, source, names, handler, *, on_missing, on_failed, known) -> Asked:
        self.asked[type_url] = Asked(names, handler, on_missing, on_failed, known)
        return self.asked[type_url]

    @staticmethod
    def counters() -> dict[str, int]:
        return {}

    gauges = counters

    def close(self) -> None:
        """Nothing is open."""

    def publish(self, found: EndpointSet) -> None:
        if not self.join.takes(found):
            self.send(PutResource(resource=pack(ENDPOINTS, found.cluster, found)))

    def send(self, message) -> None:
        if isinstance(message, PutResource):
            self.quick.append(message)
        elif isinstance(message, PutResources) and message.only_check:
            refused = [Refusal(LISTENER, each.name, self.refused_addresses[each.name]) for each in message.upserts if each.name in self.refused_addresses]
            self.checks.append(message)
            gevent.spawn(self.join.answered, PutAnswer(id=message.id, refused=refused))
        elif isinstance(message, PutResources):
            self.puts.append(message)

    @staticmethod
    def turn() -> None:
        """Until nothing more happens by itself."""
        for _ in range(20):
            gevent.sleep(0)

    def say(self, type_url: str, *values, full: bool = False, removed=(), version: str = "1") -> dict:
        """The control plane's word, from a greenlet that may wait; gives what is wrong with it."""
        items = [
            Item(getattr(each, "name", "") or each.cluster, Packed(msgspec.msgpack.encode(each)), version) if not isinstance(each, str)
            else Item(each, Packed(b""), version) for each in values
        ]
        said = gevent.spawn(self.asked[type_url].handler, Update(items, list(removed), full, version))
        said.join()
        self.turn()
        return said.get()

    def put(self, *refused: Refusal) -> list[tuple[str, str]]:
        """The oldest put goes into force and is answered; what was in it."""
        put = self.puts.pop(0)
        bad = {(each.kind, each.name) for each in refused}
        upserts = [msgspec.structs.replace(each, origin="xds") for each in put.upserts if (each.kind, each.name) not in bad]
        self.view.configure(Configure(version="2", upserts=upserts, removes=put.removes))
        self.join.configured()
        self.join.answered(PutAnswer(id=put.id, refused=list(refused)))
        self.turn()
        return sorted([(each.kind.name, each.name) for each in put.upserts] + [(f"-{kind.name}", name) for kind, name in put.removes])


@pytest.fixture
def scene(tmp_path):
    return lambda *there, **settings: Scene(tmp_path, *there, **settings)


def cluster(name: str, **settings) -> Cluster:
    return Cluster(name=name, **settings)


def eds(name: str, **settings) -> Cluster:
    return Cluster(name=name, discovery="found", sources=(EdsSource(source=ADS),), keep_last_s=0.0, debounce_s=0.0, **settings)


def endpoints(name: str, *ports: int) -> EndpointSet:
    return EndpointSet(cluster=name, endpoints=tuple(Endpoint(address=SocketAddress("127.0.0.1", port)) for port in ports))


def listener(name: str, table: str = "r", port: int = 1, rds=ADS, certificates=(), **settings) -> Listener:
    tls = DownstreamTls(certificates=certificates) if certificates else None
    chain = FilterChain(terminal=HttpConnectionManager(stat_prefix=name, route_table=table, rds=rds), tls=tls)
    return Listener(name=name, addresses=(SocketAddress("127.0.0.1", port),), chains=(chain,), **settings)


def table(name: str, **settings) -> RouteTable:
    return RouteTable(name=name, **settings)


def brought(value, kind: ResourceKind):
    return msgspec.structs.replace(pack(kind, value.name, value), origin="xds")


def test_clusters_are_warm_before_they_are_put_and_listeners_come_after_all_of_them(scene) -> None:
    node = scene()

    assert node.say(CDS.type_url, cluster("a"), eds("b"), full=True) == {}
    assert node.asked[EDS.type_url].names == {"b"}
    assert node.put() == [("CLUSTER", "a")], "it needs nothing"
    assert LDS.type_url not in node.asked
    node.say(EDS.type_url, endpoints("b", 1))
    assert LDS.type_url not in node.asked, "not before the cluster is in force"
    assert node.put() == [("CLUSTER", "b"), ("ENDPOINTS", "b")]
    assert LDS.type_url in node.asked
    assert not node.join.is_warm()
    node.say(LDS.type_url, full=True)
    assert node.join.is_warm()


def test_endpoints_alone_go_the_quick_way(scene) -> None:
    node = scene()
    node.say(CDS.type_url, eds("b"), full=True)
    node.say(EDS.type_url, endpoints("b", 1))
    node.put()

    node.say(EDS.type_url, endpoints("b", 2))

    assert [unpack(each.resource) for each in node.quick] == [endpoints("b", 2)]
    assert node.puts == []


def test_a_listener_waits_for_its_routes_and_another_does_not(scene) -> None:
    node = scene()
    node.say(CDS.type_url, full=True)

    node.say(LDS.type_url, listener("one", "r1"), listener("two", "r2"), full=True)
    assert node.asked[RDS.type_url].names == {"r1", "r2"}
    node.say(RDS.type_url, table("r2"))
    assert node.put() == [("LISTENER", "two"), ("ROUTE_TABLE", "r2")]
    assert not node.join.is_warm()
    node.asked[RDS.type_url].missing("r1")
    node.turn()
    assert node.put() == [("LISTENER", "one")], "it does not come in time: without"
    assert node.join.is_warm()
    node.say(RDS.type_url, table("r1"))
    assert node.put() == [("ROUTE_TABLE", "r1")]


def test_what_is_replaced_serves_until_the_new_is_warm(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("a"), full=True)
    node.put()

    node.say(CDS.type_url, eds("a"), full=True, version="2")
    assert node.puts == []
    assert node.view.cluster("a") == cluster("a")
    node.say(EDS.type_url, endpoints("a", 1))
    assert node.put() == [("CLUSTER", "a"), ("ENDPOINTS", "a")]

    node.say(CDS.type_url, eds("a", balance="random"), full=True, version="3")
    assert node.put() == [("CLUSTER", "a")], "its endpoints are known"
    assert node.join.version_of((CLUSTER, "a"))[0] == "3"


def test_the_same_again_is_no_change_but_a_version(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("a"), full=True)
    node.put()

    node.say(CDS.type_url, cluster("a"), full=True, version="2")

    assert node.puts == []
    assert node.join.version_of((CLUSTER, "a"))[0] == "2"


def test_the_good_of_a_response_goes_live_beside_the_bad(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("bad"), full=True)
    node.put()

    errors = node.say(CDS.type_url, "bad", cluster("good"), full=True)

    assert errors == {"bad": "it is empty"}
    assert node.put() == [("CLUSTER", "good")], "the bad one's former form stays"


def test_what_is_not_named_any_more_goes_with_what_it_had(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("a"), full=True)
    node.put()
    node.say(LDS.type_url, listener("one", "r"), full=True)
    node.say(RDS.type_url, table("r"))
    node.put()

    node.say(LDS.type_url, full=True)
    assert node.put() == [("-LISTENER", "one"), ("-ROUTE_TABLE", "r")]
    assert node.asked[RDS.type_url].cancelled
    node.say(CDS.type_url, removed=["a", "a", "unknown"])
    assert node.put() == [("-CLUSTER", "a")]
    assert node.join.all_counters()["cluster_manager.cluster_removed"] == 1


def test_an_address_that_cannot_be_had_is_told_in_the_answer(scene) -> None:
    node = scene()
    node.say(CDS.type_url, full=True)
    node.refused_addresses["bad"] = 'listener "bad": cannot bind'

    errors = node.say(LDS.type_url, listener("bad", rds=None), listener("good", rds=None), full=True)

    assert errors == {"bad": 'listener "bad": cannot bind'}
    assert node.put() == [("LISTENER", "good")]
    node.refused_addresses.clear()
    assert node.say(LDS.type_url, listener("bad", rds=None), listener("good", rds=None), full=True) == {}
    assert node.put() == [("LISTENER", "bad")], "it is tried again"
    node.say(LDS.type_url, listener("bad", rds=None, backlog=7), listener("good", rds=None), full=True)
    assert len(node.checks) == 2, "whose addresses stay has them"


def test_what_the_master_refuses_is_tried_again_when_it_comes_again(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("a"), cluster("b"), full=True)

    node.put(Refusal(CLUSTER, "a", "no room"))
    assert node.join.things[CLUSTER, "a"].error == "no room"
    assert node.join.things[CLUSTER, "b"].state == "active"
    node.say(CDS.type_url, cluster("a"), cluster("b"), full=True)
    assert node.put() == [("CLUSTER", "a")]


def test_a_secret_is_waited_for_and_follows(scene) -> None:
    node = scene()
    node.say(CDS.type_url, full=True)
    node.translator.inside["one"] = (Secret(name="s", source=ADS, sds_name="cert"),)
    key, other = TicketKeys(keys=(b"k" * 80,)), TicketKeys(keys=(b"o" * 80,))

    node.say(LDS.type_url, listener("one", rds=None, certificates=("s",)), full=True)
    assert node.asked[SDS.type_url].names == {"cert"}
    assert node.puts == []
    node.say(SDS.type_url, Secret(name="cert", value=key, source=ADS, sds_name="cert"))
    assert node.put() == [("LISTENER", "one"), ("SECRET", "s")]
    assert unpack(node.view.resource(SECRET, "s")).value == key
    node.say(SDS.type_url, Secret(name="cert", value=other, source=ADS, sds_name="cert"))
    assert node.put() == [("SECRET", "s")]
    assert unpack(node.view.resource(SECRET, "s")).value == other


def test_a_newborn_agent_removes_nothing_before_a_control_plane_said_so(scene) -> None:
    node = scene(brought(eds("a"), CLUSTER), brought(cluster("gone"), CLUSTER), brought(listener("one"), LISTENER), brought(table("r"), ROUTES))

    assert node.asked[EDS.type_url].names == {"a"}
    assert node.puts == []
    node.asked[CDS.type_url].failed("nobody listens")
    node.asked[EDS.type_url].failed("nobody listens")
    node.turn()
    assert node.puts == []
    assert node.asked[RDS.type_url].names == {"r"}
    node.say(CDS.type_url, eds("a"), full=True)
    assert node.put() == [("-CLUSTER", "gone")]
    node.say(LDS.type_url, listener("one"), full=True)
    assert node.puts == [], "nothing of it is another"


def test_a_name_of_the_file_is_left_alone_until_the_file_lets_go(scene) -> None:
    node = scene(pack(CLUSTER, "a", cluster("a")))

    assert node.say(CDS.type_url, cluster("a", balance="random"), full=True) == {}
    assert node.puts == []
    node.view.configure(Configure(version="2", removes=[(CLUSTER, "a")]))
    node.join.configured()
    node.turn()
    assert node.put() == [("CLUSTER", "a")]


def test_one_put_at_a_time_and_the_next_has_all_that_became_ready(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("a"), full=True)
    node.say(CDS.type_url, cluster("a"), cluster("b"), full=True)
    node.say(CDS.type_url, cluster("a", balance="random"), cluster("b"), cluster("c"), full=True)

    assert len(node.puts) == 1
    assert node.put() == [("CLUSTER", "a")]
    assert node.put() == [("CLUSTER", "a"), ("CLUSTER", "b"), ("CLUSTER", "c")]
    assert node.view.cluster("a").balance == "random"


def test_the_last_known_good_is_used_when_nobody_answers(scene, tmp_path) -> None:
    first = scene()
    first.say(CDS.type_url, eds("a"), full=True)
    first.say(EDS.type_url, endpoints("a", 1))
    first.put()
    first.say(LDS.type_url, listener("one"), "bad", full=True)
    first.say(RDS.type_url, table("r"))
    first.put()
    first.join.end()
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "xds").iterdir()} == {0o600}

    node = scene()
    assert node.asked[CDS.type_url].known == {}, "nothing of it is in force"
    node.asked[CDS.type_url].failed("connection refused")
    node.turn()
    node.asked[EDS.type_url].failed("connection refused")
    node.turn()
    assert node.put() == [("CLUSTER", "a"), ("ENDPOINTS", "a")]
    node.asked[LDS.type_url].failed("connection refused")
    node.turn()
    node.asked[RDS.type_url].failed("connection refused")
    node.turn()
    assert node.put() == [("LISTENER", "one"), ("ROUTE_TABLE", "r")]
    assert node.join.is_warm()
    assert node.join.gauges()["control_plane.last_known_good"] == 1
    node.say(CDS.type_url, eds("a"), full=True)
    node.say(LDS.type_url, full=True)
    assert node.put() == [("-LISTENER", "one"), ("-ROUTE_TABLE", "r")]


def test_routes_of_a_listener_of_the_file(scene) -> None:
    node = scene(pack(LISTENER, "mine", listener("mine", "r")), dynamic=Dynamic(ads=ADS))

    assert node.asked[RDS.type_url].names == {"r"}
    assert not node.join.is_warm()
    node.say(RDS.type_url, table("r"))
    assert node.put() == [("ROUTE_TABLE", "r")]
    assert node.join.is_warm()


def to(name: str, *clusters: str) -> RouteTable:
    routes = tuple(Route(path=PathMatch(kind="prefix", value=f"/{each}"), action=ForwardAction(clusters=(WeightedCluster(name=each),))) for each in clusters)
    return RouteTable(name=name, virtual_hosts=(VirtualHost(name="all", domains=("*",), routes=routes),))


def test_routes_wait_for_a_cluster_that_is_on_its_way_and_it_for_routes_that_name_it_still(scene) -> None:
    node = scene()
    node.say(CDS.type_url, cluster("old"), full=True)
    node.put()
    node.say(LDS.type_url, listener("one", "r"), full=True)
    node.say(RDS.type_url, to("r", "old"))
    node.put()

    node.say(CDS.type_url, eds("new"), full=True, version="2")
    node.say(RDS.type_url, to("r", "new", "unknown"), version="2")
    assert node.puts == []
    node.say(EDS.type_url, endpoints("new", 1))
    assert node.put() == [("CLUSTER", "new"), ("ENDPOINTS", "new")]
    assert node.put() == [("ROUTE_TABLE", "r")], "not for one that nobody sends"
    assert node.put() == [("-CLUSTER", "old")]


def test_nobody_waits_for_long(scene, monkeypatch) -> None:
    monkeypatch.setattr("meshproxy.agent.xds.putting.HOLD_S", 0.0)
    node = scene()
    node.say(CDS.type_url, eds("slow"), cluster("old"), full=True)
    node.put()
    node.asked[EDS.type_url].missing("slow")
    node.turn()
    node.put()
    node.say(CDS.type_url, eds("late"), full=True)
    node.turn()
    node.say(LDS.type_url, listener("one", "r"), full=True)
    node.say(RDS.type_url, to("r", "late"))

    while node.puts:
        node.put()

    assert node.view.listeners().__next__().name == "one"
    assert node.view.cluster("old") is None


def test_what_a_control_plane_that_is_there_does_not_have_is_not_taken_from_the_disk(scene) -> None:
    first = scene()
    first.say(CDS.type_url, full=True)
    first.say(LDS.type_url, listener("one", "r"), full=True)
    first.say(RDS.type_url, table("r"))
    first.join.end()

    node = scene()
    node.say(CDS.type_url, full=True)
    node.say(LDS.type_url, listener("one", "r"), full=True)
    node.asked[RDS.type_url].missing("r")
    node.turn()

    assert node.put() == [("LISTENER", "one")]
    assert node.join.gauges()["control_plane.last_known_good"] == 0
