"""What control planes bring: what of it goes live, what is refused and why, and what outlives a reload, a death and an upgrade."""

from __future__ import annotations

import itertools
import json
import os
import signal

import msgspec
import pytest

from meshproxy.ipc.messages import NodeSettings, PutResources
from meshproxy.master.puts import keep, plan
from meshproxy.model import (
    Cluster,
    ConfigSource,
    ConsulCatalog,
    DownstreamTls,
    Dynamic,
    EndpointSet,
    FilterChain,
    HttpConnectionManager,
    Listener,
    Node,
    Resource,
    ResourceKind,
    RouteTable,
    Secret,
    SocketAddress,
    Stats,
    TicketKeys,
    VirtualHost,
)
from meshproxy.model.snapshot import pack
from tests.master.node import Node as RunningNode
from tests.master.node import connect, listener, load, say, snapshot
from tests.master.test_listeners import free_port

ADS = ConfigSource(kind="ads")
NUMBERS = itertools.count(1)
CLUSTER, ENDPOINTS, ROUTES, LISTENER, SECRET = (
    ResourceKind.CLUSTER, ResourceKind.ENDPOINTS, ResourceKind.ROUTE_TABLE, ResourceKind.LISTENER, ResourceKind.SECRET
)


def dynamic(base):
    """The same configuration, with control planes."""
    return msgspec.structs.replace(base, dynamic=Dynamic(cds=ADS, lds=ADS))


def cluster(name: str, **settings) -> Resource:
    return pack(CLUSTER, name, Cluster(name=name, **settings))


def found(name: str) -> Resource:
    return pack(ENDPOINTS, name, EndpointSet(cluster=name))


def routes(name: str) -> Resource:
    return pack(ROUTES, name, RouteTable(name=name))


def bound(name: str, port: int = 0, **settings) -> Resource:
    return pack(LISTENER, name, listener(name, SocketAddress("127.0.0.1", port), **settings))


def brought(resource: Resource) -> Resource:
    return msgspec.structs.replace(resource, origin="xds")


# ---- what of a put is to be done


def planned(put: PutResources, *there: Resource):
    table = {(each.kind, each.name): each for each in there}
    return plan(put, table.get)


def test_what_is_there_byte_for_byte_is_no_change() -> None:
    put = PutResources(id=1, upserts=[cluster("a"), cluster("b")], removes=[(CLUSTER, "unknown")])

    upserts, removes, left = planned(put, brought(cluster("a")))

    assert upserts == [brought(cluster("b"))]
    assert (removes, left) == ([], [])


def test_the_file_has_the_last_word() -> None:
    put = PutResources(id=1, upserts=[cluster("a", balance="random")], removes=[(CLUSTER, "b")])

    upserts, removes, left = planned(put, cluster("a"), cluster("b"))

    assert (upserts, removes) == ([], [])
    assert left == [(CLUSTER, "a"), (CLUSTER, "b")]


def test_a_secret_that_the_file_asks_for_is_the_control_planes() -> None:
    asked = pack(SECRET, "s", Secret(name="s", source=ADS))
    came = pack(SECRET, "s", Secret(name="s", source=ADS, value=TicketKeys(keys=(b"k" * 80,))))

    assert planned(PutResources(id=1, upserts=[came]), asked).upserts == [brought(came)]
    assert planned(PutResources(id=1, upserts=[came]), pack(SECRET, "s", Secret(name="s"))).left == [(SECRET, "s")]


def test_endpoints_go_with_their_cluster() -> None:
    gone = planned(PutResources(id=1, removes=[(CLUSTER, "a")]), brought(cluster("a")), found("a"))
    nobodys = planned(PutResources(id=1, upserts=[found("x")]))
    late = planned(PutResources(id=1, upserts=[found("a")], removes=[(CLUSTER, "a")]), brought(cluster("a")))
    both = planned(PutResources(id=1, upserts=[cluster("x"), found("x")]))

    assert gone.removes == [(CLUSTER, "a"), (ENDPOINTS, "a")]
    assert nobodys.upserts == []
    assert late.upserts == []
    assert [each.kind for each in both.upserts] == [CLUSTER, ENDPOINTS]


# ---- what outlives another file


def catalogued(name: str, *services: str, hosts=()) -> Resource:
    found = tuple(VirtualHost(name=f"{VirtualHost.OF_CATALOG}{each}", domains=(f"{each}.x",)) for each in services)
    table = RouteTable(name=name, virtual_hosts=(*hosts, *found), catalog=ConsulCatalog(domains=("{service}.x",)))
    return pack(ROUTES, name, table)


def from_consul(resource: Resource) -> Resource:
    return msgspec.structs.replace(resource, origin="consul")


def test_a_catalogue_adds_to_the_files_table_and_touches_nothing_of_others() -> None:
    put = PutResources(id=1, upserts=[catalogued("r", "web"), cluster("web"), routes("s")], removes=[(CLUSTER, "x")], origin="consul")
    wanted = planned(put, catalogued("r"), routes("s"), brought(cluster("x")))

    assert wanted.upserts == [from_consul(catalogued("r", "web")), from_consul(cluster("web"))]
    assert wanted.left == [(ROUTES, "s"), (CLUSTER, "x")]
    theirs = planned(PutResources(id=1, upserts=[catalogued("r", "web")]), catalogued("r"))
    assert theirs.left == [(ROUTES, "r")], "a control plane has no business there"


def test_what_a_catalogue_added_stays_behind_what_the_file_says_now() -> None:
    table = [from_consul(catalogued("r", "db", "web")), from_consul(cluster("web")), from_consul(cluster("db"))]
    own = VirtualHost(name="own", domains=("db.x",))

    assert kept(catalogued("r", hosts=(own,)), cluster("db"), table=table).resources == [
        from_consul(cluster("web")), from_consul(catalogued("r", "web", hosts=(own,))),
    ]  # fmt: skip
    assert kept(routes("r"), table=table).resources == [], "no catalogue, no services"


def kept(*file: Resource, table, settings=Dynamic(cds=ADS, lds=ADS), taken=lambda listener, others: ""):  # noqa: B008
    return keep(table, list(file), NodeSettings(node=Node(), stats=Stats(), dynamic=settings), taken)


def test_clusters_and_listeners_stay_while_the_file_says_where_they_come_from() -> None:
    table = [brought(cluster("c")), brought(bound("l")), brought(routes("routes")), brought(routes("unnamed")), cluster("files")]

    assert kept(table=table).resources == table[:3]
    assert kept(table=table, settings=Dynamic(cds=ADS)).resources == table[:1]
    assert kept(table=table, settings=Dynamic()).resources == []
    assert kept(bound("own"), table=table, settings=Dynamic()).resources == [table[2]], "a listener of the file names it"


def test_a_name_of_the_file_and_an_address_of_the_file_win() -> None:
    table = [brought(cluster("c")), brought(bound("l"))]

    names = kept(cluster("c"), table=table)
    addresses = kept(bound("other"), table=table, taken=lambda listener, others: f'listener "{others[0].name}"')

    assert names.resources == [table[1]]
    assert names.told == ['cluster "c": the file has one of this name now, and the control plane\'s goes']
    assert addresses.resources == [table[0]]
    assert addresses.told == ['listener "l" of the control plane goes: listener "other" of the file has its address now']


def test_a_secret_that_came_stays_for_who_still_asks_for_it() -> None:
    manager = HttpConnectionManager(stat_prefix="x", route_table="r")
    chain = FilterChain(terminal=manager, tls=DownstreamTls(certificates=("s",)))
    named = pack(LISTENER, "l", Listener(name="l", addresses=(SocketAddress("127.0.0.1", 0),), chains=(chain,)))
    came = brought(pack(SECRET, "s", Secret(name="s", source=ADS, value=TicketKeys(keys=(b"k" * 80,)))))
    asked, own = pack(SECRET, "s", Secret(name="s", source=ADS)), pack(SECRET, "s", Secret(name="s"))

    assert kept(named, asked, table=[came]).resources == [came]
    assert kept(named, own, table=[came]).resources == []
    assert kept(asked, table=[came]).resources == [], "nobody names it"


# ---- a real master


def bring(node: RunningNode, *resources: Resource, removes=()) -> list:
    """What of it is refused: kinds, names and reasons."""
    node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    put = PutResources(id=next(NUMBERS), upserts=list(resources), removes=list(removes))
    with connect(int(node.status()["admin"].rpartition(":")[2])) as agent:
        agent.sendall(b"bring " + msgspec.json.encode(put))
        with agent.makefile("rb") as answer:
            return [tuple(each) for each in json.loads(answer.readline())]


def names(node: RunningNode) -> set[str]:
    return {row["name"] for row in node.status()["listeners"]}


@pytest.mark.process
def test_a_listener_comes_changes_and_goes(start) -> None:
    node = start(dynamic(snapshot(listener("a")))).ready()
    port = free_port()

    assert bring(node, cluster("c"), routes("r"), bound("b", port)) == []
    assert say(port)[2] == "1.1"
    with connect(port) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        assert bring(node, bound("b", port, max_connections=7)) == []
        assert bring(node, bound("c", port), removes=[(LISTENER, "b")]) == []
        held.sendall(b"who\n")
        assert held.recv(100).split()[2] == b"1.3"

    assert names(node) == {"a", "c"}
    assert node.status()["config_version"] == "1"
    assert bring(node, removes=[(LISTENER, "c"), (LISTENER, "c"), (CLUSTER, "c")]) == []
    with pytest.raises(ConnectionRefusedError):
        connect(port)


@pytest.mark.process
def test_each_is_refused_alone_and_the_others_are_live(start) -> None:
    node = start(dynamic(snapshot(listener("a", SocketAddress("127.0.0.1", taken := free_port()))))).ready()
    first, second = free_port(), free_port()

    refused = bring(
        node, cluster("fine"), cluster("refuse-me"), bound("one", first), bound("two", taken), bound("three", first), bound("four", second),
    )

    assert sorted((kind, name) for kind, name, _ in refused) == [(CLUSTER, "refuse-me"), (LISTENER, "three"), (LISTENER, "two")]
    told = {name: error for _, name, error in refused}
    assert told["refuse-me"] == "this name is refused"
    assert told["two"] == f'listener "two": cannot bind 127.0.0.1:{taken}: listener "a" has it. Give each its own address.'
    assert told["three"].endswith('listener "one" has it. Give each its own address.')
    assert say(first)
    assert say(second)
    dumped = node.ask("dump").body
    assert b"fine" in dumped
    assert b"refuse-me" not in dumped
    assert names(node) == {"a", "one", "four"}


@pytest.mark.process
def test_all_of_a_put_is_refused_when_no_worker_can_tell_what_is_to_blame(start) -> None:
    node = start(dynamic(snapshot(listener("a")))).ready()
    port = free_port()

    refused = bring(node, cluster("refuse-all"), bound("b", port))

    assert sorted(name for _, name, _ in refused) == ["b", "refuse-all"]
    assert names(node) == {"a"}
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    assert say(node.port())


@pytest.mark.process
def test_what_was_brought_outlives_a_reload_a_worker_and_an_agent(start) -> None:
    node = start(dynamic(snapshot(listener("a")))).ready()
    port = free_port()
    bring(node, cluster("c", discovery="strict_dns"), found("c"), routes("r"), bound("b", port))

    node.write(dynamic(snapshot(listener("a"), listener("new"))))
    assert node.ask("reload").ok
    assert names(node) == {"a", "b", "new"}
    for pid in node.pids():
        os.kill(pid, signal.SIGKILL)
    assert say(port)[2] == "2"
    os.kill(node.status()["agent"]["pid"], signal.SIGKILL)
    node.wait_line("stub agent: has :a :c :new :routes xds:b xds:c")
    assert say(port)[2] == "2"


@pytest.mark.process
def test_the_file_takes_back_names_addresses_and_the_whole(start) -> None:
    node = start(dynamic(snapshot(listener("a")))).ready()
    port, other = free_port(), free_port()
    bring(node, cluster("c"), bound("b", port), bound("d", other))

    node.write(dynamic(snapshot(listener("a"), listener("mine", SocketAddress("127.0.0.1", port)), clusters=("c",))))
    assert node.ask("reload").ok
    node.wait_line('what a control plane brought goes about=.*: the file has one')
    assert names(node) == {"a", "mine", "d"}
    assert say(port)
    assert bring(node, cluster("c")) == []
    node.wait_line("a control plane cannot change what the file has kind=CLUSTER name=c")

    node.write(snapshot(listener("a")))
    assert node.ask("reload").ok
    assert names(node) == {"a"}
    with pytest.raises(ConnectionRefusedError):
        connect(other)


@pytest.mark.process
def test_a_new_master_has_what_was_brought_from_the_beginning(start) -> None:
    node = start(dynamic(snapshot(listener("a")))).ready()
    port = free_port()
    bring(node, cluster("c", discovery="strict_dns"), found("c"), routes("r"), bound("b", port))

    with load(port) as answered:
        assert node.ask("upgrade").ok
        node.wait_line("meshproxy: ready ", count=2)
    assert answered[0] > 0
    node.wait_line("stub agent: has :a :c :routes xds:b xds:c")
    assert names(node) == {"a", "b"}


@pytest.mark.process
def test_what_a_newborn_worker_cannot_take_goes_and_the_worker_stays(start) -> None:
    """The first workers were there before the resource; this one is not asked whether it likes it."""
    node = start(dynamic(snapshot(listener("a"))), workers=1, options=("agent=tests.master.stubs:run_bringing_agent",))
    node.ready()

    node.wait_line("a resource of a control plane goes kind=CLUSTER name=refuse-later error=\"born without it\"")
    node.wait_line("worker serves")
    assert say(node.port())
    assert b"refuse-later" not in node.ask("dump").body


@pytest.mark.process
def test_changes_under_load_fail_nobody(start) -> None:
    node = start(dynamic(snapshot(listener("a")))).ready()
    port = free_port()
    bring(node, bound("b", port))

    with load(port) as answered:
        for number in range(30):
            assert bring(node, cluster(f"c{number}"), bound("b", port, max_connections=number), removes=[(CLUSTER, f"c{number - 1}")]) == []

    assert answered[0] > 0
    assert b"c29" in (dumped := node.ask("dump").body)
    assert b"c28" not in dumped
