"""A worker's listeners: how their filter chains are compiled, and what happens to open connections when they change."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshproxy.errors import ConfigError, Problem
from meshproxy.filters.grpc_http1_bridge import GrpcHttp1BridgeMaker
from meshproxy.filters.grpc_stats import GrpcStatsMaker
from meshproxy.filters.grpc_web import GrpcWebMaker
from meshproxy.filters.python import Greenlets, PythonFilters
from meshproxy.filters.rbac import RbacMaker
from meshproxy.ipc.messages import ListenerSocket
from meshproxy.model import (
    Echo,
    FilterChain,
    GrpcHttp1Bridge,
    GrpcStats,
    GrpcWeb,
    HttpConnectionManager,
    HttpRbac,
    Listener,
    NetworkDirectResponse,
    NetworkRbac,
    PythonFilter,
    SocketAddress,
    TcpProxy,
)
from meshproxy.model.chain_match import overlap
from meshproxy.model.listener import HttpFilter
from meshproxy.proxy.exchange import FilterMaker, HttpConfig, LogTarget, RouterSlot
from meshproxy.proxy.rbac import asks_for_local
from meshproxy.proxy.span import Tracer
from meshproxy.scoreboard.blocks import http_rbac_prefixes, logs_of
from meshproxy.scoreboard.region import Region
from meshproxy.telemetry.accesslog import Format
from meshproxy.workers.accept import Acceptor, take_connection
from meshproxy.workers.chain_match import chooser_of, looks_at_local
from meshproxy.workers.connection_filters import connection_filters
from meshproxy.workers.connection_log import ConnectionLog
from meshproxy.workers.downstream_http1 import Http1Starter
from meshproxy.workers.downstream_http2 import Http2Starter
from meshproxy.workers.echo import EchoChain, ResponseChain
from meshproxy.workers.http_chain import ExchangePool, HttpChain
from meshproxy.workers.inspect import Destinations, ListenerFilters, Waiting
from meshproxy.workers.late_blocks import LateBlocks
from meshproxy.workers.listener import Chain, ConnectionFilter
from meshproxy.workers.listener import Listener as LiveListener
from meshproxy.workers.listener_filters import listener_filters_of
from meshproxy.workers.loop import Loop
from meshproxy.workers.pool import ClusterPools
from meshproxy.workers.relay import PipePool
from meshproxy.workers.security import Securities, refused
from meshproxy.workers.tcp_proxy import TcpChain, TcpConfig
from meshproxy.workers.tls_downstream import DownstreamSecurity


class FilterPlace(NamedTuple):
    """Where a HTTP filter stands, and where it counts."""

    manager: HttpConnectionManager
    region: Region
    slot: int
    blocks: dict[str, int]
    late_blocks: LateBlocks


def _rbac(row: HttpRbac, place: FilterPlace) -> RbacMaker:
    rules, shadow = http_rbac_prefixes(place.manager, row)
    return RbacMaker(row, place.region, place.slot, place.blocks[f"http_rbac:{rules}"], place.blocks[f"rbac_shadow:{shadow}"])


STREAM_FILTERS: dict[type, Callable[[HttpFilter, FilterPlace], FilterMaker]] = {
    GrpcStats: lambda row, place: GrpcStatsMaker(row, place.late_blocks),
    GrpcWeb: lambda _row, _place: GrpcWebMaker(),
    GrpcHttp1Bridge: lambda row, _place: GrpcHttp1BridgeMaker(row),
    HttpRbac: _rbac,
}
"""Who makes the compiled filter of a model row."""

Swap = Callable[[], None]
Sockets = Iterable[tuple[ListenerSocket, int]]
Terminal = HttpConfig | TcpConfig | Echo | NetworkDirectResponse
"""What serves a chain, compiled where there is anything to compile."""


class ListenerState:
    """A live listener of this worker: its sockets, its chains, and chains that it no longer has but whose connections are open."""

    def __init__(self, live: LiveListener) -> None:
        self.live = live
        self.places: tuple = ()
        """Where it and its TLS are counted: its chains count there too, so other places make other chains."""
        self.inspector: ListenerFilters | None = None
        self.log: ConnectionLog | None = None
        self.acceptors: list[Acceptor] = []
        self.draining: list[Chain] = []

    @property
    def count(self) -> int:
        """Open connections."""
        return self.live.count + sum(chain.count for chain in self.draining)

    def drain(self, close_idle: bool) -> None:
        for chain in [*self.live.chains, *self.draining]:
            chain.drain(close_idle)

    def stop_accepting(self) -> None:
        """Nobody who already queues is reset: what waits is accepted first."""
        for acceptor in self.acceptors:
            acceptor.empty_queue()
            acceptor.close()
        self.acceptors.clear()


class Listeners:
    """All listeners of this worker by name."""

    def __init__(
        self, loop: Loop, region: Region, slot: int, max_worker_connections: int, pools: ClusterPools, securities: Securities,
        route_slot: Callable[[str], RouterSlot], retire: Callable[[object], None], late_blocks: LateBlocks, log: logging.Logger,
    ) -> None:
        self.loop = loop
        self.region = region
        self.slot = slot
        self.max_worker_connections = max_worker_connections
        self.pools = pools
        self.securities = securities
        self.route_slot = route_slot
        self.retire = retire
        self.late_blocks = late_blocks
        self.log = log
        self.exchanges = ExchangePool(loop)
        self.greenlets = Greenlets()
        self.pipes = PipePool()
        self.waiting = Waiting(loop)
        self.destinations = Destinations()
        self.states: dict[str, ListenerState] = {}
        self.leaving: list[ListenerState] = []
        """Removed listeners with connections that are still open."""

    # -- a change

    def compile(self, model: Listener, blocks: dict[str, int], sockets: list[tuple[ListenerSocket, int]]) -> Swap:
        """All that can fail is done here; the swap cannot."""
        if pair := overlap([chain.match for chain in model.chains]):
            problem = f"filter chain {pair[1] + 1} matches the same connections as filter chain {pair[0] + 1}"
            raise ConfigError([Problem(f'listener "{model.name}": {problem}. Change a match or remove one.')])
        logs = {label: LogTarget(Format(log), blocks[label], log.min_status) for label, log in logs_of(model)}
        terminals = [self._terminal(model, chain, place, blocks, logs) for place, chain in enumerate(model.all_chains)]
        own_logs = [target for label, target in logs.items() if label.startswith("log:listener:")]
        log = ConnectionLog(self.loop, self.region, self.slot, model.name, own_logs) if own_logs else None
        securities = self._securities(model, blocks)
        passed = [
            connection_filters(chain, place, self.loop, self.region, self.slot, blocks) for place, chain in enumerate(model.all_chains)
        ]

        def swap() -> None:
            state = self.states.get(model.name)
            if state is None:
                state = self.states[model.name] = ListenerState(LiveListener(self.loop, self.max_worker_connections))
            old = {_identity(chain.model): chain for chain in state.live.chains}
            places = blocks["listener"], blocks.get("ssl")
            same = old if state.places == places else {}
            chains = [
                self._chain(same.get(_identity(chain)), chain, terminal, security, filters, blocks)
                for chain, terminal, security, filters in zip(model.all_chains, terminals, securities, passed, strict=True)
            ]
            state.places = places
            state.live.count_in(self.region, self.slot, blocks["listener"])
            self._retire_inspector(state)
            state.inspector = listener_filters_of(model, self.loop, self.region, self.slot, blocks, self.waiting, self.destinations)
            wants_local = looks_at_local(model) or _asks_for_local(model) or model.use_original_dst or log is not None
            if state.log is not None:
                self.retire(state.log)
            state.log = log
            state.live.renew(model, chains, chooser_of(model, chains), state.inspector, wants_local, log)
            self.destinations.put(state.live)
            for chain in [chain for chain in old.values() if chain not in chains]:
                chain.drain(False)
                self.retire(chain)
                state.draining.append(chain)
            self._take_sockets(state, model, sockets)

        return swap

    def _retire_inspector(self, state: ListenerState) -> None:
        """Sockets that it still looks at keep it, and with it the places of its counters."""
        if state.inspector is not None:
            self.retire(state.inspector)

    def _chain(
        self, old: Chain | None, model: FilterChain, terminal: Terminal, security: DownstreamSecurity | None,
        filters: list[ConnectionFilter], blocks: dict[str, int],
    ) -> Chain:
        """A chain of which only its terminal changed goes on: open connections of HTTP take the new settings with their next request."""
        if isinstance(old, HttpChain | TcpChain):
            self.retire(old.config)
        if old is not None:
            old.renew(model, terminal)
            return old
        whole = (self.loop, model, self.region, self.slot, blocks["listener"], security, filters)
        if isinstance(terminal, HttpConfig):
            starters = Http1Starter(self.region, self.slot, blocks["http1"]), Http2Starter(self.region, self.slot, blocks["http2"])
            return HttpChain(*whole, terminal, self.exchanges, *starters)
        if isinstance(terminal, TcpConfig):
            return TcpChain(*whole, terminal, self.pipes)
        chain = EchoChain(*whole) if isinstance(terminal, Echo) else ResponseChain(*whole)
        chain.renew(model, terminal)
        return chain

    def _securities(self, model: Listener, blocks: dict[str, int]) -> list[DownstreamSecurity | None]:
        """Of each chain that has TLS; a chain that goes on keeps its own and lets go of this one."""
        try:
            return [chain.tls and self.securities.of_chain(chain.tls, blocks["listener"], blocks["ssl"]) for chain in model.all_chains]
        except ValueError as error:
            raise refused("listener", model.name, error) from error

    def _take_sockets(self, state: ListenerState, model: Listener, sockets: list[tuple[ListenerSocket, int]]) -> None:
        """The sockets that come for a listener are all it has from now on; without any it keeps its own."""
        fresh = [(socket, fd) for socket, fd in sockets if socket.listener == model.name]
        if fresh:
            state.stop_accepting()
        state.acceptors += [Acceptor(self.loop, state.live, fd, socket.shared) for socket, fd in fresh]

    # -- what serves a chain

    def _terminal(self, model: Listener, chain: FilterChain, place: int, blocks: dict[str, int], logs: dict[str, LogTarget]) -> Terminal:
        targets = [target for label, target in logs.items() if label.startswith(f"log:{place}:")]
        terminal = chain.terminal
        if isinstance(terminal, HttpConnectionManager):
            tracer = Tracer(terminal.tracing, blocks[f"log:trace:{place}"]) if terminal.tracing is not None else None
            return self._http_config(model, terminal, targets, tracer, blocks)
        if isinstance(terminal, TcpProxy):
            block = blocks[f"tcp:{terminal.stat_prefix}"]
            return TcpConfig(terminal, model.name, model.buffer_limit_bytes, self.pools, targets, self.region, self.slot, block)
        return terminal

    def _http_config(
        self, model: Listener, manager: HttpConnectionManager, logs: list[LogTarget], tracer: Tracer | None, blocks: dict[str, int],
    ) -> HttpConfig:
        port = next((address.port for address in model.addresses if isinstance(address, SocketAddress)), 0)
        return HttpConfig(
            manager, model.name, port, model.buffer_limit_bytes, self.route_slot(manager.route_table), self.pools,
            self._python_filters(manager), self._stream_filters(manager, blocks), logs, tracer, self.region, self.slot,
            blocks[f"http:{manager.stat_prefix}"],
        )

    def _stream_filters(self, manager: HttpConnectionManager, blocks: dict[str, int]) -> list[FilterMaker]:
        """The compiled filters, in the order of the configuration."""
        place = FilterPlace(manager, self.region, self.slot, blocks, self.late_blocks)
        return [STREAM_FILTERS[type(row)](row, place) for row in manager.filters if type(row) in STREAM_FILTERS]

    def _python_filters(self, manager: HttpConnectionManager) -> PythonFilters | None:
        """The user's filter objects, one of each for this connection manager in this worker."""
        on_requests = []
        for row in (row for row in manager.filters if isinstance(row, PythonFilter)):
            module, _, name = row.target.partition(":")
            try:
                on_requests.append(getattr(importlib.import_module(module), name)(**row.settings).on_request)
            except Exception as error:
                problem = f'filter "{row.name}": {row.target} cannot be made: {type(error).__name__}: {error}'
                raise ConfigError([Problem(problem)]) from error
        return PythonFilters(on_requests, self.greenlets, self.log) if on_requests else None

    # -- removal and the end

    def remove(self, name: str) -> None:
        state = self.states.pop(name, None)
        if state is not None:
            self.destinations.take_away(state.live)
            state.stop_accepting()
            state.drain(False)
            self.leaving.append(state)
            self.retire(state.live)
            self._retire_inspector(state)
            if state.log is not None:
                self.retire(state.log)
            for chain in state.live.chains:
                self.retire(chain)
                if isinstance(chain, HttpChain | TcpChain):
                    self.retire(chain.config)

    def names_routes(self, route_table: str) -> bool:
        """Whether a listener that is still accepting has its routes there."""
        terminals = (chain.model.terminal for state in self.states.values() for chain in state.live.chains)
        return any(isinstance(each, HttpConnectionManager) and each.route_table == route_table for each in terminals)

    def forget_ended(self) -> None:
        """Let go of what has no connection left."""
        self.leaving = [state for state in self.leaving if state.count]
        for state in self.states.values():
            state.draining = [chain for chain in state.draining if chain.count]

    def limit(self, max_worker_connections: int) -> None:
        self.max_worker_connections = max_worker_connections
        for state in self.states.values():
            state.live.max_worker_connections = max_worker_connections

    def adopt(self, name: str, fds: list[int]) -> None:
        """Connections that waited for a slot without a worker."""
        state = self.states.get(name)
        for fd in fds:
            if state is None:
                os.close(fd)
            else:
                take_connection(state.live, fd)

    def drain(self, close_idle: bool) -> None:
        """The process ends: no more connections, and each that is open closes after what it does now."""
        for state in list(self.states.values()):
            state.stop_accepting()
            state.drain(close_idle)
        for state in self.leaving:
            state.drain(close_idle)
        self.waiting.drain(close_idle)

    @property
    def open_connections(self) -> int:
        return self.waiting.count + sum(state.count for state in [*self.states.values(), *self.leaving])


def _asks_for_local(listener: Listener) -> bool:
    """Whether a rule of one of its chains looks at the address that the client connected to."""
    filters = [row for chain in listener.all_chains for row in (*chain.filters, *getattr(chain.terminal, "filters", ()))]
    return any(asks_for_local(each) for row in filters if isinstance(row, NetworkRbac | HttpRbac) for each in (row.rules, row.shadow))


def _identity(chain: FilterChain) -> tuple:
    """Two chains that agree in this are one chain with new settings of what serves it; any other difference makes a new chain."""
    return chain.name, chain.match, chain.tls, chain.filters, chain.connect_timeout_s, type(chain.terminal)
