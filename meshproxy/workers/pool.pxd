"""Upstream connections, and a pool of them for each host. What a connection speaks is its own business: `Dialer` makes them."""

from libc.stdint cimport int64_t
from meshproxy.balance.cluster cimport Cluster, Host
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.exchange cimport Exchange, Pools, UpstreamStream
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.net cimport Sockaddr
from meshproxy.workers.transport cimport Transport

cdef class TlsClient:
    """A cluster's TLS: makes the transports of its connections."""
    # `exchange`: who caused the connection, for a SNI from its host; None = nobody.
    cdef Transport wrap(self, Loop loop, Protocol protocol, Host host, Exchange exchange)
    cdef bytes server_name(self, Host host, Exchange exchange)

cdef class Dialer:
    """Makes the connections of one protocol."""
    cdef int64_t streams                 # how many exchanges a connection is taken to carry, until it is known better
    cdef UpstreamConnection dial(self, HostPool pool)

cdef class UpstreamConnection(UpstreamStream):
    """One connection to a host: its connect, its handshake, what it counts. In HTTP/1 it is its one stream, too."""
    cdef Loop loop
    cdef Cluster cluster
    cdef HostPool pool
    cdef Transport transport
    cdef UpstreamConnection older, newer # neighbours on its pool's list
    cdef bint listed
    cdef int64_t room                    # how many more exchanges it takes
    cdef int64_t promised                # how many it is counted for while it connects
    cdef bint leaving                    # takes no more, closes after the last
    cdef int64_t served                  # exchanges
    cdef int64_t opened_us
    cdef int64_t expires_ms              # of its longest life; 0 = none
    cdef int priority
    # `introduction`: bytes that go before everything else, TLS included; None = none.
    cdef void connect(self, const Sockaddr *address, TlsClient tls, Exchange exchange, bytes introduction) except *
    # Connected, and the handshake is done.
    cdef void established(self) except *
    # Gone, whoever closed it. `error` 0 with CLOSE_CONNECT_FAILED: it took too long.
    cdef void lost(self, int why, int error) except *
    cdef bint is_busy(self) noexcept
    # Take an exchange: from the pool, on an established connection with room.
    cdef void attach(self, Exchange exchange) except *
    # On the pool's list with nothing to do.
    cdef void rest(self) except *
    # Take no more: close now, or after the last exchange.
    cdef void retire(self) except *
    # Close in peace a connection that is not busy.
    cdef void part(self) except *
    cdef bint is_expired(self) noexcept
    cdef void count_begin(self, Exchange exchange) noexcept
    cdef void count_end(self, Exchange exchange) noexcept

cdef class HostPool:
    """The connections of this worker to one host, and who waits for one."""
    cdef Loop loop
    cdef Cluster cluster
    cdef Host host
    cdef Sockaddr address
    cdef Dialer dialer
    cdef public TlsClient tls            # None = plaintext
    cdef SplitPool whole                 # whose part this is; None = it stands alone
    cdef object key
    cdef bytes introduction              # what each connection begins with: a PROXY header; None = nothing
    cdef ConnectionInfo client           # whose connections these are; None = anybody's
    cdef UpstreamConnection newest       # of those with room, the one listed last
    cdef object waiting                  # OrderedDict of Exchange: first come first, and out of the middle at no cost
    cdef int64_t connections
    cdef int64_t promised                # how many of those who wait are expected to be served by what now connects
    cdef int64_t streams                 # how many exchanges the next connection is taken to carry
    cdef bint growing
    cdef bint closing                    # the host left its cluster

    cdef void request(self, Exchange exchange) except *
    # A connection is done with an exchange, or has room for other reasons: for who waits, else for who comes, unless its time has come.
    cdef void offer(self, UpstreamConnection connection) except *
    cdef void on_connected(self, UpstreamConnection connection) except *
    # `error` 0: it took too long, or the peer left within the handshake.
    cdef void on_connect_failed(self, UpstreamConnection connection, int error) except *
    # Before anything else is done about a connection that closed.
    cdef void on_gone(self, UpstreamConnection connection) except *
    # And after it: if others still wait, somebody has to serve them.
    cdef void refill(self) except *
    cdef void unlist(self, UpstreamConnection connection) noexcept
    cdef void wait(self, Exchange exchange) except *
    cdef void stop_waiting(self, Exchange exchange) except *
    cdef Exchange next_waiting(self)
    cdef void keep_promise(self, UpstreamConnection connection) noexcept
    cdef void list_newest(self, UpstreamConnection connection) noexcept
    cdef void give(self, UpstreamConnection connection, Exchange exchange) except *
    cdef void connect(self, Exchange exchange) except *
    cdef bint is_empty(self) noexcept
    cdef void let_go(self) except *

cdef class SplitPool(HostPool):
    """A host's pools where not every connection serves every request: by what the client speaks, by the server's name in TLS, by the client
    that a PROXY header tells of."""
    cdef tuple dialers, securities       # for clients of HTTP/1, of HTTP/2
    cdef bint by_protocol, by_name, by_client
    cdef dict parts

cdef class ClusterPools(Pools):
    """All clusters of the worker by name."""
    cdef Loop loop
    cdef readonly dict clusters
