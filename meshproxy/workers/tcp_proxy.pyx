"""See the .pxd. Reading from the client begins when the endpoint is connected, so what it sends early waits in the kernel."""

import os

from libc.string cimport memcpy, memset, strlen
from meshproxy.balance.cluster cimport SHARE_CONNECTIONS
from meshproxy.proxy.exchange cimport LogTarget
from meshproxy.proxy.record cimport describe_tls, write_lines
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.telemetry.facts cimport *
from meshproxy.workers.connection_log cimport describe_addresses
from meshproxy.workers.introduction cimport introduction
from meshproxy.workers.listener cimport find_local
from meshproxy.workers.net cimport *
from meshproxy.workers.pool cimport HostPool

from meshproxy.model import SniCluster
from meshproxy.proxy.exchange import milliseconds

cdef extern from "splice.h" nogil:
    void reset_on_close(int fd) noexcept

cdef enum:
    FLUSH_MS = 3600000                   # for the last bytes, where there is no idle timeout: nobody may hold a connection for ever


cdef class TcpConfig:
    def __init__(self, model, str listener, size_t buffer_limit, Pools pools, list logs, Region region, int slot, int64_t cell):
        total = 0
        weights = []
        for cluster in model.clusters:
            total += cluster.weight
            weights.append(total)
        self.model = model
        self.listener = listener.encode()
        self.pools = pools
        self.names = tuple(cluster.name for cluster in model.clusters)
        self.weights = tuple(weights)
        self.logs = logs or None
        self.tells_tls = any([(<LogTarget>log).format.tells_tls for log in logs])
        self.ring = region.ring(slot)
        self.cells = region.page(slot) + cell
        self.buffer_limit = buffer_limit
        self.max_connect_attempts = max(model.max_connect_attempts, 1)
        self.idle_timeout_ms = milliseconds(model.idle_timeout_s)
        self.max_duration_ms = milliseconds(model.max_connection_duration_s)
        self.log_interval_ms = milliseconds(model.access_log_flush_interval_s)
        self.log_connected = model.flush_access_log_on_connected


cdef class TcpChain(Chain):
    def __init__(self, Loop loop, model, Region region, int slot, int64_t listener_cell, tls, list filters, TcpConfig config, PipePool pipes):
        super().__init__(loop, model, region, slot, listener_cell, tls, filters)
        self.pipes = pipes
        self.renew(model, config)

    def renew(self, model, TcpConfig config):
        """Connections that are open go on with what they began with."""
        self.model = model
        self.config = config
        self.by_sni = any(isinstance(row, SniCluster) for row in model.filters)

    cdef void serve(self, Transport transport, ConnectionInfo info) except *:
        cdef TcpConnection connection = TcpConnection.__new__(TcpConnection)
        connection.chain = self
        connection.config = self.config
        connection.loop = self.loop
        connection.transport = transport
        connection.info = info
        transport.protocol = connection
        connection.open()


cdef class TcpConnection:

    # -- to an endpoint

    cdef void open(self) except *:
        cdef TcpConfig config = self.config
        cdef int64_t *cells = config.cells
        cdef Transport transport = self.transport
        cells[TCP_DOWNSTREAM_CX_TOTAL] += 1
        if self.is_logged():
            find_local(self.info)
        transport.high_watermark = config.buffer_limit
        transport.count_by(
            &cells[TCP_DOWNSTREAM_CX_RX_BYTES_TOTAL], &cells[TCP_DOWNSTREAM_CX_TX_BYTES_TOTAL], &cells[TCP_DOWNSTREAM_CX_TX_BYTES_BUFFERED],
        )
        transport.pause()
        if config.max_duration_ms:
            self.limit_life(config.max_duration_ms)
        if self.chain.draining:                  # since its handshake began
            self.limit_life(self.loop.drain_ms)
        if config.log_interval_ms:
            self.log_ms = self.loop.now_ms + config.log_interval_ms
        self.cluster = config.pools.find(self.pick_cluster())
        if self.cluster is None:
            cells[TCP_DOWNSTREAM_CX_NO_ROUTE] += 1
            self.give_up(FLAG_NO_CLUSTER_FOUND)
            return
        self.connect()
        if transport.fd >= 0:
            self.set_timer()

    cdef str pick_cluster(self):
        """By the server name that the client asks for, where the chain says so and there is one; else by weight."""
        cdef tuple names = self.config.names, weights = self.config.weights
        cdef int64_t drawn
        cdef Py_ssize_t at
        if self.chain.by_sni and self.info.sni:
            return self.info.sni.decode("ascii", "replace")
        if len(names) > 1:
            drawn = <int64_t>((self.loop.random() >> 11) % <uint64_t>max(<int64_t>weights[len(weights) - 1], 1))
            for at in range(len(names)):
                if drawn < <int64_t>weights[at]:
                    return <str>names[at]
        return <str>names[0]

    cdef void connect(self) except *:
        """One attempt. The breaker of connections is asked first; a host that failed before is avoided."""
        cdef Cluster cluster = self.cluster
        cdef TcpUpstream upstream
        cdef HostPool pool
        cdef Host host
        if self.attempts == self.config.max_connect_attempts:
            cluster.cells[CLUSTER_UPSTREAM_CX_CONNECT_ATTEMPTS_EXCEEDED] += 1
            self.give_up(FLAG_UPSTREAM_RETRY_LIMIT_EXCEEDED)
            return
        host = None if cluster.gone else cluster.pick(self.loop.random(), self.tried, 0 if self.tried is None else 3)
        if host is None or host.pool is None:
            cluster.cells[CLUSTER_UPSTREAM_CX_NONE_HEALTHY] += 1
            self.give_up(FLAG_NO_HEALTHY_UPSTREAM)
            return
        if not cluster.take_share(0, SHARE_CONNECTIONS, self.loop.turn):
            cluster.cells[CLUSTER_UPSTREAM_CX_OVERFLOW] += 1
            self.give_up(FLAG_UPSTREAM_OVERFLOW)
            return
        self.attempts += 1
        self.host = host
        host.active += 1
        pool = <HostPool>host.pool
        upstream = TcpUpstream.__new__(TcpUpstream)
        upstream.loop = self.loop
        upstream.cluster = cluster
        upstream.host = host
        upstream.relay = self
        self.upstream = upstream
        upstream.connect(
            &pool.address, pool.tls, None, introduction(cluster.model, self.info) if cluster.model.proxy_protocol else None,
        )

    cdef void connect_failed(self, bint timed_out, int error) except *:
        """The next attempt is the next turn's, so that many failures in a row nest no calls."""
        self.upstream = None
        self.flags |= FLAG_UPSTREAM_CONNECTION_FAILURE
        self.failure = None if timed_out else b"delayed connect error: " + os.strerror(error).encode()
        if self.tried is None:
            self.tried = []
        self.tried.append(self.host)
        self.failed = True
        self.loop.make_ready(self.transport)

    cdef void on_protocol_turn(self) except *:
        if self.failed:
            self.failed = False
            self.connect()

    cdef void give_up(self, uint64_t flag) except *:
        self.flags |= flag
        self.transport.close(CLOSE_LOCAL)

    cdef void connected(self) except *:
        cdef TcpUpstream upstream = self.upstream
        cdef int64_t *cells = self.config.cells
        cdef int64_t *cluster_cells = self.cluster.cells
        self.connected_us = self.loop.now_us
        self.flags &= ~<uint64_t>FLAG_UPSTREAM_CONNECTION_FAILURE
        self.upstream_info = upstream.info
        self.up = Flow(self.chain.pipes)
        self.down = Flow(self.chain.pipes)
        self.up.start(
            self.transport, upstream.transport,
            &cells[TCP_DOWNSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL], &cells[TCP_DOWNSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL],
        )
        self.down.start(
            upstream.transport, self.transport,
            &cluster_cells[CLUSTER_UPSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL],
            &cluster_cells[CLUSTER_UPSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL],
        )
        if self.config.log_connected:
            self.write_log(LINE_OF_TCP_CONNECTED)
        self.set_timer()
        self.transport.resume()

    # -- what the client sends

    cdef void on_data(self, const char *data, size_t length) except *:
        self.up.on_data(data, length)

    cdef void on_end(self) except *:
        if self.down.ended:
            self.up.ended = True
            self.finish()
        else:
            self.up.on_end()

    cdef void on_drained(self) except *:
        if self.down is not None and self.upstream is not None:
            self.down.on_drained()

    # -- ends

    cdef void finish(self) except *:
        """Both sides have said their end: each closes when it has taken what was sent to it."""
        cdef TcpUpstream upstream = self.upstream
        cdef int64_t grace_ms = self.grace_ms()
        self.transport.close_flushed(grace_ms)
        if upstream is not None and upstream.transport.fd >= 0:
            upstream.transport.close_flushed(grace_ms)

    cdef void upstream_lost(self, int error) except *:
        """A reset is passed on as one: a transfer that was cut must not look whole."""
        self.upstream = None
        if self.up.ended and self.down.ended:
            return
        self.up.stop()
        self.down.stop()
        self.transport.pause()
        if error:
            self.termination = b"upstream_reset"
            reset_on_close(self.transport.fd)
        self.transport.close_flushed(self.grace_ms())

    cdef void on_closed(self, int why, int error) except *:
        self.leave_upstream(why == CLOSE_REMOTE and error != 0)
        cdef Facts facts
        if not self.is_logged():
            self.chain.closed(self.transport, self.info, NULL)
            return
        self.write_log(LINE_OF_TCP)
        self.describe(&facts)
        self.chain.closed(self.transport, self.info, &facts)

    cdef void leave_upstream(self, bint reset) except *:
        """The client is gone. What it sent goes on to the endpoint; nobody wants what comes from there."""
        cdef TcpUpstream upstream = self.upstream
        cdef Transport transport
        if upstream is None:
            return
        transport = upstream.transport
        self.upstream = None
        upstream.relay = None
        if self.up is None:
            transport.close(CLOSE_LOCAL)
            return
        self.up.stop()
        self.down.stop()
        transport.pause()
        if reset:
            reset_on_close(transport.fd)
        if transport.queue != NULL:
            upstream.flushing = True
            upstream.tcp_cells = self.config.cells
            upstream.tcp_cells[TCP_UPSTREAM_FLUSH_TOTAL] += 1
            upstream.tcp_cells[TCP_UPSTREAM_FLUSH_ACTIVE] += 1
        transport.close_flushed(self.grace_ms())

    cdef int64_t grace_ms(self) noexcept:
        return self.config.idle_timeout_ms if self.config.idle_timeout_ms else FLUSH_MS

    cdef void drain(self, bint close_idle) except *:
        """Nobody but the two peers knows when a relay is at rest: it has the drain time. When the process ends, the limit of that holds."""
        self.limit_life(self.loop.drain_ms)
        self.set_timer()

    cdef void limit_life(self, int64_t most_ms) noexcept:
        cdef int64_t at_ms = self.loop.now_ms + most_ms
        if self.expires_ms == 0 or at_ms < self.expires_ms:
            self.expires_ms = at_ms

    # -- time

    cdef void set_timer(self) except *:
        """For what comes first: the end of a life, the next line of the log, an idle timeout that starts when both sides are connected."""
        cdef int64_t at_ms = self.expires_ms, idle_ms
        if self.transport.grace_ms:              # it closes, and the timer is for that
            return
        if self.log_ms and (at_ms == 0 or self.log_ms < at_ms):
            at_ms = self.log_ms
        if self.up is not None and self.config.idle_timeout_ms:
            idle_ms = max(self.up.moved_ms, self.down.moved_ms) + self.config.idle_timeout_ms
            if at_ms == 0 or idle_ms < at_ms:
                at_ms = idle_ms
        self.loop.set_timer(self.transport, at_ms)

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        if self.expires_ms and now_ms >= self.expires_ms:
            if not self.chain.draining:
                self.config.cells[TCP_MAX_DOWNSTREAM_CONNECTION_DURATION] += 1
                self.flags |= FLAG_DURATION_TIMEOUT
            self.transport.close(CLOSE_LOCAL)
            return
        if self.log_ms and now_ms >= self.log_ms:
            self.log_ms = now_ms + self.config.log_interval_ms
            self.write_log(LINE_OF_TCP_PERIODIC)
        if self.is_idle(now_ms):
            self.config.cells[TCP_IDLE_TIMEOUT] += 1
            self.transport.close(CLOSE_LOCAL)
            return
        self.set_timer()

    cdef bint is_idle(self, int64_t now_ms) except *:
        """Nothing came from either side for so long, and neither took anything of what it was sent."""
        cdef TcpUpstream upstream = self.upstream
        cdef bint moved
        if self.up is None or upstream is None or self.config.idle_timeout_ms == 0:
            return False
        moved = self.transport.moved()
        moved = upstream.transport.moved() or moved
        if moved:
            self.up.moved_ms = now_ms
        return now_ms - max(self.up.moved_ms, self.down.moved_ms) >= self.config.idle_timeout_ms

    # -- the record

    cdef bint is_logged(self) noexcept:
        return self.config.logs is not None or self.chain.log is not None

    cdef bint tells_tls(self) noexcept:
        return self.config.tells_tls or (self.chain.log is not None and self.chain.log.tells_tls)

    cdef void write_log(self, int when) except *:
        cdef Facts facts
        if self.config.logs is not None:
            self.describe(&facts)
            facts.line_type = when
            write_lines(self.config.logs, self.config.ring, &facts, 1000, self.loop)

    cdef void describe(self, Facts *facts) except *:
        cdef int64_t opened_us = self.info.opened_us
        memset(facts, 0, sizeof(Facts))
        facts.minor_version = -1
        facts.flags = self.flags
        facts.start_unix_us = opened_us + self.loop.unix_offset_us
        facts.request_end_us = facts.response_start_us = facts.response_end_us = facts.downstream_start_us = -1
        facts.upstream_start_us = self.connected_us - opened_us if self.connected_us else -1
        facts.duration_us = self.loop.now_us - opened_us
        if self.up is not None:
            facts.bytes_received = facts.wire_bytes_received = self.up.bytes
            facts.bytes_sent = facts.wire_bytes_sent = self.down.bytes
        facts.attempts = self.attempts
        facts.connection_id = self.info.id
        describe_addresses(self.info, facts)
        if self.host is not None:
            set_text(&facts.upstream_host, self.host.address_bytes)
        if self.cluster is not None:
            set_text(&facts.upstream_cluster, self.cluster.name_bytes)
        set_text(&facts.listener, self.config.listener)
        set_text(&facts.upstream_failure_reason, self.failure)
        set_text(&facts.termination_details, self.termination)
        describe_tls(self.info, facts, self.config.tells_tls)
        if self.upstream_info is not None:
            self.upstream_info.describe(facts, self.tells_tls())


cdef void set_text(Text *text, bytes value) noexcept:
    if value is not None:
        text.at = <const char *>value
        text.length = len(value)


cdef class TcpUpstream:
    cdef void established(self) except *:
        cdef int64_t *cells = self.cluster.cells
        cells[CLUSTER_UPSTREAM_RQ_TOTAL] += 1
        cells[CLUSTER_UPSTREAM_RQ_ACTIVE] += 1
        self.host.cells[HOST_RQ_TOTAL] += 1
        self.host.cells[HOST_RQ_ACTIVE] += 1
        self.served = 1
        self.relay.connected()

    cdef void on_data(self, const char *data, size_t length) except *:
        self.relay.down.on_data(data, length)

    cdef void on_end(self) except *:
        cdef TcpConnection relay = self.relay
        if relay.up.ended:
            relay.down.ended = True
            relay.finish()
        else:
            relay.down.on_end()

    cdef void on_drained(self) except *:
        if self.relay is not None:
            self.relay.up.on_drained()

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        if self.transport.connecting:
            self.transport.shut(CLOSE_CONNECT_FAILED, 0)

    cdef bint is_busy(self) noexcept:
        return self.relay is not None and self.served

    cdef void lost(self, int why, int error) except *:
        cdef TcpConnection relay = self.relay
        cdef Cluster cluster = self.cluster
        cluster.give_share(0, SHARE_CONNECTIONS)
        self.host.active -= 1
        self.relay = None
        if self.served:
            cluster.cells[CLUSTER_UPSTREAM_RQ_ACTIVE] -= 1
            self.host.cells[HOST_RQ_ACTIVE] -= 1
        if self.flushing:
            self.tcp_cells[TCP_UPSTREAM_FLUSH_ACTIVE] -= 1
        if why == CLOSE_CONNECT_FAILED:
            cluster.cells[CLUSTER_UPSTREAM_CX_CONNECT_FAIL] += 1
            self.host.cells[HOST_CX_CONNECT_FAIL] += 1
            if error == 0:
                cluster.cells[CLUSTER_UPSTREAM_CX_CONNECT_TIMEOUT] += 1
        if relay is None:
            return
        if self.served:
            relay.upstream_lost(error)
        else:
            relay.connect_failed(error == 0 and why == CLOSE_CONNECT_FAILED, error)
