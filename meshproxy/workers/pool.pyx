"""See the .pxd. The pool hands out the connection used last, so that the others may go idle and close."""

import os
from collections import OrderedDict

from meshproxy.balance.cluster cimport SHARE_CONNECTIONS, SHARE_PENDING, SHARE_REQUESTS
from meshproxy.proxy.connection cimport UpstreamInfo
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport histogram_record
from meshproxy.workers.introduction cimport introduction
from meshproxy.workers.net cimport *
from meshproxy.workers.tls_transport cimport TlsTransport

from meshproxy.model import PipeAddress


cdef class TlsClient:
    cdef Transport wrap(self, Loop loop, Protocol protocol, Host host, Exchange exchange):
        return None

    cdef bytes server_name(self, Host host, Exchange exchange):
        return None


cdef class Dialer:
    cdef UpstreamConnection dial(self, HostPool pool):
        return None


cdef class UpstreamConnection:
    def __init__(self, HostPool pool):
        self.pool = pool
        self.loop = pool.loop
        self.cluster = pool.cluster
        self.host = pool.host

    cdef void connect(self, const Sockaddr *address, TlsClient tls, Exchange exchange, bytes introduction) except *:
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
        if cluster.tcp_keepalive:
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
        if introduction is not None:             # it waits for the connect, and a handshake's first bytes queue behind it
            self.transport.enqueue(<const char *>introduction, len(introduction))
        self.loop.set_timer(self.transport, self.loop.now_ms + cluster.connect_timeout_ms)

    cdef void on_connected(self) except *:
        cdef Sockaddr local
        cdef char text[128]
        self.loop.set_timer(self.transport, 0)
        local_address(self.transport.fd, &local)
        self.info = UpstreamInfo()
        self.info.tls = self.transport.facts()
        self.info.id = self.loop.new_connection_id()
        self.info.local_address = text[:put_address(text, &local)]
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

    cdef void rest(self) except *:
        pass

    cdef void part(self) except *:
        self.transport.close(CLOSE_LOCAL)

    cdef void retire(self) except *:
        self.leaving = True
        self.pool.unlist(self)
        if not self.is_busy():
            self.part()

    cdef bint is_expired(self) noexcept:
        if self.expires_ms == 0 or self.loop.now_ms < self.expires_ms:
            return False
        self.cluster.cells[CLUSTER_UPSTREAM_CX_MAX_DURATION_REACHED] += 1
        self.expires_ms = 0
        return True

    cdef void count_begin(self, Exchange exchange) noexcept:
        cdef int64_t *cells = self.cluster.cells
        self.cluster.add_share(exchange.priority, SHARE_REQUESTS)
        cells[CLUSTER_UPSTREAM_RQ_TOTAL] += 1
        cells[CLUSTER_UPSTREAM_RQ_ACTIVE] += 1
        self.host.cells[HOST_RQ_TOTAL] += 1
        self.host.cells[HOST_RQ_ACTIVE] += 1
        self.host.active += 1
        self.served += 1
        if self.cluster.max_requests_per_connection and self.served >= self.cluster.max_requests_per_connection:
            cells[CLUSTER_UPSTREAM_CX_MAX_REQUESTS] += 1
            self.leaving = True
            self.pool.unlist(self)

    cdef void count_end(self, Exchange exchange) noexcept:
        self.cluster.give_share(exchange.priority, SHARE_REQUESTS)
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_ACTIVE] -= 1
        self.host.cells[HOST_RQ_ACTIVE] -= 1
        self.host.active -= 1


cdef bytes failure_of(Transport transport, int error):
    """Why there is no connection, in Envoy's words or OpenSSL's."""
    if isinstance(transport, TlsTransport) and (<TlsTransport>transport).failure is not None:
        return (<TlsTransport>transport).failure
    return b"delayed connect error: " + os.strerror(error).encode()


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
        self.streams = dialer.streams
        self.waiting = OrderedDict()
        address = host.model
        text = (address.path if isinstance(address, PipeAddress) else address.host).encode()
        if make_address(&self.address, <const char *>text, len(text), -1 if isinstance(address, PipeAddress) else address.port):
            raise ValueError(f"cluster {cluster.name!r}: {address} is no address to connect to: an IP literal or a UNIX path is wanted")

    def drain(self):
        """The host left its cluster: connections close, those with a request after it; who waits is sent on."""
        cdef Exchange exchange
        self.closing = True
        while self.newest is not None:           # those without room see it when an exchange ends
            self.newest.retire()
        for exchange in list(self.waiting):      # to a host that stays
            self.stop_waiting(exchange)
            try:
                exchange.config.pools.acquire(exchange)
            except Exception:
                self.loop.crash(exchange)
        self.loop.flush()
        self.let_go()

    cdef void request(self, Exchange exchange) except *:
        if self.newest is not None and not exchange.needs_new_connection:
            self.give(self.newest, exchange)
            return
        if not self.cluster.take_share(exchange.priority, SHARE_PENDING, self.loop.turn):
            self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_OVERFLOW] += 1
            exchange.on_upstream_failed(UPSTREAM_OVERFLOW, None)
            return
        self.wait(exchange)
        if self.promised < <int64_t>len(self.waiting):
            if self.cluster.take_share(exchange.priority, SHARE_CONNECTIONS, self.loop.turn):
                self.connect(exchange)
            else:
                self.cluster.cells[CLUSTER_UPSTREAM_CX_OVERFLOW] += 1
                if self.connections == 0:        # Envoy too lets every host have one, or nothing would ever move
                    self.cluster.add_share(exchange.priority, SHARE_CONNECTIONS)
                    self.connect(exchange)

    # -- who waits

    cdef void wait(self, Exchange exchange) except *:
        self.waiting[exchange] = None
        exchange.pending = self
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_TOTAL] += 1
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_ACTIVE] += 1

    cdef void stop_waiting(self, Exchange exchange) except *:
        del self.waiting[exchange]
        exchange.pending = None
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_PENDING_ACTIVE] -= 1
        self.cluster.give_share(exchange.priority, SHARE_PENDING)

    cdef Exchange next_waiting(self):
        cdef Exchange exchange
        if not self.waiting:
            return None
        exchange = <Exchange>next(iter(self.waiting))
        self.stop_waiting(exchange)
        return exchange

    # -- connections

    cdef void connect(self, Exchange exchange) except *:
        """Start one connection, because of `exchange`. Its breaker share is taken by the caller, and given back when it is gone."""
        cdef UpstreamConnection connection = self.dialer.dial(self)
        connection.priority = exchange.priority
        connection.promised = self.streams
        self.connections += 1
        self.promised += connection.promised
        connection.connect(&self.address, self.tls, exchange, self.introduction)

    cdef void keep_promise(self, UpstreamConnection connection) noexcept:
        self.promised -= connection.promised
        connection.promised = 0

    cdef void on_connected(self, UpstreamConnection connection) except *:
        self.keep_promise(connection)
        self.offer(connection)
        self.refill()                            # it may carry less than was thought

    cdef void offer(self, UpstreamConnection connection) except *:
        cdef Exchange exchange
        if connection.leaving or connection.is_expired():
            connection.retire()
            return
        while connection.room > 0 and not connection.leaving:
            exchange = self.next_waiting()
            if exchange is None:
                break
            self.give(connection, exchange)
        if connection.transport.fd < 0 or connection.leaving:
            return
        if self.closing or self.cluster.gone:
            connection.retire()
        elif connection.room > 0:
            self.list_newest(connection)
            if not connection.is_busy():
                connection.rest()

    cdef void give(self, UpstreamConnection connection, Exchange exchange) except *:
        connection.room -= 1
        if connection.room <= 0:
            self.unlist(connection)
        connection.attach(exchange)

    cdef void list_newest(self, UpstreamConnection connection) noexcept:
        if connection.listed:
            return
        connection.listed = True
        connection.older = self.newest
        if self.newest is not None:
            self.newest.newer = connection
        self.newest = connection

    cdef void unlist(self, UpstreamConnection connection) noexcept:
        if not connection.listed:
            return
        connection.listed = False
        if connection.newer is not None:
            connection.newer.older = connection.older
        else:
            self.newest = connection.older
        if connection.older is not None:
            connection.older.newer = connection.newer
        connection.older = connection.newer = None

    cdef void on_connect_failed(self, UpstreamConnection connection, int error) except *:
        """One connect failed: it fails one request, and all of them when there is no other connection to wait for."""
        cdef Exchange exchange
        cdef bint timed_out = error == 0 and self.loop.now_ms - connection.opened_us // 1000 >= self.cluster.connect_timeout_ms
        cdef bytes reason = None if timed_out else failure_of(connection.transport, error)
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
        self.connections -= 1
        self.keep_promise(connection)
        self.cluster.give_share(connection.priority, SHARE_CONNECTIONS)
        self.unlist(connection)

    cdef void refill(self) except *:
        """As many connections as those who wait need and the breaker allows. A connect that fails at once comes back here."""
        cdef Exchange exchange
        if self.growing:
            return
        self.growing = True
        try:
            while self.promised < <int64_t>len(self.waiting):
                exchange = <Exchange>next(iter(self.waiting))
                if not self.cluster.take_share(exchange.priority, SHARE_CONNECTIONS, self.loop.turn):
                    if self.connections:
                        break
                    self.cluster.add_share(exchange.priority, SHARE_CONNECTIONS)
                self.connect(exchange)
        finally:
            self.growing = False
        self.let_go()

    # -- the end

    cdef bint is_empty(self) noexcept:
        return self.connections == 0 and not self.waiting

    cdef void let_go(self) except *:
        """A pool that nobody needs any more: what holds it and it no longer hold each other."""
        if not self.is_empty():
            return
        if self.whole is not None:
            self.whole.parts.pop(self.key, None)
            if self.client is not None:
                self.client.own_pools.discard(self)
            self.whole.let_go()
        elif self.closing:
            self.host.pool = None


    def end(self):
        """The client is gone. Who waits is the client's, and told by others that it is gone."""
        self.closing = True
        while self.newest is not None:
            self.newest.retire()
        self.let_go()


cdef class SplitPool(HostPool):
    def __init__(
        self, Loop loop, Cluster cluster, Host host, tuple dialers, tuple securities, bint by_protocol, bint by_name, bint by_client,
    ):
        """`dialers` and `securities` for clients of HTTP/1 and of HTTP/2; the first of each when it is not `by_protocol`."""
        super().__init__(loop, cluster, host, dialers[0], securities[0])
        self.parts = {}
        self.dialers, self.securities = dialers, securities
        self.by_protocol, self.by_name, self.by_client = by_protocol, by_name, by_client

    def drain(self):
        self.closing = True
        for part in list(self.parts.values()):
            part.drain()
        self.let_go()

    cdef void request(self, Exchange exchange) except *:
        cdef bint http2 = self.by_protocol and exchange.downstream.http2
        cdef bytes name = None
        cdef ConnectionInfo client = exchange.downstream.info if self.by_client else None
        cdef object key = http2
        cdef HostPool part
        if self.by_name:
            name = (<TlsClient>self.securities[0]).server_name(self.host, exchange)
        if self.by_name or self.by_client:
            key = (http2, name, client)
        part = <HostPool>self.parts.get(key)
        if part is None:
            part = HostPool(self.loop, self.cluster, self.host, self.dialers[http2], self.securities[http2])
            part.whole = self
            part.key = key
            part.closing = self.closing
            if client is not None:
                part.introduction = introduction(self.cluster.model, client)
                part.client = client
                if client.own_pools is None:
                    client.own_pools = set()
                client.own_pools.add(part)
            self.parts[key] = part
        part.request(exchange)
        part.let_go()                            # if it was refused

    cdef bint is_empty(self) noexcept:
        return not self.parts
