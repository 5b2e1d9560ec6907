"""Upstream connections, and a pool of them for each host. What a connection speaks is its own business: `Dialer` makes them."""

from libc.stdint cimport int64_t
from meshproxy.balance.cluster cimport Cluster, Host
from meshproxy.proxy.exchange cimport Exchange, Pools, UpstreamStream
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.net cimport Sockaddr
from meshproxy.workers.transport cimport Transport

cdef class TlsClient:
    """A cluster's TLS: makes the transports of its connections."""
    # `exchange`: who caused the connection, for a SNI from its host; None = nobody.
    cdef Transport wrap(self, Loop loop, Protocol protocol, Host host, Exchange exchange)

cdef class Dialer:
    """Makes the connections of one protocol."""
    cdef UpstreamConnection dial(self, HostPool pool)

cdef class UpstreamConnection(UpstreamStream):
    """One connection to a host: its connect, its handshake, what it counts. In HTTP/1 it is its one stream, too."""
    cdef Loop loop
    cdef Cluster cluster
    cdef Transport transport
    cdef int64_t served                  # requests
    cdef int64_t opened_us
    cdef int64_t expires_ms              # of its longest life; 0 = none
    cdef int priority
    cdef void connect(self, const Sockaddr *address, TlsClient tls, Exchange exchange) except *
    # Connected, and the handshake is done.
    cdef void established(self) except *
    # Gone, whoever closed it. `error` 0 with CLOSE_CONNECT_FAILED: it took too long.
    cdef void lost(self, int why, int error) except *
    cdef bint is_busy(self) noexcept
    # Take a request: from the pool, on an established connection.
    cdef void attach(self, Exchange exchange) except *

cdef class HostPool:
    """The connections of this worker to one host, and who waits for one."""
    cdef Loop loop
    cdef Cluster cluster
    cdef Host host
    cdef Sockaddr address
    cdef public Dialer dialer
    cdef public TlsClient tls            # None = plaintext
    cdef list idle                       # of UpstreamConnection, the one used last at the end
    cdef list waiting                    # of Exchange, first come first
    cdef int64_t connections, connecting
    cdef bint closing                    # the host left its cluster

    cdef void request(self, Exchange exchange) except *
    cdef void connect(self) except *
    cdef void release(self, UpstreamConnection connection) except *
    cdef void on_connected(self, UpstreamConnection connection) except *
    cdef void on_connect_failed(self, bint timed_out, int error) except *
    cdef void on_gone(self, UpstreamConnection connection) except *
    cdef void wait(self, Exchange exchange) except *
    cdef Exchange next_waiting(self)
    cdef void stop_waiting(self, Exchange exchange) except *
    cdef void refill(self) except *

cdef class ClusterPools(Pools):
    """All clusters of the worker by name."""
    cdef Loop loop
    cdef readonly dict clusters
