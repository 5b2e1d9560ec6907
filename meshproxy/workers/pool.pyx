"""See the .pxd. The pool hands out the connection used last, so that the others may go idle and close."""

import os

from meshproxy.balance.cluster cimport SHARE_CONNECTIONS, SHARE_PENDING, SHARE_REQUESTS
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport histogram_record
from meshproxy.workers.net cimport *

from meshproxy.model import PipeAddress


cdef class TlsClient:
    cdef Transport wrap(self, Loop loop, Protocol protocol, Host host, Exchange exchange):
        return None


cdef class Dialer:
    cdef UpstreamConnection dial(self, HostPool pool):
        return None


cdef class UpstreamConnection:
    cdef void connect(self, const Sockaddr *address, TlsClient tls, Exchange exchange) except *:
        cdef Cluster cluster = self.cluster
        cdef int fd = start_connect(address)
        cluster.cells[CLUSTER_UPSTREAM_CX_TOTAL] += 1
        cluster.cells[CLUSTER_UPSTREAM_CX_ACTIVE] += 1
        self.host.cells[HOST_CX_TOTAL] += 1
        self.host.cells[HOST_CX_ACTIVE] += 1
        self.opened_us = self.loop.now_us
        self.transport = Transport(self.loop, self) if tls is None else tls.wrap(self.loop, self, self.host, exchange)
        if fd < 0:
            if errno == EMFILE or errno == ENFILE:
                self.loop.server[SERVER_FD_LIMIT_REACHED] += 1
            self.on_closed(CLOSE_CONNECT_FAILED, errno)
            return
        if cluster.model.tcp_keepalive:
            set_keepalive(fd)
        self.transport.high_watermark = cluster.buffer_limit
        try:
            self.transport.open(fd, True)
        except OSError:
            self.transport.shut(CLOSE_CONNECT_FAILED, ENOMEM)
            return
        self.transport.count_by(
            &cluster.cells[CLUSTER_UPSTREAM_CX_RX_BYTES_TOTAL], &cluster.cells[CLUSTER_UPSTREAM_CX_TX_BYTES_TOTAL],
            &cluster.cells[CLUSTER_UPSTREAM_CX_TX_BYTES_BUFFERED],
        )
        self.loop.set_timer(self.transport, self.loop.now_ms + cluster.connect_timeout_ms)

    cdef void on_connected(self) except *:
        self.loop.set_timer(self.transport, 0)
        histogram_record(&self.cluster.cells[CLUSTER_UPSTREAM_CX_CONNECT_MS], self.loop.now_us - self.opened_us)
        if self.cluster.max_duration_ms:
            self.expires_ms = self.loop.now_ms + self.cluster.max_duration_ms
        self.established()

    cdef void on_closed(self, int why, int error) except *:
        cdef Cluster cluster = self.cluster
        cdef bint remote = why == CLOSE_REMOTE
        cluster.cells[CLUSTER_UPSTREAM_CX_ACTIVE] -= 1
        self.host.cells[HOST_CX_ACTIVE] -= 1
        cluster.cells[CLUSTER_UPSTREAM_CX_DESTROY] += 1
        cluster.cells[CLUSTER_UPSTREAM_CX_DESTROY_REMOTE if remote else CLUSTER_UPSTREAM_CX_DESTROY_LOCAL] += 1
        if self.is_busy():
            cluster.cells[CLUSTER_UPSTREAM_CX_DESTROY_WITH_ACTIVE_RQ] += 1
            cluster.cells[CLUSTER_UPSTREAM_CX_DESTROY_REMOTE_WITH_ACTIVE_RQ if remote else CLUSTER_UPSTREAM_CX_DESTROY_LOCAL_WITH_ACTIVE_RQ] += 1
        histogram_record(&cluster.cells[CLUSTER_UPSTREAM_CX_LENGTH_MS], self.loop.now_us - self.opened_us)
        self.lost(why, error)

    cdef void established(self) except *:
        pass

    cdef void lost(self, int why, int error) except *:
        pass

    cdef bint is_busy(self) noexcept:
        return False

    cdef void attach(self, Exchange exchange) except *:
        pass


cdef class ClusterPools(Pools):
    def __init__(self, Loop loop):
        self.loop = loop
        self.clusters = {}

    cdef Cluster find(self, str name):
        return <Cluster>self.clusters.get(name)

    cdef void acquire(self, Exchange exchange) except *:
        cdef Cluster cluster = exchange.cluster
        cdef int attempts = exchange.route.host_selection_attempts if exchange.tried is not None else 0
        cdef Host host = cluster.pick(self.loop.random(), exchange.tried, attempts)
        if host is None or cluster.gone:
            cluster.cells[CLUSTER_UPSTREAM_CX_NONE_HEALTHY] += 1
            exchange.on_upstream_failed(NO_HEALTHY_UPSTREAM, None)
            return
        if cluster.held(exchange.priority, SHARE_REQUESTS, self.loop.turn) >= cluster.limits[exchange.priority][SHARE_REQUESTS]:
            cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_OVERFLOW] += 1
            exchange.on_upstream_failed(UPSTREAM_OVERFLOW, None)
            return
        exchange.host = host
        if host.pool is None:                    # it left its cluster a moment ago
            exchange.on_upstream_failed(NO_HEALTHY_UPSTREAM, None)
            return
        (<HostPool>host.pool).request(exchange)

    cdef void cancel(self, Exchange exchange) except *:
        (<HostPool>exchange.pending).stop_waiting(exchange)


cdef class HostPool:
    def __init__(self, Loop loop, Cluster cluster, Host host, Dialer dialer, TlsClient tls):
        self.loop = loop
        self.cluster = cluster
        self.host = host
        self.dialer = dialer
        self.tls = tls
        self.idle = []
        self.waiting = []
        address = host.model
        text = (address.path if isinstance(address, PipeAddress) else address.host).encode()
        if make_address(&self.address, <const char *>text, len(text), -1 if isinstance(address, PipeAddress) else address.port):
            raise ValueError(f"cluster {cluster.name!r}: {address} is no address to connect to: an IP literal or a UNIX path is wanted")

    def drain(self):
        """The host left its cluster: connections close, those with a request after it; who waits is sent on."""
        cdef Exchange exchange
        self.closing = True
        for connection in list(self.idle):
            (<UpstreamConnection>connection).transport.close(CLOSE_LOCAL)
        for exchange in list(self.waiting):      # to a host that stays
            self.stop_waiting(exchange)
            try:
                exchange.config.pools.acquire(exchange)
            except Exception:
                self.loop.crash(exchange)
        self.loop.flush()
        if self.connections == 0 and not self.waiting:
            self.host.pool = None

    def move(self, Cluster cluster):
        """The cluster's settings were replaced; the host stays."""
        self.cluster = cluster

    cdef void request(self, Exchange exchange) except *:
        cdef UpstreamConnection connection
        if self.idle and not exchange.stale_retry_used:
            connection = <UpstreamConnection>self.idle.pop()
            connection.attach(exchange)
            return
        if not self.cluster.take_share(exchange.priority, SHARE_PENDING, self.loop.turn):
            self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_OVERFLOW] += 1
            exchange.on_upstream_failed(UPSTREAM_OVERFLOW, None)
            return
        self.wait(exchange)
        if self.connecting < <int64_t>len(self.waiting):
            if self.cluster.take_share(exchange.priority, SHARE_CONNECTIONS, self.loop.turn):
                self.connect()
            else:
                self.cluster.cells[CLUSTER_UPSTREAM_CX_OVERFLOW] += 1
                if self.connections == 0:        # Envoy too lets every host have one, or nothing would ever move
                    self.cluster.add_share(exchange.priority, SHARE_CONNECTIONS)
                    self.connect()

    cdef void wait(self, Exchange exchange) except *:
        self.waiting.append(exchange)
        exchange.pending = self
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_TOTAL] += 1
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_ACTIVE] += 1

    cdef void stop_waiting(self, Exchange exchange) except *:
        self.waiting.remove(exchange)
        exchange.pending = None
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_ACTIVE] -= 1
        self.cluster.give_share(exchange.priority, SHARE_PENDING)

    cdef Exchange next_waiting(self):
        cdef Exchange exchange
        if not self.waiting:
            return None
        exchange = <Exchange>self.waiting[0]
        self.stop_waiting(exchange)
        return exchange

    cdef void connect(self) except *:
        """Start one connection. Its breaker share is taken by the caller, and given back when it is gone."""
        cdef UpstreamConnection connection = self.dialer.dial(self)
        cdef Exchange exchange = <Exchange>self.waiting[-1]
        connection.priority = exchange.priority
        self.connections += 1
        self.connecting += 1
        connection.connect(&self.address, self.tls, exchange)

    cdef void on_connected(self, UpstreamConnection connection) except *:
        self.connecting -= 1
        self.release(connection)

    cdef void release(self, UpstreamConnection connection) except *:
        """A connection is free: for who waits, else to rest, unless its time has come."""
        cdef Exchange exchange
        cdef Cluster cluster = self.cluster
        if cluster.max_requests_per_connection and connection.served >= cluster.max_requests_per_connection:
            cluster.cells[CLUSTER_UPSTREAM_CX_MAX_REQUESTS] += 1
            connection.transport.close(CLOSE_LOCAL)
        elif connection.expires_ms and self.loop.now_ms >= connection.expires_ms:
            cluster.cells[CLUSTER_UPSTREAM_CX_MAX_DURATION_REACHED] += 1
            connection.transport.close(CLOSE_LOCAL)
        else:
            exchange = self.next_waiting()
            if exchange is not None:
                connection.attach(exchange)
            elif self.closing or cluster.gone:
                connection.transport.close(CLOSE_LOCAL)
            else:
                self.idle.append(connection)
                if cluster.idle_timeout_ms:
                    self.loop.set_timer(connection.transport, self.loop.now_ms + cluster.idle_timeout_ms)

    cdef void on_connect_failed(self, bint timed_out, int error) except *:
        """One connect failed: it fails one request, and all of them when there is no other connection to wait for."""
        cdef Exchange exchange
        cdef bytes reason = None if timed_out else b"delayed connect error: " + os.strerror(error).encode()
        self.connecting -= 1
        self.cluster.cells[CLUSTER_UPSTREAM_CX_CONNECT_FAIL] += 1
        self.host.cells[HOST_CX_CONNECT_FAIL] += 1
        if timed_out:
            self.cluster.cells[CLUSTER_UPSTREAM_CX_CONNECT_TIMEOUT] += 1
        exchange = self.next_waiting()
        while exchange is not None:
            self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_FAILURE_EJECT] += 1
            exchange.on_upstream_failed(CONNECT_TIMED_OUT if timed_out else CONNECT_FAILED, reason)
            exchange = self.next_waiting() if self.connections == 0 else None

    cdef void on_gone(self, UpstreamConnection connection) except *:
        """A connection closed; if others still wait, somebody has to serve them."""
        self.connections -= 1
        self.cluster.give_share(connection.priority, SHARE_CONNECTIONS)
        if connection in self.idle:
            self.idle.remove(connection)
        if self.closing and self.connections == 0 and not self.waiting:
            self.host.pool = None                # the two no longer hold each other

    cdef void refill(self) except *:
        cdef int priority
        if self.connecting < <int64_t>len(self.waiting):
            priority = (<Exchange>self.waiting[-1]).priority
            if self.cluster.take_share(priority, SHARE_CONNECTIONS, self.loop.turn):
                self.connect()
            elif self.connections == 0:
                self.cluster.add_share(priority, SHARE_CONNECTIONS)
                self.connect()
