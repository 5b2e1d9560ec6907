"""A node for admin pages: a real region, real resources, a real server on a real port, and a fake master on a real channel.

The master is a fake: a greenlet on the other end of the socket pair that answers orders in the real frames.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import requests
from gevent import socket as gsocket

from meshproxy.admin.node import AdminNode
from meshproxy.admin.pages import answer
from meshproxy.admin.server import AdminServer, Logging
from meshproxy.agent.link import MasterLink
from meshproxy.agent.metrics import AgentMetrics
from meshproxy.agent.view import NodeView
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Answer, Directory, NodeSettings, Order
from meshproxy.master.journal import Journal
from meshproxy.model import (
    Admin,
    Cluster,
    Endpoint,
    EndpointSet,
    FilterChain,
    HttpConnectionManager,
    Listener,
    Node,
    PathMatch,
    PythonFilter,
    Route,
    RouteTable,
    SocketAddress,
    Stats,
    VirtualHost,
)
from meshproxy.model.cluster import Breakers
from meshproxy.model.route import DirectResponse, HeaderMatch, HeaderMutations, HeaderValue, StringMatch
from meshproxy.model.snapshot import Resource, ResourceKind, pack
from meshproxy.scoreboard.blocks import BlockAllocator
from meshproxy.scoreboard.catalogue import BlockKind, offsets
from meshproxy.scoreboard.region import Region
from tests.cli.node import node_state

SECRET = "hunter2-s3cret"


def at(kind: BlockKind, name: str) -> int:
    """Where a metric is in its block."""
    return next(place for place, row in offsets(kind) if row.name == name)


def resources() -> list[tuple[Resource, object]]:
    """A small mesh with a secret in every place that may have one."""
    web = Cluster(
        name="web",
        endpoints=(
            Endpoint(address=SocketAddress(host="127.0.0.1", port=9001)),
            Endpoint(address=SocketAddress(host="::1", port=9002), weight=3),
        ),
        breakers=Breakers(max_connections=50),
    )
    dns = Cluster(name="dns", discovery="strict_dns", endpoints=(Endpoint(address=SocketAddress(host="a.example", port=80)),))
    found = EndpointSet(cluster="dns", endpoints=(Endpoint(address=SocketAddress(host="10.0.0.1", port=80), hostname="a.example"),))
    route = Route(
        path=PathMatch(kind="prefix", value="/"),
        headers=(HeaderMatch(name="authorization", string=StringMatch("exact", SECRET)),),
        mutations=HeaderMutations(request_add=(HeaderValue("x-api-key", SECRET),)),
        action=DirectResponse(status=200, body=b"hello"),
    )
    table = RouteTable(name="routes", virtual_hosts=(VirtualHost(name="all", domains=("*",), routes=(route,)),))
    manager = HttpConnectionManager(
        stat_prefix="ingress", route_table="routes",
        filters=(PythonFilter(name="auth", target="mesh.filters:Auth", settings={"password": SECRET, "mode": "strict"}),),
    )
    listener = Listener(
        name="ingress", addresses=(SocketAddress(host="0.0.0.0", port=8080),), chains=(FilterChain(terminal=manager),),
    )
    return [
        (pack(ResourceKind.CLUSTER, "web", web), web),
        (pack(ResourceKind.CLUSTER, "dns", dns), dns),
        (pack(ResourceKind.ENDPOINTS, "dns", found), found),
        (pack(ResourceKind.ROUTE_TABLE, "routes", table), table),
        (pack(ResourceKind.LISTENER, "ingress", listener), listener),
    ]


def view_of_a_mesh(slots: int = 2) -> NodeView:
    """The agent's view of a node with that mesh and two workers."""
    region = Region.create(slots)
    for slot in range(slots):
        region.set_state(slot, 2)
        region.set_pid(slot, 1000 + slot)
    allocator = BlockAllocator(region)
    made = resources()
    for resource, value in made:
        allocator.blocks_for(resource, value)
    settings = NodeSettings(
        node=Node(id="vm-7", cluster="shop", metadata={"zone": "a", "db": {"password": SECRET}}),
        stats=Stats(),
        admin=Admin(address=SocketAddress(host="127.0.0.1", port=9901)),
    )
    return NodeView(region, "3", [resource for resource, _ in made], settings, Directory(allocator.rows()), node_state())


class AdminSite:
    """A running admin server; `orders` are those that reached the fake master."""

    def __init__(self, view: NodeView, answering: Callable[[Order], Answer], logging: Logging | None = None) -> None:
        self.view = view
        self.orders: list[Order] = []
        self.levels: list[str] = []
        ours, theirs = Channel.pair()
        self._answering = answering
        self._master = gevent.spawn(self._be_the_master, theirs)
        journal = Journal("error")
        self._link = MasterLink(ours, journal)
        self._reading = gevent.spawn(self._link.run, {})
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.node = AdminNode(view=view, metrics=AgentMetrics(view), give_order=self._link.order, set_log_level=self.levels.append)
        self._server = AdminServer(listener.detach(), lambda request: answer(self.node, request), journal, ("vm-7",), logging)
        self._server.start()

    def ask(self, path: str, method: str = "GET", **settings: object) -> requests.Response:
        """A real client in a thread, so that the server's greenlets run meanwhile."""
        call = lambda: requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=20, **settings)  # noqa: E731
        return gevent.get_hub().threadpool.apply(call)

    def raw(self, data: bytes) -> bytes:
        """All that comes back for some bytes, to the end of the connection."""
        peer = gsocket.create_connection(("127.0.0.1", self.port), timeout=20)
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := peer.recv(65536):
            received += chunk
        peer.close()
        return received

    def close(self) -> None:
        self._server.stop()
        self._link.close()
        gevent.joinall([self._reading, self._master], timeout=10)

    def _be_the_master(self, channel: Channel) -> None:
        while not channel.closed:
            gsocket.wait_read(channel.fileno())
            for message, _ in channel.receive():
                self.orders.append(message)
                channel.send(self._answering(message))


@contextmanager
def admin_site(
    view: NodeView | None = None, answering: Callable[[Order], Answer] | None = None, logging: Logging | None = None
) -> Iterator[AdminSite]:
    """A running admin server until the block ends."""
    site = AdminSite(view or view_of_a_mesh(), answering or (lambda order: Answer(id=order.id)), logging)
    try:
        yield site
    finally:
        site.close()
