"""A whole accepted configuration, and the resources it is made of."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from meshproxy.model.address import Address
from meshproxy.model.cluster import Cluster, EndpointSet
from meshproxy.model.discovery import ConsulNode
from meshproxy.model.listener import FilterChain, HttpConnectionManager, Listener
from meshproxy.model.route import Route, RouteTable, VirtualHost
from meshproxy.model.telemetry import AccessLog
from meshproxy.model.tls import Secret
from meshproxy.model.xds import Dynamic, without_metadata


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who this proxy says it is. What is empty of the user agent is told as what it is."""

    id: str = ""
    cluster: str = ""
    region: str = ""
    zone: str = ""
    sub_zone: str = ""
    metadata: dict = {}
    user_agent_name: str = ""
    user_agent_version: str = ""
    user_agent_build_version: str = ""
    """`major.minor.patch`; one of the two is told."""
    client_features: tuple[str, ...] = ()
    """Told beside those that it has anyway."""


class Admin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the admin API listens; loopback or a UNIX socket, anything else must be asked for with `allow_remote`."""

    address: Address
    allow_remote: bool = False
    access_logs: tuple[AccessLog, ...] = ()


class StatsSink(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A statsd server. `address` for UDP; `tcp_cluster` names the cluster whose endpoints take statsd lines by TCP (Envoy's
    `tcp_cluster_name`); exactly one of the two is set, except for `tcp` with an address, which native YAML can say directly."""

    dialect: Literal["statsd", "dogstatsd"] = "statsd"
    transport: Literal["udp", "tcp"] = "udp"
    address: Address | None = None
    tcp_cluster: str = ""
    prefix: str = "meshproxy"
    max_datagram_bytes: int = 1432
    """1500 of Ethernet less IPv6 and UDP headers, rounded as statsd's own documents advise."""


class StatsTag(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tag of metrics besides Envoy's own: `value` on all, or what `regex` finds in the name that metrics of a thing begin with
    (`cluster.web.`): its second group, else its first. One of the two is set; nothing found or an empty text is no tag."""

    name: str
    value: str = ""
    regex: str = ""


class Stats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done with metrics."""

    sinks: tuple[StatsSink, ...] = ()
    flush_interval_s: float = 5.0
    tags: tuple[StatsTag, ...] = ()
    """In dialects that have tags."""
    histogram_buckets_ms: tuple[float, ...] = (
        0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
    )
    """Upper bounds in Prometheus text; Envoy's."""


class Process(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the node runs. Not reloadable except `drain_timeout_s`, `worker_hung_s` and the overload limits; a change of the others is named
    in the plan."""

    workers: int = 0
    """0 = one per usable core."""
    user: str = ""
    group: str = ""
    control: str = ""
    """Path of the control socket; "" = the default path."""
    pid_file: str = ""
    drain_timeout_s: float = 600.0
    worker_hung_s: float = 10.0
    """A worker whose heartbeat is older is killed and replaced."""
    max_worker_connections: int = 65536
    """Downstream connections of one worker; at it new ones are refused."""
    max_worker_buffer_bytes: int = 256 << 20
    """All bytes one worker holds for peers that do not take them; near it reads pause, at it new requests get 503."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that one configuration says. Names are unique within each kind of resource."""

    listeners: tuple[Listener, ...] = ()
    route_tables: tuple[RouteTable, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    secrets: tuple[Secret, ...] = ()
    admin: Admin | None = None
    node: Node = Node()
    stats: Stats = Stats()
    process: Process = Process()
    consul: ConsulNode | None = None
    """The node's own Consul, where it has one."""
    dynamic: Dynamic = Dynamic()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ResourceKind(enum.IntEnum):
    """The order is the order of making: what is referred to comes before who refers to it."""

    SECRET = 0
    CLUSTER = 1
    ENDPOINTS = 2
    ROUTE_TABLE = 3
    LISTENER = 4


class Resource(msgspec.Struct, frozen=True, array_like=True):
    """One resource as it travels and as the master keeps it: opaque bytes by (kind, name).

    `body` is msgpack of the model struct (Secret, Cluster, EndpointSet, RouteTable, Listener). `blocks` maps what the resource counts
    to its place in the scoreboard's pages (`scoreboard.blocks`), given out by the master. `origin` "xds": a control plane brought it, so
    it outlives a reload of the file.
    """

    kind: ResourceKind
    name: str
    body: bytes
    blocks: dict[str, int] = {}
    origin: Literal["", "xds", "consul"] = ""


BODY_TYPES: dict[ResourceKind, type] = {
    ResourceKind.SECRET: Secret,
    ResourceKind.CLUSTER: Cluster,
    ResourceKind.ENDPOINTS: EndpointSet,
    ResourceKind.ROUTE_TABLE: RouteTable,
    ResourceKind.LISTENER: Listener,
}
_encoder = msgspec.msgpack.Encoder()
_decoders = {kind: msgspec.msgpack.Decoder(struct) for kind, struct in BODY_TYPES.items()}


def pack(kind: ResourceKind, name: str, value: msgspec.Struct) -> Resource:
    """A resource of `value`, without metric blocks."""
    return Resource(kind, name, _encoder.encode(value))


def unpack(resource: Resource) -> Secret | Cluster | EndpointSet | RouteTable | Listener:
    """The model struct inside; raises msgspec.DecodeError for bytes of another version (a bug: only we write them)."""
    return _decoders[resource.kind].decode(resource.body)


def for_data_path(resource: Resource) -> Resource:
    """The resource as a worker gets it: not whom the agent asks for it or for a part of it, which may have tokens."""
    asked = _ASKED.get(resource.kind)
    if asked is None or asked[0].encode() not in resource.body:
        return resource
    bare = msgspec.structs.replace(unpack(resource), **dict([asked]))
    return msgspec.structs.replace(resource, body=_encoder.encode(bare))


_ASKED: dict[ResourceKind, tuple[str, tuple[()] | None]] = {
    ResourceKind.SECRET: ("source", None), ResourceKind.CLUSTER: ("sources", ()), ResourceKind.ROUTE_TABLE: ("catalog", None),
}
"""The field that has whom the agent asks, and nobody."""


class RoutesInBytes:
    """Routes that become structs when they are come to: all of a large table at once take 10 ms."""

    def __init__(self, packed: list[msgspec.Raw]) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[Route]:
        return map(_route_decoder.decode, self._packed)


class _PackedHost(VirtualHost, frozen=True, kw_only=True, omit_defaults=True):
    routes: list[msgspec.Raw] = []  # type: ignore[assignment]


class _PackedTable(RouteTable, frozen=True, kw_only=True, omit_defaults=True):
    virtual_hosts: list[_PackedHost] = []  # type: ignore[assignment]


_route_decoder = msgspec.msgpack.Decoder(Route)
_table_decoder = msgspec.msgpack.Decoder(_PackedTable)


def unpack_table(resource: Resource) -> RouteTable:
    """A route table whose hosts have `RoutesInBytes`, for who goes through it with pauses."""
    table = _table_decoder.decode(resource.body)
    hosts = [msgspec.structs.replace(host, routes=RoutesInBytes(host.routes)) for host in table.virtual_hosts]
    return msgspec.structs.replace(table, virtual_hosts=hosts)


def resources_of(snapshot: Snapshot) -> list[Resource]:
    """All resources of a snapshot, in the order of making. A static cluster's endpoints are inside the cluster."""
    listed = [pack(ResourceKind.SECRET, secret.name, secret) for secret in snapshot.secrets]
    listed += [pack(ResourceKind.CLUSTER, cluster.name, cluster) for cluster in snapshot.clusters]
    listed += [pack(ResourceKind.ROUTE_TABLE, table.name, table) for table in snapshot.route_tables]
    listed += [pack(ResourceKind.LISTENER, listener.name, signed(listener, snapshot.node)) for listener in snapshot.listeners]
    return listed


def as_written(listener: Listener) -> Listener:
    """A resource's listener as a file says it, to be shown: without what `resources_of` has filled in."""
    return without_call_metadata(signed(listener, Node()))


def without_call_metadata(listener: Listener) -> Listener:
    """The listener as it may be shown: calls for its routes may have tokens."""
    return _with_terminals(listener, lambda manager: (
        msgspec.structs.replace(manager, rds=without_metadata(manager.rds)) if manager.rds is not None else manager
    ))


def signed(listener: Listener, node: Node) -> Listener:
    """The listener with the node's name where it is sent upstream; workers know no Node."""
    managers = [chain.terminal for chain in listener.all_chains if isinstance(chain.terminal, HttpConnectionManager)]
    if not any(manager.add_user_agent or manager.tracing is not None for manager in managers):
        return listener
    return _with_terminals(listener, lambda manager: _signed_manager(manager, node))


def _signed_manager(manager: HttpConnectionManager, node: Node) -> HttpConnectionManager:
    changes: dict[str, Any] = {}
    if manager.add_user_agent:
        changes.update(user_agent=node.cluster, service_node=node.id)
    if manager.tracing is not None:
        changes["tracing"] = msgspec.structs.replace(
            manager.tracing, node_id=node.id, node_cluster=node.cluster, node_zone=node.zone
        )
    return msgspec.structs.replace(manager, **changes) if changes else manager


def _with_terminals(listener: Listener, change: Callable[[HttpConnectionManager], HttpConnectionManager]) -> Listener:
    """The listener with other connection managers."""

    def changed(chain: FilterChain) -> FilterChain:
        terminal = chain.terminal
        made = change(terminal) if isinstance(terminal, HttpConnectionManager) else terminal
        return msgspec.structs.replace(chain, terminal=made) if made is not terminal else chain

    chains = tuple(map(changed, listener.chains))
    default = changed(listener.default_chain) if listener.default_chain is not None else None
    if default is listener.default_chain and all(one is other for one, other in zip(chains, listener.chains, strict=True)):
        return listener
    return msgspec.structs.replace(listener, chains=chains, default_chain=default)
