"""TCP on a filter chain: each connection is relayed to an endpoint, byte by byte as it comes, in both directions at once."""

from libc.stdint cimport int64_t, uint64_t
from meshproxy.balance.cluster cimport Cluster, Host
from meshproxy.proxy.connection cimport ConnectionInfo, UpstreamInfo
from meshproxy.proxy.exchange cimport Pools
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.scoreboard.region cimport Ring
from meshproxy.telemetry.facts cimport Facts
from meshproxy.workers.listener cimport Chain
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.pool cimport UpstreamConnection
from meshproxy.workers.relay cimport Flow, PipePool
from meshproxy.workers.transport cimport Transport

cdef class TcpConfig:
    """A compiled TcpProxy."""
    cdef object __weakref__
    cdef readonly object model
    cdef bytes listener
    cdef Pools pools
    cdef tuple names                     # of clusters
    cdef tuple weights                   # each with those before it
    cdef list logs                       # of LogTarget; None = none
    cdef Ring *ring
    cdef int64_t *cells                  # the TCP block
    cdef size_t buffer_limit
    cdef int max_connect_attempts
    cdef int64_t idle_timeout_ms, max_duration_ms, log_interval_ms
    cdef bint log_connected
    cdef bint tells_tls                  # a log asks for what TLS handshakes told

cdef class TcpChain(Chain):
    cdef readonly TcpConfig config
    cdef PipePool pipes
    cdef bint by_sni                     # the server name that the client asks for names the cluster

cdef class TcpConnection(Protocol):
    """A client's connection, and what is known of the endpoint's."""
    cdef TcpChain chain
    cdef TcpConfig config                # those that it began with
    cdef Loop loop
    cdef Transport transport
    cdef ConnectionInfo info
    cdef Cluster cluster
    cdef Host host
    cdef list tried                      # of Host; None until a connect failed
    cdef TcpUpstream upstream            # None = none yet, or it is gone
    cdef Flow up, down
    cdef int attempts
    cdef uint64_t flags                  # FLAG_*
    cdef bytes failure, termination      # for the access log
    cdef UpstreamInfo upstream_info      # None until it is connected
    cdef int64_t expires_ms, log_ms, connected_us
    cdef bint failed                     # a connect: the next turn sees whether there is another

    cdef void open(self) except *
    cdef str pick_cluster(self)
    cdef void connect(self) except *
    cdef void give_up(self, uint64_t flag) except *
    cdef void connected(self) except *
    cdef void connect_failed(self, bint timed_out, int error) except *
    cdef void upstream_lost(self, int error) except *
    cdef void finish(self) except *
    cdef void leave_upstream(self, bint reset) except *
    cdef void set_timer(self) except *
    cdef bint is_idle(self, int64_t now_ms) except *
    cdef int64_t grace_ms(self) noexcept
    cdef void limit_life(self, int64_t most_ms) noexcept
    cdef bint is_logged(self) noexcept
    cdef bint tells_tls(self) noexcept
    cdef void describe(self, Facts *facts) except *
    # `when`: LINE_OF_TCP...
    cdef void write_log(self, int when) except *

cdef class TcpUpstream(UpstreamConnection):
    """The endpoint's connection."""
    cdef TcpConnection relay             # None = the client is gone; what it sent is still on its way
    cdef bint flushing
    cdef int64_t *tcp_cells
