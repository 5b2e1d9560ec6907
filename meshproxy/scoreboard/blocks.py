"""Who counts where: the master gives each counted thing its block of cells, the same in every worker's page.

A thing is (kind, name in metrics). Two resources that name the same thing share its block, so two connection managers with one
`stat_prefix` count together and a cluster that is replaced goes on counting where it was. A block that nobody names any more waits until
every worker has let go of it, is zeroed, and only then is given to another thing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import msgspec

from meshproxy.errors import TableFullError
from meshproxy.model import (
    AccessLog,
    Cluster,
    ConnectionLimit,
    Endpoint,
    EndpointSet,
    FilterChain,
    HttpConnectionManager,
    HttpInspector,
    HttpRbac,
    Listener,
    LocalRateLimit,
    NetworkRbac,
    ProxyProtocol,
    Resource,
    ResourceKind,
    RouteTable,
    Secret,
    TcpProxy,
    TlsInspector,
    Tracing,
)
from meshproxy.scoreboard.catalogue import BlockKind, block_cells
from meshproxy.scoreboard.region import PAGE_CELLS, Region

CELLS_PER_LINE = 8
"""Blocks start on a cache line: an endpoint's eight cells are one."""
MAX_SINKS = 4096
"""Distinct targets of access logs; each is an open file or socket of the agent."""
PREDECESSOR = 0
"""The token of what an earlier master gave out (`inherit`)."""

Row = tuple[str, str, int]
"""(BlockKind name, thing's name in metrics, first cell), as in `ipc.messages.Directory`."""


class _Pool:
    """Numbers of one sort, each held by how many resources name it. `make` finds the number of a new key."""

    def __init__(self, make: Callable[[tuple[str, str]], int]) -> None:
        self._make = make
        self.numbers: dict[tuple[str, str], int] = {}
        self.keys: dict[int, tuple[str, str]] = {}
        self.holders: dict[int, int] = {}
        self.last_token: dict[int, int] = {}
        self.touched: set[tuple[str, str]] = set()
        """Keys that were named first or last since somebody looked."""

    def take(self, key: tuple[str, str]) -> int:
        number = self.numbers.get(key)
        if number is None:
            number = self._make(key)
            self.numbers[key] = number
            self.keys[number] = key
            self.holders[number] = 0
        if self.holders[number] == 0:
            self.touched.add(key)
        self.holders[number] += 1
        return number

    def drop(self, number: int, token: int) -> bool:
        """True when this was the last holder; a later drop's token takes the place of an earlier one's."""
        self.holders[number] -= 1
        self.last_token[number] = token
        if self.holders[number] == 0:
            self.touched.add(self.keys[number])
        return self.holders[number] == 0

    def forget(self, number: int) -> tuple[str, str]:
        key = self.keys.pop(number)
        del self.numbers[key], self.holders[number], self.last_token[number]
        return key


class BlockAllocator:
    """Gives out blocks and sink numbers; owned by the master, which is the only one to change it.

    `blocks_for` takes a reference for each entry it returns and `release` gives them back by the same entries. What `release` leaves
    without a holder stays as it is until `reclaim` with the token that `release` returned; named again meanwhile, it simply lives on.
    """

    def __init__(self, region: Region, page_cells: int = PAGE_CELLS) -> None:
        self._region = region
        self._page_cells = page_cells
        self._next_cell = _cells_of(BlockKind.SERVER)
        self._free: dict[str, list[int]] = {kind.name: [] for kind in BlockKind}
        self._blocks = _Pool(self._new_block)
        self._free_sinks: list[int] = []
        self._next_sink = 1
        self._sinks = _Pool(self._new_sink)
        self._released: dict[int, list[tuple[_Pool, int]]] = {}
        self._next_token = PREDECESSOR + 1

    @classmethod
    def inherit(cls, region: Region, rows: list[Row], sinks: dict[int, str]) -> BlockAllocator:
        """An allocator that goes on in the region of an earlier master (an upgrade): its counters continue under the same names.

        `rows` is `all_rows()` and `sinks` is `sinks()` of the predecessor. All of it counts as released under the token PREDECESSOR, to
        be reclaimed when the last of the predecessor's workers has ended.
        """
        allocator = cls(region)
        for kind, name, cell in rows:
            if kind != BlockKind.SERVER.name:
                allocator._adopt(allocator._blocks, (kind, name), cell)
                allocator._next_cell = max(allocator._next_cell, cell + _cells_of(BlockKind[kind]))
        for number, target in sinks.items():
            allocator._adopt(allocator._sinks, ("log", target), number)
            allocator._next_sink = max(allocator._next_sink, number + 1)
        return allocator

    def _adopt(self, pool: _Pool, key: tuple[str, str], number: int) -> None:
        pool.numbers[key] = number
        pool.keys[number] = key
        pool.holders[number] = 0
        pool.last_token[number] = PREDECESSOR
        self._released.setdefault(PREDECESSOR, []).append((pool, number))

    def blocks_for(self, resource: Resource, value: Secret | Cluster | EndpointSet | RouteTable | Listener) -> dict[str, int]:
        """The blocks of everything that the resource counts, by the keys that workers look up:

        CLUSTER      `cluster`, `ssl` with TLS, `http2` where it may speak that, `host:<address>` for each endpoint of a static cluster
        ENDPOINTS    `host:<address>`
        ROUTE_TABLE  `vhost:<name>` for each virtual host with `stats`
        LISTENER     `listener`; `ssl` with TLS, `http1` and `http2` with HTTP;
                     `<kind>:<stat_prefix>` for each terminal and filter that counts;
                     `bucket:<chain>:<filter>` for the tokens of each rate limit, which filters with one key share;
                     and the labels of `logs_of` and `traces_of` with the number of a sink, not a cell

        Raises TableFullError, and then nothing was taken.
        """
        taken: dict[str, int] = {}
        try:
            for label, key in _WANTED[resource.kind](value):
                if label not in taken:
                    taken[label] = self._pool(label).take(key)
        except TableFullError:
            self.reclaim(self._release(taken))
            raise
        return taken

    def lend(self, kind: str, name: str) -> int:
        """A block without a resource, for as long as this allocator lives. Raises TableFullError."""
        return self._blocks.take((kind, name))

    def release(self, resource: Resource) -> int:
        """The resource is replaced or removed. Returns the token to `reclaim` with when no worker uses it any more."""
        return self._release(resource.blocks)

    def _release(self, blocks: dict[str, int]) -> int:
        token, self._next_token = self._next_token, self._next_token + 1
        pools = ((self._pool(label), number) for label, number in blocks.items())
        self._released[token] = [(pool, number) for pool, number in pools if pool.drop(number, token)]
        return token

    def reclaim(self, token: int) -> None:
        """Every worker has let go of what was released under the token: zero it and make it free. Once for each token."""
        for pool, number in self._released.pop(token, ()):
            if pool.holders.get(number) != 0 or pool.last_token[number] != token:
                continue
            kind, _ = pool.forget(number)
            if pool is self._sinks:
                self._free_sinks.append(number)
            else:
                self._region.zero_block(number, _cells_of(BlockKind[kind]))
                self._free[kind].append(number)

    def rows(self) -> list[Row]:
        """The directory: all blocks that somebody names, in order of their cells, the server's first."""
        return [row for row in self.all_rows() if row[2] == 0 or self._blocks.holders[row[2]]]

    def changed_rows(self) -> dict[tuple[str, str], int | None]:
        """What of the directory may be other than at the last call: the first cell, or None for what nobody names any more.

        A node has a hundred thousand blocks, and a change touches few of them.
        """
        touched, self._blocks.touched = self._blocks.touched, set()
        numbers, holders = self._blocks.numbers, self._blocks.holders
        return {key: number if (number := numbers.get(key)) is not None and holders[number] else None for key in touched}

    def all_rows(self) -> list[Row]:
        """The same with those that are released and not reclaimed: workers may still count in them."""
        named = sorted((number, key) for number, key in self._blocks.keys.items())
        return [(BlockKind.SERVER.name, "", 0), *((kind, name, number) for number, (kind, name) in named)]

    def sinks(self) -> dict[int, str]:
        """Access log targets by number."""
        return {number: target for number, (_, target) in self._sinks.keys.items()}

    def _pool(self, label: str) -> _Pool:
        return self._sinks if label.startswith("log:") else self._blocks

    def _new_block(self, key: tuple[str, str]) -> int:
        kind, name = key
        if self._free[kind]:
            return self._free[kind].pop()
        needed = _cells_of(BlockKind[kind])
        if self._next_cell + needed > self._page_cells:
            raise TableFullError(
                f"scoreboard: {kind.lower()} {name!r} needs {needed} metric cells, and {self._page_cells - self._next_cell} of "
                f"{self._page_cells} are free. Remove clusters, endpoints or virtual hosts with stats, or split the node."
            )
        cell, self._next_cell = self._next_cell, self._next_cell + needed
        return cell

    def _new_sink(self, key: tuple[str, str]) -> int:
        if self._free_sinks:
            return self._free_sinks.pop()
        if self._next_sink > MAX_SINKS:
            raise TableFullError(f"scoreboard: access log {key[1]!r} is one more than {MAX_SINKS} different log files and servers")
        number, self._next_sink = self._next_sink, self._next_sink + 1
        return number


def sink_target(log: AccessLog) -> str:
    """What two access logs must have in common to share an open file or socket."""
    syslog = f" {log.syslog_facility} {log.syslog_tag}" if log.sink == "syslog" else ""
    return f"{log.sink} {log.path}{syslog}"


def host_name(cluster: str, endpoint: Endpoint) -> str:
    """An endpoint's name in the directory."""
    return f"{cluster}/{endpoint.address}"


Wanted = Iterator[tuple[str, tuple[str, str]]]
"""(label in `Resource.blocks`, (kind, name))."""


def _of_secret(secret: Secret) -> Wanted:
    yield from ()


def _of_cluster(cluster: Cluster) -> Wanted:
    yield "cluster", (BlockKind.CLUSTER.name, cluster.stat_name)
    if cluster.tls is not None:
        yield "ssl", (BlockKind.CLUSTER_SSL.name, cluster.stat_name)
    if cluster.protocol != "http1":
        yield "http2", (BlockKind.CLUSTER_HTTP2.name, cluster.stat_name)
    if cluster.discovery == "static":
        yield from _of_hosts(cluster.name, cluster.endpoints)


def _of_endpoints(endpoints: EndpointSet) -> Wanted:
    yield from _of_hosts(endpoints.cluster, endpoints.endpoints)


def _of_hosts(cluster: str, endpoints: tuple[Endpoint, ...]) -> Wanted:
    for endpoint in endpoints:
        yield f"host:{endpoint.address}", (BlockKind.HOST.name, host_name(cluster, endpoint))


def _of_route_table(table: RouteTable) -> Wanted:
    for host in table.virtual_hosts:
        if host.stats:
            yield f"vhost:{host.name}", (BlockKind.VHOST.name, host.name)


def logs_of(listener: Listener) -> Iterator[tuple[str, AccessLog]]:
    """Each access log with its label: `log:<chain>:<log>`, the default chain's number the last one; `log:listener:<log>` of connections."""
    for place, chain in enumerate(listener.all_chains):
        for at, log in enumerate(getattr(chain.terminal, "access_logs", ())):
            yield f"log:{place}:{at}", log
    for at, log in enumerate(listener.access_logs):
        yield f"log:listener:{at}", log


def traces_of(listener: Listener) -> Iterator[tuple[str, Tracing]]:
    """The tracing of each chain with its label: `log:trace:<chain>`, the default chain's number the last one."""
    for place, chain in enumerate(listener.all_chains):
        tracing = getattr(chain.terminal, "tracing", None)
        if tracing is not None:
            yield f"log:trace:{place}", tracing


def trace_target(tracing: Tracing) -> str:
    """What two tracings must have in common to share a number: all that is said of their spans, or of where they go."""
    return f"trace {hashlib.sha256(msgspec.msgpack.encode(tracing)).hexdigest()[:24]}"


_COUNTED: dict[type, tuple[str, BlockKind]] = {
    HttpConnectionManager: ("http", BlockKind.HTTP),
    TcpProxy: ("tcp", BlockKind.TCP),
    ConnectionLimit: ("connection_limit", BlockKind.CONNECTION_LIMIT),
    LocalRateLimit: ("local_rate_limit", BlockKind.LOCAL_RATE_LIMIT),
}


def shadow_prefix(row: NetworkRbac) -> str:
    """`x.rbac.s.`: what the names of its shadow's metrics begin with. Like Envoy's it has no empty part."""
    return f"{joined_prefix(row.stat_prefix)}rbac.{joined_prefix(row.shadow_stat_prefix)}"


def http_rbac_prefixes(manager: HttpConnectionManager, row: HttpRbac) -> tuple[str, str]:
    """What the names of its metrics begin with, behind `http.`, and those of its shadow's: `x.rbac.r.`, `http.x.rbac.s.`."""
    first = f"{joined_prefix(manager.stat_prefix)}rbac."
    return first + joined_prefix(row.stat_prefix), f"http.{first}{joined_prefix(row.shadow_stat_prefix)}"


def joined_prefix(prefix: str) -> str:
    """A prefix as the part of a name, with one dot behind it; "" stays."""
    return f"{prefix}." if prefix and not prefix.endswith(".") else prefix


def _bucket_name(listener: Listener, chain: FilterChain, at: int, row: LocalRateLimit) -> str:
    """By key, or by what the chain is for and not by its place: where chains come and go, a chain that stays has its bucket still."""
    if row.share_key:
        return f"key {row.share_key}"
    match = "default" if chain is listener.default_chain else hashlib.sha256(msgspec.msgpack.encode(chain.match)).hexdigest()[:16]
    return f"{listener.name} {match} {at}"


def _of_listener(listener: Listener) -> Wanted:
    yield "listener", (BlockKind.LISTENER.name, listener.stat_name)
    for row in listener.filters:
        if isinstance(row, TlsInspector):
            yield "tls_inspector", (BlockKind.TLS_INSPECTOR.name, "")
        elif isinstance(row, HttpInspector):
            yield "http_inspector", (BlockKind.HTTP_INSPECTOR.name, "")
        elif isinstance(row, ProxyProtocol):
            yield f"proxy_proto:{row.stat_prefix}", (BlockKind.PROXY_PROTO.name, f"{row.stat_prefix}." if row.stat_prefix else "")
    for place, chain in enumerate(listener.all_chains):
        for at, row in enumerate(chain.filters):
            if isinstance(row, LocalRateLimit):
                yield f"bucket:{place}:{at}", (BlockKind.TOKEN_BUCKET.name, _bucket_name(listener, chain, at, row))
        if chain.tls is not None:
            yield "ssl", (BlockKind.LISTENER_SSL.name, listener.stat_name)
        if isinstance(chain.terminal, HttpConnectionManager):
            yield "http1", (BlockKind.HTTP1.name, "")
            yield "http2", (BlockKind.HTTP2.name, "")
        for row in (*chain.filters, chain.terminal):
            if type(row) in _COUNTED:
                label, kind = _COUNTED[type(row)]
                yield f"{label}:{row.stat_prefix}", (kind.name, row.stat_prefix)
            elif isinstance(row, NetworkRbac):
                yield f"rbac:{row.stat_prefix}", (BlockKind.RBAC.name, joined_prefix(row.stat_prefix))
                if row.shadow is not None:
                    yield f"rbac_shadow:{shadow_prefix(row)}", (BlockKind.RBAC_SHADOW.name, shadow_prefix(row))
        for row in getattr(chain.terminal, "filters", ()):
            if isinstance(row, HttpRbac):
                rules, shadow = http_rbac_prefixes(chain.terminal, row)
                yield f"http_rbac:{rules}", (BlockKind.HTTP_RBAC.name, rules)
                yield f"rbac_shadow:{shadow}", (BlockKind.RBAC_SHADOW.name, shadow)
    for label, log in logs_of(listener):
        yield label, ("log", sink_target(log))
    for label, tracing in traces_of(listener):
        yield label, ("log", trace_target(tracing))


_WANTED: dict[ResourceKind, Callable[..., Wanted]] = {
    ResourceKind.SECRET: _of_secret,
    ResourceKind.CLUSTER: _of_cluster,
    ResourceKind.ENDPOINTS: _of_endpoints,
    ResourceKind.ROUTE_TABLE: _of_route_table,
    ResourceKind.LISTENER: _of_listener,
}


def _cells_of(kind: BlockKind) -> int:
    return -(-max(block_cells(kind), 1) // CELLS_PER_LINE) * CELLS_PER_LINE
